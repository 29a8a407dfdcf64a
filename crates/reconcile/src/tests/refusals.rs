//! Refusals by the kernel: each costs what depends on it, and nothing else.

use dataplane::{ErrorKind, Touched};
use lb_types::{IpvsOp, RuleElement, RuleSet, RulesOp, Scheduler, VipOp};
use proptest::{collection::vec, prelude::*};

use super::*;

#[test]
fn endpoints_follow_the_api_while_nftables_refuses_the_layout() {
    let mut world = World::synced(web());
    world.kernel.rules.delete_table();
    world.kernel.rules.refuse(|op| matches!(op, RulesOp::InstallLayout(_)).then_some(12));
    world.reconciler.handle(Event::Touched(Touched::Rules));
    world.run();
    world.send(slice("web", Protocol::Tcp, &[("10.244.0.11", Is::Terminating), ("10.244.0.13", Is::Ready)]));
    world.pass(Duration::from_secs(120));
    world.send(ready("web", &["10.244.0.13"]));
    world.pass(Duration::from_secs(120));
    assert_eq!(world.kernel.weights(web_vs()), [(13, 1)], "the others are dead for minutes");
}

#[test]
fn one_refused_element_stops_no_other_service() {
    let kernel = Kernel::new();
    let bad = ip("10.96.0.1");
    kernel.rules.refuse(move |op| match op {
        RulesOp::AddElement(e) if *e == RuleElement::Vip(bad) => Some(22),
        _ => None,
    });
    let mut world = World::on(kernel, config());
    world.deliver(many(20).into_iter().chain(web()));
    world.pass(Duration::from_secs(120));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)]);
}

#[test]
fn every_service_whose_scheduler_is_missing_gets_the_default() {
    let kernel = Kernel::new();
    kernel.ipvs.set_schedulers([Scheduler::RR]);
    let mut world = World::on(kernel, config());
    let named = |name: &str, vip: &str| {
        let mut service = service(name, vip);
        service.settings.scheduler = Some(Scheduler::MH);
        applied(service)
    };
    world.deliver([
        named("a", "10.96.0.1"),
        ready("a", &["10.244.0.1"]),
        named("b", "10.96.0.2"),
        ready("b", &["10.244.0.2"]),
    ]);
    world.pass(Duration::from_secs(300));
    assert_eq!(world.kernel.weights(vs("10.96.0.1", Protocol::Tcp)), [(1, 1)]);
    assert_eq!(world.kernel.weights(vs("10.96.0.2", Protocol::Tcp)), [(2, 1)]);
}

#[test]
fn a_refused_family_costs_no_dumps() {
    let kernel = Kernel::new();
    kernel.ipvs.refuse(|op| {
        let v6 = op.virtual_server().family() == lb_types::IpFamily::V6;
        match op {
            IpvsOp::AddVirtualServer { .. } if v6 => Some(97),
            IpvsOp::AddRealServer { .. } if v6 => Some(3),
            _ => None,
        }
    });
    let mut world = World::on(kernel, config());
    let six = |n: usize| {
        let name = format!("x{n}");
        let ModelEvent::SliceApplied(mut s) = ready(&name, &[]) else { unreachable!() };
        s.family = lb_types::IpFamily::V6;
        s.endpoints = (1..=10).map(|e| plain_endpoint(ip(&format!("fd00:10::{n:x}:{e:x}")))).collect();
        [
            applied(Service { cluster_ips: vec![ip(&format!("fd00:96::{n:x}"))], ..service(&name, WEB) }),
            ModelEvent::SliceApplied(s),
        ]
    };
    world.deliver((1..500).flat_map(six));
    world.run();
    world.pass(Duration::from_secs(120));
    let before = world.kernel.ipvs.requests();
    world.pass(Duration::from_secs(30));
    let requests = world.kernel.ipvs.requests() - before;
    assert!(requests < 1500, "{requests} requests in 30 s for 499 virtual servers that cannot be");
}

#[test]
fn the_vip_element_stays_while_its_route_cannot_be_deleted() {
    let mut world = World::synced([applied(service("web", WEB))]);
    world.kernel.vips.refuse(|op| matches!(op, lb_types::VipOp::DeleteRoute { .. }).then_some(12));
    world.sync(deleted("web"));
    assert!(world.kernel.vips.routes().contains_key(&ip(WEB)));
    let has = |set: RuleSet| world.kernel.rules.elements().iter().any(|e| e.set() == set);
    assert!(has(RuleSet::Vips), "packets to the VIP reach daemons of the host");
}

