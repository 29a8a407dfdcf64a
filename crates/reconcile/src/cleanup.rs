//! Removing everything that is ours, for `kube-ipvs cleanup`.

use dataplane::{ErrorKind, TableError};
use drain::Time;
use planner::{Mirror, Plan, Touch};

use crate::{Reconciler, Report};

/// What a cleanup did.
#[derive(Debug)]
pub struct Cleanup {
    /// What it wrote, or tried to.
    pub plan: Plan,
    /// What became of that.
    pub report: Report,
    /// Tables that could not be read: what is ours in them stays.
    pub unread: Vec<TableError>,
}

impl Reconciler {
    /// Removes everything that is ours, of each table by itself: one that cannot be read does not keep the others.
    ///
    /// A table that the kernel does not have holds nothing of ours, and is no failure.
    pub fn cleanup(&mut self) -> Cleanup {
        let mut mirror = Mirror::default();
        let servers = self.adopt_servers(&mut mirror);
        let vips = self.adopt_vips(&mut mirror);
        let rules = self.adopt_rules(&mut mirror);
        let mut plan = planner::cleanup(&mirror, &self.config.ownership);
        // The table names the virtual servers that are ours: without it, those that could not be read now would stay
        // for ever.
        if rules.is_err() || servers.as_ref().is_err_and(|error| error.kind != ErrorKind::NotSupported) {
            plan.rules_remove.clear();
        }
        self.mirror = mirror;
        let mut report = Report::default();
        self.apply(&plan, &Touch::default(), Time::ZERO, &mut report);
        let failures = [servers, vips, rules].into_iter().filter_map(Result::err);
        let unread = failures.filter(|error| error.kind != ErrorKind::NotSupported).collect();
        Cleanup { plan, report, unread }
    }
}
