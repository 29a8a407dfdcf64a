//! Batches of routes and addresses.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr},
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use dataplane::{BatchReport, FailedOp, explain_vip};
use lb_types::{IpFamily, RouteTable, VipOp};
use netlink::{Batch, BatchOutcome, Failure};
use netlink_packet_route::{AddressFamily, address::AddressScope};

use super::VipClient;
use crate::{
    ROUTE_PROTOCOL, STEERING_TABLE, VipError,
    conflict::{Foreign, resolve},
    dump::{Link, LocalRoute, parse_link, parse_local_route},
    encode::{
        RouteWrite, RuleWrite, family, get_links, get_local_routes, push_add_address, push_delete_address,
    },
};

/// An address that no tool takes for one of the node; it stays on a link that has lost all its others.
const PLACEHOLDER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 177, 177, 177));

/// Time after which the kernel has made the routes of new addresses; it takes a few milliseconds.
const LOCAL_WITHIN: Duration = Duration::from_millis(500);
/// Pause between two looks for them.
const LOCAL_POLL: Duration = Duration::from_millis(2);

/// Routes with the key of ours, by VIP and table.
type Rivals = HashMap<(IpAddr, RouteTable), Vec<LocalRoute>>;

/// An [`VipOp::EnsureRoute`] that met a route with the key of ours.
#[derive(Clone, Copy)]
struct Contested {
    index: usize,
    vip: IpAddr,
    table: RouteTable,
    source: Option<IpAddr>,
}

impl VipClient {
    /// Executes operations that concern different addresses.
    pub(super) fn apply_group(
        &mut self,
        ops: &[VipOp],
        group: Range<usize>,
        report: &mut BatchReport,
    ) -> Result<(), VipError> {
        let Some(link) = self.our_link()?.filter(|link| link.observed.dummy) else {
            // Without a link there is nothing to delete: it went with the link, or never was ours.
            let is_made = |op: &VipOp| matches!(op, VipOp::EnsureRoute { .. } | VipOp::EnsureAddress { .. });
            let made = group.filter(|index| is_made(&ops[*index]));
            report.failed.extend(made.map(|index| failed(ops, index, libc::ENODEV, None)));
            return Ok(());
        };
        self.keep_ipv4_enabled(&ops[group.clone()], link.index)?;
        let mut batch = Batch::new();
        for op in &ops[group.clone()] {
            push(&mut batch, op, link.index);
        }
        let outcome = self.socket.execute(&mut batch)?;
        report.replies_lost |= outcome.replies_lost;
        let contested = sort_out(ops, group.start, outcome, report);
        if !contested.is_empty() {
            self.settle(ops, &contested, link.index, report)?;
        }
        report.failed.sort_by_key(|failed| failed.index);
        let is_refused = |index: &usize| report.failed.iter().any(|failed| failed.index == *index);
        let added = group.filter(|index| !is_refused(index)).filter_map(|index| match ops[index] {
            VipOp::EnsureAddress { addr } if addr.is_ipv6() => Some(addr),
            _ => None,
        });
        self.await_local(added.collect(), link.index)
    }

    /// Waits until addresses of IPv6 are local: the kernel makes their routes later, in a work queue
    /// (`addrconf_dad_work`, net/ipv6/addrconf.c). Whatever leads to IPVS meanwhile must not go before. Gives up after
    /// [`LOCAL_WITHIN`].
    fn await_local(&mut self, mut addresses: HashSet<IpAddr>, link: u32) -> Result<(), VipError> {
        let deadline = Instant::now() + LOCAL_WITHIN;
        let request = get_local_routes(AddressFamily::Inet6, RouteTable::Local, Some(link));
        while !addresses.is_empty() {
            for route in self.socket.dump(&request, parse_local_route)? {
                if route.protocol != ROUTE_PROTOCOL {
                    addresses.remove(&route.addr);
                }
            }
            if addresses.is_empty() || Instant::now() > deadline {
                break;
            }
            thread::sleep(LOCAL_POLL);
        }
        Ok(())
    }

