//! Writes of virtual and real servers.

use dataplane::{TableError, explain_ipvs};
use lb_types::{IpvsOp, VirtualServer};
use planner::Subject;
use tracing::{debug, error, warn};

use super::{Executor, Run};
use crate::{TableName, problems::chain, work::Table};

const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const EEXIST: i32 = 17;

impl Run<'_> {
    pub(super) fn ipvs(&mut self, ops: &[IpvsOp]) {
        // A write that names a scheduler which the kernel is known to lack would make it run modprobe under
        // the lock of all IPVS tables. The planner names such a scheduler only where there is none at all.
        let lacking = self.executor.lacking;
        let lacks = |op: &&IpvsOp| settings(op).is_some_and(|settings| lacking.contains(&settings.scheduler));
        if !ops.iter().any(|op| lacks(&op)) {
            return self.ipvs_call(ops);
        }
        for op in ops.iter().filter(lacks) {
            self.ipvs_refused(op, ENOENT, &explain_ipvs(op, ENOENT));
        }
        let others: Vec<_> = ops.iter().filter(|op| !lacks(op)).copied().collect();
        self.ipvs_call(&others);
    }

    fn ipvs_call(&mut self, ops: &[IpvsOp]) {
        if ops.is_empty() {
            return;
        }
        let outcome = match self.executor.kernel.tables.ipvs.apply(ops) {
            Ok(outcome) => outcome,
            Err(error) => return self.ipvs_call_failed(ops, &error),
        };
        if outcome.replies_lost {
            warn!("answers of the kernel were lost: the virtual servers concerned are dumped again");
            self.doubt(ops);
            self.keep_elements(ops);
        }
        // Failures are in order, and the kernel executed whatever lies between them.
        let mut done = 0;
        for failure in &outcome.failed {
            let Some(op) = ops.get(failure.index) else { continue };
            self.ipvs_executed(ops.get(done..failure.index).unwrap_or_default());
            self.ipvs_refused(op, failure.errno, &failure.reason);
            done = failure.index + 1;
        }
        self.ipvs_executed(&ops[done..]);
    }

    fn ipvs_executed(&mut self, ops: &[IpvsOp]) {
        self.executor.kernel.mirror.record_ipvs(ops);
        self.report.written += ops.len();
        for op in ops {
            debug!("{op}");
            if let IpvsOp::DeleteRealServer { .. } | IpvsOp::DeleteVirtualServer { .. } = op {
                self.outcome.deleted.push(*op);
            }
        }
    }

    fn ipvs_refused(&mut self, op: &IpvsOp, errno: i32, reason: &str) {
        self.report.refuse(TableName::Ipvs, Some(errno), 1);
        let Executor { kernel, work, desired, now, .. } = &mut self.executor;
        // Every planned write to IPVS belongs to a front.
        let Some(front) = kernel.mirror.front(&op.virtual_server()) else { return };
        if work.fail(Subject::Front(front), reason, *now) {
            let service =
                desired.service_of(&front).map_or_else(|| "no Service".to_owned(), ToString::to_string);
            error!(%service, "{op}: {reason}; will be tried again");
        }
        self.outcome.refused.insert(front);
        match op {
            IpvsOp::AddVirtualServer { .. } => _ = self.held.insert(Subject::Front(front)),
            IpvsOp::DeleteVirtualServer { .. } => _ = self.undeleted.insert(front),
            _ => {}
        }
        match settings(op).filter(|_| errno == ENOENT) {
            Some(settings) => _ = self.outcome.lost_schedulers.insert(settings.scheduler),
            // The mirror was wrong about what exists.
            None if [ENOENT, ESRCH, EEXIST].contains(&errno) => self.doubt(&[*op]),
            None => {}
        }
    }

    fn ipvs_call_failed(&mut self, ops: &[IpvsOp], error: &TableError) {
        self.report.refuse(TableName::Ipvs, None, ops.len());
        error!("{}; will be tried again", chain(error));
        for op in ops {
            let Executor { kernel, work, now, .. } = &mut self.executor;
            if let Some(subject) = Subject::of_ipvs(op, &kernel.mirror) {
                work.fail_call(subject, &error.operation, *now);
                // Perhaps none of it was executed: nothing may be removed before what replaces it is there.
                self.held.insert(subject);
            }
        }
        // Some of it may have been executed.
        self.doubt(ops);
    }

    /// Keeps the elements of virtual servers that may not have been deleted: they alone may say that those are ours.
    fn keep_elements(&mut self, ops: &[IpvsOp]) {
        let deleted = ops.iter().filter(|op| matches!(op, IpvsOp::DeleteVirtualServer { .. }));
        let mirror = &self.executor.kernel.mirror;
        self.undeleted.extend(deleted.filter_map(|op| mirror.front(&op.virtual_server())));
    }

    /// Requests dumps of virtual servers of which the kernel may hold anything.
    fn doubt(&mut self, ops: &[IpvsOp]) {
        let Executor { work, now, .. } = &mut self.executor;
        // The list of virtual servers comes first: a write to one that does not exist would fail as before.
        let due = work.request(Table::VirtualServers, *now);
        for op in ops {
            work.request(Table::RealServers(op.virtual_server()), due);
        }
    }
}

/// Settings of the virtual server that an operation writes.
fn settings(op: &IpvsOp) -> Option<&VirtualServer> {
    match op {
        IpvsOp::AddVirtualServer { settings, .. } | IpvsOp::SetVirtualServer { settings, .. } => {
            Some(settings)
        }
        _ => None,
    }
}
