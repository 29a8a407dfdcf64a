//! Objects of others survive everything; ours go with `cleanup`, and nothing else does.

use std::net::SocketAddr;

use e2e::{
    manifest::Service,
    net::{Client, NODE, PodNetwork, cluster_ip},
    observe::Snapshot,
    probe::Proto,
};
use testkit::wait_until;

use crate::{
    bindings::BINDING,
    testbed::{EXTERNAL, Testbed, WAIT_LIMIT, WEB, ask_all, web},
};

/// Objects of somebody else, chosen to look as much like ours as possible.
const FOREIGN: &[&str] = &[
    "ipvsadm -A -t 203.0.113.5:80 -s wlc",
    "ipvsadm -a -t 203.0.113.5:80 -r 10.244.0.11:8080 -m -w 7",
    "ipvsadm -A -t [fd00:203::5]:80 -s sh",
    "ipvsadm -a -t [fd00:203::5]:80 -r [fd00:244::11]:8080 -m",
    "ipvsadm -A -f 77 -s rr",
    "nft add table inet foreign",
    "nft add chain inet foreign forward { type filter hook forward priority 0 ; }",
    "nft add rule inet foreign forward accept",
    "nft add table ip kube-ipvs",
    "nft add set ip kube-ipvs vips { type ipv4_addr ; }",
    "ip link add name kube-ipvs1 type dummy",
    "ip address add 203.0.113.6/32 dev kube-ipvs1",
    "ip link set kube-ipvs1 up",
    "ip route add local 203.0.113.7 dev lo table local",
    "ip route add local fd00:203::7 dev lo table local",
    "ip rule add fwmark 0x7700/0xff00 lookup 77 priority 7700",
    "ip route add default via 192.168.50.2 table 77",
];

/// Conformance: ipvs/cleanup TestCleanupLeftovers
#[test]
fn foreign_objects_survive_and_cleanup_leaves_no_trace_of_ours() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    for line in FOREIGN {
        testbed.net.node.sh(line);
    }
    let before = Snapshot::take(&testbed.net.node);
    let service = web();
    testbed.manifests.serve(&service, &testbed.ready(1..=2));
    testbed.start(&["--ipvs-sync-period=1s"]);
    testbed.wait_served(&service, &testbed.ready(1..=2));
    // A second Service comes and goes, so that removals have happened too.
    let second = Service::new("second", cluster_ip(81), &[Proto::Tcp]);
    testbed.manifests.serve(&second, &testbed.ready(1..=1));
    testbed.wait_served(&second, &testbed.ready(1..=1));
    testbed.manifests.forget(&second);
    testbed.wait_gone(&second);
    ask_all(&testbed.net.outside_client(), &service);
    let running = Snapshot::take(&testbed.net.node);
    let lost: Vec<_> = before
        .render_changes(&running)
        .lines()
        .filter(|line| line.starts_with("  -"))
        .map(str::to_owned)
        .collect();
    assert!(lost.is_empty(), "lost while running: {lost:#?}");
    // The end of the process keeps the Service alive.
    testbed.proxy().terminate();
    running.assert_same(&Snapshot::take(&testbed.net.node), "by SIGTERM");
    ask_all(&testbed.net.outside_client(), &service);
    // A cleanup takes ours away and nothing else.
    testbed.settings.cleanup(&testbed.net.node).unwrap_or_else(|error| panic!("{error}"));
    before.assert_same(&Snapshot::take(&testbed.net.node), "by a life of kube-ipvs and its cleanup");
    // A second cleanup succeeds as well.
    testbed.settings.cleanup(&testbed.net.node).unwrap_or_else(|error| panic!("{error}"));
    before.assert_same(&Snapshot::take(&testbed.net.node), "by a second cleanup");
}

#[test]
fn leftovers_in_the_service_range_go() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 1);
    for line in [
        "ipvsadm -A -t 10.96.0.200:80 -s rr",
        "ipvsadm -a -t 10.96.0.200:80 -r 10.244.0.11:8080 -m",
        "ipvsadm -A -u [fd00:96::200]:53 -s rr",
    ] {
        testbed.net.node.sh(line);
    }
    let service = web();
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    testbed.start(&[]);
    testbed.wait_served(&service, &testbed.ready(1..=1));
    wait_until(WAIT_LIMIT, "virtual servers without a Service to go", || {
        testbed.ipvs().servers.keys().all(|(_, vip)| WEB.contains(vip.ip()))
    });
}

/// A hostPort, as the portmap plug-in has it, is published at all addresses of the node; a VIP of the same port is none.
#[test]
fn published_ports_of_the_node_take_no_connection_to_a_vip() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let service = web().with_external_ips(EXTERNAL, "Cluster").with_annotation(BINDING, "route");
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    let published = testbed.pods[1].address;
    for (family, to) in
        [("ip", format!("{}:8081", published.v4)), ("ip6", format!("[{}]:8081", published.v6))]
    {
        let nft = |text: &str| testbed.net.node.sh(&format!("nft {text}"));
        nft(&format!("add table {family} hostports"));
        for hook in ["prerouting", "output"] {
            let chain = format!("{family} hostports {hook}");
            nft(&format!("add chain {chain} {{ type nat hook {hook} priority -100 ; }}"));
            nft(&format!("add rule {chain} fib daddr type local tcp dport 80 dnat to {to}"));
        }
    }
    testbed.start(&["--external-ip-cidrs=192.0.2.0/24,2001:db8::/32"]);
    testbed.wait_served(&service, &testbed.ready(1..=1));
    testbed.net.route_to_node(EXTERNAL);
    let pod_of = |client: &Client, to: SocketAddr| {
        let outcome = client.ask(Proto::Tcp, to);
        outcome.result.as_ref().map_or_else(|_| outcome.to_string(), |answer| answer.pod.clone())
    };
    for client in testbed.clients() {
        for to in WEB.port(80).into_iter().chain(EXTERNAL.port(80)) {
            assert_eq!(pod_of(&client, to), "pod-1", "{} at {to}", client.place);
        }
    }
    for to in NODE.port(80) {
        assert_eq!(pod_of(&testbed.net.outside_client(), to), "pod-2", "the published port");
    }
    // Nor does one of a Service without endpoints.
    testbed.manifests.endpoints(&service, &[]);
    for to in WEB.port(80) {
        wait_until(WAIT_LIMIT, "a refusal", || {
            pod_of(&testbed.pods[1].client(), to).contains("ECONNREFUSED")
        });
    }
}
