//! Adoption of what the kernel holds: the time until everything has been planned once, and what is ours.

use dataplane::{ErrorKind, Touched, Unopened};
use lb_types::{ConnectionCounters, IpvsOp, RealServer, RuleElement, Scheduler, VirtualServer};

use super::*;
use crate::Cleanup;

fn busy() -> ConnectionCounters {
    ConnectionCounters { active: 1, inactive: 0, persistent: 0 }
}

#[test]
fn a_notification_during_the_start_does_not_unbind_vips_that_were_not_planned_yet() {
    let kernel = Kernel::new();
    let mut first = World::on(kernel.clone(), config());
    first.deliver([]);
    first.run();
    let vips: Vec<_> = (0..3000).map(|n: usize| ip(&format!("10.96.{}.{}", n / 250, n % 250))).collect();
    for vip in &vips {
        kernel.vips.add_address(*vip);
    }
    let mut world = World::on(kernel.clone(), config());
    world.deliver(many(3000));
    world.reconciler.step(world.now);
    world.reconciler.handle(Event::Touched(Touched::Vips));
    world.reconciler.step(world.now);
    assert!(!world.reconciler.is_running(), "still starting");
    let (routes, addresses) = (kernel.vips.routes(), kernel.vips.addresses());
    let unbound = vips.iter().filter(|vip| !routes.contains_key(vip) && !addresses.contains(vip)).count();
    assert_eq!(unbound, 0, "VIPs that lead nowhere");
}

#[test]
fn a_flushed_table_during_the_start_deletes_no_virtual_server_that_was_not_planned_yet() {
    let mut world = World::synced(many(3000));
    let kernel = world.kernel.clone();
    world = World { now: world.now, ..World::on(kernel.clone(), config()) };
    world.deliver(many(3000));
    kernel.ipvs.take_ops();
    world.reconciler.step(world.now);
    kernel.rules.delete_table();
    world.reconciler.handle(Event::Touched(Touched::Rules));
    world.run();
    let deleted =
        kernel.ipvs.take_ops().iter().filter(|op| matches!(op, IpvsOp::DeleteVirtualServer { .. })).count();
    assert_eq!(deleted, 0, "virtual servers in use");
}

#[test]
fn a_start_is_not_complete_while_nothing_can_be_written() {
    let kernel = Kernel::new();
    kernel.rules.refuse(|_| Some(12));
    let mut world = World::on(kernel, config());
    world.deliver(web());
    let report = world.run();
    assert!(world.kernel.ipvs.virtual_servers().is_empty());
    assert!(!report.completed_start && !world.reconciler.is_running());
}

fn no_cidrs() -> Config {
    Config { ownership: Ownership::default(), ..config() }
}

#[test]
fn an_adopted_virtual_server_goes_with_its_service() {
    let kernel = Kernel::new();
    let settings = VirtualServer::new(Scheduler::RR);
    kernel.ipvs.by_another(IpvsOp::AddVirtualServer { vs: web_vs(), settings });
    kernel.ipvs.by_another(IpvsOp::AddRealServer {
        vs: web_vs(),
        rs: rs("10.244.0.11"),
        settings: RealServer::SERVING,
    });
    let mut world = World::on(kernel, no_cidrs());
    world.deliver(web());
    world.run();
    world.sync(deleted("web"));
    world.pass(Duration::from_secs(120));
    assert!(world.kernel.ipvs.virtual_servers().is_empty(), "{:?}", world.kernel.ipvs.virtual_servers());
}

/// Conformance: ipvs/proxier TestCleanLegacyRealServersExcludeCIDRs
#[test]
fn an_excluded_virtual_server_is_left_alone_until_a_service_has_it() {
    let kernel = Kernel::new();
    let settings = VirtualServer::new(Scheduler::RR);
    let foreign = rs("10.0.0.99");
    kernel.ipvs.by_another(IpvsOp::AddVirtualServer { vs: web_vs(), settings });
    kernel.ipvs.by_another(IpvsOp::AddRealServer {
        vs: web_vs(),
        rs: foreign,
        settings: RealServer::SERVING,
    });
    let mut config = config();
    config.ownership.exclude_cidrs = vec!["10.96.255.0/24".parse().unwrap()];
    let before = kernel.ipvs.virtual_servers();
    let mut world = World::on(kernel, config);
    world.deliver([]);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.kernel.ipvs.virtual_servers(), before, "nobody wants it");
    world.deliver(web());
    world.pass(Duration::from_secs(60));
    let real_servers = world.kernel.weights(web_vs());
    assert!(!real_servers.is_empty() && !real_servers.contains(&(99, 1)), "{real_servers:?}");
    let name = ServiceName::new("default", "web");
    world.deliver([ModelEvent::ServiceDeleted(name)]);
    world.pass(Duration::from_secs(60));
    assert!(world.kernel.ipvs.virtual_servers().is_empty(), "our rules name it");
}

