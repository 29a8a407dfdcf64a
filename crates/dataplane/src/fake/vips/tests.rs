use lb_types::{IpFamily, Protocol, RouteTable};

use super::*;
use crate::{
    ErrorKind,
    contract::vips::{CASES, NODE_LINK, NODE_V4, NODE_V6, VipsWorld},
};

const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1));
const NODE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

fn ensure() -> VipOp {
    VipOp::EnsureRoute { vip: VIP, table: RouteTable::Local, source: Some(NODE) }
}

fn errnos(report: &BatchReport) -> Vec<(usize, i32)> {
    report.failed.iter().map(|f| (f.index, f.errno)).collect()
}

#[test]
fn counts_logs_and_snapshots() {
    let fake = FakeVips::default();
    let mut table = fake.clone();
    fake.set_node_addresses([(NODE, "eth0")]);
    let report = table.apply(&[ensure(), VipOp::EnsureLink, ensure()]).unwrap();
    assert_eq!(errnos(&report), [(0, libc::ENODEV)]);
    assert_eq!(table.observe().unwrap(), fake.snapshot());
    assert_eq!(fake.requests(), 4);
    assert_eq!(fake.take_ops(), [VipOp::EnsureLink, ensure()]);
    assert!(fake.ops().is_empty());
    assert_eq!(fake.routes(), BTreeMap::from([(VIP, Some(NODE))]));
}

#[test]
fn faults_hit_the_operation_that_was_named() {
    let fake = FakeVips::default();
    let mut table = fake.clone();
    fake.fail_nth(2, libc::ENOMEM);
    fake.fail_next(libc::EPERM);
    let report = table.apply(&[VipOp::EnsureLink; 3]).unwrap();
    assert_eq!(errnos(&report), [(0, libc::EPERM), (1, libc::ENOMEM)]);
    fake.refuse(|op| matches!(op, VipOp::DeleteLink).then_some(libc::EBUSY));
    assert_eq!(errnos(&table.apply(&[VipOp::DeleteLink]).unwrap()), [(0, libc::EBUSY)]);
    fake.refuse_nothing();
    assert!(table.apply(&[VipOp::DeleteLink]).unwrap().is_clean());
    fake.fail_next_call(ErrorKind::Transient);
    assert!(table.observe().unwrap_err().is_retryable());
    assert!(table.observe().is_ok());
}

#[test]
fn lost_replies_hide_failures_but_not_effects() {
    let fake = FakeVips::default();
    fake.lose_replies_next();
    let report = fake.clone().apply(&[ensure(), VipOp::EnsureLink]).unwrap();
    assert_eq!(report, BatchReport { failed: vec![], replies_lost: true });
    assert!(fake.link().is_some());
}

#[test]
fn a_kernel_without_dummy_links_says_so() {
    let fake = FakeVips::default();
    fake.set_no_dummy(true);
    let report = fake.clone().apply(&[VipOp::EnsureLink]).unwrap();
    assert!(report.failed[0].reason.contains("modprobe dummy"), "{report:?}");
}

/// The fake as a world of the contract suite.
struct FakeVipsWorld {
    fake: FakeVips,
    table: FakeVips,
    node_addresses: BTreeSet<IpAddr>,
    listeners: BTreeSet<VipPort>,
}

impl FakeVipsWorld {
    fn new() -> Self {
        let fake = FakeVips::default();
        let node_addresses = BTreeSet::from([NODE_V4, NODE_V6]);
        let world = FakeVipsWorld { table: fake.clone(), fake, node_addresses, listeners: BTreeSet::new() };
        world.publish();
        world
    }

    fn publish(&self) {
        self.fake.set_node_addresses(self.node_addresses.iter().map(|addr| (*addr, NODE_LINK)));
    }
}

impl VipsWorld for FakeVipsWorld {
    fn table(&mut self) -> &mut dyn VipTable {
        &mut self.table
    }
    fn add_node_address(&mut self, addr: IpAddr) {
        self.node_addresses.insert(addr);
        self.publish();
    }
    fn remove_node_address(&mut self, addr: IpAddr) {
        self.node_addresses.remove(&addr);
        self.publish();
    }
    fn has_sctp(&mut self) -> bool {
        true
    }
    fn listen(&mut self, protocol: Protocol, addr: Option<IpAddr>, port: u16) {
        let port = port.try_into().unwrap();
        self.listeners.extend(addr.map(|addr| VipPort { addr, protocol, port }));
        self.fake.set_listeners(self.listeners.iter().copied());
    }
    fn connect(&mut self, _: IpAddr, _: u16) -> u16 {
        50_000
    }
    fn stop_listening(&mut self) {
        self.listeners.clear();
        self.fake.set_listeners([]);
    }
    fn delete_link(&mut self) {
        self.fake.delete_link();
    }
    fn rename_link(&mut self) {
        self.fake.rename_link();
    }
    fn set_link_down(&mut self) {
        self.fake.set_link_down();
    }
    fn add_foreign_link(&mut self) {
        self.fake.add_foreign_link();
    }
    fn add_address(&mut self, addr: IpAddr) {
        self.fake.add_address(addr);
    }
    fn delete_address(&mut self, addr: IpAddr) {
        self.fake.delete_address(addr);
    }
    fn delete_route(&mut self, vip: IpAddr) {
        self.fake.delete_route(vip);
    }
    fn add_foreign_route(&mut self, addr: IpAddr) {
        self.fake.add_foreign_route(addr);
    }
    fn link(&mut self) -> Option<ObservedLink> {
        self.fake.link()
    }
    fn routes(&mut self) -> Vec<(IpAddr, Option<IpAddr>)> {
        self.fake.routes().into_iter().collect()
    }
    fn steered(&mut self) -> Vec<IpAddr> {
        self.fake.steered().into_iter().collect()
    }
    fn rules(&mut self) -> Vec<(IpFamily, u8)> {
        self.fake.rules().into_iter().collect()
    }
    fn delete_rules(&mut self) {
        self.fake.delete_rules();
    }
    fn addresses(&mut self) -> BTreeSet<IpAddr> {
        self.fake.addresses()
    }
    fn foreign_routes(&mut self) -> BTreeSet<IpAddr> {
        self.fake.0.borrow().namespace.foreign_routes.clone()
    }
}

/// Conformance: ipvs/proxier TestGetNodeIPs
#[test]
fn the_fake_keeps_the_contract() {
    for case in CASES {
        eprintln!("{}", case.name);
        (case.run)(&mut FakeVipsWorld::new());
    }
}
