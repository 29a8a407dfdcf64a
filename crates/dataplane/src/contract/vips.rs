//! Demands on every table of links, addresses and routes.
//!
//! A case gets a [`VipsWorld`]: the table, the hands of somebody else, and eyes that are not the table's own.

mod interference;
mod routes;
mod sockets;
mod steering;

use std::{collections::BTreeSet, net::IpAddr};

use lb_types::{IpFamily, Protocol, RouteTable, VipOp};

use crate::{BatchReport, ObservedLink, ObservedVips, VipTable};

/// A network namespace with a table under test, and somebody else who works in it.
///
/// At the start it has the link [`NODE_LINK`], up, with [`NODE_V4`] and [`NODE_V6`], and no link
/// `kube-ipvs0`.
pub trait VipsWorld {
    /// The table under test.
    fn table(&mut self) -> &mut dyn VipTable;

    /// Adds an address to [`NODE_LINK`].
    fn add_node_address(&mut self, addr: IpAddr);
    /// Removes an address from [`NODE_LINK`].
    fn remove_node_address(&mut self, addr: IpAddr);
    /// Deletes `kube-ipvs0`.
    fn delete_link(&mut self);
    /// Renames `kube-ipvs0`, which stays with everything on it that the kernel leaves there.
    fn rename_link(&mut self);
    /// Sets `kube-ipvs0` down.
    fn set_link_down(&mut self);
    /// Creates `kube-ipvs0` as a link of another type.
    fn add_foreign_link(&mut self);
    /// Adds an address to `kube-ipvs0`, as kube-proxy does.
    fn add_address(&mut self, addr: IpAddr);
    /// Removes an address from `kube-ipvs0`.
    fn delete_address(&mut self, addr: IpAddr);
    /// Deletes our route of a VIP.
    fn delete_route(&mut self, vip: IpAddr);
    /// Adds a local route on another link.
    fn add_foreign_route(&mut self, addr: IpAddr);
    /// Tells whether programs of the node can listen over SCTP.
    fn has_sctp(&mut self) -> bool;
    /// Makes a program of the node listen, at an address or at all of them.
    fn listen(&mut self, protocol: Protocol, addr: Option<IpAddr>, port: u16);
    /// Makes a program of the node connect to a port of TCP, from the same address; returns its own port.
    fn connect(&mut self, addr: IpAddr, port: u16) -> u16;
    /// Ends all programs of the node.
    fn stop_listening(&mut self);

    /// `kube-ipvs0` as others see it.
    fn link(&mut self) -> Option<ObservedLink>;
    /// Our local routes as others see them, sorted; one that exists twice is listed twice.
    fn routes(&mut self) -> Vec<(IpAddr, Option<IpAddr>)>;
    /// Our routes in the table of steered packets as others see them, sorted; one that exists twice is listed twice.
    fn steered(&mut self) -> Vec<IpAddr>;
    /// Our rules of the routing policy as others see them, sorted; one that exists twice is listed twice.
    fn rules(&mut self) -> Vec<(IpFamily, u8)>;
    /// Deletes our rules of the routing policy.
    fn delete_rules(&mut self);
    /// Addresses on `kube-ipvs0` as others see them, without loopback and link-local ones.
    fn addresses(&mut self) -> BTreeSet<IpAddr>;
    /// Local routes made by [`VipsWorld::add_foreign_route`], as others see them.
    fn foreign_routes(&mut self) -> BTreeSet<IpAddr>;
}

/// One demand on a table.
pub struct Case {
    /// The demand in words.
    pub name: &'static str,
    /// Panics if the table does not meet the demand; the world is fresh.
    pub run: fn(&mut dyn VipsWorld),
}

