//! Unlucky orders of events, and addresses that several pods have.

use lb_types::{ConnectionCounters, IpvsOp, TrafficCounters};

use super::*;
use crate::{kernel::Findings, syncer::Syncer};

const API: &str = "10.96.255.90";

fn connections(active: u32) -> ConnectionCounters {
    ConnectionCounters { active, inactive: 0, persistent: 0 }
}

/// A slice of one port whose endpoints name their pods.
fn pods_on(port: u16, service: &str, endpoints: &[(&str, &str, Is)]) -> ModelEvent {
    let states: Vec<_> = endpoints.iter().map(|(addr, _, is)| (*addr, *is)).collect();
    let ModelEvent::SliceApplied(mut slice) = slice(service, Protocol::Tcp, &states) else { panic!() };
    slice.ports[0].port = port.try_into().unwrap();
    for (endpoint, (_, pod, _)) in slice.endpoints.iter_mut().zip(endpoints) {
        endpoint.pod = Some(format!("default/{pod}/uid-{pod}").into());
    }
    ModelEvent::SliceApplied(slice)
}

fn pods(service: &str, endpoints: &[(&str, &str, Is)]) -> ModelEvent {
    pods_on(8080, service, endpoints)
}

fn ops(world: &World) -> Vec<String> {
    world.kernel.ipvs.take_ops().iter().map(ToString::to_string).collect()
}

fn on(addr: &str, port: u16) -> RealServerId {
    RealServerId { addr: ip(addr), port: port.try_into().unwrap() }
}

const NODE: &str = "192.168.50.11";

/// Pods with the address of their node: `web` and `api` have one each, on ports of their own.
fn neighbours() -> World {
    World::synced([
        applied(service("web", WEB)),
        pods_on(8443, "web", &[(NODE, "ingress", Is::Ready), ("192.168.50.12", "ingress2", Is::Ready)]),
        applied(service("api", API)),
        pods_on(9100, "api", &[(NODE, "exporter", Is::Ready), ("192.168.50.12", "exporter2", Is::Ready)]),
    ])
}

#[test]
fn a_pod_with_the_nodes_address_cuts_no_connection_of_its_neighbour() {
    let mut world = neighbours();
    world.kernel.ipvs.set_connections(web_vs(), on(NODE, 8443), connections(100));
    let terminating = [(NODE, "ingress", Is::Terminating), ("192.168.50.12", "ingress2", Is::Ready)];
    world.sync(pods_on(8443, "web", &terminating));
    world.pass(Duration::from_secs(10));
    // The other DaemonSet is updated meanwhile: its pod goes and comes.
    world.sync(pods_on(9100, "api", &[("192.168.50.12", "exporter2", Is::Ready)]));
    world.pass(Duration::from_secs(20));
    world.sync(pods_on(
        9100,
        "api",
        &[(NODE, "exporter-new", Is::Ready), ("192.168.50.12", "exporter2", Is::Ready)],
    ));
    world.pass(Duration::from_secs(10));
    assert_eq!(
        world.kernel.weights(web_vs()),
        [(11, 0), (12, 1)],
        "the terminating ingress still has 100 connections"
    );
}

#[test]
fn a_neighbour_that_only_turns_unready_and_ready_cuts_no_connection() {
    let mut world = neighbours();
    world.kernel.ipvs.set_connections(web_vs(), on(NODE, 8443), connections(100));
    world.sync(pods_on(
        8443,
        "web",
        &[(NODE, "ingress", Is::Terminating), ("192.168.50.12", "ingress2", Is::Ready)],
    ));
    world.sync(pods_on(
        9100,
        "api",
        &[(NODE, "exporter", Is::Unready), ("192.168.50.12", "exporter2", Is::Ready)],
    ));
    world.pass(Duration::from_secs(2));
    world.sync(pods_on(
        9100,
        "api",
        &[(NODE, "exporter", Is::Ready), ("192.168.50.12", "exporter2", Is::Ready)],
    ));
    world.pass(Duration::from_secs(10));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 1)]);
}

#[test]
fn a_drain_gets_the_pod_of_its_own_service() {
    let mut world = neighbours();
    // In one step: one pod leaves, its neighbour turns unready.
    world.send(pods_on(8443, "web", &[("192.168.50.12", "ingress2", Is::Ready)]));
    world.send(pods_on(
        9100,
        "api",
        &[(NODE, "exporter", Is::Unready), ("192.168.50.12", "exporter2", Is::Ready)],
    ));
    world.run();
    let of_api = world.reconciler.state().drains.iter().find(|(key, _)| key.rs.port.get() == 9100).unwrap();
    assert_eq!(of_api.1.pod.as_deref(), Some("default/exporter/uid-exporter"));
}

