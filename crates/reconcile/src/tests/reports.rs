//! Numbers in reports, for metrics.

use std::{collections::BTreeMap, time::SystemTime};

use dataplane::ErrorKind;
use lb_types::{IpvsOp, VipOp};
use service_model::{ChangeCounts, Trigger};

use super::*;
use crate::TableName;

const EIO: i32 = 5;

fn second(n: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(n)
}

/// Endpoints of the Service `web` that have changed since something happened at a second.
fn changed(addrs: &[&str], at: u64) -> ModelEvent {
    let ModelEvent::SliceApplied(slice) = ready("web", addrs) else { unreachable!() };
    ModelEvent::SliceApplied(EndpointSlice { triggered: Some(second(at)), ..slice })
}

fn trigger(at: u64) -> Trigger {
    Trigger { family: IpFamily::V4, at: second(at) }
}

/// Conformance: endpointschangetracker TestLastChangeTriggerTime
#[test]
fn a_change_of_endpoints_is_reported_by_the_sync_that_writes_it() {
    let mut world = World::new();
    world.deliver([applied(service("web", WEB)), changed(&["10.244.0.11"], 1)]);
    let first = world.reconciler.step(world.now);
    assert_eq!((first.written > 0, first.programmed), (true, vec![]), "the first lists");
    world.run();
    world.send(changed(&["10.244.0.11", "10.244.0.12"], 7));
    world.send(changed(&["10.244.0.12"], 8));
    let report = world.reconciler.step(world.now);
    assert_eq!(report.programmed, [trigger(7), trigger(8)]);
    assert_eq!(world.sync(applied(service("other", "10.96.0.2"))).programmed, [], "of another Service");
    assert_eq!(world.sync(changed(&["10.244.0.12"], 9)).programmed, [], "nothing has changed");
}

#[test]
fn a_change_that_the_kernel_refuses_is_not_reported() {
    let mut world = World::synced(web());
    let refused = rs("10.244.0.13");
    world.kernel.ipvs.refuse(move |op| match op {
        IpvsOp::AddRealServer { rs, .. } if *rs == refused => Some(EIO),
        _ => None,
    });
    let report = world.sync(changed(&["10.244.0.11", "10.244.0.12", "10.244.0.13"], 7));
    assert_eq!((report.failed, report.programmed), (1, vec![]));
    world.reconciler.charge(report.step, Duration::ZERO, world.now);
    let report = world.sync(changed(&["10.244.0.11", "10.244.0.12"], 8));
    assert_eq!(report.programmed, [trigger(8)], "the one after that");
}

#[test]
fn changes_are_pending_until_they_are_planned() {
    let pending = |world: &World| {
        let changes = world.reconciler.state().model.changes();
        (changes.total(), changes.pending())
    };
    let distance = Duration::from_secs(5);
    let mut world = World::on(Kernel::new(), Config { min_sync_period: distance, ..config() });
    world.deliver(web());
    world.run();
    let one = ChangeCounts { services: 1, slices: 1 };
    assert_eq!(pending(&world), (one, ChangeCounts::default()));
    world.sync(ready("web", &["10.244.0.11"]));
    let slice = ChangeCounts { services: 0, slices: 1 };
    assert_eq!(pending(&world), (ChangeCounts { slices: 2, ..one }, slice), "it has to keep its distance");
    world.pass(distance);
    assert_eq!(pending(&world).1, ChangeCounts::default());
}

#[test]
fn a_sync_is_of_the_families_of_its_services() {
    let mut world = World::synced(web());
    let families = |report: Report| report.families.into_iter().collect::<Vec<_>>();
    assert_eq!(families(world.sync(ready("web", &["10.244.0.11"]))), [IpFamily::V4]);
    assert_eq!(families(world.sync(applied(service("six", "fd00:96::6")))), [IpFamily::V6]);
    assert_eq!(families(world.sync(deleted("six"))), [IpFamily::V6], "those it had");
    assert_eq!(families(world.reconciler.step(world.now)), []);
}

#[test]
fn refused_writes_are_counted_by_table_and_errno() {
    let mut world = World::synced([]);
    let vip = ip("10.96.0.2");
    world.kernel.vips.refuse(move |op| match op {
        VipOp::EnsureRoute { vip: of, .. } if *of == vip => Some(EIO),
        _ => None,
    });
    world.kernel.ipvs.refuse(|op| matches!(op, IpvsOp::AddRealServer { .. }).then_some(28));
    world.send(web()[0].clone());
    let report = world.sync(web()[1].clone());
    assert_eq!(report.refusals, BTreeMap::from([((TableName::Ipvs, Some(28)), 2)]));
    assert_eq!(report.failed, 2);
    let report = world.sync(applied(service("other", "10.96.0.2")));
    assert_eq!(report.refusals, BTreeMap::from([((TableName::Vips, Some(EIO)), 1)]));
    world.kernel.ipvs.fail_next_call(ErrorKind::Other);
    let report = world.sync(applied(service("third", "10.96.0.3")));
    assert_eq!(report.refusals.keys().next(), Some(&(TableName::Ipvs, None)), "a whole call");
    assert_eq!(report.planned, report.written + report.failed);
}

#[test]
fn traffic_is_added_up_by_service_if_that_is_configured() {
    let traffic = |world: &World| {
        let sums = world.reconciler.service_traffic();
        sums.filter_map(|(service, sum)| Some((service?.to_string(), sum.connections))).collect::<Vec<_>>()
    };
    let mut world = World::on(Kernel::new(), Config { service_traffic: true, ..config() });
    world.deliver(web().into_iter().chain([applied(service("other", "10.96.0.2"))]));
    world.run();
    let count = |world: &World, connections| {
        let counters = lb_types::TrafficCounters { connections, ..Default::default() };
        world.kernel.ipvs.set_traffic(web_vs(), rs("10.244.0.11"), counters);
    };
    world.pass(SYNC_PERIOD);
    count(&world, 7);
    world.pass(SYNC_PERIOD);
    assert_eq!(traffic(&world), [("default/web".to_owned(), 7)]);
    world.sync(deleted("web"));
    world.pass(SYNC_PERIOD * 2);
    assert_eq!(traffic(&world), []);
    let mut world = World::synced(web());
    count(&world, 7);
    world.pass(SYNC_PERIOD * 2);
    assert_eq!(world.reconciler.service_traffic().count(), 0, "nothing is counted by default");
}
