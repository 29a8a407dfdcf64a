//! The loop itself: it decides what is due, and in which turn.
//!
//! [`Reconciler`] owns one step from events to report, and nothing besides: what Services ask for belongs to
//! [`Intents`], tables and mirror to [`Kernel`], writing to [`Executor`], tasks for later to [`Work`], real
//! servers on their way out to [`Drains`], and the decision about each write to [`planner::diff`]. It never
//! reads a clock, blocks, or starts a thread: the time is an argument of every step.
//!
//! Reading order: [`Event`], [`Reconciler::handle`], [`Reconciler::step`] with the three turns, then
//! `plan_changes`: dump what is in doubt, plan dirty Services, compare and write (`settle`, `execute`).
//! [`Reconciler::next_wakeup`] and [`Reconciler::charge`] are how the driver learns when to call again, and
//! reports what a step took.

use std::time::Duration;

use dataplane::{TableError, Tables, Touched};
use drain::{Drain, Key, Record, Share, Time};
use planner::{Changes, Dirty, Inputs, Plan, Subject, default_scheduler, diff};
use service_model::ModelEvent;
use tracing::{debug, info, warn};

use crate::{
    Config, NodeFinding, Report, Shortfalls, Step, Totals,
    audit::Audit,
    drains::{Drains, View},
    executor::{Executor, fail_base},
    flows::Flows,
    intents::{Intents, Portion},
    kernel::{Findings, Kernel},
    node_findings::{Inspector, NodeFindings},
    problems::chain,
    sysctls::RefusedSysctls,
    work::{Extent, Table, Task, Work},
};

/// Services planned in one go; the bound on how long an event can wait behind a large backlog.
const SERVICES_PER_STEP: usize = 1024;

/// Dumps of tables and of single virtual servers in one step, so that events never wait long.
const DUMPS_PER_STEP: usize = 128;

/// Share of a core for dumps that others make necessary: whoever fights with us over a table gets no more.
const SHARE_OF_DUMPS: Share = Share::one_of(10);

/// Rounds of comparing and writing within one step: a virtual server that has lost its last real server goes
/// in the next round.
const ROUNDS: usize = 3;

/// Healed tasks that one step names in the log; it counts the others.
const HEALED_NAMED: usize = 8;

/// Input of the loop from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Objects of the API changed.
    Model(ModelEvent),
    /// Somebody else wrote to a table of the kernel.
    Touched(Touched),
}

