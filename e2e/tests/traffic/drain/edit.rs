//! A Service that is edited while its connections run: its policy counts at once, and whatever it no longer
//! has drains.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use e2e::{
    manifest::{Endpoint, Port, Service},
    net::{PodNetwork, cluster_ip},
    observe::Timeline,
    probe::{Proto, talk::Talk},
};

use super::{
    addresses, assert_within, conversations, go_on, real, wait_cut, wait_refused, wait_removed, wait_seen,
};
use crate::testbed::{Testbed, ask_all, assert_uncut};

const SECOND: Duration = Duration::from_secs(1);

/// Pause between two messages of a conversation.
const MESSAGE_PAUSE: Duration = Duration::from_millis(200);

/// The annotation counts also for real servers that drain already.
#[test]
fn a_policy_that_changes_during_a_drain_counts_at_once_slow() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let service = Service::new("web", cluster_ip(80), &[Proto::Tcp]).with_node_port(30_080, "Cluster");
    let ready = testbed.ready(1..=2);
    testbed.manifests.serve(&service, &ready);
    testbed.start(&[]);
    testbed.wait_served(&service, &ready);
    let timeline = Timeline::record(&testbed.net.node);
    let reals = real(&testbed.pods[1], &service);
    let talk = testbed.talk_with(&conversations(&addresses(&service), 20, MESSAGE_PAUSE));
    let cuttable = talk.progress().pods[&testbed.pods[1].name];
    let unready = Instant::now();
    testbed.manifests.endpoints(&service, &[ready[0].clone(), Endpoint::unready(&testbed.pods[1])]);
    wait_seen(unready, "weight 0", || timeline.quiesced(&reals, unready));
    go_on(&[&talk], unready);
    assert!(timeline.removed(&reals, unready).is_none(), "removed under its connections");
    assert!(talk.progress().cut.is_empty(), "cut before the policy changed");
    let edited = Instant::now();
    testbed.manifests.service(&service.with_annotation("kube-ipvs.io/graceful-policy", "immediate"));
    let gone = wait_removed(&timeline, &reals, edited);
    let (_, last) = wait_cut(&talk, cuttable, edited);
    println!(
        "immediate: gone {} ms after the edit, {cuttable} of 20 conversations reset within {} ms",
        gone.as_millis(),
        last.as_millis()
    );
    assert_within(SECOND, gone, "it stayed", &timeline, edited);
    assert_eq!(talk.stop().cut.len(), cuttable, "the other pod's conversations are not concerned");
}

/// A port is taken out of one Service, another one gets another address: new connections to the old ends are
/// refused, established ones go on until their clients are done.
/// Conformance: e2e/service should be updated after adding or deleting ports
#[test]
fn what_a_service_no_longer_has_drains_slow() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let ports = [
        Port::web(Proto::Tcp),
        Port { name: "more".to_owned(), port: 81, target: 8081, ..Port::web(Proto::Tcp) },
    ];
    let fewer = Service::new("fewer", cluster_ip(81), &[]).with_ports(&ports);
    let moved = Service::new("moved", cluster_ip(82), &[Proto::Tcp]);
    let pods = [testbed.ready(1..=1), testbed.ready(2..=2)];
    let both = |testbed: &Testbed, services: [&Service; 2]| {
        for (service, pods) in services.into_iter().zip(&pods) {
            testbed.manifests.serve(service, pods);
        }
    };
    both(&testbed, [&fewer, &moved]);
    testbed.start(&[]);
    testbed.wait_served(&fewer, &pods[0]);
    testbed.wait_served(&moved, &pods[1]);
    let old = [cluster_ip(81).port(81), cluster_ip(82).port(80)];
    let talks = old.map(|targets| testbed.talk_with(&conversations(&targets, 20, MESSAGE_PAUSE)));
    let edited = Instant::now();
    let after = [fewer.with_ports(&ports[..1]), moved.clone().with_ips(&cluster_ip(83).each())];
    both(&testbed, [&after[0], &after[1]]);
    for to in old.iter().flatten() {
        wait_refused(&testbed, *to);
    }
    println!("new connections refused {} ms after the edit", edited.elapsed().as_millis());
    for (service, pods) in after.iter().zip(&pods) {
        testbed.wait_served(service, pods);
        ask_all(&testbed.net.outside_client(), service);
    }
    go_on(&talks.each_ref(), edited);
    let quiet =
        |to: &SocketAddr| testbed.ipvs().get(Proto::Tcp, *to).is_some_and(|vs| vs.serving().is_empty());
    assert!(old.iter().flatten().all(quiet), "virtual servers that drain stay, and take nothing new");
    for report in &talks.map(Talk::stop) {
        assert_uncut(report);
    }
    // With the last connection the virtual servers go.
    testbed.wait_gone(&moved);
    let old_port = [IpAddr::from(cluster_ip(81).v4), cluster_ip(81).v6.into()];
    let gone =
        || old_port.iter().all(|ip| testbed.ipvs().get(Proto::Tcp, SocketAddr::new(*ip, 81)).is_none());
    testkit::wait_until(crate::testbed::WAIT_LIMIT, "the virtual servers of the port to be gone", gone);
    for service in &after {
        ask_all(&testbed.net.outside_client(), service);
    }
}
