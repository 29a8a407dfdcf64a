//! Bindings of external addresses: who is served, whose the address is otherwise, and how a VIP moves.

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use e2e::{
    manifest::{Endpoint, Service},
    net::{Both, Client, NODE, PodNetwork, cluster_ip},
    observe::ipvs,
    probe::{
        Proto, Stage, download, load,
        once::{self, Question},
        server::DOWNLOAD_LINE,
        talk,
    },
};
use testkit::wait_for;

use crate::{
    drain::{go_on, wait_refused},
    health_checks,
    reach::{
        Gets::{Node, Nothing, Own, Refused},
        ask, check, check_local_policy, wait, wait_answer,
    },
    testbed::{BALANCER, EXTERNAL, Testbed, WAIT_LIMIT, WEB, assert_uncut, talk_from, web},
    udp::{Pace, Talker},
};

/// Addresses in the node's own subnet.
const NEIGHBOUR: Both =
    Both { v4: Ipv4Addr::new(192, 168, 50, 77), v6: Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 0x77) };
/// Lets Services choose the binding of such external IPs.
const LISTED: &str = "--external-ip-cidrs=192.0.2.0/24,2001:db8::/32";
/// Annotation that chooses the binding.
pub const BINDING: &str = "kube-ipvs.io/external-ip-binding";

/// A node with pods, of which the first one serves a Service, as soon as that is in the kernel.
fn serving(service: &Service, pods: u8, flags: &[&str]) -> Testbed {
    let mut testbed = Testbed::new(PodNetwork::Routed, pods);
    testbed.manifests.serve(service, &testbed.ready(1..=1));
    testbed.start(flags);
    testbed.wait_served(service, &testbed.ready(1..=1));
    testbed
}

/// Every binding serves everybody, under both policies.
#[test]
fn routes_and_addresses_serve_whom_the_policy_means() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    testbed.net.route_to_node(EXTERNAL);
    testbed.start(&[LISTED]);
    let at = EXTERNAL.port(80);
    for binding in ["route", "address"] {
        let service = |policy| web().with_external_ips(EXTERNAL, policy).with_annotation(BINDING, binding);
        testbed.manifests.serve(&service("Cluster"), &testbed.ready(1..=1));
        testbed.wait_served(&web(), &testbed.ready(1..=1));
        wait_for(WAIT_LIMIT, &format!("the binding {binding}"), || bound(&testbed, binding));
        wait(&testbed, at, Node);
        check(&testbed, at, [Node, Own, Node, Node]);
        check_local_policy(&testbed, at, &service("Local"), [Own; 2]);
    }
}

/// The way back of packets is looked at by every setting of the kernel that looks at it.
#[test]
fn steering_works_whatever_the_kernel_checks() {
    let testbed = serving(&web().with_external_ips(EXTERNAL, "Cluster"), 2, &[]);
    testbed.net.route_to_node(EXTERNAL);
    let at = EXTERNAL.port(80);
    wait(&testbed, at, Node);
    for (rp_filter, src_valid_mark) in [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)] {
        for link in ["all", "eth0"] {
            for (name, value) in [("rp_filter", rp_filter), ("src_valid_mark", src_valid_mark)] {
                testbed.net.node.sh(&format!("sysctl -qw net.ipv4.conf.{link}.{name}={value}"));
            }
        }
        println!("rp_filter={rp_filter} src_valid_mark={src_valid_mark}");
        check(&testbed, at, [Node, Own, Node, Node]);
    }
}

/// The external IP of a Service is the address of another machine: the Service's port is served, and all others are
/// that machine's, for everybody.
#[test]
fn a_steered_address_of_another_machine_stays_that_machines() {
    let service = web().with_external_ips(NEIGHBOUR, "Cluster");
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let _ssh = testbed.net.outside_daemon_at("neighbour", NEIGHBOUR, 22);
    let _web = testbed.net.outside_daemon_at("neighbour", NEIGHBOUR, 80);
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    testbed.start(&[]);
    testbed.wait_served(&service, &testbed.ready(1..=1));
    let inside = [testbed.net.node_client(), testbed.pods[1].client()];
    for (client, proto) in inside.iter().flat_map(|client| [(client, Proto::Tcp), (client, Proto::Udp)]) {
        for to in NEIGHBOUR.port(80) {
            wait_answer(client, proto, to, "pod-1");
        }
        for to in NEIGHBOUR.port(22) {
            let outcome = client.ask(proto, to);
            let answer =
                outcome.result.as_ref().unwrap_or_else(|_| panic!("{} {to}: {outcome}", client.place));
            assert_eq!(answer.pod, "neighbour", "{} over {proto}", client.place);
        }
    }
    // The machine itself reaches the node and the pods under that address.
    let _daemon = testbed.net.node_daemon("daemon", 9000);
    for to in NODE.port(9000).into_iter().chain(testbed.pods[1].address.port(8080)) {
        let outcome = ask_as_neighbour(&testbed, to);
        assert!(outcome.result.is_ok(), "{to}: {outcome}");
    }
    // Without the Service, all of it is the machine's.
    testbed.manifests.forget(&service);
    for (client, to) in inside.iter().flat_map(|client| NEIGHBOUR.port(80).map(|to| (client, to))) {
        wait_answer(client, Proto::Tcp, to, "neighbour");
    }
}

