use lb_types::{ConnectionCounters, IpvsOp, TrafficCounters};

use super::*;

fn connections(active: u32, inactive: u32) -> ConnectionCounters {
    ConnectionCounters { active, inactive, persistent: 0 }
}

/// Conformance: ipvs/graceful_termination Test_GracefulDeleteRS: no connections
/// Conformance: ipvs/graceful_termination Test_GracefulDeleteRS: active connections
/// Conformance: ipvs/graceful_termination Test_GracefulDeleteRS: inactive connections
#[test]
fn a_terminating_endpoint_drains_and_goes_when_idle() {
    let mut world = World::synced(web());
    let old = rs("10.244.0.11");
    world.kernel.ipvs.set_connections(web_vs(), old, connections(1, 5));
    world.sync(slice("web", Protocol::Tcp, &[("10.244.0.11", Is::Terminating), ("10.244.0.12", Is::Ready)]));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 1)]);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 1)], "an active connection keeps it");
    world.kernel.ipvs.set_connections(web_vs(), old, connections(0, 6));
    world.pass(Duration::from_secs(4));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 1)], "linger");
    world.pass(Duration::from_secs(8));
    assert_eq!(world.kernel.weights(web_vs()), [(12, 1)], "TIME_WAIT does not count");
    assert_eq!(world.reconciler.state().drains.iter().count(), 0);
}

#[test]
fn moving_bytes_keep_a_half_closed_connection() {
    let mut world = World::synced(web());
    let old = rs("10.244.0.11");
    world.sync(ready("web", &["10.244.0.12"]));
    for second in 0..30 {
        let traffic = TrafficCounters { bytes_out: second * 1000, ..TrafficCounters::default() };
        world.kernel.ipvs.set_traffic(web_vs(), old, traffic);
        world.pass(Duration::from_secs(1));
        assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 1)]);
    }
    world.pass(Duration::from_secs(12));
    assert_eq!(world.kernel.weights(web_vs()), [(12, 1)]);
}

#[test]
fn a_returning_endpoint_gets_its_weight_back_in_place() {
    let mut world = World::synced(web());
    world.sync(ready("web", &["10.244.0.12"]));
    world.kernel.ipvs.take_ops();
    let report = world.sync(ready("web", &["10.244.0.11", "10.244.0.12"]));
    assert_eq!(report.ended.len(), 1);
    let ops: Vec<_> = world.kernel.ipvs.take_ops().iter().map(ToString::to_string).collect();
    assert_eq!(ops, [format!("set real server 10.244.0.11:8080 of {} Masq weight 1", web_vs())]);
    world.pass(Duration::from_secs(120));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)], "no stale entry removes it");
}

#[test]
fn an_endpoint_whose_pod_is_gone_is_removed_at_once() {
    let mut world = World::synced(web());
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(100, 0));
    world.sync(slice("web", Protocol::Tcp, &[("10.244.0.11", Is::Terminating), ("10.244.0.12", Is::Ready)]));
    world.pass(Duration::from_secs(2));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 1)]);
    world.sync(ready("web", &["10.244.0.12"]));
    assert_eq!(world.kernel.weights(web_vs()), [(12, 1)]);
}

#[test]
fn an_endpoint_that_left_without_terminating_keeps_its_connections() {
    let mut world = World::synced(web());
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(100, 0));
    world.sync(ready("web", &["10.244.0.12"]));
    world.pass(Duration::from_secs(600));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 1)]);
    world.pass(Duration::from_secs(310));
    assert_eq!(world.kernel.weights(web_vs()), [(12, 1)], "until the deadline");
}

#[test]
fn a_deleted_service_refuses_new_connections_and_goes_when_drained() {
    let mut world = World::synced(web());
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(1, 0));
    world.sync(deleted("web"));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 0)]);
    assert!(world.kernel.vips.routes().contains_key(&ip(WEB)), "running connections still need the VIP");
    let refused = |world: &World| {
        world.kernel.rules.elements().iter().any(|e| e.set() == lb_types::RuleSet::NoEndpoints)
    };
    assert!(refused(&world));
    world.pass(Duration::from_secs(60));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0)], "the idle one is gone");
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(0, 0));
    world.pass(Duration::from_secs(15));
    assert!(world.kernel.ipvs.virtual_servers().is_empty() && world.kernel.vips.routes().is_empty());
    assert_eq!(world.kernel.elements_of_services(), []);
}

