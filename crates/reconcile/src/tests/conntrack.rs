//! Tracked connections: which are deleted, when, and what it costs.

use std::net::SocketAddr;

use dataplane::{ErrorKind, Touched, contract::conntrack::Flow};
use lb_types::{ConntrackFilter, IpvsOp};

use super::*;

const DNS: &str = "10.96.9.9";
const SOON: Duration = Duration::from_secs(2);

fn dns_vs() -> VirtualServerId {
    vs(DNS, Protocol::Udp)
}

fn endpoints(addrs: &[&str]) -> ModelEvent {
    let endpoints: Vec<_> = addrs.iter().map(|addr| (*addr, Is::Ready)).collect();
    slice("dns", Protocol::Udp, &endpoints)
}

fn dns(addrs: &[&str]) -> [ModelEvent; 2] {
    [applied(udp(service("dns", DNS))), endpoints(addrs)]
}

fn flow(client: u16, to: &str, server: (&str, u16)) -> Flow {
    Flow {
        protocol: Protocol::Udp,
        client: SocketAddr::new(ip("192.0.2.7"), client),
        to: SocketAddr::new(ip(to), 80),
        server: SocketAddr::new(ip(server.0), server.1),
    }
}

/// A client that has sent before anybody served.
fn early(client: u16) -> Flow {
    flow(client, DNS, (DNS, 80))
}

fn to_pod(client: u16, pod: &str) -> Flow {
    flow(client, DNS, (pod, 8080))
}

fn add(world: &World, flows: &[Flow]) {
    for flow in flows {
        world.kernel.conntrack.add(*flow);
    }
}

fn filters(world: &World) -> Vec<String> {
    world.kernel.conntrack.take_filters().iter().map(ToString::to_string).collect()
}

const NO_REAL_SERVER: &str = "tracked connections of 10.96.9.9:80/UDP to no real server";

fn of_real_server(last: u8) -> String {
    format!("tracked connections of 10.96.9.9:80/UDP to real server 10.244.0.{last}:8080")
}

#[test]
fn flows_go_with_their_real_server_and_no_other() {
    let mut world = World::synced(dns(&["10.244.0.11", "10.244.0.12"]));
    world.pass(SOON);
    filters(&world);
    let others = [to_pod(2, "10.244.0.12"), flow(3, "10.96.1.1", ("10.244.0.11", 8080)), early(4)];
    add(&world, &others);
    add(&world, &[to_pod(1, "10.244.0.11")]);
    let report = world.sync(endpoints(&["10.244.0.12"]));
    assert_eq!((report.written, report.failed, report.flows), (1, 0, 1), "in the step that removes it");
    assert_eq!(report.walked, [(IpFamily::V4, 1)].into());
    assert_eq!(filters(&world), [of_real_server(11)]);
    assert_eq!(world.kernel.conntrack.flows(), others.into());
    assert!(report.to_string().contains("1 tracked connections deleted"), "{report}");
}

#[test]
fn clients_that_sent_before_the_first_endpoint_are_freed_in_the_same_step() {
    let mut world = World::synced(dns(&[]));
    world.pass(SOON);
    assert_eq!(world.kernel.conntrack.calls(), 0, "nobody is served");
    add(&world, &[early(1), early(2)]);
    assert_eq!(world.sync(endpoints(&["10.244.0.11"])).flows, 2);
    add(&world, &[early(1)]);
    world.sync(endpoints(&["10.244.0.11", "10.244.0.12"]));
    assert_eq!(filters(&world), [NO_REAL_SERVER], "the second endpoint changes nothing for them");

    let mut world = World::synced(web());
    add(&world, &[early(1), early(2)]);
    for event in dns(&["10.244.0.11"]) {
        world.send(event);
    }
    assert_eq!(world.reconciler.step(world.now).flows, 2, "the Service is new, with its endpoint");
    assert_eq!(world.kernel.conntrack.calls(), 1);
}

