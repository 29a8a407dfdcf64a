//! Endpoints change under load, and no connection notices.

use std::time::{Duration, Instant};

use e2e::manifest::{Endpoint, Service};
use e2e::net::{OUTSIDE, Pod, PodNetwork, cluster_ip};
use e2e::probe::Proto;
use e2e::probe::load::Settings;
use e2e::proxy::CLUSTER_CIDRS;
use testkit::{wait_for, wait_until};

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
fn scaling_from_1_to_5_to_2_under_load_slow() {
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
fn a_rolling_update_under_load_slow() {
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

/// The failure that the defaults prevent, made on purpose: without it the test above would prove nothing.
#[test]
fn the_historical_failure_and_its_cure_slow() {
    let mut world = World::new(PodNetwork::Routed, 2);
    let service = service();
    world.manifests.serve(&service, &world.ready(1..=2));
    world.start(&[
        "--graceful-policy=all-connections",
        "--graceful-endpoint-gone=drain",
        "--conn-reuse-mode=0",
        "--ipvs-sync-period=1h",
    ]);
    world.wait_served(&service, &world.ready(1..=2));
    // As kube-proxy once left it: connections of a vanished real server stay.
    world.net.node.sh("sysctl -w net.ipv4.vs.expire_nodest_conn=0");
    let targets = cluster_ip(80).port(80);
    // A worker that waits long for a dead pod opens fewer connections.
    let impatient = Settings { timeout: Duration::from_secs(3), ..Settings::new(&targets, &OUTSIDE.each()) };
    let load = world.load_from(&world.net.outside_client(), &impatient);
    load.let_pass(BETWEEN);
    let mut endpoints = world.ready(1..=1);
    endpoints.push(Endpoint::terminating(&world.pods[1]));
    world.manifests.endpoints(&service, &endpoints);
    world.wait_served(&service, &world.ready(1..=1));
    std::thread::sleep(Duration::from_secs(1));
    let mut old = world.pods.remove(1);
    old.kill();
    old.disconnect();
    world.manifests.endpoints(&service, &world.ready(1..=1));
    load.let_pass(BETWEEN);
    let report = load.stop();
    println!("{report}");
    let unreachable: u64 = report
        .failures
        .iter()
        .filter(|(what, _)| what.contains("EHOSTUNREACH"))
        .map(|(_, count)| count)
        .sum();
    assert!(unreachable > 0, "source ports were not reused into the dead pod: this load proves nothing");
    // The defaults, by a restart: the dead real server may still count half-open connections, but gets no new ones.
    world.start_with(&[CLUSTER_CIDRS]);
    wait_until(SOON, "the parameters to be back", || {
        let parameters = ["conn_reuse_mode", "expire_nodest_conn"];
        let read = |name| world.net.node.sh(&format!("sysctl -n net.ipv4.vs.{name}"));
        parameters.map(read).iter().all(|value| value.trim() == "1")
    });
    let load = world.load(&cluster_ip(80).port(80));
    load.let_pass(BETWEEN);
    let report = load.stop();
    println!("{report}");
    // A half-open connection left by the failures costs the next one on its port its first SYN, by the kernel's rules.
    assert!(report.failed() == 0, "not healed");
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
fn an_endpoint_that_flaps_costs_nothing_slow() {
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
