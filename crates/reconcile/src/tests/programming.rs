use lb_types::{IpvsOp, RouteTable, Scheduler, VipOp};

use super::*;

#[test]
fn nothing_is_programmed_before_the_input_is_complete() {
    let mut world = World::new();
    for event in web() {
        world.send(event);
    }
    assert_eq!(world.reconciler.next_wakeup(world.now), None);
    assert_eq!(world.reconciler.step(world.now), Report::default());
    assert_eq!(world.kernel.requests(), 0);
    world.deliver([]);
    let report = world.run();
    assert!(report.completed_start && report.failed == 0, "{report}");
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)]);
    assert_eq!(world.kernel.vips.routes()[&ip(WEB)], Some(ip("192.168.50.10")));
    assert_eq!(world.kernel.sysctls.get("net/ipv4/vs/conntrack"), Some(1));
}

#[test]
fn a_step_without_news_sends_nothing() {
    let mut world = World::synced(web());
    let requests = world.kernel.requests();
    for event in web() {
        let report = world.sync(event);
        assert!(report.is_quiet(), "{report}");
    }
    assert_eq!(world.kernel.requests(), requests, "an object delivered again costs no request");
    assert_eq!(world.reconciler.next_wakeup(world.now), Some(world.now + SYNC_PERIOD), "the audit is next");
}

#[test]
fn a_burst_is_one_batch_per_table() {
    let mut world = World::synced(many(1000));
    let transactions = world.kernel.rules.transactions();
    for n in 0..1000 {
        let name = format!("s{n}");
        world.send(ready(&name, &["10.244.1.1", "10.244.1.2", "10.244.1.3"]));
    }
    let report = world.reconciler.step(world.now);
    assert_eq!((report.services, report.written), (1000, 5000), "three come and two go per service");
    assert_eq!(
        world.kernel.rules.transactions(),
        transactions,
        "no rule depends on endpoints of other nodes"
    );
}

#[test]
fn a_restart_on_the_same_input_writes_nothing() {
    let input = || many(50).into_iter().chain(web());
    let mut world = World::synced(input());
    let before = world.kernel.state();
    let report = world.restart(input());
    assert_eq!((report.written, report.failed, report.drift.total()), (0, 0, 0));
    assert!(report.completed_start);
    assert_eq!(world.kernel.state(), before);
}

#[test]
fn critical_services_come_first_and_what_is_left_over_goes_last() {
    let mut world = World::synced([applied(service("stale", "10.96.0.9"))]);
    world.kernel.ipvs.take_ops();
    let mut dns = service("kube-dns", "10.96.0.10");
    dns.critical = true;
    world.restart(web().into_iter().chain([applied(dns)]));
    let servers: Vec<_> = world.kernel.ipvs.take_ops().iter().map(IpvsOp::virtual_server).collect();
    assert_eq!(servers.first(), Some(&vs("10.96.0.10", Protocol::Tcp)));
    assert_eq!(servers.last(), Some(&vs("10.96.0.9", Protocol::Tcp)));
    assert!(!world.kernel.vips.routes().contains_key(&ip("10.96.0.9")));
}

#[test]
fn a_new_vip_is_bound_after_its_rules_and_servers() {
    let mut world = World::synced([]);
    world.kernel.vips.take_ops();
    world.kernel.rules.refuse(|_| Some(12));
    for event in web() {
        world.send(event);
    }
    let report = world.reconciler.step(world.now);
    assert!(report.failed > 0);
    assert!(world.kernel.ipvs.virtual_servers().is_empty(), "no virtual server without its rules");
    assert_eq!(world.kernel.vips.take_ops(), []);
    world.kernel.rules.refuse_nothing();
    world.pass(Duration::from_secs(1));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)]);
    let route =
        VipOp::EnsureRoute { vip: ip(WEB), table: RouteTable::Local, source: Some(ip("192.168.50.10")) };
    assert_eq!(world.kernel.vips.take_ops(), [route]);
}