/// Conformance: e2e/service should work after the service has been recreated
#[test]
fn a_service_that_comes_back_while_it_drains_is_whole_again() {
    let mut world = World::synced(web());
    world.sync(deleted("web"));
    world.pass(Duration::from_secs(1));
    for event in web() {
        world.send(event);
    }
    world.run();
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)]);
    world.pass(Duration::from_secs(120));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)]);
}

/// Conformance: ipvs/graceful_termination Test_GracefulDeleteRS: UDP with connections
#[test]
fn udp_services_go_at_once() {
    let dns = vs(WEB, Protocol::Udp);
    let endpoints = [("10.244.0.11", Is::Ready), ("10.244.0.12", Is::Ready)];
    let mut world =
        World::synced([applied(udp(service("dns", WEB))), slice("dns", Protocol::Udp, &endpoints)]);
    world.sync(slice("dns", Protocol::Udp, &endpoints[..1]));
    assert_eq!(world.kernel.weights(dns), [(11, 1)]);
    world.sync(deleted("dns"));
    assert!(world.kernel.ipvs.virtual_servers().is_empty(), "{:?}", world.kernel.ipvs.virtual_servers());
    assert!(world.kernel.vips.routes().is_empty());
}

#[test]
fn a_restart_in_the_middle_of_a_drain_goes_on_draining() {
    let mut world = World::synced(web());
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(1, 0));
    world.sync(ready("web", &["10.244.0.12"]));
    let report = world.restart([applied(service("web", WEB)), ready("web", &["10.244.0.12"])]);
    assert_eq!(report.written, 0);
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 1)]);
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(0, 0));
    world.pass(Duration::from_secs(15));
    assert_eq!(world.kernel.weights(web_vs()), [(12, 1)]);
}

#[test]
fn nothing_is_polled_when_nothing_drains() {
    let mut world = World::synced(many(100));
    let requests = world.kernel.requests();
    world.pass(SYNC_PERIOD - Duration::from_secs(1));
    assert_eq!(world.kernel.requests(), requests);
}

#[test]
fn a_leftover_with_connections_drains_after_the_restart() {
    let mut world = World::synced(web());
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(1, 0));
    world.restart([]);
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 0)], "kept for what still runs through it");
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(0, 0));
    world.pass(Duration::from_secs(30));
    assert!(world.kernel.ipvs.virtual_servers().is_empty() && world.kernel.vips.routes().is_empty());
}

#[test]
fn the_ledger_forgets_what_was_removed() {
    let mut world = World::synced(web());
    world.sync(ready("web", &["10.244.0.12"]));
    assert_eq!(world.reconciler.state().drains.iter().count(), 1);
    world.pass(Duration::from_secs(20));
    assert_eq!(world.reconciler.state().drains.iter().count(), 0);
    world.sync(deleted("web"));
    world.pass(Duration::from_secs(20));
    assert_eq!(world.reconciler.state().drains.iter().count(), 0);
}

#[test]
fn new_drains_do_not_postpone_the_poll_for_ever() {
    let mut world = World::synced(many(200).into_iter().chain(web()));
    for n in 0..200 {
        world.kernel.ipvs.set_connections(
            vs(&format!("10.96.0.{n}"), Protocol::Tcp),
            rs(&format!("10.100.{n}.2")),
            connections(1, 0),
        );
    }
    world.sync(ready("web", &["10.244.0.12"]));
    for n in 0..150 {
        world.sync(ready(&format!("s{n}"), &[&format!("10.100.{n}.1")]));
        world.pass(Duration::from_millis(400));
    }
    assert_eq!(world.kernel.weights(web_vs()), [(12, 1)], "idle for a minute");
}

#[test]
fn new_drains_do_not_postpone_deadlines() {
    let mut world = World::synced(many(2400).into_iter().chain(web()));
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(1, 0));
    world.sync(ready("web", &["10.244.0.12"]));
    for n in 0..2400 {
        world.sync(ready(&format!("s{n}"), &[&format!("10.{}.{}.1", 100 + n / 250, n % 250)]));
        world.pass(Duration::from_millis(400));
    }
    assert_eq!(world.kernel.weights(web_vs()), [(12, 1)], "16 minutes, the deadline is 15");
}

