//! Writes of the nftables table. Its transactions are all or nothing, which must not make one Service pay for
//! another.

use std::collections::BTreeSet;

use dataplane::BatchReport;
use lb_types::{Front, Operation, RulesOp};
use planner::Subject;
use tracing::error;

use super::{Executor, Run, fail_base};
use crate::{TableName, work::Table};

/// Attempts at a transaction, each without what the kernel refused in the one before. The kernel names
/// everything that it refuses, so that two suffice unless refusals depend on each other.
const ROUNDS: usize = 4;

impl Run<'_> {
    /// Executes the operations in one transaction. If the kernel refuses some, those fail, and the rest is
    /// executed without them.
    pub(super) fn rules(&mut self, mut ops: Vec<RulesOp>) {
        for round in 0..ROUNDS {
            if ops.is_empty() {
                return;
            }
            if !self.base_due && matches!(ops.first(), Some(RulesOp::InstallLayout(_))) {
                break;
            }
            let result = self.executor.kernel.tables.rules.apply(&ops);
            if result.as_ref().is_ok_and(BatchReport::is_clean) {
                for op in ops {
                    self.executed(&Operation::Rules(op));
                }
                return;
            }
            self.executor.work.doubt(Table::Rules, self.executor.now);
            let outcome = match result {
                Ok(outcome) => outcome,
                Err(error) => {
                    fail_base(self.executor.work, &error, self.executor.now);
                    self.distrust(&ops);
                    break;
                }
            };
            if outcome.failed.is_empty() {
                self.distrust(&ops);
            }
            let refused = self.rules_refused(&ops, &outcome);
            let is_last = round + 1 == ROUNDS;
            if refused.is_empty() || refused.contains(&Subject::Base) || is_last {
                self.transaction_refused(&ops, &outcome);
                break;
            }
            let failed: BTreeSet<usize> = outcome.failed.iter().map(|failure| failure.index).collect();
            // Of two tags of a virtual server one goes when the other one has come.
            let is_added = |op: &&RulesOp| matches!(op, RulesOp::AddElement(_));
            let kept = failed.iter().filter_map(|index| ops.get(*index)).filter(is_added).filter_map(tagged);
            let kept: BTreeSet<_> = kept.collect();
            let is_deleted = |op: &RulesOp| matches!(op, RulesOp::DeleteElement(_));
            let is_due =
                |op: &RulesOp| !is_deleted(op) || tagged(op).is_none_or(|front| !kept.contains(&front));
            let others = ops.into_iter().enumerate();
            let others = others.filter(|(index, op)| !failed.contains(index) && is_due(op));
            ops = others.map(|(_, op)| op).collect();
            self.hold_new(refused);
        }
        self.report.refuse(TableName::Rules, None, ops.len());
        for op in ops {
            self.await_base(&Operation::Rules(op));
        }
    }

    /// Follows a transaction that the kernel may have executed or not, until the next dump: what it deletes counts as
    /// gone, so that no virtual server comes by an element that may not be there any more.
    fn distrust(&mut self, ops: &[RulesOp]) {
        for op in ops.iter().filter(|op| matches!(op, RulesOp::DeleteElement(_))) {
            self.executor.kernel.mirror.record(&Operation::Rules(op.clone()));
        }
    }

    /// Notes what the kernel refused of a transaction, and returns its subjects.
    fn rules_refused(&mut self, ops: &[RulesOp], outcome: &BatchReport) -> BTreeSet<Subject> {
        let mut refused = BTreeSet::new();
        for failure in &outcome.failed {
            let Some(op) = ops.get(failure.index) else { continue };
            let op = Operation::Rules(op.clone());
            let Some(subject) = Subject::of(&op, &self.executor.kernel.mirror) else { continue };
            refused.insert(subject);
            if subject != Subject::Base {
                self.report.refuse(TableName::Rules, Some(failure.errno), 1);
                self.refused(subject, &op, &failure.reason);
            }
        }
        refused
    }

    fn transaction_refused(&mut self, ops: &[RulesOp], outcome: &BatchReport) {
        let first = outcome.failed.first();
        let reason = first.map_or("answers of the kernel were lost", |failure| &failure.reason);
        let Executor { work, now, .. } = &mut self.executor;
        if work.fail(Subject::Base, reason, *now) {
            let op = first.and_then(|failure| ops.get(failure.index)).map(ToString::to_string);
            error!("nftables transaction refused: {}: {reason}; will be tried again", op.unwrap_or_default());
        }
    }
}

/// Front whose virtual server gets or loses a tag that has a mark.
fn tagged(op: &RulesOp) -> Option<Front> {
    match op {
        RulesOp::AddElement(element) | RulesOp::DeleteElement(element) => {
            element.marked().map(|(front, _)| front)
        }
        RulesOp::InstallLayout(_) | RulesOp::DeleteTable => None,
    }
}