/// State of the loop; one thread owns it and, through it, the kernel tables.
pub struct Reconciler {
    pub(crate) config: Config,
    pub(crate) kernel: Kernel,
    pub(crate) intents: Intents,
    pub(crate) drains: Drains,
    pub(crate) work: Work,
    pub(crate) audit: Audit,
    /// Deletions of tracked connections that are not done.
    pub(crate) flows: Flows,
    pub(crate) node_findings: NodeFindings,
    refused_sysctls: RefusedSysctls,
    /// Objects that audits and polls have found changed, to be reported with the writes that follow.
    drift: usize,
    /// Earliest time for another dump of tables that others have touched.
    dump_rest: Time,
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
            kernel: Kernel::new(tables),
            intents: Intents::new(&config),
            drains: Drains::new(config.drain),
            work: Work::default(),
            audit: Audit::default(),
            flows: Flows::default(),
            node_findings: NodeFindings::default(),
            refused_sysctls: RefusedSysctls::default(),
            drift: 0,
            dump_rest: Time::ZERO,
            services_per_step: SERVICES_PER_STEP,
            planned: None,
            phase: Phase::Unknown,
            turn: Turn::Changes,
            programmed: false,
            config,
        }
    }

    /// Takes an event in; cheap, and writes nothing.
    pub fn handle(&mut self, event: Event) {
        match event {
            Event::Model(event) => self.intents.model.apply(event),
            Event::Touched(table) => _ = self.work.request(Table::from(table), self.dump_rest),
        }
    }

    /// Does what is due: a slice of the audit, or some polls of drains, or everything else (dirty Services,
    /// retries). The three take turns, so that none waits for more than two steps of the others.
    ///
    /// The caller passes the processor time that the step took to [`Reconciler::charge`]; that keeps audit
    /// and polls to their shares of a core.
    pub fn step(&mut self, now: Time) -> Report {
        let mut report = Report::default();
        if !self.intents.model.is_synced() || !self.adopted(now, &mut report) {
            return report;
        }
        let is_due = |turn: &Turn| self.due(*turn, now).is_some_and(|due| due <= now);
        let Some(turn) = self.turn.next().into_iter().find(is_due) else { return report };
        self.turn = turn;
        report.step = match turn {
            Turn::Audit => Step::Audit(self.audit_next(now, &mut report)),
            Turn::Polls => {
                let mut findings = Findings::default();
                let beside = (&self.intents, &self.work);
                let polls =
                    self.drains.poll_some(&mut self.kernel, beside, now, (&mut findings, &mut report));
                self.keep(findings, now);
                Step::Polls(polls)
            }
            Turn::Changes => self.plan_changes(now, &mut report),
        };
        report
    }

    /// Time at which a turn has something to do; `None` if that takes an event.
    fn due(&self, turn: Turn, now: Time) -> Option<Time> {
        let running = self.phase == Phase::Running;
        match turn {
            Turn::Audit => running.then(|| now.max(self.audit.next_due())),
            Turn::Polls => self.drains.ledger.next_poll().filter(|_| running),
            Turn::Changes => self.next_change(now),
        }
    }

    /// Time at which there is something to do besides audit and polls.
    fn next_change(&self, now: Time) -> Option<Time> {
        let Intents { model, listeners, .. } = &self.intents;
        let at_once = match self.phase {
            // Nothing else can be done before the first dumps.
            Phase::Unknown => return Some(self.work.due(Subject::Base).unwrap_or(now)),
            Phase::Starting => true,
            Phase::Running => model.has_node_changed() || self.intents.has_new_cidrs(),
        };
        // Services are planned no sooner than the configured distance allows; a walk over tracked connections
        // waits for its own rest.
        let is_dirty = model.has_changes() || self.intents.has_backlog();
        let changes = (self.phase == Phase::Running && is_dirty).then(|| now.max(self.earliest_plan()));
        let flows = self.flows.due(&self.kernel.mirror, &self.work);
        let listeners = listeners.due().filter(|_| self.phase == Phase::Running).map(|due| due.max(now));
        let release = self.drains.ledger.next_release();
        let dues = [at_once.then_some(now), changes, flows, listeners, release, self.work.next_due()];
        dues.into_iter().flatten().min()
    }

    /// Time at which [`Reconciler::step`] has something to do even without an event; `None` before the input
    /// is complete.
    pub fn next_wakeup(&self, now: Time) -> Option<Time> {
        if !self.intents.model.is_synced() {
            return None;
        }
        self.turn.next().into_iter().filter_map(|turn| self.due(turn, now)).min()
    }

    /// Accounts for the processor time of a step, which ended at `now`. After a slice of the audit the next
    /// one waits until the time is paid off; after polls of drains the next ones are as far away as the time
    /// demands. The delays of what has failed in the step count from `now`.
    pub fn charge(&mut self, step: Step, took: Duration, now: Time) {
        self.work.end_step(now);
        match step {
            Step::Idle => {}
            Step::Audit(part) => self.audit.charge(part, took, now, self.longest_rest()),
            Step::Polls(count) => {
                self.drains.ledger.polls_took(u32::try_from(count).unwrap_or(u32::MAX), took);
            }
            Step::Changes { dumped, walked } => {
                if dumped {
                    self.dump_rest = now + SHARE_OF_DUMPS.pause(took);
                }
                if walked {
                    self.flows.charge(took, now);
                }
            }
        }
    }

    /// Does everything but audit and polls.
    fn plan_changes(&mut self, now: Time, report: &mut Report) -> Step {
        let mut findings = Findings { drift: std::mem::take(&mut self.drift), ..Findings::default() };
        let dumped = self.dump_due(now, &mut findings, report);
        report.drift += findings.drift;
        self.doubt(&findings, now);
        let mut dirty = findings.dirty;
        if self.intents.refresh_ownership() {
            // What lies in a new prefix is compared by the next audit.
            self.audit.request();
        }
        self.intents.refresh_node(&mut self.kernel.mirror, &mut dirty);
        let released = self.drains.ledger.take_released(now);
        dirty.extend(released.into_iter().map(Subject::Front));
        dirty.extend(self.work.take_due(now, self.may_try_base(now)));
        self.intents.recheck_listeners(&mut self.kernel, now);
        self.desire_some(now, &mut dirty, report);
        self.observe_sysctls_for_ipv6(now, &mut dirty);
        self.settle(now, dirty, report);
        self.note_programmed(report);
        let walked = self.flows.delete(&mut self.kernel, &mut self.work, now, report);
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
        let count = self.intents.desire_some(portion, &mut self.kernel, now, &mut changes);
        let Changes { dirty: changed, vacated, configured } = changes;
        dirty.extend(changed);
        for front in configured {
            self.drains.ledger.configure(front, self.intents.desired.drain_overrides(&front), now);
        }
        self.drains.revise(vacated, View::new(&self.intents, &self.kernel.mirror, now), dirty);
        report.services += count;
        if count > 0 {
            self.planned = Some(now);
        }
        if self.intents.has_backlog() {
            return;
        }
        self.intents.model.forget_changes();
        if starting {
            dirty.extend(Dirty::leftovers(&self.intents.desired, &self.kernel.mirror));
            self.phase = Phase::Running;
            self.audit.schedule(now, self.config.sync_period);
        }
    }

    /// Earliest time for planning changed Services: at once, unless a minimal distance between syncs is
    /// configured.
    fn earliest_plan(&self) -> Time {
        self.planned.map_or(Time::ZERO, |planned| planned + self.config.min_sync_period)
    }

    /// Dumps what a notification or a failed write made doubtful; returns whether that included a whole table
    /// that others write to. What cannot be dumped stays in doubt, and keeps nothing else from being dumped.
    fn dump_due(&mut self, now: Time, findings: &mut Findings, report: &mut Report) -> bool {
        if self.phase == Phase::Unknown {
            return false;
        }
        let tables = self.work.due_dumps(now, DUMPS_PER_STEP);
        for table in &tables {
            let result = match table {
                Table::Vips => self.observe_vips(findings, report),
                Table::Rules => self.kernel.observe_rules(&self.intents.config.layout, findings),
                Table::VirtualServers => self.kernel.observe_servers(self.intents.ours(), findings),
                Table::RealServers(vs) => {
                    // For a virtual server that nobody wants, the planner did not know whether it is empty.
                    let front = self.kernel.mirror.front(vs);
                    let unwanted = front.filter(|front| self.intents.desired.front(front).is_none());
                    findings.dirty.extend(unwanted.map(Subject::Front));
                    self.kernel.observe_real_servers(*vs, self.intents.ours(), findings).map(drop)
                }
            };
            match result {
                Ok(()) => _ = self.work.succeed(*table),
                Err(error) => {
                    let reason = chain(&error);
                    if self.work.fail(*table, &reason, Extent::Task, now) {
                        warn!("{reason}; will be tried again");
                    }
                }
            }
        }
        tables.iter().any(|table| matches!(table, Table::Vips | Table::Rules))
    }

    /// Dumps link, routes, addresses and kernel parameters.
    pub(crate) fn observe_vips(
        &mut self,
        findings: &mut Findings,
        report: &mut Report,
    ) -> Result<(), TableError> {
        let sysctls = self.observe_sysctls(&mut findings.dirty);
        let links = self.kernel.observe_vips(findings)?;
        self.intents.replace_addresses(links.addresses, &self.kernel.mirror, &mut findings.dirty);
        self.node_findings.bridges = links.bridges;
        report.findings |= self.inspector().check_bridges();
        sysctls
    }

    fn observe_sysctls(&mut self, dirty: &mut Dirty) -> Result<(), TableError> {
        dirty.insert(Subject::Sysctls);
        self.kernel.observe_sysctls(&self.intents.config.sysctls, self.intents.model.has_ipv6())
    }

    /// Reads the kernel parameters again when the first Service with IPv6 needs more of them.
    fn observe_sysctls_for_ipv6(&mut self, now: Time, dirty: &mut Dirty) {
        let needs_ipv6 = self.intents.model.has_ipv6();
        if needs_ipv6 && !self.kernel.mirror.sysctls.needs_ipv6 && self.observe_sysctls(dirty).is_err() {
            self.work.request(Table::Vips, now);
        }
    }

    /// Keeps what a step of audit or polls has found for the next step of changes.
    pub(crate) fn keep(&mut self, findings: Findings, now: Time) {
        self.doubt(&findings, now);
        self.drift += findings.drift;
        self.work.compare(findings.dirty, now);
    }

    fn doubt(&mut self, findings: &Findings, now: Time) {
        for vs in &findings.unknown {
            self.work.request(Table::RealServers(*vs), now);
        }
    }

    /// Compares and writes until nothing follows from what was written, for at most [`ROUNDS`] rounds.
    fn settle(&mut self, now: Time, mut dirty: Dirty, report: &mut Report) {
        for _ in 0..ROUNDS {
            if self.phase != Phase::Running {
                // What no Service wants so far may belong to one that has not been planned yet.
                dirty.keep_desired(&self.intents.desired);
            }
            let may_try_base = self.may_try_base(now);
            if dirty.is_empty() && (self.kernel.has_base() || !may_try_base) {
                if self.kernel.has_base() && may_try_base {
                    // The link and the chains have been made along with something else meanwhile.
                    self.work.succeed(Subject::Base);
                }
                return;
            }
            let plan = self.diff(&dirty);
            dirty = self.execute(&plan, dirty, now, report);
        }
        self.work.compare(dirty, now);
    }

    /// Executes a plan for what was dirty, and returns what has to be compared again because of it.
    pub(crate) fn execute(&mut self, plan: &Plan, dirty: Dirty, now: Time, report: &mut Report) -> Dirty {
        if !plan.is_empty() {
            debug!(writes = plan.len(), "plan");
        }
        let Intents { desired, config, .. } = &self.intents;
        let lacking = &config.unavailable_schedulers;
        let executor = Executor { kernel: &mut self.kernel, work: &mut self.work, desired, lacking, now };
        let outcome = executor.run(plan, report);
        let view = View::new(&self.intents, &self.kernel.mirror, now);
        self.drains.follow(plan, &outcome.deleted, view, report);
        self.flows.add(&outcome.flows);
        if dirty.contains(&Subject::Sysctls) {
            self.refused_sysctls.follow(outcome.sysctls, report);
            report.findings |= self.node_findings.replace_parameters(self.refused_sysctls.names());
        }
        for scheduler in outcome.lost_schedulers {
            self.intents.lose_scheduler(scheduler, &mut self.kernel, now);
        }
        self.finish(&dirty, now);
        let Intents { desired, .. } = &mut self.intents;
        for front in dirty.fronts().filter(|front| self.kernel.mirror.server(front).is_none()) {
            desired.forget(front);
        }
        // A virtual server that nobody wants goes once its last real server has gone. A front with a refused
        // write refuses new connections or not by what the kernel really has.
        let shrunk = outcome.deleted.iter().filter_map(|op| self.kernel.mirror.front(&op.virtual_server()));
        let shrunk = shrunk
            .filter(|front| desired.front(front).is_none() && self.kernel.mirror.server(front).is_some());
        let refused = outcome.refused.iter().filter(|front| desired.front(front).is_some());
        shrunk.map(Subject::Front).chain(refused.copied().map(Subject::Refusal)).collect()
    }

    /// Forgets the failures of what has just been compared, unless it has failed again.
    fn finish(&mut self, dirty: &Dirty, now: Time) {
        if self.work.len() == 0 {
            return;
        }
        let base = Some(Subject::Base).filter(|_| self.kernel.has_base());
        let tried = dirty.iter().copied().chain(base);
        let healed: Vec<_> = tried.map(Task::Compare).filter(|task| self.work.finish(*task, now)).collect();
        for task in healed.iter().take(HEALED_NAMED) {
            info!("healed: {task}");
        }
        if let Some(more) = healed.len().checked_sub(HEALED_NAMED).filter(|more| *more > 0) {
            info!("healed: {more} more");
        }
    }

    fn diff(&self, dirty: &Dirty) -> Plan {
        let mirror = &self.kernel.mirror;
        let is_in_doubt = |front: &lb_types::Front| self.work.is_in_doubt(&mirror.key(front));
        let Intents { desired, .. } = &self.intents;
        let (context, drains) = (self.intents.context(), &self.drains.ledger);
        diff(dirty, &Inputs { desired, mirror, context, drains, is_in_doubt: &is_in_doubt })
    }

    /// Tells whether the link and the chains may be tried: they have not just failed.
    fn may_try_base(&self, now: Time) -> bool {
        !self.work.must_wait(Subject::Base, now)
    }

    /// Notes when the first programming is complete: all of it has been tried with the link and the chains in
    /// place. What the kernel refuses of single Services even then must not keep the node from being ready.
    fn note_programmed(&mut self, report: &mut Report) {
        let has_base = self.kernel.has_base() && !self.work.awaits_base();
        let is_tried = self.phase == Phase::Running && has_base && !self.work.has_failed_call();
        if is_tried && !self.programmed && !self.work.is_failing(Subject::Base) {
            self.programmed = true;
            report.completed_start = true;
            self.flows.add(&planner::untranslated(&self.intents.desired, &self.kernel.mirror));
        }
    }

    /// Dumps the kernel once, before anything is written; returns whether that is done.
    fn adopted(&mut self, now: Time, report: &mut Report) -> bool {
        if self.phase != Phase::Unknown {
            return true;
        }
        if !self.may_try_base(now) {
            return false;
        }
        if let Err(error) = self.adopt(now, report) {
            fail_base(&mut self.work, &error, now);
            return false;
        }
        self.work.succeed(Subject::Base);
        self.drains.adopt(View::new(&self.intents, &self.kernel.mirror, now));
        report.findings |= self.inspector().check_forwarding();
        self.audit.schedule(now, self.config.sync_period);
        self.phase = Phase::Starting;
        true
    }

    /// Fills the mirror from dumps of all tables.
    fn adopt(&mut self, now: Time, report: &mut Report) -> Result<(), TableError> {
        self.kernel.adopt_servers()?;
        // Nothing is planned yet, so a difference from the empty mirror is not a finding.
        let mut findings = Findings::default();
        if let Err(error) = self.observe_sysctls(&mut findings.dirty) {
            debug!("{}; will be tried again", chain(&error));
            self.work.request(Table::Vips, now);
        }
        self.work.request(Subject::Sysctls, now);
        let links = self.kernel.observe_vips(&mut findings)?;
        self.intents.replace_addresses(links.addresses, &self.kernel.mirror, &mut findings.dirty);
        self.node_findings.bridges = links.bridges;
        report.findings |= self.inspector().check_bridges();
        self.intents.refresh_layout();
        self.kernel.observe_rules(&self.intents.config.layout, &mut findings)?;
        let Intents { schedulers, config, .. } = &mut self.intents;
        schedulers.find_default(config, &mut self.kernel, now);
        let mirror = &self.kernel.mirror;
        info!(
            virtual_servers = mirror.servers.len(),
            routes = mirror.routes.len(),
            elements = mirror.elements.len(),
            "adopted what the kernel holds"
        );
        Ok(())
    }

    pub(crate) fn inspector(&mut self) -> Inspector<'_> {
        let Reconciler { node_findings: findings, kernel, intents, .. } = self;
        Inspector { findings, kernel, intents }
    }

    /// Plans everything that a sync would write now; writes nothing.
    pub fn dry_run(&mut self) -> Result<Plan, TableError> {
        self.adopt(Time::ZERO, &mut Report::default())?;
        let mut dirty = Dirty::default();
        self.intents.refresh_ownership();
        self.intents.refresh_node(&mut self.kernel.mirror, &mut dirty);
        while self.intents.has_backlog() {
            let portion = Portion { most: self.services_per_step, critical_first: false };
            self.intents.desire_some(portion, &mut self.kernel, Time::ZERO, &mut Changes::default());
        }
        self.observe_sysctls(&mut dirty)?;
        dirty.extend(Dirty::all(&self.intents.desired, &self.kernel.mirror));
        Ok(self.diff(&dirty))
    }

    /// Takes over the drains of the process before this one; to be called before the first step.
    pub fn restore(&mut self, records: impl IntoIterator<Item = (Key, Record)>) {
        self.drains.restore(records);
    }

    /// Real servers on their way out: for listings, and for [`Reconciler::restore`] after a restart.
    pub fn drains(&self) -> impl Iterator<Item = (&Key, &Drain)> {
        self.drains.iter()
    }

    /// Number of real servers on their way out.
    pub fn draining(&self) -> usize {
        self.drains.ledger.len()
    }

    /// Version of the drains; it changes whenever what must survive a restart has changed.
    pub fn drains_version(&self) -> u64 {
        self.drains.ledger.version()
    }

    /// Objects that a finding about the node concerns at the moment, such as names of chains; none if it does
    /// not hold.
    pub fn node_findings(&self, finding: NodeFinding) -> impl Iterator<Item = &str> {
        self.node_findings.objects(finding)
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
        self.intents.has_backlog()
    }

    /// Numbers of programmed objects.
    pub fn totals(&self) -> Totals {
        let servers = &self.kernel.mirror.servers;
        Totals {
            services: self.intents.desired.services().count(),
            virtual_servers: servers.len(),
            real_servers: servers.values().map(|server| server.real_servers.len()).sum(),
            draining: self.drains.ledger.len(),
            retrying: self.work.len() + self.intents.problems.len(),
        }
    }

    /// Shortfalls of the kernel: what it cannot or will not do at the moment.
    pub fn shortfalls(&self) -> Shortfalls {
        let count = |is_meant: fn(&Subject) -> bool| {
            let failing = self.work.failing();
            failing.filter(|task| matches!(task, Task::Compare(subject) if is_meant(subject))).count()
        };
        let Intents { schedulers, config, .. } = &self.intents;
        Shortfalls {
            schedulers: schedulers.missing().collect(),
            no_scheduler: schedulers.lack(default_scheduler(config)),
            vips: count(|subject| matches!(subject, Subject::Vip(_))),
            virtual_servers: count(|subject| matches!(subject, Subject::Front(_))),
        }
    }
}