#[test]
fn events_do_not_wait_behind_a_poll() {
    let mut world = World::synced(many(2000));
    for n in 0..2000 {
        world.send(ready(&format!("s{n}"), &[&format!("10.{}.{}.1", 100 + n / 250, n % 250)]));
    }
    world.run();
    world.now += Duration::from_millis(600);
    let before = world.kernel.ipvs.requests();
    world.reconciler.step(world.now);
    let requests = world.kernel.ipvs.requests() - before;
    assert!(requests <= 256, "{requests} dumps in one step");
}

#[test]
fn a_pod_is_gone_even_if_its_termination_arrived_in_the_same_batch() {
    let mut world = World::synced(web());
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(1, 0));
    world.send(slice("web", Protocol::Tcp, &[("10.244.0.11", Is::Terminating), ("10.244.0.12", Is::Ready)]));
    world.send(ready("web", &["10.244.0.12"]));
    world.run();
    world.pass(Duration::from_secs(60));
    assert_eq!(world.kernel.weights(web_vs()), [(12, 1)]);
}

#[test]
fn a_refused_removal_of_a_drained_real_server_backs_off() {
    let mut world = World::synced(web());
    world.kernel.ipvs.refuse(|op| matches!(op, IpvsOp::DeleteRealServer { .. }).then_some(5));
    world.sync(ready("web", &["10.244.0.12"]));
    world.pass(Duration::from_secs(60));
    let tried = |world: &mut World| {
        let count = std::rc::Rc::new(std::cell::Cell::new(0));
        let inner = count.clone();
        world.kernel.ipvs.refuse(move |op| {
            matches!(op, IpvsOp::DeleteRealServer { .. }).then(|| inner.set(inner.get() + 1)).map(|()| 5)
        });
        world.pass(Duration::from_secs(60));
        count.get()
    };
    let tries = tried(&mut world);
    assert!(tries <= 4, "{tries} tries in a minute");
}

/// Words of the moment for what the draining real servers wait for.
fn waits(world: &World) -> Vec<String> {
    let drains = world.reconciler.state().drains.iter();
    drains.map(|(key, drain)| world.reconciler.drain_waits_for(key, drain).render(world.now)).collect()
}

#[test]
fn a_drain_says_what_it_waits_for_until_it_is_removed() {
    let mut world = World::synced(web());
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(2, 0));
    world.kernel.ipvs.refuse(|op| matches!(op, IpvsOp::DeleteRealServer { .. }).then_some(5));
    world.sync(ready("web", &["10.244.0.12"]));
    assert_eq!(waits(&world), ["the next reading in 1s"]);
    let changed = |world: &mut World, what: &str| {
        let before = world.reconciler.drain_details();
        world.pass(Duration::from_secs(1));
        assert_ne!(world.reconciler.drain_details(), before, "{what}");
        waits(world)
    };
    assert_eq!(changed(&mut world, "read"), ["2 connections"]);
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(0, 0));
    assert_eq!(changed(&mut world, "read again"), ["quiet for 4s more"]);
    world.pass(Duration::from_secs(5));
    let [refused] = &waits(&world)[..] else { panic!() };
    assert!(refused.starts_with("retry in 1s: ") && refused.contains("EIO"), "{refused}");
    let details = world.reconciler.drain_details();
    world.kernel.ipvs.refuse_nothing();
    world.pass(Duration::from_secs(1));
    assert!(waits(&world).is_empty() && world.reconciler.drain_details() > details);
    let details = world.reconciler.drain_details();
    world.pass(Duration::from_secs(300));
    assert_eq!(world.reconciler.drain_details(), details, "where nothing drains nothing changes");
}

#[test]
fn a_refused_removal_from_a_retiring_virtual_server_is_tried_once_per_step() {
    let mut world = World::synced(web());
    let count = std::rc::Rc::new(std::cell::Cell::new(0));
    let inner = count.clone();
    world.kernel.ipvs.refuse(move |op| {
        matches!(op, IpvsOp::DeleteRealServer { .. }).then(|| inner.set(inner.get() + 1)).map(|()| 5)
    });
    world.sync(deleted("web"));
    world.pass(Duration::from_secs(4));
    while count.get() == 0 {
        world.now = world.reconciler.next_wakeup(world.now).unwrap();
        world.reconciler.step(world.now);
    }
    assert_eq!(count.get(), 2, "two real servers");
}

