//! Deleting tracked connections: what waits for it, and when the kernel's table is walked.
//!
//! The table may be large and every deletion walks all of it, so deletions are collected: the first one happens in the
//! step that gave the reason, those that follow soon after together, and all of them take a tenth of a core at most.
//! What the kernel did not do of a plan is sorted out here, by the mirror: a real server that is still there keeps its
//! connections.

use std::{collections::BTreeSet, time::Duration};

use dataplane::{ErrorKind, TableError};
use drain::Time;
use lb_types::{FlowFilter, FlowsOp};
use tracing::{debug, error, info};

use crate::{Reconciler, Report, adopt::chain, retry::Subject};

/// Between the beginnings of two walks at least: clients whose connections wait for it must be well within 2 s.
const PAUSE: Duration = Duration::from_millis(500);

/// How many times as long as a walk took the next one waits at least.
const RESTS: u32 = 9;

/// Deletions that are not done.
#[derive(Clone, Debug, Default)]
pub(crate) struct Flows {
    /// At most as many as there are ports and pod addresses: a filter that comes again is the same.
    pending: BTreeSet<FlowFilter>,
    /// Until then the table is not walked again.
    rest: Time,
    /// Whether the last step has walked it.
    walked: bool,
    /// Why this kernel cannot do it, so that this is told once.
    unavailable: Option<String>,
}

impl Flows {
    /// Takes the deletions of a plan over, executed or not: which of its writes were shows in the mirror.
    pub(crate) fn add(&mut self, ops: &[FlowsOp]) {
        self.pending.extend(ops.iter().map(|FlowsOp::Delete(filter)| filter));
    }

    /// The last step took so much of a core, until `now`.
    pub(crate) fn spent(&mut self, took: Duration, now: Time) {
        if std::mem::take(&mut self.walked) {
            self.rest = self.rest.max(now.saturating_add(took.saturating_mul(RESTS)));
        }
    }
}

impl Reconciler {
    /// When the table has to be walked; `None` if nothing can be deleted now.
    pub(crate) fn flows_due(&self) -> Option<Time> {
        let certain = |filter: &FlowFilter| !self.is_doubtful(filter);
        let any = self.flows.pending.iter().any(certain);
        any.then(|| self.retry.due(&Subject::Flows).unwrap_or(self.flows.rest))
    }

    /// Deletes what is due, by one call.
    pub(crate) fn delete_flows(&mut self, now: Time, report: &mut Report) {
        match self.flows_due() {
            Some(due) if due > now => return,
            Some(_) => {}
            // What failed before has become doubtful, or was done: nothing must be waited for on its account.
            None => {
                self.retry.succeed(&Subject::Flows);
                return;
            }
        }
        let pending = std::mem::take(&mut self.flows.pending);
        let (doubtful, certain) = pending.into_iter().partition(|filter| self.is_doubtful(filter));
        self.flows.pending = doubtful;
        let certain: BTreeSet<FlowFilter> = certain;
        let filters: Vec<_> = certain.into_iter().filter(|filter| self.mirror.justifies(filter)).collect();
        if filters.is_empty() {
            self.retry.succeed(&Subject::Flows);
            return;
        }
        (self.flows.walked, self.flows.rest) = (true, now + PAUSE);
        match self.tables.flows.delete_flows(&filters) {
            Ok(count) => self.flows_deleted(&filters, count, report),
            Err(error) => self.flows_failed(filters, &error, now, report),
        }
    }

    /// Whether the mirror may be wrong about the virtual server; it is dumped again soon.
    fn is_doubtful(&self, filter: &FlowFilter) -> bool {
        self.suspects.contains(&filter.service.into())
    }

    fn flows_deleted(&mut self, filters: &[FlowFilter], count: usize, report: &mut Report) {
        filters.iter().for_each(|filter| debug!("{}", FlowsOp::Delete(*filter)));
        report.flows += count;
        let healed = self.retry.succeed(&Subject::Flows);
        if self.flows.unavailable.take().is_some() || healed {
            info!("healed: {}", Subject::Flows);
        }
    }

    fn flows_failed(&mut self, filters: Vec<FlowFilter>, error: &TableError, now: Time, report: &mut Report) {
        report.failed += 1;
        let reason = chain(error);
        if let ErrorKind::NotSupported | ErrorKind::PermissionDenied = error.kind {
            // Not kept: somebody has to act first, and then the next deletion shows it.
            self.retry.succeed(&Subject::Flows);
            if self.flows.unavailable.as_ref() != Some(&reason) {
                error!(
                    "tracked UDP connections are not deleted, so that clients that keep their port may stay without \
                     answers: {reason}; everything else goes on"
                );
            }
            self.flows.unavailable = Some(reason);
            return;
        }
        self.flows.pending.extend(filters);
        if self.retry.fail(Subject::Flows, &reason, now) {
            error!("{reason}; will be tried again");
        }
    }
}
