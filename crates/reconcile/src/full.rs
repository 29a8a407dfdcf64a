//! Fronts whose endpoints all have as many connections as they may have (`kube-ipvs.io/max-connections`).
//!
//! IPVS does not report it, and nobody asks for it: the audit reads the counters anyway. So it is known within a
//! round of the audit, and what is over sooner may pass unseen.

use std::collections::BTreeSet;

use dataplane::ObservedRealServer;
use lb_types::Front;
use planner::Desired;
use tracing::{info, warn};

use crate::problems::{Problems, ServiceProblem};

/// Fronts that are full.
#[derive(Clone, Debug, Default)]
pub(crate) struct Full(BTreeSet<Front>);

impl Full {
    /// Judges a front by its real servers, as just dumped; what has become full is logged and noted.
    pub(crate) fn look(
        &mut self,
        front: Front,
        real_servers: &[ObservedRealServer],
        desired: &Desired,
        problems: &mut Problems,
    ) {
        let Some(service) = desired.service_of(&front) else { return };
        match fill(real_servers) {
            Fill::Full { limit } if self.0.insert(front) => {
                let problem = ServiceProblem::EndpointsFull { service: service.clone(), front, limit };
                warn!("{problem}");
                problems.note(problem);
            }
            Fill::Free if self.0.remove(&front) => {
                info!("Service {service}: {front}: endpoints take new connections again");
            }
            _ => {}
        }
    }

    /// Forgets fronts that no Service wants any more.
    pub(crate) fn forget_unwanted(&mut self, desired: &Desired) {
        self.0.retain(|front| desired.front(front).is_some());
    }
}

/// Room for new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fill {
    /// No endpoint takes a new connection.
    Full { limit: u32 },
    /// Each endpoint has reached its limit and is not yet below three quarters of it, or never has: the counters do
    /// not tell.
    Unknown,
    /// Some endpoint takes new connections, or none is wanted.
    Free,
}

/// Fill of the real servers of a front. The kernel closes one that has reached its upper threshold, and opens it below
/// three quarters of that (`ip_vs_dest_update_overload`, net/netfilter/ipvs/ip_vs_conn.c); it reports the counters, not
/// the state.
fn fill(real_servers: &[ObservedRealServer]) -> Fill {
    let serving = real_servers.iter().filter(|rs| !rs.settings.weight.is_quiesced());
    let fills = serving.map(|rs| {
        let limit = u64::from(rs.settings.upper_threshold);
        let count = u64::from(rs.connections.active) + u64::from(rs.connections.inactive);
        if limit == 0 || count * 4 < limit * 3 {
            Fill::Free
        } else if count < limit {
            Fill::Unknown
        } else {
            Fill::Full { limit: rs.settings.upper_threshold }
        }
    });
    let weaker = |one: Fill, other: Fill| match (one, other) {
        (Fill::Free, _) | (_, Fill::Free) => Fill::Free,
        (Fill::Unknown, _) | (_, Fill::Unknown) => Fill::Unknown,
        (Fill::Full { limit: one }, Fill::Full { limit: other }) => Fill::Full { limit: one.max(other) },
    };
    fills.reduce(weaker).unwrap_or(Fill::Free)
}

#[cfg(test)]
mod tests {
    use lb_types::{ConnectionCounters, RealServer, RealServerId, TrafficCounters, Weight};

    use super::*;

    fn check(real_servers: &[(u32, u32, u32, u32)], expect: Fill) {
        let observed: Vec<_> = real_servers
            .iter()
            .map(|(weight, limit, active, inactive)| ObservedRealServer {
                id: RealServerId { addr: [10, 0, 0, 1].into(), port: 80.try_into().unwrap() },
                settings: RealServer {
                    weight: Weight(*weight),
                    upper_threshold: *limit,
                    ..RealServer::SERVING
                },
                connections: ConnectionCounters { active: *active, inactive: *inactive, persistent: 0 },
                traffic: TrafficCounters::default(),
            })
            .collect();
        assert_eq!(fill(&observed), expect, "{real_servers:?}");
    }

    #[test]
    fn only_what_is_full_everywhere_is_full() {
        let full = Fill::Full { limit: 8 };
        check(&[], Fill::Free);
        check(&[(1, 0, 1000, 1000)], Fill::Free);
        check(&[(1, 8, 8, 0), (1, 8, 3, 5)], full);
        check(&[(1, 8, 8, 0), (1, 8, 0, 5)], Fill::Free);
        check(&[(1, 8, 8, 0), (1, 8, 6, 1)], Fill::Unknown);
        check(&[(1, 8, 8, 0), (1, 8, 6, 0)], Fill::Unknown);
        check(&[(1, 8, 8, 0), (0, 8, 0, 0)], full);
        check(&[(0, 8, 8, 0)], Fill::Free);
        check(&[(1, u32::MAX, u32::MAX, u32::MAX)], Fill::Full { limit: u32::MAX });
    }
}
