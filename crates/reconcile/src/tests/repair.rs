use dataplane::{ErrorKind, Touched};
use lb_types::{IpvsOp, RealServer, RuleElement, VirtualServer, Weight};

use super::*;
use crate::Drift;

const EIO: i32 = 5;
const EEXIST: i32 = 17;

/// Damages a running world by somebody else's hand, waits, and checks that everything is as before.
fn check(damage: impl Fn(&Kernel), wait: Duration) {
    let mut world = World::synced(many(20).into_iter().chain(web()));
    let before = world.kernel.state();
    damage(&world.kernel);
    assert_ne!(world.kernel.state(), before, "the damage must show");
    world.pass(wait);
    assert_eq!(world.kernel.state(), before);
    let requests = world.kernel.ipvs.ops().len();
    world.pass(SYNC_PERIOD * 3);
    assert_eq!(world.kernel.ipvs.ops().len(), requests, "repaired once, then quiet");
}

#[test]
fn the_audit_repairs_what_others_did() {
    let wait = SYNC_PERIOD + Duration::from_secs(5);
    check(|kernel| kernel.ipvs.flush(), wait);
    check(|kernel| kernel.ipvs.by_another(IpvsOp::DeleteVirtualServer { vs: web_vs() }), wait);
    let rs = rs("10.244.0.11");
    check(|kernel| kernel.ipvs.by_another(IpvsOp::DeleteRealServer { vs: web_vs(), rs }), wait);
    let settings = RealServer::SERVING.with_weight(Weight(7));
    check(|kernel| kernel.ipvs.by_another(IpvsOp::SetRealServer { vs: web_vs(), rs, settings }), wait);
    let settings = RealServer::SERVING.with_weight(Weight::QUIESCED);
    check(|kernel| kernel.ipvs.by_another(IpvsOp::SetRealServer { vs: web_vs(), rs, settings }), wait);
    let settings = VirtualServer::new(lb_types::Scheduler::WRR);
    check(|kernel| kernel.ipvs.by_another(IpvsOp::SetVirtualServer { vs: web_vs(), settings }), wait);
    check(|kernel| kernel.vips.delete_route(ip(WEB)), wait);
    check(|kernel| kernel.vips.delete_link(), wait);
    check(|kernel| kernel.rules.delete_table(), wait);
    check(|kernel| kernel.rules.delete_element(RuleElement::Vip(ip(WEB))), wait);
    check(|kernel| kernel.rules.add_element(RuleElement::Vip(ip("10.1.1.1"))), wait);
    check(|kernel| kernel.rules.change_chains(), wait);
}

#[test]
fn a_draining_real_server_that_somebody_lets_serve_again_is_quiesced_and_drains_on() {
    let mut world = World::synced(web());
    let rs = rs("10.244.0.11");
    let connections = lb_types::ConnectionCounters { active: 1, inactive: 0, persistent: 0 };
    world.kernel.ipvs.set_connections(web_vs(), rs, connections);
    world.sync(ready("web", &["10.244.0.12"]));
    let since = world.reconciler.state().drains.iter().next().map(|(_, drain)| drain.since);
    world.kernel.ipvs.by_another(IpvsOp::SetRealServer { vs: web_vs(), rs, settings: RealServer::SERVING });
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)]);
    // The next poll reads the weight as well.
    world.pass(Duration::from_secs(6));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 1)]);
    assert_eq!(
        world.reconciler.state().drains.iter().next().map(|(_, drain)| drain.since),
        since,
        "the same drain"
    );
    world.kernel.ipvs.set_connections(web_vs(), rs, lb_types::ConnectionCounters::default());
    world.pass(Duration::from_secs(20));
    assert_eq!(world.kernel.weights(web_vs()), [(12, 1)]);
}

