//! Behaviour of a table when others work in the same namespace.

use std::{collections::BTreeSet, net::IpAddr};

use lb_types::{RouteTable, VipOp};

use super::{
    BOTH_ROUTES, NODE_V4, NODE_V6, OTHER_V4, OTHER_V6, UP, VIP_V4, VIP_V6, VipsWorld, apply, assert_routes,
    ensure, errnos, link_and_routes, observe, try_apply, v4, v6,
};
use crate::ObservedLink;

const FOREIGN: [IpAddr; 2] = [v4(10, 96, 0, 77), v6(0x1111, 77)];

pub(super) fn foreign_route(world: &mut dyn VipsWorld) {
    let foreign = BTreeSet::from(FOREIGN);
    for addr in FOREIGN {
        world.add_foreign_route(addr);
    }
    link_and_routes(world);
    let report = try_apply(world, &[ensure(FOREIGN[0], NODE_V4), ensure(FOREIGN[1], NODE_V6)]);
    assert_eq!(errnos(&report), [(0, libc::EEXIST), (1, libc::EEXIST)], "{report:?}");
    assert!(report.failed[0].reason.contains("somebody else"), "{report:?}");
    assert_eq!(world.foreign_routes(), foreign);
    apply(world, &FOREIGN.map(|vip| VipOp::DeleteRoute { vip, table: RouteTable::Local }));
    assert_eq!(world.foreign_routes(), foreign);
    assert_routes(world, &BOTH_ROUTES);
}

pub(super) fn foreign_link(world: &mut dyn VipsWorld) {
    world.add_foreign_link();
    let ops = [VipOp::EnsureLink, ensure(VIP_V4, NODE_V4), ensure(VIP_V6, NODE_V6), VipOp::DeleteLink];
    let report = try_apply(world, &ops);
    let expect = [(0, libc::EEXIST), (1, libc::ENODEV), (2, libc::ENODEV), (3, libc::EEXIST)];
    assert_eq!(errnos(&report), expect, "{report:?}");
    assert!(report.failed[0].reason.contains("ip link delete kube-ipvs0"), "{report:?}");
    assert!(observe(world).link.is_some_and(|link| !link.dummy));
    assert!(world.link().is_some_and(|link| !link.dummy), "it is still there");
    apply(world, &[VipOp::DeleteRoute { vip: VIP_V4, table: RouteTable::Local }]);
}

pub(super) fn link_deleted(world: &mut dyn VipsWorld) {
    link_and_routes(world);
    world.delete_link();
    assert_eq!(observe(world).link, None);
    assert_routes(world, &[]);
    link_and_routes(world);
    assert_routes(world, &BOTH_ROUTES);
}

pub(super) fn link_renamed(world: &mut dyn VipsWorld) {
    let steered = VipOp::EnsureRoute { vip: v4(198, 51, 100, 7), table: RouteTable::Steering, source: None };
    link_and_routes(world);
    apply(world, &[steered]);
    world.rename_link();
    let seen = observe(world);
    assert_eq!(
        (seen.link, seen.routes.len(), seen.steered.len()),
        (None, 0, 0),
        "none of them is on our link"
    );
    link_and_routes(world);
    apply(world, &[steered]);
    assert_routes(world, &BOTH_ROUTES);
    assert_eq!(world.steered(), [v4(198, 51, 100, 7)]);
}

pub(super) fn link_down(world: &mut dyn VipsWorld) {
    link_and_routes(world);
    world.set_link_down();
    assert_eq!(observe(world).link, Some(ObservedLink { up: false, ..UP }));
    assert_routes(world, &BOTH_ROUTES[..1]);
    let report = try_apply(world, &[ensure(VIP_V6, NODE_V6), ensure(VIP_V4, NODE_V4)]);
    assert_eq!(errnos(&report), [(0, libc::ENETDOWN)]);
    link_and_routes(world);
    assert_eq!(world.link(), Some(UP));
    assert_routes(world, &BOTH_ROUTES);
}

