//! Packet rules that kube-proxy has left.

use std::net::SocketAddr;

use e2e::{
    manifest::Port,
    net::{NODE, PodNetwork},
    observe::Snapshot,
    probe::{Proto, once::Outcome},
};
use testkit::{NetNs, wait_for};

use crate::testbed::{Testbed, WAIT_LIMIT, WEB, ask_all, assert_uncut, web};

/// Rules of kube-proxy's modes ipvs (a port that comes later is refused) and iptables (an endpoint that is gone), as
/// iptables-nft keeps them, and some of the kubelet.
const RULES: &[&str] = &[
    "add table ip filter",
    "add chain ip filter INPUT { type filter hook input priority 0 ; }",
    "add chain ip filter KUBE-IPVS-FILTER",
    "add chain ip filter KUBE-FIREWALL",
    "add rule ip filter INPUT counter jump KUBE-IPVS-FILTER",
    "add rule ip filter INPUT counter jump KUBE-FIREWALL",
    "add rule ip filter KUBE-IPVS-FILTER ip daddr 10.96.0.80 tcp dport 80 counter return",
    "add rule ip filter KUBE-IPVS-FILTER ct state new ip daddr 10.96.0.80 counter reject",
    "add table ip nat",
    "add chain ip nat PREROUTING { type nat hook prerouting priority -100 ; }",
    "add chain ip nat KUBE-SEP-GONE",
    "add chain ip nat KUBE-SVC-GONE",
    "add chain ip nat KUBE-SERVICES",
    "add rule ip nat PREROUTING counter jump KUBE-SERVICES",
    "add rule ip nat KUBE-SERVICES ip daddr 10.96.0.80 tcp dport 80 counter jump KUBE-SVC-GONE",
    "add rule ip nat KUBE-SVC-GONE counter jump KUBE-SEP-GONE",
    "add rule ip nat KUBE-SEP-GONE meta l4proto tcp counter dnat to 10.244.0.99:8080",
];

fn load(node: &NetNs) {
    for rule in RULES {
        node.sh(&format!("nft {rule}"));
    }
}

fn ask(testbed: &Testbed, port: u16) -> Outcome {
    let to = SocketAddr::new(WEB.v4.into(), port);
    testbed.net.outside_client().ask_within(std::time::Duration::from_secs(2), Proto::Tcp, to)
}

#[test]
fn rules_that_kube_proxy_has_left_go_once_services_are_programmed() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 1);
    load(&testbed.net.node);
    let later = Port { name: "later".to_owned(), port: 81, ..Port::web(Proto::Tcp) };
    let service = web().with_ports(&[Port::web(Proto::Tcp), later]);
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    let before = Snapshot::take(&testbed.net.node);
    let plan = testbed.settings.plan(&testbed.net.node).unwrap_or_else(|error| panic!("{error}"));
    assert!(plan.contains("1 chains in ip filter, 3 chains in ip nat"), "{plan}");
    before.assert_same(&Snapshot::take(&testbed.net.node), "by plan");
    testbed.start(&["--kube-proxy-rules=keep"]);
    testbed.wait_served(&service, &testbed.ready(1..=1));
    // No translation of others comes before ours; a refusal does.
    assert!(ask(&testbed, 80).result.is_ok() && ask(&testbed, 81).result.is_err());
    let warned = testbed.proxy().log_lines(&["kube-proxy has left packet rules", "3 chains in ip nat"]);
    assert_eq!(warned.len(), 1);
    testbed.start_with(&[]);
    for port in [80, 81] {
        wait_for(WAIT_LIMIT, &format!("port {port} to be served"), || {
            let outcome = ask(&testbed, port);
            outcome.result.as_ref().map(drop).map_err(|_| outcome.to_string())
        });
    }
    ask_all(&testbed.net.outside_client(), &service);
    let rules = testbed.net.node.sh("nft list ruleset");
    assert!(rules.contains("jump KUBE-FIREWALL") && !rules.contains("KUBE-IPVS-FILTER"), "{rules}");
    assert!(!rules.contains("KUBE-SERVICES") && !rules.contains("KUBE-SEP-GONE"), "{rules}");
}

/// kube-proxy has a virtual server for each node port and address. Packets have marks now, so that those get none, until
/// a node port is given up: then nobody must come to them, and to endpoints of long ago.
#[test]
fn virtual_servers_that_kube_proxy_has_left_for_node_ports_go() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let service = web().with_node_port(30080, "Cluster");
    for at in NODE.port(30080) {
        testbed.net.node.sh(&format!("ipvsadm -A -t {at} -s rr"));
        for pod in 0..2 {
            let endpoint = testbed.pods[pod].address.port(8080)[usize::from(at.is_ipv6())];
            testbed.net.node.sh(&format!("ipvsadm -a -t {at} -r {endpoint} -m"));
        }
    }
    testbed.net.node.sh("sysctl -qw net.ipv4.ip_forward=1 net.ipv4.vs.conntrack=1");
    // Connections were masqueraded by then, as kube-proxy's rules do.
    for (family, pods) in [("ip", "10.244.0.0/16"), ("ip6", "fd00:244::/56")] {
        for rule in [
            format!("add table {family} masquerading"),
            format!("add chain {family} masquerading post {{ type nat hook postrouting priority 100 ; }}"),
            format!("add rule {family} masquerading post {family} daddr {pods} masquerade"),
        ] {
            testbed.net.node.sh(&format!("nft {rule}"));
        }
    }
    let talk = testbed.talk(&NODE.port(30080), 4);
    testbed.manifests.serve(&service, &testbed.ready(1..=2));
    testbed.start(&["--ipvs-sync-period=1s"]);
    testbed.wait_served(&service, &testbed.ready(1..=2));
    let serving = |testbed: &Testbed| {
        let at = |line: &&str| line.contains(":30080 ") && line.starts_with("-a");
        let lines = testbed.net.node.sh("ipvsadm -Sn");
        lines.lines().filter(at).filter(|line| !line.contains("-w 0")).count()
    };
    wait_for(WAIT_LIMIT, "those to get nobody", || match serving(&testbed) {
        0 => Ok(()),
        more => Err(format!("{more} real servers")),
    });
    // Whoever is connected stays.
    assert_uncut(&talk.stop());
    testbed.manifests.serve(&web(), &testbed.ready(1..=2));
    let outside = testbed.net.outside_client();
    for to in NODE.port(30080) {
        wait_for(WAIT_LIMIT, &format!("{to} to be closed"), || {
            let outcome = outside.ask_within(std::time::Duration::from_secs(2), Proto::Tcp, to);
            if outcome.result.is_err() { Ok(()) } else { Err(outcome.to_string()) }
        });
    }
}
