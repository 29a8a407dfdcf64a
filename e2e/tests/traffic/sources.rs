//! Clients of a ClusterIP, and the source address that the pod sees: every kind of client, transport and
//! family, in every way of telling local pods from the rest.

use e2e::{
    net::{BRIDGE, Both, Client, NODE, PodNetwork},
    probe::Proto,
};
use testkit::wait_for;

use crate::testbed::{Testbed, WAIT_LIMIT, WEB, web};

/// Source that the pod sees.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Seen {
    /// The client's own.
    Own,
    /// One of the node's, because it was masqueraded or because the client is the node.
    Node,
}
use Seen::{Node, Own};

/// A way to start kube-ipvs, and the source that it means for a pod and for the outside client; the node is
/// always seen as the node, and a pod that reaches itself as well.
struct Case {
    flags: &'static [&'static str],
    pod: Seen,
    outside: Seen,
}

const CLUSTER: &str = "--cluster-cidr=10.244.0.0/16,fd00:244::/56";

fn check(
    testbed: &Testbed,
    client: &Client,
    expected: Seen,
    (proto, ip): (Proto, usize),
) -> Result<(), String> {
    let to = WEB.port(80)[ip];
    let outcome = client.ask(proto, to);
    let wrong = |why: &str| Err(format!("{} -> {proto} {to}: {why}: {outcome}", client.place));
    let Ok(answer) = &outcome.result else { return wrong("no answer") };
    let peer = answer.peer.ip();
    let seen = if client.own.contains(peer) && client.own != NODE {
        Own
    } else if NODE.contains(peer) || BRIDGE.contains(peer) {
        Node
    } else {
        return wrong("a foreign source address");
    };
    if answer.pod != testbed.pods[0].name {
        return wrong("another pod");
    }
    if seen == expected { Ok(()) } else { wrong(&format!("the source should be {expected:?}")) }
}

fn expectations(testbed: &Testbed, case: &Case) -> [(Client, Seen); 4] {
    let [node, pod, itself, outside] = testbed.clients();
    [(node, Node), (pod, case.pod), (itself, Node), (outside, case.outside)]
}

fn run(network: PodNetwork, cases: &[Case]) {
    let mut testbed = Testbed::new(network, 2);
    let service = web();
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    for case in cases {
        testbed.start_with(case.flags);
        testbed.wait_served(&service, &testbed.ready(1..=1));
        let expectations = expectations(&testbed, case);
        // A restart with other flags changes the rules at some moment: the test waits for it with one
        // transport ...
        wait_for(WAIT_LIMIT, &format!("the rules of {:?}", case.flags), || {
            let mut each =
                expectations.iter().flat_map(|(client, seen)| [(client, seen, 0), (client, seen, 1)]);
            each.try_for_each(|(client, seen, ip)| check(&testbed, client, *seen, (Proto::Tcp, ip)))
        });
        // ... and from then on everything has to be right.
        for (client, seen) in &expectations {
            for (proto, ip) in Proto::ALL.into_iter().flat_map(|proto| [(proto, 0), (proto, 1)]) {
                if let Err(why) = check(&testbed, client, *seen, (proto, ip)) {
                    panic!("{:?}: {why}", case.flags);
                }
            }
        }
        println!("{:?}: 4 clients x 3 transports x 2 families", case.flags);
    }
}

/// Conformance: e2e/service should preserve source pod IP for traffic thru service cluster IP
/// Conformance: e2e/service should allow pods to hairpin back to themselves through services
/// Conformance: e2e/service should serve endpoints on same port and different protocols
/// Conformance: e2e/dual_stack should function for pod-Service: http, udp, sctp (secondary family)
/// Conformance: e2e/dual_stack should function for node-Service: http, udp (secondary family)
/// Conformance: e2e/dual_stack should function for endpoint-Service: http, udp (secondary family)
/// Conformance: e2e/networking should function for pod-Service...
#[test]
fn sources_with_routed_pods() {
    let cases = [
        Case { flags: &[CLUSTER], pod: Own, outside: Node },
        Case { flags: &["--detect-local-mode=NodeCIDR"], pod: Own, outside: Node },
        Case {
            flags: &["--detect-local-mode=InterfaceNamePrefix", "--pod-interface-name-prefix=cali"],
            pod: Own,
            outside: Node,
        },
        // Without a flag nothing says which addresses are local: only a pod that reaches itself has to be
        // masqueraded.
        Case { flags: &[], pod: Own, outside: Own },
        Case { flags: &[CLUSTER, "--masquerade-all"], pod: Node, outside: Node },
    ];
    run(PodNetwork::Routed, &cases);
}

#[test]
fn sources_with_bridged_pods() {
    let cases = [
        Case { flags: &[CLUSTER], pod: Own, outside: Node },
        Case {
            flags: &["--detect-local-mode=BridgeInterface", "--pod-bridge-interface=cni0"],
            pod: Own,
            outside: Node,
        },
        Case { flags: &[], pod: Own, outside: Own },
        Case { flags: &["--masquerade-all"], pod: Node, outside: Node },
    ];
    run(PodNetwork::Bridge, &cases);
}

/// A pod whose address is in the cluster's range but not in this node's is not local to the node.
#[test]
fn node_cidr_tells_this_node_s_pods_from_others() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 1);
    let service = web();
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    testbed.start_with(&["--detect-local-mode=NodeCIDR"]);
    testbed.wait_served(&service, &testbed.ready(1..=1));
    // The outside client plays a pod of another node: 10.244.9.9 is routed to it.
    let remote = Both { v4: [10, 244, 9, 9].into(), v6: "fd00:244:0:9::9".parse().unwrap() };
    for (ip, prefix) in remote.each().into_iter().zip([32, 128]) {
        testbed.net.outside.sh(&format!("ip address add {ip}/{prefix} dev lo"));
    }
    testbed.net.node.sh(&format!("ip route add {}/32 via 192.168.50.2", remote.v4));
    testbed.net.node.sh(&format!("ip route add {}/128 via fd00:50::2", remote.v6));
    let client =
        Client { place: "pod of another node".to_owned(), own: remote, ..testbed.net.outside_client() };
    for ip in [0, 1] {
        // SCTP clients bind their own address, so the source is the remote pod's.
        check(&testbed, &client, Node, (Proto::Sctp, ip)).unwrap();
    }
    testbed.start_with(&[CLUSTER]);
    wait_for(WAIT_LIMIT, "the cluster's range to decide", || check(&testbed, &client, Own, (Proto::Sctp, 0)));
    check(&testbed, &client, Own, (Proto::Sctp, 1)).unwrap();
}