#[test]
fn a_notification_repairs_at_once() {
    type Damage = fn(&Kernel);
    let damages: [(Damage, Touched); 3] = [
        (|kernel| kernel.vips.delete_link(), Touched::Vips),
        (|kernel| kernel.vips.delete_route(ip(WEB)), Touched::Vips),
        (|kernel| kernel.rules.delete_table(), Touched::Rules),
    ];
    for (damage, touched) in damages {
        let mut world = World::synced(web());
        let before = world.kernel.state();
        damage(&world.kernel);
        world.reconciler.handle(Event::Touched(touched));
        let report = world.run();
        let Drift { ipvs, vips, rules } = report.drift;
        let of_table = if touched == Touched::Vips { vips } else { rules };
        assert!(of_table > 0 && report.written > 0, "{report}");
        assert_eq!(of_table, ipvs + vips + rules, "nothing else was changed");
        assert_eq!(world.kernel.state(), before);
    }
}

#[test]
fn an_unknown_real_server_of_ours_is_drained_and_a_foreign_virtual_server_left_alone() {
    let mut world = World::synced(web());
    let foreign = vs("172.16.0.1", Protocol::Tcp);
    for vs in [foreign, web_vs()] {
        if vs == foreign {
            let settings = VirtualServer::new(lb_types::Scheduler::WRR);
            world.kernel.ipvs.by_another(IpvsOp::AddVirtualServer { vs, settings });
        }
        let settings = RealServer::SERVING.with_weight(Weight(3));
        world.kernel.ipvs.by_another(IpvsOp::AddRealServer { vs, rs: rs("10.0.0.99"), settings });
    }
    world.pass(SYNC_PERIOD * 2);
    assert_eq!(world.kernel.weights(foreign), [(99, 3)]);
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)]);
}

/// Conformance: runner retry interval
#[test]
fn one_refused_write_stops_no_other_and_is_tried_again_with_backoff() {
    let kernel = Kernel::new();
    let refused = rs("10.244.0.11");
    kernel.ipvs.refuse(move |op| match op {
        IpvsOp::AddRealServer { rs, .. } if *rs == refused => Some(EIO),
        _ => None,
    });
    let mut world = World::on(kernel, config());
    world.deliver(many(20).into_iter().chain(web()));
    let report = world.run();
    assert_eq!(report.failed, 1);
    assert_eq!(world.kernel.weights(web_vs()), [(12, 1)]);
    assert_eq!(world.kernel.ipvs.virtual_servers().len(), 21);
    let before = world.kernel.ipvs.requests();
    world.pass(Duration::from_secs(25));
    let tries = world.kernel.ipvs.requests() - before;
    assert!((6..=9).contains(&tries), "100 ms doubling: {tries} tries in 25 s");
    world.kernel.ipvs.refuse_nothing();
    world.pass(Duration::from_secs(30));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)]);
    assert_eq!(world.reconciler.totals().retrying, 0);
}

#[test]
fn any_single_failing_write_heals() {
    for nth in 1..=12 {
        let kernel = Kernel::new();
        kernel.ipvs.fail_nth(nth, EIO);
        kernel.vips.fail_nth(nth, EIO);
        kernel.rules.fail_nth(nth, EIO);
        let mut world = World::on(kernel, config());
        world.deliver(many(3).into_iter().chain(web()));
        world.pass(Duration::from_secs(2));
        let expect = World::synced(many(3).into_iter().chain(web()));
        assert_eq!(world.kernel.state(), expect.kernel.state(), "after failure {nth}");
    }
}

#[test]
fn a_mirror_that_was_wrong_is_corrected_without_waiting_for_the_audit() {
    let mut world = World::synced(web());
    let settings = RealServer::SERVING;
    world.kernel.ipvs.by_another(IpvsOp::AddRealServer { vs: web_vs(), rs: rs("10.244.0.13"), settings });
    world.send(ready("web", &["10.244.0.11", "10.244.0.12", "10.244.0.13"]));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1), (13, 1)]);
    assert_eq!(world.reconciler.totals().retrying, 0, "EEXIST ({EEXIST}) is understood");
}

