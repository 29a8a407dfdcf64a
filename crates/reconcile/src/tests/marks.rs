//! Packet marks of node ports: none left, a range that was changed, rules of the routing policy, a lost record.

use lb_types::{IpFamily, IpvsOp, MarkRange, MarkRule, RuleElement};

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

/// The maps are the only record of who has which mark. Somebody deletes them while nobody is there to repair that, as
/// `nft flush ruleset` does.
#[test]
fn virtual_servers_without_a_record_are_known_by_the_numbers_that_their_fronts_draw() {
    let mut world = World::synced(with_node_ports(0..4));
    let before = world.kernel.ipvs.virtual_servers();
    let (settings, _) = before.values().next().expect("virtual servers");
    let others = VirtualServerId::FwMark {
        family: IpFamily::V4,
        mark: MarkRange::DEFAULT.number(7).filter(|mark| !marks(&world).contains(&mark.get())).unwrap(),
    };
    world.kernel.ipvs.by_another(IpvsOp::AddVirtualServer { vs: others, settings: *settings });
    world.kernel.rules.delete_table();
    let written = world.kernel.ipvs.ops().len();
    world = World { now: world.now, ..World::on(world.kernel.clone(), config()) };
    // One of them has got another endpoint meanwhile, and the last is gone.
    world.deliver(with_node_ports(0..3));
    world.send(ready("s2", &["10.244.0.12"]));
    world.run();
    let marked = |world: &World| {
        let elements = world.kernel.rules.elements();
        elements.iter().filter(|element| matches!(element, RuleElement::Mark(..))).count()
    };
    assert_eq!(marked(&world), 3);
    let after: Vec<_> = world.kernel.ipvs.virtual_servers().into_keys().collect();
    let kept = before.keys().copied().chain([others]).collect::<std::collections::BTreeSet<_>>();
    assert!(after.iter().all(|vs| kept.contains(vs)), "{after:?}");
    let ops = world.kernel.ipvs.ops()[written..].to_vec();
    let added: Vec<_> = ops.iter().filter(|op| matches!(op, IpvsOp::AddVirtualServer { .. })).collect();
    assert_eq!(added, Vec::<&IpvsOp>::new());
    world.pass(Duration::from_secs(1000));
    let servers = world.kernel.ipvs.virtual_servers();
    assert!(servers.contains_key(&others), "nobody's front draws that number");
    assert_eq!(marks(&world).len(), 3 + 1 + 1, "what was of a Service that is gone is not known any more");
    for name in ["s0", "s1", "s2"] {
        world.send(deleted(name));
    }
    world.pass(Duration::from_secs(1000));
    assert_eq!(marks(&world).len(), 2, "what was known again is ours");
}
