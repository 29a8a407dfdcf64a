//! Endpoints change under load, and no connection notices.

use std::time::Duration;

use e2e::manifest::{Endpoint, Service};
use e2e::net::{Pod, PodNetwork, cluster_ip};
use e2e::probe::Proto;
use e2e::probe::load::Load;
use testkit::wait_for;

use crate::world::{POD_PORTS, SOON, World, assert_clean, assert_uncut, let_pass};

/// Connections between two changes: enough for every source port of the load to come round.
const BETWEEN: u64 = 180;

fn service() -> Service {
    Service::new("web", cluster_ip(80), &[Proto::Tcp])
}

/// Wait until the real server is in no virtual server any more, drained or not.
fn wait_removed(world: &World, pods: &[Pod]) {
    wait_for(SOON, "drained real servers to be removed", || {
        let ipvs = world.ipvs();
        let mut real = ipvs.servers.values().flat_map(|server| server.real.keys());
        if real.any(|real| pods.iter().any(|pod| pod.address.contains(real.ip()))) {
            Err(ipvs.render())
        } else {
            Ok(())
        }
    });
}

/// Load from outside and from a pod, each to both families.
fn loads(world: &World) -> [Load; 2] {
    let targets = cluster_ip(80).port(80);
    let pod = &world.pods[0];
    let mut settings = e2e::probe::load::Settings::new(&targets, &pod.address.each());
    (settings.rate, settings.workers) = (10, 4);
    [world.load(&targets), pod.namespace.enter(|| Load::start(&settings))]
}

#[test]
fn scaling_from_1_to_5_to_2_under_load() {
    let mut world = World::new(PodNetwork::Routed, 5);
    let service = service();
    world.manifests.serve(&service, &world.ready(1..=1));
    world.start(&[]);
    world.wait_served(&service, &world.ready(1..=1));
    let loads = loads(&world);
    let talk = world.talk(&cluster_ip(80).port(80), 10);
    let_pass(&loads[0], BETWEEN);
    for last in 2..=5 {
        world.manifests.endpoints(&service, &world.ready(1..=last));
        world.wait_served(&service, &world.ready(1..=last));
        let_pass(&loads[0], 40);
    }
    let_pass(&loads[0], BETWEEN);
    // Three at once begin to terminate; they go on serving what they have until they are drained.
    let mut endpoints = world.ready(1..=2);
    endpoints.extend(world.pods[2..].iter().map(Endpoint::terminating));
    world.manifests.endpoints(&service, &endpoints);
    world.wait_served(&service, &world.ready(1..=2));
    wait_removed(&world, &world.pods[2..]);
    world.manifests.endpoints(&service, &world.ready(1..=2));
    world.pods.truncate(2);
    let_pass(&loads[0], BETWEEN);
    for load in loads {
        assert_clean(&load.stop());
    }
    assert_uncut(&talk.stop());
}

/// Every pod is replaced, as a Deployment does it, and the old one is killed a second or two after it turned
/// terminating, whatever the state of its drain.
#[test]
fn a_rolling_update_under_load() {
    let mut world = World::new(PodNetwork::Routed, 3);
    let service = service();
    world.manifests.serve(&service, &world.ready(1..=3));
    world.start(&[]);
    world.wait_served(&service, &world.ready(1..=3));
    let load = world.load(&cluster_ip(80).port(80));
    let_pass(&load, BETWEEN);
    for number in 1..=3 {
        let new = world.net.pod(&format!("new-{number}"), 20 + number, &POD_PORTS);
        let mut endpoints: Vec<_> = world.pods.iter().map(Endpoint::ready).collect();
        endpoints.push(Endpoint::ready(&new));
        world.manifests.endpoints(&service, &endpoints);
        world.wait_served(&service, &endpoints);
        // The oldest turns terminating; its process stops by itself a moment later.
        let mut old = world.pods.remove(0);
        world.pods.push(new);
        let ready: Vec<_> = world.pods.iter().map(Endpoint::ready).collect();
        let mut endpoints = ready.clone();
        endpoints.push(Endpoint::terminating(&old));
        world.manifests.endpoints(&service, &endpoints);
        std::thread::sleep(Duration::from_secs(u64::from(number)));
        old.kill();
        old.disconnect();
        world.manifests.endpoints(&service, &ready);
        wait_removed(&world, &[old]);
        let_pass(&load, 100);
    }
    let_pass(&load, BETWEEN);
    assert_clean(&load.stop());
}

/// An endpoint that flaps keeps its real server and its connections.
#[test]
fn an_endpoint_that_flaps_costs_nothing() {
    let mut world = World::new(PodNetwork::Routed, 2);
    let service = service();
    world.manifests.serve(&service, &world.ready(1..=2));
    world.start(&[]);
    world.wait_served(&service, &world.ready(1..=2));
    let load = world.load(&cluster_ip(80).port(80));
    let talk = world.talk(&cluster_ip(80).port(80), 10);
    for _ in 0..10 {
        for second in [Endpoint::unready(&world.pods[1]), Endpoint::ready(&world.pods[1])] {
            let serving = if second.ready { world.ready(1..=2) } else { world.ready(1..=1) };
            world.manifests.endpoints(&service, &[Endpoint::ready(&world.pods[0]), second]);
            world.wait_served(&service, &serving);
        }
        let_pass(&load, 20);
    }
    assert_clean(&load.stop());
    assert_uncut(&talk.stop());
}