fn ask_as_neighbour(testbed: &Testbed, to: SocketAddr) -> once::Outcome {
    let from = Some(SocketAddr::new(NEIGHBOUR.like(to.ip()), 0));
    let question = Question { proto: Proto::Tcp, to, from, timeout: Duration::from_secs(2) };
    testbed.net.outside.enter(|| once::ask(&question))
}

/// A load balancer asks for the health of the node from the very address that it balances.
#[test]
fn a_probe_from_the_vip_is_answered_unless_the_vip_is_an_address_here() {
    let service = web().with_balancer(NEIGHBOUR, "Local", &[]).with_node_port(30080, "Local");
    let service = service.with_health_check(30100);
    let mut testbed = serving(&service, 1, &[]);
    let _balancer = testbed.net.outside_daemon_at("balancer", NEIGHBOUR, 22);
    let ports = || NODE.port(30080).into_iter().chain(NODE.port(30100));
    for binding in ["steer", "none"] {
        testbed.start_with(&[format!("--load-balancer-ip-binding={binding}").as_str()]);
        for to in ports() {
            wait_for(WAIT_LIMIT, &format!("{to} to be answered under {binding}"), || {
                let outcome = ask_as_neighbour(&testbed, to);
                // The health check is no server of the measurements: its answer counts whatever it is.
                match &outcome.result {
                    Err(failure) if failure.stage == Stage::Connect => Err(outcome.to_string()),
                    _ => Ok(()),
                }
            });
        }
    }
    testbed.start_with(&["--load-balancer-ip-binding=address"]);
    wait_for(WAIT_LIMIT, "the address to be bound", || {
        let addresses = testbed.net.node.sh("ip addr show dev kube-ipvs0");
        if addresses.contains(&NEIGHBOUR.v4.to_string()) { Ok(()) } else { Err(addresses) }
    });
    let outcome = ask_as_neighbour(&testbed, NODE.port(30080)[0]);
    assert!(outcome.result.is_err(), "the kernel drops what comes from an address of its own");
}

/// A neighbour that asks who has the address hears nothing from this node, whether the address is steered or routed to
/// it, and whether the neighbour has an address of its own yet. Only `address` makes it one of the node's.
#[test]
fn a_node_answers_no_arp_for_a_vip() {
    let service = web().with_balancer(NEIGHBOUR, "Cluster", &[]);
    let mut testbed = serving(&service, 1, &[]);
    testbed.net.outside.sh(&format!("ip addr add {ELSEWHERE}/24 dev eth0"));
    for binding in ["steer", "none", "route"] {
        testbed.start_with(&[format!("--load-balancer-ip-binding={binding}").as_str()]);
        wait_for(WAIT_LIMIT, &format!("the binding {binding}"), || {
            bound_each(&testbed, NEIGHBOUR, [binding; 2])
        });
        for vip in [NEIGHBOUR.v4, WEB.v4] {
            assert_eq!(arp_answers(&testbed, vip), [false; 3], "{vip} under {binding}");
        }
        for addr in NEIGHBOUR.each() {
            let failure = testbed.net.outside_client().ping(addr).map(drop);
            assert!(failure.is_err(), "{addr} answers under {binding}");
        }
    }
    assert_eq!(arp_answers(&testbed, NODE.v4), [true; 3], "the node's own address is answered for");
    testbed.start_with(&["--load-balancer-ip-binding=address"]);
    wait_for(WAIT_LIMIT, "the node to answer for the address", || {
        let answers = arp_answers(&testbed, NEIGHBOUR.v4);
        if answers == [true; 3] { Ok(()) } else { Err(format!("{answers:?}")) }
    });
}

/// Address of the machine outside in a network that the node is not on, though its link is.
const ELSEWHERE: &str = "198.51.100.9";

