//! Session affinity, several ports, several slices.

use std::{collections::BTreeSet, net::SocketAddr, thread, time::Duration};

use e2e::{
    manifest::{Port, Service, render_slice},
    net::{Client, NODE, PodNetwork, cluster_ip},
    probe::Proto,
};
use testkit::wait_for;

use crate::{
    reach::{Gets, wait},
    testbed::{BALANCER, Testbed, WAIT_LIMIT},
};

/// Pods that answer `count` connections in a row to both addresses, IPv4 and IPv6 apart.
#[track_caller]
fn pods(client: &Client, ip: u8, port: u16, count: usize) -> [BTreeSet<String>; 2] {
    pods_at(client, cluster_ip(ip).port(port), count)
}

#[track_caller]
fn pods_at(client: &Client, at: [SocketAddr; 2], count: usize) -> [BTreeSet<String>; 2] {
    at.map(|to| {
        let ask = |_| {
            let outcome = client.ask(Proto::Tcp, to);
            outcome.result.clone().unwrap_or_else(|_| panic!("{} -> {to}: {outcome}", client.place)).pod
        };
        (0..count).map(ask).collect()
    })
}

/// Conformance: e2e/service should have session affinity work for service with type clusterIP
/// Conformance: e2e/service should be able to switch session affinity for service with type clusterIP
/// Conformance: e2e/dual_stack should function for client IP based session affinity: http (secondary family)
/// Conformance: e2e/networking should function for client IP based session affinity: http
#[test]
fn one_client_stays_with_one_pod() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 3);
    let sticky = Service::new("sticky", cluster_ip(82), &[Proto::Tcp]).with_affinity(600);
    let plain = Service::new("plain", cluster_ip(83), &[Proto::Tcp]);
    for service in [&sticky, &plain] {
        testbed.manifests.serve(service, &testbed.ready(1..=3));
    }
    testbed.start(&[]);
    for service in [&sticky, &plain] {
        testbed.wait_served(service, &testbed.ready(1..=3));
    }
    assert_eq!(testbed.ipvs().get(Proto::Tcp, cluster_ip(82).port(80)[0]).unwrap().persistence, Some(600));
    for client in [testbed.net.outside_client(), testbed.pods[2].client(), testbed.net.node_client()] {
        for family in pods(&client, 82, 80, 12) {
            assert_eq!(family.len(), 1, "{} must stay with one pod: {family:?}", client.place);
        }
        for family in pods(&client, 83, 80, 12) {
            assert_eq!(family.len(), 3, "{} without affinity: {family:?}", client.place);
        }
    }
    // Affinity changes in place, and the real servers stay untouched.
    let unstuck = Service { spec: String::new(), ..sticky.clone() };
    testbed.manifests.service(&unstuck);
    testkit::wait_until(crate::testbed::WAIT_LIMIT, "affinity to be switched off", || {
        let ipvs = testbed.ipvs();
        cluster_ip(82)
            .port(80)
            .iter()
            .all(|vip| ipvs.get(Proto::Tcp, *vip).is_some_and(|vs| vs.persistence.is_none()))
    });
    testbed.wait_served(&unstuck, &testbed.ready(1..=3));
}

/// The same at node ports, each address of the node with a persistent virtual server, and under a Local policy, where
/// a packet mark selects a virtual server without a port, while the pods have another port than the Service. Two
/// clients may have one pod, but each keeps its own.
/// Conformance: e2e/service should have session affinity work for NodePort service
/// Conformance: e2e/loadbalancer should have session affinity work for LoadBalancer service with ESIPP on
#[test]
fn one_client_stays_with_one_pod_at_node_ports_and_under_a_local_policy() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 3);
    let sticky = |name, ip| Service::new(name, cluster_ip(ip), &[Proto::Tcp]).with_affinity(600);
    let cluster = sticky("cluster", 85).with_node_port(30085, "Cluster");
    let local = sticky("local", 86).with_node_port(30086, "Local");
    let plain = Service::new("plain", cluster_ip(87), &[Proto::Tcp]).with_node_port(30087, "Local");
    for service in [&cluster, &local, &plain] {
        testbed.manifests.serve(service, &testbed.ready(1..=3));
    }
    testbed.start(&[]);
    wait(&testbed, NODE.port(30085), Gets::Node);
    wait(&testbed, NODE.port(30086), Gets::Own);
    wait(&testbed, NODE.port(30087), Gets::Own);
    for client in [testbed.net.outside_client(), testbed.pods[2].client(), testbed.net.node_client()] {
        for port in [30085, 30086] {
            for family in pods_at(&client, NODE.port(port), 12) {
                assert_eq!(family.len(), 1, "{} must stay with one pod at {port}: {family:?}", client.place);
            }
        }
        for family in pods_at(&client, NODE.port(30087), 12) {
            assert_eq!(family.len(), 3, "{} without affinity: {family:?}", client.place);
        }
    }
    for at in NODE.port(30085) {
        assert_eq!(testbed.ipvs().get(Proto::Tcp, at).unwrap().persistence, Some(600), "{at}");
    }
}

