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
use lb_types::{Protocol, VipOp, VipPort};

use super::faults::Faults;
use crate::{
    BatchReport, BridgeFilters, ErrorKind, FailedOp, ObservedLink, ObservedVips, TableError, VipTable,
    explain_vip,
};

/// Link, addresses and routes in memory, refusing what the kernel refuses.
///
/// A clone is another handle to the same namespace. All counting and fault injection concerns calls through
/// [`VipTable`] only; the methods of this type are the test's own hands.
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
}

/// What the test can see.
impl FakeVips {
    /// Requests so far: one for every operation, refused ones included, for every dump, and for every port asked about.
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

    /// Addresses on `kube-ipvs0`.
    pub fn addresses(&self) -> BTreeSet<IpAddr> {
        self.0.borrow().namespace.observed.addresses.clone()
    }

    /// Everything that an observation would tell, without being counted as one.
    pub fn snapshot(&self) -> ObservedVips {
        self.0.borrow().namespace.observed.clone()
    }
}

/// What the test can make happen in the kernel or by somebody else's hand: neither counted nor logged.
impl FakeVips {
    /// The node's addresses from now on, each with the name of its link; those not listed are removed.
    pub fn set_node_addresses<'a>(&self, addresses: impl IntoIterator<Item = (IpAddr, &'a str)>) {
        let addresses = addresses.into_iter().map(|(addr, link)| (addr, link.to_owned())).collect();
        self.0.borrow_mut().namespace.set_node_addresses(addresses);
    }

    /// The node's bridges from now on.
    pub fn set_bridges<'a>(&self, bridges: impl IntoIterator<Item = (&'a str, BridgeFilters)>) {
        let bridges = bridges.into_iter().map(|(name, filters)| (name.to_owned(), filters)).collect();
        self.0.borrow_mut().namespace.observed.bridges = bridges;
    }

    /// Interfaces with a default route by router advertisement from now on.
    pub fn set_advertised_links<'a>(&self, links: impl IntoIterator<Item = &'a str>) {
        self.0.borrow_mut().advertised = links.into_iter().map(str::to_owned).collect();
    }

    /// The ports on which sockets of the node listen from now on, each bound to its address.
    pub fn set_listeners(&self, ports: impl IntoIterator<Item = VipPort>) {
        self.0.borrow_mut().listeners = ports.into_iter().collect();
    }

    /// Somebody deletes the link, with all routes and addresses on it.
    pub fn delete_link(&self) {
        self.0.borrow_mut().namespace.delete_link();
    }

    /// Somebody sets the link down: IPv6 routes vanish, IPv4 ones stay.
    pub fn set_link_down(&self) {
        self.0.borrow_mut().namespace.link_down();
    }

    /// Somebody has created a link named `kube-ipvs0` of another type than dummy.
    pub fn add_foreign_link(&self) {
        self.0.borrow_mut().namespace.observed.link = Some(ObservedLink { dummy: false, up: true });
    }

    /// Somebody deletes one of our routes.
    pub fn delete_route(&self, vip: IpAddr) {
        self.0.borrow_mut().namespace.observed.routes.remove(&vip);
    }

    /// Somebody adds a local route of the same address on another link.
    pub fn add_foreign_route(&self, addr: IpAddr) {
        self.0.borrow_mut().namespace.foreign_routes.insert(addr);
    }

    /// Somebody adds an address to `kube-ipvs0`, as kube-proxy does for every VIP.
    ///
    /// # Panics
    /// If there is no such link.
    pub fn add_address(&self, addr: IpAddr) {
        let observed = &mut self.0.borrow_mut().namespace.observed;
        assert!(observed.link.is_some(), "no link to put address {addr} on");
        observed.addresses.insert(addr);
    }

    /// Somebody removes an address from `kube-ipvs0`; the last IPv4 one takes the IPv4 routes along.
    pub fn delete_address(&self, addr: IpAddr) {
        self.0.borrow_mut().namespace.delete_address(addr);
    }

    /// The kernel has no dummy links (`true`) or has them again.
    pub fn set_no_dummy(&self, missing: bool) {
        self.0.borrow_mut().namespace.no_dummy = missing;
    }
}

/// What the test can make fail.
impl FakeVips {
    /// The next operation fails with `errno`, whatever it is.
    pub fn fail_next(&self, errno: i32) {
        self.fail_nth(1, errno);
    }

    /// The `n`-th operation from now (1 is the next) fails with `errno`, whatever it is.
    pub fn fail_nth(&self, n: usize, errno: i32) {
        self.0.borrow_mut().faults.ops.push((n.saturating_sub(1), errno));
    }

    /// Every operation for which `refuse` returns an error number fails with it, until set anew.
    pub fn refuse(&self, refuse: impl Fn(&VipOp) -> Option<i32> + 'static) {
        self.0.borrow_mut().faults.refuse = Some(Box::new(refuse));
    }

    /// Ends what [`FakeVips::refuse`] began.
    pub fn refuse_nothing(&self) {
        self.0.borrow_mut().faults.refuse = None;
    }

    /// The next call (observation or batch) fails as a whole, before anything is executed.
    pub fn fail_next_call(&self, kind: ErrorKind) {
        self.0.borrow_mut().faults.calls.push(kind);
    }

    /// The next batch is executed, but no failure in it is reported, only that replies were lost.
    pub fn lose_replies_next(&self) {
        self.0.borrow_mut().faults.lose_replies = true;
    }
}

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
        Ok(match std::mem::take(&mut state.faults.lose_replies) {
            true => BatchReport { failed: Vec::new(), replies_lost: true },
            false => BatchReport { failed, replies_lost: false },
        })
    }

    fn listeners(&mut self, ports: &[VipPort]) -> Result<BTreeSet<VipPort>, TableError> {
        let state = &mut *self.0.borrow_mut();
        state.requests += ports.len();
        state.faults.next_call("look for listening sockets")?;
        let listens = |port: &&VipPort| port.protocol == Protocol::Sctp || state.listeners.contains(port);
        Ok(ports.iter().filter(listens).copied().collect())
    }
}
