use lb_types::{RealServerId, VipPort};
use netlink::Messages;
use proptest::{collection::vec, prelude::*};

use super::*;

fn service(addr: &str, port: u16) -> VipPort {
    let (addr, port) = (addr.parse().unwrap(), port.try_into().unwrap());
    VipPort { addr, protocol: Protocol::Udp, port }
}

fn of(service: VipPort, addr: &str, port: u16) -> ConntrackFilter {
    let rs = RealServerId { addr: addr.parse().unwrap(), port: port.try_into().unwrap() };
    ConntrackFilter::of_real_server(service, rs)
}

fn keys(filters: &[ConntrackFilter]) -> BTreeSet<Key> {
    filters.iter().map(Key::of).collect()
}

fn bytes(text: &str) -> Vec<u8> {
    let digits: String = text
        .lines()
        .flat_map(|line| line.split(';').next().unwrap_or_default().chars())
        .filter(|c| !c.is_whitespace())
        .collect();
    (0..digits.len()).step_by(2).map(|i| u8::from_str_radix(&digits[i..i + 2], 16).unwrap()).collect()
}

fn narrow(filters: &[ConntrackFilter]) -> Narrowing {
    Narrowing::to(Protocol::Udp, &keys(filters))
}

/// Exact bytes on little-endian machines, where numbers in host order have their low byte first.
#[cfg(target_endian = "little")]
mod exact {
    use super::*;

    #[test]
    fn a_dump_of_one_real_server() {
        let narrowing = narrow(&[of(service("10.96.0.10", 53), "10.244.0.5", 5353)]);
        let expected = bytes(
            "70000000 0101 0100 00000000 00000000 ; length, GET of conntrack, REQUEST, no sequence number, no port
             02000000                             ; IPv4
             2400 0180                            ; original tuple
               0c00 0180                          ;   addresses
                 0800 0200 0a60000a               ;     destination
               1400 0280                          ;   protocol
                 0500 0100 11000000               ;     UDP
                 0600 0300 00350000               ;     destination port
             2400 0280                            ; reply tuple
               0c00 0180
                 0800 0100 0af40005               ;     source
               1400 0280
                 0500 0100 11000000
                 0600 0200 14e90000               ;     source port
             1400 1980                            ; which fields count
               0800 0100 2a000000                 ;   destination, protocol, destination port
               0800 0200 19000000                 ;   source, protocol, source port",
        );
        let request = dump_request(IpFamily::V4, Some(&narrowing));
        assert_eq!(request.as_bytes(), expected);
    }

    #[test]
    fn a_dump_of_everything_of_a_family() {
        let expected = bytes("14000000 0101 0100 00000000 00000000 0a000000");
        assert_eq!(dump_request(IpFamily::V6, None).as_bytes(), expected);
    }

    #[test]
    fn a_deletion_names_tuple_zone_and_id() {
        let tracked =
            Tracked { tuple: vec![1, 2, 3, 4], zone: Some([0, 7]), id: Some([0xde, 0xad, 0xbe, 0xef]) };
        let mut batch = Batch::new();
        push_delete(&mut batch, IpFamily::V4, &tracked);
        let expected = bytes(
            "2c000000 0201 0100 00000000 00000000
             02000000
             0800 0180 01020304 ; original tuple as the kernel had it
             0600 1200 00070000 ; zone
             0800 0c00 deadbeef ; id",
        );
        assert_eq!(batch.as_bytes(), expected);
    }
}

/// No kernel sends one; a length that counted the padding would make another tuple of it.
#[test]
fn a_tuple_of_odd_length_is_named_to_the_byte() {
    let tracked = Tracked { tuple: vec![1, 2, 3, 4, 5], zone: None, id: None };
    let mut batch = Batch::new();
    push_delete(&mut batch, IpFamily::V4, &tracked);
    let message = Messages::new(batch.as_bytes()).next().unwrap();
    let tuple = message.attributes(HEADER).find(|a| a.kind == attr::TUPLE_ORIG);
    assert_eq!(tuple.map(|a| a.payload), Some(&[1, 2, 3, 4, 5][..]));
}

#[test]
fn only_what_all_share_is_left_to_the_kernel() {
    let (dns, node) = (service("10.96.0.10", 53), service("192.0.2.1", 30053));
    let one = narrow(&[of(dns, "10.244.0.5", 5353), of(node, "10.244.0.5", 5353)]);
    assert_eq!(one.to, End { addr: None, port: None });
    assert_eq!(one.answers_from, End { addr: Some([10, 244, 0, 5]), port: Some(5353) });
    let two = narrow(&[of(dns, "10.244.0.5", 5353), of(dns, "10.244.0.6", 5353)]);
    assert_eq!(two.to, End { addr: Some([10, 96, 0, 10]), port: Some(53) });
    assert_eq!(two.answers_from, End { addr: None, port: Some(5353) });
}

/// Many kernels compare them the wrong way round.
#[test]
fn ipv6_addresses_are_never_left_to_the_kernel() {
    let narrowing = narrow(&[of(service("fd00::10", 53), "fd00::5", 5353)]);
    assert_eq!(narrowing.to, End { addr: None, port: Some(53) });
    assert_eq!(narrowing.answers_from, End { addr: None, port: Some(5353) });
}

