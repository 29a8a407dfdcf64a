//! Parsers of what the kernel says about links, addresses and routes: of each message the few fields that
//! matter here.
//!
//! They are total and skip what they cannot read: other people's links and routes come in forms that no
//! library foresees, and must not stop us from seeing our own.

use std::net::{IpAddr, Ipv6Addr};

use dataplane::BridgeFilters;
use lb_types::{IpFamily, MarkRule, RouteTable};
use netlink::{Attribute, Message};

use crate::{ROUTE_PROTOCOL, RULE_PRIORITY, STEERING_TABLE, encode::TABLE_LOCAL};

/// RTM_NEWLINK
pub(crate) const NEW_LINK: u16 = 16;
/// RTM_DELLINK
pub(crate) const DELETE_LINK: u16 = 17;
/// RTM_NEWADDR
pub(crate) const NEW_ADDRESS: u16 = 20;
/// RTM_DELADDR
pub(crate) const DELETE_ADDRESS: u16 = 21;
/// RTM_NEWROUTE
pub(crate) const NEW_ROUTE: u16 = 24;
/// RTM_DELROUTE
pub(crate) const DELETE_ROUTE: u16 = 25;
/// RTM_NEWRULE
pub(crate) const NEW_RULE: u16 = 32;
/// RTM_DELRULE
pub(crate) const DELETE_RULE: u16 = 33;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// Type (`IFLA_INFO_KIND`); physical links have none.
    pub(crate) kind: Option<String>,
    pub(crate) up: bool,
    /// Settings of a bridge.
    pub(crate) bridge: BridgeFilters,
}

/// Reads `RTM_NEWLINK` and `RTM_DELLINK`.
pub(crate) fn parse_link(message: &Message<'_>) -> Option<Link> {
    const HEADER: usize = 16;
    const IFLA_IFNAME: u16 = 3;
    const IFLA_LINKINFO: u16 = 18;
    const IFLA_INFO_KIND: u16 = 1;
    const IFF_UP: u32 = 1;
    if !matches!(message.kind, NEW_LINK | DELETE_LINK) || message.payload.first() != Some(&0) {
        // Not AF_UNSPEC: bridges report their ports in messages of the same kind.
        return None;
    }
    const IFLA_INFO_DATA: u16 = 2;
    let (mut name, mut kind, mut bridge) = (None, None, BridgeFilters::default());
    for attribute in message.attributes(HEADER) {
        match attribute.kind {
            IFLA_IFNAME => name = Some(text(attribute.string())),
            IFLA_LINKINFO => {
                kind = attribute.nested().find(|a| a.kind == IFLA_INFO_KIND).map(|a| text(a.string()));
                if kind.as_deref() == Some(BRIDGE) {
                    let data = attribute.nested().find(|a| a.kind == IFLA_INFO_DATA);
                    bridge = data.map(|data| parse_bridge(&data)).unwrap_or_default();
                }
            }
            _ => {}
        }
    }
    let (index, flags) = (u32_at(message.payload, 4)?, u32_at(message.payload, 8)?);
    Some(Link { index, name: name?, kind, up: flags & IFF_UP != 0, bridge })
}

/// Type (`IFLA_INFO_KIND`) of a bridge.
pub(crate) const BRIDGE: &str = "bridge";

fn parse_bridge(data: &Attribute<'_>) -> BridgeFilters {
    const IFLA_BR_NF_CALL_IPTABLES: u16 = 36;
    const IFLA_BR_NF_CALL_IP6TABLES: u16 = 37;
    let is_on = |kind| data.nested().find(|a| a.kind == kind).and_then(|a| a.u8()) == Some(1);
    BridgeFilters { ipv4: is_on(IFLA_BR_NF_CALL_IPTABLES), ipv6: is_on(IFLA_BR_NF_CALL_IP6TABLES) }
}

/// An address of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Address {
    pub(crate) link: u32,
    pub(crate) addr: IpAddr,
    /// True if it is one of IPv4 in a network that the link shares with others.
    pub(crate) is_shared: bool,
}

impl Address {
    /// Tells whether it is a loopback or IPv6 link-local address, which is neither a VIP nor an address of
    /// the node.
    pub(crate) fn is_internal(&self) -> bool {
        match self.addr {
            IpAddr::V4(addr) => addr.is_loopback(),
            IpAddr::V6(addr) => addr.is_loopback() || addr.is_unicast_link_local(),
        }
    }
}

/// Reads `RTM_NEWADDR` and `RTM_DELADDR`.
pub(crate) fn parse_address(message: &Message<'_>) -> Option<Address> {
    const HEADER: usize = 8;
    const IFA_ADDRESS: u16 = 1;
    const IFA_LOCAL: u16 = 2;
    /// Longest prefix of a network with room for others than two ends of a link.
    const SHARED: u8 = 30;
    if !matches!(message.kind, NEW_ADDRESS | DELETE_ADDRESS) {
        return None;
    }
    let family = *message.payload.first()?;
    let (mut address, mut local) = (None, None);
    for attribute in message.attributes(HEADER) {
        match attribute.kind {
            IFA_ADDRESS => address = ip(family, attribute.payload),
            IFA_LOCAL => local = ip(family, attribute.payload),
            _ => {}
        }
    }
    // On point-to-point links IFA_ADDRESS is the peer's.
    let addr = local.or(address)?;
    let is_shared = addr.is_ipv4() && local == address && *message.payload.get(1)? <= SHARED;
    Some(Address { link: u32_at(message.payload, 4)?, addr, is_shared })
}

