//! Batches, dumps and notifications against the routing tables of a private network namespace. Needs root.

use netlink::{Batch, Buffers, Drained, Protocol, Request, RequestSocket, Subscription, flags};

const RTM_NEWROUTE: u16 = 24;
const RTM_GETROUTE: u16 = 26;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;

/// Appends `local 10.x.y.z dev <index> table local`.
fn add_local_route(batch: &mut Batch, number: u32, link: u32) {
    batch.push(RTM_NEWROUTE, flags::CREATE | flags::EXCL, |message| {
        message.put(&[2, 32, 0, 0, 255, 200, 254, 2, 0, 0, 0, 0]);
        message.attribute_u32_be(RTA_DST, 0x0a00_0000 + number);
        message.attribute_u32(RTA_OIF, link);
    });
}

fn in_private_network(test: impl FnOnce() + Send) {
    if rustix::process::geteuid().is_root() {
        testkit::in_new_netns(test);
    } else {
        eprintln!("skipped: network namespaces need root");
    }
}

fn socket() -> RequestSocket {
    RequestSocket::open(Protocol::ROUTE, &Buffers::default()).expect("route sockets need no privilege")
}

#[test]
fn twenty_thousand_routes_with_one_bad_link() {
    in_private_network(|| {
        let mut socket = socket();
        let mut batch = Batch::new();
        for number in 0..20_000 {
            add_local_route(&mut batch, number + 1, if number == 13_777 { 4711 } else { 1 });
        }
        let outcome = socket.execute(&mut batch).unwrap();
        assert_eq!(outcome.failures.len(), 1, "{outcome:?}");
        assert_eq!((outcome.failures[0].index, outcome.failures[0].errno), (13_777, libc::ENODEV));
        assert!(!outcome.replies_lost);

        let request =
            Request::new(RTM_GETROUTE, |message| message.put(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
        let protocols = socket.dump(&request, |message| message.payload.get(5).copied()).unwrap();
        assert_eq!(protocols.iter().filter(|p| **p == 200).count(), 19_999);

        let again = socket.execute(&mut batch).unwrap();
        assert_eq!(again.failures.len(), 20_000);
        assert!(again.failures.iter().enumerate().all(|(i, f)| f.index == i));
        assert!(!again.replies_lost);
    });
}

#[test]
fn refusals_carry_the_kernels_words() {
    in_private_network(|| {
        let mut batch = Batch::new();
        batch.push(RTM_NEWROUTE, flags::CREATE, |message| {
            message.put(&[2, 32, 0, 0, 254, 200, 0, 1, 0, 0, 0, 0]);
            message.attribute_u32_be(RTA_DST, 0x0a00_0001);
            message.attribute_u32_be(RTA_GATEWAY, 0xc000_0201);
        });
        let outcome = socket().execute(&mut batch).unwrap();
        assert_eq!(outcome.failures[0].errno, libc::ENETUNREACH);
        let text = outcome.failures[0].text.as_deref();
        assert!(text.is_some_and(|t| t.contains("invalid gateway")), "{text:?}");
    });
}

#[test]
fn notifications_name_the_port_that_caused_them() {
    in_private_network(|| {
        let (mut ours, mut theirs) = (socket(), socket());
        let mut subscription = Subscription::open(Protocol::ROUTE, &[RTNLGRP_IPV4_ROUTE]).unwrap();
        let add = |socket: &mut RequestSocket, number| {
            let mut batch = Batch::new();
            add_local_route(&mut batch, number, 1);
            assert!(socket.execute(&mut batch).unwrap().failures.is_empty());
        };
        add(&mut ours, 1);
        let mut ports = vec![];
        subscription.drain(|message| ports.push((message.kind, message.port_id))).unwrap();
        assert_eq!(ports, [(RTM_NEWROUTE, ours.port_id())]);

        subscription.ignore_port(ours.port_id());
        add(&mut ours, 2);
        add(&mut theirs, 3);
        ports.clear();
        let drained = subscription.drain(|message| ports.push((message.kind, message.port_id))).unwrap();
        assert_eq!(ports, [(RTM_NEWROUTE, theirs.port_id())]);
        assert_eq!(drained, Drained::default());
    });
}

#[test]
fn lost_notifications_are_reported_once() {
    in_private_network(|| {
        let small = Buffers { send: 1 << 16, receive: 4 << 10 };
        let mut subscription =
            Subscription::open_with(Protocol::ROUTE, &[RTNLGRP_IPV4_ROUTE], &small).unwrap();
        let mut batch = Batch::new();
        for number in 1..=500 {
            add_local_route(&mut batch, number, 1);
        }
        assert!(socket().execute(&mut batch).unwrap().failures.is_empty());
        let mut seen = 0;
        assert!(subscription.drain(|_| seen += 1).unwrap().lost);
        assert!(seen < 500);
        assert_eq!(subscription.drain(|_| seen += 1).unwrap(), Drained::default());
    });
}