/// A node port changes the key of its virtual server with its affinity: clients that reuse their ports notice nothing,
/// and nobody is cut.
/// Conformance: e2e/service should be able to switch session affinity for NodePort service
#[test]
fn switching_affinity_at_a_node_port_fails_nobody() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let plain = Service::new("web", cluster_ip(88), &[Proto::Tcp]).with_node_port(30088, "Cluster");
    let sticky = plain.clone().with_affinity(600);
    testbed.manifests.serve(&plain, &testbed.ready(1..=2));
    testbed.start(&[]);
    wait(&testbed, NODE.port(30088), Gets::Node);
    let load = testbed.load(&NODE.port(30088));
    let talk = testbed.talk(&NODE.port(30088), 8);
    for _ in 0..3 {
        for service in [&sticky, &plain] {
            testbed.manifests.service(service);
            let is_sticky = service.spec.contains("sessionAffinity");
            testkit::wait_until(crate::testbed::WAIT_LIMIT, "the affinity to be switched", || {
                let ipvs = testbed.ipvs();
                let serves = |at| ipvs.get(Proto::Tcp, at).is_some_and(|server| !server.serving().is_empty());
                NODE.port(30088).into_iter().all(|at| serves(at) == is_sticky)
            });
            load.let_pass(20);
        }
    }
    load.assert_clean();
    crate::testbed::assert_uncut(&talk.stop());
}

/// Affinity comes and goes with the object at every kind of address, and clients see it: they spread, they stick, and
/// they spread again, although the kernel still remembers where they stuck.
/// Conformance: e2e/service should be able to switch session affinity for service with type clusterIP
/// Conformance: e2e/service should be able to switch session affinity for NodePort service
/// Conformance: e2e/loadbalancer should be able to switch session affinity for LoadBalancer service
/// Conformance: e2e/loadbalancer should have session affinity work for LoadBalancer service with ESIPP off
#[test]
fn clients_spread_and_stick_as_affinity_is_switched() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 3);
    testbed.net.route_to_node(BALANCER);
    let plain = Service::new("web", cluster_ip(89), &[Proto::Tcp])
        .with_node_port(30089, "Cluster")
        .with_balancer(BALANCER, "Cluster", &[]);
    let sticky = plain.clone().with_affinity(10_800);
    testbed.manifests.serve(&plain, &testbed.ready(1..=2));
    testbed.start(&[]);
    let clients = [testbed.net.outside_client(), testbed.pods[2].client(), testbed.net.node_client()];
    let kinds = [cluster_ip(89).port(80), NODE.port(30089), BALANCER.port(80)];
    wait(&testbed, kinds[2], Gets::Node);
    for (service, expected) in [(&plain, 2), (&sticky, 1), (&plain, 2)] {
        testbed.manifests.service(service);
        for (client, at) in clients.iter().flat_map(|client| kinds.map(|at| (client, at))) {
            let what = format!("{} to get {expected} pods at {}", client.place, at[0]);
            wait_for(WAIT_LIMIT, &what, || {
                let families = pods_at(client, at, 8);
                let is_right = families.iter().all(|family| family.len() == expected);
                if is_right { Ok(()) } else { Err(format!("{families:?}")) }
            });
        }
    }
}

