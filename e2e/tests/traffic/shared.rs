//! A ClusterIP that another program has put on an interface of the node, as NodeLocal DNSCache does.

use e2e::{
    manifest::{Port, Service},
    net::PodNetwork,
    probe::Proto,
};
use testkit::wait_for;

use crate::testbed::{Testbed, WAIT_LIMIT, WEB};

const DNS: u16 = 53;
const METRICS: u16 = 9153;

fn dns() -> Service {
    let port = |name: &str, proto, port| Port { name: name.to_owned(), proto, port, target: 8080 };
    let ports = [
        port("dns", Proto::Udp, DNS),
        port("dns-tcp", Proto::Tcp, DNS),
        port("metrics", Proto::Tcp, METRICS),
    ];
    Service::new("dns", WEB, &[]).with_ports(&ports)
}

/// Checks that every client gets answers on a port from the server of this name.
fn answered_by(testbed: &Testbed, name: &str, port: u16) -> Result<(), String> {
    let protos: &[Proto] = if port == DNS { &[Proto::Udp, Proto::Tcp] } else { &[Proto::Tcp] };
    for client in testbed.clients() {
        for (proto, to) in protos.iter().flat_map(|proto| WEB.port(port).map(|to| (*proto, to))) {
            let outcome = client.ask(proto, to);
            if !outcome.result.as_ref().is_ok_and(|answer| answer.pod == name) {
                return Err(format!("{} -> {proto} {to}: {outcome}", client.place));
            }
        }
    }
    Ok(())
}

#[test]
fn a_node_local_cache_keeps_its_port_and_the_others_are_served() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let service = dns();
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    testbed.start(&[]);
    testbed.wait_served(&service, &testbed.ready(1..=1));
    let node = &testbed.net.node;
    node.sh("ip link add nodelocaldns type dummy");
    node.sh("ip link set nodelocaldns up");
    node.sh(&format!("ip address add {}/32 dev nodelocaldns", WEB.v4));
    node.sh(&format!("ip address add {}/128 dev nodelocaldns nodad", WEB.v6));
    let cache = testbed.net.node_daemon_at("cache", WEB.port(DNS).map(|at| at.to_string()));
    wait_for(WAIT_LIMIT, "the cache to answer", || answered_by(&testbed, "cache", DNS));
    answered_by(&testbed, "pod-1", METRICS).expect("the other port is served");
    // The daemon dies, and leaves its interface behind.
    drop(cache);
    wait_for(WAIT_LIMIT, "IPVS to serve", || answered_by(&testbed, "pod-1", DNS));
    answered_by(&testbed, "pod-1", METRICS).expect("the other port is served");
    testbed.net.node.sh("ip link delete nodelocaldns");
    testbed.wait_served(&service, &testbed.ready(1..=1));
    answered_by(&testbed, "pod-1", DNS).expect("served as before");
}
