//! Requests, encoded with the types of netlink-packet-route.

use std::net::IpAddr;

use lb_types::{IpFamily, RouteTable};
use netlink::{Batch, MessageBuffer, Request, flags};
use netlink_packet_core::Emitable;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressHeader, AddressHeaderFlags, AddressMessage, AddressScope},
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
    route::{RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType},
    rule::{RuleAction, RuleAttribute, RuleHeader, RuleMessage},
};

use crate::{ROUTE_PROTOCOL, RULE_PRIORITY, STEERING_TABLE};

/// RTM_GETLINK
const GET_LINK: u16 = 18;
/// RTM_NEWADDR
const NEW_ADDRESS: u16 = 20;
/// RTM_DELADDR
const DELETE_ADDRESS: u16 = 21;
/// RTM_GETADDR
const GET_ADDRESS: u16 = 22;
/// RTM_NEWROUTE
const NEW_ROUTE: u16 = 24;
/// RTM_DELROUTE
const DELETE_ROUTE: u16 = 25;
/// RTM_GETROUTE
const GET_ROUTE: u16 = 26;
/// RTM_NEWRULE
const NEW_RULE: u16 = 32;
/// RTM_DELRULE
const DELETE_RULE: u16 = 33;
/// RTM_GETRULE
const GET_RULE: u16 = 34;

/// RT_TABLE_LOCAL
pub(crate) const TABLE_LOCAL: u8 = 255;

/// Number of a table in the kernel.
pub(crate) const fn table_number(table: RouteTable) -> u8 {
    match table {
        RouteTable::Local => TABLE_LOCAL,
        RouteTable::Steering => STEERING_TABLE,
    }
}

/// One request about a route of ours. IPv4 allows several routes of one key, IPv6 does not
/// (`fib_table_insert` in net/ipv4/fib_trie.c, `fib6_add_rt2node` in net/ipv6/ip6_fib.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RouteWrite {
    /// Adds a route; fails if any route has the same key, whoever owns it.
    Add(Option<IpAddr>),
    /// Adds a route before whatever has the same key; IPv4 only.
    AddBefore(Option<IpAddr>),
    /// Takes the place of the first route of the same key, whoever owns it; IPv6 only.
    Replace(Option<IpAddr>),
    /// Deletes the first one of ours on a link; for IPv4 with a source, the first one with that source.
    Delete {
        /// Our link, or one that has been ours.
        link: u32,
        /// Source of the route.
        source: Option<IpAddr>,
    },
}

impl RouteWrite {
    /// Appends the request for a VIP; new routes come on `link`.
    pub(crate) fn push(self, batch: &mut Batch, vip: IpAddr, table: RouteTable, link: u32) {
        let (kind, message_flags, link, source) = match self {
            RouteWrite::Add(source) => (NEW_ROUTE, flags::CREATE | flags::EXCL, link, source),
            RouteWrite::AddBefore(source) => (NEW_ROUTE, flags::CREATE, link, source),
            RouteWrite::Replace(source) => (NEW_ROUTE, flags::CREATE | flags::REPLACE, link, source),
            RouteWrite::Delete { link, source } => (DELETE_ROUTE, 0, link, source),
        };
        let message = our_route(vip, table, source, link);
        batch.push(kind, message_flags, |buffer| put(buffer, &message));
    }
}

/// Our route: `local VIP dev LINK table TABLE proto 177 scope host src SOURCE`.
fn our_route(vip: IpAddr, table: RouteTable, source: Option<IpAddr>, link: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: family(vip),
        destination_prefix_length: host_prefix(vip),
        table: table_number(table),
        protocol: RouteProtocol::Other(ROUTE_PROTOCOL),
        scope: RouteScope::Host,
        kind: RouteType::Local,
        ..RouteHeader::default()
    };
    message.attributes = vec![RouteAttribute::Destination(vip.into()), RouteAttribute::Oif(link)];
    message.attributes.extend(source.map(|source| RouteAttribute::PrefSource(source.into())));
    message
}

/// One request about a rule of ours: `fwmark BIT/BIT lookup STEERING_TABLE pref RULE_PRIORITY proto 177`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RuleWrite {
    /// Adds it; fails if it exists.
    Add,
    /// Deletes it.
    Delete,
}

