//! Deletion of tracked connections: what waits for it, and when the kernel's table is walked.
//!
//! The table may be large and every deletion walks all of it, so deletions are collected: the first one
//! happens in the step that gave the reason, those that follow soon after happen together, and all of them
//! take a tenth of a core at most. The mirror shows which writes of a plan the kernel really executed: a real
//! server that is still there keeps its connections.

use std::{collections::BTreeSet, net::IpAddr, time::Duration};

use dataplane::{ErrorKind, TableError};
use drain::{Share, Time};
use lb_types::{ConntrackFilter, ConntrackOp, Front, IpFamily};
use planner::Mirror;
use tracing::{debug, error, info};

use crate::{
    Report, TableName,
    kernel::Kernel,
    problems::chain,
    work::{Task, Work},
};

/// Least time between the beginnings of two walks. Clients whose connections wait for one must be served well
/// within 2 s.
const PAUSE: Duration = Duration::from_millis(500);

/// Share of a processor that walks keep to.
const SHARE: Share = Share::one_of(10);

/// Deletions that are not done yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct PendingDeletions {
    /// Filters of the connections to delete; at most as many as there are ports and pod addresses, because a
    /// filter that comes again is the same.
    pending: BTreeSet<ConntrackFilter>,
    /// Earliest time for another walk.
    rest: Time,
    /// Reason why this kernel cannot delete, so that it is logged once.
    unavailable: Option<String>,
}

impl PendingDeletions {
    /// Takes the deletions of a plan over; the mirror shows later which of the plan's writes were executed.
    pub(crate) fn add(&mut self, ops: &[ConntrackOp]) {
        self.pending.extend(ops.iter().map(|ConntrackOp::Delete(filter)| filter));
    }

    /// Accounts for the processor time of a step that has walked the table and ended at `now`.
    pub(crate) fn charge(&mut self, took: Duration, now: Time) {
        self.rest = self.rest.max(now.saturating_add(SHARE.pause(took)));
    }

    /// Time at which the table has to be walked; `None` if nothing can be deleted now.
    pub(crate) fn due(&self, mirror: &Mirror, work: &Work) -> Option<Time> {
        let any = self.pending.iter().any(|filter| !is_doubtful(filter, mirror, work));
        any.then(|| work.due(Task::DeleteTracked).unwrap_or(self.rest))
    }

    /// Deletes what is due, by one call; returns whether the table was walked.
    pub(crate) fn delete(
        &mut self,
        kernel: &mut Kernel,
        work: &mut Work,
        now: Time,
        report: &mut Report,
    ) -> bool {
        match self.due(&kernel.mirror, work) {
            Some(due) if due > now => return false,
            Some(_) => {}
            // Whatever failed before has become doubtful or is done: the failure must not keep anything
            // waiting.
            None => {
                work.succeed(Task::DeleteTracked);
                return false;
            }
        }
        let pending = std::mem::take(&mut self.pending);
        let (doubtful, certain): (_, BTreeSet<_>) =
            pending.into_iter().partition(|filter| is_doubtful(filter, &kernel.mirror, work));
        self.pending = doubtful;
        let filters: Vec<_> = certain.into_iter().filter(|filter| kernel.mirror.justifies(filter)).collect();
        if filters.is_empty() {
            work.succeed(Task::DeleteTracked);
            return false;
        }
        self.rest = now + PAUSE;
        // The kernel's table is walked for each family by itself in any case.
        let (v4, v6) = filters.into_iter().partition(|filter| filter.front.family() == IpFamily::V4);
        let mut failures = Vec::new();
        for (family, filters) in IpFamily::ALL.into_iter().zip::<[Vec<ConntrackFilter>; 2]>([v4, v6]) {
            if filters.is_empty() {
                continue;
            }
            let asked = on_addresses(&filters, &kernel.mirror.node_ports);
            match kernel.tables.conntrack.delete_flows(&asked) {
                Ok(count) => deleted(&filters, family, count, report),
                Err(error) => {
                    report.refuse(TableName::Conntrack, None, 1);
                    failures.push((filters, error));
                }
            }
        }
        if failures.is_empty() {
            self.all_deleted(work);
        }
        for (filters, error) in failures {
            self.failed(filters, &error, work, now);
        }
        true
    }

    fn all_deleted(&mut self, work: &mut Work) {
        let healed = work.succeed(Task::DeleteTracked);
        if self.unavailable.take().is_some() || healed {
            info!("healed: {}", Task::DeleteTracked);
        }
    }

    fn failed(&mut self, filters: Vec<ConntrackFilter>, error: &TableError, work: &mut Work, now: Time) {
        let reason = chain(error);
        if let ErrorKind::NotSupported | ErrorKind::PermissionDenied = error.kind {
            // These deletions are not kept: somebody has to act first, and then the next deletion shows it.
            work.succeed(Task::DeleteTracked);
            if self.unavailable.as_ref() != Some(&reason) {
                error!(
                    "tracked UDP connections are not deleted, so that clients that keep their port may stay without \
                     answers: {reason}; everything else goes on"
                );
            }
            self.unavailable = Some(reason);
            return;
        }
        self.pending.extend(filters);
        if work.fail(Task::DeleteTracked, &reason, now) {
            error!("{reason}; will be tried again");
        }
    }
}

fn deleted(filters: &[ConntrackFilter], family: IpFamily, count: usize, report: &mut Report) {
    for filter in filters {
        debug!("{}", ConntrackOp::Delete(*filter));
    }
    report.flows += count;
    *report.walked.entry(family).or_default() += count;
}

/// Tells whether the mirror may be wrong about the virtual server, which then is dumped again soon.
fn is_doubtful(filter: &ConntrackFilter, mirror: &Mirror, work: &Work) -> bool {
    mirror.key(&filter.front).is_some_and(|vs| work.is_in_doubt(&vs))
}

/// The filters as the kernel can be asked: those of node ports once for each address where those are served.
fn on_addresses(filters: &[ConntrackFilter], node_ports: &BTreeSet<IpAddr>) -> Vec<ConntrackFilter> {
    let mut asked = BTreeSet::new();
    for filter in filters {
        // For the kernel, all clients of a port are the same.
        let front = Front::from(filter.front.port);
        let filter = ConntrackFilter { front, ..*filter };
        match front.vip() {
            Some(_) => _ = asked.insert(filter),
            None => {
                let of_family = node_ports.iter().filter(|addr| IpFamily::of(**addr) == front.family());
                asked.extend(of_family.map(|addr| filter.on(*addr)));
            }
        }
    }
    asked.into_iter().collect()
}
