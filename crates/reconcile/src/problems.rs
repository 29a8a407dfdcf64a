//! Problems of single Services, logged once when they appear and once when they are gone.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use lb_types::{Front, ServiceName};
use planner::IntentProblem;
use tracing::{info, warn};

/// Problem of a Service that its author should see.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServiceProblem {
    /// A part of it is not programmed as it asks.
    Intent(IntentProblem),
    /// Each endpoint behind a front has as many connections on this node as it may have.
    EndpointsFull {
        /// The Service.
        service: ServiceName,
        /// The front.
        front: Front,
        /// Most connections of one endpoint.
        limit: u32,
    },
}

impl ServiceProblem {
    /// The Service.
    pub fn service(&self) -> &ServiceName {
        match self {
            ServiceProblem::Intent(problem) => &problem.service,
            ServiceProblem::EndpointsFull { service, .. } => service,
        }
    }
}

impl fmt::Display for ServiceProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServiceProblem::Intent(problem) => problem.fmt(f),
            ServiceProblem::EndpointsFull { service, front, limit } => write!(
                f,
                "Service {service}: {front}: each endpoint has reached {} (a limit of {limit} connections) on this \
                 node, and new clients are refused; add endpoints or raise the limit",
                service_model::annotations::MAX_CONNECTIONS
            ),
        }
    }
}

/// A problem that has appeared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewProblem {
    /// `metadata.uid` of the Service.
    pub uid: Arc<str>,
    /// The problem.
    pub problem: ServiceProblem,
}

/// Known problems.
#[derive(Clone, Debug, Default)]
pub(crate) struct Problems {
    services: BTreeMap<ServiceName, Known>,
    /// Those that have appeared since [`Problems::take_new`].
    new: Vec<ServiceProblem>,
}

/// Problems of one Service that are reported one by one; the others are counted. It may have thousands of addresses, and
/// each problem is a line of the log of every node, and an event.
const MOST_PROBLEMS: usize = 16;

/// Known problems of one Service.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Problems of the Service itself, which change with its intent.
    own: Listed,
    /// Conflicts with other Services, which change with their intents.
    conflicts: Listed,
}

/// Problems of one kind.
#[derive(Clone, Debug, Default)]
struct Listed {
    problems: BTreeSet<IntentProblem>,
    /// True if there are more than are listed.
    has_more: bool,
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
        self.services.get(service).is_some_and(|known| !known.conflicts.problems.is_empty())
    }

    /// Notes a problem that is logged already.
    pub(crate) fn note(&mut self, problem: ServiceProblem) {
        self.new.push(problem);
    }

    /// Takes the problems that have appeared since the last call.
    pub(crate) fn take_new(&mut self) -> Vec<ServiceProblem> {
        std::mem::take(&mut self.new)
    }

    fn replace(
        &mut self,
        service: &ServiceName,
        now: Vec<IntentProblem>,
        part: impl FnOnce(&mut Known) -> &mut Listed,
    ) {
        if now.is_empty() && !self.services.contains_key(service) {
            return;
        }
        let all: BTreeSet<_> = now.into_iter().collect();
        let more = all.len().saturating_sub(MOST_PROBLEMS);
        let known = self.services.entry(service.clone()).or_default();
        let part = part(known);
        for problem in part.problems.difference(&all) {
            info!("no longer: {problem}");
        }
        // Those that are listed stay, whatever comes.
        let mut listed: BTreeSet<_> = part.problems.intersection(&all).cloned().collect();
        let free = MOST_PROBLEMS.saturating_sub(listed.len());
        for problem in all.difference(&part.problems).take(free) {
            warn!("{problem}");
            self.new.push(ServiceProblem::Intent(problem.clone()));
            listed.insert(problem.clone());
        }
        if more > 0 && !part.has_more {
            warn!("Service {service}: {more} more problems, which are not listed");
        }
        *part = Listed { problems: listed, has_more: more > 0 };
        if known.own.problems.is_empty() && known.conflicts.problems.is_empty() {
            self.services.remove(service);
        }
    }

    /// Number of Services with problems.
    pub(crate) fn len(&self) -> usize {
        self.services.len()
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
