//! Problems of single Services, logged once when they appear and once when they are gone.

use std::collections::{BTreeMap, BTreeSet};

use lb_types::ServiceName;
use planner::IntentProblem;
use tracing::{info, warn};

/// Known problems, by Service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Problems(BTreeMap<ServiceName, Known>);

/// Known problems of one Service.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Problems of the Service itself, which change with its intent.
    own: BTreeSet<IntentProblem>,
    /// Conflicts with other Services, which change with their intents.
    conflicts: BTreeSet<IntentProblem>,
}

impl Problems {
    /// Replaces the problems of the Service itself, and logs what changed.
    pub(crate) fn replace_own(&mut self, service: &ServiceName, now: Vec<IntentProblem>) {
        self.replace(service, now, |known| &mut known.own);
    }

    /// Replaces the conflicts of a Service with others, and logs what changed.
    pub(crate) fn replace_conflicts(&mut self, service: &ServiceName, now: Vec<IntentProblem>) {
        self.replace(service, now, |known| &mut known.conflicts);
    }

    /// Tells whether a Service is in conflict with others.
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

/// Renders an error with its whole chain of causes on one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
