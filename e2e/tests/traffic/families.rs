//! Single-stack services on a dual-stack node, and the fallback to terminating endpoints.

use e2e::{
    manifest::{Endpoint, Service},
    net::{PodNetwork, cluster_ip},
    probe::Proto,
};

use crate::testbed::{Testbed, ask_all};

/// Conformance: e2e/service should be able to up and down services
#[test]
fn single_stack_services_are_served_in_their_family_only() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let [v4, v6] = [85, 86].map(cluster_ip);
    let four = Service::new("four", v4, &Proto::ALL).with_ips(&v4.each()[..1]);
    let six = Service::new("six", v6, &Proto::ALL).with_ips(&v6.each()[1..]);
    for service in [&four, &six] {
        testbed.manifests.serve(service, &testbed.ready(1..=2));
    }
    testbed.start(&[]);
    for service in [&four, &six] {
        testbed.wait_served(service, &testbed.ready(1..=2));
        for client in testbed.clients() {
            ask_all(&client, service);
        }
    }
    let ipvs = testbed.ipvs();
    assert_eq!(ipvs.servers.len(), 6, "three transports of two addresses:\n{}", ipvs.render());
    // A living Service gets a second family.
    let both = Service::new("four", v4, &Proto::ALL);
    testbed.manifests.serve(&both, &testbed.ready(1..=2));
    testbed.wait_served(&both, &testbed.ready(1..=2));
    for client in testbed.clients() {
        ask_all(&client, &both);
    }
    // A whole Service goes.
    testbed.manifests.forget(&six);
    testbed.wait_gone(&six);
    for client in testbed.clients() {
        ask_all(&client, &both);
    }
}

/// Conformance: e2e/service should fallback to terminating endpoints...internalTrafficPolicy=Cluster
#[test]
fn terminating_endpoints_serve_while_nobody_else_does() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 3);
    let service = Service::new("web", cluster_ip(80), &[Proto::Tcp]);
    let [one, two, three] = [0, 1, 2].map(|index| &testbed.pods[index]);
    // Ready endpoints exist: the terminating one gets nothing new.
    let mixed = [Endpoint::ready(one), Endpoint::terminating(two)];
    // No endpoint is ready: the one that still serves is better than none; the one that does not serve is
    // not.
    let fallback = [Endpoint::terminating(one), Endpoint::terminating(two), Endpoint::unready(three)];
    // A ready endpoint comes back.
    let recovered = [Endpoint::terminating(one), Endpoint::terminating(two), Endpoint::ready(three)];
    testbed.manifests.serve(&service, &mixed);
    testbed.start(&[]);
    testbed.wait_served(&service, &testbed.ready(1..=1));
    testbed.manifests.endpoints(&service, &fallback);
    testbed.wait_served(&service, &testbed.ready(1..=2));
    let outside = testbed.net.outside_client();
    ask_all(&outside, &service);
    testbed.manifests.endpoints(&service, &recovered);
    testbed.wait_served(&service, &testbed.ready(3..=3));
    let answers = ask_all(&outside, &service);
    assert!(answers.iter().all(|answer| answer.pod == "pod-3"), "{answers:?}");
}
