//! The loop itself: it decides what is due, and in which turn.
//!
//! [`Reconciler`] owns the order of things, and nothing besides: dumps, comparison and writes are the
//! [`Syncer`]'s. It never reads a clock, blocks, or starts a thread: the time is an argument of every step.
//!
//! Reading order: [`Event`], [`Reconciler::handle`], [`Reconciler::step`] with the three turns, then
//! `plan_changes`: dump what is in doubt, plan dirty Services, compare and write ([`Syncer::settle`]).
//! [`Reconciler::next_wakeup`] and [`Reconciler::charge`] are how the driver learns when to call again, and
//! reports what a step took.

use std::{sync::Arc, time::Duration};

use dataplane::{TableError, Tables, Touched};
use drain::{Drain, Key, Ledger, Record, Time, WaitsFor};
use lb_types::{ServiceName, TrafficCounters};
use planner::{Changes, Desired, Dirty, Mirror, NodeFacts, Plan, Subject, default_scheduler};
use service_model::{ModelEvent, ServiceModel};

use crate::{
    Config, NewProblem, NodeFinding, Report, ServiceProblem, Shortfalls, Step, TableName, Totals,
    audit::Audit,
    drains::View,
    executor::fail_base,
    intents::{Intents, Portion},
    kernel::Findings,
    syncer::{Scope, Syncer},
    traffic::ServiceTraffic,
    work::{Table, Task},
};

/// Services planned in one go; the bound on how long an event can wait behind a large backlog.
const SERVICES_PER_STEP: usize = 1024;

/// Input of the loop from outside.
#[expect(clippy::large_enum_variant, reason = "nearly all are objects, and each is moved once")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Objects of the API changed.
    Model(ModelEvent),
    /// Somebody else wrote to a table of the kernel.
    Touched(Touched),
}

/// State of the loop, for reports.
#[derive(Clone, Copy)]
pub struct State<'a> {
    /// Objects of the API.
    pub model: &'a ServiceModel,
    /// Facts about the node.
    pub facts: &'a NodeFacts,
    /// Intents of all Services.
    pub desired: &'a Desired,
    /// Copy of what the kernel holds.
    pub mirror: &'a Mirror,
    /// Real servers on their way out.
    pub drains: &'a Ledger,
}

/// The loop with all that it knows; one thread owns it and, through it, the kernel tables.
pub struct Reconciler {
    /// Period of the audit.
    sync_period: Duration,
    /// Least distance between two plans of changed Services.
    min_sync_period: Duration,
    pub(crate) syncer: Syncer,
    pub(crate) audit: Audit,
    /// Services planned in one go: [`SERVICES_PER_STEP`], and fewer in tests.
    pub(crate) services_per_step: usize,
    /// Time of the last planning of changed Services.
    planned: Option<Time>,
    phase: Phase,
    /// Turn of the last step.
    turn: Turn,
    /// True if everything has been written once, except for single objects that the kernel refuses.
    programmed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Nothing has been dumped yet.
    Unknown,
    /// The mirror is filled; some Services have not been planned yet.
    Starting,
    /// Everything has been planned once, and leftovers have been compared.
    Running,
}

/// Purpose of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// Slice of the audit.
    Audit,
    /// Polls of some drains.
    Polls,
    /// Everything else: changes, retries, and the findings of audit and polls.
    Changes,
}

impl Turn {
    /// Order in which the next step looks for something due: the turn that was just taken comes last.
    const fn next(self) -> [Turn; 3] {
        match self {
            Turn::Changes => [Turn::Audit, Turn::Polls, Turn::Changes],
            Turn::Audit => [Turn::Polls, Turn::Changes, Turn::Audit],
            Turn::Polls => [Turn::Changes, Turn::Audit, Turn::Polls],
        }
    }
}

impl Reconciler {
    /// Creates a loop that knows nothing yet.
    pub fn new(config: Config, tables: Tables) -> Self {
        Reconciler {
            sync_period: config.sync_period,
            min_sync_period: config.min_sync_period,
            syncer: Syncer::new(config, tables),
            audit: Audit::default(),
            services_per_step: SERVICES_PER_STEP,
            planned: None,
            phase: Phase::Unknown,
            turn: Turn::Changes,
            programmed: false,
        }
    }

    /// Takes an event in; cheap, and writes nothing.
    pub fn handle(&mut self, event: Event) {
        match event {
            Event::Model(event) => self.syncer.intents.take(event),
            Event::Touched(table) => self.syncer.work.doubt(Table::from(table), Time::ZERO),
        }
    }

