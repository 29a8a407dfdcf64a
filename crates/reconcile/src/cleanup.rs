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
        self.mirror = mirror;
        let mut report = Report::default();
        let mut plan = planner::cleanup(&self.mirror, &self.config.ownership);
        self.apply(&plan, &Touch::default(), Time::ZERO, &mut report);
        // The table names the virtual servers that are ours: without it, those that could not be read or deleted now
        // would stay for ever.
        if rules.is_ok() && servers.as_ref().err().is_none_or(|error| error.kind == ErrorKind::NotSupported) {
            let rules = planner::cleanup_rules(&self.mirror, &self.config.ownership);
            self.apply(&rules, &Touch::default(), Time::ZERO, &mut report);
            plan.rules_remove = rules.rules_remove;
        }
        let failures = [servers, vips, rules].into_iter().filter_map(Result::err);
        let unread = failures.filter(|error| error.kind != ErrorKind::NotSupported).collect();
        Cleanup { plan, report, unread }
    }
}
