//! Vocabulary of the packet rules: set elements, and the part of the table that configuration shapes.

use std::{fmt, net::IpAddr};

use ipnetwork::IpNetwork;

use crate::{IpFamily, VipPort};

/// One element of one set: a fact that the packet rules know of a VIP or of a front.
///
/// A variant is a set; what it holds is the set's key. Each set exists once per family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleElement {
    /// VIP that leads to IPVS: a packet to it that no virtual server took is rejected.
    Vip(IpAddr),
    /// VIP port that has a virtual server; tags that as ours.
    Service(VipPort),
    /// VIP port without real servers: refused before IPVS sees the packet.
    Refuse(VipPort),
    /// Original destination whose connections are always masqueraded.
    Masquerade(VipPort),
    /// Original destination whose connections are masqueraded unless the client is a pod of this node.
    MasqueradeNonLocal(VipPort),
    /// Original destination whose connections are masqueraded unless the client is known to be a pod of this node.
    MasqueradeExternal(VipPort),
    /// VIP port without an endpoint on this node under a Local traffic policy: new connections are dropped
    /// unless the client is a pod or a process of this node.
    DropExternal(VipPort),
}

/// Set that holds elements of one variant of [`RuleElement`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleSet {
    /// Holds [`RuleElement::Vip`].
    Vips,
    /// Holds [`RuleElement::Service`].
    Services,
    /// Holds [`RuleElement::Refuse`].
    NoEndpoints,
    /// Holds [`RuleElement::Masquerade`].
    Masquerade,
    /// Holds [`RuleElement::MasqueradeNonLocal`].
    MasqueradeNonLocal,
    /// Holds [`RuleElement::MasqueradeExternal`].
    MasqueradeExternal,
    /// Holds [`RuleElement::DropExternal`].
    NoLocalEndpoints,
}

impl RuleSet {
    /// All sets, in the order in which they are created.
    pub const ALL: [RuleSet; 7] = [
        RuleSet::Vips,
        RuleSet::Services,
        RuleSet::NoEndpoints,
        RuleSet::Masquerade,
        RuleSet::MasqueradeNonLocal,
        RuleSet::MasqueradeExternal,
        RuleSet::NoLocalEndpoints,
    ];

    /// Name without the family suffix (`-v4`, `-v6`).
    pub const fn as_str(self) -> &'static str {
        match self {
            RuleSet::Vips => "vips",
            RuleSet::Services => "services",
            RuleSet::NoEndpoints => "no-endpoints",
            RuleSet::Masquerade => "masquerade",
            RuleSet::MasqueradeNonLocal => "masquerade-nonlocal",
            RuleSet::MasqueradeExternal => "masquerade-external",
            RuleSet::NoLocalEndpoints => "no-local-endpoints",
        }
    }

    /// Element of the set for a VIP port; the set of VIPs has the address alone.
    pub const fn element(self, port: VipPort) -> RuleElement {
        match self {
            RuleSet::Vips => RuleElement::Vip(port.addr),
            RuleSet::Services => RuleElement::Service(port),
            RuleSet::NoEndpoints => RuleElement::Refuse(port),
            RuleSet::Masquerade => RuleElement::Masquerade(port),
            RuleSet::MasqueradeNonLocal => RuleElement::MasqueradeNonLocal(port),
            RuleSet::MasqueradeExternal => RuleElement::MasqueradeExternal(port),
            RuleSet::NoLocalEndpoints => RuleElement::DropExternal(port),
        }
    }
}

impl fmt::Display for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl RuleElement {
    /// Set that holds it.
    pub const fn set(&self) -> RuleSet {
        match self {
            RuleElement::Vip(_) => RuleSet::Vips,
            RuleElement::Service(_) => RuleSet::Services,
            RuleElement::Refuse(_) => RuleSet::NoEndpoints,
            RuleElement::Masquerade(_) => RuleSet::Masquerade,
            RuleElement::MasqueradeNonLocal(_) => RuleSet::MasqueradeNonLocal,
            RuleElement::MasqueradeExternal(_) => RuleSet::MasqueradeExternal,
            RuleElement::DropExternal(_) => RuleSet::NoLocalEndpoints,
        }
    }

    /// VIP port that it is about; `None` for a whole VIP.
    pub const fn vip_port(&self) -> Option<VipPort> {
        match self {
            RuleElement::Vip(_) => None,
            RuleElement::Service(port)
            | RuleElement::Refuse(port)
            | RuleElement::Masquerade(port)
            | RuleElement::MasqueradeNonLocal(port)
            | RuleElement::MasqueradeExternal(port)
            | RuleElement::DropExternal(port) => Some(*port),
        }
    }

    /// VIP that it is about, or that its port is on.
    pub const fn vip(&self) -> IpAddr {
        match self {
            RuleElement::Vip(vip) => *vip,
            RuleElement::Service(port)
            | RuleElement::Refuse(port)
            | RuleElement::Masquerade(port)
            | RuleElement::MasqueradeNonLocal(port)
            | RuleElement::MasqueradeExternal(port)
            | RuleElement::DropExternal(port) => port.addr,
        }
    }

    /// Family, which decides which of the two sets of a name holds it.
    pub const fn family(&self) -> IpFamily {
        IpFamily::of(self.vip())
    }
}

impl fmt::Display for RuleElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.vip_port() {
            Some(port) => write!(f, "{} {port}", self.set()),
            None => write!(f, "{} {}", self.set(), self.vip()),
        }
    }
}

/// Way to recognise a client as a pod of this node (kube-proxy's `detectLocalMode`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum LocalDetection {
    /// Unknown: no client of a ClusterIP is masqueraded because of where it is.
    #[default]
    None,
    /// Source address in one of these prefixes of the family.
    Cidr(Vec<IpNetwork>),
    /// Packet came in through this bridge.
    BridgeInterface(String),
    /// Packet came in through an interface whose name starts so.
    InterfaceNamePrefix(String),
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
        RulesLayout { local_v4: LocalDetection::None, local_v6: LocalDetection::None, masquerade_bit: 14 }
    }
}
