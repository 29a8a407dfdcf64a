//! Schedulers of the kernel: the loop asks about each once for all Services, before a write names it.
//!
//! A write that names a scheduler whose module is missing makes the kernel run modprobe under the lock of all
//! IPVS tables. So the loop sends none: it knows what is missing, and the audit asks again, ever more rarely.

use std::{collections::BTreeMap, time::Duration};

use drain::{Backoff, Time};
use lb_types::{FastSet, Scheduler};
use planner::{PlannerConfig, default_scheduler, default_schedulers, hashing_schedulers};
use service_model::Service;
use tracing::{error, info, warn};

use crate::{intents::Intents, kernel::Kernel, problems::chain};

/// Pauses between questions about a missing scheduler.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(30), longest: Duration::from_secs(15 * 60) };

/// Answers of the kernel about its schedulers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Schedulers {
    /// Schedulers that it has, or could not be asked about.
    found: FastSet<Scheduler>,
    /// Schedulers that it lacks, which are [`PlannerConfig::unavailable_schedulers`].
    missing: BTreeMap<Scheduler, Missing>,
}

#[derive(Clone, Copy, Debug)]
struct Missing {
    /// Number of such answers in a row.
    answers: u32,
    /// Time of the next question.
    due: Time,
}

impl Schedulers {
    /// Finds the scheduler of Services that name none: the configured one, or else the first that can be had.
    pub(crate) fn find_default(&mut self, config: &mut PlannerConfig, kernel: &mut Kernel, now: Time) {
        let configured = config.scheduler;
        match self.choose_default(config, kernel, now) {
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

    fn choose_default(
        &mut self,
        config: &mut PlannerConfig,
        kernel: &mut Kernel,
        now: Time,
    ) -> Option<Scheduler> {
        default_schedulers(config.scheduler).find(|scheduler| self.find(*scheduler, config, kernel, now))
    }

    /// Finds the scheduler that a Service names and may have.
    pub(crate) fn find_named(
        &mut self,
        service: &Service,
        config: &mut PlannerConfig,
        kernel: &mut Kernel,
        now: Time,
    ) {
        let hashing = hashing_schedulers(service);
        let are_missing = hashing.iter().all(|name| config.unavailable_schedulers.contains(name));
        if !are_missing && !hashing.iter().any(|name| self.find(*name, config, kernel, now)) {
            warn!(
                "the kernel has no scheduler that hashes addresses: no Service has session affinity at node ports, or \
                 for clients outside under a Local policy; {}",
                remedy(hashing[0])
            );
        }
        let Some(named) = config.named_scheduler(service) else { return };
        let is_known = self.found.contains(&named) || config.unavailable_schedulers.contains(&named);
        if !is_known && !self.find(named, config, kernel, now) {
            let default = default_scheduler(config);
            warn!(
                "the kernel has no scheduler {named}: Services that name it get {default}; {}",
                remedy(named)
            );
        }
    }

    /// Tells whether the kernel has a scheduler; asks unless the answer is known.
    fn find(
        &mut self,
        scheduler: Scheduler,
        config: &mut PlannerConfig,
        kernel: &mut Kernel,
        now: Time,
    ) -> bool {
        if self.found.contains(&scheduler) || config.unavailable_schedulers.contains(&scheduler) {
            return self.found.contains(&scheduler);
        }
        // A scheduler that some virtual server uses needs no question, so that a restart sends nothing that
        // has the form of a write. Where the kernel gives no answer, it is believed to have the scheduler: a
        // write will show it.
        let in_use = kernel.mirror.servers.values().any(|server| server.settings.scheduler == scheduler);
        let is_found = in_use || ask(scheduler, kernel).unwrap_or(true);
        if is_found {
            self.found.insert(scheduler);
        } else {
            self.note_missing(scheduler, config, now);
        }
        is_found
    }

    fn note_missing(&mut self, scheduler: Scheduler, config: &mut PlannerConfig, now: Time) {
        self.found.remove(&scheduler);
        let answers = self.missing.get(&scheduler).map_or(1, |missing| missing.answers.saturating_add(1));
        self.missing.insert(scheduler, Missing { answers, due: now + BACKOFF.delay(answers) });
        config.unavailable_schedulers.insert(scheduler);
    }

    /// Asks about the missing schedulers that are due, and takes those that the kernel has now.
    fn take_returned(
        &mut self,
        config: &mut PlannerConfig,
        kernel: &mut Kernel,
        now: Time,
    ) -> Vec<Scheduler> {
        let due = self.missing.iter().filter(|(_, missing)| missing.due <= now);
        let due: Vec<_> = due.map(|(scheduler, _)| *scheduler).collect();
        let mut returned = Vec::new();
        for scheduler in due {
            // Without an answer, a write will show it.
            if ask(scheduler, kernel).unwrap_or(true) {
                self.missing.remove(&scheduler);
                self.found.insert(scheduler);
                config.unavailable_schedulers.remove(&scheduler);
                returned.push(scheduler);
            } else {
                self.note_missing(scheduler, config, now);
            }
        }
        returned
    }
}

impl Intents {
    /// Notes that a scheduler is gone, as a write has shown: its module was unloaded.
    pub(crate) fn lose_scheduler(&mut self, scheduler: Scheduler, kernel: &mut Kernel, now: Time) {
        if self.config.unavailable_schedulers.contains(&scheduler) {
            return;
        }
        self.schedulers.note_missing(scheduler, &mut self.config, now);
        self.schedulers.choose_default(&mut self.config, kernel, now);
        let default = default_scheduler(&self.config);
        warn!(
            "the kernel has lost scheduler {scheduler}: Services get {default} instead; {}",
            remedy(scheduler)
        );
        self.plan_again(scheduler);
    }

    /// Asks again about missing schedulers that are due: a module may have been loaded or installed
    /// meanwhile.
    pub(crate) fn look_for_schedulers(&mut self, kernel: &mut Kernel, now: Time) {
        for scheduler in self.schedulers.take_returned(&mut self.config, kernel, now) {
            info!("the kernel has scheduler {scheduler} now: Services that are to have it get it");
            self.plan_again(scheduler);
        }
    }

    /// Marks the Services whose virtual servers may get another scheduler, now that one has come or gone.
    fn plan_again(&mut self, changed: Scheduler) {
        let config = self.config.clone();
        let is_default = default_schedulers(config.scheduler).any(|name| name == changed);
        self.mark_dirty(|service| {
            hashing_schedulers(service).contains(&changed)
                || match config.named_scheduler(service) {
                    Some(named) => {
                        named == changed || is_default && config.unavailable_schedulers.contains(&named)
                    }
                    None => is_default,
                }
        });
    }
}

/// Asks the kernel whether it has a scheduler; `None` if it gives no answer.
fn ask(scheduler: Scheduler, kernel: &mut Kernel) -> Option<bool> {
    let answer = kernel.tables.ipvs.has_scheduler(scheduler);
    answer.inspect_err(|error| warn!("{}", chain(error))).ok()
}

/// Remedy for a missing scheduler.
fn remedy(scheduler: Scheduler) -> String {
    format!(
        "load its module (modprobe ip_vs_{scheduler}), which distributions may have in a package of its own such as \
         linux-modules-extra or kernel-modules-extra; the kernel is asked again"
    )
}
