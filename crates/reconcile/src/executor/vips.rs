//! Writes of the link, routes and addresses.

use lb_types::{Operation, VipOp};
use planner::Subject;

use super::Run;
use crate::work::Table;

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
                self.report.failed += ops.len();
                self.base_failed(&error);
                for op in ops {
                    self.await_base(&Operation::Vip(*op));
                }
                return;
            }
        };
        let mut failed = outcome.failed.iter().peekable();
        for (index, op) in ops.iter().enumerate() {
            match failed.next_if(|failure| failure.index == index) {
                Some(failure) => self.vip_refused(op, &failure.reason),
                None => self.executed(&Operation::Vip(*op)),
            }
        }
        if !outcome.is_clean() {
            self.executor.work.doubt(Table::Vips, self.executor.now);
        }
    }

    fn vip_refused(&mut self, op: &VipOp, reason: &str) {
        let subject = match op {
            VipOp::EnsureRoute { vip, .. } | VipOp::DeleteRoute { vip } => Subject::Vip(*vip),
            VipOp::DeleteAddress { addr } => Subject::Address(*addr),
            VipOp::EnsureLink | VipOp::DeleteLink => Subject::Base,
        };
        if let Subject::Vip(addr) | Subject::Address(addr) = subject {
            self.held.insert(Subject::Vip(addr));
        }
        self.refused(subject, &Operation::Vip(*op), reason);
    }
}