#[test]
fn only_what_was_really_removed_loses_its_flows() {
    let mut world = World::synced(dns(&["10.244.0.11", "10.244.0.12"]));
    world.pass(SOON);
    let calls = world.kernel.conntrack.calls();
    add(&world, &[to_pod(1, "10.244.0.11")]);
    world.kernel.ipvs.refuse(|op| matches!(op, IpvsOp::DeleteRealServer { .. }).then_some(5));
    world.sync(endpoints(&["10.244.0.12"]));
    world.pass(Duration::from_secs(5));
    assert_eq!((world.kernel.conntrack.calls(), world.kernel.conntrack.flows().len()), (calls, 1));
    world.kernel.ipvs.refuse_nothing();
    world.pass(Duration::from_secs(10));
    assert_eq!((world.kernel.conntrack.calls(), world.kernel.conntrack.flows().len()), (calls + 1, 0));
}

#[test]
fn flows_of_a_port_stay_until_it_is_really_served() {
    for refuse_route in [false, true] {
        let mut world = World::synced(web());
        add(&world, &[early(1)]);
        world
            .kernel
            .ipvs
            .refuse(move |op| (!refuse_route && matches!(op, IpvsOp::AddRealServer { .. })).then_some(5));
        world.kernel.vips.refuse(move |_| refuse_route.then_some(5));
        for event in dns(&["10.244.0.11"]) {
            world.send(event);
        }
        world.pass(Duration::from_secs(1));
        assert_eq!(world.kernel.conntrack.calls(), 0, "a packet would make the entry anew");
        world.kernel.ipvs.refuse_nothing();
        world.kernel.vips.refuse_nothing();
        world.pass(SOON);
        assert_eq!((world.kernel.conntrack.calls(), world.kernel.conntrack.flows().len()), (1, 0));
    }
}

#[test]
fn a_write_whose_answer_was_lost_is_looked_at_first() {
    // The removal was executed, and so was the first endpoint.
    let mut world = World::synced(dns(&["10.244.0.11", "10.244.0.12"]));
    world.pass(SOON);
    add(&world, &[to_pod(1, "10.244.0.11")]);
    world.kernel.ipvs.lose_replies_next();
    assert_eq!(world.sync(endpoints(&["10.244.0.12"])).flows, 0);
    world.pass(SOON);
    assert_eq!(world.kernel.conntrack.flows().len(), 0);

    // It was refused, and its failure lost: the real server goes on serving until it is really removed.
    world.kernel.ipvs.lose_replies_next();
    world.kernel.ipvs.refuse(|op| matches!(op, IpvsOp::DeleteRealServer { .. }).then_some(5));
    add(&world, &[to_pod(2, "10.244.0.12")]);
    world.sync(endpoints(&["10.244.0.13"]));
    world.pass(SOON);
    assert_eq!(world.kernel.weights(dns_vs()), [(12, 1), (13, 1)]);
    assert_eq!(world.kernel.conntrack.flows().len(), 1);

    // A call that has failed as a whole, after its writes or before them.
    let mut world = World::synced(dns(&[]));
    add(&world, &[early(1)]);
    world.kernel.ipvs.fail_next_call(ErrorKind::Transient);
    assert_eq!(world.sync(endpoints(&["10.244.0.11"])).flows, 0);
    world.pass(SOON);
    assert_eq!((world.kernel.conntrack.flows().len(), world.reconciler.totals().retrying), (0, 0));
}

#[test]
fn a_real_server_that_is_back_before_the_deletion_keeps_its_flows() {
    let mut world = World::synced(dns(&["10.244.0.11", "10.244.0.12"]));
    world.pass(SOON);
    world.kernel.conntrack.fail_next_call(ErrorKind::Transient);
    world.sync(endpoints(&["10.244.0.12"]));
    world.sync(endpoints(&["10.244.0.11", "10.244.0.12"]));
    add(&world, &[to_pod(1, "10.244.0.11")]);
    let calls = world.kernel.conntrack.calls();
    world.pass(SOON);
    assert_eq!((world.kernel.conntrack.flows().len(), world.kernel.conntrack.calls()), (1, calls));
    assert_eq!(world.reconciler.totals().retrying, 0);
}

