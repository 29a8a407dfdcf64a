//! Behaviour of a table towards steered VIPs, and addresses on the link.

use std::net::IpAddr;

use lb_types::{IpFamily, RouteTable, VipOp};

use super::{
    NODE_V4, NODE_V6, VIP_V4, VIP_V6, VipsWorld, apply, assert_routes, ensure, errnos, observe, try_apply,
};

/// Rules and routes for the steering of both VIPs.
const STEER: [VipOp; 4] = [rule(IpFamily::V4, 12), rule(IpFamily::V6, 12), steer(VIP_V4), steer(VIP_V6)];

const RULES: [(IpFamily, u8); 2] = [(IpFamily::V4, 12), (IpFamily::V6, 12)];

const fn rule(family: IpFamily, bit: u8) -> VipOp {
    VipOp::EnsureRule { family, bit }
}

const fn steer(vip: IpAddr) -> VipOp {
    VipOp::EnsureRoute { vip, table: RouteTable::Steering, source: None }
}

/// Checks that the table and the outside view agree on what is steered.
#[track_caller]
fn assert_steered(world: &mut dyn VipsWorld, vips: &[IpAddr], rules: &[(IpFamily, u8)]) {
    let seen = observe(world);
    let mut steered: Vec<_> = seen.steered.into_iter().collect();
    steered.sort_unstable();
    assert_eq!(steered, vips, "as the table sees it");
    assert_eq!(world.steered(), vips, "as others see it");
    assert_eq!(seen.rules.into_iter().collect::<Vec<_>>(), rules, "as the table sees it");
    assert_eq!(world.rules(), rules, "as others see it");
    assert_eq!(world.table().mark_rules().expect("rules"), [], "ours are no reason to worry");
}

pub(super) fn ensured(world: &mut dyn VipsWorld) {
    assert_steered(world, &[], &[]);
    let report = try_apply(world, &STEER);
    assert_eq!(errnos(&report), [(2, libc::ENODEV), (3, libc::ENODEV)], "without the link");
    apply(world, &[VipOp::EnsureLink]);
    for _ in 0..2 {
        apply(world, &STEER);
        assert_steered(world, &[VIP_V4, VIP_V6], &RULES);
    }
    assert_routes(world, &[]);
    for _ in 0..2 {
        apply(
            world,
            &[
                VipOp::DeleteRoute { vip: VIP_V4, table: RouteTable::Steering },
                VipOp::DeleteRule { family: IpFamily::V4, bit: 12 },
            ],
        );
        assert_steered(world, &[VIP_V6], &RULES[1..]);
    }
}

pub(super) fn both_tables(world: &mut dyn VipsWorld) {
    apply(world, &[VipOp::EnsureLink, ensure(VIP_V4, NODE_V4), ensure(VIP_V6, NODE_V6)]);
    apply(world, &STEER);
    let local = [(VIP_V4, Some(NODE_V4)), (VIP_V6, Some(NODE_V6))];
    assert_routes(world, &local);
    assert_steered(world, &[VIP_V4, VIP_V6], &RULES);
    apply(world, &[VipOp::DeleteRoute { vip: VIP_V4, table: RouteTable::Local }]);
    apply(world, &[VipOp::DeleteRoute { vip: VIP_V6, table: RouteTable::Steering }]);
    assert_routes(world, &local[1..]);
    assert_steered(world, &[VIP_V4], &RULES);
}

pub(super) fn another_bit(world: &mut dyn VipsWorld) {
    apply(world, &[rule(IpFamily::V4, 12), rule(IpFamily::V4, 13)]);
    assert_steered(world, &[], &[(IpFamily::V4, 12), (IpFamily::V4, 13)]);
    apply(world, &[VipOp::DeleteRule { family: IpFamily::V4, bit: 12 }]);
    assert_steered(world, &[], &[(IpFamily::V4, 13)]);
}

pub(super) fn link_deleted(world: &mut dyn VipsWorld) {
    apply(world, &[VipOp::EnsureLink]);
    apply(world, &STEER);
    world.delete_link();
    assert_steered(world, &[], &RULES);
    apply(world, &[VipOp::EnsureLink]);
    apply(world, &STEER);
    assert_steered(world, &[VIP_V4, VIP_V6], &RULES);
    world.delete_route(VIP_V4);
    assert_steered(world, &[VIP_V6], &RULES);
}

pub(super) fn rules_deleted(world: &mut dyn VipsWorld) {
    apply(world, &STEER[..2]);
    world.delete_rules();
    assert_steered(world, &[], &[]);
    apply(world, &STEER[..2]);
    assert_steered(world, &[], &RULES);
}

pub(super) fn addresses(world: &mut dyn VipsWorld) {
    let add = [VIP_V4, VIP_V6].map(|addr| VipOp::EnsureAddress { addr });
    assert_eq!(errnos(&try_apply(world, &add)), [(0, libc::ENODEV), (1, libc::ENODEV)]);
    apply(world, &[VipOp::EnsureLink]);
    for _ in 0..2 {
        apply(world, &add);
        assert_eq!(observe(world).addresses, [VIP_V4, VIP_V6].into());
        assert_eq!(world.addresses(), [VIP_V4, VIP_V6].into());
    }
    apply(world, &[VIP_V4, VIP_V6].map(|addr| VipOp::DeleteAddress { addr }));
    assert_eq!(world.addresses(), [].into());
}