#[test]
fn a_pod_that_left_a_port_nobody_serves_is_forgotten() {
    // Nothing of `db` is programmed: the port of its slice has another name.
    let db = |endpoints: &[(&str, &str, Is)]| {
        let ModelEvent::SliceApplied(mut slice) = pods("db", endpoints) else { panic!() };
        slice.ports[0].name = "metrics".into();
        ModelEvent::SliceApplied(slice)
    };
    let mut world = World::synced([
        applied(service("web", WEB)),
        pods("web", &[("10.244.0.12", "b", Is::Ready)]),
        applied(service("db", API)),
        db(&[("10.244.0.11", "a", Is::Ready)]),
    ]);
    // The address has a new owner; the slice of the old one is late.
    world.sync(pods("web", &[("10.244.0.11", "c", Is::Ready), ("10.244.0.12", "b", Is::Ready)]));
    world.sync(db(&[]));
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(5));
    world.kernel.ipvs.take_ops();
    // Much later its readiness flaps.
    world.pass(Duration::from_secs(3600));
    world.sync(pods("web", &[("10.244.0.11", "c", Is::Unready), ("10.244.0.12", "b", Is::Ready)]));
    world.sync(pods("web", &[("10.244.0.11", "c", Is::Ready), ("10.244.0.12", "b", Is::Ready)]));
    world.run();
    let ops = ops(&world);
    assert!(ops.iter().all(|op| op.starts_with("set real server")), "five connections are cut: {ops:?}");
}

/// `web` has pod a at .11, `api` does not.
fn two() -> World {
    let world = World::synced([
        applied(service("web", WEB)),
        pods("web", &[("10.244.0.11", "a", Is::Ready), ("10.244.0.12", "b", Is::Ready)]),
        applied(service("api", API)),
        pods("api", &[("10.244.0.20", "x", Is::Ready)]),
    ]);
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(5));
    world
}

#[test]
fn an_address_that_changes_service_and_pod_in_one_batch_takes_no_connection_along() {
    let mut world = two();
    world.send(pods("web", &[("10.244.0.12", "b", Is::Ready)]));
    world.send(pods("api", &[("10.244.0.11", "y", Is::Ready), ("10.244.0.20", "x", Is::Ready)]));
    world.run();
    assert_eq!(world.kernel.weights(web_vs()), [(12, 1)], "connections of pod a reach pod y");
}

#[test]
fn an_address_whose_old_slice_is_late_takes_no_connection_along() {
    let mut world = two();
    world.sync(pods("api", &[("10.244.0.11", "y", Is::Ready), ("10.244.0.20", "x", Is::Ready)]));
    world.sync(pods("web", &[("10.244.0.12", "b", Is::Ready)]));
    world.run();
    assert_eq!(world.kernel.weights(web_vs()), [(12, 1)], "connections of pod a reach pod y");
}

#[test]
fn an_address_that_comes_back_right_after_its_pod_ended_rests() {
    let mut world = two();
    world.sync(pods("web", &[("10.244.0.11", "a", Is::Terminating), ("10.244.0.12", "b", Is::Ready)]));
    world.sync(pods("web", &[("10.244.0.12", "b", Is::Ready)]));
    world.kernel.ipvs.take_ops();
    // Both were late and come one after the other.
    world.sync(pods("web", &[("10.244.0.11", "c", Is::Ready), ("10.244.0.12", "b", Is::Ready)]));
    assert_eq!(ops(&world), Vec::<String>::new(), "revived with the connections of pod a");
}

#[test]
fn the_pod_is_known_even_if_the_drain_begins_with_the_second_try() {
    let mut world = two();
    world.kernel.ipvs.refuse(|op| matches!(op, IpvsOp::SetRealServer { .. }).then_some(12));
    world.sync(pods("web", &[("10.244.0.12", "b", Is::Ready)]));
    world.kernel.ipvs.refuse_nothing();
    world.pass(Duration::from_secs(2));
    let pods: Vec<_> = world
        .reconciler
        .state()
        .drains
        .iter()
        .map(|(_, drain)| drain.pod.as_deref().map(str::to_owned))
        .collect();
    assert_eq!(pods, [Some("default/a/uid-a".to_owned())]);
}

