//! Distance of the kernel from the objects, for health checks.

use std::collections::BTreeSet;

use lb_types::{Front, IpFamily, ServiceName, words};
use planner::{Mirror, Subject};

use crate::{Reconciler, syncer::Syncer, work::Task};

/// Distance of the kernel from the objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Reason for which changes wait, if any wait.
    pub waits_for: Option<Wait>,
    /// Services that have no virtual server that can be reached, because the kernel refuses it.
    pub unserved: usize,
    /// True if those are more than half of all Services.
    pub most_unserved: bool,
    /// Objects whose last write the kernel refused; they are tried again.
    pub refused: usize,
}

words! {
    /// Reason for which changes wait, by its code for health checks.
    Wait {
        /// The first programming of everything.
        Start = "first-programming",
        /// Their turn behind other work.
        Turn = "changes-wait",
        /// The link or the chains, which the kernel refuses.
        Base = "link-or-chains-refused",
        /// IPVS, which answers no call.
        Ipvs = "ipvs-fails",
    }
}

impl Reconciler {
    /// Distance of the kernel from the objects. Before all objects are known, nothing waits.
    ///
    /// Costs as much as has failed.
    pub fn standing(&self) -> Standing {
        if !self.syncer.intents.model.is_synced() {
            return Standing::default();
        }
        let unserved = unserved(&self.syncer);
        let most_unserved = unserved > 0 && unserved * 2 > self.syncer.intents.desired.services().count();
        let refused = self.syncer.work.failing().filter(|task| task.is_object()).count();
        Standing { waits_for: self.waits_for(), unserved, most_unserved, refused }
    }

    fn waits_for(&self) -> Option<Wait> {
        if !self.is_planned() {
            Some(Wait::Start)
        } else if self.syncer.work.is_failing(Subject::Base) || self.syncer.work.awaits_base() {
            Some(Wait::Base)
        } else if self.syncer.work.has_failed_call() {
            Some(Wait::Ipvs)
        } else if !self.is_running() {
            Some(Wait::Start)
        } else {
            self.has_backlog().then_some(Wait::Turn)
        }
    }
}

/// Number of Services that the kernel leaves unreachable: it refuses each of their virtual servers, or the route of its
/// VIP.
fn unserved(syncer: &Syncer) -> usize {
    let (desired, mirror) = (&syncer.intents.desired, &syncer.kernel.mirror);
    // Only Services with a failure are looked at, so that the cost follows the failures.
    let concerned = syncer.work.failing().flat_map(|task| fronts_without(task, mirror));
    let services: BTreeSet<&ServiceName> = concerned.filter_map(|front| desired.service_of(&front)).collect();
    let is_unserved = |name: &&ServiceName| !desired.fronts_of(name).any(|want| reaches(mirror, &want.front));
    services.into_iter().filter(is_unserved).count()
}

/// Fronts that cannot be reached because of a failure.
fn fronts_without(failing: &Task, mirror: &Mirror) -> Vec<Front> {
    match failing {
        Task::Compare(Subject::Front(front)) if !reaches(mirror, front) => vec![*front],
        Task::Compare(Subject::Vip(vip)) if !mirror.reaches(vip) => mirror.fronts_on(*vip).collect(),
        Task::Compare(Subject::Steering(family)) => {
            let of_family = mirror.steered.iter().filter(|vip| IpFamily::of(**vip) == *family);
            of_family.filter(|vip| !mirror.reaches(vip)).flat_map(|vip| mirror.fronts_on(*vip)).collect()
        }
        _ => Vec::new(),
    }
}

fn reaches(mirror: &Mirror, front: &Front) -> bool {
    mirror.server(front).is_some() && front.vip().is_none_or(|vip| mirror.reaches(&vip))
}