/// All demands.
pub const CASES: &[Case] = &[
    Case { name: "a fresh world has node addresses only", run: routes::fresh },
    Case { name: "the link is created up, once", run: routes::link_created },
    Case { name: "routes need the link and a source of this node", run: routes::refusals },
    Case { name: "routes appear once, with their source", run: routes::ensured },
    Case { name: "another source replaces the route", run: routes::replaced },
    Case { name: "the source may be left to the kernel", run: routes::no_source },
    Case { name: "deleting what is absent succeeds", run: routes::delete_absent },
    Case { name: "a batch is executed in order", run: routes::in_order },
    Case { name: "two thousand routes of each family", run: routes::many },
    Case { name: "a foreign route is reported, not touched", run: interference::foreign_route },
    Case { name: "a foreign link is reported, not touched", run: interference::foreign_link },
    Case { name: "routes go with the link", run: interference::link_deleted },
    Case { name: "routes leave a link that is renamed", run: interference::link_renamed },
    Case { name: "a link that is down is set up again", run: interference::link_down },
    Case { name: "a deleted route is made again", run: interference::route_deleted },
    Case { name: "routes follow the node's addresses", run: interference::node_address_removed },
    Case { name: "routes exist beside addresses of the link", run: interference::addresses },
    Case { name: "somebody else's last address takes routes along", run: interference::last_address },
    Case { name: "steered VIPs have a route and a rule of their own", run: steering::ensured },
    Case { name: "the routes of a VIP in both tables are apart", run: steering::both_tables },
    Case { name: "another bit has another rule", run: steering::another_bit },
    Case { name: "steered routes go with the link, rules stay", run: steering::link_deleted },
    Case { name: "a deleted rule is made again", run: steering::rules_deleted },
    Case { name: "addresses are added once", run: steering::addresses },
    Case { name: "listeners are sockets bound to the very address", run: sockets::bound },
    Case { name: "sockets of connections are no listeners", run: sockets::connected },
    Case { name: "cleanup removes the link and leaves the rest", run: interference::cleanup },
];

/// A link of the node that is not ours.
pub const NODE_LINK: &str = "node0";
/// Its IPv4 address at the start.
pub const NODE_V4: IpAddr = v4(192, 0, 2, 1);
/// Its IPv6 address at the start.
pub const NODE_V6: IpAddr = v6(0x00ff, 1);
const OTHER_V4: IpAddr = v4(192, 0, 2, 2);
const OTHER_V6: IpAddr = v6(0x00ff, 2);
const VIP_V4: IpAddr = v4(10, 96, 0, 1);
const VIP_V6: IpAddr = v6(0x1111, 1);

const fn v4(a: u8, b: u8, c: u8, d: u8) -> IpAddr {
    IpAddr::V4(std::net::Ipv4Addr::new(a, b, c, d))
}

const fn v6(net: u16, host: u16) -> IpAddr {
    IpAddr::V6(std::net::Ipv6Addr::new(0xfd00, net, 0, 0, 0, 0, 0, host))
}

const fn ensure(vip: IpAddr, source: IpAddr) -> VipOp {
    VipOp::EnsureRoute { vip, table: RouteTable::Local, source: Some(source) }
}

/// Applies operations of which none may fail.
#[track_caller]
fn apply(world: &mut dyn VipsWorld, ops: &[VipOp]) {
    let report = try_apply(world, ops);
    assert!(report.is_clean(), "{report:?}");
}

#[track_caller]
fn try_apply(world: &mut dyn VipsWorld, ops: &[VipOp]) -> BatchReport {
    world.table().apply(ops).expect("the call as a whole succeeds")
}

/// Index and error number of every refused operation.
fn errnos(report: &BatchReport) -> Vec<(usize, i32)> {
    report.failed.iter().map(|failed| (failed.index, failed.errno)).collect()
}

#[track_caller]
fn observe(world: &mut dyn VipsWorld) -> ObservedVips {
    world.table().observe().expect("observable")
}

/// Checks that the table and the outside view agree on our routes, which are exactly these.
#[track_caller]
fn assert_routes(world: &mut dyn VipsWorld, expect: &[(IpAddr, Option<IpAddr>)]) {
    let mut seen: Vec<_> = observe(world).routes.into_iter().collect();
    seen.sort_unstable();
    assert_eq!(seen, expect, "as the table sees it");
    assert_eq!(world.routes(), expect, "as others see it");
}

/// Creates the link and a route of each family.
fn link_and_routes(world: &mut dyn VipsWorld) {
    apply(world, &[VipOp::EnsureLink, ensure(VIP_V4, NODE_V4), ensure(VIP_V6, NODE_V6)]);
}

/// Routes that [`link_and_routes`] creates.
const BOTH_ROUTES: [(IpAddr, Option<IpAddr>); 2] = [(VIP_V4, Some(NODE_V4)), (VIP_V6, Some(NODE_V6))];

const UP: ObservedLink = ObservedLink { dummy: true, up: true };