pub(super) fn route_deleted(world: &mut dyn VipsWorld) {
    link_and_routes(world);
    world.delete_route(VIP_V4);
    assert_routes(world, &BOTH_ROUTES[1..]);
    world.delete_route(VIP_V6);
    assert_routes(world, &[]);
    link_and_routes(world);
    assert_routes(world, &BOTH_ROUTES);
}

pub(super) fn node_address_removed(world: &mut dyn VipsWorld) {
    world.add_node_address(OTHER_V4);
    world.add_node_address(OTHER_V6);
    assert_eq!(observe(world).node_addresses.len(), 4);
    let other = [(VIP_V4, Some(OTHER_V4)), (VIP_V6, Some(OTHER_V6))];
    apply(world, &[VipOp::EnsureLink, ensure(VIP_V4, OTHER_V4), ensure(VIP_V6, OTHER_V6)]);
    assert_routes(world, &other);
    world.remove_node_address(OTHER_V4);
    world.remove_node_address(OTHER_V6);
    assert_eq!(observe(world).node_addresses.len(), 2);
    // Some kernels take the source from the IPv6 route, others let it keep one that is gone, as IPv4 routes
    // do. Either way the route exists, and what a dump shows differs from what is desired.
    let source_v6 = observe(world).routes.get(&VIP_V6).copied().flatten();
    assert!(source_v6.is_none_or(|source| source == OTHER_V6), "{source_v6:?}");
    assert_routes(world, &[(VIP_V4, Some(OTHER_V4)), (VIP_V6, source_v6)]);
    link_and_routes(world);
    assert_routes(world, &BOTH_ROUTES);
}

pub(super) fn addresses(world: &mut dyn VipsWorld) {
    apply(world, &[VipOp::EnsureLink]);
    world.add_address(VIP_V4);
    world.add_address(VIP_V6);
    let seen = observe(world);
    assert_eq!(seen.addresses, BTreeSet::from([VIP_V4, VIP_V6]));
    assert_eq!(seen.node_addresses.len(), 2, "they are not the node's");
    assert_routes(world, &[]);
    // Make before break: the routes come first, then the addresses go, and take no route along.
    link_and_routes(world);
    assert_eq!(observe(world).addresses.len(), 2);
    assert_routes(world, &BOTH_ROUTES);
    apply(world, &[VipOp::DeleteAddress { addr: VIP_V4 }, VipOp::DeleteAddress { addr: VIP_V6 }]);
    assert!(observe(world).addresses.is_empty());
    assert_routes(world, &BOTH_ROUTES);
    // An address that somebody adds and we remove takes none along either.
    world.add_address(v4(10, 96, 0, 99));
    assert_eq!(observe(world).addresses, BTreeSet::from([v4(10, 96, 0, 99)]));
    apply(world, &[VipOp::DeleteAddress { addr: v4(10, 96, 0, 99) }]);
    assert_routes(world, &BOTH_ROUTES);
}

pub(super) fn last_address(world: &mut dyn VipsWorld) {
    link_and_routes(world);
    world.add_address(v4(10, 96, 0, 98));
    world.add_address(v4(10, 96, 0, 99));
    world.delete_address(v4(10, 96, 0, 99));
    assert_routes(world, &BOTH_ROUTES);
    world.delete_address(v4(10, 96, 0, 98));
    assert_routes(world, &BOTH_ROUTES[1..]);
    link_and_routes(world);
    assert_routes(world, &BOTH_ROUTES);
}

pub(super) fn cleanup(world: &mut dyn VipsWorld) {
    for addr in FOREIGN {
        world.add_foreign_route(addr);
    }
    link_and_routes(world);
    apply(world, &[VipOp::DeleteLink]);
    assert_eq!(world.link(), None);
    assert_routes(world, &[]);
    assert_eq!(world.foreign_routes(), BTreeSet::from(FOREIGN));
    assert_eq!(observe(world).node_addresses.len(), 2);
}
