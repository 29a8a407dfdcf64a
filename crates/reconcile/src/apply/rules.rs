//! The nftables table. Its transactions are all or nothing, which must not make one Service pay for another.

use std::collections::BTreeSet;

use dataplane::{BatchReport, Touched};
use lb_types::{Operation, RulesOp};
use tracing::error;

use super::{Run, rules_subject};
use crate::{Reconciler, retry::Subject};

/// How often a transaction is repeated without what the kernel has refused in it. It names everything that it refuses,
/// so that once suffices unless refusals depend on each other.
const ROUNDS: usize = 4;

impl Reconciler {
    /// Executes the operations in one transaction. If the kernel refuses some, those fail, and the rest is executed
    /// without them.
    pub(super) fn apply_rules(&mut self, ops: &[RulesOp], run: &mut Run<'_>) {
        let mut ops = run.free(ops, rules_subject).into_owned();
        for round in 0..ROUNDS {
            if ops.is_empty() {
                return;
            }
            if !run.base_due && matches!(ops.first(), Some(RulesOp::InstallLayout(_))) {
                break;
            }
            let outcome = match self.tables.rules.apply(&ops) {
                Ok(outcome) if outcome.is_clean() => {
                    return ops.into_iter().for_each(|op| self.executed(&Operation::Rules(op), run));
                }
                Ok(outcome) => outcome,
                Err(error) => {
                    self.base_failed(&error, run.now);
                    self.suspects.tables.insert(Touched::Rules);
                    break;
                }
            };
            self.suspects.tables.insert(Touched::Rules);
            let refused = self.rules_refused(&ops, &outcome, run);
            let is_last = round + 1 == ROUNDS;
            if refused.is_empty() || refused.contains(&Subject::Base) || is_last {
                self.rules_failed(&ops, &outcome, run);
                break;
            }
            let failed: BTreeSet<usize> = outcome.failed.iter().map(|failure| failure.index).collect();
            let others = ops.into_iter().enumerate().filter(|(index, _)| !failed.contains(index));
            ops = others.map(|(_, op)| op).collect();
            self.hold_new(refused, run);
        }
        run.report.failed += ops.len();
        ops.iter().for_each(|op| self.await_base(rules_subject(op), run));
    }

    /// Notes what the kernel refused of a transaction, and returns its subjects.
    fn rules_refused(
        &mut self,
        ops: &[RulesOp],
        outcome: &BatchReport,
        run: &mut Run<'_>,
    ) -> BTreeSet<Subject> {
        let mut refused = BTreeSet::new();
        for failure in &outcome.failed {
            let Some(op) = ops.get(failure.index) else { continue };
            let subject = rules_subject(op);
            refused.insert(subject);
            if subject != Subject::Base {
                run.report.failed += 1;
                if self.retry.fail(subject, &failure.reason, run.now) {
                    error!("{op}: {}; will be tried again", failure.reason);
                }
            }
        }
        refused
    }

    fn rules_failed(&mut self, ops: &[RulesOp], outcome: &BatchReport, run: &Run<'_>) {
        let first = outcome.failed.first();
        let reason = first.map_or("answers of the kernel were lost", |failure| &failure.reason);
        if self.retry.fail(Subject::Base, reason, run.now) {
            let op = first.and_then(|failure| ops.get(failure.index)).map(ToString::to_string);
            error!("nftables transaction refused: {}: {reason}; will be tried again", op.unwrap_or_default());
        }
    }

    /// A write waits until the link and the chains are there.
    pub(super) fn await_base(&mut self, subject: Subject, run: &mut Run<'_>) {
        subject.touch(&mut self.waiting);
        self.hold_new([subject], run);
    }
}
