//! The kernel's rules, in the kernel's order of checks.
//!
//! The families differ: an IPv4 local route stays on a link that is down and keeps a preferred source that
//! has gone (`fib_sync_down_dev`, `fib_sync_down_addr` in net/ipv4/fib_semantics.c; the latter looks at table
//! main only); an IPv6 route needs the link up and vanishes when it goes down (`ip6_route_info_create`,
//! `fib6_ifdown` in net/ipv6/route.c). An IPv6 route loses a preferred source that has gone, as on late
//! kernels; on 6.1 it keeps one that was on another link (`rt6_remove_prefsrc`).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_types::{RouteTable, VipOp};

use crate::{ObservedLink, ObservedVips};

/// Links, addresses and routes of one network namespace, as far as they concern VIPs.
#[derive(Default)]
pub(super) struct Namespace {
    /// Result of `observe`.
    pub(super) observed: ObservedVips,
    /// Local routes of somebody else on other links: never observed, but in the way.
    pub(super) foreign_routes: BTreeSet<IpAddr>,
    /// True if the kernel cannot create dummy links.
    pub(super) no_dummy: bool,
    /// True if the link has an IPv4 address that the table does not report: removing addresses through the
    /// table leaves one, so that the last of the others does not take the routes along.
    placeholder: bool,
}

impl Namespace {
    /// Executes an operation or returns the error number with which the kernel refuses it.
    pub(super) fn execute(&mut self, op: &VipOp) -> Result<(), i32> {
        match *op {
            VipOp::EnsureLink => self.ensure_link(),
            VipOp::EnsureRoute { vip, table, source } => self.ensure_route(vip, table, source),
            VipOp::DeleteRoute { vip, table } => {
                match table {
                    RouteTable::Local => _ = self.observed.routes.remove(&vip),
                    RouteTable::Steering => _ = self.observed.steered.remove(&vip),
                }
                Ok(())
            }
            VipOp::EnsureRule { family, bit } => {
                self.observed.rules.insert((family, bit));
                Ok(())
            }
            VipOp::DeleteRule { family, bit } => {
                self.observed.rules.remove(&(family, bit));
                Ok(())
            }
            VipOp::EnsureAddress { addr } => self.ensure_address(addr),
            VipOp::DeleteAddress { addr } => {
                self.placeholder |= addr.is_ipv4() && self.observed.link.is_some_and(|link| link.dummy);
                self.delete_address(addr);
                Ok(())
            }
            VipOp::DeleteLink => match self.observed.link {
                Some(link) if !link.dummy => Err(libc::EEXIST),
                _ => {
                    self.delete_link();
                    Ok(())
                }
            },
        }
    }

    fn ensure_link(&mut self) -> Result<(), i32> {
        match self.observed.link {
            Some(link) if !link.dummy => return Err(libc::EEXIST),
            None if self.no_dummy => return Err(libc::EOPNOTSUPP),
            _ => self.observed.link = Some(ObservedLink { dummy: true, up: true }),
        }
        Ok(())
    }

    fn ensure_address(&mut self, addr: IpAddr) -> Result<(), i32> {
        self.observed.link.filter(|link| link.dummy).ok_or(libc::ENODEV)?;
        self.observed.addresses.insert(addr);
        Ok(())
    }

    fn ensure_route(&mut self, vip: IpAddr, table: RouteTable, source: Option<IpAddr>) -> Result<(), i32> {
        let link = self.observed.link.filter(|link| link.dummy).ok_or(libc::ENODEV)?;
        if vip.is_ipv6() && !link.up {
            return Err(libc::ENETDOWN);
        }
        if source.is_some_and(|source| !self.is_local(source)) {
            return Err(libc::EINVAL);
        }
        if table == RouteTable::Steering {
            self.observed.steered.insert(vip);
            return Ok(());
        }
        if self.foreign_routes.contains(&vip) && !self.observed.routes.contains_key(&vip) {
            return Err(libc::EEXIST);
        }
        self.observed.routes.insert(vip, source);
        Ok(())
    }

    fn is_local(&self, source: IpAddr) -> bool {
        self.observed.node_addresses.contains_key(&source) || self.observed.addresses.contains(&source)
    }

    /// Removes an address of the link; the last IPv4 one takes the IPv4 routes along (`fib_inetaddr_event` in
    /// net/ipv4/fib_frontend.c).
    pub(super) fn delete_address(&mut self, addr: IpAddr) {
        if !self.observed.addresses.remove(&addr) {
            return;
        }
        self.drop_source(addr);
        let last = !self.placeholder && !self.observed.addresses.iter().any(IpAddr::is_ipv4);
        if addr.is_ipv4() && last {
            self.observed.routes.retain(|vip, _| vip.is_ipv6());
            self.observed.steered.retain(IpAddr::is_ipv6);
        }
    }

    /// Removes the link with everything on it.
    pub(super) fn delete_link(&mut self) {
        self.observed.link = None;
        self.placeholder = false;
        self.observed.routes.clear();
        self.observed.steered.clear();
        self.observed.addresses.clear();
    }

    /// Renames the link: its addresses become those of another link of the node. Its routes are ours still, and go when
    /// others replace them.
    pub(super) fn rename_link(&mut self) {
        let addresses = self.observed.addresses.iter().map(|addr| (*addr, "renamed0".to_owned()));
        self.observed.node_addresses.extend(addresses);
        self.delete_link();
    }

    /// Sets the link down: IPv6 loses everything on it.
    pub(super) fn set_link_down(&mut self) {
        if let Some(link) = &mut self.observed.link {
            link.up = false;
            self.observed.routes.retain(|vip, _| vip.is_ipv4());
            self.observed.steered.retain(IpAddr::is_ipv4);
            self.observed.addresses.retain(IpAddr::is_ipv4);
        }
    }

    /// Replaces the node's addresses.
    pub(super) fn set_node_addresses(&mut self, addresses: BTreeMap<IpAddr, String>) {
        let old = std::mem::replace(&mut self.observed.node_addresses, addresses);
        for addr in old.into_keys() {
            self.drop_source(addr);
        }
    }

    /// Takes a removed address from the IPv6 routes that have it as their source, unless it is still local.
    fn drop_source(&mut self, addr: IpAddr) {
        if addr.is_ipv6() && !self.is_local(addr) {
            for source in self.observed.routes.values_mut().filter(|source| **source == Some(addr)) {
                *source = None;
            }
        }
    }
}
