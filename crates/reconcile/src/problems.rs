//! Problems of single Services, reported once when they appear and once when they are gone.

use std::collections::{BTreeMap, BTreeSet};

use lb_types::ServiceName;
use planner::IntentProblem;
use tracing::{info, warn};

/// What is known to be wrong, by Service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Problems(BTreeMap<ServiceName, Known>);

/// What is wrong with one Service.
#[derive(Clone, Debug, Default)]
struct Known {
    /// By itself: changes with its intent.
    own: BTreeSet<IntentProblem>,
    /// Because of others: changes with theirs.
    conflicts: BTreeSet<IntentProblem>,
}

impl Problems {
    /// Replaces what is wrong with a Service by itself, and logs what changed.
    pub(crate) fn replace_own(&mut self, service: &ServiceName, now: Vec<IntentProblem>) {
        self.replace(service, now, |known| &mut known.own);
    }

    /// Replaces what is wrong with a Service because of others, and logs what changed.
    pub(crate) fn replace_conflicts(&mut self, service: &ServiceName, now: Vec<IntentProblem>) {
        self.replace(service, now, |known| &mut known.conflicts);
    }

    /// Whether something is wrong with a Service because of others.
    pub(crate) fn has_conflicts(&self, service: &ServiceName) -> bool {
        self.0.get(service).is_some_and(|known| !known.conflicts.is_empty())
    }

    fn replace(
        &mut self,
        service: &ServiceName,
        now: Vec<IntentProblem>,
        part: impl FnOnce(&mut Known) -> &mut BTreeSet<IntentProblem>,
    ) {
        if now.is_empty() && !self.0.contains_key(service) {
            return;
        }
        let now: BTreeSet<_> = now.into_iter().collect();
        let known = self.0.entry(service.clone()).or_default();
        let part = part(known);
        for problem in now.difference(part) {
            warn!("{problem}");
        }
        for problem in part.difference(&now) {
            info!("no longer: {problem}");
        }
        *part = now;
        if known.own.is_empty() && known.conflicts.is_empty() {
            self.0.remove(service);
        }
    }

    /// Number of Services with problems.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// An error with its whole chain of causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