/// Answers that the machine outside gets about an address: when it looks for it from either of its networks, and when it
/// asks whether it may take it itself.
fn arp_answers(testbed: &Testbed, addr: Ipv4Addr) -> [bool; 3] {
    let asks = |options: &str| {
        let line = format!("busybox arping -q -c 1 -w 1 -I eth0 {options}{addr}");
        testbed.net.outside.try_run(&line.split(' ').collect::<Vec<_>>()).is_ok()
    };
    // With -D success means that nobody has the address.
    [asks("-f "), asks(&format!("-f -s {ELSEWHERE} ")), !asks("-D ")]
}

/// Traffic to a steered address that a load balancer in layer 2 mode announces from this node is served.
#[test]
fn an_address_that_somebody_announces_from_this_node_is_served() {
    let service = web().with_balancer(NEIGHBOUR, "Cluster", &[]);
    let testbed = serving(&service, 1, &[]);
    let link = testbed.net.node.sh("ip -o link show dev eth0");
    let mac = link.split("link/ether ").nth(1).and_then(|rest| rest.split(' ').next()).expect("an address");
    for addr in NEIGHBOUR.each() {
        testbed.net.outside.sh(&format!("ip neigh replace {addr} lladdr {mac} dev eth0 nud permanent"));
    }
    wait(&testbed, NEIGHBOUR.port(80), Node);
}

/// An endpoint whose own address is the external IP of another Service is an endpoint like any other: the connection goes
/// on after the endpoint's first answer.
#[test]
fn an_endpoint_may_have_the_address_of_another_vip() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 1);
    let _machine = testbed.net.outside_daemon_at("neighbour", NEIGHBOUR, 8080);
    let endpoint =
        Endpoint { pod: "neighbour".to_owned(), address: NEIGHBOUR, ..Endpoint::ready(&testbed.pods[0]) };
    let other = Service::new("other", cluster_ip(81), &[Proto::Tcp]).with_external_ips(NEIGHBOUR, "Cluster");
    testbed.manifests.serve(&web().with_external_ips(EXTERNAL, "Cluster"), std::slice::from_ref(&endpoint));
    testbed.manifests.serve(&other, &testbed.ready(1..=1));
    testbed.net.route_to_node(EXTERNAL);
    testbed.start(&[]);
    for to in EXTERNAL.port(80).into_iter().chain(WEB.port(80)) {
        for proto in [Proto::Tcp, Proto::Udp] {
            wait_answer(&testbed.pods[0].client(), proto, to, "neighbour");
            wait_answer(&testbed.net.node_client(), proto, to, "neighbour");
        }
    }
    for to in EXTERNAL.port(80) {
        wait_answer(&testbed.net.outside_client(), Proto::Tcp, to, "neighbour");
    }
}

/// Where somebody else has a steered address delivered to this node, as cloud agents and transparent proxies do, its
/// other ports are served by whoever listens.
#[test]
fn other_ports_of_a_steered_address_are_whose_they_are() {
    let testbed = serving(&web().with_external_ips(EXTERNAL, "Cluster"), 1, &[]);
    testbed.net.route_to_node(EXTERNAL);
    wait(&testbed, EXTERNAL.port(80), Node);
    for addr in EXTERNAL.each() {
        let family = if addr.is_ipv4() { "-4" } else { "-6" };
        testbed.net.node.sh(&format!("ip {family} route add local {addr} dev lo table local"));
    }
    let _daemon = testbed.net.node_daemon("daemon", 9000);
    let outside = testbed.net.outside_client();
    for to in EXTERNAL.port(9000) {
        wait_answer(&outside, Proto::Tcp, to, "daemon");
        let refused = outside.ask(Proto::Tcp, SocketAddr::new(to.ip(), 9001));
        assert!(refused.result.is_err(), "{to}: {refused}");
    }
    for to in EXTERNAL.port(80) {
        wait_answer(&outside, Proto::Tcp, to, "pod-1");
    }
}

/// A host that restores the marks of its connections in table mangle, as policy routing does, wipes none of ours, whether
/// its rule is older or younger.
#[test]
fn marks_that_others_restore_do_not_keep_packets_from_being_steered() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let restore = |testbed: &Testbed, table: &str| {
        let node = &testbed.net.node;
        node.run(&["nft", &format!("add table inet {table}")]);
        let chain = "{ type filter hook prerouting priority mangle; }";
        node.run(&["nft", &format!("add chain inet {table} prerouting {chain}")]);
        node.run(&["nft", &format!("add rule inet {table} prerouting meta mark set ct mark")]);
    };
    restore(&testbed, "older");
    let service = web().with_external_ips(EXTERNAL, "Cluster");
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    testbed.net.route_to_node(EXTERNAL);
    testbed.start(&[]);
    wait(&testbed, EXTERNAL.port(80), Node);
    testbed.net.node.run(&["nft", "delete table inet older"]);
    restore(&testbed, "younger");
    wait(&testbed, EXTERNAL.port(80), Node);
    check(&testbed, EXTERNAL.port(80), [Node, Own, Node, Node]);
}

