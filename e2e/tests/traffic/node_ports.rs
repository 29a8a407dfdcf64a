//! Node ports: every kind of client, both policies, addresses that come and go, and what is none of ours.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use e2e::{
    manifest::Service,
    net::{Both, Client, NODE, OUTSIDE, PodNetwork},
    probe::{
        Proto, load,
        once::{self, Question},
        talk,
    },
};
use testkit::{NetNs, wait_for};

use crate::{
    reach::{
        Gets::{Node, Own, Refused},
        ask, check, check_local_policy, wait, wait_answer,
    },
    testbed::{Testbed, WAIT_LIMIT, WEB, web},
};

const PORT: u16 = 30080;

/// Counts packets that carry one of our marks where nobody else may see them.
fn watch_marks(node: &NetNs) {
    let chains = [
        ("output", "priority -450"),
        ("postrouting", "priority 90"),
        ("prerouting", "priority -450"),
        ("forward", "priority 0"),
    ];
    node.sh("nft add table inet watch");
    for (hook, priority) in chains {
        node.sh(&format!("nft add chain inet watch {hook} {{ type filter hook {hook} {priority}  ; }}"));
        node.sh(&format!("nft add rule inet watch {hook} meta mark & 0xffff0000 == 0x01b50000 counter"));
    }
}

#[track_caller]
fn assert_no_marks(node: &NetNs) {
    let seen = node.sh("nft list table inet watch");
    let clean = seen.lines().filter(|line| line.contains("counter")).all(|line| line.contains("packets 0 "));
    assert!(seen.contains("counter") && clean, "a mark is seen outside of IPVS:\n{seen}");
}

/// A node with pods, of which the first one serves a node port.
fn serving(network: PodNetwork, pods: u8) -> Testbed {
    let mut testbed = Testbed::new(network, pods);
    testbed.manifests.serve(&web().with_node_port(PORT, "Cluster"), &testbed.ready(1..=1));
    testbed.start(&[]);
    wait(&testbed, NODE.port(PORT), Node);
    testbed
}

/// Conformance: ipvs/proxier TestDismissLocalhostRuleExist
/// Conformance: e2e/service should be able to create a functioning NodePort service
/// Conformance: e2e/service should be able to update service type to NodePort...
/// Conformance: e2e/service should release NodePorts on delete
/// Conformance: e2e/service should support externalTrafficPolicy=Local for type=NodePort
/// Conformance: e2e/service should implement NodePort and HealthCheckNodePort correctly when...
/// Conformance: e2e/dual_stack should function for node-Service: http, udp (secondary family)
/// Conformance: e2e/networking should update nodePort: http, udp
/// Conformance: e2e/networking should support basic nodePort: udp functionality
#[test]
fn node_ports_serve_whom_their_policy_means() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    watch_marks(&testbed.net.node);
    let at = NODE.port(PORT);
    let cluster = web().with_node_port(PORT, "Cluster");
    let local = web().with_node_port(PORT, "Local");
    testbed.manifests.serve(&cluster, &testbed.ready(1..=1));
    testbed.start(&[]);
    testbed.wait_served(&cluster, &testbed.ready(1..=1));
    wait(&testbed, at, Node);
    check(&testbed, at, [Node, Node, Node, Node]);
    // The range of the cluster does not tell a pod of this node from others, which an endpoint of another node might
    // answer directly.
    check_local_policy(&testbed, at, &local, [Own, Node]);
    // Nobody has an endpoint.
    testbed.manifests.endpoints(&local, &[]);
    wait(&testbed, at, Refused);
    check(&testbed, at, [Refused; 4]);
    testbed.manifests.serve(&cluster, &testbed.ready(1..=1));
    wait(&testbed, at, Node);
    assert_no_marks(&testbed.net.node);
    // Ports of other addresses are none of the node's.
    let node = testbed.net.node_client();
    for to in WEB.port(PORT).into_iter().chain([SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT)]) {
        assert_eq!(ask(&node, Proto::Tcp, to), Ok(Refused), "{to}");
    }
    assert_eq!(ask(&testbed.net.outside_client(), Proto::Tcp, WEB.port(PORT)[0]), Ok(Refused));
    testbed.manifests.forget(&cluster);
    wait(&testbed, at, Refused);
    wait_for(WAIT_LIMIT, "everything of the node port to be gone", || {
        let servers = testbed.net.node.sh("ipvsadm -Sn");
        let maps = testbed.net.node.sh("nft list table inet kube-ipvs");
        let left = !servers.trim().is_empty() || maps.contains(&PORT.to_string());
        if left { Err(format!("{servers}{maps}")) } else { Ok(()) }
    });
}