/// A local route of a single address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LocalRoute {
    pub(crate) addr: IpAddr,
    pub(crate) table: RouteTable,
    pub(crate) protocol: u8,
    pub(crate) tos: u8,
    pub(crate) metric: u32,
    pub(crate) link: Option<u32>,
    pub(crate) source: Option<IpAddr>,
}

impl LocalRoute {
    /// Tells whether the kernel takes it and our route for the same address as rivals for one place.
    pub(crate) fn has_our_key(&self) -> bool {
        /// Metric of IPv6 routes made without one (`IP6_RT_PRIO_USER`).
        const IPV6_DEFAULT: u32 = 1024;
        let ours = if self.addr.is_ipv4() { 0 } else { IPV6_DEFAULT };
        self.tos == 0 && self.metric == ours
    }
}

/// Reads `RTM_NEWROUTE` and `RTM_DELROUTE`.
pub(crate) fn parse_local_route(message: &Message<'_>) -> Option<LocalRoute> {
    const HEADER: usize = 12;
    const RTA_DST: u16 = 1;
    const RTA_OIF: u16 = 4;
    const RTA_PRIORITY: u16 = 6;
    const RTA_PREFSRC: u16 = 7;
    const RTN_LOCAL: u8 = 2;
    const RTM_F_CLONED: u32 = 0x200;
    if !matches!(message.kind, NEW_ROUTE | DELETE_ROUTE) {
        return None;
    }
    let [family, prefix, _, tos, table, protocol, _, kind] = *message.payload.first_chunk()?;
    let cloned = u32_at(message.payload, 8)? & RTM_F_CLONED != 0;
    let host = matches!((family, prefix), (AF_INET, 32) | (AF_INET6, 128));
    if !host || kind != RTN_LOCAL || cloned {
        return None;
    }
    let table = match table {
        TABLE_LOCAL => RouteTable::Local,
        STEERING_TABLE => RouteTable::Steering,
        _ => return None,
    };
    let (mut addr, mut route_link, mut source, mut metric) = (None, None, None, 0);
    for attribute in message.attributes(HEADER) {
        match attribute.kind {
            RTA_DST => addr = ip(family, attribute.payload),
            RTA_OIF => route_link = attribute.u32(),
            RTA_PREFSRC => source = ip(family, attribute.payload),
            RTA_PRIORITY => metric = attribute.u32().unwrap_or(0),
            _ => {}
        }
    }
    Some(LocalRoute { addr: addr?, table, protocol, tos, metric, link: route_link, source })
}

/// Reads the interface of an IPv6 default route that came by router advertisement.
pub(crate) fn parse_advertised_default(message: &Message<'_>) -> Option<u32> {
    const HEADER: usize = 12;
    const RTA_OIF: u16 = 4;
    const RTPROT_RA: u8 = 9;
    const ANY_LENGTH: u8 = 0;
    let [family, prefix, _, _, _, protocol, _, _] = *message.payload.first_chunk()?;
    let is_one = (family, prefix, protocol) == (AF_INET6, ANY_LENGTH, RTPROT_RA);
    (message.kind == NEW_ROUTE && is_one).then_some(())?;
    message.attributes(HEADER).find(|attribute| attribute.kind == RTA_OIF)?.u32()
}

/// A rule of the routing policy that looks at the packet mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    family: u8,
    mark: MarkRule,
    table: u8,
    protocol: u8,
    priority: u32,
}

impl Rule {
    /// Family and bit, if it is one of ours.
    pub(crate) fn as_ours(&self) -> Option<(IpFamily, u8)> {
        let family = match self.family {
            AF_INET => IpFamily::V4,
            AF_INET6 => IpFamily::V6,
            _ => return None,
        };
        let MarkRule { value, mask } = self.mark;
        let is_ours =
            (self.protocol, self.table, self.priority) == (ROUTE_PROTOCOL, STEERING_TABLE, RULE_PRIORITY);
        let bit = u8::try_from(value.trailing_zeros()).ok()?;
        (is_ours && value == mask && value.is_power_of_two()).then_some((family, bit))
    }

    /// Value and mask that it compares the mark with, if it is somebody else's.
    pub(crate) fn as_foreign(&self) -> Option<MarkRule> {
        self.as_ours().is_none().then_some(self.mark)
    }
}

/// Reads a rule of the routing policy that looks at the packet mark. An inverted one (`not fwmark`) matches nearly
/// every packet and is not meant for those of a mark.
pub(crate) fn parse_rule(message: &Message<'_>) -> Option<Rule> {
    const HEADER: usize = 12;
    const FIB_RULE_INVERT: u32 = 2;
    const FRA_PRIORITY: u16 = 6;
    const FRA_FWMARK: u16 = 10;
    const FRA_FWMASK: u16 = 16;
    const FRA_PROTOCOL: u16 = 21;
    let is_inverted = u32_at(message.payload, 8)? & FIB_RULE_INVERT != 0;
    (matches!(message.kind, NEW_RULE | DELETE_RULE) && !is_inverted).then_some(())?;
    let (mut value, mut mask, mut protocol, mut priority) = (None, u32::MAX, 0, 0);
    for attribute in message.attributes(HEADER) {
        match attribute.kind {
            FRA_PRIORITY => priority = attribute.u32()?,
            FRA_FWMARK => value = attribute.u32(),
            FRA_FWMASK => mask = attribute.u32()?,
            FRA_PROTOCOL => protocol = attribute.u8()?,
            _ => {}
        }
    }
    let [family, _, _, _, table, ..] = *message.payload.first_chunk::<12>()?;
    Some(Rule { family, mark: MarkRule { value: value?, mask }, table, protocol, priority })
}

fn ip(family: u8, bytes: &[u8]) -> Option<IpAddr> {
    match family {
        AF_INET => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        AF_INET6 => Some(IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?))),
        _ => None,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests;