impl RuleWrite {
    /// Appends the request for packets with a bit in their mark.
    pub(crate) fn push(self, batch: &mut Batch, ip_family: IpFamily, bit: u8) {
        let (kind, message_flags) = match self {
            RuleWrite::Add => (NEW_RULE, flags::CREATE | flags::EXCL),
            RuleWrite::Delete => (DELETE_RULE, 0),
        };
        let mark = 1 << (bit & 31);
        let mut message = RuleMessage::default();
        message.header = RuleHeader {
            family: family(ip_family.unspecified()),
            table: STEERING_TABLE,
            action: RuleAction::ToTable,
            ..RuleHeader::default()
        };
        message.attributes = vec![
            RuleAttribute::Priority(RULE_PRIORITY),
            RuleAttribute::FwMark(mark),
            RuleAttribute::FwMask(mark),
            RuleAttribute::Protocol(RouteProtocol::Other(ROUTE_PROTOCOL)),
        ];
        batch.push(kind, message_flags, |buffer| put(buffer, &message));
    }
}

/// Appends the addition of a host address; scope `host` is of no meaning outside of this node.
pub(crate) fn push_add_address(batch: &mut Batch, addr: IpAddr, scope: AddressScope, link: u32) {
    let mut message = host_address(addr, link);
    message.header.scope = scope;
    if addr.is_ipv6() {
        // No other machine has it: the link leads nowhere.
        message.header.flags = AddressHeaderFlags::Nodad;
    }
    batch.push(NEW_ADDRESS, flags::CREATE | flags::EXCL, |buffer| put(buffer, &message));
}

/// Appends the removal of a host address from a link.
pub(crate) fn push_delete_address(batch: &mut Batch, addr: IpAddr, link: u32) {
    let message = host_address(addr, link);
    batch.push(DELETE_ADDRESS, 0, |buffer| put(buffer, &message));
}

fn host_address(addr: IpAddr, link: u32) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header = AddressHeader {
        family: family(addr),
        prefix_len: host_prefix(addr),
        index: link,
        ..AddressHeader::default()
    };
    message.attributes = vec![AddressAttribute::Local(addr)];
    message
}

/// Asks for one link by name, or for all of them, without their statistics.
pub(crate) fn get_links(name: Option<&str>) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats])];
    message.attributes.extend(name.map(|name| LinkAttribute::IfName(name.to_owned())));
    Request::new(GET_LINK, |buffer| put(buffer, &message))
}

/// Asks for all addresses of a family.
pub(crate) fn get_addresses(family: AddressFamily) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = family;
    Request::new(GET_ADDRESS, |buffer| put(buffer, &message))
}

/// Asks for local routes of a family and table; with a link, only for ours on it. Kernels before 4.20 ignore all of
/// that but the family.
pub(crate) fn get_local_routes(family: AddressFamily, table: RouteTable, ours_on: Option<u32>) -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message.header.table = table_number(table);
    message.header.kind = RouteType::Local;
    if let Some(link) = ours_on {
        message.header.protocol = RouteProtocol::Other(ROUTE_PROTOCOL);
        message.attributes = vec![RouteAttribute::Oif(link)];
    }
    Request::new(GET_ROUTE, |buffer| put(buffer, &message))
}

/// Asks for IPv6 routes that came by router advertisement. Kernels before 4.20 ignore that and send all.
pub(crate) fn get_advertised_routes() -> Request {
    let mut message = RouteMessage::default();
    message.header.address_family = AddressFamily::Inet6;
    message.header.protocol = RouteProtocol::Ra;
    Request::new(GET_ROUTE, |buffer| put(buffer, &message))
}

/// Asks for the rules of the routing policy of a family: a `struct fib_rule_hdr` of zeros but for that.
pub(crate) fn get_rules(family: AddressFamily) -> Request {
    let mut header = [0; 12];
    header[0] = u8::from(family);
    Request::new(GET_RULE, |buffer| buffer.put(&header))
}

pub(crate) const fn family(addr: IpAddr) -> AddressFamily {
    match addr {
        IpAddr::V4(_) => AddressFamily::Inet,
        IpAddr::V6(_) => AddressFamily::Inet6,
    }
}

const fn host_prefix(addr: IpAddr) -> u8 {
    lb_types::IpFamily::of(addr).host_prefix()
}

