//! Batches of routes and addresses.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr},
    ops::Range,
};

use dataplane::{BatchReport, FailedOp, explain_vip};
use lb_types::{IpFamily, VipOp};
use netlink::{Batch, BatchOutcome, Failure};
use netlink_packet_route::AddressFamily;

use super::VipClient;
use crate::{
    VipError,
    conflict::{Foreign, resolve},
    dump::{Link, LocalRoute, parse_link, parse_local_route},
    encode::{RouteWrite, family, get_links, get_local_routes, push_add_address, push_delete_address},
};

/// An address that no tool takes for one of the node; it stays on a link that has lost all its others.
const PLACEHOLDER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 177, 177, 177));

/// An [`VipOp::EnsureRoute`] that met a route with the key of ours.
#[derive(Clone, Copy)]
struct Contested {
    index: usize,
    vip: IpAddr,
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
            let routes = group.filter(|index| matches!(ops[*index], VipOp::EnsureRoute { .. }));
            report.failed.extend(routes.map(|index| failed(ops, index, libc::ENODEV, None)));
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
        Ok(())
    }

    /// Adds [`PLACEHOLDER`] to the link before any IPv4 address goes, because with the last one the kernel
    /// silently removes all IPv4 routes of the link (`fib_inetaddr_event` in net/ipv4/fib_frontend.c). It
    /// stays.
    fn keep_ipv4_enabled(&mut self, ops: &[VipOp], link: u32) -> Result<(), VipError> {
        if ops.iter().any(|op| matches!(op, VipOp::DeleteAddress { addr: IpAddr::V4(_) })) {
            let mut batch = Batch::new();
            push_add_address(&mut batch, PLACEHOLDER, link);
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
        for &Contested { index, vip, source } in contested {
            let rivals = rivals.get(&vip).map(Vec::as_slice).unwrap_or_default();
            match resolve(vip, source, link, rivals) {
                Ok(writes) => {
                    for write in writes {
                        write.push(&mut batch, vip, link);
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
            let gone = matches!(write, RouteWrite::Delete(_)) && is_absent(errno);
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
    fn dump_rivals(&mut self, contested: &[Contested]) -> Result<HashMap<IpAddr, Vec<LocalRoute>>, VipError> {
        let mut rivals: HashMap<IpAddr, Vec<LocalRoute>> =
            contested.iter().map(|contested| (contested.vip, Vec::new())).collect();
        let families: HashSet<IpFamily> = rivals.keys().map(|vip| IpFamily::of(*vip)).collect();
        for family in families {
            for route in self.dump_local_routes(family_of(family))? {
                if let Some(rivals) = rivals.get_mut(&route.addr).filter(|_| route.has_our_key()) {
                    rivals.push(route);
                }
            }
        }
        Ok(rivals)
    }

    fn dump_local_routes(&mut self, family: AddressFamily) -> Result<Vec<LocalRoute>, VipError> {
        Ok(self.socket.dump(&get_local_routes(family, None), parse_local_route)?)
    }
}

fn family_of(ip_family: IpFamily) -> AddressFamily {
    family(ip_family.unspecified())
}

fn push(batch: &mut Batch, op: &VipOp, link: u32) {
    match *op {
        VipOp::EnsureRoute { vip, source } => RouteWrite::Add(source).push(batch, vip, link),
        VipOp::DeleteRoute { vip } => RouteWrite::Delete(None).push(batch, vip, link),
        VipOp::DeleteAddress { addr } => push_delete_address(batch, addr, link),
        VipOp::EnsureLink | VipOp::DeleteLink => debug_assert!(false, "links are not batched: {op}"),
    }
}

/// Reports real failures, drops harmless ones, and returns the conflicts that need a look.
fn sort_out(ops: &[VipOp], start: usize, outcome: BatchOutcome, report: &mut BatchReport) -> Vec<Contested> {
    let mut contested = Vec::new();
    for Failure { index, errno, text } in outcome.failures {
        let index = start + index;
        match (&ops[index], errno) {
            (VipOp::DeleteRoute { .. } | VipOp::DeleteAddress { .. }, errno) if is_absent(errno) => {}
            (&VipOp::EnsureRoute { vip, source }, libc::EEXIST) => {
                contested.push(Contested { index, vip, source });
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

/// Describes the route in the way in terms of ip-route.
fn describe(route: &LocalRoute, links: &[Link]) -> String {
    let name = |index| links.iter().find(|link| link.index == index).map(|link| link.name.as_str());
    let link = route.link.map(|index| format!(" dev {}", name(index).unwrap_or("?"))).unwrap_or_default();
    let source = route.source.map(|source| format!(" src {source}")).unwrap_or_default();
    format!("local {}{link} table local proto {}{source}", route.addr, route.protocol)
}
