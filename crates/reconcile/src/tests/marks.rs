//! Packet marks of node ports: none left, a range that was changed, rules of the routing policy, a lost record.

use std::collections::{BTreeMap, BTreeSet};

use lb_types::{ConnectionCounters, IpvsOp, MarkRange, MarkRule, RealServer, RealServerId, RuleElement};

use super::*;

/// Services with a node port each.
fn with_node_ports(names: std::ops::Range<u16>) -> Vec<ModelEvent> {
    let one = |n: u16| {
        let name = format!("s{n}");
        let mut made = service(&name, &format!("10.96.{}.{}", n / 250, n % 250));
        made.ports[0].node_port = (30_000 + n).try_into().ok();
        [applied(made), ready(&name, &["10.244.0.11"])]
    };
    names.flat_map(one).collect()
}

fn with_range(range: &str) -> Config {
    let mut config = config();
    config.planner.layout.marks = range.parse().unwrap();
    config
}

/// Marks of the virtual servers.
fn marks(world: &World) -> Vec<u32> {
    let servers = world.kernel.ipvs.virtual_servers();
    let mark = |vs: &VirtualServerId| match vs {
        VirtualServerId::FwMark { mark, .. } => Some(mark.get()),
        VirtualServerId::Address(_) => None,
    };
    servers.keys().filter_map(mark).collect()
}

#[test]
fn node_ports_without_a_mark_are_served_once_one_is_given_back() {
    let mut world = World::on(Kernel::new(), with_range("0x100/0xffffff00"));
    // Nobody takes the lower half.
    world.kernel.vips.set_mark_rules(vec![MarkRule { value: 0x100, mask: 0xffff_ff80 }]);
    world.deliver(with_node_ports(0..130));
    world.run();
    assert_eq!(marks(&world).len(), 128);
    assert!(marks(&world).iter().all(|mark| (0x180..0x200).contains(mark)));
    assert_eq!(world.reconciler.standing().refused, 2, "it is to be seen");
    for name in ["s0", "s1"] {
        world.send(deleted(name));
    }
    world.pass(Duration::from_secs(120));
    assert_eq!(marks(&world).len(), 128);
    let served = world.kernel.rules.elements();
    let is_mark = |element: &&RuleElement| matches!(element, RuleElement::Mark(..));
    assert_eq!(served.iter().filter(is_mark).count(), 128, "all that are left have one");
    assert_eq!(world.reconciler.standing().refused, 0);
}

#[test]
fn marks_of_an_earlier_range_stay_and_are_cleared_too() {
    let old = MarkRange::DEFAULT;
    let mut world = World::synced(with_node_ports(0..3));
    let before = marks(&world);
    assert!(before.len() == 3 && before.iter().all(|mark| old.contains(*mark)));
    world = World { now: world.now, ..World::on(world.kernel.clone(), with_range("0x200/0xfffffe00")) };
    world.deliver(with_node_ports(0..4));
    world.run();
    let now = marks(&world);
    assert!(before.iter().all(|mark| now.contains(mark)) && now.len() == 4, "{now:x?}");
    let layout = world.kernel.rules.layout().unwrap();
    let outside = layout.old_marks.unwrap();
    assert!(before.iter().all(|mark| outside.contains(*mark)));
    // Nobody else's mark is cleared, least of all the bit of masquerading.
    for other in [0x4000, 0x8000, 0xca6c, 1] {
        assert!(!outside.contains(other) && !layout.marks.contains(other), "{other:#x}");
    }
}

/// The check that follows a takeover must not find anything to write.
#[test]
fn virtual_servers_of_kube_proxy_for_node_ports_are_quiesced_with_the_start() {
    let kernel = Kernel::new();
    kernel.vips.set_node_addresses([(ip("192.168.50.10"), "eth0")]);
    let [its, others] = ["192.168.50.10", "192.168.50.99"].map(|addr| {
        let port = VipPort { addr: ip(addr), protocol: Protocol::Tcp, port: 30_000.try_into().unwrap() };
        VirtualServerId::from(port)
    });
    for vs in [its, others] {
        let settings = lb_types::VirtualServer::new(lb_types::Scheduler::RR);
        kernel.ipvs.by_another(IpvsOp::AddVirtualServer { vs, settings });
        let (rs, settings) = (rs("10.244.0.11"), RealServer::SERVING);
        kernel.ipvs.by_another(IpvsOp::AddRealServer { vs, rs, settings });
        kernel.ipvs.set_connections(vs, rs, ConnectionCounters { active: 1, ..Default::default() });
    }
    let mut world = World::on(kernel, config());
    world.deliver(with_node_ports(0..1));
    world.run();
    assert_eq!(world.kernel.weights(its), [(11, 0)], "at once, not with the first audit");
    assert_eq!(world.kernel.weights(others), [(11, 1)], "not an address of the node");
}

/// Somebody deletes the maps, which are the only record of who has which mark, while nobody is there to repair that, as
/// `nft flush ruleset` does. Returns the world before the next start.
fn without_record(mut world: World) -> World {
    world.kernel.rules.delete_table();
    world = World { now: world.now, ..World::on(world.kernel.clone(), config()) };
    world
}

