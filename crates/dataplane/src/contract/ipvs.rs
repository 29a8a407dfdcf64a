//! Demands on every IPVS table.

mod refusals;
mod scale;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use lb_types::{
    ForwardingMethod, IpFamily, IpvsOp, Persistence, Protocol, RealServer, RealServerId, Scheduler, VipPort,
    VirtualServer, VirtualServerId, Weight,
};

use crate::{BatchReport, IpvsTable, fake::IpvsSnapshot};

/// One demand on a table.
pub struct Case {
    /// The demand in words.
    pub name: &'static str,
    /// Panics if the table does not meet the demand. At the start the table is empty, and the node has no
    /// address but loopback's.
    pub run: fn(&mut dyn IpvsTable),
}

const fn case(name: &'static str, run: fn(&mut dyn IpvsTable)) -> Case {
    Case { name, run }
}

/// All demands.
pub const CASES: &[Case] = &[
    case("a fresh table is empty", settings::fresh),
    case("an empty batch does nothing", settings::empty_batch),
    case("virtual servers of every kind live side by side", settings::kinds),
    case("every scheduler is kept or its module named", settings::schedulers),
    case("every combination of flags is kept", settings::flags),
    case("persistence is kept with timeout and prefix length", settings::persistence),
    case("SET changes a virtual server and keeps its real servers", settings::set_virtual_server),
    case("real servers keep weight, method and thresholds", settings::real_servers),
    case("weight 0 is kept", settings::weight_zero),
    case("SET changes everything about a real server", settings::set_real_server),
    case("deleting a virtual server takes its real servers along", settings::delete_virtual_server),
    case("new real servers have no connections", settings::counters),
    case("tunnels lead to the other family", settings::mixed_families),
    case("operations of a batch are executed in order", settings::order_in_a_batch),
    case("NEW_SERVICE: EEXIST", refusals::virtual_server_exists),
    case("absent virtual server: ESRCH", refusals::no_virtual_server),
    case("real servers of an absent virtual server are an empty dump", refusals::dump_of_absent),
    case("unknown scheduler: ENOENT", refusals::no_scheduler),
    case("asking about schedulers leaves no trace", refusals::questions),
    case("NEW_DEST: EEXIST", refusals::real_server_exists),
    case("absent real server: ENOENT", refusals::no_real_server),
    case("addresses that cannot be real servers: EINVAL", refusals::bad_addresses),
    case("other family without tunnel: EINVAL", refusals::other_family),
    case("prefix lengths that the family does not have: EINVAL", refusals::bad_prefix),
    case("weights and thresholds out of range: ERANGE", refusals::out_of_range),
    case("reasons name operation, key, error and remedy", refusals::reasons),
    case("20,000 operations with failures in the middle", scale::big_batch),
    case("a batch of nothing but failures", scale::all_fail),
    case("5,000 virtual servers are dumped once each", scale::many_virtual_servers),
    case("2,000 real servers are dumped once each", scale::many_real_servers),
];

// The functions that follow make the values of the cases.

fn vip(addr: &str, protocol: Protocol, port: u16) -> VirtualServerId {
    let addr = addr.parse().expect("an address");
    VipPort { addr, protocol, port: port.try_into().expect("a port") }.into()
}

/// A TCP virtual server.
fn v4() -> VirtualServerId {
    vip("10.96.0.1", Protocol::Tcp, 80)
}

/// A TCP virtual server.
fn v6() -> VirtualServerId {
    vip("fd00:96::1", Protocol::Tcp, 80)
}

fn mark(family: IpFamily, mark: u32) -> VirtualServerId {
    VirtualServerId::FwMark { family, mark: mark.try_into().expect("a mark") }
}

fn rs(addr: &str, port: u16) -> RealServerId {
    RealServerId { addr: addr.parse().expect("an address"), port: port.try_into().expect("a port") }
}

const RR: VirtualServer = VirtualServer::new(Scheduler::RR);

