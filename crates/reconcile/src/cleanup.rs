//! Removal of everything that is ours, for `kube-ipvs cleanup`.

use dataplane::{ErrorKind, TableError};
use drain::Time;
use planner::{Dirty, Plan};
use tracing::info;

use crate::{Reconciler, Report, kernel::Findings};

/// Result of a cleanup.
#[derive(Debug)]
pub struct Cleanup {
    /// Writes that it executed or tried.
    pub plan: Plan,
    /// Counts of what became of them.
    pub report: Report,
    /// Tables that could not be read: what is ours in them stays.
    pub unread: Vec<TableError>,
}

impl Reconciler {
    /// Removes everything that is ours, from each table by itself: one that cannot be read does not keep the
    /// others.
    ///
    /// A table that the kernel does not have holds nothing of ours, and is no failure. Where kube-ipvs has never run,
    /// the link and the virtual servers are those of a kube-proxy at work, whatever their names and addresses.
    pub fn cleanup(&mut self) -> Cleanup {
        let mut findings = Findings::default();
        let servers = self.syncer.kernel.adopt_servers();
        let vips = self.syncer.kernel.observe_vips(&mut findings).map(drop);
        self.syncer.intents.refresh_layout();
        let rules = self.syncer.kernel.observe_rules(&self.syncer.intents.config.layout, &mut findings);
        let mut report = Report::default();
        let mirror = &self.syncer.kernel.mirror;
        let has_routes = !(mirror.routes.is_empty() && mirror.steered.is_empty() && mirror.rules.is_empty());
        let has_no_table = match &rules {
            Ok(exists) => !exists,
            // Without nf_tables kube-ipvs cannot have run.
            Err(error) => error.kind == ErrorKind::NotSupported,
        };
        if has_no_table && vips.is_ok() && !has_routes {
            info!("kube-ipvs has left nothing here; what kube-proxy may have stays");
            return Cleanup { plan: Plan::default(), report, unread: Vec::new() };
        }
        let mut plan = planner::cleanup(&self.syncer.kernel.mirror, &self.syncer.intents.ownership);
        self.syncer.execute(&plan, Dirty::default(), Time::ZERO, &mut report);
        // The table names the virtual servers that are ours: without it, those that could not be read or
        // deleted now would stay for ever.
        if rules.is_ok() && servers.as_ref().err().is_none_or(|error| error.kind == ErrorKind::NotSupported) {
            let rules = planner::cleanup_rules(&self.syncer.kernel.mirror, &self.syncer.intents.ownership);
            self.syncer.execute(&rules, Dirty::default(), Time::ZERO, &mut report);
            plan.append(rules);
        }
        let failures = [servers, vips, rules.map(drop)].into_iter().filter_map(Result::err);
        let unread = failures.filter(|error| error.kind != ErrorKind::NotSupported).collect();
        Cleanup { plan, report, unread }
    }
}