/// Load and long connections pass while the binding changes, live and by restarts.
#[test]
fn a_vip_moves_between_bindings_without_a_failure_slow() {
    let service = || web().with_external_ips(EXTERNAL, "Cluster");
    let mut testbed = serving(&service(), 2, &[LISTED]);
    testbed.net.route_to_node(EXTERNAL);
    wait(&testbed, EXTERNAL.port(80), Node);
    let (load, talk) = (testbed.load(&EXTERNAL.port(80)), testbed.talk(&EXTERNAL.port(80), 8));
    for binding in ["route", "address", "steer", "address", "route", "steer"] {
        testbed.manifests.service(&service().with_annotation(BINDING, binding));
        wait_for(WAIT_LIMIT, &format!("the binding {binding}"), || bound(&testbed, binding));
        load.let_pass(15);
    }
    for binding in ["route", "steer"] {
        testbed.manifests.service(&service());
        testbed.start_with(&[format!("--external-ip-binding={binding}").as_str()]);
        wait_for(WAIT_LIMIT, &format!("the binding {binding}"), || bound(&testbed, binding));
        load.let_pass(15);
    }
    load.assert_clean();
    assert_uncut(&talk.stop());
    let plan = testbed.settings.plan(&testbed.net.node).unwrap_or_else(|error| panic!("{error}"));
    assert!(plan.contains("# 192.0.2.80: steer (--external-ip-binding)"), "{plan}");
    assert!(plan.contains("nothing to write"), "{plan}");
    testbed.proxy().terminate();
    testbed.settings.cleanup(&testbed.net.node).unwrap_or_else(|error| panic!("{error}"));
    for family in ["-4", "-6"] {
        let rules = testbed.net.node.sh(&format!("ip {family} rule"));
        assert!(!rules.contains("fwmark"), "{rules}");
    }
}

/// Checks that the external addresses are bound in this way and in no other.
fn bound(testbed: &Testbed, binding: &str) -> Result<(), String> {
    bound_each(testbed, EXTERNAL, [binding; 2])
}

/// The same for any addresses, where each family has a binding of its own.
fn bound_each(testbed: &Testbed, addresses: Both, bindings: [&str; 2]) -> Result<(), String> {
    let node = &testbed.net.node;
    let local = testbed.local_routes();
    let on_link = node.sh("ip addr show dev kube-ipvs0");
    let routes = ["-4", "-6"].map(|family| node.sh(&format!("ip {family} route show table all")));
    let steered = |line: &&str| line.contains("table 177");
    for (addr, binding) in addresses.each().into_iter().zip(bindings) {
        let of_ours = |line: &&str| line.contains(&format!("local {addr} ")) && line.contains("proto 177");
        let found = [
            ("steer", routes.iter().flat_map(|text| text.lines()).filter(steered).any(|line| of_ours(&line))),
            ("route", local.lines().any(|line| of_ours(&line))),
            ("address", on_link.contains(&format!(" {addr}/"))),
        ];
        let found: Vec<_> = found.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect();
        if found != [binding].into_iter().filter(|name| *name != "none").collect::<Vec<_>>() {
            return Err(format!("{addr}: {found:?}"));
        }
    }
    Ok(())
}