#[test]
fn lost_answers_lead_to_a_dump() {
    let mut world = World::synced(web());
    world.kernel.ipvs.lose_replies_next();
    world.kernel.ipvs.fail_next(EIO);
    world.send(ready("web", &["10.244.0.11", "10.244.0.12", "10.244.0.13"]));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1), (13, 1)]);
}

/// Conformance: ipvs/supported TestCanUseIPVSProxier
#[test]
fn a_kernel_that_cannot_be_dumped_at_start_is_waited_for() {
    for kind in [ErrorKind::NotSupported, ErrorKind::Transient] {
        let kernel = Kernel::new();
        kernel.ipvs.fail_next_call(kind);
        kernel.vips.fail_next_call(kind);
        kernel.rules.fail_next_call(kind);
        let mut world = World::on(kernel, config());
        world.deliver(web());
        world.run();
        assert!(!world.reconciler.is_running());
        world.pass(Duration::from_secs(2));
        assert!(world.reconciler.is_running());
        assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)]);
    }
}

#[test]
fn a_link_of_another_type_is_reported_and_nothing_is_programmed_until_it_is_gone() {
    let kernel = Kernel::new();
    kernel.vips.add_foreign_link();
    let mut world = World::on(kernel, config());
    world.deliver(web());
    world.pass(Duration::from_secs(5));
    assert!(world.kernel.ipvs.virtual_servers().is_empty());
    world.kernel.vips.delete_link();
    world.pass(SYNC_PERIOD * 2);
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)]);
    assert!(world.kernel.vips.routes().contains_key(&ip(WEB)));
}

#[test]
fn a_failure_made_good_along_with_something_else_leaves_nothing_to_do() {
    let mut world = World::synced([]);
    world.kernel.vips.delete_link();
    for _ in 0..3 {
        world.kernel.ipvs.fail_next(EIO);
        world.kernel.vips.fail_next(EIO);
        world.kernel.rules.fail_next(EIO);
    }
    world.sync(applied(service("web", WEB)));
    world.pass(Duration::from_secs(5));
    assert!(world.kernel.vips.routes().contains_key(&ip(WEB)));
    assert_eq!(world.reconciler.totals().retrying, 0);
}

#[test]
fn a_call_that_fails_as_a_whole_is_repeated_soon() {
    let mut world = World::synced(web());
    let fails: [fn(&Kernel); 3] = [
        |kernel| kernel.ipvs.fail_next_call(ErrorKind::Transient),
        |kernel| kernel.vips.fail_next_call(ErrorKind::Transient),
        |kernel| kernel.rules.fail_next_call(ErrorKind::Transient),
    ];
    for (n, fail) in fails.into_iter().enumerate() {
        let (name, vip) = (format!("new{n}"), format!("10.96.3.{n}"));
        fail(&world.kernel);
        world.send(applied(service(&name, &vip)));
        world.pass(Duration::from_secs(1));
        assert!(world.kernel.vips.routes().contains_key(&ip(&vip)), "{name}");
        assert!(world.kernel.ipvs.virtual_servers().contains_key(&vs(&vip, Protocol::Tcp)), "{name}");
    }
}

#[test]
fn the_audit_writes_kernel_parameters_that_others_changed() {
    let mut world = World::synced(web());
    world.kernel.sysctls.set("net/ipv4/vs/conntrack", 0);
    world.pass(SYNC_PERIOD * 2);
    assert_eq!(world.kernel.sysctls.get("net/ipv4/vs/conntrack"), Some(1));
}

#[test]
fn an_interrupted_audit_is_not_given_up() {
    let mut world = World::synced(web());
    world.kernel.ipvs.lose_replies_next();
    world.kernel.ipvs.fail_next(5);
    world.sync(ready("web", &["10.244.0.11", "10.244.0.12", "10.244.0.13"]));
    world.reconciler.step(world.now);
    world.kernel.ipvs.fail_next_call(ErrorKind::Transient);
    world.pass(Duration::from_secs(20));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1), (13, 1)]);
}