#[test]
fn a_changed_node_address_changes_the_source_of_every_route() {
    let mut world = World::synced(web());
    world.kernel.vips.set_node_addresses([(ip("192.168.50.11"), "eth0")]);
    world.reconciler.handle(Event::Touched(dataplane::Touched::Vips));
    world.run();
    assert_eq!(world.kernel.vips.routes()[&ip(WEB)], Some(ip("192.168.50.11")));
}

#[test]
fn a_vip_that_appears_on_an_interface_is_the_nodes() {
    let mut world = World::synced(web());
    let node = [(ip("192.168.50.10"), "eth0"), (ip(WEB), "eth1")];
    world.kernel.vips.set_node_addresses(node);
    world.reconciler.handle(Event::Touched(dataplane::Touched::Vips));
    world.run();
    world.pass(Duration::from_secs(10));
    assert!(world.kernel.vips.routes().is_empty());
    assert!(!world.kernel.rules.elements().contains(&lb_types::RuleElement::Vip(ip(WEB))));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)], "nobody listens there");
    world.kernel.vips.set_node_addresses([node[0]]);
    world.reconciler.handle(Event::Touched(dataplane::Touched::Vips));
    world.run();
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)]);
}

#[test]
fn a_scheduler_without_module_is_replaced_by_the_default_until_it_is_there() {
    let kernel = Kernel::new();
    kernel.ipvs.set_schedulers([Scheduler::RR]);
    let mut world = World::on(kernel, config());
    let mut special = service("web", WEB);
    special.settings.scheduler = Some(Scheduler::MH);
    world.deliver([applied(special), ready("web", &["10.244.0.11"]), applied(service("other", "10.96.0.7"))]);
    world.run();
    let scheduler = |world: &World| world.kernel.ipvs.virtual_servers()[&web_vs()].0.scheduler;
    assert_eq!(scheduler(&world), Scheduler::RR);
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1)]);
    world.kernel.ipvs.set_schedulers([Scheduler::RR, Scheduler::MH]);
    world.pass(SYNC_PERIOD * 2);
    assert_eq!(scheduler(&world), Scheduler::MH);
}

#[test]
fn the_dry_run_tells_exactly_what_a_sync_then_writes() {
    let kernel = Kernel::new();
    let mut dry = World::on(kernel.clone(), config());
    dry.deliver(web());
    let plan = dry.reconciler.dry_run().unwrap();
    assert!(!plan.is_empty() && kernel.ipvs.ops().is_empty() && kernel.rules.transactions() == 0);
    let mut world = World::on(kernel.clone(), config());
    world.deliver(web());
    assert_eq!(world.run().written, plan.len());
    let mut dry = World::on(kernel, config());
    dry.deliver(web());
    let plan = dry.reconciler.dry_run().unwrap();
    assert!(plan.is_empty(), "{plan}");
}

#[test]
fn addresses_that_another_proxy_bound_go_only_after_the_routes_have_come() {
    let kernel = Kernel::new();
    let mut first = World::on(kernel.clone(), config());
    first.deliver([]);
    first.run();
    let vips: Vec<_> = (0..3).map(|n| ip(&format!("10.96.0.{n}"))).collect();
    for vip in &vips {
        kernel.vips.add_address(*vip);
    }
    kernel.vips.take_ops();
    let mut world = World::on(kernel.clone(), config());
    world.deliver(many(3));
    world.run();
    let ops = kernel.vips.take_ops();
    let position = |op: VipOp| ops.iter().position(|other| *other == op).unwrap();
    for vip in vips {
        let route = VipOp::EnsureRoute { vip, table: RouteTable::Local, source: Some(ip("192.168.50.10")) };
        assert!(position(route) < position(VipOp::DeleteAddress { addr: vip }), "{ops:?}");
    }
    assert!(kernel.vips.addresses().is_empty());
}