    /// Does what is due: a slice of the audit, or some polls of drains, or everything else (dirty Services,
    /// retries). The three take turns, so that none waits for more than two steps of the others.
    ///
    /// The caller passes the processor time that the step took to [`Reconciler::charge`]; that keeps audit
    /// and polls to their shares of a core.
    pub fn step(&mut self, now: Time) -> Report {
        let mut report = Report::default();
        if !self.syncer.intents.model.is_synced() || !self.adopted(now, &mut report) {
            return report;
        }
        let is_due = |turn: &Turn| self.due(*turn, now).is_some_and(|due| due <= now);
        let Some(turn) = self.turn.next().into_iter().find(is_due) else { return report };
        self.turn = turn;
        report.step = match turn {
            Turn::Audit => Step::Audit(self.audit.compare_next(&mut self.syncer, now, &mut report)),
            Turn::Polls => Step::Polls(self.syncer.poll_some(now, &mut report)),
            Turn::Changes => self.plan_changes(now, &mut report),
        };
        report
    }

    /// Time at which a turn has something to do; `None` if that takes an event.
    fn due(&self, turn: Turn, now: Time) -> Option<Time> {
        let running = self.phase == Phase::Running;
        match turn {
            Turn::Audit => running.then(|| now.max(self.audit.next_due())),
            Turn::Polls => self.syncer.drains.ledger.next_poll().filter(|_| running),
            Turn::Changes => self.next_change(now),
        }
    }

    /// Time at which there is something to do besides audit and polls.
    fn next_change(&self, now: Time) -> Option<Time> {
        let Intents { model, listeners, .. } = &self.syncer.intents;
        let at_once = match self.phase {
            // Nothing else can be done before the first dumps.
            Phase::Unknown => return Some(self.syncer.work.due(Subject::Base).unwrap_or(now)),
            Phase::Starting => true,
            Phase::Running => model.has_node_changed() || self.syncer.intents.has_new_cidrs(),
        };
        // Services are planned no sooner than the configured distance allows; a walk over tracked connections
        // waits for its own rest.
        let is_dirty = model.listings().have_changed() || self.syncer.intents.has_backlog();
        let changes = (self.phase == Phase::Running && is_dirty).then(|| now.max(self.earliest_plan()));
        let deletions = self.syncer.deletions.due(&self.syncer.kernel.mirror, &self.syncer.work);
        let listeners = listeners.due().filter(|_| self.phase == Phase::Running).map(|due| due.max(now));
        let release = self.syncer.drains.ledger.next_release();
        let dues =
            [at_once.then_some(now), changes, deletions, listeners, release, self.syncer.work.next_due()];
        dues.into_iter().flatten().min()
    }

    /// Time at which [`Reconciler::step`] has something to do even without an event; `None` before the input
    /// is complete.
    pub fn next_wakeup(&self, now: Time) -> Option<Time> {
        if !self.syncer.intents.model.is_synced() {
            return None;
        }
        self.turn.next().into_iter().filter_map(|turn| self.due(turn, now)).min()
    }

    /// Accounts for the processor time of a step, which ended at `now`. After a slice of the audit the next
    /// one waits until the time is paid off; after polls of drains the next ones are as far away as the time
    /// demands. The delays of what has failed in the step count from `now`.
    pub fn charge(&mut self, step: Step, took: Duration, now: Time) {
        self.syncer.work.end_step(now);
        match step {
            Step::Idle => {}
            Step::Audit(part) => self.audit.charge(part, took, now, &self.syncer.kernel.mirror),
            Step::Polls(count) => {
                self.syncer.drains.ledger.polls_took(u32::try_from(count).unwrap_or(u32::MAX), took);
            }
            Step::Changes { dumped, walked } => {
                if dumped {
                    self.syncer.work.charge_dumps(took, now);
                }
                if walked {
                    self.syncer.deletions.charge(took, now);
                }
            }
        }
    }

    /// Does everything but audit and polls.
    fn plan_changes(&mut self, now: Time, report: &mut Report) -> Step {
        let mut findings = Findings { drift: std::mem::take(&mut self.syncer.drift), ..Findings::default() };
        let dumped = self.syncer.dump_due(now, &mut findings, report);
        report.drift += findings.drift;
        self.syncer.doubt(&findings, now);
        let mut dirty = findings.dirty;
        if self.syncer.intents.refresh_ownership() {
            // What lies in a new prefix is compared by the next audit.
            self.audit.request();
        }
        self.syncer.intents.refresh_node(&mut self.syncer.kernel.mirror, &mut dirty);
        let released = self.syncer.drains.ledger.take_released(now);
        dirty.extend(released.into_iter().map(Subject::Front));
        dirty.extend(self.syncer.work.take_due(now, self.syncer.may_try_base(now)));
        self.syncer.intents.recheck_listeners(&mut self.syncer.kernel, now);
        self.desire_some(now, &mut dirty, report);
        self.syncer.observe_sysctls_for_ipv6(now, &mut dirty);
        let scope = if self.phase == Phase::Running { Scope::All } else { Scope::Desired };
        self.syncer.settle(now, dirty, scope, report);
        self.syncer.note_planned(report);
        self.note_programmed(now, report);
        let Syncer { deletions, kernel, work, .. } = &mut self.syncer;
        let walked = deletions.delete(kernel, work, now, report);
        Step::Changes { dumped, walked }
    }

