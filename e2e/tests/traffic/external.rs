//! External addresses: every kind of client, both policies, and the source address that the pod sees.

use e2e::{
    manifest::{Port, Service},
    net::{Both, Client, NODE, PodNetwork, cluster_ip},
    probe::Proto,
};
use testkit::wait_for;

use crate::{
    reach::{
        Gets::{Node, Nothing, Own, Refused},
        ask, check, check_local_policy, wait, wait_all_refused, wait_no_answer,
    },
    testbed::{BALANCER, EXTERNAL, Testbed, WAIT_LIMIT, WEB, web},
};

/// Conformance: e2e/service should be possible to connect to a service via ExternalIP...
/// Conformance: e2e/loadbalancer should target all nodes with endpoints
/// Conformance: e2e/loadbalancer should work from pods
#[test]
fn external_addresses_serve_whom_their_policy_means() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    testbed.net.route_to_node(EXTERNAL);
    let at = EXTERNAL.port(80);
    let cluster = web().with_external_ips(EXTERNAL, "Cluster");
    let local = web().with_external_ips(EXTERNAL, "Local");
    testbed.manifests.serve(&cluster, &testbed.ready(1..=1));
    testbed.start(&[]);
    testbed.wait_served(&cluster, &testbed.ready(1..=1));
    wait(&testbed, at, Node);
    check(&testbed, at, [Node, Own, Node, Node]);
    check_local_policy(&testbed, at, &local, [Own; 2]);
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

/// Checks that all clients get answers from this pod or daemon at port 80 of both addresses.
fn answered_by(clients: &[Client], at: Both, name: &str) -> Result<(), String> {
    for (client, to) in clients.iter().flat_map(|client| at.port(80).map(|to| (client, to))) {
        let outcome = client.ask(Proto::Tcp, to);
        let answer = outcome.result.as_ref().map_err(|_| format!("{} -> {to}: {outcome}", client.place))?;
        if answer.pod != name {
            return Err(format!("{} -> {to}: {} answers", client.place, answer.pod));
        }
    }
    Ok(())
}

/// Two Services ask for one address and port: the older one has it, and the other one when that goes.
#[test]
fn a_port_that_two_services_claim_goes_on_with_the_younger_one() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let manifests = testbed.manifests.clone();
    let claim = |name: &str, number, created: &str| {
        let service =
            Service::new(name, cluster_ip(number), &[Proto::Tcp]).with_external_ips(EXTERNAL, "Cluster");
        let created = format!("metadata:\n  creationTimestamp: {created}T00:00:00Z\n");
        manifests.write(&format!("{name}.yaml"), &service.render().replace("metadata:\n", &created));
        service
    };
    let (younger, older) = (claim("a", 81, "2026-01-02"), claim("b", 82, "2026-01-01"));
    testbed.manifests.endpoints(&younger, &testbed.ready(1..=1));
    testbed.manifests.endpoints(&older, &testbed.ready(2..=2));
    testbed.start(&[]);
    testbed.net.route_to_node(EXTERNAL);
    let answers = |name: &str| answered_by(&testbed.clients(), EXTERNAL, name);
    wait_for(WAIT_LIMIT, "the older one to be served", || answers("pod-2"));
    testbed.manifests.forget(&older);
    wait_for(WAIT_LIMIT, "the younger one to be served", || answers("pod-1"));
    claim("b", 82, "2026-01-01");
    testbed.manifests.endpoints(&older, &testbed.ready(2..=2));
    wait_for(WAIT_LIMIT, "the older one to be served again", || answers("pod-2"));
}

