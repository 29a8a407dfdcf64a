//! The IPVS tables in memory.

mod kernel;
mod schedule;
#[cfg(test)]
mod tests;

use std::{
    cell::RefCell,
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
};

use kernel::Tables;
use lb_types::{
    ConnectionCounters, IpvsOp, RealServer, RealServerId, Scheduler, TrafficCounters, VirtualServer,
    VirtualServerId,
};

use super::faults::{Faults, fault_injection};
use crate::{
    BatchReport, FailedOp, IpvsTable, ObservedRealServer, TableError, VirtualServerDump, explain_ipvs,
};

/// Everything in the tables, without counters.
pub type IpvsSnapshot = BTreeMap<VirtualServerId, (VirtualServer, BTreeMap<RealServerId, RealServer>)>;

/// The IPVS tables in memory, which refuse whatever the kernel refuses.
///
/// A clone is another handle to the same tables. Counts and faults concern calls through [`IpvsTable`] only;
/// the methods of this type are the test's own hands.
#[derive(Clone, Default)]
pub struct FakeIpvs(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    tables: Tables,
    requests: usize,
    questions: Vec<Scheduler>,
    refused: usize,
    log: Vec<IpvsOp>,
    faults: Faults<IpvsOp>,
}

/// View of the test.
impl FakeIpvs {
    /// Requests so far: one for every operation, refused ones included, and one for every dump.
    pub fn requests(&self) -> usize {
        self.0.borrow().requests
    }

    /// Number of refused operations so far.
    pub fn refused(&self) -> usize {
        self.0.borrow().refused
    }

    /// Schedulers that the code under test asked about since the last call, in order.
    pub fn take_questions(&self) -> Vec<Scheduler> {
        std::mem::take(&mut self.0.borrow_mut().questions)
    }

    /// Operations that were executed since the last [`FakeIpvs::take_ops`], in order.
    pub fn ops(&self) -> Vec<IpvsOp> {
        self.0.borrow().log.clone()
    }

    /// Operations that were executed since the last call, in order; empties the log.
    pub fn take_ops(&self) -> Vec<IpvsOp> {
        std::mem::take(&mut self.0.borrow_mut().log)
    }

    /// The real server that a client's new connection gets; `None` if IPVS refuses it.
    pub fn connect(&self, vs: VirtualServerId, client: SocketAddr) -> Option<RealServerId> {
        self.0.borrow().tables.schedule(vs, client)
    }

    /// Everything in the tables.
    pub fn virtual_servers(&self) -> IpvsSnapshot {
        self.0.borrow().tables.snapshot()
    }
}

/// Events in the kernel and actions of somebody else.
impl FakeIpvs {
    /// Executes an operation of somebody else, which is neither counted nor logged.
    ///
    /// # Panics
    /// Panics if the kernel would refuse it.
    pub fn by_another(&self, op: IpvsOp) {
        if let Err(errno) = self.0.borrow_mut().tables.execute(&op) {
            panic!("{}", explain_ipvs(&op, errno));
        }
    }

    /// Flushes the tables, as somebody else.
    pub fn flush(&self) {
        self.0.borrow_mut().tables.flush();
    }

    /// Sets the number of virtual servers that our vocabulary cannot express.
    pub fn set_unsupported(&self, count: usize) {
        self.0.borrow_mut().tables.unsupported = count;
    }

    /// Sets the only schedulers whose modules the kernel can load; without this call it can load all.
    pub fn set_schedulers(&self, available: impl IntoIterator<Item = Scheduler>) {
        self.0.borrow_mut().tables.schedulers = Some(available.into_iter().collect());
    }

    /// Sets the broadcast addresses of the node's interfaces, but for loopback's, which is always one.
    pub fn set_broadcasts(&self, addrs: impl IntoIterator<Item = Ipv4Addr>) {
        self.0.borrow_mut().tables.broadcasts = addrs.into_iter().collect();
    }

    /// Sets the connection counters of a real server.
    ///
    /// # Panics
    /// Panics if there is no such real server.
    pub fn set_connections(&self, vs: VirtualServerId, rs: RealServerId, counters: ConnectionCounters) {
        self.0.borrow_mut().tables.counters(vs, rs).connections = counters;
    }

    /// Ends and forgets every connection.
    pub fn end_connections(&self) {
        self.0.borrow_mut().tables.end_connections();
    }

    /// Sets the traffic counters of a real server.
    ///
    /// # Panics
    /// Panics if there is no such real server.
    pub fn set_traffic(&self, vs: VirtualServerId, rs: RealServerId, counters: TrafficCounters) {
        self.0.borrow_mut().tables.counters(vs, rs).traffic = counters;
    }

    /// Lets two to three minutes pass: re-added real servers no longer get their old counters back.
    pub fn expire_trash(&self) {
        self.0.borrow_mut().tables.expire_trash();
    }
}

fault_injection!(FakeIpvs, IpvsOp);

impl State {
    fn execute(&mut self, index: usize, op: &IpvsOp) -> Result<(), FailedOp> {
        self.requests += 1;
        let result = match self.faults.next_op(op) {
            Some(errno) => Err(errno),
            None => self.tables.execute(op),
        };
        match result {
            Ok(()) => {
                self.log.push(*op);
                Ok(())
            }
            Err(errno) => {
                self.refused += 1;
                Err(FailedOp { index, errno, reason: explain_ipvs(op, errno) })
            }
        }
    }
}

impl IpvsTable for FakeIpvs {
    fn dump_traffic(&mut self) -> Result<Vec<(VirtualServerId, TrafficCounters)>, TableError> {
        let mut state = self.0.borrow_mut();
        state.requests += 1;
        state.faults.next_call("dump the traffic of virtual servers")?;
        Ok(state.tables.dump_traffic())
    }

    fn dump_virtual_servers(&mut self) -> Result<VirtualServerDump, TableError> {
        let mut state = self.0.borrow_mut();
        state.requests += 1;
        state.faults.next_call("dump virtual servers")?;
        Ok(state.tables.dump_virtual_servers())
    }

    fn dump_real_servers(&mut self, vs: VirtualServerId) -> Result<Vec<ObservedRealServer>, TableError> {
        let mut state = self.0.borrow_mut();
        state.requests += 1;
        state.faults.next_call(&format!("dump real servers of {vs}"))?;
        Ok(state.tables.dump_real_servers(vs))
    }

    fn has_scheduler(&mut self, scheduler: Scheduler) -> Result<bool, TableError> {
        let mut state = self.0.borrow_mut();
        state.requests += 1;
        state.questions.push(scheduler);
        state.faults.next_call(&format!("look for scheduler {scheduler}"))?;
        Ok(state.tables.has_scheduler(scheduler))
    }

    fn apply(&mut self, ops: &[IpvsOp]) -> Result<BatchReport, TableError> {
        let state = &mut *self.0.borrow_mut();
        state.faults.next_call("change IPVS tables")?;
        let failed = ops.iter().enumerate().filter_map(|(i, op)| state.execute(i, op).err()).collect();
        Ok(state.faults.report(failed))
    }
}