    /// Plans as many dirty Services as one step takes.
    fn desire_some(&mut self, now: Time, dirty: &mut Dirty, report: &mut Report) {
        let starting = self.phase == Phase::Starting;
        if !starting && now < self.earliest_plan() {
            return;
        }
        let mut changes = Changes::default();
        let portion = Portion { most: self.services_per_step, critical_first: starting };
        let count = self.syncer.intents.desire_some(portion, &mut self.syncer.kernel, now, &mut changes);
        let Changes { dirty: changed, vacated, configured } = changes;
        dirty.extend(changed);
        for front in configured {
            self.syncer.drains.ledger.configure(
                front,
                self.syncer.intents.desired.drain_overrides(&front),
                now,
            );
        }
        self.syncer.drains.revise(
            vacated,
            View::new(&self.syncer.intents, &self.syncer.kernel.mirror, now),
            dirty,
        );
        report.services += count;
        if count > 0 {
            self.planned = Some(now);
        }
        if self.syncer.intents.has_backlog() {
            return;
        }
        self.syncer.intents.model.forget_changes();
        if starting {
            let Syncer { intents: Intents { desired, facts, .. }, kernel, .. } = &self.syncer;
            dirty.extend(Dirty::leftovers(desired, &kernel.mirror, facts));
            self.phase = Phase::Running;
            self.audit.schedule(now, self.sync_period);
        }
    }

    /// Earliest time for planning changed Services: at once, unless a minimal distance between syncs is
    /// configured.
    fn earliest_plan(&self) -> Time {
        self.planned.map_or(Time::ZERO, |planned| planned + self.min_sync_period)
    }

    /// Notes when the first programming is complete: all of it has been tried with the link and the chains in
    /// place. What the kernel refuses of single Services even then must not keep the node from being ready.
    fn note_programmed(&mut self, now: Time, report: &mut Report) {
        let has_base = self.syncer.kernel.has_base() && !self.syncer.work.awaits_base();
        let is_tried = self.phase == Phase::Running && has_base && !self.syncer.work.has_failed_call();
        if is_tried && !self.programmed && !self.syncer.work.is_failing(Subject::Base) {
            self.programmed = true;
            report.completed_start = true;
            self.syncer.report_lost_marks();
            for front in self.syncer.superseded() {
                self.syncer.work.request(Subject::Front(front), now);
            }
            self.syncer
                .deletions
                .add(&planner::untranslated(&self.syncer.intents.desired, &self.syncer.kernel.mirror));
        }
    }

    /// Dumps the kernel once, before anything is written; returns whether that is done.
    fn adopted(&mut self, now: Time, report: &mut Report) -> bool {
        if self.phase != Phase::Unknown {
            return true;
        }
        if !self.syncer.may_try_base(now) {
            return false;
        }
        if let Err(error) = self.syncer.adopt(now, report) {
            fail_base(&mut self.syncer.work, &error, now);
            return false;
        }
        self.syncer.work.succeed(Subject::Base);
        for key in self.syncer.drains.recorded() {
            self.syncer.kernel.mirror.recover_mark(&key.front, |rs| *rs == key.rs);
        }
        self.syncer.drains.adopt(View::new(&self.syncer.intents, &self.syncer.kernel.mirror, now));
        let Syncer { node_findings, kernel, intents, .. } = &mut self.syncer;
        report.findings |= node_findings.check_forwarding(kernel, intents);
        self.audit.schedule(now, self.sync_period);
        self.phase = Phase::Starting;
        true
    }

    /// Plans everything that a sync would write now; writes nothing.
    pub fn dry_run(&mut self) -> Result<Plan, TableError> {
        self.syncer.adopt(Time::ZERO, &mut Report::default())?;
        let mut dirty = Dirty::default();
        self.syncer.intents.refresh_ownership();
        self.syncer.intents.refresh_node(&mut self.syncer.kernel.mirror, &mut dirty);
        let portion = Portion { most: usize::MAX, critical_first: false };
        let Syncer { intents, kernel, .. } = &mut self.syncer;
        intents.desire_some(portion, kernel, Time::ZERO, &mut Changes::default());
        self.syncer.observe_sysctls(&mut dirty)?;
        dirty.extend(Dirty::all(
            &self.syncer.intents.desired,
            &self.syncer.kernel.mirror,
            &self.syncer.intents.facts,
        ));
        Ok(self.syncer.diff(&dirty))
    }