/// Where a load balancer is a proxy, clients of the cluster pass it, and nothing of the node takes its address. Which
/// kind it is, may change at run time.
#[test]
fn the_mode_of_ingress_addresses_changes_at_run_time() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let _balancer = testbed.net.outside_daemon_at("balancer", BALANCER, 80);
    let [vip, proxy] =
        ["VIP", "Proxy"].map(|mode| web().with_balancer(BALANCER, "Cluster", &[]).with_ip_mode(mode));
    testbed.manifests.serve(&proxy, &testbed.ready(1..=1));
    testbed.start(&[]);
    testbed.wait_served(&proxy, &testbed.ready(1..=1));
    let clients = [testbed.net.node_client(), testbed.pods[1].client()];
    let answers = |name: &str| answered_by(&clients, BALANCER, name);
    answers("balancer").expect("what is routed elsewhere is none of ours");
    for (service, name) in [(&vip, "pod-1"), (&proxy, "balancer"), (&vip, "pod-1"), (&proxy, "balancer")] {
        testbed.manifests.service(service);
        wait_for(WAIT_LIMIT, &format!("{name} to answer"), || answers(name));
    }
    let routes = testbed.local_routes();
    assert!(!BALANCER.each().iter().any(|ip| routes.contains(&ip.to_string())), "{routes}");
}

/// Over all transports, which the changes concern alike.
/// Conformance: e2e/loadbalancer should be able to change the type and ports of a TCP service
/// Conformance: e2e/loadbalancer should be able to change the type and ports of a UDP service
/// Conformance: e2e/networking should update nodePort: http, udp
#[test]
fn a_service_becomes_a_load_balancer_and_a_cluster_ip_again() {
    const FIRST: u16 = 30_092;
    const SECOND: u16 = 30_093;
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    testbed.net.route_to_node(BALANCER);
    let inner = [Node, Own, Node, Node];
    let with_port = |service: Service, port| {
        let ports = service.ports.iter().map(|old| Port { port, ..old.clone() }).collect();
        Service { ports, ..service }
    };
    testbed.manifests.serve(&web(), &testbed.ready(1..=1));
    testbed.start(&[]);
    testbed.wait_served(&web(), &testbed.ready(1..=1));
    check(&testbed, WEB.port(80), inner);
    wait_all_refused(&testbed, NODE.port(FIRST));
    wait_no_answer(&testbed, &BALANCER.port(80));

    let node_port = web().with_node_port(FIRST, "Cluster");
    testbed.manifests.service(&node_port);
    wait(&testbed, NODE.port(FIRST), Node);
    check(&testbed, NODE.port(FIRST), [Node; 4]);
    testbed.manifests.service(&web().with_node_port(SECOND, "Cluster"));
    wait(&testbed, NODE.port(SECOND), Node);
    check(&testbed, NODE.port(SECOND), [Node; 4]);
    wait_all_refused(&testbed, NODE.port(FIRST));

    let balancer = web().with_node_port(SECOND, "Cluster").with_balancer(BALANCER, "Cluster", &[]);
    testbed.manifests.service(&balancer);
    wait(&testbed, BALANCER.port(80), Node);
    check(&testbed, BALANCER.port(80), inner);
    let balancer = with_port(balancer, 81);
    testbed.manifests.service(&balancer);
    wait(&testbed, BALANCER.port(81), Node);
    check(&testbed, BALANCER.port(81), inner);
    check(&testbed, WEB.port(81), inner);
    check(&testbed, NODE.port(SECOND), [Node; 4]);
    wait_all_refused(&testbed, WEB.port(80));
    wait_no_answer(&testbed, &BALANCER.port(80));

    testbed.manifests.endpoints(&balancer, &[]);
    for at in [BALANCER.port(81), WEB.port(81), NODE.port(SECOND)] {
        wait_all_refused(&testbed, at);
    }
    testbed.manifests.endpoints(&balancer, &testbed.ready(1..=1));
    wait(&testbed, BALANCER.port(81), Node);
    check(&testbed, BALANCER.port(81), inner);

    testbed.manifests.service(&with_port(web(), 81));
    wait_all_refused(&testbed, NODE.port(SECOND));
    wait_no_answer(&testbed, &BALANCER.port(81));
    check(&testbed, WEB.port(81), inner);
}