#[test]
fn two_resets_of_clients_minutes_apart_are_no_silence() {
    let mut world = two();
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(98));
    world.sync(pods("web", &[("10.244.0.12", "b", Is::Ready)]));
    world.pass(Duration::from_secs(10));
    for resets in 1..=2 {
        let traffic =
            TrafficCounters { packets_in: resets, bytes_in: 40 * resets, ..TrafficCounters::default() };
        world.kernel.ipvs.set_traffic(web_vs(), rs("10.244.0.11"), traffic);
        world.pass(Duration::from_secs(300));
    }
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 1)], "98 idle connections are cut");
}

#[test]
fn a_restart_keeps_the_settings_of_a_deleted_service() {
    let config = Config {
        drain: drain::Settings { policy: drain::Policy::Immediate, ..drain::Settings::default() },
        ..config()
    };
    let mut world = World::on(Kernel::new(), config.clone());
    let mut web = service("web", WEB);
    let patient = drain::Overrides { policy: Some(drain::Policy::ActiveOnly), ..drain::Overrides::NONE };
    web.settings.drain = Some(patient.into());
    world.deliver([applied(web), ready("web", &["10.244.0.11"])]);
    world.run();
    world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(5));
    world.sync(deleted("web"));
    world.pass(Duration::from_secs(5));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0)]);
    let saved: Vec<(drain::Key, drain::Record)> =
        world.reconciler.state().drains.iter().map(|(key, drain)| (*key, drain.into())).collect();
    world = World { now: world.now, ..World::on(world.kernel.clone(), config) };
    world.reconciler.restore(saved);
    world.deliver([]);
    world.run();
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0)], "cut by the restart");
}

#[test]
fn an_address_that_changes_service_and_pod_during_an_absence_takes_no_connection_along() {
    for (pod, weights) in [("y", &[(12, 1)][..]), ("a", &[(11, 0), (12, 1)])] {
        let mut world = two();
        let left = pods("web", &[("10.244.0.12", "b", Is::Ready)]);
        world.sync(left.clone());
        world.kernel.ipvs.set_connections(web_vs(), rs("10.244.0.11"), connections(5));
        let saved: Vec<(drain::Key, drain::Record)> =
            world.reconciler.state().drains.iter().map(|(key, drain)| (*key, drain.into())).collect();
        world = World { now: world.now, ..World::on(world.kernel.clone(), config()) };
        world.reconciler.restore(saved);
        let api = pods("api", &[("10.244.0.11", pod, Is::Ready), ("10.244.0.20", "x", Is::Ready)]);
        world.deliver([applied(service("web", WEB)), left, applied(service("api", API)), api]);
        world.run();
        assert_eq!(world.kernel.weights(web_vs()), weights, "connections of pod a reach pod {pod}");
    }
}

#[test]
fn a_draining_real_server_that_somebody_deleted_and_that_comes_back_leaves_no_trace() {
    let mut world = two();
    world.sync(pods("web", &[("10.244.0.12", "b", Is::Ready)]));
    world.pass(Duration::from_secs(120));
    let (vs, gone) = (web_vs(), rs("10.244.0.11"));
    world.kernel.ipvs.by_another(IpvsOp::DeleteRealServer { vs, rs: gone });
    // Noticed by something else than a poll: here by a refused write.
    world.sync(pods("web", &[("10.244.0.11", "a", Is::Ready), ("10.244.0.12", "b", Is::Ready)]));
    while !world.kernel.weights(vs).contains(&(11, 1)) {
        world.now = world.reconciler.next_wakeup(world.now).unwrap();
        world.reconciler.step(world.now);
    }
    world.kernel.ipvs.set_connections(vs, gone, connections(5));
    world.pass(Duration::from_secs(10));
    assert_eq!(world.reconciler.state().drains.iter().count(), 0, "it serves");
}

#[test]
fn a_deadline_counts_from_the_drain_that_runs() {
    let mut world = two();
    world.sync(pods("web", &[("10.244.0.12", "b", Is::Ready)]));
    world.pass(Duration::from_secs(120));
    let (vs, gone) = (web_vs(), rs("10.244.0.11"));
    // The audit sees it before the poll does.
    world.kernel.ipvs.by_another(IpvsOp::DeleteRealServer { vs, rs: gone });
    let Syncer { kernel, intents, .. } = &mut world.reconciler.syncer;
    kernel.observe_real_servers(vs, intents.ours(), &mut Findings::default()).unwrap();
    world.sync(pods("web", &[("10.244.0.11", "a", Is::Ready), ("10.244.0.12", "b", Is::Ready)]));
    world.kernel.ipvs.set_connections(vs, gone, connections(5));
    world.pass(Duration::from_secs(700));
    world.sync(pods("web", &[("10.244.0.11", "a", Is::Terminating), ("10.244.0.12", "b", Is::Ready)]));
    world.pass(Duration::from_secs(600));
    assert_eq!(world.kernel.weights(vs), [(11, 0), (12, 1)], "cut after 10 minutes of 15");
}

