//! Packet marks of node ports: none left, a range that was changed, rules of the routing policy.

use lb_types::{MarkRange, MarkRule};

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
