//! Objects of others survive everything; ours go with `cleanup`, and nothing else does.

use std::net::{Ipv4Addr, SocketAddr};

use e2e::{
    manifest::Service,
    net::{Client, NODE, PodNetwork, cluster_ip},
    observe::Snapshot,
    probe::Proto,
};
use testkit::{NetNs, wait_until};

use crate::{
    bindings::BINDING,
    reach::{Gets, check, wait},
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

/// Port on the node that three pods have, each for an address or transport of its own.
const HOST_PORT: u16 = 54_323;

/// Rules as the portmap plugin writes them to nftables, for IPv4: what comes to the port goes to a pod, and the node
/// stands in as the source where the answer would not come back otherwise. The mark is that of its iptables rules.
fn map_host_ports(node: &NetNs, maps: &[(Ipv4Addr, Proto, SocketAddr)]) {
    node.sh("sysctl -qw net.ipv4.conf.all.route_localnet=1");
    let mut rules = vec![
        "add table inet cni_hostport".to_owned(),
        "add chain inet cni_hostport hostip_hostports".to_owned(),
        "add chain inet cni_hostport prerouting { type nat hook prerouting priority dstnat; }".to_owned(),
        "add chain inet cni_hostport output { type nat hook output priority -100; }".to_owned(),
        "add chain inet cni_hostport masquerading { type nat hook postrouting priority srcnat; }".to_owned(),
        "add rule inet cni_hostport prerouting fib daddr type local jump hostip_hostports".to_owned(),
        "add rule inet cni_hostport output fib daddr type local jump hostip_hostports".to_owned(),
        "add rule inet cni_hostport masquerading meta mark & 0x2000 == 0x2000 masquerade".to_owned(),
    ];
    for (host, proto, pod) in maps {
        let (proto, ip) = (proto.to_string().to_lowercase(), pod.ip());
        let matches = format!("ip daddr {host} {proto} dport {HOST_PORT}");
        for source in [format!("{ip}"), "127.0.0.1".to_owned()] {
            rules.push(format!(
                "add rule inet cni_hostport hostip_hostports ip saddr {source} {matches} meta mark set meta mark or 0x2000"
            ));
        }
        rules.push(format!("add rule inet cni_hostport hostip_hostports {matches} dnat ip to {pod}"));
    }
    node.run(&["nft", &rules.join("; ")]);
}

/// Ports of pods on the node are translated beside Services, whichever of the two was there first, and neither disturbs
/// the other.
/// Conformance: e2e/hostport validates that there is no conflict between pods with same hostPort...
#[test]
fn host_ports_are_served_beside_services() {
    const NODE_PORT: u16 = 30_098;
    let mut testbed = Testbed::new(PodNetwork::Routed, 3);
    let service = web().with_node_port(NODE_PORT, "Cluster");
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    testbed.start(&[]);
    wait(&testbed, NODE.port(NODE_PORT), Gets::Node);
    let loopback = Ipv4Addr::LOCALHOST;
    let pod = |number: usize, port| SocketAddr::new(testbed.pods[number - 1].address.v4.into(), port);
    let maps = [
        (loopback, Proto::Tcp, pod(1, 8081), "pod-1"),
        (NODE.v4, Proto::Tcp, pod(2, 8080), "pod-2"),
        (NODE.v4, Proto::Udp, pod(3, 8080), "pod-3"),
    ];
    let clients = [
        testbed.net.node_client(),
        testbed.net.outside_client(),
        testbed.pods[0].client(),
        testbed.pods[1].client(),
        testbed.pods[2].client(),
    ];
    // Everybody gets the pod of the port; loopback is the node's own.
    let host_ports = |expected: &dyn Fn(&'static str) -> Option<&'static str>| {
        for (host, proto, _, name) in maps {
            let askers = if host == loopback { &clients[..1] } else { &clients[..] };
            for client in askers {
                let to = SocketAddr::new(host.into(), HOST_PORT);
                let outcome = client.ask(proto, to);
                let got = outcome.result.as_ref().ok().map(|answer| answer.pod.as_str());
                assert_eq!(got, expected(name), "{} -> {proto} {to}: {outcome}", client.place);
            }
        }
    };
    let services = |testbed: &Testbed| {
        check(testbed, WEB.port(80), [Gets::Node, Gets::Own, Gets::Node, Gets::Node]);
        check(testbed, NODE.port(NODE_PORT), [Gets::Node; 4]);
    };
    host_ports(&|_| None);
    services(&testbed);
    map_host_ports(&testbed.net.node, &maps.map(|(host, proto, pod, _)| (host, proto, pod)));
    host_ports(&Some);
    services(&testbed);
    // What was there before a start is left alone, too.
    let rules = |testbed: &Testbed| testbed.net.node.sh("nft -a list table inet cni_hostport");
    let before = rules(&testbed);
    testbed.proxy().terminate();
    testbed.settings.cleanup(&testbed.net.node).unwrap_or_else(|error| panic!("{error}"));
    testbed.proxy().start_again();
    wait(&testbed, NODE.port(NODE_PORT), Gets::Node);
    host_ports(&Some);
    services(&testbed);
    assert_eq!(rules(&testbed), before);
}