#[test]
fn a_failed_deletion_is_tried_again_with_backoff() {
    let mut world = World::synced(dns(&["10.244.0.11", "10.244.0.12"]));
    world.pass(SOON);
    add(&world, &[to_pod(1, "10.244.0.11")]);
    let calls = world.kernel.conntrack.calls();
    for _ in 0..3 {
        world.kernel.conntrack.fail_next_call(ErrorKind::Transient);
    }
    let report = world.sync(endpoints(&["10.244.0.12"]));
    assert_eq!((report.written, report.failed), (1, 1));
    assert_eq!(world.reconciler.totals().retrying, 1);
    world.pass(Duration::from_millis(690));
    assert_eq!(world.kernel.conntrack.calls(), calls + 3, "after 100, 200, 400 ms");
    world.pass(Duration::from_millis(20));
    assert_eq!((world.kernel.conntrack.calls(), world.kernel.conntrack.flows().len()), (calls + 4, 0));
    assert_eq!(world.reconciler.totals().retrying, 0);
}

#[test]
fn where_the_kernel_cannot_do_it_everything_else_goes_on() {
    let kernel = Kernel::new();
    kernel.conntrack.fail_next_call(ErrorKind::NotSupported);
    let mut world = World::on(kernel, config());
    world.deliver(dns(&["10.244.0.11", "10.244.0.12"]));
    let report = world.run();
    assert!(report.completed_start && report.failed == 1);
    world.pass(Duration::from_secs(60));
    assert_eq!(
        (world.kernel.conntrack.calls(), world.reconciler.totals().retrying),
        (1, 0),
        "not tried again"
    );
    // The module was loaded meanwhile.
    add(&world, &[to_pod(1, "10.244.0.11")]);
    world.sync(endpoints(&["10.244.0.12"]));
    assert_eq!(world.kernel.conntrack.flows().len(), 0);
}

/// Conformance: conntrack/cleanup TestPerformanceCleanStaleEntries
#[test]
fn a_rollout_of_a_thousand_endpoints_walks_the_table_twice_a_second() {
    let pods: Vec<_> = (0..1000).map(|n| format!("10.100.{}.{}", n / 250, n % 250)).collect();
    let pods: Vec<_> = pods.iter().map(String::as_str).collect();
    let mut world = World::synced(dns(&pods[..500]));
    world.pass(SOON);
    let (calls, begin) = (world.kernel.conntrack.calls(), world.now);
    for n in 0..500 {
        add(&world, &[to_pod(n + 1, pods[usize::from(n)])]);
        world.send(endpoints(&pods[usize::from(n) + 1..usize::from(n) + 501]));
        world.pass(Duration::from_millis(10));
    }
    assert_eq!(world.now - begin, Duration::from_secs(5));
    world.pass(Duration::from_millis(500));
    assert_eq!(world.kernel.conntrack.flows().len(), 0);
    let calls = world.kernel.conntrack.calls() - calls;
    assert!((10..=12).contains(&calls), "{calls} walks for 500 real servers that went within 5 s");
}