#[test]
fn a_terminating_endpoint_whose_slice_is_replaced_is_not_gone() {
    let mut world = two();
    let terminating =
        || pods("web", &[("10.244.0.11", "a", Is::Terminating), ("10.244.0.12", "b", Is::Ready)]);
    world.sync(terminating());
    world.pass(Duration::from_secs(1));
    world.sync(ModelEvent::SliceDeleted(SliceName { namespace: "default".into(), name: "web".into() }));
    world.pass(Duration::from_millis(50));
    world.sync(terminating());
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 1)], "its grace period has not ended");
}

#[test]
fn a_deleted_service_whose_slice_is_heard_of_first_drains() {
    let mut world = two();
    world.sync(pods("web", &[("10.244.0.11", "a", Is::Terminating), ("10.244.0.12", "b", Is::Terminating)]));
    world.sync(ModelEvent::SliceDeleted(SliceName { namespace: "default".into(), name: "web".into() }));
    world.sync(deleted("web"));
    world.run();
    assert_eq!(world.kernel.weights(web_vs()).first(), Some(&(11, 0)), "five connections are cut");
}

#[test]
fn drains_that_end_have_begun() {
    let mut world = two();
    let mut begun = 0;
    let mut ended = 0;
    for event in [
        pods("web", &[("10.244.0.11", "c", Is::Ready), ("10.244.0.12", "b", Is::Ready)]),
        pods("api", &[("10.244.0.20", "x", Is::Ready)]),
    ] {
        let report = world.sync(event);
        begun += report.drains_begun;
        ended += report.ended.len();
    }
    assert_eq!(begun, ended);
}

#[test]
fn a_virtual_server_deleted_by_somebody_while_a_real_server_rests_is_whole_again() {
    let mut world = two();
    world.sync(pods("web", &[("10.244.0.11", "c", Is::Ready), ("10.244.0.12", "b", Is::Ready)]));
    world.kernel.ipvs.by_another(IpvsOp::DeleteVirtualServer { vs: web_vs() });
    world.pass(Duration::from_secs(90));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)]);
    assert_eq!(world.reconciler.state().drains.iter().count(), 0);
}

#[test]
fn a_pod_that_ends_is_gone_from_the_old_vip_too() {
    let mut world = two();
    world.sync(applied(service("web", "10.96.255.81")));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 0)], "connections through the old VIP");
    world.sync(pods("web", &[("10.244.0.11", "a", Is::Terminating), ("10.244.0.12", "b", Is::Ready)]));
    world.pass(Duration::from_secs(30));
    world.sync(pods("web", &[("10.244.0.12", "b", Is::Ready)]));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.kernel.weights(vs("10.96.255.81", Protocol::Tcp)), [(12, 1)]);
    assert_eq!(world.kernel.weights(web_vs()), [], "clients of the dead pod hang");
}

#[test]
fn a_pod_that_another_slice_names_without_its_uid_is_the_same() {
    let mut world = two();
    world.sync(pods("web", &[("10.244.0.12", "b", Is::Ready)]));
    world.pass(Duration::from_secs(5));
    let ModelEvent::SliceApplied(mut by_hand) = pods("api", &[("10.244.0.11", "a", Is::Ready)]) else {
        panic!()
    };
    by_hand.endpoints[0].pod = Some("default/a/".into());
    world.sync(ModelEvent::SliceApplied(by_hand));
    world.pass(Duration::from_secs(5));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 1)]);
}

#[test]
fn a_surge_pod_beside_the_one_that_terminates_cuts_no_connection() {
    let mut world = neighbours();
    world.kernel.ipvs.set_connections(web_vs(), on(NODE, 8443), connections(100));
    let other = ("192.168.50.12", "ingress2", Is::Ready);
    world.sync(pods_on(
        8443,
        "web",
        &[(NODE, "ingress", Is::Ready), (NODE, "ingress-new", Is::Unready), other],
    ));
    world.kernel.ipvs.take_ops();
    // Both are listed, and both live.
    world.sync(pods_on(
        8443,
        "web",
        &[(NODE, "ingress", Is::Terminating), (NODE, "ingress-new", Is::Ready), other],
    ));
    let ops = ops(&world);
    assert!(ops.iter().all(|op| !op.starts_with("delete")), "{ops:?}");
}

