//! Cost of a deletion beside ten thousand tracked connections of others, in messages.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use conntrack::ConntrackClient;
use dataplane::{ConntrackTable as _, contract::conntrack::Flow};
use lb_types::{ConntrackFilter, IpFamily, Protocol, RealServerId, VipPort};
use testkit::{in_new_netns, run};

use crate::tool;

const FOREIGN: u16 = 10_000;
const MINE: u16 = 50;

fn addr(family: IpFamily, net: u8, host: u16) -> IpAddr {
    let [high, low] = host.to_be_bytes();
    match family {
        IpFamily::V4 => Ipv4Addr::new(10, net, high, low).into(),
        IpFamily::V6 => Ipv6Addr::new(0xfd00, net.into(), 0, 0, 0, 0, 0, host).into(),
    }
}

/// `n` clients of a service port that one real server has.
fn flows(family: IpFamily, n: u16, to: SocketAddr, server: SocketAddr) -> Vec<Flow> {
    let client = |n| SocketAddr::new(addr(family, 1, n), 5000);
    (0..n).map(|n| Flow { protocol: Protocol::Udp, client: client(n), to, server }).collect()
}

/// Number of messages that the client receives for the deletion of 50 among 10,000 and more.
fn cost(family: IpFamily) -> u64 {
    run(&["modprobe", "nf_conntrack_netlink"]);
    in_new_netns(|| {
        let (vip, vip2) = (addr(family, 96, 10), addr(family, 96, 11));
        let (server, other) = (addr(family, 244, 5), addr(family, 244, 6));
        let at = SocketAddr::new;
        tool::insert(&flows(family, FOREIGN, at(vip2, 53), at(other, 5354)));
        tool::insert(&flows(family, MINE, at(vip, 53), at(server, 5353)));
        let mut table = ConntrackClient::open().expect("open");
        let vip = VipPort { addr: vip, protocol: Protocol::Udp, port: 53.try_into().expect("not 0") };
        let rs = RealServerId { addr: server, port: 5353.try_into().expect("not 0") };
        let deleted = table.delete_flows(&[ConntrackFilter::of_real_server(vip, rs)]).expect("delete");
        let counters = table.counters();
        println!("{family}: {counters:?}");
        assert_eq!(deleted, usize::from(MINE));
        assert_eq!(tool::flows().len(), usize::from(FOREIGN), "of others nothing is gone");
        // One dump; all deletions in one datagram.
        assert_eq!((counters.messages_sent, counters.sends), (1 + u64::from(MINE), 2));
        counters.messages_received
    })
}

/// Fewest messages possible: the tracked connections, the end of the dump, and the acknowledgement of the
/// deletions.
const FEWEST_MESSAGES: u64 = MINE as u64 + 2;

#[test]
fn ten_thousand_foreign_flows_are_not_even_read_v4() {
    assert_eq!(cost(IpFamily::V4), FEWEST_MESSAGES);
}

/// The ports differ here, and their comparison in the kernel is right.
#[test]
fn ten_thousand_foreign_flows_are_not_even_read_v6() {
    assert_eq!(cost(IpFamily::V6), FEWEST_MESSAGES);
}
