//! Single-stack services on a dual-stack node, the fallback to terminating endpoints, and Services that come, go and
//! change their type.

use std::collections::BTreeSet;

use e2e::{
    manifest::{Endpoint, Service, render_slice},
    net::{NODE, PodNetwork, cluster_ip},
    probe::Proto,
};

use testkit::wait_for;

use crate::{
    reach::{
        Gets::{Node, Own},
        check, wait, wait_all_refused, wait_no_answer,
    },
    testbed::{Testbed, WAIT_LIMIT, WEB, ask_all, assert_uncut, web},
};

/// Pods of two releases may give one port name different numbers, and have a slice for each then.
/// Conformance: e2e/service should support named targetPorts that resolve to different ports on different endpoints
#[test]
fn a_named_target_port_may_have_another_number_in_each_slice() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 3);
    let service = web();
    let (manifests, pods) = (testbed.manifests.clone(), [1, 2].map(|number| testbed.ready(number..=number)));
    let slices = |target: u16, number: usize| {
        let mut service = service.clone();
        for port in service.ports.iter_mut() {
            port.target = target;
        }
        ["v4", "v6"].map(|family| {
            render_slice(&service, &format!("{number}-{family}"), family == "v4", &pods[number - 1])
        })
    };
    let write = |renumbered: u16| {
        let slices = [slices(8080, 1), slices(renumbered, 2)].concat();
        manifests.write("slices.yaml", &slices.join("---\n"));
    };
    manifests.service(&service);
    write(8081);
    let answer = |testbed: &Testbed, port: &str| {
        let ports = testbed.ipvs().render();
        if !ports.contains(&format!("10.244.0.12:{port}")) {
            return Err(ports);
        }
        for (client, to) in testbed.clients().iter().flat_map(|client| WEB.port(80).map(|to| (client, to))) {
            let ask = || client.ask(Proto::Tcp, to).result.map(|answer| answer.pod).unwrap_or_default();
            let pods: BTreeSet<String> = (0..8).map(|_| ask()).collect();
            if pods != ["pod-1".to_owned(), "pod-2".to_owned()].into() {
                return Err(format!("{} -> {to}: {pods:?}", client.place));
            }
        }
        Ok(())
    };
    testbed.start(&[]);
    wait_for(WAIT_LIMIT, "both pods to answer", || answer(&testbed, "8081"));
    // A release that changes the number.
    write(8080);
    wait_for(WAIT_LIMIT, "both pods to answer at the new number", || answer(&testbed, "8080"));
}

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

/// Conformance: e2e/service should be able to up and down services
#[test]
fn services_come_and_go_while_others_answer() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 3);
    let [one, two, three] = [("one", 91), ("two", 92), ("three", 93)]
        .map(|(name, ip)| Service::new(name, cluster_ip(ip), &Proto::ALL));
    let at = [91, 92, 93].map(|ip| cluster_ip(ip).port(80));
    // The pods of the Services are theirs alone.
    let pods = |testbed: &Testbed, service: &Service| -> Vec<String> {
        testbed
            .clients()
            .iter()
            .flat_map(|client| ask_all(client, service))
            .map(|answer| answer.pod)
            .collect()
    };
    testbed.manifests.serve(&one, &testbed.ready(1..=1));
    testbed.manifests.serve(&two, &testbed.ready(2..=2));
    testbed.start(&[]);
    testbed.wait_served(&one, &testbed.ready(1..=1));
    testbed.wait_served(&two, &testbed.ready(2..=2));
    assert_eq!(pods(&testbed, &one), vec!["pod-1"; 8]);
    assert_eq!(pods(&testbed, &two), vec!["pod-2"; 8]);
    wait_no_answer(&testbed, &at[2]);
    testbed.manifests.forget(&one);
    wait_no_answer(&testbed, &at[0]);
    assert_eq!(pods(&testbed, &two), vec!["pod-2"; 8]);
    testbed.manifests.serve(&three, &testbed.ready(3..=3));
    testbed.wait_served(&three, &testbed.ready(3..=3));
    assert_eq!(pods(&testbed, &two), vec!["pod-2"; 8]);
    assert_eq!(pods(&testbed, &three), vec!["pod-3"; 8]);
    wait_no_answer(&testbed, &at[0]);
}