/// UDP clients that keep their port, a pod, and a process of the node go on while the binding changes from each to each
/// other; at an address that is left to routing for a while, they are served again afterwards.
#[test]
fn clients_of_all_kinds_go_on_while_a_vip_moves_slow() {
    let service = || web().with_external_ips(EXTERNAL, "Cluster");
    let testbed = serving(&service(), 2, &[LISTED]);
    testbed.net.route_to_node(EXTERNAL);
    wait(&testbed, EXTERNAL.port(80), Node);
    let move_to = |testbed: &Testbed, binding: &str| {
        testbed.manifests.service(&service().with_annotation(BINDING, binding));
        wait_for(WAIT_LIMIT, &format!("the binding {binding}"), || bound(testbed, binding));
    };
    let [node, pod, _, outside] = testbed.clients();
    let at = EXTERNAL.port(80);
    let loads = [&node, &pod].map(|client| {
        let settings = load::Settings::new(&at, &client.own.each());
        testbed.load_from(client, &load::Settings { rate: 15, workers: 4, ..settings })
    });
    let mut talkers: Vec<_> = [&node, &pod, &outside]
        .into_iter()
        .flat_map(|client| at.map(|to| Talker::start(client, 5001, to, Pace::STEADY)))
        .collect();
    for binding in ["route", "address", "steer", "address", "route", "steer"] {
        move_to(&testbed, binding);
        for load in &loads {
            load.let_pass(15);
        }
        for talker in &talkers {
            talker.let_pass(5);
        }
    }
    for load in loads {
        load.assert_clean();
    }
    for talker in &mut talkers {
        let seen = talker.stop();
        println!("{talker}");
        assert_eq!(seen.lost(), 0, "{talker}");
    }
    for binding in ["steer", "route", "address"] {
        move_to(&testbed, binding);
        wait(&testbed, EXTERNAL.port(80), Node);
        move_to(&testbed, "none");
        wait(&testbed, EXTERNAL.port(80), Nothing);
    }
}

/// An annotation may name a binding for one address, and another one for the rest.
#[test]
fn each_address_has_the_binding_that_its_annotation_gives_it() {
    let service = |value: &str| web().with_external_ips(EXTERNAL, "Cluster").with_annotation(BINDING, value);
    let mut testbed = serving(&web().with_external_ips(EXTERNAL, "Cluster"), 2, &[LISTED]);
    testbed.net.route_to_node(EXTERNAL);
    wait_for(WAIT_LIMIT, "the default binding", || bound(&testbed, "steer"));
    let Both { v4, v6 } = EXTERNAL;
    for (value, bindings) in [
        (format!("{v4}=route,{v6}=address"), ["route", "address"]),
        (format!("address,{v6}=route"), ["address", "route"]),
        (format!("{v4}=none,address"), ["none", "address"]),
        (format!("{v6}=none"), ["steer", "none"]),
    ] {
        println!("{value}");
        testbed.manifests.service(&service(&value));
        wait_for(WAIT_LIMIT, &format!("{bindings:?}"), || bound_each(&testbed, EXTERNAL, bindings));
        for (to, binding) in EXTERNAL.port(80).into_iter().zip(bindings) {
            wait(&testbed, [to; 2], if binding == "none" { Nothing } else { Node });
        }
        if !bindings.contains(&"none") {
            check(&testbed, EXTERNAL.port(80), [Node, Own, Node, Node]);
        }
    }
    // What is no binding is named, and counts as if it were not there.
    testbed.manifests.service(&service(&format!("{v4}=nowhere")));
    wait_for(WAIT_LIMIT, "the default binding", || bound(&testbed, "steer"));
    let named = testbed.proxy().log_lines(&["Service default/web", BINDING, "nowhere"]);
    assert!(!named.is_empty(), "{}", testbed.proxy().log());
}

/// A load balancer that sends its health checks to the address that it balances is answered, and learns whether the
/// node has an endpoint.
#[test]
fn health_checks_at_the_vip_are_answered_under_every_binding() {
    const HEALTH: u16 = 30_101;
    let service = web().with_balancer(BALANCER, "Local", &[]).with_health_check(HEALTH);
    let mut testbed = serving(&service, 1, &[]);
    testbed.net.route_to_node(BALANCER);
    let outside = testbed.net.outside.clone();
    let mut elsewhere = testbed.ready(1..=1);
    elsewhere[0].node = "another";
    for binding in ["steer", "route", "address"] {
        testbed.start_with(&[format!("--load-balancer-ip-binding={binding}").as_str()]);
        let what = format!("the binding {binding}");
        wait_for(WAIT_LIMIT, &what, || bound_each(&testbed, BALANCER, [binding; 2]));
        for (endpoints, status) in [(&elsewhere, "503"), (&testbed.ready(1..=1), "200")] {
            testbed.manifests.endpoints(&service, endpoints);
            for to in BALANCER.port(HEALTH) {
                health_checks::wait_answer(
                    &outside,
                    to,
                    "/",
                    &[&format!("HTTP/1.1 {status}"), "\"name\": \"web\""],
                );
            }
        }
    }
    // Nobody answers where nothing is bound.
    testbed.start_with(&["--load-balancer-ip-binding=none"]);
    for to in BALANCER.port(HEALTH) {
        wait_for(WAIT_LIMIT, "no answer", || health_checks::get(&outside, to, "/").map_or(Ok(()), Err));
    }
}

