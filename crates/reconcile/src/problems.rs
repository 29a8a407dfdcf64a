//! Problems of single Services, reported once when they appear and once when they are gone.

use std::collections::{BTreeMap, BTreeSet};

use lb_types::ServiceName;
use planner::IntentProblem;
use tracing::{info, warn};

/// What is known to be wrong, by Service.
#[derive(Clone, Debug, Default)]
pub(crate) struct Problems(BTreeMap<ServiceName, BTreeSet<IntentProblem>>);

impl Problems {
    /// Replaces the problems of a Service and logs what changed.
    pub(crate) fn replace(&mut self, service: &ServiceName, now: BTreeSet<IntentProblem>) {
        let before = match now.is_empty() {
            true => self.0.remove(service),
            false => self.0.insert(service.clone(), now.clone()),
        };
        let before = before.unwrap_or_default();
        now.difference(&before).for_each(|problem| warn!("{problem}"));
        before.difference(&now).for_each(|problem| info!("no longer: {problem}"));
    }

    /// Number of Services with problems.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
