//! Writes of the link, routes and addresses.

use dataplane::FailedOp;
use lb_types::{Operation, VipOp};
use planner::Subject;

use super::{Run, fail_base};
use crate::{TableName, work::Table};

impl Run<'_> {
    pub(super) fn vips(&mut self, ops: &[VipOp]) {
        if ops.is_empty() {
            return;
        }
        if !ops.contains(&VipOp::EnsureLink) {
            return self.vips_call(ops);
        }
        // A link that has just failed is not tried again at once.
        if self.base_due {
            self.vips_call(ops);
        }
        self.link_failed = !self.executor.kernel.mirror.link_ready;
    }

    fn vips_call(&mut self, ops: &[VipOp]) {
        let outcome = match self.executor.kernel.tables.vips.apply(ops) {
            Ok(outcome) => outcome,
            Err(error) => {
                self.executor.work.doubt(Table::Vips, self.executor.now);
                self.report.refuse(TableName::Vips, None, ops.len());
                fail_base(self.executor.work, &error, self.executor.now);
                for op in ops {
                    let op = Operation::Vip(*op);
                    // Nothing that serves a VIP goes before what is to serve it has come.
                    self.held.extend(Subject::of(&op, &self.executor.kernel.mirror));
                    self.await_base(&op);
                }
                return;
            }
        };
        let mut failed = outcome.failed.iter().peekable();
        for (index, op) in ops.iter().enumerate() {
            match failed.next_if(|failure| failure.index == index) {
                Some(failure) => self.vip_refused(op, failure),
                None => self.executed(&Operation::Vip(*op)),
            }
        }
        if !outcome.is_clean() {
            self.executor.work.doubt(Table::Vips, self.executor.now);
        }
    }

    fn vip_refused(&mut self, op: &VipOp, failure: &FailedOp) {
        // Every operation on links, addresses, routes and rules has a subject.
        let subject =
            Subject::of(&Operation::Vip(*op), &self.executor.kernel.mirror).unwrap_or(Subject::Base);
        self.held.insert(subject);
        self.report.refuse(TableName::Vips, Some(failure.errno), 1);
        self.refused(subject, &Operation::Vip(*op), &failure.reason);
    }
}
