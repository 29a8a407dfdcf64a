//! Link, addresses and routes in memory.

mod kernel;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    rc::Rc,
};

use kernel::Namespace;
use lb_types::{IpFamily, MarkRule, VipOp, VipPort};

use super::faults::{Faults, fault_injection};
use crate::{
    BatchReport, BridgeFilters, FailedOp, ObservedLink, ObservedVips, TableError, VipTable, explain_vip,
};

/// Link, addresses and routes in memory, which refuse whatever the kernel refuses.
///
/// A clone is another handle to the same namespace. Counts and faults concern calls through [`VipTable`]
/// only; the methods of this type are the test's own hands.
#[derive(Clone, Default)]
pub struct FakeVips(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    namespace: Namespace,
    listeners: BTreeSet<VipPort>,
    requests: usize,
    log: Vec<VipOp>,
    faults: Faults<VipOp>,
    advertised: BTreeSet<String>,
    mark_rules: Vec<MarkRule>,
}

/// View of the test.
impl FakeVips {
    /// Requests so far: one for every operation, refused ones included, for every dump, and for every port
    /// asked about.
    pub fn requests(&self) -> usize {
        self.0.borrow().requests
    }

    /// Operations that were executed since the last [`FakeVips::take_ops`], in order.
    pub fn ops(&self) -> Vec<VipOp> {
        self.0.borrow().log.clone()
    }

    /// Operations that were executed since the last call, in order; empties the log.
    pub fn take_ops(&self) -> Vec<VipOp> {
        std::mem::take(&mut self.0.borrow_mut().log)
    }

    /// The link `kube-ipvs0`.
    pub fn link(&self) -> Option<ObservedLink> {
        self.0.borrow().namespace.observed.link
    }

    /// Our routes with their sources.
    pub fn routes(&self) -> BTreeMap<IpAddr, Option<IpAddr>> {
        self.0.borrow().namespace.observed.routes.iter().map(|(vip, source)| (*vip, *source)).collect()
    }

    /// VIPs with a route of ours in the table of steered packets.
    pub fn steered(&self) -> BTreeSet<IpAddr> {
        self.0.borrow().namespace.observed.steered.iter().copied().collect()
    }

    /// Our rules of the routing policy: family and bit of the packet mark.
    pub fn rules(&self) -> BTreeSet<(IpFamily, u8)> {
        self.0.borrow().namespace.observed.rules.clone()
    }

    /// Addresses on `kube-ipvs0`.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.0.borrow().namespace.observed.addresses.clone()
    }

    /// Everything that an observation returns, without being counted as one.
    pub fn snapshot(&self) -> ObservedVips {
        self.0.borrow().namespace.observed.clone()
    }
}