/// Seconds of an affinity.
const AFFINITY: u32 = 20;
/// Time for which the kernel knows a datagram's connection. It keeps an affinity alive; one of TCP does so for the two
/// minutes of TIME_WAIT.
const UDP_TIMEOUT: &str = "--ipvs-udp-timeout=5s";
/// Silence of a client within its affinity.
const SHORT_SILENCE: Duration = Duration::from_secs(8);
/// Silence of a client that ends its affinity: the kernel's timers are late by some seconds.
const LONG_SILENCE: Duration = Duration::from_secs(30);

/// An odd number of clients take turns at two pods, so that everybody moves who chooses again.
/// Conformance: e2e/service should have session affinity timeout work for service with type clusterIP
/// Conformance: e2e/service should have session affinity timeout work for NodePort service
#[test]
fn an_affinity_ends_with_its_timeout_slow() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 3);
    let service = Service::new("sticky", cluster_ip(90), &[Proto::Tcp, Proto::Udp])
        .with_affinity(AFFINITY)
        .with_node_port(30090, "Cluster");
    testbed.manifests.serve(&service, &testbed.ready(1..=2));
    testbed.start(&[UDP_TIMEOUT]);
    wait(&testbed, NODE.port(30090), Gets::Node);
    let clients = [testbed.net.outside_client(), testbed.pods[2].client(), testbed.net.node_client()];
    let addresses = [cluster_ip(90).port(80), NODE.port(30090)].concat();
    // The pod of each client at each address.
    let ask_all = || -> Vec<Vec<String>> {
        let ask = |client: &Client, to| {
            let outcome = client.ask(Proto::Udp, to);
            outcome.result.clone().unwrap_or_else(|_| panic!("{} -> {to}: {outcome}", client.place)).pod
        };
        addresses.iter().map(|to| clients.iter().map(|client| ask(client, *to)).collect()).collect()
    };
    let first = ask_all();
    println!("the pods of the clients: {first:?}");
    for pods in &first {
        assert_eq!(
            pods.iter().collect::<BTreeSet<_>>().len(),
            2,
            "clients must have different pods: {pods:?}"
        );
    }
    for _ in 0..15 {
        assert_eq!(ask_all(), first, "clients must stay within the timeout");
    }
    thread::sleep(SHORT_SILENCE);
    assert_eq!(ask_all(), first, "clients must stay after {SHORT_SILENCE:?}");
    thread::sleep(LONG_SILENCE);
    let second = ask_all();
    println!("after {LONG_SILENCE:?}: {second:?}");
    for ((to, before), after) in addresses.iter().zip(&first).zip(&second) {
        assert!(
            before.iter().zip(after).all(|(before, after)| before != after),
            "{to}: {before:?}, {after:?}"
        );
    }
    // And there they stay.
    for _ in 0..5 {
        assert_eq!(ask_all(), second, "clients must stay with their new pods");
    }
}

/// Conformance: e2e/service should serve multiport endpoints from pods
/// Conformance: e2e/endpointslice should support a Service with multiple ports...
/// Conformance: e2e/endpointslice should support a Service with multiple endpoint IPs...
#[test]
fn several_ports_and_slices_are_one_service() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 3);
    let port = |name: &str, port, target| Port { name: name.to_owned(), proto: Proto::Tcp, port, target };
    let service = Service::new("many", cluster_ip(84), &[])
        .with_ports(&[port("http", 80, 8080), port("alt", 81, 8081)]);
    testbed.manifests.service(&service);
    // There are three slices a family; the second pod stands in two of them, as it does while slices are
    // rebalanced.
    for (suffix, v4) in [("v4", true), ("v6", false)] {
        for (number, range) in [(1, 1..=1), (2, 2..=2), (3, 2..=3)] {
            let slice = render_slice(&service, &format!("{suffix}-{number}"), v4, &testbed.ready(range));
            testbed.manifests.write(&format!("many-{suffix}-{number}.yaml"), &slice);
        }
    }
    testbed.start(&[]);
    testbed.wait_served(&service, &testbed.ready(1..=3));
    let outside = testbed.net.outside_client();
    for port in [80, 81] {
        for family in pods(&outside, 84, port, 9) {
            assert_eq!(family.len(), 3, "port {port}: {family:?}");
        }
    }
    // One slice goes; its endpoints go with it except those that another slice still has.
    for suffix in ["v4", "v6"] {
        testbed.manifests.remove(&format!("many-{suffix}-3.yaml"));
    }
    testbed.wait_served(&service, &testbed.ready(1..=2));
}
