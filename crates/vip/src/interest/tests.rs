use dataplane::BridgeFilters;
use netlink::{Messages, Request};

use super::*;

/// Change by somebody, or by the kernel.
enum Event {
    /// Link index, name, up
    NewLink(u32, &'static str, bool),
    DelLink(u32, &'static str),
    /// Link index, address
    NewAddr(u32, &'static str),
    DelAddr(u32, &'static str),
    /// Protocol, flags, address
    NewRoute(u8, u16, [u8; 4]),
    DelRoute(u8, [u8; 4]),
}
use Event::{DelAddr, DelLink, DelRoute, NewAddr, NewLink, NewRoute};

impl Event {
    fn bytes(&self) -> Vec<u8> {
        match *self {
            NewLink(index, name, up) => link(NEW_LINK, index, name, up),
            DelLink(index, name) => link(DELETE_LINK, index, name, false),
            NewAddr(link, addr) => address(NEW_ADDRESS, link, addr),
            DelAddr(link, addr) => address(DELETE_ADDRESS, link, addr),
            NewRoute(protocol, flags, addr) => {
                let mut bytes = route(NEW_ROUTE, protocol, addr);
                bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
                bytes
            }
            DelRoute(protocol, addr) => route(DELETE_ROUTE, protocol, addr),
        }
    }
}

fn link(kind: u16, index: u32, name: &str, up: bool) -> Vec<u8> {
    let header = [&[0; 4][..], &index.to_ne_bytes(), &u32::from(up).to_ne_bytes(), &[0; 4]].concat();
    build(kind, &header, |m| m.attribute_str(3, name))
}

fn address(kind: u16, link: u32, addr: &str) -> Vec<u8> {
    let (family, bytes) = match addr.parse().unwrap() {
        IpAddr::V4(addr) => (2, addr.octets().to_vec()),
        IpAddr::V6(addr) => (10, addr.octets().to_vec()),
    };
    build(kind, &[&[family, 0, 0, 0][..], &link.to_ne_bytes()].concat(), |m| m.attribute(1, &bytes))
}

fn route(kind: u16, protocol: u8, addr: [u8; 4]) -> Vec<u8> {
    build(kind, &[2, 32, 0, 0, 255, protocol, 254, 2, 0, 0, 0, 0], |m| m.attribute(1, &addr))
}

fn build(kind: u16, header: &[u8], attributes: impl FnOnce(&mut netlink::MessageBuffer)) -> Vec<u8> {
    let request = Request::new(kind, |buffer| {
        buffer.put(header);
        attributes(buffer);
    });
    request.as_bytes().to_vec()
}

/// Checks which of the events count.
fn check(mut interest: Interest, events: &[(Event, bool)]) {
    for (number, (event, expect)) in events.iter().enumerate() {
        let bytes = event.bytes();
        let message = Messages::new(&bytes).next().unwrap();
        assert_eq!(interest.judge(&message), *expect, "event {number}");
    }
}

const OURS: &str = LINK_NAME;
const VIP: [u8; 4] = [10, 96, 0, 1];

#[test]
fn our_link_counts_when_it_ceases_to_be_up() {
    check(
        Interest::default(),
        &[
            (NewLink(7, OURS, false), false), // created, by us or by somebody
            (NewLink(7, OURS, true), false),
            (NewLink(7, OURS, true), false),
            (NewLink(7, OURS, false), true),
            (NewLink(7, OURS, false), false),
            (NewLink(7, OURS, true), false),
            (DelLink(7, OURS), true),
            (DelLink(7, OURS), false),
            (NewLink(8, OURS, true), false),
            (NewLink(8, "renamed", true), true),
            (NewLink(2, "eth0", false), false),
            (DelLink(2, "eth0"), false),
        ],
    );
}

#[test]
fn what_was_there_at_the_start_counts() {
    let mut interest = Interest::default();
    interest.note_link(&Link {
        index: 7,
        name: OURS.to_owned(),
        kind: None,
        up: true,
        bridge: BridgeFilters::default(),
    });
    interest.note_address(Address { link: 2, addr: "192.0.2.1".parse().unwrap(), is_shared: false });
    check(interest, &[(NewAddr(2, "192.0.2.1"), false), (NewLink(7, OURS, false), true)]);
}

#[test]
fn addresses_count_when_they_come_and_go() {
    check(
        Interest::default(),
        &[
            (NewAddr(2, "192.0.2.1"), true),
            (NewAddr(2, "192.0.2.1"), false),
            (NewAddr(3, "192.0.2.1"), true),
            (NewAddr(2, "2001:db8::1"), true),
            (NewAddr(2, "2001:db8::1"), false), // a renewed lifetime
            (DelAddr(2, "192.0.2.1"), true),
            (NewAddr(2, "192.0.2.1"), true),
            (NewAddr(2, "fe80::1"), false),
            (DelAddr(2, "fe80::1"), false),
            (NewAddr(1, "127.0.0.2"), false),
            (NewAddr(7, "10.96.0.9"), true), // on our link: somebody binds VIPs
        ],
    );
}

#[test]
fn any_address_that_leaves_our_link_counts() {
    check(
        Interest::default(),
        &[
            (NewLink(7, OURS, true), false),
            (NewAddr(7, "127.0.0.9"), false),
            (DelAddr(7, "127.0.0.9"), true),
            (DelAddr(1, "127.0.0.9"), false),
        ],
    );
}

#[test]
fn indexes_are_used_again() {
    check(
        Interest::default(),
        &[(NewAddr(9, "192.0.2.9"), true), (DelLink(9, "veth9"), false), (NewAddr(9, "192.0.2.9"), true)],
    );
}

#[test]
fn routes_count_when_they_are_or_were_ours() {
    check(
        Interest::default(),
        &[
            (DelRoute(ROUTE_PROTOCOL, VIP), true),
            (NewRoute(ROUTE_PROTOCOL, 0x600, VIP), true),
            (NewRoute(4, 0x100, VIP), true), // replaces one that may have been ours
            (NewRoute(4, 0x600, VIP), false),
            (DelRoute(4, VIP), false),
            (NewRoute(2, 0x100, [127, 0, 0, 1]), false),
        ],
    );
}
