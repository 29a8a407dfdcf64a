//! Audit, polls and changes take turns.

use dataplane::{ErrorKind, Touched};
use lb_types::{ConnectionCounters, Scheduler, VirtualServer};
use proptest::{collection::vec, prelude::*};

use super::*;

/// Work that keeps the loop busy.
#[derive(Clone, Copy, Debug)]
enum Burden {
    /// The cluster announces another prefix: everything is audited at once.
    Announced(u8),
    /// Dumps of IPVS fail.
    FailedDumps(usize),
    /// Somebody writes to a table all the time.
    Touched(Touched),
    /// Answers of the kernel are lost: virtual servers are suspect.
    LostReplies,
    /// This many virtual servers begin to drain.
    Drains(usize),
    /// Somebody has changed virtual servers.
    Damage(usize),
    /// Steps pass.
    Steps(usize),
    /// Time passes.
    Wait(u64),
}

const SERVICES: usize = 100;

fn bear(world: &mut World, burden: Burden) {
    match burden {
        Burden::Announced(n) => {
            world.send(ModelEvent::ServiceCidrsApplied(vec![format!("10.97.{n}.0/24").parse().unwrap()]));
        }
        Burden::FailedDumps(count) => {
            for _ in 0..count {
                world.kernel.ipvs.fail_next_call(ErrorKind::Transient);
            }
        }
        Burden::Touched(table) => world.reconciler.handle(Event::Touched(table)),
        Burden::LostReplies => {
            world.kernel.ipvs.lose_replies_next();
            for n in 0..20 {
                world.send(ready(&format!("s{n}"), &["10.244.9.1"]));
            }
        }
        Burden::Drains(count) => {
            for n in 0..count {
                world.send(ready(&format!("s{}", SERVICES - 1 - n), &[]));
            }
        }
        Burden::Damage(count) => {
            let settings = VirtualServer::new(Scheduler::WRR);
            for vs in world.kernel.ipvs.virtual_servers().into_keys().take(count) {
                world.kernel.ipvs.by_another(lb_types::IpvsOp::SetVirtualServer { vs, settings });
            }
        }
        Burden::Steps(count) => {
            for _ in 0..count {
                world.reconciler.step(world.now);
            }
        }
        Burden::Wait(ms) => world.now += Duration::from_millis(ms),
    }
}

/// Connections that keep every drain going.
fn connect(world: &World) {
    let connections = ConnectionCounters { active: 1, inactive: 0, persistent: 0 };
    for (vs, (_, real_servers)) in world.kernel.ipvs.virtual_servers() {
        for rs in real_servers.keys() {
            world.kernel.ipvs.set_connections(vs, *rs, connections);
        }
    }
}

fn burden() -> impl Strategy<Value = Burden> {
    prop_oneof![
        any::<u8>().prop_map(Burden::Announced),
        (1..30_usize).prop_map(Burden::FailedDumps),
        Just(Burden::Touched(Touched::Vips)),
        Just(Burden::Touched(Touched::Rules)),
        Just(Burden::LostReplies),
        (1..=SERVICES).prop_map(Burden::Drains),
        (1..=SERVICES).prop_map(Burden::Damage),
        (0..10_usize).prop_map(Burden::Steps),
        (0..40_000_u64).prop_map(Burden::Wait),
    ]
}

/// Steps until a change has been planned.
fn steps_of_a_change(world: &mut World, last: u8) -> usize {
    world.send(ready("web", &[&format!("10.244.7.{last}")]));
    let planned = |world: &mut World| world.reconciler.step(world.now).services > 0;
    (1..100).find(|_| planned(world)).expect("planned at all")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn no_change_waits_for_more_than_two_steps_that_are_not_its_own(
        rounds in vec(vec(burden(), 0..8), 1..8),
    ) {
        let mut world = World::synced(many(SERVICES).into_iter().chain(web()));
        connect(&world);
        for (burdens, last) in rounds.into_iter().zip(1..) {
            for burden in &burdens {
                bear(&mut world, *burden);
            }
            let steps = steps_of_a_change(&mut world, last);
            prop_assert!(steps <= 3, "{steps} steps after {burdens:?}");
        }
    }
}

#[test]
fn a_requested_audit_of_2000_services_holds_back_neither_changes_nor_polls() {
    let mut world = World::synced(many(2000).into_iter().chain(web()));
    connect(&world);
    for n in 0..8 {
        world.send(ready(&format!("s{n}"), &[]));
    }
    world.run();
    world.pass(Duration::from_secs(5));
    bear(&mut world, Burden::Announced(1));
    let looked_at = |world: &World| world.kernel.ipvs.requests();
    let before = looked_at(&world);
    for last in 1..100 {
        let steps = steps_of_a_change(&mut world, last);
        assert!(steps <= 3, "{steps} steps");
        world.now += Duration::from_millis(20);
    }
    assert!(looked_at(&world) > before + 99 * 4, "and the audit goes on");
    let polled = world.reconciler.state().drains.iter().map(|(_, drain)| drain.last_activity).min();
    assert!(polled.is_some_and(|at| at + Duration::from_secs(3) > world.now), "polled at {polled:?}");
}
