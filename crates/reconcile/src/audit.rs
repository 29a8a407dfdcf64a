//! The audit: every sync period the kernel is dumped and compared, in slices, so that events never wait behind it.

use std::time::Duration;

use dataplane::TableError;
use drain::Time;
use lb_types::VirtualServerId;
use planner::Touch;
use tracing::warn;

use crate::{Reconciler, Report, adopt::chain};

/// Virtual servers whose real servers are dumped in one step.
const SERVERS_PER_STEP: usize = 128;

/// Where the audit is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Audit {
    next: Time,
    /// Virtual servers still to be dumped in this round.
    queue: Vec<VirtualServerId>,
    requested: bool,
}

impl Audit {
    /// Begins the next round a period from now.
    pub(crate) fn schedule(&mut self, now: Time, period: Duration) {
        self.next = now + period;
        self.requested = false;
    }

    /// Begins the next round as soon as possible: the mirror is not to be trusted.
    pub(crate) fn request(&mut self) {
        self.requested = true;
    }

    pub(crate) fn next_wakeup(&self, now: Time) -> Time {
        if self.queue.is_empty() && !self.requested { self.next } else { now }
    }
}

impl Reconciler {
    /// Does the next slice, if one is due.
    pub(crate) fn audit_slice(&mut self, now: Time, touch: &mut Touch, report: &mut Report) {
        if !self.is_running() || self.audit.next_wakeup(now) > now {
            return;
        }
        let result = match self.audit.queue.is_empty() {
            true => self.begin_audit(now, touch, report),
            false => self.continue_audit(touch, report),
        };
        if let Err(error) = result {
            warn!("audit: {}", chain(&error));
            self.audit.queue.clear();
        }
    }

    /// Compares everything that one dump each can tell.
    fn begin_audit(&mut self, now: Time, touch: &mut Touch, report: &mut Report) -> Result<(), TableError> {
        self.audit.schedule(now, self.config.sync_period);
        self.forgive_schedulers();
        self.write_sysctls(report);
        self.observe_vips(touch, report)?;
        self.observe_rules(touch, report)?;
        self.observe_servers(touch, report)?;
        let ours =
            |vs: &&VirtualServerId| self.desired.server(vs).is_some() || self.config.ownership.owns(vs);
        self.audit.queue = self.mirror.servers.keys().filter(ours).copied().collect();
        self.retire_leftovers(touch);
        Ok(())
    }

    fn continue_audit(&mut self, touch: &mut Touch, report: &mut Report) -> Result<(), TableError> {
        let left = self.audit.queue.len().saturating_sub(SERVERS_PER_STEP);
        let slice = self.audit.queue.split_off(left);
        slice.into_iter().try_for_each(|vs| self.observe_real_servers(vs, touch, report).map(drop))
    }

    /// A module may have been loaded meanwhile: Services get the scheduler that they name tried again.
    fn forgive_schedulers(&mut self) {
        let unavailable = std::mem::take(&mut self.config.planner.unavailable_schedulers);
        if unavailable.is_empty() {
            return;
        }
        let wants = |service: &&service_model::Service| {
            service.settings.scheduler.is_some_and(|name| unavailable.contains(&name))
        };
        let names: Vec<_> = self.model.services().filter(wants).map(|service| service.name.clone()).collect();
        names.into_iter().for_each(|name| self.model.mark_dirty(name));
    }
}
