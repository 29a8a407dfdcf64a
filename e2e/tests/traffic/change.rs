//! Endpoints change under load, and no connection notices.

use std::time::{Duration, Instant};

use e2e::manifest::{Endpoint, Service};
use e2e::net::{Pod, PodNetwork, cluster_ip};
use e2e::probe::Proto;
use e2e::probe::load::Settings;
use testkit::wait_for;

use crate::world::{Measured, POD_PORTS, SOON, World, assert_uncut};

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
fn loads(world: &World) -> [Measured; 2] {
    let targets = cluster_ip(80).port(80);
    let pod = world.pods[0].client();
    let mut settings = Settings::new(&targets, &pod.own.each());
    (settings.rate, settings.workers) = (10, 4);
    [world.load(&targets), world.load_from(&pod, &settings)]
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
    loads[0].let_pass(BETWEEN);
    for last in 2..=5 {
        world.manifests.endpoints(&service, &world.ready(1..=last));
        world.wait_served(&service, &world.ready(1..=last));
        loads[0].let_pass(40);
    }
    loads[0].let_pass(BETWEEN);
    // Three at once begin to terminate; they go on serving what they have until they are drained.
    let mut endpoints = world.ready(1..=2);
    endpoints.extend(world.pods[2..].iter().map(Endpoint::terminating));
    world.manifests.endpoints(&service, &endpoints);
    world.wait_served(&service, &world.ready(1..=2));
    wait_removed(&world, &world.pods[2..]);
    world.manifests.endpoints(&service, &world.ready(1..=2));
    world.pods.truncate(2);
    loads[0].let_pass(BETWEEN);
    for load in loads {
        load.assert_clean();
    }
    assert_uncut(&talk.stop());
}

/// Every pod is replaced, as a Deployment does it, and the old one is killed 1 to 3 s after it turned terminating,
/// whatever the state of its drain.
#[test]
fn a_rolling_update_under_load() {
    let mut world = World::new(PodNetwork::Routed, 3);
    let service = service();
    world.manifests.serve(&service, &world.ready(1..=3));
    world.start(&[]);
    world.wait_served(&service, &world.ready(1..=3));
    let load = world.load(&cluster_ip(80).port(80));
    load.let_pass(BETWEEN);
    for number in 1..=3 {
        let new = world.net.pod(&format!("new-{number}"), 20 + number, &POD_PORTS);
        let old = world.pods.remove(0);
        replace(&mut world, old, new, Duration::from_secs(number.into()));
        load.let_pass(100);
    }
    load.let_pass(BETWEEN);
    load.assert_clean();
}

fn replace(world: &mut World, mut old: Pod, new: Pod, grace: Duration) {
    let service = service();
    world.pods.push(new);
    let ready: Vec<_> = world.pods.iter().map(Endpoint::ready).collect();
    let with = |endpoint| ready.iter().cloned().chain([endpoint]).collect::<Vec<_>>();
    world.manifests.endpoints(&service, &with(Endpoint::ready(&old)));
    world.wait_served(&service, &with(Endpoint::ready(&old)));
    world.manifests.endpoints(&service, &with(Endpoint::terminating(&old)));
    let terminating = Instant::now();
    // A guest that needs longer than a pod's last second to run a process at all proves nothing.
    world.wait_served(&service, &ready);
    println!("{}: weight 0 within {} ms", old.name, terminating.elapsed().as_millis());
    std::thread::sleep(grace.saturating_sub(terminating.elapsed()));
    old.kill();
    old.disconnect();
    world.manifests.endpoints(&service, &ready);
    wait_removed(world, &[old]);
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
    for _ in 0..5 {
        for second in [Endpoint::unready(&world.pods[1]), Endpoint::ready(&world.pods[1])] {
            let serving = if second.ready { world.ready(1..=2) } else { world.ready(1..=1) };
            world.manifests.endpoints(&service, &[Endpoint::ready(&world.pods[0]), second]);
            world.wait_served(&service, &serving);
        }
        load.let_pass(20);
    }
    load.assert_clean();
    assert_uncut(&talk.stop());
}
