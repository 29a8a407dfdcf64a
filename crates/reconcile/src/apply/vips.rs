//! The link, routes and addresses.

use dataplane::Touched;
use lb_types::{Operation, VipOp};
use tracing::error;

use super::{Run, vip_subject};
use crate::{Reconciler, retry::Subject};

impl Reconciler {
    /// Brings the link up unless that has just failed; returns whether it is.
    pub(super) fn apply_link(&mut self, ops: &[VipOp], run: &mut Run<'_>) -> bool {
        if run.base_due {
            self.apply_vips(ops, run);
        }
        self.mirror.link_ready
    }

    pub(super) fn apply_vips(&mut self, ops: &[VipOp], run: &mut Run<'_>) {
        let ops = run.free(ops, vip_subject);
        if ops.is_empty() {
            return;
        }
        let outcome = match self.tables.vips.apply(&ops) {
            Ok(outcome) => outcome,
            Err(error) => {
                self.suspects.tables.insert(Touched::Vips);
                run.report.failed += ops.len();
                self.base_failed(&error, run.now);
                return ops.iter().for_each(|op| self.await_base(vip_subject(op), run));
            }
        };
        let mut failed = outcome.failed.iter().peekable();
        for (index, op) in ops.iter().enumerate() {
            match failed.next_if(|failure| failure.index == index) {
                Some(failure) => self.vip_failed(op, &failure.reason, run),
                None => self.executed(&Operation::Vip(*op), run),
            }
        }
        if !outcome.is_clean() {
            self.suspects.tables.insert(Touched::Vips);
        }
    }

    fn vip_failed(&mut self, op: &VipOp, reason: &str, run: &mut Run<'_>) {
        run.report.failed += 1;
        let subject = match op {
            VipOp::DeleteAddress { addr } => Subject::Address(*addr),
            op => vip_subject(op),
        };
        run.held.extend(Some(vip_subject(op)).filter(|subject| *subject != Subject::Base));
        if self.retry.fail(subject, reason, run.now) {
            error!("{op}: {reason}; will be tried again");
        }
    }
}
