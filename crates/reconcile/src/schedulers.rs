//! Schedulers of the kernel: asked about once for all Services, before a write names them.
//!
//! A write that names a scheduler whose module is missing makes the kernel run modprobe under the lock of all IPVS
//! tables. So none is sent: what is missing is known, and asked about again by the audit, ever more rarely.

use std::{collections::BTreeMap, time::Duration};

use drain::Time;
use lb_types::{FastSet, Scheduler, ServiceName};
use planner::{default_scheduler, default_schedulers};
use service_model::Service;
use tracing::{error, info, warn};

use crate::{Reconciler, adopt::chain};

/// How long a missing scheduler is not asked about; doubled with every time that it is still missing.
const FIRST_WAIT: Duration = Duration::from_secs(30);
const LONGEST_WAIT: Duration = Duration::from_secs(15 * 60);

/// What the kernel has told of its schedulers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schedulers {
    /// It has these, or could not be asked.
    found: FastSet<Scheduler>,
    /// It lacks these; the same as [`planner::PlannerConfig::unavailable_schedulers`].
    missing: BTreeMap<Scheduler, Missing>,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    /// Time between the last question and the next.
    wait: Duration,
    /// The kernel is asked again then.
    due: Time,
}

impl Schedulers {
    /// Those that the kernel lacks, of those that anybody has asked for.
    pub(crate) fn missing(&self) -> impl Iterator<Item = Scheduler> {
        self.missing.keys().copied()
    }

    /// Whether the kernel lacks a scheduler.
    pub(crate) fn lack(&self, scheduler: Scheduler) -> bool {
        self.missing.contains_key(&scheduler)
    }
}

impl Reconciler {
    /// Finds the scheduler of Services that name none: the configured one, or else the first that can be had.
    pub(crate) fn find_default_scheduler(&mut self, now: Time) {
        let configured = self.config.planner.scheduler;
        match self.choose_default(now) {
            Some(scheduler) if scheduler == configured => {}
            Some(scheduler) => warn!(
                "the kernel has no scheduler {configured} (--ipvs-scheduler): Services get {scheduler} instead; \
                 {}",
                remedy(configured)
            ),
            None => error!(
                "the kernel has no scheduler at all, neither {configured} (--ipvs-scheduler) nor any other: no \
                 Service can be served; {}",
                remedy(configured)
            ),
        }
    }

    fn choose_default(&mut self, now: Time) -> Option<Scheduler> {
        default_schedulers(self.config.planner.scheduler)
            .find(|scheduler| self.find_scheduler(*scheduler, now))
    }

    /// Finds the scheduler that a Service names and may have.
    pub(crate) fn find_named_scheduler(&mut self, service: &ServiceName, now: Time) {
        let named =
            self.model.service(service).and_then(|service| self.config.planner.named_scheduler(service));
        let Some(named) = named.filter(|named| !self.is_known(named)) else { return };
        if !self.find_scheduler(named, now) {
            let default = default_scheduler(&self.config.planner);
            warn!(
                "the kernel has no scheduler {named}: Services that name it get {default}; {}",
                remedy(named)
            );
        }
    }

    /// Whether the kernel has a scheduler; asks unless the answer is known.
    fn find_scheduler(&mut self, scheduler: Scheduler, now: Time) -> bool {
        if self.is_known(&scheduler) {
            return self.schedulers.found.contains(&scheduler);
        }
        // What a virtual server has needs no question, so that a restart sends nothing that is a write by its form. A
        // kernel that gives no answer is believed to have it: a write will tell.
        let in_use = self.mirror.servers.values().any(|server| server.settings.scheduler == scheduler);
        let found = in_use || self.ask(scheduler).unwrap_or(true);
        match found {
            true => _ = self.schedulers.found.insert(scheduler),
            false => self.lacks(scheduler, FIRST_WAIT, now),
        }
        found
    }

    fn is_known(&self, scheduler: &Scheduler) -> bool {
        self.schedulers.found.contains(scheduler) || self.schedulers.missing.contains_key(scheduler)
    }

    /// The kernel's answer; `None` if there is none.
    fn ask(&mut self, scheduler: Scheduler) -> Option<bool> {
        let answer = self.tables.ipvs.has_scheduler(scheduler);
        answer.inspect_err(|error| warn!("{}", chain(error))).ok()
    }

    fn lacks(&mut self, scheduler: Scheduler, wait: Duration, now: Time) {
        self.schedulers.found.remove(&scheduler);
        self.schedulers.missing.insert(scheduler, Missing { wait, due: now + wait });
        self.config.planner.unavailable_schedulers.insert(scheduler);
    }

    /// A write has shown that a scheduler is gone which was there: its module was unloaded.
    pub(crate) fn scheduler_refused(&mut self, scheduler: Scheduler, now: Time) {
        if self.schedulers.missing.contains_key(&scheduler) {
            return;
        }
        self.lacks(scheduler, FIRST_WAIT, now);
        self.choose_default(now);
        let default = default_scheduler(&self.config.planner);
        warn!(
            "the kernel has lost scheduler {scheduler}: Services get {default} instead; {}",
            remedy(scheduler)
        );
        self.plan_again(scheduler);
    }

    /// Asks again about what is missing and due: a module may have been loaded or installed meanwhile.
    pub(crate) fn look_for_schedulers(&mut self, now: Time) {
        let due = |(scheduler, missing): (&Scheduler, &Missing)| {
            (missing.due <= now).then_some((*scheduler, missing.wait))
        };
        let due: Vec<_> = self.schedulers.missing.iter().filter_map(due).collect();
        for (scheduler, wait) in due {
            // As above: without an answer a write will tell.
            if !self.ask(scheduler).unwrap_or(true) {
                self.lacks(scheduler, (wait * 2).min(LONGEST_WAIT), now);
                continue;
            }
            info!("the kernel has scheduler {scheduler} now: Services that are to have it get it");
            self.schedulers.missing.remove(&scheduler);
            self.schedulers.found.insert(scheduler);
            self.config.planner.unavailable_schedulers.remove(&scheduler);
            self.plan_again(scheduler);
        }
    }

    /// Plans the Services again whose virtual servers may have another scheduler now that one has come or gone.
    fn plan_again(&mut self, changed: Scheduler) {
        let is_default = default_schedulers(self.config.planner.scheduler).any(|name| name == changed);
        let unavailable = &self.config.planner.unavailable_schedulers;
        let concerned = |service: &&Service| match self.config.planner.named_scheduler(service) {
            Some(named) => named == changed || is_default && unavailable.contains(&named),
            None => is_default,
        };
        let names: Vec<_> =
            self.model.services().filter(concerned).map(|service| service.name.clone()).collect();
        names.into_iter().for_each(|name| self.model.mark_dirty(name));
    }
}

/// What an operator can do about a missing scheduler.
fn remedy(scheduler: Scheduler) -> String {
    format!(
        "load its module (modprobe ip_vs_{scheduler}), which distributions may have in a package of its own such as \
         linux-modules-extra or kernel-modules-extra; the kernel is asked again"
    )
}
