//! Client of the kernel's tables of links, addresses and routes.

mod routes;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    net::IpAddr,
    ops::Range,
};

use dataplane::{BatchReport, FailedOp, ObservedLink, ObservedVips, TableError, VipTable, explain_vip};
use lb_types::{MarkRule, RouteTable, VipOp, VipPort};
use netlink::{Buffers, Counters, Protocol, RequestSocket};
use netlink_packet_route::AddressFamily;

use crate::{
    LINK_NAME, ROUTE_PROTOCOL, VipError,
    dump::{
        Address, BRIDGE, Link, LocalRoute, Rule, parse_address, parse_advertised_default, parse_link,
        parse_local_route, parse_rule,
    },
    encode::{get_addresses, get_advertised_routes, get_links, get_local_routes, get_rules},
    link,
    sockets::Sockets,
};

const FAMILIES: [AddressFamily; 2] = [AddressFamily::Inet, AddressFamily::Inet6];

/// Links, addresses and routes of the network namespace of the thread that opened it.
///
/// It is synchronous: the kernel does the work inside the calls, so they belong on a thread of their own. A
/// batch of routes costs one request for the link, one system call per some hundreds of routes, and nothing
/// else unless the kernel refuses something. To bind VIPs that are addresses of `kube-ipvs0` already, put all
/// [`VipOp::EnsureRoute`] before all [`VipOp::DeleteAddress`].
pub struct VipClient {
    socket: RequestSocket,
    /// Socket for questions about listening sockets; opened at the first one, because hardly any node has
    /// VIPs among its addresses.
    sockets: Option<Sockets>,
    /// Required type of the link (`IFLA_INFO_KIND`): dummy, except in tests on kernels that have none.
    kind: String,
}

/// Our link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct OurLink {
    index: u32,
    observed: ObservedLink,
}

impl VipClient {
    /// Opens the sockets. Without CAP_NET_ADMIN this succeeds, and writes fail.
    pub fn open() -> Result<Self, VipError> {
        VipClient::open_with_kind("dummy")
    }

    /// Does the same with another type of link in place of dummy, for tests on kernels without it (`ifb`
    /// behaves alike).
    pub fn open_with_kind(kind: &str) -> Result<Self, VipError> {
        let socket = RequestSocket::open(Protocol::ROUTE, &Buffers::default())?;
        // The kernel then filters dumps; before Linux 4.20 it sends everything, and the parsers filter.
        let _ = socket.set_strict_check();
        Ok(VipClient { socket, sockets: None, kind: kind.to_owned() })
    }

    /// Port that notifications of our own routes carry, for [`crate::VipWatcher::open`].
    pub fn port_id(&self) -> u32 {
        self.socket.port_id()
    }

    /// Numbers of system calls, messages and bytes of the socket so far; links are made through another one.
    pub fn counters(&self) -> Counters {
        self.socket.counters()
    }

