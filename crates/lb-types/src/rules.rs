//! What the packet rules decide on: set elements, and the part of the table that configuration shapes.

use std::{fmt, net::IpAddr};

use ipnetwork::IpNetwork;

use crate::{IpFamily, VipPort};

/// The sets of the nftables table that we write; each exists once per family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RuleSet {
    /// Bound VIPs: a packet to one of them that no virtual server took is rejected. Key: address.
    Vips,
    /// VIP, protocol and port of every virtual server. Key: VIP port.
    Services,
    /// Virtual servers without real servers: refused before IPVS sees the packet. Key: VIP port.
    NoEndpoints,
    /// Original destinations whose connections are always masqueraded. Key: VIP port.
    Masquerade,
    /// Original destinations whose connections are masqueraded unless the client is a pod of this node.
    /// Key: VIP port.
    MasqueradeNonLocal,
}

impl RuleSet {
    /// All sets, in the order in which they are created.
    pub const ALL: [RuleSet; 5] = [
        RuleSet::Vips,
        RuleSet::Services,
        RuleSet::NoEndpoints,
        RuleSet::Masquerade,
        RuleSet::MasqueradeNonLocal,
    ];

    /// Name without the family suffix (`-v4`, `-v6`).
    pub const fn as_str(self) -> &'static str {
        match self {
            RuleSet::Vips => "vips",
            RuleSet::Services => "services",
            RuleSet::NoEndpoints => "no-endpoints",
            RuleSet::Masquerade => "masquerade",
            RuleSet::MasqueradeNonLocal => "masquerade-nonlocal",
        }
    }
}

impl fmt::Display for RuleSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Key of a set element.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ElementKey {
    /// An address.
    Addr(IpAddr),
    /// Address, protocol and port.
    Port(VipPort),
}

impl ElementKey {
    /// Decides which of the two sets of a name holds the element.
    pub const fn family(&self) -> IpFamily {
        match self {
            ElementKey::Addr(addr) => IpFamily::of(*addr),
            ElementKey::Port(port) => IpFamily::of(port.addr),
        }
    }
}

impl fmt::Display for ElementKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ElementKey::Addr(addr) => addr.fmt(f),
            ElementKey::Port(port) => port.fmt(f),
        }
    }
}

/// One element of one set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RuleElement {
    /// The set.
    pub set: RuleSet,
    /// The element; its variant is the one that the set's documentation names.
    pub key: ElementKey,
}

impl RuleElement {
    /// An element of [`RuleSet::Vips`].
    pub const fn vip(addr: IpAddr) -> Self {
        RuleElement { set: RuleSet::Vips, key: ElementKey::Addr(addr) }
    }

    /// An element of one of the sets keyed by VIP port.
    pub const fn port(set: RuleSet, port: VipPort) -> Self {
        RuleElement { set, key: ElementKey::Port(port) }
    }
}

impl fmt::Display for RuleElement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.set, self.key)
    }
}

/// How a client is recognised as a pod of this node (kube-proxy's `detectLocalMode`).
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
