//! The kernel's rules, in the kernel's order of checks.
//!
//! Where the families differ: an IPv4 local route is happy on a link that is down and vanishes with its preferred
//! source (`fib_sync_down_dev`, `fib_sync_down_addr` in net/ipv4/fib_semantics.c); an IPv6 route needs the link up,
//! vanishes when it goes down and merely loses its preferred source (`ip6_route_info_create`, `fib6_ifdown`,
//! `rt6_remove_prefsrc` in net/ipv6/route.c).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use lb_types::VipOp;

use crate::{ObservedLink, ObservedVips};

/// Links, addresses and routes of one network namespace, as far as they concern VIPs.
#[derive(Default)]
pub(super) struct Namespace {
    /// What `observe` tells.
    pub(super) observed: ObservedVips,
    /// Local routes of somebody else on other links: never observed, but in the way.
    pub(super) foreign_routes: BTreeSet<IpAddr>,
    /// Whether the kernel can create dummy links.
    pub(super) no_dummy: bool,
}

impl Namespace {
    /// Executes an operation or returns the error number with which it is refused.
    pub(super) fn execute(&mut self, op: &VipOp) -> Result<(), i32> {
        match *op {
            VipOp::EnsureLink => self.ensure_link(),
            VipOp::EnsureRoute { vip, source } => self.ensure_route(vip, source),
            VipOp::DeleteRoute { vip } => {
                self.observed.routes.remove(&vip);
                Ok(())
            }
            VipOp::DeleteAddress { addr } => {
                if self.observed.addresses.remove(&addr) {
                    self.source_vanished(addr);
                }
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

    fn ensure_route(&mut self, vip: IpAddr, source: Option<IpAddr>) -> Result<(), i32> {
        let link = self.observed.link.filter(|link| link.dummy).ok_or(libc::ENODEV)?;
        if vip.is_ipv6() && !link.up {
            return Err(libc::ENETDOWN);
        }
        if source.is_some_and(|source| !self.is_local(source)) {
            return Err(libc::EINVAL);
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

    /// The link goes, and with it what is on it.
    pub(super) fn delete_link(&mut self) {
        self.observed.link = None;
        self.observed.routes.clear();
        self.observed.addresses.clear();
    }

    /// The link goes down: IPv6 loses what is on it.
    pub(super) fn link_down(&mut self) {
        if let Some(link) = &mut self.observed.link {
            link.up = false;
            self.observed.routes.retain(|vip, _| vip.is_ipv4());
            self.observed.addresses.retain(IpAddr::is_ipv4);
        }
    }

    /// The node's addresses are these from now on.
    pub(super) fn set_node_addresses(&mut self, addresses: BTreeMap<IpAddr, String>) {
        let old = std::mem::replace(&mut self.observed.node_addresses, addresses);
        for addr in old.into_keys() {
            self.source_vanished(addr);
        }
    }

    /// An address was removed: routes with it as source follow, unless it is still local.
    fn source_vanished(&mut self, addr: IpAddr) {
        if self.is_local(addr) {
            return;
        }
        self.observed.routes.retain(|vip, source| vip.is_ipv6() || *source != Some(addr));
        for source in self.observed.routes.values_mut().filter(|source| **source == Some(addr)) {
            *source = None;
        }
    }
}