    /// Adds [`PLACEHOLDER`] to the link before any IPv4 address goes, because with the last one the kernel
    /// silently removes all IPv4 routes of the link (`fib_inetaddr_event` in net/ipv4/fib_frontend.c). It
    /// stays.
    fn keep_ipv4_enabled(&mut self, ops: &[VipOp], link: u32) -> Result<(), VipError> {
        if ops.iter().any(|op| matches!(op, VipOp::DeleteAddress { addr: IpAddr::V4(_) })) {
            let mut batch = Batch::new();
            push_add_address(&mut batch, PLACEHOLDER, AddressScope::Host, link);
            // The kernel refuses the address if the link has it already. Refused for another reason, the
            // addresses go all the same.
            self.socket.execute(&mut batch)?;
        }
        Ok(())
    }

    /// Looks at the routes that were in the way and resolves each conflict.
    fn settle(
        &mut self,
        ops: &[VipOp],
        contested: &[Contested],
        link: u32,
        report: &mut BatchReport,
    ) -> Result<(), VipError> {
        let rivals = self.dump_rivals(contested)?;
        let (mut batch, mut owners, mut foreign) = (Batch::new(), Vec::new(), Vec::new());
        for &Contested { index, vip, table, source } in contested {
            let rivals = rivals.get(&(vip, table)).map(Vec::as_slice).unwrap_or_default();
            match resolve(vip, source, link, rivals) {
                Ok(writes) => {
                    for write in writes {
                        write.push(&mut batch, vip, table, link);
                        owners.push((index, write));
                    }
                }
                Err(Foreign(route)) => foreign.push((index, route)),
            }
        }
        self.report_foreign(ops, &foreign, report)?;
        let outcome = self.socket.execute(&mut batch)?;
        report.replies_lost |= outcome.replies_lost;
        let mut reported = HashSet::new();
        for Failure { index, errno, text } in outcome.failures {
            let Some((op, write)) = owners.get(index) else { continue };
            let gone = matches!(write, RouteWrite::Delete { .. }) && is_absent(errno);
            if !gone && reported.insert(*op) {
                report.failed.push(failed(ops, *op, errno, text));
            }
        }
        Ok(())
    }

    fn report_foreign(
        &mut self,
        ops: &[VipOp],
        foreign: &[(usize, LocalRoute)],
        report: &mut BatchReport,
    ) -> Result<(), VipError> {
        let links =
            if foreign.is_empty() { Vec::new() } else { self.socket.dump(&get_links(None), parse_link)? };
        for (index, route) in foreign {
            let detail = Some(describe(route, &links));
            report.failed.push(failed(ops, *index, libc::EEXIST, detail));
        }
        Ok(())
    }

    /// Routes with the key of ours, for the contested VIPs, in the kernel's order.
    fn dump_rivals(&mut self, contested: &[Contested]) -> Result<Rivals, VipError> {
        let mut rivals: Rivals =
            contested.iter().map(|contested| ((contested.vip, contested.table), Vec::new())).collect();
        let tables: HashSet<_> = rivals.keys().map(|(vip, table)| (IpFamily::of(*vip), *table)).collect();
        for (family, table) in tables {
            let dump = get_local_routes(family_of(family), table, None);
            for route in self.socket.dump(&dump, parse_local_route)? {
                let key = (route.addr, route.table);
                if let Some(rivals) = rivals.get_mut(&key).filter(|_| route.has_our_key()) {
                    rivals.push(route);
                }
            }
        }
        Ok(rivals)
    }

    /// Executes an operation on a rule; one that is there, or gone, already is as wanted.
    pub(super) fn apply_rule(
        &mut self,
        ops: &[VipOp],
        index: usize,
        report: &mut BatchReport,
    ) -> Result<(), VipError> {
        let mut batch = Batch::new();
        match ops[index] {
            VipOp::EnsureRule { family, bit } => RuleWrite::Add.push(&mut batch, family, bit),
            VipOp::DeleteRule { family, bit } => RuleWrite::Delete.push(&mut batch, family, bit),
            op => debug_assert!(false, "no rule: {op}"),
        }
        let outcome = self.socket.execute(&mut batch)?;
        report.replies_lost |= outcome.replies_lost;
        let is_as_wanted = |errno| match ops[index] {
            VipOp::EnsureRule { .. } => errno == libc::EEXIST,
            _ => is_absent(errno),
        };
        let failures = outcome.failures.into_iter().filter(|failure| !is_as_wanted(failure.errno));
        report.failed.extend(failures.map(|failure| failed(ops, index, failure.errno, failure.text)));
        Ok(())
    }
}

