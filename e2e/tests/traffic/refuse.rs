//! Addresses and ports that are not served are refused at once, and never reach anybody else.

use std::{net::SocketAddr, time::Duration};

use e2e::{
    manifest::{Port, Service},
    net::{Client, NODE, PodNetwork, cluster_ip},
    probe::{Proto, Stage},
};
use testkit::wait_for;

use crate::testbed::{Testbed, WAIT_LIMIT, WEB, ask_all, web};

/// Time in which a refusal must come, well below the second after which a lost SYN is sent again.
const REFUSED_WITHIN: Duration = Duration::from_millis(900);

#[track_caller]
fn assert_refused(client: &Client, proto: Proto, to: SocketAddr) {
    let outcome = client.ask(proto, to);
    let refused = outcome.result.as_ref().is_err_and(|failure| {
        // The node's own output hook rejects a datagram already in sendto().
        let at_home = client.own == NODE && proto == Proto::Udp && failure.stage == Stage::Send;
        failure.is_refused() || (at_home && failure.error == "EPERM")
    });
    assert!(
        refused && outcome.took < REFUSED_WITHIN,
        "{} -> {proto} {to} must be refused: {outcome}",
        client.place
    );
}

const REFUSABLE: [Proto; 2] = [Proto::Tcp, Proto::Udp];

/// Conformance: e2e/service should be rejected when no endpoints exist
/// Conformance: e2e/service should be rejected for evicted pods (no endpoints exist)
#[test]
fn a_service_without_endpoints_is_refused_until_it_has_some() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let service = web();
    testbed.manifests.serve(&service, &[]);
    testbed.start(&[]);
    testbed.wait_served(&service, &[]);
    let refused_everywhere = |testbed: &Testbed| {
        for client in testbed.clients() {
            for to in WEB.port(80) {
                for proto in REFUSABLE {
                    assert_refused(&client, proto, to);
                }
            }
        }
    };
    refused_everywhere(&testbed);
    // The test asks often in a row: an ICMP error is limited per client, a refusal must not be.
    let outside = testbed.net.outside_client();
    for _ in 0..50 {
        assert_refused(&outside, Proto::Tcp, WEB.port(80)[0]);
    }
    testbed.manifests.endpoints(&service, &testbed.ready(1..=2));
    testbed.wait_served(&service, &testbed.ready(1..=2));
    for (client, proto) in testbed.clients().iter().flat_map(|client| Proto::ALL.map(|proto| (client, proto)))
    {
        for to in WEB.port(80) {
            let outcome = client.ask(proto, to);
            assert!(outcome.result.is_ok(), "{} -> {proto} {to}: {outcome}", client.place);
        }
    }
    testbed.manifests.endpoints(&service, &[]);
    wait_for(WAIT_LIMIT, "both real servers to be drained", || {
        let ipvs = testbed.ipvs();
        let left = WEB
            .port(80)
            .iter()
            .any(|vip| ipvs.get(Proto::Tcp, *vip).is_none_or(|server| !server.real.is_empty()));
        if left { Err(ipvs.render()) } else { Ok(()) }
    });
    refused_everywhere(&testbed);
}

#[test]
fn an_unserved_port_is_refused_and_reaches_no_daemon_of_the_node() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let service = web();
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    let _daemon = testbed.net.node_daemon("daemon", 9999);
    testbed.start(&[]);
    testbed.wait_served(&service, &testbed.ready(1..=1));
    let outside = testbed.net.outside_client();
    // The daemon listens and is reachable at the node's own addresses ...
    for (proto, to) in REFUSABLE.into_iter().flat_map(|proto| NODE.port(9999).map(|to| (proto, to))) {
        assert_eq!(outside.ask(proto, to).result.unwrap().pod, "daemon", "{proto} {to}");
    }
    // ... but not through a service address.
    for client in testbed.clients() {
        for (proto, to) in REFUSABLE.into_iter().flat_map(|proto| WEB.port(9999).map(|to| (proto, to))) {
            assert_refused(&client, proto, to);
        }
    }
    // A port that is served over one transport only is unserved over the others.
    let tcp_only = Service::new("tcp-only", cluster_ip(81), &[Proto::Tcp]);
    testbed.manifests.serve(&tcp_only, &testbed.ready(1..=1));
    testbed.wait_served(&tcp_only, &testbed.ready(1..=1));
    ask_all(&outside, &tcp_only);
    for to in cluster_ip(81).port(80) {
        assert_refused(&outside, Proto::Udp, to);
    }
}

#[test]
fn service_addresses_answer_ping() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let (served, empty) = (web(), Service::new("empty", cluster_ip(81), &[Proto::Tcp]));
    testbed.manifests.serve(&served, &testbed.ready(1..=1));
    testbed.manifests.serve(&empty, &[]);
    testbed.start(&[]);
    testbed.wait_served(&served, &testbed.ready(1..=1));
    testbed.wait_served(&empty, &[]);
    for client in testbed.clients() {
        for ip in [WEB, cluster_ip(81)].into_iter().flat_map(e2e::net::Both::each) {
            client.ping(ip).unwrap_or_else(|failure| panic!("{} pings {ip}: {failure}", client.place));
        }
    }
}

/// To IPVS, any unprivileged port of an address belongs to the virtual server of its port 21 where that is persistent.
#[test]
fn ports_of_a_vip_beside_ftp_are_refused() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 1);
    let port = Port { name: "ftp".to_owned(), proto: Proto::Tcp, port: 21, target: 8080 };
    let service = Service::new("ftp", cluster_ip(88), &[]).with_ports(&[port]).with_affinity(600);
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    testbed.start(&[]);
    testbed.wait_served(&service, &testbed.ready(1..=1));
    for client in [testbed.net.outside_client(), testbed.pods[0].client()] {
        for (served, refused) in cluster_ip(88).port(21).into_iter().zip(cluster_ip(88).port(8080)) {
            let outcome = client.ask(Proto::Tcp, served);
            assert!(outcome.result.is_ok(), "{} -> {served}: {outcome}", client.place);
            assert_refused(&client, Proto::Tcp, refused);
        }
    }
}
