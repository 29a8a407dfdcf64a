use lb_types::{ConnectionCounters, TrafficCounters};

use super::*;

fn connections(active: u32, inactive: u32) -> ConnectionCounters {
    ConnectionCounters { active, inactive, persistent: 0 }
}

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
    assert_eq!(world.reconciler.drains(world.now), []);
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
    assert_eq!(report.drains_ended, 1);
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
    let refused =
        |world: &World| world.kernel.rules.elements().iter().any(|e| e.set == lb_types::RuleSet::NoEndpoints);
    assert!(refused(&world));
    world.pass(Duration::from_secs(60));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0)], "the idle one is gone");
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(0, 0));
    world.pass(Duration::from_secs(15));
    assert!(world.kernel.ipvs.virtual_servers().is_empty() && world.kernel.vips.routes().is_empty());
    assert!(world.kernel.rules.elements().is_empty());
}

#[test]
fn a_service_that_comes_back_while_it_drains_is_whole_again() {
    let mut world = World::synced(web());
    world.sync(deleted("web"));
    world.pass(Duration::from_secs(1));
    web().into_iter().for_each(|event| world.send(event));
    world.run();
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)]);
    world.pass(Duration::from_secs(120));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)]);
}

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
    assert_eq!(world.reconciler.drains(world.now).len(), 1);
    world.pass(Duration::from_secs(20));
    assert_eq!(world.reconciler.drains(world.now), []);
    world.sync(deleted("web"));
    world.pass(Duration::from_secs(20));
    assert_eq!(world.reconciler.drains(world.now), []);
}