fn persistent(seconds: u32, prefix_length: u8) -> VirtualServer {
    let timeout_seconds = seconds.try_into().expect("a timeout");
    VirtualServer { persistence: Some(Persistence { timeout_seconds, prefix_length }), ..RR }
}

const fn real(
    weight: u32,
    forwarding: ForwardingMethod,
    lower_threshold: u32,
    upper_threshold: u32,
) -> RealServer {
    RealServer { weight: Weight(weight), forwarding, upper_threshold, lower_threshold }
}

const fn add_vs(vs: VirtualServerId, settings: VirtualServer) -> IpvsOp {
    IpvsOp::AddVirtualServer { vs, settings }
}

const fn set_vs(vs: VirtualServerId, settings: VirtualServer) -> IpvsOp {
    IpvsOp::SetVirtualServer { vs, settings }
}

const fn del_vs(vs: VirtualServerId) -> IpvsOp {
    IpvsOp::DeleteVirtualServer { vs }
}

const fn add_rs(vs: VirtualServerId, rs: RealServerId, settings: RealServer) -> IpvsOp {
    IpvsOp::AddRealServer { vs, rs, settings }
}

const fn set_rs(vs: VirtualServerId, rs: RealServerId, settings: RealServer) -> IpvsOp {
    IpvsOp::SetRealServer { vs, rs, settings }
}

const fn del_rs(vs: VirtualServerId, rs: RealServerId) -> IpvsOp {
    IpvsOp::DeleteRealServer { vs, rs }
}

/// Everything in a table according to its dumps; fails if a dump repeats an entry or contains foreign ones.
///
/// # Panics
/// Panics if a dump fails.
pub fn snapshot(table: &mut dyn IpvsTable) -> IpvsSnapshot {
    let dump = table.dump_virtual_servers().expect("dump virtual servers");
    assert_eq!(dump.unsupported, 0);
    let mut all = IpvsSnapshot::new();
    for (vs, settings) in dump.virtual_servers {
        let mut reals = BTreeMap::new();
        for observed in table.dump_real_servers(vs).expect("dump real servers") {
            assert_eq!(reals.insert(observed.id, observed.settings), None, "{} occurs twice", observed.id);
        }
        assert!(all.insert(vs, (settings, reals)).is_none(), "{vs} occurs twice");
    }
    all
}

fn apply(table: &mut dyn IpvsTable, ops: &[IpvsOp]) -> BatchReport {
    table.apply(ops).expect("apply operations")
}

fn succeed(table: &mut dyn IpvsTable, ops: &[IpvsOp]) {
    assert_eq!(apply(table, ops), BatchReport::default());
}

/// Applies operations of which exactly these fail: position and error number, in order.
fn refuse(table: &mut dyn IpvsTable, ops: &[IpvsOp], expected: &[(usize, i32)]) {
    let report = apply(table, ops);
    let failed: Vec<_> = report.failed.iter().map(|f| (f.index, f.errno)).collect();
    assert_eq!(failed, expected, "{:#?}", report.failed);
    assert!(!report.replies_lost);
}

/// Applies operations of which each fails with the same error, and checks that they changed nothing.
fn refuse_all(table: &mut dyn IpvsTable, ops: &[IpvsOp], errno: i32) {
    let before = snapshot(table);
    refuse(table, ops, &(0..ops.len()).map(|index| (index, errno)).collect::<Vec<_>>());
    assert_eq!(snapshot(table), before);
}

fn expect_settings(table: &mut dyn IpvsTable, vs: VirtualServerId, expected: VirtualServer) {
    assert_eq!(snapshot(table).get(&vs).map(|(settings, _)| *settings), Some(expected), "{vs}");
}

fn expect_real_servers(
    table: &mut dyn IpvsTable,
    vs: VirtualServerId,
    expected: &[(RealServerId, RealServer)],
) {
    let reals = snapshot(table).remove(&vs).map(|(_, reals)| reals);
    assert_eq!(reals, Some(expected.iter().copied().collect()), "{vs}");
}
