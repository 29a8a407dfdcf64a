//! Vocabulary of the packet rules: set elements, and the part of the table that configuration shapes.

use std::{fmt, net::IpAddr, num::NonZeroU32};

use ipnetwork::IpNetwork;

use crate::{Clients, Front, IpFamily, MarkRange, VipPort, words};

/// One element of one set or map: a fact that the packet rules know of an address or of a front.
///
/// A variant is a set; what it holds is the set's key. Each set exists once per family. A port at the unspecified
/// address is a node port, and is looked up for packets to a [`RuleElement::NodeAddress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleElement {
    /// VIP that leads to IPVS with all its ports: a packet to it that no virtual server took is rejected.
    Vip(IpAddr),
    /// VIP that is steered: its packets are looked at before routing.
    SteeredVip(IpAddr),
    /// VIP of IPv4 for which this node answers no ARP request on the networks that it shares with others, although it
    /// is local here.
    UnansweredVip(IpAddr),
    /// Address of this node at which node ports are served.
    NodeAddress(IpAddr),
    /// VIP port that has a virtual server; tags that as ours, unless it is selected by mark.
    Service(VipPort),
    /// VIP port without real servers: refused before IPVS sees the packet.
    Refuse(VipPort),
    /// Original destination whose connections are always masqueraded.
    Masquerade(VipPort),
    /// Original destination whose connections are masqueraded unless the client is a pod of this node.
    MasqueradeNonLocal(VipPort),
    /// Original destination whose connections are masqueraded unless the client is known to be a pod of this node.
    MasqueradeExternal(VipPort),
    /// Original destination whose connections are masqueraded if the client counts as a pod of this node, but may be one
    /// of another ([`LocalDetection::ClusterCidr`]).
    MasqueradePods(VipPort),
    /// Original destination whose connections are masqueraded if the client is a VIP: where VIPs are addresses of this
    /// node, its own connections to them come from there.
    MasqueradeVips(VipPort),
    /// VIP port without an endpoint on this node under a Local traffic policy: new connections are dropped
    /// unless the client is a pod or a process of this node.
    DropExternal(VipPort),
    /// VIP port that only clients with an [`RuleElement::Allow`] may connect to; others are dropped.
    Restrict(VipPort),
    /// Clients that may connect to such a VIP port. Prefixes of one port do not overlap.
    Allow(VipPort, IpNetwork),
    /// VIP port at which this node answers health checks of the load balancer that has the VIP.
    HealthCheck(VipPort),
    /// Endpoint of this node, at its own address and port, of a Service whose node ports have a Local policy: what a pod
    /// sends there needs no masquerading, wherever the pod is.
    LocalEndpoint(VipPort),
    /// VIP port whose packets are steered to this node, wherever routing would lead them.
    Steer(VipPort),
    /// VIP port of which packets of known connections alone are steered, because no Service has it any more.
    SteerKnown(VipPort),
    /// Front whose packets get a mark, and by it come to its virtual server; tags that as ours.
    Mark(Front, NonZeroU32),
    /// Front of external clients or of a node port whose packets get no mark, although it has a virtual server of that mark; tags that as ours.
    Unmarked(Front, NonZeroU32),
}

words! {
    /// Set that holds elements of one variant of [`RuleElement`], by its name without the suffix of the family (`-v4`,
    /// `-v6`); they are created in this order.
    RuleSet {
        /// Holds [`RuleElement::Vip`].
        Vips = "vips",
        /// Holds [`RuleElement::SteeredVip`].
        SteeredVips = "steered-vips",
        /// Holds [`RuleElement::UnansweredVip`]; in the table of family arp, and for IPv4 only.
        UnansweredVips = "unanswered-vips",
        /// Holds [`RuleElement::NodeAddress`].
        NodeAddresses = "node-addresses",
        /// Holds [`RuleElement::Service`].
        Services = "services",
        /// Holds [`RuleElement::Refuse`].
        NoEndpoints = "no-endpoints",
        /// Holds [`RuleElement::Masquerade`].
        Masquerade = "masquerade",
        /// Holds [`RuleElement::MasqueradeNonLocal`].
        MasqueradeNonLocal = "masquerade-nonlocal",
        /// Holds [`RuleElement::MasqueradeExternal`].
        MasqueradeExternal = "masquerade-external",
        /// Holds [`RuleElement::MasqueradePods`].
        MasqueradePods = "masquerade-pods",
        /// Holds [`RuleElement::MasqueradeVips`].
        MasqueradeVips = "masquerade-vips",
        /// Holds [`RuleElement::DropExternal`].
        NoLocalEndpoints = "no-local-endpoints",
        /// Holds [`RuleElement::Restrict`].
        Restricted = "restricted",
        /// Holds [`RuleElement::Allow`].
        Allowed = "allowed",
        /// Holds [`RuleElement::HealthCheck`].
        HealthChecks = "health-checks",
        /// Holds [`RuleElement::LocalEndpoint`].
        LocalEndpoints = "local-endpoints",
        /// Holds [`RuleElement::Steer`].
        Steered = "steered",
        /// Holds [`RuleElement::SteerKnown`].
        SteeredKnown = "steered-known",
        /// Holds [`RuleElement::Mark`] of fronts for any client.
        Marks = "marks",
        /// Holds [`RuleElement::Mark`] of fronts for external clients.
        MarksExternal = "marks-external",
        /// Holds [`RuleElement::Unmarked`] of fronts for any client; no rule looks there.
        Unmarked = "unmarked",
        /// Holds [`RuleElement::Unmarked`] of fronts for external clients; no rule looks there.
        UnmarkedExternal = "unmarked-external",
    }
}