/// A rule of the routing policy that looks at the mark of steered packets may lead them elsewhere, so the log names it.
#[test]
fn a_rule_that_looks_at_the_steering_bit_is_named_at_the_start() {
    let mut testbed = serving(&web().with_external_ips(EXTERNAL, "Cluster"), 1, &[]);
    wait_for(WAIT_LIMIT, "the steering", || bound(&testbed, "steer"));
    let named = |testbed: &mut Testbed, parts: &[&str]| testbed.proxy().log_lines(parts).len();
    let advice = "--steer-mark-bit";
    for rule in ["fwmark 0x2000/0x3000 lookup 100", "from 192.0.2.1 lookup 100"] {
        testbed.net.node.sh(&format!("ip rule add {rule} pref 500"));
    }
    testbed.start_with(&[]);
    wait_for(WAIT_LIMIT, "the second start", || {
        match named(&mut testbed, &["adopted what the kernel holds"]) {
            2.. => Ok(()),
            starts => Err(starts),
        }
    });
    assert_eq!(named(&mut testbed, &[advice]), 0, "others are nobody's business: {}", testbed.proxy().log());
    testbed.net.node.sh("ip rule add fwmark 0x1000/0x1000 lookup 100 pref 501");
    testbed.net.node.sh("ip -6 rule add fwmark 0x3000/0x3000 lookup 100 pref 502");
    testbed.start_with(&[]);
    for rule in ["0x1000/0x1000", "0x3000/0x3000"] {
        wait_for(WAIT_LIMIT, "a warning", || match named(&mut testbed, &["WARN", rule, advice]) {
            1 => Ok(()),
            lines => Err(lines),
        });
    }
    // Another bit leaves the rules alone.
    testbed.start_with(&["--steer-mark-bit=11"]);
    wait_for(WAIT_LIMIT, "the other bit", || {
        let rules = testbed.net.node.sh("ip rule");
        if rules.contains("fwmark 0x800/0x800 lookup 177") { Ok(()) } else { Err(rules) }
    });
    testbed.net.route_to_node(EXTERNAL);
    wait(&testbed, EXTERNAL.port(80), Node);
    assert_eq!(named(&mut testbed, &[advice]), 2, "{}", testbed.proxy().log());
}

/// Pods reach the load balancer itself when nothing is bound any more, within a second, while those that are connected
/// stay with their pod. Whom source ranges kept out here, may ask there.
#[test]
fn connections_outlast_a_steered_address_that_is_given_up() {
    let service = || web().with_balancer(BALANCER, "Cluster", &["10.244.0.12/32", "fd00:244::12/128"]);
    let mut testbed = Testbed::new(PodNetwork::Routed, 3);
    let _balancer = testbed.net.outside_daemon_at("balancer", BALANCER, 80);
    testbed.manifests.serve(&service(), &testbed.ready(1..=1));
    testbed.start(&[]);
    let pod = testbed.pods[1].client();
    for to in BALANCER.port(80) {
        wait_answer(&pod, Proto::Tcp, to, "pod-1");
    }
    let settings = talk::Settings::new(&BALANCER.port(80), &pod.own.each(), 8);
    let talk = talk_from(&pod.namespace, &settings);
    let edited = Instant::now();
    testbed.manifests.service(&service().with_annotation(BINDING, "none"));
    for to in BALANCER.port(80) {
        wait_answer(&pod, Proto::Tcp, to, "balancer");
    }
    println!("reached {} ms after the edit", edited.elapsed().as_millis());
    for to in BALANCER.port(80) {
        wait_answer(&testbed.pods[2].client(), Proto::Tcp, to, "balancer");
    }
    go_on(&[&talk], edited);
    assert_uncut(&talk.stop());
}

/// Somebody empties the table of tracked connections while the last endpoint drains: IPVS knows its connections still,
/// and only packets that ask for a new one are refused.
#[test]
fn connections_outlast_the_table_of_tracked_connections_while_their_endpoint_drains() {
    let service = web().with_external_ips(EXTERNAL, "Cluster");
    let testbed = serving(&service, 2, &[]);
    testbed.net.route_to_node(EXTERNAL);
    let pod = testbed.pods[1].client();
    let at = EXTERNAL.port(80);
    for to in at {
        wait_answer(&pod, Proto::Tcp, to, "pod-1");
    }
    let settings = talk::Settings::new(&at, &pod.own.each(), 8);
    let talk = talk_from(&pod.namespace, &settings);
    testbed.manifests.endpoints(&service, &[]);
    for to in at {
        wait_refused(&testbed, to);
    }
    testbed.net.node.sh("conntrack -F");
    let emptied = Instant::now();
    go_on(&[&talk], emptied);
    assert_uncut(&talk.stop());
}