fn put(buffer: &mut MessageBuffer, message: &impl Emitable) {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    buffer.put(&bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINK: u32 = 7;

    fn bytes(push: impl FnOnce(&mut Batch)) -> Vec<u8> {
        let mut batch = Batch::new();
        push(&mut batch);
        batch.as_bytes().to_vec()
    }

    fn header(len: u8, kind: u16, message_flags: u16) -> Vec<u8> {
        let mut out = vec![len, 0, 0, 0];
        out.extend(kind.to_ne_bytes());
        out.extend((message_flags | flags::REQUEST).to_ne_bytes());
        out.extend([0; 8]);
        out
    }

    #[test]
    fn ipv4_route() {
        let (vip, source) = ("10.96.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap());
        let expect = [
            header(52, 24, 0x600),
            vec![2, 32, 0, 0, 255, 177, 254, 2, 0, 0, 0, 0],
            vec![8, 0, 1, 0, 10, 96, 0, 1],
            vec![8, 0, 4, 0, 7, 0, 0, 0],
            vec![8, 0, 7, 0, 192, 0, 2, 1],
        ];
        let got = bytes(|batch| RouteWrite::Add(Some(source)).push(batch, vip, RouteTable::Local, LINK));
        assert_eq!(got, expect.concat());
    }

    #[test]
    fn ipv6_route_without_source() {
        let vip: IpAddr = "fd00::1".parse().unwrap();
        let mut addr = [0; 16];
        (addr[0], addr[15]) = (0xfd, 1);
        let expect = [
            header(56, 24, 0x500),
            vec![10, 128, 0, 0, 255, 177, 254, 2, 0, 0, 0, 0],
            [vec![20, 0, 1, 0], addr.to_vec()].concat(),
            vec![8, 0, 4, 0, 7, 0, 0, 0],
        ];
        let got = bytes(|batch| RouteWrite::Replace(None).push(batch, vip, RouteTable::Local, LINK));
        assert_eq!(got, expect.concat());
    }

    #[test]
    fn steering() {
        let vip = "192.0.2.80".parse().unwrap();
        let expect = [
            header(44, 24, 0x600),
            vec![2, 32, 0, 0, 177, 177, 254, 2, 0, 0, 0, 0],
            vec![8, 0, 1, 0, 192, 0, 2, 80],
            vec![8, 0, 4, 0, 7, 0, 0, 0],
        ];
        let got = bytes(|batch| RouteWrite::Add(None).push(batch, vip, RouteTable::Steering, LINK));
        assert_eq!(got, expect.concat());
        let rule = [
            vec![10, 0, 0, 0, 177, 0, 0, 1, 0, 0, 0, 0],
            vec![8, 0, 6, 0, 1, 0, 0, 0],
            vec![8, 0, 10, 0, 0, 0x10, 0, 0],
            vec![8, 0, 16, 0, 0, 0x10, 0, 0],
            vec![5, 0, 21, 0, 177, 0, 0, 0],
        ];
        let got = bytes(|batch| RuleWrite::Add.push(batch, IpFamily::V6, 12));
        assert_eq!(got, [header(60, 32, 0x600), rule.concat()].concat());
        let got = bytes(|batch| RuleWrite::Delete.push(batch, IpFamily::V6, 12));
        assert_eq!(got, [header(60, 33, 0), rule.concat()].concat());
    }

    #[test]
    fn flags_tell_the_writes_apart() {
        let vip = "10.96.0.1".parse().unwrap();
        let flags_of = |write: RouteWrite| {
            let got = bytes(|batch| write.push(batch, vip, RouteTable::Local, LINK));
            (u16::from_ne_bytes([got[4], got[5]]), u16::from_ne_bytes([got[6], got[7]]))
        };
        assert_eq!(flags_of(RouteWrite::AddBefore(None)), (24, 0x401));
        assert_eq!(flags_of(RouteWrite::Delete { link: LINK, source: None }), (25, 0x001));
    }

    #[test]
    fn addresses_and_dumps() {
        let got =
            bytes(|batch| push_add_address(batch, "127.0.0.9".parse().unwrap(), AddressScope::Host, LINK));
        let expect =
            [header(32, 20, 0x600), vec![2, 32, 0, 254, 7, 0, 0, 0], vec![8, 0, 2, 0, 127, 0, 0, 9]].concat();
        assert_eq!(got, expect);
        let got = bytes(|batch| push_delete_address(batch, "10.96.0.1".parse().unwrap(), LINK));
        let expect =
            [header(32, 21, 0), vec![2, 32, 0, 0, 7, 0, 0, 0], vec![8, 0, 2, 0, 10, 96, 0, 1]].concat();
        assert_eq!(got, expect);

        let got = get_local_routes(AddressFamily::Inet, RouteTable::Local, Some(LINK));
        let expect = [vec![2, 0, 0, 0, 255, 177, 0, 2, 0, 0, 0, 0], vec![8, 0, 4, 0, 7, 0, 0, 0]].concat();
        assert_eq!(got.as_bytes()[16..], expect);
        let got = get_local_routes(AddressFamily::Inet6, RouteTable::Local, None);
        assert_eq!(got.as_bytes()[16..], [10, 0, 0, 0, 255, 0, 0, 2, 0, 0, 0, 0]);
        assert_eq!(get_advertised_routes().as_bytes()[16..], [10, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0]);
        assert_eq!(get_rules(AddressFamily::Inet6).as_bytes()[16..], [10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(get_addresses(AddressFamily::Inet).as_bytes()[16..], [2, 0, 0, 0, 0, 0, 0, 0]);
    }
}