/// A tracked connection as the kernel lists it, with all fields that matter here.
fn listed(from: &str, to: &str, server: &str, number: u8, id: u32) -> Batch {
    let (from, to, server): (SocketAddr, SocketAddr, SocketAddr) =
        (from.parse().unwrap(), to.parse().unwrap(), server.parse().unwrap());
    let put_ip = |m: &mut MessageBuffer, v4: u16, v6: u16, addr| match addr {
        IpAddr::V4(addr) => m.attribute(v4, &addr.octets()),
        IpAddr::V6(addr) => m.attribute(v6, &addr.octets()),
    };
    let put = |m: &mut MessageBuffer, kind, source: SocketAddr, destination: SocketAddr| {
        m.nested(kind, |m| {
            m.nested(tuple::IP, |m| {
                put_ip(m, ip::V4_SRC, ip::V6_SRC, source.ip());
                put_ip(m, ip::V4_DST, ip::V6_DST, destination.ip());
            });
            m.nested(tuple::PROTO, |m| {
                m.attribute_u8(proto::NUM, number);
                m.attribute_u16_be(proto::SRC_PORT, source.port());
                m.attribute_u16_be(proto::DST_PORT, destination.port());
            });
        });
    };
    let mut batch = Batch::new();
    batch.push(NEW, 0, |m| {
        put_header(m, IpFamily::of(to.ip()));
        put(m, attr::TUPLE_ORIG, from, to);
        put(m, attr::TUPLE_REPLY, server, from);
        m.attribute_u32_be(3, 0x108); // CTA_STATUS
        m.attribute_u32_be(attr::ID, id);
    });
    batch
}

fn parse(batch: &Batch, wanted: &[ConntrackFilter]) -> Option<Tracked> {
    let message = Messages::new(batch.as_bytes()).next().unwrap();
    parse_tracked(&message, Protocol::Udp, &keys(wanted))
}

#[test]
fn wanted_entries_are_told_from_others() {
    let dns = service("10.96.0.10", 53);
    let filter = of(dns, "10.244.0.5", 5353);
    let (client, vip, server) = ("192.0.2.7:1001", "10.96.0.10:53", "10.244.0.5:5353");
    let tracked = parse(&listed(client, vip, server, 17, 9), &[filter]).expect("a wanted one");
    assert_eq!((tracked.zone, tracked.id), (None, Some([0, 0, 0, 9])));
    for (to, server, number) in [
        ("10.96.0.11:53", server, 17),
        ("10.96.0.10:54", server, 17),
        (vip, "10.244.0.6:5353", 17),
        (vip, "10.244.0.5:53", 17),
        (vip, vip, 17),
        (vip, server, 6),
    ] {
        assert_eq!(parse(&listed(client, to, server, number, 9), &[filter]), None, "{to} {server} {number}");
    }
    let untranslated = ConntrackFilter::untranslated(dns);
    assert!(parse(&listed(client, vip, vip, 17, 9), &[untranslated]).is_some());
    assert!(parse(&listed(client, vip, server, 17, 9), &[untranslated]).is_none());
}

/// A deletion repeats the words of the listing, so the kernel finds the same one.
#[test]
fn deletions_repeat_the_kernels_bytes() {
    let filter = of(service("fd00:96::10", 53), "fd00:244::5", 5353);
    let listed = listed("[fd00:2::7]:1001", "[fd00:96::10]:53", "[fd00:244::5]:5353", 17, 77);
    let tracked = parse(&listed, &[filter]).expect("a wanted one");
    let mut batch = Batch::new();
    push_delete(&mut batch, IpFamily::V6, &tracked);
    let attribute = |batch: &Batch, kind| {
        let message = Messages::new(batch.as_bytes()).next().unwrap();
        let found = message.attributes(HEADER).find(|a| a.kind == kind).unwrap();
        found.payload.to_vec()
    };
    for kind in [attr::TUPLE_ORIG, attr::ID] {
        assert_eq!(attribute(&batch, kind), attribute(&listed, kind));
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read(payload in vec(any::<u8>(), 0..200), kind in prop_oneof![Just(NEW), any::<u16>()]) {
        let message = Message { kind, flags: 0, sequence: 0, port_id: 0, payload: &payload };
        let _ = parse_tracked(&message, Protocol::Udp, &keys(&[ConntrackFilter::untranslated(service("::", 1))]));
    }

    #[test]
    fn damaged_listings_are_read(at in 16usize..160, value in any::<u8>()) {
        let mut datagram =
            listed("192.0.2.7:1001", "10.96.0.10:53", "10.244.0.5:5353", 17, 9).as_bytes().to_vec();
        if let Some(byte) = datagram.get_mut(at) {
            *byte = value;
        }
        let wanted = keys(&[of(service("10.96.0.10", 53), "10.244.0.5", 5353)]);
        for message in Messages::new(&datagram) {
            let _ = parse_tracked(&message, Protocol::Udp, &wanted);
        }
    }
}