/// Events in the kernel and actions of somebody else, neither counted nor logged.
impl FakeVips {
    /// Sets the node's addresses, each with the name of its link; others are removed.
    pub fn set_node_addresses<'a>(&self, addresses: impl IntoIterator<Item = (IpAddr, &'a str)>) {
        let addresses = addresses.into_iter().map(|(addr, link)| (addr, link.to_owned())).collect();
        self.0.borrow_mut().namespace.set_node_addresses(addresses);
    }

    /// Sets the links on networks that they share with others.
    pub fn set_shared_links<'a>(&self, links: impl IntoIterator<Item = &'a str>) {
        self.0.borrow_mut().namespace.observed.shared_links = links.into_iter().map(str::to_owned).collect();
    }

    /// Sets the node's bridges.
    pub fn set_bridges<'a>(&self, bridges: impl IntoIterator<Item = (&'a str, BridgeFilters)>) {
        let bridges = bridges.into_iter().map(|(name, filters)| (name.to_owned(), filters)).collect();
        self.0.borrow_mut().namespace.observed.bridges = bridges;
    }

    /// Sets the interfaces with a default route by router advertisement.
    pub fn set_advertised_links<'a>(&self, links: impl IntoIterator<Item = &'a str>) {
        self.0.borrow_mut().advertised = links.into_iter().map(str::to_owned).collect();
    }

    /// Sets the rules of the routing policy that look at packet marks.
    pub fn set_mark_rules(&self, rules: Vec<MarkRule>) {
        self.0.borrow_mut().mark_rules = rules;
    }

    /// Sets the ports on which sockets of the node listen, each bound to its address.
    pub fn set_listeners(&self, ports: impl IntoIterator<Item = VipPort>) {
        self.0.borrow_mut().listeners = ports.into_iter().collect();
    }

    /// Deletes the link, with all routes and addresses on it.
    pub fn delete_link(&self) {
        self.0.borrow_mut().namespace.delete_link();
    }

    /// Renames the link. Routes on it are no longer observed, and in nobody's way.
    pub fn rename_link(&self) {
        self.0.borrow_mut().namespace.rename_link();
    }

    /// Sets the link down: IPv6 routes vanish, IPv4 ones stay.
    pub fn set_link_down(&self) {
        self.0.borrow_mut().namespace.set_link_down();
    }

    /// Creates a link named `kube-ipvs0` of another type than dummy.
    pub fn add_foreign_link(&self) {
        self.0.borrow_mut().namespace.observed.link = Some(ObservedLink { dummy: false, up: true });
    }

    /// Deletes our routes of a VIP.
    pub fn delete_route(&self, vip: IpAddr) {
        let observed = &mut self.0.borrow_mut().namespace.observed;
        observed.routes.remove(&vip);
        observed.steered.remove(&vip);
    }

    /// Deletes our rules of the routing policy.
    pub fn delete_rules(&self) {
        self.0.borrow_mut().namespace.observed.rules.clear();
    }

    /// Adds a local route of the same address on another link.
    pub fn add_foreign_route(&self, addr: IpAddr) {
        self.0.borrow_mut().namespace.foreign_routes.insert(addr);
    }

    /// Adds an address to `kube-ipvs0`, as kube-proxy does for every VIP.
    ///
    /// # Panics
    /// Panics if there is no such link.
    pub fn add_address(&self, addr: IpAddr) {
        let observed = &mut self.0.borrow_mut().namespace.observed;
        assert!(observed.link.is_some(), "no link to put address {addr} on");
        observed.addresses.insert(addr);
    }

    /// Removes an address from `kube-ipvs0`; the last IPv4 one takes the IPv4 routes along.
    pub fn delete_address(&self, addr: IpAddr) {
        self.0.borrow_mut().namespace.delete_address(addr);
    }

    /// Takes dummy links from the kernel (`true`) or gives them back.
    pub fn set_no_dummy(&self, missing: bool) {
        self.0.borrow_mut().namespace.no_dummy = missing;
    }
}

fault_injection!(FakeVips, VipOp);

impl State {
    fn execute(&mut self, index: usize, op: &VipOp) -> Result<(), FailedOp> {
        self.requests += 1;
        let result = match self.faults.next_op(op) {
            Some(errno) => Err(errno),
            None => self.namespace.execute(op),
        };
        match result {
            Ok(()) => {
                self.log.push(*op);
                Ok(())
            }
            Err(errno) => Err(FailedOp { index, errno, reason: explain_vip(op, errno) }),
        }
    }
}

impl VipTable for FakeVips {
    fn observe(&mut self) -> Result<ObservedVips, TableError> {
        let mut state = self.0.borrow_mut();
        state.requests += 1;
        state.faults.next_call("observe links, addresses and routes")?;
        Ok(state.namespace.observed.clone())
    }

    fn mark_rules(&mut self) -> Result<Vec<MarkRule>, TableError> {
        let mut state = self.0.borrow_mut();
        state.requests += 1;
        state.faults.next_call("look for rules about packet marks")?;
        Ok(state.mark_rules.clone())
    }

    fn advertised_links(&mut self) -> Result<BTreeSet<String>, TableError> {
        let mut state = self.0.borrow_mut();
        state.requests += 1;
        state.faults.next_call("look for advertised routes")?;
        Ok(state.advertised.clone())
    }

    fn apply(&mut self, ops: &[VipOp]) -> Result<BatchReport, TableError> {
        let state = &mut *self.0.borrow_mut();
        state.faults.next_call("change links, addresses and routes")?;
        let failed = ops.iter().enumerate().filter_map(|(i, op)| state.execute(i, op).err()).collect();
        Ok(state.faults.report(failed))
    }

    fn listeners(&mut self, ports: &[VipPort]) -> Result<BTreeSet<VipPort>, TableError> {
        let state = &mut *self.0.borrow_mut();
        state.requests += ports.len();
        state.faults.next_call("look for listening sockets")?;
        Ok(ports.iter().filter(|port| state.listeners.contains(port)).copied().collect())
    }
}