/// Every write looks at the other tables: what it depends on must be there, what depends on it must be gone.
#[test]
fn a_vip_is_never_reachable_without_its_server_nor_a_server_without_its_rules() {
    let kernel = Kernel::new();
    let wrong = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let note = |wrong: &std::rc::Rc<std::cell::RefCell<Vec<String>>>, bad: bool, what: String| {
        if bad {
            wrong.borrow_mut().push(what);
        }
        None
    };
    let (ipvs, rules, log) = (kernel.ipvs.clone(), kernel.rules.clone(), wrong.clone());
    kernel.vips.refuse(move |op| match op {
        VipOp::EnsureRoute { .. } => note(&log, ipvs.virtual_servers().is_empty(), op.to_string()),
        _ => None,
    });
    let (vips, log) = (kernel.vips.clone(), wrong.clone());
    kernel.ipvs.refuse(move |op| match op {
        IpvsOp::AddVirtualServer { .. } => note(&log, rules.elements().is_empty(), op.to_string()),
        IpvsOp::DeleteVirtualServer { .. } => note(&log, !vips.routes().is_empty(), op.to_string()),
        _ => None,
    });
    let (ipvs, log) = (kernel.ipvs.clone(), wrong.clone());
    kernel.rules.refuse(move |op| match op {
        lb_types::RulesOp::DeleteElement(e) if e.set() == lb_types::RuleSet::Services => {
            note(&log, !ipvs.virtual_servers().is_empty(), op.to_string())
        }
        _ => None,
    });
    let mut world = World::on(kernel, config());
    world.deliver(web());
    world.run();
    world.sync(deleted("web"));
    world.pass(Duration::from_secs(60));
    assert!(world.kernel.ipvs.virtual_servers().is_empty());
    assert_eq!(world.kernel.elements_of_services(), []);
    assert_eq!(*wrong.borrow(), [""; 0]);
}

#[test]
fn a_conflict_does_not_hide_other_problems_of_the_rival() {
    let mut old = service("old", WEB);
    old.created = Some(1);
    let mut world = World::synced([applied(old), slice("old", Protocol::Udp, &[("10.244.0.11", Is::Ready)])]);
    assert_eq!(world.reconciler.totals().retrying, 1, "a port that no port of the Service matches");
    world.sync(applied(service("new", WEB)));
    assert_eq!(world.reconciler.totals().retrying, 2);
}

#[test]
fn many_ports_are_not_quadratic() {
    // Processor time, and the best of three: neighbours on the machine cost neither.
    let spent = || {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
    };
    let time = |count: u16| {
        let mut web = service("web", WEB);
        web.ports = (1..=count)
            .map(|n| ServicePort {
                name: format!("p{n}").into(),
                protocol: Protocol::Tcp,
                port: n.try_into().unwrap(),
                node_port: None,
            })
            .collect();
        let ports: Vec<_> = (1..=count)
            .map(|n| SlicePort {
                name: format!("p{n}").into(),
                protocol: Protocol::Tcp,
                port: n.try_into().unwrap(),
            })
            .collect();
        let slice = |addrs: &[&str]| {
            let ModelEvent::SliceApplied(mut slice) = ready("web", addrs) else { unreachable!() };
            slice.ports = ports.clone();
            ModelEvent::SliceApplied(slice)
        };
        let mut world = World::synced([applied(web), slice(&["10.244.0.11"])]);
        let mut step = |addrs: &[&str]| {
            world.send(slice(addrs));
            let begin = spent();
            world.reconciler.step(world.now);
            spent() - begin
        };
        let some = ["10.244.0.11", "10.244.0.12", "10.244.0.13", "10.244.0.14"];
        (2..=4).map(|count| step(&some[..count])).min().unwrap()
    };
    let (small, large) = (time(500), time(4000));
    eprintln!("500 ports: {small:?}, 4000 ports: {large:?}");
    assert!(large < small * 20, "8 times the ports cost {}x", large.as_micros() / small.as_micros());
}