/// Conformance: e2e/loadbalancer should be able to create LoadBalancer Service without NodePort and change it
#[test]
fn a_load_balancer_may_have_no_node_port_and_get_one() {
    const PORT: u16 = 30_094;
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    testbed.net.route_to_node(BALANCER);
    let mut without = web().with_balancer(BALANCER, "Cluster", &[]);
    without.spec += "  allocateLoadBalancerNodePorts: false\n";
    let with = web().with_node_port(PORT, "Cluster").with_balancer(BALANCER, "Cluster", &[]);
    testbed.manifests.serve(&without, &testbed.ready(1..=1));
    testbed.start(&[]);
    wait(&testbed, BALANCER.port(80), Node);
    for (service, gets) in [(&without, Refused), (&with, Node), (&without, Refused)] {
        testbed.manifests.service(service);
        wait(&testbed, NODE.port(PORT), gets);
        if gets == Refused {
            wait_all_refused(&testbed, NODE.port(PORT));
        } else {
            check(&testbed, NODE.port(PORT), [gets; 4]);
        }
        check(&testbed, BALANCER.port(80), [Node, Own, Node, Node]);
    }
}

/// Endpoints that have as many connections as they may have refuse others, until the limit is raised.
#[test]
fn no_endpoint_gets_more_connections_than_it_may_have() {
    let limit = |count: &str| web().with_annotation("kube-ipvs.io/max-connections", count);
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    testbed.manifests.serve(&limit("3"), &testbed.ready(1..=2));
    testbed.start(&[]);
    testbed.wait_served(&web(), &testbed.ready(1..=2));
    let [to, _] = WEB.port(80);
    let talk = testbed.talk(&[to], 6);
    assert_eq!(talk.progress().pods.values().copied().collect::<Vec<_>>(), [3, 3]);
    for _ in 0..3 {
        assert_eq!(ask(&testbed.net.outside_client(), Proto::Tcp, to), Ok(Refused));
    }
    testbed.manifests.service(&limit("100"));
    wait_for(WAIT_LIMIT, "the limit to be raised", || {
        match ask(&testbed.net.outside_client(), Proto::Tcp, to)? {
            Node => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    crate::testbed::assert_uncut(&talk.stop());
}

/// An ingress controller in the network of its node listens on the very address and port that its Service has.
/// Conformance: e2e/dual_stack should function for service endpoints using hostNetwork (secondary family)
/// Conformance: e2e/networking should function for service endpoints using hostNetwork
#[test]
fn an_endpoint_may_have_the_address_and_port_of_its_service() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 1);
    let port = Port { name: "http".to_owned(), proto: Proto::Tcp, port: 80, target: 80 };
    let service = |policy| web().with_ports(std::slice::from_ref(&port)).with_external_ips(NODE, policy);
    let _ingress = testbed.net.node_daemon("ingress", 80);
    let mut endpoints = testbed.ready(1..=1);
    endpoints[0].address = NODE;
    testbed.manifests.serve(&service("Cluster"), &endpoints);
    testbed.start(&[]);
    testbed.wait_served(&service("Cluster"), &endpoints);
    let check = |testbed: &Testbed| {
        let clients = [testbed.net.outside_client(), testbed.pods[0].client(), testbed.net.node_client()];
        for (client, to) in clients.iter().flat_map(|client| NODE.port(80).map(|to| (client, to))) {
            for _ in 0..4 {
                let outcome = client.ask(Proto::Tcp, to);
                let answer =
                    outcome.result.as_ref().unwrap_or_else(|_| panic!("{} -> {to}: {outcome}", client.place));
                assert_eq!(answer.pod, "ingress");
            }
        }
    };
    check(&testbed);
    testbed.manifests.service(&service("Local"));
    wait_for(WAIT_LIMIT, "the policy to hold", || {
        let servers = testbed.net.node.sh("ipvsadm -Sn");
        if servers.contains("-A -f") { Ok(()) } else { Err(servers) }
    });
    check(&testbed);
}

/// Clients of a load balancer outside of its source ranges get nothing, whether they are pods, processes of the node
/// or elsewhere, and however often the ranges are edited.
/// Conformance: ipvs/proxier TestLoadBalancerSourceRanges
/// Conformance: e2e/loadbalancer should only allow access from service loadbalancer source ranges
/// Conformance: e2e/service should serve endpoints on same port...Type LoadBalancer
#[test]
fn source_ranges_of_a_load_balancer_are_never_open_to_others() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    testbed.net.route_to_node(EXTERNAL);
    let at = EXTERNAL.port(80);
    let ranged = |ranges: &[&str]| web().with_balancer(EXTERNAL, "Cluster", ranges);
    // Another Service on the same address is not restricted.
    let other_port = Port { name: "other".to_owned(), port: 81, ..Port::web(Proto::Tcp) };
    let other = Service::new("other", cluster_ip(81), &[]).with_ports(&[other_port]);
    let other = other.with_balancer(EXTERNAL, "Cluster", &[]);
    testbed.manifests.serve(&other, &testbed.ready(1..=1));
    let only_outside = ["192.168.50.2/32", "fd00:50::2/128"];
    testbed.manifests.serve(&ranged(&only_outside), &testbed.ready(1..=1));
    testbed.start(&[]);
    wait(&testbed, at, Node);
    check(&testbed, at, [Nothing, Nothing, Nothing, Node]);
    check_other(&testbed);
    let only_pods = ["10.244.0.0/16", "fd00:244::/56", "198.51.100.0/24"];
    testbed.manifests.service(&ranged(&only_pods));
    wait(&testbed, at, Nothing);
    check(&testbed, at, [Nothing, Own, Node, Nothing]);
    // Edits between ranges that all leave the node and the client outside out, which ask all the time.
    let clients = [testbed.net.outside_client(), testbed.net.node_client()];
    let edits = std::thread::scope(|scope| {
        let testbed = &testbed;
        let edits = scope.spawn(move || {
            for round in 0..100_u8 {
                let narrow = format!("10.{}.0.0/16", 100 + round);
                let ranges: [&str; 2] =
                    if round % 2 == 0 { ["10.0.0.0/8", "fd00:244::/56"] } else { [&narrow, "fd00:244::/56"] };
                testbed.manifests.service(&ranged(&ranges));
                std::thread::sleep(std::time::Duration::from_millis(30));
            }
        });
        let mut asked = 0;
        while !edits.is_finished() {
            let (client, to) = (&clients[asked / 2 % 2], at[asked % 2]);
            let outcome = client.ask_within(std::time::Duration::from_millis(300), Proto::Tcp, to);
            assert!(outcome.result.is_err(), "{} was let in after {asked} attempts: {outcome}", client.place);
            asked += 1;
        }
        asked
    });
    println!("{edits} attempts during 100 edits");
    check_other(&testbed);
    // Everybody again.
    testbed.manifests.service(&ranged(&["0.0.0.0/0", "::/0"]));
    wait(&testbed, at, Node);
    check(&testbed, at, [Node, Own, Node, Node]);
    // The node by its own address.
    testbed.manifests.service(&ranged(&["192.168.50.10/32", "fd00:50::10/128"]));
    wait(&testbed, at, Nothing);
    check(&testbed, at, [Node, Nothing, Nothing, Nothing]);
    // Where the address is the node's, its processes call it from there.
    testbed.start_with(&["--load-balancer-ip-binding=address"]);
    wait_for(WAIT_LIMIT, "the address of kube-ipvs0", || {
        let addresses = testbed.net.node.sh("ip addr show dev kube-ipvs0");
        if addresses.contains(&EXTERNAL.v4.to_string()) { Ok(()) } else { Err(addresses) }
    });
    check(&testbed, at, [Node, Nothing, Nothing, Nothing]);
}

#[track_caller]
fn check_other(testbed: &Testbed) {
    for client in testbed.clients() {
        for to in EXTERNAL.port(81) {
            let gets = ask(&client, Proto::Tcp, to);
            assert!(matches!(gets, Ok(Node | Own)), "{} -> {to}: {gets:?}", client.place);
        }
    }
}
