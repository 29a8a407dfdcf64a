//! Limits that the loop keeps to: the audit's share of a core, and the distance between syncs.

use dataplane::Touched;
use lb_types::{IpvsOp, RealServer, RuleElement, VirtualServer, Weight};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

/// Lets time pass in which every step takes `cost` of a core; returns what all steps together took.
fn pass_at(world: &mut World, duration: Duration, cost: Duration) -> Duration {
    let (end, mut total) = (world.now + duration, Duration::ZERO);
    while let Some(due) = world.reconciler.next_wakeup(world.now).filter(|due| *due <= end) {
        world.now = world.now.max(due);
        let Report { step, .. } = world.reconciler.step(world.now);
        world.now += cost;
        world.reconciler.charge(step, cost, world.now);
        total += cost;
    }
    world.now = world.now.max(end);
    total
}

/// Lets every part of the audit take so long that it rests for hours.
fn rest(world: &mut World) {
    pass_at(world, SYNC_PERIOD * 20, Duration::from_secs(100));
    let due = world.reconciler.next_wakeup(world.now).unwrap();
    assert!(due > world.now + HOUR);
}

/// Real servers of every 10th virtual server, a virtual server, a route and an element are changed by others.
fn damage(kernel: &Kernel) {
    for (vs, (_, real_servers)) in kernel.ipvs.virtual_servers().into_iter().step_by(10) {
        let settings = RealServer::SERVING.with_weight(Weight(7));
        let rs = *real_servers.keys().next().unwrap();
        kernel.ipvs.by_another(IpvsOp::SetRealServer { vs, rs, settings });
    }
    let settings = VirtualServer::new(lb_types::Scheduler::WRR);
    kernel.ipvs.by_another(IpvsOp::SetVirtualServer { vs: web_vs(), settings });
    kernel.vips.delete_route(ip(WEB));
    kernel.rules.delete_element(RuleElement::Vip(ip(WEB)));
}

/// Share of a core that an hour of audits takes, in hundredths of a percent, and the time for which damage
/// stays.
fn check(services: usize, slice: Duration) -> (u128, Duration) {
    let mut world = World::synced(many(services).into_iter().chain(web()));
    let before = world.kernel.state();
    let took = pass_at(&mut world, HOUR, slice);
    damage(&world.kernel);
    let damaged = world.now;
    while world.kernel.state() != before {
        assert!(world.now < damaged + HOUR, "the audit must find it");
        pass_at(&mut world, Duration::from_secs(5), slice);
    }
    (took.as_micros() * 10_000 / HOUR.as_micros(), world.now - damaged)
}

/// Conformance: runner max interval
#[test]
fn tables_that_are_cheap_to_compare_are_audited_every_sync_period() {
    let (share, healed) = check(100, Duration::from_millis(1));
    assert!(share <= 50, "{share}");
    assert!(healed <= SYNC_PERIOD + Duration::from_secs(10), "{healed:?}");
}

#[test]
fn small_tables_are_audited_every_sync_period_however_slow_the_machine() {
    let (_, healed) = check(20, Duration::from_millis(500));
    assert!(healed <= SYNC_PERIOD * 2 + Duration::from_secs(10), "{healed:?}");
}

#[test]
fn the_audit_of_large_tables_keeps_to_half_a_percent_of_a_core_and_still_finds_everything() {
    // 501 slices of real servers, each followed by 1.25 s of rest.
    let (share, healed) = check(2000, Duration::from_micros(2500));
    assert!((20..=50).contains(&share), "{share}");
    assert!(healed <= Duration::from_secs(501 * 5 / 4 + 60), "{healed:?}");
}

#[test]
fn what_is_suspect_is_compared_at_once_however_much_the_audit_has_taken() {
    let mut world = World::synced(many(200).into_iter().chain(web()));
    rest(&mut world);
    let before = world.kernel.state();
    let soon = Duration::from_secs(1);

    world.kernel.vips.delete_route(ip(WEB));
    world.reconciler.handle(Event::Touched(Touched::Vips));
    world.kernel.rules.delete_element(RuleElement::Vip(ip(WEB)));
    world.reconciler.handle(Event::Touched(Touched::Rules));
    world.pass(soon);
    assert_eq!(world.kernel.state(), before);

    world.kernel.ipvs.lose_replies_next();
    world.kernel.ipvs.fail_next(5);
    world.send(ready("web", &["10.244.0.11", "10.244.0.12", "10.244.0.13"]));
    let dumps = world.kernel.ipvs.requests();
    world.pass(soon);
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1), (13, 1)]);
    let dumps = world.kernel.ipvs.requests() - dumps;
    assert_eq!(dumps, 1 + 2 + 1, "the write, the list, the one that is suspect, the write again");
}

