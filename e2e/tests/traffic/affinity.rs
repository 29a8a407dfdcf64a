//! Session affinity, several ports, several slices.

use std::collections::BTreeSet;

use e2e::{
    manifest::{Port, Service, render_slice},
    net::{Client, PodNetwork, cluster_ip},
    probe::Proto,
};

use crate::testbed::Testbed;

/// Pods that answer `count` connections in a row to both addresses, IPv4 and IPv6 apart.
#[track_caller]
fn pods(client: &Client, ip: u8, port: u16, count: usize) -> [BTreeSet<String>; 2] {
    cluster_ip(ip).port(port).map(|to| {
        let ask = |_| {
            let outcome = client.ask(Proto::Tcp, to);
            outcome.result.clone().unwrap_or_else(|_| panic!("{} -> {to}: {outcome}", client.place)).pod
        };
        (0..count).map(ask).collect()
    })
}

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