    /// Takes over the drains of the process before this one; to be called before the first step.
    pub fn restore(&mut self, records: impl IntoIterator<Item = (Key, Record)>) {
        self.syncer.drains.restore(records);
    }

    /// State of the loop: what it has been told, wants, and holds the kernel to have.
    pub fn state(&self) -> State<'_> {
        let Syncer { intents: Intents { model, facts, desired, .. }, kernel, drains, .. } = &self.syncer;
        State { model, facts, desired, mirror: &kernel.mirror, drains: &drains.ledger }
    }

    /// Answers what a real server on its way out waits for.
    pub fn drain_waits_for(&self, key: &Key, drain: &Drain) -> WaitsFor {
        let Syncer { drains, kernel, work, .. } = &self.syncer;
        let reading = drains.ledger.next_reading(&key.front).unwrap_or_default();
        let vs = kernel.mirror.key(&key.front);
        drain.waits_for(reading, || work.obstacle(&key.front, vs.as_ref()))
    }

    /// Takes the problems of Services that have appeared since the last call, each with the UID of its Service.
    /// Services that are gone meanwhile have none.
    pub fn take_new_problems(&mut self) -> Vec<NewProblem> {
        let Intents { problems, model, .. } = &mut self.syncer.intents;
        let with_uid = |problem: ServiceProblem| {
            let uid = Arc::clone(&model.service(problem.service())?.uid);
            Some(NewProblem { uid, problem })
        };
        problems.take_new().into_iter().filter_map(with_uid).collect()
    }

    /// Changes whenever some real servers on their way out may wait for something else.
    pub fn drain_details(&self) -> u64 {
        self.syncer.drains.ledger.details() + self.syncer.work.obstacles()
    }

    /// Objects that a finding about the node concerns at the moment, such as names of chains; none if it does
    /// not hold.
    pub fn node_findings(&self, finding: NodeFinding) -> impl Iterator<Item = &str> {
        self.syncer.node_findings.objects(finding)
    }

    /// Tells whether everything has been programmed at least once, except for single objects that the kernel
    /// refuses.
    pub fn is_running(&self) -> bool {
        self.programmed
    }

    /// Tells whether everything has been planned once.
    pub(crate) fn is_planned(&self) -> bool {
        self.phase == Phase::Running
    }

    /// Tells whether there are changes that [`Reconciler::step`] has not planned yet.
    pub fn has_backlog(&self) -> bool {
        self.syncer.intents.has_backlog()
    }

    /// Traffic by Service, as of the last audit of virtual servers; without a name, that of all others. Nothing unless it
    /// is counted.
    pub fn service_traffic(&self) -> impl Iterator<Item = (Option<&ServiceName>, TrafficCounters)> {
        self.syncer.traffic.iter().flat_map(ServiceTraffic::sums)
    }

    /// Numbers of dumps so far that changes of a table interrupted.
    pub fn dumps_interrupted(&self) -> [(TableName, u64); 4] {
        let Tables { ipvs, vips, rules, conntrack, .. } = &self.syncer.kernel.tables;
        [
            (TableName::Ipvs, ipvs.dumps_interrupted()),
            (TableName::Vips, vips.dumps_interrupted()),
            (TableName::Rules, rules.dumps_interrupted()),
            (TableName::Conntrack, conntrack.dumps_interrupted()),
        ]
    }

    /// Numbers of programmed objects. Costs as much as there are virtual servers.
    pub fn totals(&self) -> Totals {
        let Syncer { intents: Intents { desired, problems, .. }, kernel, work, .. } = &self.syncer;
        let servers = &kernel.mirror.servers;
        Totals {
            services: desired.services().count(),
            virtual_servers: servers.len(),
            real_servers: servers.values().map(|server| server.real_servers.len()).sum(),
            retrying: work.len() + problems.len(),
        }
    }

    /// Shortfalls of the kernel: what it cannot or will not do at the moment.
    pub fn shortfalls(&self) -> Shortfalls {
        let Syncer { intents: Intents { config, .. }, work, .. } = &self.syncer;
        let count = |is_meant: fn(&Subject) -> bool| {
            work.failing().filter(|task| matches!(task, Task::Compare(subject) if is_meant(subject))).count()
        };
        Shortfalls {
            schedulers: config.unavailable_schedulers.iter().copied().collect(),
            no_scheduler: config.unavailable_schedulers.contains(&default_scheduler(config)),
            vips: count(|subject| matches!(subject, Subject::Vip(_))),
            virtual_servers: count(|subject| matches!(subject, Subject::Front(_))),
        }
    }
}
