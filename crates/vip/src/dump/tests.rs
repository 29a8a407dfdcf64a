use netlink::{Messages, Request};
use proptest::prelude::*;

use super::*;

/// A message as the kernel would send it, made of a header and attributes.
fn message(kind: u16, header: &[u8], attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let request = Request::new(kind, |buffer| {
        buffer.put(header);
        for (kind, payload) in attributes {
            buffer.attribute(*kind, payload);
        }
    });
    request.as_bytes().to_vec()
}

fn read<T>(bytes: &[u8], parse: impl Fn(&Message<'_>) -> Option<T>) -> Option<T> {
    parse(&Messages::new(bytes).next().unwrap())
}

fn link_header(index: u32, flags: u32) -> Vec<u8> {
    [&[0, 0, 1, 0][..], &index.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 4]].concat()
}

#[test]
fn bridges_tell_whether_they_hand_packets_to_netfilter_by_themselves() {
    let data = Request::new(0, |buffer| {
        buffer.attribute(36, &[1]);
        buffer.attribute(37, &[0]);
    });
    let info = Request::new(0, |buffer| {
        buffer.attribute(1, b"bridge\0");
        buffer.attribute(2, &data.as_bytes()[16..]);
    });
    let mut header = [0; 16];
    header[4] = 7;
    let link = message(NEW_LINK, &header, &[(3, b"cni0\0"), (18, &info.as_bytes()[16..])]);
    let link = read(&link, parse_link).unwrap();
    assert_eq!(
        (link.kind.as_deref(), link.bridge),
        (Some(BRIDGE), BridgeFilters { ipv4: true, ipv6: false })
    );
}

#[test]
fn links() {
    let kind = Request::new(0, |buffer| buffer.attribute_str(1, "dummy"));
    let bytes =
        message(NEW_LINK, &link_header(7, 0x81), &[(3, b"kube-ipvs0\0"), (18, &kind.as_bytes()[16..])]);
    let link = read(&bytes, parse_link).unwrap();
    let (name, kind) = ("kube-ipvs0".to_owned(), Some("dummy".to_owned()));
    assert_eq!(link, Link { index: 7, name, kind, up: true, bridge: BridgeFilters::default() });

    let physical = message(DELETE_LINK, &link_header(2, 0x80), &[(3, b"eth0\0")]);
    let link = read(&physical, parse_link).unwrap();
    assert_eq!((link.index, link.kind, link.up), (2, None, false));

    let mut bridge_port = link_header(2, 1);
    bridge_port[0] = 7;
    assert_eq!(read(&message(NEW_LINK, &bridge_port, &[(3, b"eth0\0")]), parse_link), None);
    assert_eq!(read(&message(NEW_LINK, &link_header(2, 1), &[]), parse_link), None, "no name");
}

#[test]
fn addresses() {
    let header = [2, 24, 0, 0, 5, 0, 0, 0];
    let own = message(NEW_ADDRESS, &header, &[(1, &[192, 0, 2, 9]), (2, &[192, 0, 2, 1]), (3, b"eth0:1\0")]);
    let expect = Address { link: 5, addr: "192.0.2.1".parse().unwrap(), is_shared: false };
    assert_eq!(read(&own, parse_address), Some(expect), "on a link between two");
    for (prefix, expect) in [(0, true), (24, true), (30, true), (31, false), (32, false)] {
        let header = [2, prefix, 0, 0, 5, 0, 0, 0];
        let bytes = message(NEW_ADDRESS, &header, &[(1, &[192, 0, 2, 9]), (2, &[192, 0, 2, 9])]);
        assert_eq!(read(&bytes, parse_address).unwrap().is_shared, expect, "/{prefix}");
    }
    let v6 = message(DELETE_ADDRESS, &[10, 64, 0, 0, 5, 0, 0, 0], &[(1, &[0xfd; 16])]);
    assert_eq!(read(&v6, parse_address).map(|a| a.addr.is_ipv6()), Some(true));
    let short = message(NEW_ADDRESS, &header, &[(2, &[192, 0, 2])]);
    assert_eq!(read(&short, parse_address), None);
}

#[test]
fn internal_addresses() {
    for (addr, expect) in [
        ("127.0.0.1", true),
        ("127.9.9.9", true),
        ("::1", true),
        ("fe80::1", true),
        ("192.0.2.1", false),
        ("169.254.20.10", false),
        ("fd00::1", false),
        ("2001:db8::1", false),
    ] {
        assert_eq!(
            Address { link: 1, addr: addr.parse().unwrap(), is_shared: false }.is_internal(),
            expect,
            "{addr}"
        );
    }
}

