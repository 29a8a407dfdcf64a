//! Behaviour of a table towards its own link and routes.

use std::net::IpAddr;

use lb_types::{RouteTable, VipOp};

use super::{
    BOTH_ROUTES, NODE_LINK, NODE_V4, NODE_V6, OTHER_V4, OTHER_V6, UP, VIP_V4, VIP_V6, VipsWorld, apply,
    assert_routes, ensure, errnos, link_and_routes, observe, try_apply, v4, v6,
};

pub(super) fn fresh(world: &mut dyn VipsWorld) {
    let seen = observe(world);
    assert_eq!((seen.link, seen.routes.len(), seen.addresses.len()), (None, 0, 0));
    let expect = [(NODE_V4, NODE_LINK.to_owned()), (NODE_V6, NODE_LINK.to_owned())];
    assert_eq!(seen.node_addresses.into_iter().collect::<Vec<_>>(), expect);
}

pub(super) fn link_created(world: &mut dyn VipsWorld) {
    for _ in 0..2 {
        apply(world, &[VipOp::EnsureLink]);
        let seen = observe(world);
        assert_eq!((seen.link, world.link()), (Some(UP), Some(UP)));
        assert_eq!(seen.addresses.len(), 0, "no address, not even a link-local one, is reported");
        assert_eq!(seen.node_addresses.len(), 2);
    }
}

pub(super) fn refusals(world: &mut dyn VipsWorld) {
    let good = [ensure(VIP_V4, NODE_V4), ensure(VIP_V6, NODE_V6)];
    assert_eq!(errnos(&try_apply(world, &good)), [(0, libc::ENODEV), (1, libc::ENODEV)]);
    apply(world, &[VipOp::EnsureLink]);
    let bad_sources = [
        ensure(v4(10, 96, 0, 9), v4(203, 0, 113, 7)),
        good[0],
        ensure(v6(0x1111, 9), v6(0x2222, 7)),
        good[1],
    ];
    let report = try_apply(world, &bad_sources);
    assert_eq!(errnos(&report), [(0, libc::EINVAL), (2, libc::EINVAL)], "the others are executed");
    assert!(report.failed[0].reason.contains("203.0.113.7"), "{report:?}");
    assert_routes(world, &BOTH_ROUTES);
}

pub(super) fn ensured(world: &mut dyn VipsWorld) {
    link_and_routes(world);
    assert_routes(world, &BOTH_ROUTES);
    link_and_routes(world);
    assert_routes(world, &BOTH_ROUTES);
    apply(world, &[VipOp::DeleteRoute { vip: VIP_V4, table: RouteTable::Local }]);
    assert_routes(world, &BOTH_ROUTES[1..]);
    apply(world, &[VipOp::DeleteRoute { vip: VIP_V6, table: RouteTable::Local }]);
    assert_routes(world, &[]);
}

pub(super) fn replaced(world: &mut dyn VipsWorld) {
    link_and_routes(world);
    world.add_node_address(OTHER_V4);
    world.add_node_address(OTHER_V6);
    apply(world, &[ensure(VIP_V4, OTHER_V4), ensure(VIP_V6, OTHER_V6)]);
    assert_routes(world, &[(VIP_V4, Some(OTHER_V4)), (VIP_V6, Some(OTHER_V6))]);
    link_and_routes(world);
    assert_routes(world, &BOTH_ROUTES);
    apply(
        world,
        &[
            VipOp::DeleteRoute { vip: VIP_V4, table: RouteTable::Local },
            VipOp::DeleteRoute { vip: VIP_V6, table: RouteTable::Local },
        ],
    );
    assert_routes(world, &[]);
}

pub(super) fn no_source(world: &mut dyn VipsWorld) {
    let none = |vip| VipOp::EnsureRoute { vip, table: RouteTable::Local, source: None };
    let without = [(VIP_V4, None), (VIP_V6, None)];
    apply(world, &[VipOp::EnsureLink, none(VIP_V4), none(VIP_V6)]);
    assert_routes(world, &without);
    link_and_routes(world);
    assert_routes(world, &BOTH_ROUTES);
    apply(world, &[none(VIP_V4), none(VIP_V6)]);
    assert_routes(world, &without);
}

pub(super) fn delete_absent(world: &mut dyn VipsWorld) {
    let delete = [
        VipOp::DeleteRoute { vip: VIP_V4, table: RouteTable::Local },
        VipOp::DeleteRoute { vip: VIP_V6, table: RouteTable::Local },
        VipOp::DeleteAddress { addr: VIP_V4 },
        VipOp::DeleteAddress { addr: VIP_V6 },
        VipOp::DeleteLink,
    ];
    apply(world, &delete);
    apply(world, &[VipOp::EnsureLink]);
    apply(world, &delete[..4]);
    assert_eq!(world.link(), Some(UP));
    apply(world, &delete);
    assert_eq!(world.link(), None);
}

pub(super) fn in_order(world: &mut dyn VipsWorld) {
    world.add_node_address(OTHER_V4);
    let delete = VipOp::DeleteRoute { vip: VIP_V4, table: RouteTable::Local };
    apply(
        world,
        &[delete, VipOp::EnsureLink, ensure(VIP_V4, NODE_V4), delete, ensure(VIP_V4, OTHER_V4), delete],
    );
    assert_routes(world, &[]);
    apply(world, &[ensure(VIP_V4, NODE_V4), delete, ensure(VIP_V4, OTHER_V4), ensure(VIP_V6, NODE_V6)]);
    assert_routes(world, &[(VIP_V4, Some(OTHER_V4)), (VIP_V6, Some(NODE_V6))]);
    let late = [ensure(VIP_V4, NODE_V4), VipOp::DeleteLink, ensure(VIP_V4, NODE_V4)];
    assert_eq!(errnos(&try_apply(world, &late)), [(2, libc::ENODEV)]);
}

pub(super) fn many(world: &mut dyn VipsWorld) {
    let vips: Vec<(IpAddr, IpAddr)> = (0..2000u16)
        .map(|n| (v4(10, 97, (n >> 8) as u8, n as u8), NODE_V4))
        .chain((0..2000).map(|n| (v6(0x1112, n), NODE_V6)))
        .collect();
    let expect: Vec<_> = vips.iter().map(|(vip, source)| (*vip, Some(*source))).collect();
    let ops: Vec<_> = vips.iter().map(|(vip, source)| ensure(*vip, *source)).collect();
    apply(world, &[VipOp::EnsureLink]);
    apply(world, &ops);
    assert_routes(world, &expect);
    let ops: Vec<_> =
        vips.iter().map(|(vip, _)| VipOp::DeleteRoute { vip: *vip, table: RouteTable::Local }).collect();
    apply(world, &ops);
    assert_routes(world, &[]);
}