#[test]
fn a_virtual_server_of_ours_that_an_audit_finds_is_drained() {
    let mut world = World::synced(web());
    let found = vs("10.96.7.7", Protocol::Tcp);
    let settings = VirtualServer::new(Scheduler::RR);
    world.kernel.ipvs.by_another(IpvsOp::AddVirtualServer { vs: found, settings });
    let rs = rs("10.244.0.77");
    world.kernel.ipvs.by_another(IpvsOp::AddRealServer { vs: found, rs, settings: RealServer::SERVING });
    world.kernel.ipvs.set_connections(found, rs, busy());
    world.pass(SYNC_PERIOD * 2);
    assert_eq!(world.kernel.weights(found), [(77, 0)]);
}

#[test]
fn a_virtual_server_of_ours_that_a_recheck_finds_is_drained() {
    let mut world = World::synced(web());
    let found = vs("10.96.7.7", Protocol::Tcp);
    let settings = VirtualServer::new(Scheduler::RR);
    world.kernel.ipvs.by_another(IpvsOp::AddVirtualServer { vs: found, settings });
    let rs77 = rs("10.244.0.77");
    world.kernel.ipvs.by_another(IpvsOp::AddRealServer {
        vs: found,
        rs: rs77,
        settings: RealServer::SERVING,
    });
    world.kernel.ipvs.set_connections(found, rs77, busy());
    world.kernel.ipvs.by_another(IpvsOp::AddRealServer {
        vs: web_vs(),
        rs: rs("10.244.0.13"),
        settings: RealServer::SERVING,
    });
    world.send(ready("web", &["10.244.0.11", "10.244.0.12", "10.244.0.13"]));
    world.pass(Duration::from_secs(3));
    assert_eq!(world.kernel.weights(found), [(77, 0)]);
}

/// The way back goes over all nodes, while kube-ipvs may have been tried on one only.
#[test]
fn cleanup_leaves_a_kube_proxy_alone_where_kube_ipvs_never_ran() {
    let kernel = Kernel::new();
    let (of_kube_proxy, settings) =
        (vs(WEB, Protocol::Tcp), lb_types::VirtualServer::new(lb_types::Scheduler::RR));
    kernel.ipvs.by_another(IpvsOp::AddVirtualServer { vs: of_kube_proxy, settings });
    kernel.tables().vips.apply(&[lb_types::VipOp::EnsureLink]).unwrap();
    kernel.vips.add_address(ip(WEB));
    let mut world = World::on(kernel.clone(), config());
    let cleanup = world.reconciler.cleanup();
    assert!(cleanup.plan.is_empty(), "{}", cleanup.plan);
    assert!(kernel.ipvs.virtual_servers().contains_key(&of_kube_proxy));
    // So it does where it cannot have run.
    let no_nf_tables = Unopened::new("open nf_tables", ErrorKind::NotSupported, "module missing");
    let without = Tables { rules: Box::new(no_nf_tables), ..kernel.tables() };
    let cleanup = Reconciler::new(config(), without).cleanup();
    assert!(cleanup.plan.is_empty() && cleanup.unread.is_empty(), "{}", cleanup.plan);
    // Where it has run, what kube-proxy had there is its to remove.
    let mut world = World::on(kernel.clone(), config());
    world.deliver(web());
    world.run();
    World::on(kernel.clone(), config()).reconciler.cleanup();
    assert!(kernel.ipvs.virtual_servers().is_empty());
}

#[test]
fn cleanup_goes_on_when_the_link_is_somebody_elses() {
    let world = World::synced(web());
    world.kernel.vips.delete_link();
    world.kernel.vips.add_foreign_link();
    let mut cleaner = Reconciler::new(config(), world.kernel.tables());
    cleaner.cleanup();
    assert!(world.kernel.ipvs.virtual_servers().is_empty() && !world.kernel.rules.exists());
}

/// Cleans up after a process, with one table that cannot be opened.
fn cleanup_without(missing: impl FnOnce(&mut Tables, Unopened), kind: ErrorKind) -> (Kernel, Cleanup) {
    let world = World::synced(web());
    let mut tables = world.kernel.tables();
    missing(&mut tables, Unopened::new("open a table", kind, "no such module"));
    let cleanup = Reconciler::new(config(), tables).cleanup();
    assert_eq!(cleanup.report.failed, 0, "nothing is tried that cannot be done: {}", cleanup.plan);
    (world.kernel, cleanup)
}

