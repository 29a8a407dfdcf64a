//! What the kernel refuses: each refusal costs what depends on it, and nothing else.

use dataplane::Touched;
use lb_types::{IpvsOp, RuleElement, RuleSet, RulesOp, Scheduler};

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
        RulesOp::AddElement(e) if *e == RuleElement::vip(bad) => Some(22),
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
        s.endpoints = (1..=10)
            .map(|e| SliceEndpoint {
                addr: ip(&format!("fd00:10::{n:x}:{e:x}")),
                ready: true,
                serving: true,
                terminating: false,
                node: None,
                zone_hints: vec![],
                node_hints: vec![],
                pod: None,
            })
            .collect();
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
    let has = |set: RuleSet| world.kernel.rules.elements().iter().any(|e| e.set == set);
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
