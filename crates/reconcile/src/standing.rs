//! How far the kernel is behind the objects, for health checks.

use std::collections::BTreeSet;

use lb_types::{ServiceName, VirtualServerId};

use crate::{Reconciler, retry::Subject};

/// How far the kernel is behind the objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What changes wait for, if any wait.
    pub waits_for: Option<Wait>,
    /// Services that have no virtual server that can be reached, because the kernel refuses it.
    pub unserved: usize,
    /// Whether those are more than half of all Services.
    pub most_unserved: bool,
    /// Objects whose last write the kernel refused; they are tried again.
    pub refused: usize,
}

/// What changes wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// The first programming of everything.
    Start,
    /// Their turn.
    Turn,
    /// The link or the chains, which the kernel refuses.
    Base,
    /// IPVS, which answers no call.
    Ipvs,
}

impl Wait {
    /// A code for health checks.
    pub const fn as_str(self) -> &'static str {
        match self {
            Wait::Start => "first-programming",
            Wait::Turn => "changes-wait",
            Wait::Base => "link-or-chains-refused",
            Wait::Ipvs => "ipvs-fails",
        }
    }
}

impl Reconciler {
    /// How far the kernel is behind the objects. Before all objects are known, nothing waits.
    ///
    /// Costs as much as has failed.
    pub fn standing(&self) -> Standing {
        if !self.model.is_synced() {
            return Standing::default();
        }
        let unserved = self.unserved();
        let most_unserved = unserved > 0 && unserved * 2 > self.desired.services().count();
        let refused = self.retry.failing().filter(|subject| subject.is_object()).count();
        Standing { waits_for: self.waits_for(), unserved, most_unserved, refused }
    }

    fn waits_for(&self) -> Option<Wait> {
        if !self.is_planned() {
            Some(Wait::Start)
        } else if self.retry.is_failing(&Subject::Base) || !self.waiting.is_empty() {
            Some(Wait::Base)
        } else if self.ipvs_fails && self.retry.len() > 0 {
            Some(Wait::Ipvs)
        } else if !self.is_running() {
            Some(Wait::Start)
        } else {
            self.has_backlog().then_some(Wait::Turn)
        }
    }

    /// Services all of whose virtual servers the kernel refuses, or the routes of their VIPs.
    fn unserved(&self) -> usize {
        let concerned = self.retry.failing().flat_map(|subject| self.servers_without(subject));
        let services: BTreeSet<&ServiceName> =
            concerned.filter_map(|vs| self.desired.service_of(&vs)).collect();
        let is_unserved = |name: &&ServiceName| !self.desired.servers_of(name).any(|s| self.reaches(&s.vs));
        services.into_iter().filter(is_unserved).count()
    }

    /// Virtual servers that cannot be reached because of a failure.
    fn servers_without(&self, failing: &Subject) -> Vec<VirtualServerId> {
        match failing {
            Subject::Server(vs) => Some(*vs).filter(|vs| !self.reaches(vs)).into_iter().collect(),
            Subject::Vip(vip) if !self.mirror.routes.contains_key(vip) => {
                self.mirror.servers_on(*vip).copied().collect()
            }
            _ => Vec::new(),
        }
    }

    fn reaches(&self, vs: &VirtualServerId) -> bool {
        self.mirror.servers.contains_key(vs)
            && vs.vip_port().is_none_or(|port| self.mirror.routes.contains_key(&port.addr))
    }
}