#[test]
fn a_drain_that_could_not_begin_cuts_nothing() {
    let mut world = World::synced(web());
    world.kernel.ipvs.refuse(|op| matches!(op, IpvsOp::SetRealServer { .. }).then_some(5));
    world.sync(ready("web", &["10.244.0.12"]));
    world.pass(Duration::from_secs(20));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)], "still offered to clients");
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(1, 0));
    world.kernel.ipvs.refuse_nothing();
    world.pass(Duration::from_secs(40));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 1)], "its connections are cut");
}

/// A slice whose endpoints name their pods.
fn pods(service: &str, endpoints: &[(&str, &str)]) -> ModelEvent {
    let addrs: Vec<_> = endpoints.iter().map(|(addr, _)| *addr).collect();
    let ModelEvent::SliceApplied(mut slice) = ready(service, &addrs) else { panic!("no slice") };
    for (endpoint, (_, pod)) in slice.endpoints.iter_mut().zip(endpoints) {
        endpoint.pod = Some(format!("default/{pod}/uid-{pod}").into());
    }
    ModelEvent::SliceApplied(slice)
}

/// `web` with an annotation.
fn configured(overrides: drain::Overrides) -> ModelEvent {
    let mut service = service("web", WEB);
    service.settings.drain = Some(overrides.into());
    applied(service)
}

const NONE: drain::Overrides = drain::Overrides::NONE;

fn seconds(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

#[test]
fn a_service_has_its_own_settings() {
    let endpoints = ready("web", &["10.244.0.11", "10.244.0.12"]);
    let immediate = drain::Overrides { policy: Some(drain::Policy::Immediate), ..NONE };
    let mut world = World::synced([configured(immediate), endpoints.clone()]);
    world.sync(ready("web", &["10.244.0.12"]));
    assert_eq!(world.kernel.weights(web_vs()), [(12, 1)]);

    let patient = drain::Overrides { linger: seconds(60), ..NONE };
    let mut world = World::synced([configured(patient), endpoints]);
    world.sync(ready("web", &["10.244.0.12"]));
    world.pass(Duration::from_secs(59));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 1)]);
    world.pass(Duration::from_secs(10));
    assert_eq!(world.kernel.weights(web_vs()), [(12, 1)]);
}

#[test]
fn settings_that_change_while_it_drains_count_at_once() {
    for overrides in [
        drain::Overrides { policy: Some(drain::Policy::Immediate), ..NONE },
        drain::Overrides { timeout: seconds(10), ..NONE },
    ] {
        let mut world = World::synced(web());
        world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(1, 0));
        world.sync(ready("web", &["10.244.0.12"]));
        world.pass(Duration::from_secs(60));
        assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 1)]);
        world.send(configured(overrides));
        world.run();
        assert_eq!(world.kernel.weights(web_vs()), [(12, 1)], "{overrides:?}");
    }
}

#[test]
fn the_settings_of_a_deleted_service_outlive_it() {
    let patient = drain::Overrides { timeout: Some(Duration::ZERO), ..NONE };
    let mut world = World::synced([configured(patient), ready("web", &["10.244.0.11", "10.244.0.12"])]);
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(1, 0));
    world.sync(deleted("web"));
    world.pass(Duration::from_secs(3600));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0)], "no deadline");
}

/// Time for which a real server stays that answers nobody, while clients repeat packets of a size in bytes.
fn stays(size: u64) -> Duration {
    let mut world = World::synced(web());
    let dead = rs("10.244.0.11");
    world.kernel.ipvs.set_connections(web_vs(), dead, connections(100, 0));
    world.sync(ready("web", &["10.244.0.12"]));
    let begin = world.now;
    for second in 0..30 {
        let packets_in = 100 + 10 * (second / 2);
        let traffic =
            TrafficCounters { packets_in, bytes_in: size * packets_in, ..TrafficCounters::default() };
        world.kernel.ipvs.set_traffic(web_vs(), dead, traffic);
        world.pass(Duration::from_secs(1));
        if world.kernel.weights(web_vs()) == [(12, 1)] {
            return world.now - begin;
        }
    }
    panic!("still there: {:?}", world.kernel.weights(web_vs()));
}

