use std::{cell::Cell, rc::Rc};

use proptest::prelude::*;

use super::*;

/// Input before and after a change of many kinds at once.
fn before() -> Vec<ModelEvent> {
    many(3).into_iter().chain(web()).collect()
}

fn after() -> Vec<ModelEvent> {
    let gone_from_web = [applied(service("web", WEB)), ready("web", &["10.244.0.12", "10.244.0.13"])];
    let new = [
        applied(udp(service("dns", "10.96.9.9"))),
        slice("dns", Protocol::Udp, &[("10.244.0.20", Is::Ready)]),
    ];
    many(2).into_iter().chain(gone_from_web).chain(new).collect()
}

/// A process that dies after `writes` writes to the kernel, while it brings the kernel from `before` to
/// `after`.
fn crash_after(writes: usize) -> Kernel {
    let mut world = World::synced(before());
    let left = Rc::new(Cell::new(writes));
    let spend = move || match left.get() {
        0 => Some(5),
        n => {
            left.set(n - 1);
            None
        }
    };
    let (ipvs, vips, rules) = (spend.clone(), spend.clone(), spend);
    world.kernel.ipvs.refuse(move |_| ipvs());
    world.kernel.vips.refuse(move |_| vips());
    world.kernel.rules.refuse(move |_| rules());
    world.send(deleted("s2"));
    for event in after() {
        world.send(event);
    }
    world.reconciler.step(world.now);
    world.kernel.ipvs.refuse_nothing();
    world.kernel.vips.refuse_nothing();
    world.kernel.rules.refuse_nothing();
    world.kernel
}

#[test]
fn a_crash_at_any_write_is_repaired_by_the_next_start() {
    let expect = World::synced(after()).kernel.state();
    for writes in 0..40 {
        let mut world = World::on(crash_after(writes), config());
        world.deliver(after());
        world.pass(Duration::from_secs(60));
        assert_eq!(world.kernel.state(), expect, "after a crash at write {writes}");
    }
}

/// Events that may happen to a running loop.
#[derive(Clone, Debug)]
enum Step {
    Endpoints(u8, u8),
    Delete(u8),
    Create(u8),
    Pass(u16),
    FailNext(i32),
    Flush,
    DeleteTable,
    DeleteLink,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0u8..3, 0u8..16).prop_map(|(service, set)| Step::Endpoints(service, set)),
        1 => (0u8..3).prop_map(Step::Delete),
        3 => (0u8..3).prop_map(Step::Create),
        3 => (0u16..40_000).prop_map(Step::Pass),
        1 => prop_oneof![Just(2), Just(3), Just(5), Just(12), Just(17)].prop_map(Step::FailNext),
        1 => Just(Step::Flush),
        1 => Just(Step::DeleteTable),
        1 => Just(Step::DeleteLink),
        1 => Just(Step::Restart),
    ]
}

/// The API's side of the story.
#[derive(Default)]
struct Api {
    services: [bool; 3],
    endpoints: [u8; 3],
}

impl Api {
    fn slice(&self, n: u8) -> ModelEvent {
        let bits = self.endpoints[usize::from(n)];
        let addrs: Vec<_> =
            (0..4).filter(|bit| bits & (1 << bit) != 0).map(|bit| format!("10.244.{n}.{bit}")).collect();
        ready(&format!("s{n}"), &addrs.iter().map(String::as_str).collect::<Vec<_>>())
    }

    fn service(n: u8) -> ModelEvent {
        applied(service(&format!("s{n}"), &format!("10.96.1.{n}")))
    }

    fn all(&self) -> Vec<ModelEvent> {
        let services = (0..3).filter(|n| self.services[usize::from(*n)]).map(Api::service);
        services.chain((0..3).map(|n| self.slice(n))).collect()
    }
}

fn play(world: &mut World, api: &mut Api, step: Step) {
    match step {
        Step::Endpoints(n, set) => {
            api.endpoints[usize::from(n)] = set;
            world.sync(api.slice(n));
        }
        Step::Delete(n) => {
            api.services[usize::from(n)] = false;
            world.sync(deleted(&format!("s{n}")));
        }
        Step::Create(n) => {
            api.services[usize::from(n)] = true;
            world.sync(Api::service(n));
        }
        Step::Pass(millis) => world.pass(Duration::from_millis(millis.into())),
        Step::FailNext(errno) => {
            world.kernel.ipvs.fail_next(errno);
            world.kernel.vips.fail_next(errno);
            world.kernel.rules.fail_next(errno);
        }
        Step::Flush => world.kernel.ipvs.flush(),
        Step::DeleteTable => world.kernel.rules.delete_table(),
        Step::DeleteLink => world.kernel.vips.delete_link(),
        Step::Restart => drop(world.restart(api.all())),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Whatever happens, once it is quiet the kernel holds exactly what the objects say.
    #[test]
    fn the_kernel_converges_to_the_objects(steps in proptest::collection::vec(step(), 1..30)) {
        let (mut world, mut api) = (World::new(), Api::default());
        world.deliver(api.all());
        world.run();
        for step in steps {
            play(&mut world, &mut api, step);
        }
        world.pass(Duration::from_secs(200));
        let expect = World::synced(api.all()).kernel.state();
        prop_assert_eq!(world.kernel.state(), expect);
        prop_assert_eq!(world.reconciler.totals().retrying, 0);
    }
}