impl RuleSet {
    /// Element of the set for a port; `None` unless its elements are ports and nothing else.
    pub const fn of_port(self, port: VipPort) -> Option<RuleElement> {
        match self {
            RuleSet::Services => Some(RuleElement::Service(port)),
            RuleSet::NoEndpoints => Some(RuleElement::Refuse(port)),
            RuleSet::Masquerade => Some(RuleElement::Masquerade(port)),
            RuleSet::MasqueradeNonLocal => Some(RuleElement::MasqueradeNonLocal(port)),
            RuleSet::MasqueradeExternal => Some(RuleElement::MasqueradeExternal(port)),
            RuleSet::MasqueradeVips => Some(RuleElement::MasqueradeVips(port)),
            RuleSet::MasqueradePods => Some(RuleElement::MasqueradePods(port)),
            RuleSet::NoLocalEndpoints => Some(RuleElement::DropExternal(port)),
            RuleSet::Restricted => Some(RuleElement::Restrict(port)),
            RuleSet::HealthChecks => Some(RuleElement::HealthCheck(port)),
            RuleSet::LocalEndpoints => Some(RuleElement::LocalEndpoint(port)),
            RuleSet::Steered => Some(RuleElement::Steer(port)),
            RuleSet::SteeredKnown => Some(RuleElement::SteerKnown(port)),
            RuleSet::Vips
            | RuleSet::SteeredVips
            | RuleSet::UnansweredVips
            | RuleSet::NodeAddresses
            | RuleSet::Allowed
            | RuleSet::Marks
            | RuleSet::MarksExternal
            | RuleSet::Unmarked
            | RuleSet::UnmarkedExternal => None,
        }
    }
}

impl RuleElement {
    /// Set that holds it.
    pub const fn set(&self) -> RuleSet {
        match self {
            RuleElement::Vip(_) => RuleSet::Vips,
            RuleElement::SteeredVip(_) => RuleSet::SteeredVips,
            RuleElement::UnansweredVip(_) => RuleSet::UnansweredVips,
            RuleElement::NodeAddress(_) => RuleSet::NodeAddresses,
            RuleElement::Service(_) => RuleSet::Services,
            RuleElement::Refuse(_) => RuleSet::NoEndpoints,
            RuleElement::Masquerade(_) => RuleSet::Masquerade,
            RuleElement::MasqueradeNonLocal(_) => RuleSet::MasqueradeNonLocal,
            RuleElement::MasqueradeExternal(_) => RuleSet::MasqueradeExternal,
            RuleElement::MasqueradeVips(_) => RuleSet::MasqueradeVips,
            RuleElement::MasqueradePods(_) => RuleSet::MasqueradePods,
            RuleElement::DropExternal(_) => RuleSet::NoLocalEndpoints,
            RuleElement::Restrict(_) => RuleSet::Restricted,
            RuleElement::Allow(..) => RuleSet::Allowed,
            RuleElement::HealthCheck(_) => RuleSet::HealthChecks,
            RuleElement::LocalEndpoint(_) => RuleSet::LocalEndpoints,
            RuleElement::Steer(_) => RuleSet::Steered,
            RuleElement::SteerKnown(_) => RuleSet::SteeredKnown,
            RuleElement::Mark(Front { clients: Clients::Any, .. }, _) => RuleSet::Marks,
            RuleElement::Mark(Front { clients: Clients::External, .. }, _) => RuleSet::MarksExternal,
            RuleElement::Unmarked(Front { clients: Clients::Any, .. }, _) => RuleSet::Unmarked,
            RuleElement::Unmarked(Front { clients: Clients::External, .. }, _) => RuleSet::UnmarkedExternal,
        }
    }