#[test]
fn node_ports_follow_the_addresses_of_the_node() {
    let mut testbed = serving(PodNetwork::Bridge, 1);
    let servers = testbed.net.node.sh("ipvsadm -Sn");
    let outside = testbed.net.outside_client();
    let added: [IpAddr; 2] = ["192.168.50.99".parse().unwrap(), "fd00:50::99".parse().unwrap()];
    for addr in added {
        let (length, flags) = if addr.is_ipv4() { (24, "") } else { (64, "nodad") };
        testbed.net.node.sh(&format!("ip addr add {addr}/{length} dev eth0 {flags}"));
    }
    let began = Instant::now();
    for to in added.map(|addr| SocketAddr::new(addr, PORT)) {
        wait_for(WAIT_LIMIT, &format!("{to} to be served"), || match ask(&outside, Proto::Tcp, to)? {
            // The pod sees whichever address of the node leads to it.
            Node => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
    println!("served after {} ms", began.elapsed().as_millis());
    assert!(began.elapsed() < Duration::from_secs(1), "addresses are followed by notification");
    assert_eq!(testbed.net.node.sh("ipvsadm -Sn"), servers, "no write to IPVS");
    let elements = |node: &NetNs| node.sh("nft list set inet kube-ipvs node-addresses-v4");
    for addr in added {
        let length = if addr.is_ipv4() { 24 } else { 64 };
        testbed.net.node.sh(&format!("ip addr del {addr}/{length} dev eth0"));
    }
    let began = Instant::now();
    wait_for(WAIT_LIMIT, "the address to be forgotten", || {
        let elements = elements(&testbed.net.node);
        if elements.contains("192.168.50.99") { Err(elements) } else { Ok(()) }
    });
    assert!(began.elapsed() < Duration::from_secs(1), "after {} ms", began.elapsed().as_millis());
    assert_eq!(testbed.net.node.sh("ipvsadm -Sn"), servers, "no write to IPVS");
    // Only some addresses serve node ports, after a restart.
    testbed.start_with(&["--nodeport-addresses=10.0.0.0/8,fd00:50::/64"]);
    wait_for(WAIT_LIMIT, "the node port to be closed over IPv4", || {
        let gets = NODE.port(PORT).map(|to| ask(&outside, Proto::Tcp, to));
        if gets == [Ok(Refused), Ok(Node)] { Ok(()) } else { Err(format!("{gets:?}")) }
    });
}

/// Outcome for a client over UDP; port 0 is a new one each time.
fn ask_from(client: &Client, port: u16, to: SocketAddr) -> Result<String, String> {
    let from = Some(SocketAddr::new(client.own.like(to.ip()), port));
    let question = Question { proto: Proto::Udp, to, from, timeout: Duration::from_secs(2) };
    match client.namespace.enter(|| once::ask(&question)).result {
        Ok(answer) => Ok(answer.pod),
        Err(failure) if failure.is_refused() || failure.error == "EPERM" => Err("refused".to_owned()),
        Err(failure) => Err(failure.to_string()),
    }
}

/// Waits until every kind of client, which sends from this port, gets an answer or a refusal.
#[track_caller]
fn wait_over_udp(testbed: &Testbed, port: u16, at: &[SocketAddr], expected: Result<&str, &str>) {
    for (client, to) in testbed.clients().iter().flat_map(|client| at.iter().map(move |to| (client, *to))) {
        let what = format!("{} to get {expected:?} at {to}", client.place);
        wait_for(WAIT_LIMIT, &what, || match ask_from(client, port, to) {
            got if got.as_deref().map_err(String::as_str) == expected => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}

/// A node port over UDP moves: whoever used the old number is refused there, also from the port of earlier datagrams,
/// and all are served at the new one; at the addresses alone that are meant to have node ports.
/// Conformance: e2e/networking should update nodePort: http, udp
/// Conformance: e2e/service should release NodePorts on delete
#[test]
fn a_node_port_over_udp_moves() {
    const NEXT: u16 = PORT + 1;
    const KEPT: u16 = 5353;
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let [old, new] =
        [PORT, NEXT].map(|port| Service::new("dns", WEB, &[Proto::Udp]).with_node_port(port, "Cluster"));
    testbed.manifests.serve(&old, &testbed.ready(1..=1));
    testbed.start(&[]);
    let (at_old, at_new) = (NODE.port(PORT), NODE.port(NEXT));
    let (pod, refused) = (Ok("pod-1"), Err("refused"));
    wait_over_udp(&testbed, KEPT, &at_old, pod);
    wait_over_udp(&testbed, KEPT, &at_new, refused);
    for (service, [yes, no]) in [(&new, [at_new, at_old]), (&old, [at_old, at_new])] {
        testbed.manifests.service(service);
        wait_over_udp(&testbed, KEPT, &yes, pod);
        wait_over_udp(&testbed, KEPT, &no, refused);
    }
    for (flag, [yes, no]) in [
        ("--nodeport-addresses=10.0.0.0/8,fd00:50::/64", [1, 0]),
        ("--nodeport-addresses=192.168.50.0/24,fd00:99::/64", [0, 1]),
    ] {
        testbed.start_with(&[flag]);
        wait_over_udp(&testbed, 0, &[at_old[yes]], pod);
        wait_over_udp(&testbed, 0, &[at_old[no]], refused);
    }
    testbed.manifests.forget(&old);
    wait_over_udp(&testbed, 0, &at_old, refused);
}

/// A process of the node, or a masqueraded connection, may have a source port that is a node port, too.
#[test]
fn answers_to_the_node_are_its_own_whatever_their_port() {
    let testbed = serving(PodNetwork::Routed, 2);
    let _daemon = testbed.net.node_daemon("daemon", 9000);
    let node = testbed.net.node_client();
    // Straight to a pod that is no endpoint, with the node port as the source port.
    for (proto, to) in [Proto::Tcp, Proto::Udp]
        .into_iter()
        .flat_map(|proto| testbed.pods[1].address.port(8080).map(|to| (proto, to)))
    {
        for _ in 0..3 {
            let from = Some(SocketAddr::new(NODE.like(to.ip()), PORT));
            let question = e2e::probe::once::Question { proto, to, from, timeout: Duration::from_secs(5) };
            let outcome = node.namespace.enter(|| e2e::probe::once::ask(&question));
            let answer = outcome.result.as_ref().unwrap_or_else(|_| panic!("{proto} {to}: {outcome}"));
            assert_eq!(answer.pod, "pod-2");
            // TCP keeps the port for a minute after the end.
            if proto == Proto::Tcp {
                break;
            }
        }
    }
    // To the node port from the node itself, many times.
    let settings = load::Settings::new(&NODE.port(PORT), &NODE.each());
    let load = testbed.load_from(&node, &settings);
    load.let_pass(50);
    load.assert_clean();
}

/// The usual node ports: the first, and their number.
const NODE_PORTS: (u16, u16) = (30_000, 2_768);

/// Services with a node port at every number, TCP at even ones and UDP at odd ones, behind the first pod; each with as
/// many ports as a slice may have.
fn serve_all_node_ports(testbed: &Testbed) {
    let (first, count) = NODE_PORTS;
    let ports: Vec<_> = (first..first + count).collect();
    for (number, ports) in ports.chunks(100).enumerate() {
        let proto = |port| if port % 2 == 0 { "TCP" } else { "UDP" };
        let list = |line: &dyn Fn(u16) -> String| ports.iter().map(|port| line(*port)).collect::<String>();
        let of_service = list(&|port| {
            format!("\n  - {{name: p{port}, protocol: {}, port: {port}, nodePort: {port}}}", proto(port))
        });
        let of_slice = list(&|port| format!("\n- {{name: p{port}, protocol: {}, port: 8080}}", proto(port)));
        let (vip, pod) = (100 + number, testbed.pods[0].address.v4);
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{namespace: default, name: many-{number}}}\nspec:\n  type: NodePort\n  \
             clusterIP: 10.96.1.{vip}\n  clusterIPs: [10.96.1.{vip}]\n  ipFamilies: [IPv4]\n  ports:{of_service}\n---\n\
             apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{namespace: default, name: many-{number}-a, \
             labels: {{kubernetes.io/service-name: many-{number}}}}}\naddressType: IPv4\nports:{of_slice}\nendpoints:\n\
             - {{addresses: [{pod}], conditions: {{ready: true}}}}\n"
        );
        testbed.manifests.write(&format!("many-{number}.yaml"), &text);
    }
}

/// Processes of the node send from all the usual node ports, while all of them are node ports.
#[test]
fn ten_thousand_connections_from_ports_that_are_node_ports() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    serve_all_node_ports(&testbed);
    testbed.start(&[]);
    let (first, count) = NODE_PORTS;
    wait_for(WAIT_LIMIT, "the last node port to be served", || {
        let last = SocketAddr::new(NODE.v4.into(), first + count - 2);
        match ask(&testbed.net.outside_client(), Proto::Tcp, last)? {
            Node => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    assert_eq!(testbed.ipvs().marked.len(), usize::from(count));
    // Straight to pods, from every port, several times.
    let node = testbed.net.node_client();
    let targets: Vec<_> =
        testbed.pods.iter().map(|pod| SocketAddr::new(pod.address.v4.into(), 8080)).collect();
    let settings =
        load::Settings { ports: NODE_PORTS, rate: 400, ..load::Settings::new(&targets, &[NODE.v4.into()]) };
    let load = testbed.load_from(&node, &settings);
    load.let_pass(10_000);
    load.assert_clean();
    for port in (first..first + count).step_by(7) {
        let from = Some(SocketAddr::new(NODE.v4.into(), port));
        let (proto, to, timeout) = (Proto::Udp, targets[1], Duration::from_secs(5));
        let question = e2e::probe::once::Question { proto, to, from, timeout };
        let outcome = node.namespace.enter(|| e2e::probe::once::ask(&question));
        let pod = outcome.result.as_ref().map(|answer| answer.pod.as_str());
        assert_eq!(pod, Ok("pod-2"), "{port}: {outcome}");
    }
}

/// Clients that reuse their ports go on while the policy changes, and see the endpoints that it means.
/// Conformance: e2e/service should implement NodePort and HealthCheckNodePort correctly when...
#[test]
fn a_change_of_policy_fails_nobody_slow() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let [cluster, local] = ["Cluster", "Local"].map(|policy| web().with_node_port(PORT, policy));
    testbed.manifests.serve(&cluster, &testbed.ready(1..=2));
    testbed.start(&[]);
    wait(&testbed, NODE.port(PORT), Node);
    let load = testbed.load(&NODE.port(PORT));
    let talk = testbed.talk(&NODE.port(PORT), 8);
    for _ in 0..3 {
        for service in [&local, &cluster] {
            testbed.manifests.service(service);
            wait(&testbed, NODE.port(PORT), if service.external_policy == "Local" { Own } else { Node });
            load.let_pass(20);
        }
    }
    load.assert_clean();
    crate::testbed::assert_uncut(&talk.stop());
}

/// Somebody reloads the firewall while kube-ipvs is away: what it had is known by its number, and nobody is cut.
#[test]
fn a_ruleset_that_is_flushed_between_two_runs_leaves_no_virtual_server_behind() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    testbed.manifests.serve(&web().with_node_port(PORT, "Local"), &testbed.ready(1..=2));
    testbed.start(&[]);
    wait(&testbed, NODE.port(PORT), Own);
    let node = testbed.net.node.clone();
    let marked = || {
        let saved = node.sh("ipvsadm -Sn");
        let lines = saved.lines().filter(|line| line.starts_with("-A -f"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    let before = marked();
    assert!(before.len() >= 2, "{before:?}");
    let talk = testbed.talk(&NODE.port(PORT), 8);
    testbed.proxy().kill();
    node.sh("nft flush ruleset");
    testbed.manifests.endpoints(&web(), &testbed.ready(1..=1));
    testbed.proxy().start_again();
    wait(&testbed, NODE.port(PORT), Own);
    check(&testbed, NODE.port(PORT), [Node, Own, Node, Own]);
    assert_eq!(marked(), before);
    crate::testbed::assert_uncut(&talk.stop());
    testbed.manifests.forget(&web());
    wait_for(WAIT_LIMIT, "the virtual servers to go", || {
        let left = marked();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    });
}

/// A node port with affinity has a virtual server at each address, and with a Local policy one for clients outside. What
/// drains at the addresses takes nobody's address.
#[test]
fn clients_keep_their_address_beside_what_drains_at_the_same_port() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let [cluster, local] =
        ["Cluster", "Local"].map(|policy| web().with_node_port(PORT, policy).with_affinity(60));
    testbed.manifests.serve(&cluster, &testbed.ready(1..=1));
    testbed.start(&[]);
    wait(&testbed, NODE.port(PORT), Node);
    let talk = testbed.talk(&NODE.port(PORT), 8);
    testbed.manifests.service(&local);
    wait(&testbed, NODE.port(PORT), Own);
    check(&testbed, NODE.port(PORT), [Node, Own, Node, Own]);
    let drains = testbed.settings.drains(&testbed.net.node, &[]).unwrap_or_else(|error| panic!("{error}"));
    assert!(drains.contains("192.168.50.10:30080/TCP"), "{drains}");
    crate::testbed::assert_uncut(&talk.stop());
}

/// Node ports are served at an address as long as the node has it: its own processes reach the next owner, whatever
/// connections are left behind.
#[test]
fn an_address_that_moves_to_another_machine_takes_its_node_ports_along() {
    const FLOATING: Both =
        Both { v4: Ipv4Addr::new(192, 168, 50, 99), v6: Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 0x99) };
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let node = testbed.net.node.clone();
    let change = |verb: &str| {
        node.sh(&format!("ip addr {verb} {}/24 dev eth0", FLOATING.v4));
        node.sh(&format!("ip addr {verb} {}/64 dev eth0 nodad", FLOATING.v6));
    };
    let wait_answers = |client: &Client, name: &str| {
        for to in FLOATING.port(PORT) {
            wait_answer(client, Proto::Tcp, to, name);
        }
    };
    change("add");
    testbed.manifests.serve(&web().with_node_port(PORT, "Cluster").with_affinity(60), &testbed.ready(1..=1));
    testbed.start(&[]);
    wait_answers(&testbed.net.outside_client(), "pod-1");
    let talk = testbed.talk(&FLOATING.port(PORT), 8);
    change("del");
    let _owner = testbed.net.outside_daemon_at("owner", FLOATING, PORT);
    wait_answers(&testbed.net.node_client(), "owner");
    // The other addresses go on.
    wait(&testbed, NODE.port(PORT), Node);
    drop(talk.stop());
}

/// Programs that configure the network take addresses away and put them back. The kernel gives up what is masqueraded and
/// sends meanwhile (`nf_nat_oif_changed`), but nothing else is lost.
#[test]
fn a_short_absence_of_an_address_cuts_nobody() {
    let address = SocketAddr::new(Ipv4Addr::new(192, 168, 50, 99).into(), PORT);
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let node = testbed.net.node.clone();
    node.sh("ip addr add 192.168.50.99/24 dev eth0");
    testbed.manifests.serve(&web().with_node_port(PORT, "Cluster").with_affinity(60), &testbed.ready(1..=1));
    testbed.start(&[]);
    let outside = testbed.net.outside_client();
    let served = || match ask(&outside, Proto::Tcp, address)? {
        Node => Ok(()),
        other => Err(format!("{other:?}")),
    };
    wait_for(WAIT_LIMIT, "the address to be served", served);
    let pause = Duration::from_secs(8);
    let settings =
        talk::Settings { every: pause, ..talk::Settings::new(&[address], &[OUTSIDE.v4.into()], 8) };
    let began = Instant::now();
    let talk = testbed.talk_with(&settings);
    node.sh("ip addr del 192.168.50.99/24 dev eth0");
    wait_for(WAIT_LIMIT, "the drain", || {
        let drains = testbed.settings.drains(&node, &[]).unwrap_or_else(|error| panic!("{error}"));
        if drains.contains("address-left") { Ok(()) } else { Err(drains) }
    });
    node.sh("ip addr add 192.168.50.99/24 dev eth0");
    wait_for(WAIT_LIMIT, "the address to be served again", served);
    assert!(began.elapsed() < pause, "a message was sent meanwhile");
    std::thread::sleep(Duration::from_secs(14));
    let report = talk.stop();
    crate::testbed::assert_uncut(&report);
    assert!(report.messages >= 16, "{report:?}");
}

/// The number of a node port is the node port's at every address of the node, also at one that another Service has.
#[test]
fn a_node_port_has_its_number_at_an_external_ip_of_the_node_as_well() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let mut other = Service::new("other", e2e::net::cluster_ip(81), &[Proto::Tcp]);
    for port in &mut other.ports {
        port.port = PORT;
    }
    let other = other.with_external_ips(NODE, "Local");
    testbed.manifests.serve(&other, &[]);
    let service = web().with_node_port(PORT, "Cluster");
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    testbed.start(&[]);
    wait(&testbed, NODE.port(PORT), Node);
    check(&testbed, NODE.port(PORT), [Node; 4]);
    // The other Service has the port when the node port goes, and loses it when it comes back.
    testbed.manifests.service(&web());
    wait(&testbed, NODE.port(PORT), Refused);
    testbed.manifests.endpoints(&other, &testbed.ready(2..=2));
    wait(&testbed, NODE.port(PORT), Own);
    testbed.manifests.service(&service);
    wait(&testbed, NODE.port(PORT), Node);
    check(&testbed, NODE.port(PORT), [Node; 4]);
}

/// Somebody else's marks on packets that IPVS does not take, or that come from a process, are left alone.
#[test]
fn other_marks_are_left_alone() {
    let testbed = serving(PodNetwork::Routed, 1);
    let node = &testbed.net.node;
    node.sh("nft add table inet other");
    node.sh("nft add chain inet other input { type filter hook input priority 200 ; }");
    node.sh("nft add chain inet other first { type filter hook prerouting priority -150 ; }");
    node.sh("nft add rule inet other first tcp dport 9000 meta mark set 0x17");
    node.sh("nft add rule inet other input tcp dport 9000 meta mark != 0x17 counter");
    node.sh("nft add rule inet other input tcp dport 9000 meta mark 0x17 counter");
    let _daemon = testbed.net.node_daemon("daemon", 9000);
    let outside = testbed.net.outside_client();
    for to in NODE.port(9000) {
        let outcome = outside.ask(Proto::Tcp, to);
        assert!(outcome.result.is_ok(), "{to}: {outcome}");
    }
    let seen = node.sh("nft list chain inet other input");
    let counters: Vec<_> = seen.lines().filter(|line| line.contains("counter")).collect();
    assert!(counters[0].contains("packets 0 ") && !counters[1].contains("packets 0 "), "{seen}");
    assert_eq!(ask(&outside, Proto::Tcp, SocketAddr::new(OUTSIDE.v4.into(), PORT)), Ok(Refused));
}

/// Where each address has a virtual server, packets to node ports keep the marks of other programs, and addresses are
/// followed just the same.
#[test]
fn virtual_servers_by_address_leave_marks_alone() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let node = &testbed.net.node;
    node.sh("nft add table inet other");
    node.sh("nft add chain inet other first { type filter hook prerouting priority -150 ; }");
    node.sh("nft add chain inet other last { type filter hook postrouting priority 50 ; }");
    node.sh(&format!("nft add rule inet other first tcp dport {PORT} meta mark set 0x17"));
    node.sh("nft add rule inet other last tcp dport 8080 meta mark 0x17 counter");
    testbed.manifests.serve(&web().with_node_port(PORT, "Cluster"), &testbed.ready(1..=1));
    testbed.start(&["--node-port-servers=address"]);
    wait(&testbed, NODE.port(PORT), Node);
    check(&testbed, NODE.port(PORT), [Node, Node, Node, Node]);
    let seen = testbed.net.node.sh("nft list chain inet other last");
    assert!(!seen.contains("packets 0 "), "{seen}");
    assert!(testbed.ipvs().marked.is_empty(), "{}", testbed.net.node.sh("ipvsadm -Sn"));
    let outside = testbed.net.outside_client();
    let added = SocketAddr::new("192.168.50.99".parse().unwrap(), PORT);
    testbed.net.node.sh("ip addr add 192.168.50.99/24 dev eth0");
    wait_for(WAIT_LIMIT, "the address to be served", || match ask(&outside, Proto::Tcp, added)? {
        Node => Ok(()),
        other => Err(format!("{other:?}")),
    });
    testbed.net.node.sh("ip addr del 192.168.50.99/24 dev eth0");
    wait_for(WAIT_LIMIT, "its virtual server to be gone", || {
        let servers = testbed.net.node.sh("ipvsadm -Sn");
        if servers.contains("192.168.50.99") { Err(servers) } else { Ok(()) }
    });
    // The other way round after a restart: running connections stay, and new ones never fail.
    let load = testbed.load(&NODE.port(PORT));
    let talk = testbed.talk(&NODE.port(PORT), 8);
    for flags in [&[][..], &["--node-port-servers=address"]] {
        testbed.start_with(flags);
        testkit::wait_until(WAIT_LIMIT, "the other key to be used", || {
            testbed.ipvs().marked.values().any(|server| !server.serving().is_empty()) == flags.is_empty()
        });
        load.let_pass(20);
        // New connections are masqueraded by their own key, while those of the other one drain.
        check(&testbed, NODE.port(PORT), [Node, Node, Node, Node]);
    }
    load.assert_clean();
    crate::testbed::assert_uncut(&talk.stop());
}