/// Created again, a Service has the addresses of its new object, be they the old ones or others.
/// Conformance: e2e/service should work after the service has been recreated
#[test]
fn a_service_that_is_deleted_and_created_again_is_served() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let [old, new] = [94, 95].map(|ip| Service::new("web", cluster_ip(ip), &Proto::ALL));
    let at_old = cluster_ip(94).port(80);
    let delete = |testbed: &Testbed| {
        testbed.manifests.forget(&old);
        wait_no_answer(testbed, &at_old);
    };
    let create = |testbed: &Testbed| {
        testbed.manifests.serve(&old, &testbed.ready(1..=1));
        testbed.wait_served(&old, &testbed.ready(1..=1));
        check(testbed, at_old, [Node, Own, Node, Node]);
    };
    testbed.start(&[]);
    create(&testbed);
    // Its connections last: it comes back while it still drains.
    let talk = testbed.talk(&at_old, 4);
    delete(&testbed);
    assert!(testbed.ipvs().get(Proto::Tcp, at_old[0]).is_some(), "it drains");
    create(&testbed);
    assert_uncut(&talk.stop());
    // Nothing is left of it when it comes back.
    delete(&testbed);
    testbed.wait_gone(&old);
    create(&testbed);
    // It comes back at another address.
    delete(&testbed);
    testbed.manifests.serve(&new, &testbed.ready(2..=2));
    testbed.wait_served(&new, &testbed.ready(2..=2));
    for client in testbed.clients() {
        assert!(ask_all(&client, &new).iter().all(|answer| answer.pod == "pod-2"), "{}", client.place);
    }
    wait_no_answer(&testbed, &at_old);
}

/// Conformance: e2e/service should be able to change the type from ExternalName to ClusterIP
/// Conformance: e2e/service should be able to change the type from ExternalName to NodePort
/// Conformance: e2e/service should be able to change the type from ClusterIP to ExternalName
/// Conformance: e2e/service should be able to change the type from NodePort to ExternalName
#[test]
fn external_names_become_services_and_services_external_names() {
    const PORT: u16 = 30_096;
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let cluster_ip_alone = Service::new("web", cluster_ip(96), &Proto::ALL);
    let node_port = cluster_ip_alone.clone().with_node_port(PORT, "Cluster");
    let become_external_name = |testbed: &Testbed| {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {namespace: default, name: web, uid: uid-web}\n\
                    spec: {type: ExternalName, externalName: web.example}\n";
        testbed.manifests.write("web.yaml", text);
    };
    become_external_name(&testbed);
    testbed.manifests.endpoints(&cluster_ip_alone, &testbed.ready(1..=1));
    let witness = Service::new("witness", cluster_ip(97), &[Proto::Tcp]);
    testbed.manifests.serve(&witness, &testbed.ready(2..=2));
    testbed.start(&[]);
    testbed.wait_served(&witness, &testbed.ready(2..=2));
    let (at_cluster_ip, at_node) = (cluster_ip(96).port(80), NODE.port(PORT));
    let nowhere = [at_cluster_ip, at_node].concat();
    wait_no_answer(&testbed, &nowhere);
    for service in [&cluster_ip_alone, &node_port] {
        testbed.manifests.service(service);
        testbed.wait_served(service, &testbed.ready(1..=1));
        check(&testbed, at_cluster_ip, [Node, Own, Node, Node]);
        if service.node_port.is_some() {
            wait(&testbed, at_node, Node);
            check(&testbed, at_node, [Node; 4]);
        } else {
            wait_all_refused(&testbed, at_node);
        }
        become_external_name(&testbed);
        wait_no_answer(&testbed, &nowhere);
        testbed.wait_gone(service);
    }
    ask_all(&testbed.net.outside_client(), &witness);
}