#[test]
fn an_address_stays_while_the_route_of_its_vip_is_refused() {
    let kernel = Kernel::new();
    let mut first = World::on(kernel.clone(), config());
    first.deliver([]);
    first.run();
    kernel.vips.add_address(ip(WEB));
    kernel.vips.refuse(|op| matches!(op, lb_types::VipOp::EnsureRoute { .. }).then_some(12));
    let mut world = World::on(kernel, config());
    world.deliver(web());
    world.run();
    assert!(world.kernel.vips.addresses().contains(&ip(WEB)));
}

/// Tells whether the kernel refuses new connections to the Service.
fn is_refused(world: &World) -> bool {
    let port = web_vs().vip_port().unwrap();
    world.kernel.rules.elements().contains(&RuleElement::Refuse(port))
}

/// A kernel with a node address in 10.244.0.0/24, whose broadcast address is no real server.
fn with_broadcast() -> Kernel {
    let kernel = Kernel::new();
    kernel.ipvs.set_broadcasts(["10.244.0.255".parse().unwrap()]);
    kernel
}

fn none_yet() -> World {
    let mut world = World::on(with_broadcast(), config());
    world.deliver([applied(service("web", WEB)), ready("web", &[])]);
    world.run();
    assert!(is_refused(&world));
    world
}

const GOOD: &str = "10.244.0.11";
const BROADCAST: &str = "10.244.0.255";

#[test]
fn one_refused_real_server_keeps_no_other_one_from_serving() {
    let mut world = none_yet();
    world.sync(ready("web", &[GOOD, "10.244.0.12", BROADCAST]));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)]);
    assert!(!is_refused(&world), "at once, not after the next try");
    let before = world.kernel.requests();
    for _ in 0..120 {
        world.pass(Duration::from_secs(1));
        assert!(!is_refused(&world));
    }
    let requests = world.kernel.requests() - before;
    assert!(requests < 120, "{requests} requests in two minutes");
}

#[test]
fn a_service_whose_only_real_server_is_refused_answers_with_resets() {
    let mut world = none_yet();
    world.sync(ready("web", &[BROADCAST]));
    for _ in 0..60 {
        assert!(is_refused(&world), "nobody would answer");
        world.pass(Duration::from_secs(1));
    }
    world.sync(ready("web", &[BROADCAST, GOOD]));
    assert!(!is_refused(&world));
    world.sync(ready("web", &[BROADCAST]));
    assert!(is_refused(&world), "the last one that serves is quiesced");
    world.sync(ready("web", &[GOOD]));
    assert!(!is_refused(&world));
    // A Service that is new.
    let mut world = World::on(with_broadcast(), config());
    world.deliver([applied(service("web", WEB)), ready("web", &[BROADCAST])]);
    world.run();
    assert!(is_refused(&world));
}

#[test]
fn refused_settings_of_a_virtual_server_keep_no_endpoint_from_serving() {
    let mut world = none_yet();
    world.kernel.ipvs.refuse(|op| matches!(op, IpvsOp::SetVirtualServer { .. }).then_some(22));
    let mut web = service("web", WEB);
    web.settings.scheduler = Some(Scheduler::WRR);
    world.send(applied(web));
    world.sync(ready("web", &[GOOD]));
    assert!(!is_refused(&world));
}

#[test]
fn a_real_server_that_has_drained_does_not_wait_for_one_that_is_refused() {
    let mut world = none_yet();
    world.sync(ready("web", &[GOOD, "10.244.0.12", BROADCAST]));
    world.pass(Duration::from_secs(300));
    world.sync(ready("web", &["10.244.0.12", BROADCAST]));
    world.pass(Duration::from_secs(7));
    assert_eq!(world.kernel.weights(web_vs()), [(12, 1)], "tried again every 30 s by now");
}

#[test]
fn a_virtual_server_that_cannot_be_deleted_keeps_its_elements() {
    let mut world = World::synced([applied(service("web", WEB)), applied(service("api", "10.96.255.81"))]);
    world.kernel.ipvs.refuse(|op| matches!(op, IpvsOp::DeleteVirtualServer { .. }).then_some(16));
    world.sync(deleted("web"));
    let port = web_vs().vip_port().unwrap();
    let named = RuleElement::Service(port);
    for _ in 0..60 {
        assert!(is_refused(&world) && world.kernel.rules.elements().contains(&named));
        world.pass(Duration::from_secs(1));
    }
    world.kernel.ipvs.refuse_nothing();
    world.pass(Duration::from_secs(30));
    assert!(!is_refused(&world) && !world.kernel.rules.elements().contains(&named));
}

#[test]
fn one_refused_element_keeps_no_other_one_of_its_service() {
    let mut world = none_yet();
    let gone = web_vs().vip_port().unwrap();
    world.kernel.rules.refuse(move |op| match op {
        RulesOp::DeleteElement(element) if *element == RuleElement::Service(gone) => Some(16),
        _ => None,
    });
    world.sync(deleted("web"));
    assert!(!is_refused(&world));
}