/// Clients get a refusal when the last endpoint goes, and a reset when their connection does.
#[test]
fn clients_of_a_steered_address_are_refused_and_reset() {
    let service = web().with_external_ips(EXTERNAL, "Cluster");
    let testbed = serving(&service, 1, &["--graceful-policy=immediate"]);
    testbed.net.route_to_node(EXTERNAL);
    let at = EXTERNAL.port(80);
    wait(&testbed, at, Node);
    let talk = testbed.talk(&at, 8);
    testbed.manifests.endpoints(&service, &[]);
    for to in at {
        wait_refused(&testbed, to);
    }
    wait_for(WAIT_LIMIT, "all conversations to be reset", || {
        let report = talk.progress();
        let resets = report.cut.iter().filter(|cut| cut.failure.error == "ECONNRESET").count();
        if resets == 8 { Ok(()) } else { Err(format!("{report:?}")) }
    });
    // Other ports are none of the Service's: routing leads there, to nobody.
    let gets = ask(&testbed.net.outside_client(), Proto::Tcp, SocketAddr::new(at[0].ip(), 81));
    assert!(matches!(gets, Ok(Nothing | Refused)), "{gets:?}");
    assert!(ipvs(&testbed.net.node).odd.is_empty());
}

/// An address outside of what the operator allows is not served; the rest of the Service is, and so is the address once
/// it is allowed.
#[test]
fn addresses_that_are_not_allowed_are_served_once_they_are() {
    let service = web().with_external_ips(EXTERNAL, "Cluster");
    let mut testbed = serving(&service, 1, &["--external-ip-cidrs=198.51.100.0/24,fd00:1::/64"]);
    testbed.net.route_to_node(EXTERNAL);
    wait(&testbed, EXTERNAL.port(80), Nothing);
    let named =
        testbed.proxy().log_lines(&["Service default/web", "spec.externalIPs", "--external-ip-cidrs"]);
    assert_eq!(named.len(), 2, "one line for each address: {named:?}");
    let allowed = EXTERNAL.each().map(|addr: IpAddr| addr.to_string()).join(",");
    testbed.start_with(&[format!("--external-ip-cidrs={allowed}").as_str()]);
    wait(&testbed, EXTERNAL.port(80), Node);
}

/// Bytes of a large transfer, in lines of a kilobyte.
const TRANSFER_LINES: u32 = 300;
/// More than some round trips, less than the first retransmission timeouts together.
const QUICKLY: Duration = Duration::from_secs(3);

/// Sends as much as a download has, then a question.
fn upload(client: &Client, to: SocketAddr) -> io::Result<String> {
    client.namespace.enter(|| {
        let mut stream = TcpStream::connect_timeout(&to, WAIT_LIMIT)?;
        stream.set_read_timeout(Some(WAIT_LIMIT))?;
        stream.set_write_timeout(Some(WAIT_LIMIT))?;
        let mut request = vec![b' '; TRANSFER_LINES as usize * DOWNLOAD_LINE];
        request.extend(b"short\n");
        stream.write_all(&request)?;
        io::read_to_string(stream)
    })
}

/// Where a link behind a steered address is small, or one on the way back, its MTU is found at once; but for packets over
/// IPv4 that the node forwards to the former (docs/limits.md).
#[test]
fn large_transfers_pass_small_links_behind_a_steered_address() {
    let service = web().with_external_ips(EXTERNAL, "Cluster");
    let testbed = serving(&service, 2, &[]);
    testbed.net.route_to_node(EXTERNAL);
    wait(&testbed, EXTERNAL.port(80), Node);
    let set_mtu = |link: &str, mtu: u16| testbed.net.node.sh(&format!("ip link set {link} mtu {mtu}"));
    let clients = [testbed.net.node_client(), testbed.pods[1].client(), testbed.net.outside_client()];
    let places = || clients.iter().flat_map(|client| EXTERNAL.port(80).map(|to| (client, to)));
    let check = |what: &str, took: Duration| {
        println!("{what}: {took:?}");
        assert!(took < QUICKLY, "{what}: {took:?}");
    };
    // The end of a link that has the small MTU takes nothing larger either, so that each is used in one direction.
    set_mtu("cali11", 1300);
    for (client, to) in places().filter(|(client, to)| to.is_ipv6() || client.own == NODE) {
        let what = format!("{} to {to}", client.place);
        let begin = Instant::now();
        let answer = upload(client, to).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert!(answer.starts_with("pod=pod-1 "), "{what}: {answer:?}");
        check(&what, begin.elapsed());
    }
    set_mtu("cali11", 1500);
    for link in ["eth0", "cali12"] {
        set_mtu(link, 1300);
    }
    for (client, to) in places() {
        let what = format!("{to} to {}", client.place);
        let settings =
            download::Settings { to, lines: TRANSFER_LINES, pause: Duration::ZERO, timeout: WAIT_LIMIT };
        let report = client.namespace.enter(|| download::half_close(&settings));
        assert!(report.is_complete(), "{what}: {report:?}");
        check(&what, report.took);
    }
}