#[test]
fn a_real_server_that_answers_nobody_is_removed() {
    let [data, other] = [500, 60].map(stays);
    assert!(data >= Duration::from_secs(5) && data <= Duration::from_secs(9), "{data:?}");
    assert!(other >= Duration::from_secs(11) && other <= Duration::from_secs(19), "{other:?}");
}

#[test]
fn an_address_that_another_pod_has_now_never_sees_old_connections() {
    let mut world = World::synced([
        applied(service("web", WEB)),
        pods("web", &[("10.244.0.11", "a"), ("10.244.0.12", "b")]),
    ]);
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(1, 0));
    let renewed = || pods("web", &[("10.244.0.11", "c"), ("10.244.0.12", "b")]);
    let check = |world: &mut World| {
        let ops: Vec<_> = world.kernel.ipvs.take_ops();
        let last = ops.last().map(ToString::to_string);
        assert_eq!(last, Some(format!("delete real server 10.244.0.11:8080 of {}", web_vs())), "{ops:?}");
        assert!(ops.len() <= 2, "not back before its connections are gone: {ops:?}");
        assert_eq!(world.kernel.weights(web_vs()), [(12, 1)]);
        world.pass(Duration::from_secs(1));
        assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)]);
        assert_eq!(world.reconciler.state().drains.iter().count(), 0);
        world.kernel.ipvs.take_ops();
    };
    // While it served.
    world.kernel.ipvs.take_ops();
    world.sync(renewed());
    check(&mut world);
    // While it drained.
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(1, 0));
    world.sync(pods("web", &[("10.244.0.12", "b")]));
    world.pass(Duration::from_secs(10));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 1)]);
    world.kernel.ipvs.take_ops();
    world.sync(pods("web", &[("10.244.0.11", "d"), ("10.244.0.12", "b")]));
    check(&mut world);
    // Both in one batch.
    world.send(pods("web", &[("10.244.0.12", "b")]));
    world.send(pods("web", &[("10.244.0.11", "e"), ("10.244.0.12", "b")]));
    world.reconciler.step(world.now);
    check(&mut world);
    // The same pod again is no news.
    world.sync(pods("web", &[("10.244.0.12", "b")]));
    world.sync(pods("web", &[("10.244.0.11", "e"), ("10.244.0.12", "b")]));
    let ops: Vec<_> = world.kernel.ipvs.take_ops().iter().map(ToString::to_string).collect();
    assert!(ops.iter().all(|op| op.starts_with("set real server")), "{ops:?}");
}

#[test]
fn an_address_that_moves_to_another_service_takes_no_old_connection_along() {
    let api = vs("10.96.255.90", Protocol::Tcp);
    let mut world = World::synced([
        applied(service("web", WEB)),
        pods("web", &[("10.244.0.11", "a"), ("10.244.0.12", "b")]),
        applied(service("api", "10.96.255.90")),
        pods("api", &[("10.244.0.20", "x")]),
    ]);
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(1, 0));
    world.sync(pods("web", &[("10.244.0.12", "b")]));
    world.kernel.ipvs.take_ops();
    world.sync(pods("api", &[("10.244.0.11", "y"), ("10.244.0.20", "x")]));
    let ops: Vec<_> = world.kernel.ipvs.take_ops().iter().map(ToString::to_string).collect();
    let expect = [
        format!("delete real server 10.244.0.11:8080 of {}", web_vs()),
        format!("add real server 10.244.0.11:8080 to {api} Masq weight 1"),
    ];
    assert_eq!(ops, expect, "first the old connections, then the new endpoint");
    // A pod that serves two Services and leaves one of them stays what it is.
    world.sync(pods("web", &[("10.244.0.11", "y"), ("10.244.0.12", "b")]));
    world.pass(Duration::from_secs(1));
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(1, 0));
    world.sync(pods("web", &[("10.244.0.12", "b")]));
    world.sync(pods("api", &[("10.244.0.11", "y")]));
    world.pass(Duration::from_secs(60));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 1)]);
}

/// Records that a process leaves to the next one.
fn records(world: &World) -> Vec<(drain::Key, drain::Record)> {
    world.reconciler.state().drains.iter().map(|(key, drain)| (*key, drain.into())).collect()
}

