//! Virtual and real servers.

use std::borrow::Cow;

use dataplane::{TableError, explain_ipvs};
use drain::Key;
use lb_types::{IpvsOp, VirtualServer};
use tracing::{debug, error, warn};

use super::{Run, ipvs_subject};
use crate::{Reconciler, adopt::chain, retry::Subject};

const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const EEXIST: i32 = 17;

impl Run<'_> {
    fn refuse(&mut self, op: &IpvsOp) {
        self.refused.insert(op.virtual_server());
        if let IpvsOp::DeleteVirtualServer { vs } = op {
            self.undeleted.insert(*vs);
        }
    }
}

impl Reconciler {
    /// Virtual servers come before all real servers, so that none is sent for one that the kernel refuses.
    pub(super) fn apply_ipvs(&mut self, ops: &[IpvsOp], run: &mut Run<'_>) {
        let is_new = |op: &&IpvsOp| matches!(op, IpvsOp::AddVirtualServer { .. });
        let ops = self.without_lacking(ops, run);
        let ops = run.free(&ops, ipvs_subject);
        let new: Vec<_> = ops.iter().filter(is_new).copied().collect();
        if new.is_empty() {
            return self.apply_ipvs_batch(&ops, run);
        }
        self.apply_ipvs_batch(&new, run);
        let mut others = Vec::with_capacity(ops.len() - new.len());
        others.extend(ops.iter().filter(|op| !is_new(op)));
        let others = run.free(&others, ipvs_subject);
        self.apply_ipvs_batch(&others, run);
    }

    /// Fails what names a scheduler that the kernel is known to lack: it would run modprobe for each of them, under the
    /// lock of all IPVS tables. Such writes are planned only where there is no scheduler at all.
    fn without_lacking<'o>(&mut self, ops: &'o [IpvsOp], run: &mut Run<'_>) -> Cow<'o, [IpvsOp]> {
        let lacks =
            |op: &IpvsOp| settings(op).is_some_and(|settings| self.schedulers.lack(settings.scheduler));
        if !ops.iter().any(lacks) {
            return Cow::Borrowed(ops);
        }
        let (lacking, others): (Vec<_>, Vec<_>) = ops.iter().copied().partition(lacks);
        for op in lacking {
            self.ipvs_failed(&op, ENOENT, &explain_ipvs(&op, ENOENT), run);
        }
        Cow::Owned(others)
    }

    fn apply_ipvs_batch(&mut self, ops: &[IpvsOp], run: &mut Run<'_>) {
        if ops.is_empty() {
            return;
        }
        let result = self.tables.ipvs.apply(ops);
        self.ipvs_fails = result.is_err();
        let outcome = match result {
            Ok(outcome) => outcome,
            Err(error) => return self.ipvs_call_failed(ops, &error, run),
        };
        if outcome.replies_lost {
            warn!("answers of the kernel were lost: the virtual servers concerned are dumped again");
            self.suspects.add_servers(ops.iter().map(IpvsOp::virtual_server));
        }
        // What lies between failures, which are in order, was executed.
        let mut done = 0;
        for failure in &outcome.failed {
            let Some(op) = ops.get(failure.index) else { continue };
            self.ipvs_executed(ops.get(done..failure.index).unwrap_or_default(), run);
            self.ipvs_failed(op, failure.errno, &failure.reason, run);
            done = failure.index + 1;
        }
        self.ipvs_executed(&ops[done..], run);
    }

    fn ipvs_executed(&mut self, ops: &[IpvsOp], run: &mut Run<'_>) {
        self.mirror.record_ipvs(ops);
        run.report.written += ops.len();
        for op in ops {
            debug!("{op}");
            self.follow_ipvs(op, run);
        }
    }

    /// What else changes when a write to IPVS has been executed.
    fn follow_ipvs(&mut self, op: &IpvsOp, run: &mut Run<'_>) {
        match *op {
            IpvsOp::DeleteRealServer { vs, rs } => {
                run.shrunk.insert(vs);
                self.drained(&Key { vs, rs }, run);
            }
            IpvsOp::DeleteVirtualServer { vs } => self.drained_with(vs, run),
            _ => {}
        }
    }

    fn ipvs_failed(&mut self, op: &IpvsOp, errno: i32, reason: &str, run: &mut Run<'_>) {
        let vs = op.virtual_server();
        run.report.failed += 1;
        run.refuse(op);
        if self.retry.fail(Subject::Server(vs), reason, run.now) {
            let service =
                self.desired.service_of(&vs).map_or_else(|| "no Service".to_owned(), ToString::to_string);
            error!(%service, "{op}: {reason}; will be tried again");
        }
        match settings(op).filter(|_| errno == ENOENT) {
            Some(settings) => self.scheduler_refused(settings.scheduler, run.now),
            // The mirror was wrong about what exists.
            None if [ENOENT, ESRCH, EEXIST].contains(&errno) => self.suspects.add_servers([vs]),
            None => {}
        }
        if matches!(op, IpvsOp::AddVirtualServer { .. }) {
            run.held.insert(Subject::Server(vs));
        }
    }

    fn ipvs_call_failed(&mut self, ops: &[IpvsOp], error: &TableError, run: &mut Run<'_>) {
        run.report.failed += ops.len();
        self.call_failed = true;
        error!("{}; will be tried again", chain(error));
        for op in ops {
            self.retry.fail(ipvs_subject(op), &error.operation, run.now);
            // Nothing of it may have been executed: what goes must not go before what replaces it.
            run.held.insert(ipvs_subject(op));
        }
        // Some of them may have been executed.
        self.suspects.add_servers(ops.iter().map(IpvsOp::virtual_server));
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