/// An address that the node gets, as from keepalived, is the node's own at once; when the node loses it, it is steered
/// again. Neither touches other Services.
#[test]
fn an_external_address_that_comes_to_the_node_and_goes_is_served_throughout() {
    let service = || web().with_external_ips(EXTERNAL, "Cluster");
    let testbed = serving(&service(), 2, &[LISTED]);
    let other = Service::new("other", cluster_ip(77), &[Proto::Tcp]);
    testbed.manifests.serve(&other, &testbed.ready(2..=2));
    testbed.wait_served(&other, &testbed.ready(2..=2));
    testbed.net.route_to_node(EXTERNAL);
    wait(&testbed, EXTERNAL.port(80), Node);
    let _daemon = testbed.net.node_daemon_at(
        "ssh",
        EXTERNAL.each().map(|addr| match addr {
            IpAddr::V4(_) => "0.0.0.0:22".to_owned(),
            IpAddr::V6(_) => "[::]:22".to_owned(),
        }),
    );
    let load = testbed.load(&cluster_ip(77).port(80));
    for _ in 0..2 {
        for addr in EXTERNAL.each() {
            let flags = if addr.is_ipv4() { "" } else { "nodad" };
            testbed.net.node.sh(&format!("ip addr add {addr} dev eth0 {flags}"));
        }
        // Without the ports of known connections, which go on as they are.
        let steered = || {
            let sets = ["v4", "v6"]
                .map(|family| testbed.net.node.sh(&format!("nft list set inet kube-ipvs steered-{family}")));
            sets.concat().matches(" . tcp . 80").count()
        };
        wait_for(WAIT_LIMIT, "no steering", || if steered() == 0 { Ok(()) } else { Err(steered()) });
        check(&testbed, EXTERNAL.port(80), [Node; 4]);
        let outside = testbed.net.outside_client();
        for to in EXTERNAL.port(22) {
            wait_answer(&outside, Proto::Tcp, to, "ssh");
        }
        for addr in EXTERNAL.each() {
            testbed.net.node.sh(&format!("ip addr del {addr} dev eth0"));
        }
        wait_for(WAIT_LIMIT, "steering", || if steered() == 2 { Ok(()) } else { Err(steered()) });
        check(&testbed, EXTERNAL.port(80), [Node, Own, Node, Node]);
    }
    load.assert_clean();
}

/// A link that gets another name, as by udev at the start of a node, keeps its addresses, and so do node ports and VIPs.
#[test]
fn a_link_with_a_new_name_changes_nothing_for_clients() {
    let service = web().with_external_ips(EXTERNAL, "Cluster").with_node_port(30080, "Cluster");
    let testbed =
        serving(&service, 2, &["--nodeport-addresses=primary", &format!("--bind-address={}", NODE.v4)]);
    testbed.net.route_to_node(EXTERNAL);
    wait(&testbed, EXTERNAL.port(80), Node);
    let servers = testbed.net.node.sh("ipvsadm -Sn");
    for command in [
        "ip link set eth0 down",
        "ip link set eth0 name ens5",
        "ip link set ens5 up",
        // The kernel keeps those of IPv4 alone.
        &format!("ip address replace {}/64 dev ens5 nodad", NODE.v6),
        "ip address replace fe80::10/64 dev ens5 nodad",
        "ip route replace default via 192.168.50.2",
        "ip route replace default via fd00:50::2",
    ] {
        testbed.net.node.sh(command);
    }
    for at in [EXTERNAL.port(80), WEB.port(80)] {
        wait(&testbed, at, Node);
        check(&testbed, at, [Node, Own, Node, Node]);
    }
    let outside = testbed.net.outside_client();
    wait_answer(&outside, Proto::Tcp, NODE.port(30080)[0], "pod-1");
    assert_eq!(testbed.net.node.sh("ipvsadm -Sn"), servers, "no write to IPVS");
}