#[test]
fn cleanup_goes_through_the_other_tables_where_one_cannot_be_opened() {
    let (kernel, cleanup) =
        cleanup_without(|t, unopened| t.ipvs = Box::new(unopened), ErrorKind::NotSupported);
    assert!(!kernel.rules.exists() && kernel.vips.link().is_none());
    assert!(cleanup.unread.is_empty(), "a table that does not exist holds nothing of ours");

    let (kernel, cleanup) =
        cleanup_without(|t, unopened| t.rules = Box::new(unopened), ErrorKind::NotSupported);
    assert!(kernel.ipvs.virtual_servers().is_empty() && kernel.vips.link().is_none());
    assert!(cleanup.unread.is_empty());

    let (kernel, cleanup) = cleanup_without(|t, unopened| t.vips = Box::new(unopened), ErrorKind::Other);
    assert!(kernel.ipvs.virtual_servers().is_empty() && !kernel.rules.exists());
    assert_eq!(cleanup.unread.len(), 1);

    // Virtual servers that exist and cannot be read now are named by the packet rules alone.
    let (kernel, cleanup) = cleanup_without(|t, unopened| t.ipvs = Box::new(unopened), ErrorKind::Transient);
    assert!(kernel.rules.exists() && kernel.vips.link().is_none());
    assert_eq!(cleanup.unread.len(), 1);
}

/// Leftovers of kube-proxy: VIPs as addresses on the link, virtual servers without a tag.
fn left_by_kube_proxy() -> Kernel {
    let kernel = Kernel::new();
    let mut first = World::on(kernel.clone(), no_cidrs());
    first.deliver([]);
    first.run();
    for vip in [WEB, "10.96.7.7"] {
        kernel.vips.add_address(ip(vip));
        let (vs, settings) = (vs(vip, Protocol::Tcp), VirtualServer::new(Scheduler::RR));
        kernel.ipvs.by_another(IpvsOp::AddVirtualServer { vs, settings });
        let rs = rs("10.244.0.11");
        kernel.ipvs.by_another(IpvsOp::AddRealServer { vs, rs, settings: RealServer::SERVING });
        kernel.ipvs.set_connections(vs, rs, busy());
    }
    kernel
}

/// Conformance: ipvs/proxier TestCleanLegacyServiceWithRealServers
#[test]
fn what_kube_proxy_served_and_nobody_wants_drains_and_goes_even_if_no_prefix_says_that_it_is_ours() {
    let kernel = left_by_kube_proxy();
    let stale = vs("10.96.7.7", Protocol::Tcp);
    let mut world = World::on(kernel.clone(), no_cidrs());
    world.deliver(web());
    world.run();
    assert_eq!(kernel.weights(stale), [(11, 0)]);
    assert!(kernel.vips.addresses().is_empty(), "bound by routes now");
    // The addresses that told whose it was are gone; a new process knows all the same.
    let mut world = World { now: world.now, ..World::on(kernel.clone(), no_cidrs()) };
    world.deliver(web());
    world.pass(Duration::from_secs(60));
    assert_eq!(kernel.weights(stale), [(11, 0)], "its connection is waited for");
    kernel.ipvs.set_connections(stale, rs("10.244.0.11"), ConnectionCounters::default());
    world.pass(Duration::from_secs(60));
    assert_eq!(kernel.ipvs.virtual_servers().keys().collect::<Vec<_>>(), [&web_vs()]);
    assert_eq!(kernel.weights(web_vs()), [(11, 1), (12, 1)]);
}

#[test]
fn cleanup_leaves_the_tags_of_virtual_servers_that_it_could_not_delete() {
    let world = World::synced(many(3));
    let stuck = vs("10.96.0.1", Protocol::Tcp);
    let is_stuck = move |op: &IpvsOp| matches!(op, IpvsOp::DeleteVirtualServer { vs } if *vs == stuck);
    world.kernel.ipvs.refuse(move |op| is_stuck(op).then_some(16));
    // Without a prefix of ClusterIPs only the tag says whose it is.
    let config = Config { ownership: Ownership::default(), ..config() };
    let again = || World::on(world.kernel.clone(), config.clone()).reconciler.cleanup();
    assert_eq!(again().report.failed, 1);
    let tag = RuleElement::Service(stuck.vip_port().unwrap());
    assert_eq!(world.kernel.rules.elements(), [tag].into());
    world.kernel.ipvs.refuse_nothing();
    assert_eq!(again().report.failed, 0);
    assert!(world.kernel.ipvs.virtual_servers().is_empty() && world.kernel.rules.layout().is_none());
}
