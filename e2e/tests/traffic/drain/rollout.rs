//! Short connections that reuse their source ports see nothing of a rolling update, nor of an endpoint that
//! flaps.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use e2e::{
    manifest::{Endpoint, Port, Service},
    net::{NODE, Pod, PodNetwork, cluster_ip},
    observe::Timeline,
    probe::Proto,
};

use super::{CONNECTIONS_PER_ROUND, assert_within, from_300_ports, real, wait_removed, wait_seen};
use crate::testbed::{BALANCER, EXTERNAL, Testbed, assert_uncut};

/// Time from turning terminating to the end of the process.
const KILLED_AFTER: Duration = Duration::from_secs(1);

/// Service number `number`, which has a port of its own in every pod.
fn service(number: u8) -> Service {
    let target = 8080 + u16::from(number);
    let port = Port { target, ..Port::web(Proto::Tcp) };
    Service::new(&format!("web-{number}"), cluster_ip(100 + number), &[]).with_ports(&[port])
}

const NODE_PORT: u16 = 30080;

/// Address of each Service; of both families if there is only one.
fn targets(services: &[Service]) -> Vec<SocketAddr> {
    match services {
        [only] => only.ips.iter().map(|ip| SocketAddr::new(*ip, 80)).collect(),
        all => all.iter().enumerate().map(|(at, service)| SocketAddr::new(service.ips[at % 2], 80)).collect(),
    }
}

/// Gives all Services the same endpoints.
fn publish(testbed: &Testbed, services: &[Service], endpoints: &[Endpoint]) {
    for service in services {
        testbed.manifests.endpoints(service, endpoints);
    }
}

fn roll(count: u8) {
    let services: Vec<_> = (0..count).map(service).collect();
    let targets = targets(&services);
    roll_out(&services, &targets);
}

/// The same with one Service that is reached by its node port, its external IPs and those of its load balancer.
fn roll_outside(policy: &'static str) {
    let service = service(0)
        .with_external_ips(EXTERNAL, policy)
        .with_balancer(BALANCER, policy, &[])
        .with_node_port(NODE_PORT, policy);
    let targets = [EXTERNAL.port(80), BALANCER.port(80), NODE.port(NODE_PORT)].concat();
    roll_out(&[service], &targets);
}

/// Replaces every pod, as a Deployment does, and kills the old one a second after it turned terminating,
/// whatever the state of its drain.
fn roll_out(services: &[Service], targets: &[SocketAddr]) {
    let ports: Vec<_> = services.iter().map(|service| service.ports[0].target).collect();
    let mut testbed = Testbed::new(PodNetwork::Routed, 0);
    for addresses in [EXTERNAL, BALANCER] {
        testbed.net.route_to_node(addresses);
    }
    testbed.pods =
        (1..=3).map(|number| testbed.net.pod(&format!("old-{number}"), 10 + number, &ports)).collect();
    let ready = testbed.ready(1..=3);
    for service in services {
        testbed.manifests.serve(service, &ready);
    }
    testbed.start(&[]);
    for service in services {
        testbed.wait_served(service, &ready);
    }
    let load = testbed.load_from(&testbed.net.outside_client(), &from_300_ports(targets));
    let timeline = Timeline::record(&testbed.net.node);
    load.let_pass(CONNECTIONS_PER_ROUND);
    for number in 1..=3 {
        let new = testbed.net.pod(&format!("new-{number}"), 20 + number, &ports);
        let old = testbed.pods.remove(0);
        replace(&mut testbed, &timeline, services, old, new);
    }
    load.let_pass(CONNECTIONS_PER_ROUND);
    load.assert_clean();
}

fn replace(testbed: &mut Testbed, timeline: &Timeline, services: &[Service], mut old: Pod, new: Pod) {
    let all = |pod: &Pod| services.iter().flat_map(|service| real(pod, service)).collect::<Vec<_>>();
    let (reals, coming) = (all(&old), all(&new));
    testbed.pods.push(new);
    let ready: Vec<_> = testbed.pods.iter().map(Endpoint::ready).collect();
    let with = |endpoint| ready.iter().cloned().chain([endpoint]).collect::<Vec<_>>();
    publish(testbed, services, &with(Endpoint::ready(&old)));
    let begin = Instant::now();
    for real in coming {
        wait_seen(begin, &format!("{real} to serve"), || timeline.serving(&[real], begin));
    }
    let terminating = Instant::now();
    publish(testbed, services, &with(Endpoint::terminating(&old)));
    // A guest that needs longer than the last second of a pod to run a process at all proves nothing.
    let quiet = wait_seen(terminating, "weight 0", || timeline.quiesced(&reals, terminating));
    assert_within(KILLED_AFTER, quiet, "new connections went there", timeline, terminating);
    std::thread::sleep(KILLED_AFTER.saturating_sub(terminating.elapsed()));
    let killed = terminating.elapsed();
    old.kill();
    old.disconnect();
    publish(testbed, services, &ready);
    let gone = wait_removed(timeline, &reals, terminating);
    println!(
        "{}: weight 0 {} ms after it turned terminating, killed after {} ms, its {} real servers gone after {} ms; \
         the slowest look took {} ms",
        old.name,
        quiet.as_millis(),
        killed.as_millis(),
        reals.len(),
        gone.as_millis(),
        timeline.slowest(terminating).as_millis()
    );
}

/// Conformance: e2e/pod_lifecycle should be able to have zero downtime...
#[test]
fn a_rolling_update_under_300_source_ports_slow() {
    roll(1);
}

/// Conformance: e2e/loadbalancer should not have connectivity disruption during rolling...Cluster
#[test]
fn a_rolling_update_as_clients_outside_see_it_slow() {
    roll_outside("Cluster");
}

/// Conformance: e2e/loadbalancer should not have connectivity disruption during rolling...Local
#[test]
fn a_rolling_update_under_a_local_policy_slow() {
    roll_outside("Local");
}

#[test]
fn rolling_updates_of_10_services_at_once_slow() {
    roll(10);
}

/// An endpoint that flaps keeps its real servers and its connections.
#[test]
fn an_endpoint_that_flaps_50_times_under_load_slow() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let service = service(0);
    let ready = testbed.ready(1..=2);
    testbed.manifests.serve(&service, &ready);
    testbed.start(&[]);
    testbed.wait_served(&service, &ready);
    let targets = cluster_ip(100).port(80);
    let load = testbed.load_from(&testbed.net.outside_client(), &from_300_ports(&targets));
    let talk = testbed.talk(&targets, 20);
    let timeline = Timeline::record(&testbed.net.node);
    let flapping = real(&testbed.pods[1], &service);
    for _ in 0..50 {
        let begin = Instant::now();
        testbed.manifests.endpoints(&service, &[ready[0].clone(), Endpoint::unready(&testbed.pods[1])]);
        wait_seen(begin, "weight 0", || timeline.quiesced(&flapping, begin));
        let begin = Instant::now();
        testbed.manifests.endpoints(&service, &ready);
        wait_seen(begin, "the weight back", || timeline.serving(&flapping, begin));
    }
    load.let_pass(20);
    load.assert_clean();
    assert_uncut(&talk.stop());
    assert_eq!(timeline.missed(&flapping), 0, "a real server was removed and added again");
}