#[test]
fn a_failed_dump_of_what_is_suspect_is_repeated_soon() {
    let mut world = World::synced(many(200).into_iter().chain(web()));
    rest(&mut world);
    let before = world.kernel.state();
    world.kernel.rules.delete_element(RuleElement::Vip(ip(WEB)));
    world.kernel.rules.fail_next_call(dataplane::ErrorKind::Transient);
    world.reconciler.handle(Event::Touched(Touched::Rules));
    let requests = world.kernel.ipvs.requests();
    pass_at(&mut world, Duration::from_secs(1), Duration::from_millis(1));
    assert_eq!(world.kernel.state(), before);
    assert_eq!(world.kernel.ipvs.requests(), requests, "and nothing else is in doubt");
    assert_eq!(world.reconciler.totals().retrying, 0);
}

#[test]
fn the_first_audit_comes_a_sync_period_after_the_start() {
    let mut world = World::new();
    world.deliver(many(2000).into_iter().chain(web()));
    // A slow start: each step takes longer than a sync period.
    while !world.reconciler.is_running() {
        world.now += SYNC_PERIOD * 2;
        world.reconciler.step(world.now);
    }
    world.run();
    assert_eq!(world.reconciler.next_wakeup(world.now), Some(world.now + SYNC_PERIOD));
}

#[test]
fn a_table_that_others_change_all_the_time_takes_a_tenth_of_a_core() {
    let mut world = World::synced(web());
    let (cost, begin, mut dumps) = (Duration::from_millis(50), world.now, 0);
    while world.now < begin + Duration::from_secs(60) {
        world.kernel.vips.delete_route(ip(WEB));
        world.reconciler.handle(Event::Touched(Touched::Vips));
        let before = world.kernel.vips.requests();
        let Report { step, .. } = world.reconciler.step(world.now);
        let dumped = world.kernel.vips.requests() > before;
        dumps += usize::from(dumped);
        world.now += if dumped { cost } else { Duration::from_millis(1) };
        world.reconciler.charge(step, if dumped { cost } else { Duration::ZERO }, world.now);
    }
    assert!((100..=125).contains(&dumps), "{dumps} in a minute");
    world.pass(Duration::from_secs(1));
    assert!(world.kernel.vips.routes().contains_key(&ip(WEB)), "the last word is ours");
}

/// Conformance: runner min interval
#[test]
fn changes_wait_for_the_minimal_sync_period_and_are_planned_together() {
    let minimal = Duration::from_secs(10);
    let mut world = World::on(Kernel::new(), Config { min_sync_period: minimal, ..config() });
    world.deliver(web());
    assert!(world.run().completed_start, "the start does not wait");
    let started = world.now;
    let endpoints = ["10.244.0.11", "10.244.0.12", "10.244.0.13", "10.244.0.14"];
    for count in [3, 4] {
        world.send(ready("web", &endpoints[..count]));
        world.pass(Duration::from_secs(1));
        assert_eq!(world.kernel.weights(web_vs()).len(), 2);
    }
    assert_eq!(world.reconciler.next_wakeup(world.now), Some(started + minimal));
    world.pass(minimal);
    assert_eq!(world.kernel.weights(web_vs()).len(), 4);
    world.pass(minimal);
    world.send(ready("web", &endpoints[..3]));
    assert_eq!(world.reconciler.next_wakeup(world.now), Some(world.now), "long after the last sync: at once");
}

#[test]
fn polls_of_a_great_many_drains_keep_to_their_share() {
    const COUNT: usize = 500;
    let mut world = World::synced(many(COUNT));
    rest(&mut world);
    let virtual_servers = world.kernel.ipvs.virtual_servers();
    for (vs, (_, real_servers)) in &virtual_servers {
        let connections = lb_types::ConnectionCounters { active: 1, inactive: 0, persistent: 0 };
        for rs in real_servers.keys() {
            world.kernel.ipvs.set_connections(*vs, *rs, connections);
        }
    }
    for n in 0..COUNT {
        world.send(ready(&format!("s{n}"), &[]));
    }
    let ends = [world.now + Duration::from_secs(120), world.now + Duration::from_secs(180)];
    let mut took = [Duration::ZERO; 2];
    for (part, end) in ends.into_iter().enumerate() {
        while let Some(due) = world.reconciler.next_wakeup(world.now).filter(|due| *due <= end) {
            world.now = world.now.max(due);
            let before = world.kernel.ipvs.requests();
            let Report { step, .. } = world.reconciler.step(world.now);
            let requests = u32::try_from(world.kernel.ipvs.requests() - before).unwrap();
            let cost = Duration::from_millis(1) * requests;
            world.now += cost;
            world.reconciler.charge(step, cost, world.now);
            took[part] += cost;
        }
    }
    assert_eq!(world.reconciler.state().drains.len(), 2 * COUNT);
    let [_, settled] = took;
    let share = settled.as_millis() * 1000 / 60_000;
    assert!((5..=12).contains(&share), "{settled:?} of a minute");
}
