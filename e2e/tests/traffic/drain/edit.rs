//! A Service that is edited while its connections run: its policy counts at once, what it no longer has drains.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use e2e::manifest::{Endpoint, Port, Service};
use e2e::net::{PodNetwork, cluster_ip};
use e2e::observe::Timeline;
use e2e::probe::Proto;
use e2e::probe::talk::Talk;

use super::{conversations, cut, go_on, real, removed, seen, wait_refused, within};
use crate::world::{World, ask_all, assert_uncut};

const SECOND: Duration = Duration::from_secs(1);

/// Pause between two messages of a conversation.
const TALKATIVE: Duration = Duration::from_millis(200);

/// The annotation counts for what drains already.
#[test]
fn a_policy_that_changes_during_a_drain_counts_at_once_slow() {
    let mut world = World::new(PodNetwork::Routed, 2);
    let service = Service::new("web", cluster_ip(80), &[Proto::Tcp]);
    let ready = world.ready(1..=2);
    world.manifests.serve(&service, &ready);
    world.start(&[]);
    world.wait_served(&service, &ready);
    let timeline = Timeline::record(&world.net.node);
    let reals = real(&world.pods[1], &service);
    let talk = world.talk_with(&conversations(&cluster_ip(80).port(80), 20, TALKATIVE));
    let cuttable = talk.progress().pods[&world.pods[1].name];
    let unready = Instant::now();
    world.manifests.endpoints(&service, &[ready[0].clone(), Endpoint::unready(&world.pods[1])]);
    seen(unready, "weight 0", || timeline.quiesced(&reals, unready));
    go_on(&[&talk], unready);
    assert!(timeline.removed(&reals, unready).is_none(), "removed under its connections");
    assert!(talk.progress().cut.is_empty(), "cut before the policy changed");
    let edited = Instant::now();
    world.manifests.service(&service.with_annotation("kube-ipvs.io/graceful-policy", "immediate"));
    let gone = removed(&timeline, &reals, edited);
    let (_, last) = cut(&talk, cuttable, edited);
    println!(
        "immediate: gone {} ms after the edit, {cuttable} of 20 conversations reset within {} ms",
        gone.as_millis(),
        last.as_millis()
    );
    within(SECOND, gone, "it stayed", (&timeline, edited));
    assert_eq!(talk.stop().cut.len(), cuttable, "the other pod's conversations are not concerned");
}

/// A port is taken out of one Service, another one gets another address: new connections to what was are refused,
/// established ones go on until their clients are done.
#[test]
fn what_a_service_no_longer_has_drains_slow() {
    let mut world = World::new(PodNetwork::Routed, 2);
    let ports = [
        Port::web(Proto::Tcp),
        Port { name: "more".to_owned(), port: 81, target: 8081, ..Port::web(Proto::Tcp) },
    ];
    let fewer = Service::new("fewer", cluster_ip(81), &[]).with_ports(&ports);
    let moved = Service::new("moved", cluster_ip(82), &[Proto::Tcp]);
    let pods = [world.ready(1..=1), world.ready(2..=2)];
    let both = |world: &World, services: [&Service; 2]| {
        services.into_iter().zip(&pods).for_each(|(service, pods)| world.manifests.serve(service, pods));
    };
    both(&world, [&fewer, &moved]);
    world.start(&[]);
    world.wait_served(&fewer, &pods[0]);
    world.wait_served(&moved, &pods[1]);
    let old = [cluster_ip(81).port(81), cluster_ip(82).port(80)];
    let talks = old.map(|targets| world.talk_with(&conversations(&targets, 20, TALKATIVE)));
    let edited = Instant::now();
    let after = [fewer.with_ports(&ports[..1]), moved.clone().with_ips(&cluster_ip(83).each())];
    both(&world, [&after[0], &after[1]]);
    old.iter().flatten().for_each(|to| wait_refused(&world, *to));
    println!("new connections refused {} ms after the edit", edited.elapsed().as_millis());
    for (service, pods) in after.iter().zip(&pods) {
        world.wait_served(service, pods);
        ask_all(&world.net.outside_client(), service);
    }
    go_on(&talks.each_ref(), edited);
    let quiet = |to: &SocketAddr| world.ipvs().get(Proto::Tcp, *to).is_some_and(|vs| vs.serving().is_empty());
    assert!(old.iter().flatten().all(quiet), "virtual servers that drain stay, and take nothing new");
    talks.map(Talk::stop).iter().for_each(assert_uncut);
    // With the last connection they go.
    world.wait_gone(&moved);
    let old_port = [IpAddr::from(cluster_ip(81).v4), cluster_ip(81).v6.into()];
    let gone = || old_port.iter().all(|ip| world.ipvs().get(Proto::Tcp, SocketAddr::new(*ip, 81)).is_none());
    testkit::wait_until(crate::world::SOON, "the virtual servers of the port to be gone", gone);
    after.iter().for_each(|service| {
        ask_all(&world.net.outside_client(), service);
    });
}