/// Virtual server of a Service's node port.
fn marked_server(world: &World, endpoint: &str) -> VirtualServerId {
    let servers = world.kernel.ipvs.virtual_servers();
    let is_its = |vs: &VirtualServerId, rs: &BTreeMap<RealServerId, RealServer>| {
        matches!(vs, VirtualServerId::FwMark { .. }) && rs.contains_key(&self::rs(endpoint))
    };
    *servers.iter().find(|(vs, (_, rs))| is_its(vs, rs)).unwrap().0
}

fn with_endpoint(n: u16) -> [ModelEvent; 2] {
    let [made, _] = with_node_ports(n..n + 1).try_into().unwrap();
    [made, ready(&format!("s{n}"), &[&format!("10.244.0.{}", 11 + n)])]
}

#[test]
fn virtual_servers_without_a_record_are_known_by_the_numbers_that_their_fronts_draw() {
    let mut world = World::synced((0..4).flat_map(with_endpoint));
    let before: BTreeSet<_> = world.kernel.ipvs.virtual_servers().into_keys().collect();
    let gone = marked_server(&world, "10.244.0.14");
    let written = world.kernel.ipvs.ops().len();
    world = without_record(world);
    // One of them has got another endpoint meanwhile, and the last is gone.
    world.deliver((0..3).flat_map(with_endpoint));
    world.send(ready("s2", &["10.244.0.13", "10.244.0.23"]));
    world.run();
    let elements = world.kernel.rules.elements();
    assert_eq!(elements.iter().filter(|element| matches!(element, RuleElement::Mark(..))).count(), 3);
    let after: BTreeSet<_> = world.kernel.ipvs.virtual_servers().into_keys().collect();
    assert!(after.is_subset(&before), "{after:?}");
    let ops = world.kernel.ipvs.ops()[written..].to_vec();
    let added: Vec<_> = ops.iter().filter(|op| matches!(op, IpvsOp::AddVirtualServer { .. })).collect();
    assert_eq!(added, Vec::<&IpvsOp>::new());
    world.pass(Duration::from_secs(1000));
    assert!(world.kernel.ipvs.virtual_servers().contains_key(&gone), "nobody knows whose it is");
    for name in ["s0", "s1", "s2"] {
        world.send(deleted(name));
    }
    world.pass(Duration::from_secs(1000));
    assert_eq!(marks(&world).len(), 1, "what was known again is ours");
}

/// A virtual server of that number is a front's only if it has a real server of it.
#[test]
fn what_only_has_the_number_stays_somebody_elses() {
    let mut world = World::synced((0..2).flat_map(with_endpoint));
    let number = marked_server(&world, "10.244.0.11");
    let strangers = (number, rs("192.0.2.1"));
    let (settings, real) = world.kernel.ipvs.virtual_servers()[&number].clone();
    let real = real[&rs("10.244.0.11")];
    world = without_record(world);
    world.kernel.ipvs.by_another(IpvsOp::DeleteVirtualServer { vs: number });
    world.kernel.ipvs.by_another(IpvsOp::AddVirtualServer { vs: number, settings });
    world.kernel.ipvs.by_another(IpvsOp::AddRealServer { vs: strangers.0, rs: strangers.1, settings: real });
    world.deliver((0..2).flat_map(with_endpoint));
    world.run();
    assert_ne!(marked_server(&world, "10.244.0.11"), number, "the front has drawn another one");
    for name in ["s0", "s1"] {
        world.send(deleted(name));
    }
    world.pass(Duration::from_secs(1000));
    let left = world.kernel.ipvs.virtual_servers();
    assert!(left.len() == 1 && left[&number].1.contains_key(&strangers.1), "{left:?}");
}

/// Drains at a lost virtual server go on and end, although its Service was deleted in between.
#[test]
fn recorded_drains_lead_to_their_virtual_servers() {
    let mut world = World::synced((0..2).flat_map(with_endpoint));
    let number = marked_server(&world, "10.244.0.11");
    let busy = ConnectionCounters { active: 1, ..ConnectionCounters::default() };
    world.kernel.ipvs.set_connections(number, rs("10.244.0.11"), busy);
    world.sync(ready("s0", &["10.244.0.21"]));
    let drains = world.reconciler.state().drains.iter();
    let saved: Vec<(drain::Key, drain::Record)> = drains.map(|(key, drain)| (*key, drain.into())).collect();
    assert!(saved.iter().any(|(key, _)| key.rs == rs("10.244.0.11")), "{saved:?}");
    world = without_record(world);
    world.reconciler.restore(saved);
    world.deliver(with_endpoint(1));
    world.run();
    assert!(world.reconciler.state().drains.iter().any(|(key, _)| key.rs == rs("10.244.0.11")));
    world.kernel.ipvs.set_connections(number, rs("10.244.0.11"), ConnectionCounters::default());
    world.pass(Duration::from_secs(1000));
    assert!(!world.kernel.ipvs.virtual_servers().contains_key(&number));
}