/// Conformance: conntrack/cleanup TestPerformanceCleanStaleEntries
#[test]
fn a_table_that_takes_long_to_walk_takes_a_tenth_of_a_core() {
    let mut world = World::synced(dns(&["10.244.0.1"]));
    world.pass(SOON);
    let (cost, begin, calls) = (Duration::from_millis(400), world.now, world.kernel.conntrack.calls());
    let mut last = calls;
    while world.now < begin + Duration::from_secs(60) {
        let addr = format!("10.244.1.{}", world.now.as_millis() / 100 % 250);
        let Report { step, .. } = world.sync(endpoints(&["10.244.0.1", &addr]));
        let walked = world.kernel.conntrack.calls() > last;
        last = world.kernel.conntrack.calls();
        let took = if walked { cost } else { Duration::from_millis(1) };
        world.now += took;
        world.reconciler.charge(step, took, world.now);
        world.now += Duration::from_millis(99);
    }
    let calls = world.kernel.conntrack.calls() - calls;
    assert!((13..=16).contains(&calls), "{calls} walks in a minute");
}

#[test]
fn tcp_never_walks_the_table() {
    let mut world = World::synced(web());
    world.sync(ready("web", &["10.244.0.12"]));
    world.sync(deleted("web"));
    world.pass(Duration::from_secs(3600));
    assert!(world.kernel.ipvs.virtual_servers().is_empty());
    assert_eq!(world.kernel.conntrack.calls(), 0);
}

#[test]
fn a_restart_frees_who_was_forgotten_and_writes_nothing() {
    let world = World::synced(dns(&["10.244.0.11"]));
    // The process dies between the first real server and the deletion.
    add(&world, &[early(1), to_pod(2, "10.244.0.11"), flow(3, "10.96.1.1", ("10.96.1.1", 80))]);
    let mut world = world;
    filters(&world);
    let report = world.restart(dns(&["10.244.0.11"]));
    assert_eq!((report.written, report.flows), (0, 1));
    assert_eq!(filters(&world), [NO_REAL_SERVER], "one walk, whatever the number of Services");
    assert!(
        world.reconciler.dry_run().unwrap().is_empty(),
        "no part of a plan: nothing is known to be wrong"
    );
    world.pass(Duration::from_secs(3600));
    assert_eq!(filters(&world), [""; 0], "and never again");
}

#[test]
fn a_vip_that_was_unreachable_frees_who_sent_meanwhile() {
    let mut world = World::synced(dns(&["10.244.0.11"]).into_iter().chain(web()));
    world.pass(SOON);
    filters(&world);
    world.kernel.vips.delete_route(ip(DNS));
    add(&world, &[early(1)]);
    world.reconciler.handle(Event::Touched(Touched::Vips));
    world.run();
    assert!(world.kernel.vips.routes().contains_key(&ip(DNS)));
    assert_eq!((filters(&world), world.kernel.conntrack.flows().len()), (vec![NO_REAL_SERVER.to_owned()], 0));

    world.kernel.ipvs.flush();
    add(&world, &[early(1)]);
    world.pass(SYNC_PERIOD * 2);
    assert_eq!(world.kernel.conntrack.flows().len(), 0, "virtual servers that were lost and have come back");
}

#[test]
fn a_vip_that_became_an_address_of_the_node_keeps_what_is_the_nodes() {
    let mut world = World::synced(dns(&["10.244.0.11"]));
    world.pass(SOON);
    world.kernel.conntrack.fail_next_call(ErrorKind::Transient);
    world.sync(endpoints(&[]));
    world.sync(endpoints(&["10.244.0.12"]));
    world.kernel.vips.set_node_addresses([(ip("192.168.50.10"), "eth0"), (ip(DNS), "nodelocaldns")]);
    world.kernel.vips.set_listeners(dns_vs().vip_port());
    world.reconciler.handle(Event::Touched(Touched::Vips));
    world.reconciler.step(world.now);
    let local = early(9);
    add(&world, &[local]);
    world.pass(Duration::from_secs(60));
    assert!(world.kernel.ipvs.virtual_servers().is_empty());
    assert_eq!(world.kernel.conntrack.flows(), [local].into());
    let untranslated = ConntrackFilter::untranslated(dns_vs().vip_port().unwrap());
    assert!(world.kernel.conntrack.take_filters().last().is_none_or(|last| *last != untranslated));
}