    /// Address that it is about, with protocol and port unless it is about all of the address.
    const fn place(&self) -> (IpAddr, Option<VipPort>) {
        match self {
            RuleElement::Vip(addr)
            | RuleElement::SteeredVip(addr)
            | RuleElement::UnansweredVip(addr)
            | RuleElement::NodeAddress(addr) => (*addr, None),
            RuleElement::Service(port)
            | RuleElement::Refuse(port)
            | RuleElement::Masquerade(port)
            | RuleElement::MasqueradeNonLocal(port)
            | RuleElement::MasqueradeExternal(port)
            | RuleElement::MasqueradePods(port)
            | RuleElement::MasqueradeVips(port)
            | RuleElement::DropExternal(port)
            | RuleElement::Restrict(port)
            | RuleElement::Allow(port, _)
            | RuleElement::HealthCheck(port)
            | RuleElement::LocalEndpoint(port)
            | RuleElement::Steer(port)
            | RuleElement::SteerKnown(port) => (port.addr, Some(*port)),
            RuleElement::Mark(front, _) | RuleElement::Unmarked(front, _) => {
                (front.port.addr, Some(front.port))
            }
        }
    }

    /// Address, protocol and port that it is about; `None` for a whole address.
    pub const fn port(&self) -> Option<VipPort> {
        self.place().1
    }

    /// Front that it is about; `None` for a whole address, or a port without virtual server.
    pub fn front(&self) -> Option<Front> {
        match self {
            RuleElement::HealthCheck(_) | RuleElement::LocalEndpoint(_) => None,
            RuleElement::DropExternal(port) => Some(Front::from(*port).for_external()),
            RuleElement::Mark(front, _) | RuleElement::Unmarked(front, _) => Some(*front),
            _ => self.port().map(Front::from),
        }
    }

    /// Front of a map, and the mark that the map has for it, by which its virtual server is selected; `None` for an
    /// element of a set.
    pub const fn marked(&self) -> Option<(Front, NonZeroU32)> {
        match self {
            RuleElement::Mark(front, mark) | RuleElement::Unmarked(front, mark) => Some((*front, *mark)),
            _ => None,
        }
    }

    /// Address that it is about, or that its port is on; the unspecified one for all.
    pub const fn addr(&self) -> IpAddr {
        self.place().0
    }

    /// Family, which decides which of the two sets of a name holds it.
    pub const fn family(&self) -> IpFamily {
        IpFamily::of(self.addr())
    }
}

impl fmt::Display for RuleElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.set())?;
        match self.place() {
            (_, Some(port)) => port.fmt(f)?,
            (addr, None) => addr.fmt(f)?,
        }
        match self {
            RuleElement::Mark(_, mark) | RuleElement::Unmarked(_, mark) => write!(f, " {:#010x}", mark.get()),
            RuleElement::Allow(_, clients) => write!(f, " {clients}"),
            _ => Ok(()),
        }
    }
}

/// Way to recognise a client as a pod of this node (kube-proxy's `detectLocalMode`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum LocalDetection {
    /// Unknown: no client of a ClusterIP is masqueraded because of where it is.
    #[default]
    None,
    /// Source address in one of these prefixes of the family, which are those of this node's pods.
    NodeCidr(Vec<IpNetwork>),
    /// Source address in one of these prefixes of the family. They hold the pods of the whole cluster: those of other
    /// nodes, too, count as pods of this one if they come here.
    ClusterCidr(Vec<IpNetwork>),
    /// Packet came in through this bridge.
    BridgeInterface(String),
    /// Packet came in through an interface whose name starts so.
    InterfaceNamePrefix(String),
}

impl LocalDetection {
    /// Prefixes of local pods that it names.
    pub fn prefixes(&self) -> &[IpNetwork] {
        match self {
            LocalDetection::NodeCidr(prefixes) | LocalDetection::ClusterCidr(prefixes) => prefixes,
            _ => &[],
        }
    }
}

/// The part of the table that configuration shapes; the rest of it is the same everywhere.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RulesLayout {
    /// Local detection for IPv4.
    pub local_v4: LocalDetection,
    /// Local detection for IPv6.
    pub local_v6: LocalDetection,
    /// Packet mark bit (0..=31) spent only by the two interface modes of local detection, because the
    /// input interface is unknown in postrouting.
    pub masquerade_bit: u8,
    /// Packet mark bit (0..=31) of steered packets, from the prerouting hook to the input hook.
    pub steer_bit: u8,
    /// Range of the marks that select virtual servers. No packet leaves the node with one of them.
    pub marks: MarkRange,
    /// Range of such marks from before the configuration was changed, while virtual servers have them.
    pub old_marks: Option<MarkRange>,
    /// Names of the links on which nobody gets an answer by ARP for a [`RuleElement::UnansweredVip`]: those on a network
    /// that others share. `None` if the kernel has no tables of family arp.
    pub arp: Option<Vec<String>>,
}

impl RulesLayout {
    /// Local detection of a family.
    pub const fn local(&self, family: IpFamily) -> &LocalDetection {
        match family {
            IpFamily::V4 => &self.local_v4,
            IpFamily::V6 => &self.local_v6,
        }
    }
}

impl Default for RulesLayout {
    fn default() -> Self {
        RulesLayout {
            local_v4: LocalDetection::None,
            local_v6: LocalDetection::None,
            masquerade_bit: 14,
            steer_bit: 12,
            marks: MarkRange::DEFAULT,
            old_marks: None,
            arp: Some(Vec::new()),
        }
    }
}