fn family_of(ip_family: IpFamily) -> AddressFamily {
    family(ip_family.unspecified())
}

fn push(batch: &mut Batch, op: &VipOp, link: u32) {
    match *op {
        VipOp::EnsureRoute { vip, table, source } => RouteWrite::Add(source).push(batch, vip, table, link),
        VipOp::DeleteRoute { vip, table } => {
            RouteWrite::Delete { link, source: None }.push(batch, vip, table, link)
        }
        VipOp::EnsureAddress { addr } => push_add_address(batch, addr, AddressScope::Universe, link),
        VipOp::DeleteAddress { addr } => push_delete_address(batch, addr, link),
        VipOp::EnsureLink | VipOp::DeleteLink | VipOp::EnsureRule { .. } | VipOp::DeleteRule { .. } => {
            debug_assert!(false, "links and rules are not batched: {op}");
        }
    }
}

/// Reports real failures, drops harmless ones, and returns the conflicts that need a look.
fn sort_out(ops: &[VipOp], start: usize, outcome: BatchOutcome, report: &mut BatchReport) -> Vec<Contested> {
    let mut contested = Vec::new();
    for Failure { index, errno, text } in outcome.failures {
        let index = start + index;
        match (&ops[index], errno) {
            (VipOp::DeleteRoute { .. } | VipOp::DeleteAddress { .. }, errno) if is_absent(errno) => {}
            (VipOp::EnsureAddress { .. }, libc::EEXIST) => {}
            (&VipOp::EnsureRoute { vip, table, source }, libc::EEXIST) => {
                contested.push(Contested { index, vip, table, source });
            }
            _ => report.failed.push(failed(ops, index, errno, text)),
        }
    }
    contested
}

/// Tells whether an error number means that the object was absent: a route (ESRCH, ENOENT), an address
/// (EADDRNOTAVAIL), or anything on an absent link.
const fn is_absent(errno: i32) -> bool {
    matches!(errno, libc::ESRCH | libc::ENOENT | libc::EADDRNOTAVAIL | libc::ENODEV)
}

fn failed(ops: &[VipOp], index: usize, errno: i32, detail: Option<String>) -> FailedOp {
    let mut reason = explain_vip(&ops[index], errno);
    if let Some(detail) = detail {
        reason.push_str(" (");
        reason.push_str(&detail);
        reason.push(')');
    }
    FailedOp { index, errno, reason }
}

/// Describes the route in the way in terms of ip-route, and what it means.
fn describe(route: &LocalRoute, links: &[Link]) -> String {
    let name = |index| links.iter().find(|link| link.index == index).map(|link| link.name.as_str());
    let link = route.link.map(|index| format!(" dev {}", name(index).unwrap_or("?"))).unwrap_or_default();
    let source = route.source.map(|source| format!(" src {source}")).unwrap_or_default();
    let table = match route.table {
        RouteTable::Local => "local".to_owned(),
        RouteTable::Steering => STEERING_TABLE.to_string(),
    };
    format!(
        "local {}{link} table {table} proto {}{source}: it leads packets here, too, which are served all the same, but \
         processes of this node may have another source; delete it unless that is meant",
        route.addr, route.protocol
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_in_the_way_is_described_with_its_consequence() {
        let route = LocalRoute {
            addr: [192, 0, 2, 80].into(),
            table: RouteTable::Local,
            protocol: 3,
            tos: 0,
            metric: 0,
            link: Some(1),
            source: None,
        };
        let text = describe(&route, &[]);
        assert!(
            text.starts_with("local 192.0.2.80 dev ? table local proto 3: it leads packets here, too"),
            "{text}"
        );
        let steered = describe(&LocalRoute { table: RouteTable::Steering, ..route }, &[]);
        assert!(steered.contains("table 177 proto 3"), "{steered}");
    }
}