#[test]
fn a_new_port_of_a_vip_that_is_routed_does_not_wait_for_the_link() {
    let mut world = World::synced(web());
    world.kernel.vips.set_link_down();
    world.kernel.vips.refuse(|op| matches!(op, VipOp::EnsureLink).then_some(12));
    world.reconciler.handle(Event::Touched(Touched::Vips));
    world.run();
    let mut two = service("web", WEB);
    two.ports.push(ServicePort { name: "b".into(), port: 81.try_into().unwrap(), ..two.ports[0].clone() });
    world.sync(applied(two));
    assert!(world.kernel.vips.routes().contains_key(&ip(WEB)), "IPv4 routes outlive a link that goes down");
    assert_eq!(world.kernel.ipvs.virtual_servers().len(), 2);
}

#[test]
fn a_table_that_cannot_be_dumped_keeps_no_other_one_in_doubt() {
    let mut world = World::synced(web());
    let before = world.kernel.state();
    for _ in 0..12 {
        world.kernel.vips.fail_next_call(ErrorKind::Transient);
    }
    world.reconciler.handle(Event::Touched(Touched::Vips));
    world.pass(Duration::from_secs(20));
    world.kernel.rules.delete_element(RuleElement::Vip(ip(WEB)));
    world.reconciler.handle(Event::Touched(Touched::Rules));
    world.pass(Duration::from_secs(1));
    assert_eq!(world.kernel.state(), before);
}

/// Writes that the kernel refuses for a while.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refused {
    Nothing,
    Additions,
    Weights,
    Removals,
    Settings,
    VirtualServer,
}

fn refuse(kernel: &Kernel, what: Refused, last: u8) {
    let is_it = move |rs: &RealServerId| rs.addr == IpAddr::from([10, 244, 0, last]);
    kernel.ipvs.refuse(move |op| {
        let refused = match op {
            IpvsOp::AddVirtualServer { .. } => what == Refused::VirtualServer,
            IpvsOp::SetVirtualServer { .. } => what == Refused::Settings,
            IpvsOp::AddRealServer { rs, .. } => what == Refused::Additions && is_it(rs),
            IpvsOp::SetRealServer { rs, .. } => what == Refused::Weights && is_it(rs),
            IpvsOp::DeleteRealServer { rs, .. } => what == Refused::Removals && is_it(rs),
            IpvsOp::DeleteVirtualServer { .. } => false,
        };
        refused.then_some(12)
    });
}

fn refusal() -> impl Strategy<Value = Refused> {
    prop_oneof![
        2 => Just(Refused::Nothing),
        4 => Just(Refused::Additions),
        2 => Just(Refused::Weights),
        1 => Just(Refused::Removals),
        1 => Just(Refused::Settings),
        1 => Just(Refused::VirtualServer),
    ]
}

proptest! {
    /// Whatever the kernel refuses: new connections are refused if and only if no real server that the API
    /// wants would take them.
    #[test]
    fn new_connections_are_refused_where_nobody_would_take_them(
        steps in vec((vec(any::<bool>(), 3), refusal(), 1..=3_u8, any::<bool>(), 0..8_u64), 1..12),
    ) {
        let mut world = World::synced([]);
        for (wanted, what, last, persistent, seconds) in steps {
            refuse(&world.kernel, what, last);
            let names = ["10.244.0.1", "10.244.0.2", "10.244.0.3"];
            let addrs: Vec<_> = names.into_iter().zip(&wanted).filter(|(_, is)| **is).map(|(a, _)| a).collect();
            let mut web = service("web", WEB);
            web.settings.scheduler = persistent.then_some(Scheduler::WRR);
            world.send(applied(web));
            world.send(ready("web", &addrs));
            world.run();
            for _ in 0..=seconds {
                let serving = world.kernel.weights(web_vs()).into_iter().filter(|(_, weight)| *weight > 0);
                let any = serving.clone().any(|(last, _)| wanted[usize::from(last) - 1]);
                prop_assert_eq!(is_refused(&world), !any, "{:?} of {:?}", serving.collect::<Vec<_>>(), wanted);
                world.pass(Duration::from_secs(1));
            }
        }
    }
}

#[test]
fn nothing_goes_before_what_replaces_it_has_come() {
    let mut world = World::synced(web());
    world.kernel.ipvs.fail_next_call(dataplane::ErrorKind::Transient);
    world.sync(ready("web", &["10.244.0.13"]));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)], "the call that adds has failed");
    world.pass(Duration::from_secs(5));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 0), (13, 1)]);
}