#[test]
fn a_refused_eviction_cuts_no_connection_of_the_new_pod_later() {
    let mut world = two();
    world.kernel.ipvs.refuse(|op| matches!(op, IpvsOp::DeleteRealServer { .. }).then_some(12));
    world.sync(pods("web", &[("10.244.0.11", "c", Is::Ready), ("10.244.0.12", "b", Is::Ready)]));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.kernel.weights(web_vs())[0].1, 0, "takes new connections that the next try will cut");
}

#[test]
fn a_refused_removal_of_a_pod_that_is_gone_sends_nobody_there() {
    let mut world = two();
    world.kernel.ipvs.refuse(|op| matches!(op, IpvsOp::DeleteRealServer { .. }).then_some(12));
    world.send(pods("web", &[("10.244.0.11", "a", Is::Terminating), ("10.244.0.12", "b", Is::Ready)]));
    world.send(pods("web", &[("10.244.0.12", "b", Is::Ready)]));
    world.run();
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 1)]);
}

#[test]
fn the_fewer_services_fit_into_a_step_the_same_comes_out() {
    let mut world = two();
    world.reconciler.services_per_step = 1;
    // The address leaves `web` terminating, and comes to `api` (planned first) under another pod.
    world.sync(pods("web", &[("10.244.0.11", "a", Is::Terminating), ("10.244.0.12", "b", Is::Ready)]));
    world.kernel.ipvs.take_ops();
    world.send(pods("web", &[("10.244.0.12", "b", Is::Ready)]));
    world.send(pods("api", &[("10.244.0.11", "y", Is::Ready), ("10.244.0.20", "x", Is::Ready)]));
    world.run();
    let ops = ops(&world);
    assert!(ops.first().is_some_and(|op| op.starts_with("delete")), "{ops:?}");
    assert_eq!(world.kernel.weights(web_vs()), [(12, 1)]);
}

#[test]
fn flows_of_a_udp_address_that_changes_hands_are_deleted_even_while_the_table_rests() {
    let dns = |pods: &[(&str, &str)]| {
        let all: Vec<_> = pods.iter().map(|(addr, _)| (*addr, Is::Ready)).collect();
        let ModelEvent::SliceApplied(mut slice) = slice("dns", Protocol::Udp, &all) else { panic!() };
        for (endpoint, (_, pod)) in slice.endpoints.iter_mut().zip(pods) {
            endpoint.pod = Some(format!("default/{pod}/uid-{pod}").into());
        }
        ModelEvent::SliceApplied(slice)
    };
    let three = |last| dns(&[("10.244.0.11", last), ("10.244.0.12", "b"), ("10.244.0.13", "c")]);
    let mut world = World::synced([applied(udp(service("dns", WEB))), three("a")]);
    world.pass(Duration::from_secs(2));
    world.kernel.conntrack.take_filters();
    // The table is walked for another one; the next walk waits for half a second.
    world.sync(dns(&[("10.244.0.11", "a"), ("10.244.0.12", "b")]));
    world.pass(Duration::from_millis(100));
    world.sync(dns(&[("10.244.0.11", "new"), ("10.244.0.12", "b")]));
    world.pass(Duration::from_secs(5));
    let filters: Vec<_> = world.kernel.conntrack.take_filters().iter().map(ToString::to_string).collect();
    assert!(filters.iter().any(|filter| filter.contains("10.244.0.11")), "{filters:?}");
}

#[test]
fn a_range_of_cluster_ips_that_comes_later_takes_external_addresses_back() {
    let mut web = service("web", WEB);
    web.external_ips = vec![ExternalIp { addr: ip("10.97.0.10"), source: ExternalSource::ExternalIps }];
    let mut world = World::synced([applied(web), ready("web", &["10.244.0.11"])]);
    let external = vs("10.97.0.10", Protocol::Tcp);
    assert_eq!(world.kernel.weights(external), [(11, 1)]);
    world.send(ModelEvent::ServiceCidrsApplied(vec!["10.97.0.0/16".parse().unwrap()]));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.kernel.weights(external), [(11, 0)], "it drains");
    world.send(ModelEvent::ServiceCidrsApplied(Vec::new()));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.kernel.weights(external), [(11, 1)]);
}