    fn our_link(&mut self) -> Result<Option<OurLink>, VipError> {
        match self.socket.request(&get_links(Some(LINK_NAME)), parse_link) {
            Ok(links) => Ok(links.first().map(|link| self.as_ours(link))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn as_ours(&self, link: &Link) -> OurLink {
        let dummy = link.kind.as_deref() == Some(self.kind.as_str());
        OurLink { index: link.index, observed: ObservedLink { dummy, up: link.up } }
    }

    fn observe_all(&mut self) -> Result<ObservedVips, VipError> {
        let links = self.socket.dump(&get_links(None), parse_link)?;
        let ours = links.iter().find(|link| link.name == LINK_NAME).map(|link| self.as_ours(link));
        let bridges = links.iter().filter(|link| link.kind.as_deref() == Some(BRIDGE));
        let mut observed = ObservedVips {
            link: ours.map(|link| link.observed),
            bridges: bridges.map(|link| (link.name.clone(), link.bridge)).collect(),
            ..ObservedVips::default()
        };
        self.observe_addresses(links, ours, &mut observed)?;
        if let Some(link) = ours.filter(|link| link.observed.dummy) {
            for family in FAMILIES {
                observed.routes.extend(self.observe_routes(family, RouteTable::Local, link.index)?);
                let steered = self.observe_routes(family, RouteTable::Steering, link.index)?;
                observed.steered.extend(steered.into_iter().map(|(vip, _)| vip));
            }
        }
        observed.rules = self.find_rules()?.iter().filter_map(Rule::as_ours).collect();
        Ok(observed)
    }

    fn observe_addresses(
        &mut self,
        links: Vec<Link>,
        ours: Option<OurLink>,
        observed: &mut ObservedVips,
    ) -> Result<(), VipError> {
        let names: HashMap<u32, String> = links.into_iter().map(|link| (link.index, link.name)).collect();
        for family in FAMILIES {
            let addresses = self.socket.dump(&get_addresses(family), parse_address)?;
            for Address { link, addr, is_shared } in
                addresses.into_iter().filter(|address| !address.is_internal())
            {
                if ours.is_some_and(|ours| ours.index == link) {
                    observed.addresses.insert(addr);
                } else {
                    // A link made since the first dump has no name here, but its address matters all the
                    // same.
                    let name = names.get(&link).cloned().unwrap_or_default();
                    observed.shared_links.extend(is_shared.then(|| name.clone()));
                    observed.node_addresses.insert(addr, name);
                }
            }
        }
        Ok(())
    }

    fn observe_routes(
        &mut self,
        family: AddressFamily,
        table: RouteTable,
        link: u32,
    ) -> Result<Vec<(IpAddr, Option<IpAddr>)>, VipError> {
        let is_ours = |route: &LocalRoute| {
            (route.protocol, route.link, route.table) == (ROUTE_PROTOCOL, Some(link), table)
        };
        match self.socket.dump(&get_local_routes(family, table, Some(link)), parse_local_route) {
            Ok(routes) => {
                Ok(routes.into_iter().filter(is_ours).map(|route| (route.addr, route.source)).collect())
            }
            // The link has just been deleted, or the kernel has no such table yet.
            Err(error) if error.is_not_found() => Ok(Vec::new()),
            Err(error) => Err(error.into()),
        }
    }

    /// Finds the rules of the routing policy that look at packet marks.
    fn find_rules(&mut self) -> Result<Vec<Rule>, VipError> {
        let mut rules = Vec::new();
        for family in FAMILIES {
            match self.socket.dump(&get_rules(family), parse_rule) {
                // The kernel has no routing policy, or not this family.
                Err(error) if error.is_not_found() || error.is_not_supported() => {}
                found => rules.extend(found?),
            }
        }
        Ok(rules)
    }

    fn find_advertised_links(&mut self) -> Result<BTreeSet<String>, VipError> {
        let indexes = match self.socket.dump(&get_advertised_routes(), parse_advertised_default) {
            Err(error) if error.is_not_found() || error.is_not_supported() => Vec::new(),
            indexes => indexes?,
        };
        if indexes.is_empty() {
            return Ok(BTreeSet::new());
        }
        let links = self.socket.dump(&get_links(None), parse_link)?;
        Ok(links.into_iter().filter(|link| indexes.contains(&link.index)).map(|link| link.name).collect())
    }

    fn find_listeners(&mut self, ports: &[VipPort]) -> Result<BTreeSet<VipPort>, VipError> {
        let sockets = match &mut self.sockets {
            Some(sockets) => sockets,
            none => none.insert(Sockets::open()?),
        };
        let mut found = BTreeSet::new();
        for port in ports {
            if sockets.listens(*port)? {
                found.insert(*port);
            }
        }
        Ok(found)
    }

    fn apply_all(&mut self, ops: &[VipOp]) -> Result<BatchReport, VipError> {
        let mut report = BatchReport::default();
        for group in groups(ops) {
            match ops[group.start] {
                VipOp::EnsureLink => {
                    refused(self.ensure_link(), &ops[group.start], group.start, &mut report)?
                }
                VipOp::DeleteLink => {
                    refused(self.delete_link(), &ops[group.start], group.start, &mut report)?
                }
                VipOp::EnsureRule { .. } | VipOp::DeleteRule { .. } => {
                    self.apply_rule(ops, group.start, &mut report)?
                }
                _ => self.apply_group(ops, group, &mut report)?,
            }
        }
        Ok(report)
    }

    /// Creates the link if it is missing and sets it up if it is down; if neither, it only asks.
    fn ensure_link(&mut self) -> Result<(), Refusal> {
        if self.our_link()?.is_none() {
            match link::create(&self.kind) {
                Err(error) if link::refusal(&error) == Some(libc::EEXIST) => {}
                result => result?,
            }
        }
        match self.our_link()? {
            None => Err(Refusal::Errno(libc::ENODEV)),
            Some(OurLink { observed: ObservedLink { dummy: false, .. }, .. }) => {
                Err(Refusal::Errno(libc::EEXIST))
            }
            Some(OurLink { observed: ObservedLink { up: true, .. }, .. }) => Ok(()),
            Some(OurLink { index, .. }) => Ok(link::set_up(index)?),
        }
    }

    fn delete_link(&mut self) -> Result<(), Refusal> {
        match self.our_link()? {
            None => Ok(()),
            Some(link) if !link.observed.dummy => Err(Refusal::Errno(libc::EEXIST)),
            Some(link) => match link::delete(link.index) {
                Err(error) if link::refusal(&error) == Some(libc::ENODEV) => Ok(()),
                result => Ok(result?),
            },
        }
    }
}

impl VipTable for VipClient {
    fn dumps_interrupted(&self) -> u64 {
        self.counters().dumps_interrupted
    }

    fn observe(&mut self) -> Result<ObservedVips, TableError> {
        self.observe_all().map_err(|error| error.during("observe links, addresses and routes"))
    }

    fn mark_rules(&mut self) -> Result<Vec<MarkRule>, TableError> {
        let rules = self.find_rules().map_err(|error| error.during("look for rules about packet marks"))?;
        Ok(rules.iter().filter_map(Rule::as_foreign).collect())
    }

    fn advertised_links(&mut self) -> Result<BTreeSet<String>, TableError> {
        self.find_advertised_links().map_err(|error| error.during("look for advertised routes"))
    }

    fn apply(&mut self, ops: &[VipOp]) -> Result<BatchReport, TableError> {
        self.apply_all(ops).map_err(|error| error.during("change links, addresses and routes"))
    }

    fn listeners(&mut self, ports: &[VipPort]) -> Result<BTreeSet<VipPort>, TableError> {
        self.find_listeners(ports).map_err(|error| error.during("look for listening sockets"))
    }
}

/// Reason why an operation on the link did not succeed.
enum Refusal {
    /// The kernel, or this crate, refused it.
    Errno(i32),
    /// The call as a whole failed.
    Failed(VipError),
}

impl<E: Into<VipError>> From<E> for Refusal {
    fn from(error: E) -> Self {
        let error = error.into();
        link::refusal(&error).map_or(Refusal::Failed(error), Refusal::Errno)
    }
}

/// Puts a refusal into the report, and returns a failure of the whole call.
fn refused(
    result: Result<(), Refusal>,
    op: &VipOp,
    index: usize,
    report: &mut BatchReport,
) -> Result<(), VipError> {
    match result {
        Ok(()) => Ok(()),
        Err(Refusal::Errno(errno)) => {
            report.failed.push(FailedOp { index, errno, reason: explain_vip(op, errno) });
            Ok(())
        }
        Err(Refusal::Failed(error)) => Err(error),
    }
}

/// Cuts operations into runs that may be executed in any order: each operation on the link or on rules by itself, and
/// between those as many others as concern different addresses.
fn groups(ops: &[VipOp]) -> Vec<Range<usize>> {
    let (mut groups, mut seen) = (Vec::<Range<usize>>::new(), HashSet::new());
    for (index, op) in ops.iter().enumerate() {
        let addr = address(op);
        let extends = addr.is_some_and(|addr| seen.insert(addr));
        match groups.last_mut() {
            Some(group) if extends && address(&ops[group.start]).is_some() => group.end = index + 1,
            _ => {
                groups.push(index..index + 1);
                seen.clear();
                seen.extend(addr);
            }
        }
    }
    groups
}

/// Address that an operation concerns; none for those on the link and on rules.
fn address(op: &VipOp) -> Option<IpAddr> {
    match op {
        VipOp::EnsureRoute { vip, .. } | VipOp::DeleteRoute { vip, .. } => Some(*vip),
        VipOp::EnsureAddress { addr } | VipOp::DeleteAddress { addr } => Some(*addr),
        VipOp::EnsureRule { .. } | VipOp::DeleteRule { .. } | VipOp::EnsureLink | VipOp::DeleteLink => None,
    }
}

#[cfg(test)]
mod tests;