/// Restarts as [`World::restart`] does, with the records of the process before.
fn resume(world: &mut World, records: Vec<(drain::Key, drain::Record)>, endpoints: ModelEvent) -> Report {
    *world = World { now: world.now, ..World::on(world.kernel.clone(), config()) };
    world.reconciler.restore(records);
    world.deliver([applied(service("web", WEB)), endpoints]);
    world.run()
}

#[test]
fn a_restart_keeps_reason_and_deadline() {
    let mut world = World::synced(web());
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(1, 0));
    let endpoints =
        slice("web", Protocol::Tcp, &[("10.244.0.11", Is::Terminating), ("10.244.0.12", Is::Ready)]);
    world.sync(endpoints.clone());
    world.pass(Duration::from_secs(800));
    let saved = records(&world);
    assert_eq!(resume(&mut world, saved, endpoints).written, 0);
    let causes: Vec<_> = world.reconciler.state().drains.iter().map(|(_, drain)| drain.cause).collect();
    assert_eq!(causes, [drain::Cause::Terminating]);
    world.pass(Duration::from_secs(90));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 1)]);
    world.pass(Duration::from_secs(15));
    assert_eq!(world.kernel.weights(web_vs()), [(12, 1)], "15 minutes after it began, not after the restart");
}

#[test]
fn a_pod_that_ended_while_nobody_looked_is_gone() {
    let mut world = World::synced(web());
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(1, 0));
    world.sync(slice("web", Protocol::Tcp, &[("10.244.0.11", Is::Terminating), ("10.244.0.12", Is::Ready)]));
    let saved = records(&world);
    resume(&mut world, saved, ready("web", &["10.244.0.12"]));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 1)], "another slice may list it in a moment");
    world.pass(Duration::from_secs(3));
    assert_eq!(world.kernel.weights(web_vs()), [(12, 1)]);
}

#[test]
fn a_stale_record_never_touches_a_live_real_server() {
    let mut world = World::synced(web());
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(1, 0));
    world.sync(ready("web", &["10.244.0.12"]));
    let saved = records(&world);
    let both = ready("web", &["10.244.0.11", "10.244.0.12"]);
    // It serves again, and the record is from before.
    world.sync(both.clone());
    let report = resume(&mut world, saved.clone(), both.clone());
    assert_eq!((report.written, world.reconciler.state().drains.iter().count()), (0, 0));
    // It is wanted again only after the restart.
    world.sync(ready("web", &["10.244.0.12"]));
    resume(&mut world, saved.clone(), both);
    world.pass(Duration::from_secs(3600));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)]);
    // It does not exist any more.
    let report = resume(&mut world, saved, ready("web", &["10.244.0.11", "10.244.0.12"]));
    assert_eq!((report.written, world.reconciler.state().drains.iter().count()), (0, 0));
}

#[test]
fn every_drain_knows_its_pod() {
    let mut world = World::synced([
        applied(service("web", WEB)),
        pods("web", &[("10.244.0.11", "a"), ("10.244.0.12", "b"), ("10.244.0.13", "c")]),
    ]);
    for last in [11, 12, 13] {
        world.kernel.ipvs.set_connections(web_vs(), rs(&format!("10.244.0.{last}")), connections(1, 0));
    }
    let unready = |event| match event {
        ModelEvent::SliceApplied(mut slice) => {
            (slice.endpoints[0].ready, slice.endpoints[0].serving) = (false, false);
            ModelEvent::SliceApplied(slice)
        }
        other => other,
    };
    world.sync(unready(pods("web", &[("10.244.0.12", "b"), ("10.244.0.13", "c")])));
    let names = |world: &World| -> Vec<_> {
        world
            .reconciler
            .state()
            .drains
            .iter()
            .map(|(key, drain)| (key.rs.addr.to_string(), drain.pod.clone()))
            .collect()
    };
    let pod = |last: u8, name: &str| {
        (format!("10.244.0.{last}"), Some(std::sync::Arc::<str>::from(format!("default/{name}/uid-{name}"))))
    };
    assert_eq!(names(&world), [pod(11, "a"), pod(12, "b")], "left, and unready");
    world.sync(deleted("web"));
    assert_eq!(names(&world), [pod(11, "a"), pod(12, "b"), pod(13, "c")], "of a deleted Service");
}
