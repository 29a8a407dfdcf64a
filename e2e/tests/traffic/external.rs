//! External addresses: every kind of client, both policies, and the source address that the pod sees.

use std::net::{Ipv4Addr, Ipv6Addr};

use e2e::{
    manifest::Service,
    net::{BRIDGE, Both, Client, NODE, PodNetwork},
    probe::Proto,
};
use testkit::wait_for;

use crate::testbed::{Testbed, WAIT_LIMIT, web};

/// External addresses of `web`; those of documentation (RFC 5737, RFC 3849), which no link has.
const EXTERNAL: Both =
    Both { v4: Ipv4Addr::new(192, 0, 2, 80), v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x80) };

/// What a client gets from an external address.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Gets {
    /// An answer from a pod that sees the client's own address.
    Own,
    /// An answer from a pod that sees an address of the node.
    Node,
    /// Nothing.
    Nothing,
}
use Gets::{Node, Nothing, Own};

fn ask(client: &Client, proto: Proto, ip: usize) -> Result<Gets, String> {
    let to = EXTERNAL.port(80)[ip];
    let outcome = client.ask(proto, to);
    match &outcome.result {
        Ok(answer) if client.own.contains(answer.peer.ip()) && client.own != NODE => Ok(Own),
        Ok(answer) if NODE.contains(answer.peer.ip()) || BRIDGE.contains(answer.peer.ip()) => Ok(Node),
        Err(failure) if !failure.is_refused() => Ok(Nothing),
        _ => Err(format!("{} -> {proto} {to}: {outcome}", client.place)),
    }
}

/// Checks what the node, a pod, the pod that answers and the client outside get.
#[track_caller]
fn check(testbed: &Testbed, expected: [Gets; 4]) {
    for (client, expected) in testbed.clients().iter().zip(expected) {
        // A client that gets nothing waits for seconds, so it asks with one transport alone.
        let protos = if expected == Nothing { &[Proto::Tcp][..] } else { &Proto::ALL[..] };
        for (proto, ip) in protos.iter().flat_map(|proto| [(*proto, 0), (*proto, 1)]) {
            assert_eq!(ask(client, proto, ip), Ok(expected), "{} over {proto}, {ip}", client.place);
        }
    }
}

/// Waits until the client outside gets this over TCP, in both families.
#[track_caller]
fn wait(testbed: &Testbed, expected: Gets) {
    let outside = testbed.net.outside_client();
    wait_for(WAIT_LIMIT, &format!("the client outside to get {expected:?}"), || {
        for ip in [0, 1] {
            let gets = ask(&outside, Proto::Tcp, ip)?;
            if gets != expected {
                return Err(format!("it gets {gets:?}"));
            }
        }
        Ok(())
    });
}

#[test]
fn external_addresses_serve_whom_their_policy_means() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    testbed.net.outside.sh(&format!("ip route add {}/32 via {}", EXTERNAL.v4, NODE.v4));
    testbed.net.outside.sh(&format!("ip -6 route add {}/128 via {}", EXTERNAL.v6, NODE.v6));
    let cluster = web().with_external_ips(EXTERNAL, "Cluster");
    let local = web().with_external_ips(EXTERNAL, "Local");
    testbed.manifests.serve(&cluster, &testbed.ready(1..=1));
    testbed.start(&[]);
    testbed.wait_served(&cluster, &testbed.ready(1..=1));
    wait(&testbed, Node);
    check(&testbed, [Node, Own, Node, Node]);
    // The endpoint is on this node: a client outside keeps its address.
    testbed.manifests.service(&local);
    wait(&testbed, Own);
    check(&testbed, [Node, Own, Node, Own]);
    // The same pod, said to be on another node: clients outside get no answer, those of this node do.
    let mut elsewhere = testbed.ready(1..=1);
    elsewhere[0].node = "another";
    testbed.manifests.endpoints(&local, &elsewhere);
    wait(&testbed, Nothing);
    check(&testbed, [Node, Own, Node, Nothing]);
    // Without the addresses the Service has nothing there, and its ClusterIPs go on.
    testbed.manifests.serve(&web(), &testbed.ready(1..=1));
    wait_for(WAIT_LIMIT, "the external addresses to be gone", || {
        let routes = testbed.local_routes();
        if EXTERNAL.each().iter().any(|ip| routes.contains(&format!("local {ip} "))) {
            return Err(routes);
        }
        Ok(())
    });
    testbed.wait_served(&web(), &testbed.ready(1..=1));
}

#[test]
fn an_external_address_of_the_node_is_served_there_and_stays_the_nodes() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let service = Service { ports: web().ports, ..web() }.with_external_ips(NODE, "Cluster");
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    testbed.start(&[]);
    testbed.wait_served(&service, &testbed.ready(1..=1));
    let outside = testbed.net.outside_client();
    wait_for(WAIT_LIMIT, "the Service at the node's address", || {
        NODE.port(80).iter().try_for_each(|to| {
            let outcome = outside.ask(Proto::Tcp, *to);
            outcome.result.as_ref().map(drop).map_err(|_| format!("{to}: {outcome}"))
        })
    });
    // Every other port is the node's: the daemon of the measurements answers there.
    let _daemon = testbed.net.node_daemon("ssh", 22);
    for to in NODE.port(22) {
        let outcome = outside.ask(Proto::Tcp, to);
        let answer = outcome.result.as_ref().unwrap_or_else(|_| panic!("{to}: {outcome}"));
        assert_eq!(answer.pod, "ssh");
    }
    let routes = testbed.local_routes();
    assert!(!routes.contains(&format!("local {} dev kube-ipvs0", NODE.v4)), "{routes}");
}