fn route_header(prefix: u8, table: u8, kind: u8, flags: u32) -> Vec<u8> {
    [&[2, prefix, 0, 0, table, 177, 254, kind][..], &flags.to_ne_bytes()].concat()
}

#[test]
fn routes() {
    let attributes: &[(u16, &[u8])] =
        &[(15, &[255, 0, 0, 0]), (1, &[10, 96, 0, 1]), (7, &[192, 0, 2, 1]), (4, &[7, 0, 0, 0])];
    let route = |header: &[u8]| read(&message(NEW_ROUTE, header, attributes), parse_local_route);
    let got = route(&route_header(32, 255, 2, 0)).unwrap();
    assert_eq!((got.addr.to_string(), got.protocol, got.link), ("10.96.0.1".into(), 177, Some(7)));
    assert_eq!(got.source, Some("192.0.2.1".parse().unwrap()));
    assert!(got.has_our_key());
    assert_eq!(got.table, RouteTable::Local);
    assert_eq!(route(&route_header(32, 177, 2, 0)).unwrap().table, RouteTable::Steering);
    for (what, header) in [
        ("prefix", route_header(24, 255, 2, 0)),
        ("main table", route_header(32, 254, 2, 0)),
        ("unicast", route_header(32, 255, 1, 0)),
        ("cloned", route_header(32, 255, 2, 0x200)),
    ] {
        assert_eq!(route(&header), None, "{what}");
    }
}

#[test]
fn rules() {
    let rule =
        |header: &[u8], attributes: &[(u16, &[u8])]| read(&message(NEW_RULE, header, attributes), parse_rule);
    let header = [2, 0, 0, 0, 177, 0, 0, 1, 0, 0, 0, 0];
    let bit: &[u8] = &0x1000_u32.to_ne_bytes();
    let priority = &[1, 0, 0, 0][..];
    let ours = rule(&header, &[(6, priority), (10, bit), (16, bit), (21, &[177])]).unwrap();
    assert_eq!((ours.as_ours(), ours.as_foreign()), (Some((IpFamily::V4, 12)), None));
    let mark = MarkRule { value: 0x1000, mask: 0x1000 };
    let later = &[2, 0, 0, 0][..];
    for (what, header, priority, protocol) in [
        ("another owner", header, priority, 3),
        ("another priority", header, later, 177),
        ("another table", [2, 0, 0, 0, 100, 0, 0, 1, 0, 0, 0, 0], priority, 177),
        ("of routes of multicast", [128, 0, 0, 0, 177, 0, 0, 1, 0, 0, 0, 0], priority, 177),
    ] {
        let foreign = rule(&header, &[(6, priority), (10, bit), (16, bit), (21, &[protocol])]).unwrap();
        assert_eq!((foreign.as_ours(), foreign.as_foreign()), (None, Some(mark)), "{what}");
    }
    let whole = rule(&header, &[(6, priority), (10, bit), (21, &[177])]).unwrap();
    assert_eq!(whole.as_foreign(), Some(MarkRule { value: 0x1000, mask: u32::MAX }), "the whole mark");
    assert_eq!(rule(&[2, 0, 0, 0, 177, 0, 0, 1, 2, 0, 0, 0], &[(10, bit)]), None, "not fwmark");
    assert_eq!(rule(&header, &[(6, &[177, 0, 0, 0])]), None, "no mark");
}

#[test]
fn keys() {
    let check = |addr: &str, metric, tos, expect| {
        let addr = addr.parse().unwrap();
        let route =
            LocalRoute { addr, table: RouteTable::Local, protocol: 4, tos, metric, link: None, source: None };
        assert_eq!(route.has_our_key(), expect, "{route:?}");
    };
    check("10.96.0.1", 0, 0, true);
    check("10.96.0.1", 1, 0, false);
    check("10.96.0.1", 0, 8, false);
    check("fd00::1", 1024, 0, true);
    check("fd00::1", 0, 0, false);
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_skipped(kind in 16u16..=25, payload in proptest::collection::vec(any::<u8>(), 0..80)) {
        let message = Message { kind, flags: 0, sequence: 0, port_id: 0, payload: &payload };
        let _ = (parse_link(&message), parse_address(&message), parse_local_route(&message));
    }
}
