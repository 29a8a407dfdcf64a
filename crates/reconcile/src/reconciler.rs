//! The loop itself, without clock and thread.

use std::{collections::VecDeque, time::Duration};

use dataplane::{Tables, Touched};
use drain::{Ledger, Time};
use lb_types::ServiceName;
use planner::{
    Changes, Desired, Inputs, Mirror, NodeFacts, Plan, Touch, default_scheduler, desire_service, diff,
};
use service_model::{ModelEvent, ServiceModel};
use tracing::debug;

use crate::{
    Config, Report, Shortfalls, Totals,
    audit::{Audit, Findings},
    drains::Notes,
    flows::Flows,
    node_findings::NodeFindings,
    observe::Suspects,
    problems::Problems,
    retry::{Retry, Subject},
    schedulers::Schedulers,
    shared::Shared,
    sysctls::Sysctls,
};

/// Services planned in one go: bounds how long an event can wait behind a large backlog.
const SERVICES_PER_STEP: usize = 1024;

/// Rounds within one step: a virtual server that has lost its last real server goes in the next round.
const ROUNDS: usize = 3;

/// What reaches the loop from outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The input changed.
    Model(ModelEvent),
    /// Somebody else wrote to a table.
    Touched(Touched),
}

/// The loop's whole state; one thread owns it and, through it, the kernel tables.
pub struct Reconciler {
    pub(crate) config: Config,
    pub(crate) tables: Tables,
    pub(crate) model: ServiceModel,
    pub(crate) desired: Desired,
    pub(crate) mirror: Mirror,
    pub(crate) ledger: Ledger,
    pub(crate) notes: Notes,
    pub(crate) facts: NodeFacts,
    pub(crate) retry: Retry,
    pub(crate) audit: Audit,
    pub(crate) problems: Problems,
    /// What the kernel has told of its schedulers.
    pub(crate) schedulers: Schedulers,
    /// Tracked connections that are to be deleted.
    pub(crate) flows: Flows,
    /// What the last audit found, to be made good by the next step.
    pub(crate) findings: Option<Findings>,
    /// VIPs that are addresses of the node too.
    pub(crate) shared: Shared,
    /// What must be dumped before the next comparison.
    pub(crate) suspects: Suspects,
    /// What waits for the link or the chains.
    pub(crate) waiting: Touch,
    /// Whether a call to IPVS has failed as a whole since all was well.
    pub(crate) call_failed: bool,
    /// Whether the last call to IPVS has failed as a whole.
    pub(crate) ipvs_fails: bool,
    /// What is wrong with the node.
    pub(crate) node_findings: NodeFindings,
    /// What is known about kernel parameters.
    pub(crate) sysctls: Sysctls,
    /// Dirty services that did not fit into a step.
    backlog: VecDeque<ServiceName>,
    /// How many are planned in one go: [`SERVICES_PER_STEP`], and fewer in tests.
    pub(crate) services_per_step: usize,
    /// When changed services were planned last.
    planned: Option<Time>,
    phase: Phase,
    /// What the last step did.
    turn: Turn,
    /// Whether everything has been written once, except for what the kernel refuses by itself.
    programmed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The kernel has not been dumped yet.
    Unknown,
    /// The mirror is filled; not all services have been planned once.
    Starting,
    /// Everything has been planned once; what is left over was compared too.
    Running,
}

/// What a step is for, in the order in which they take turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// A slice of the audit.
    Audit,
    /// Polls of some drains.
    Polls,
    /// Everything else: changes, retries, and what audit and polls have found.
    Changes,
}

impl Reconciler {
    /// A loop that knows nothing yet.
    pub fn new(config: Config, tables: Tables) -> Self {
        Reconciler {
            tables,
            model: ServiceModel::on_node(&config.planner.node_name),
            desired: Desired::default(),
            mirror: Mirror::default(),
            ledger: Ledger::new(config.drain),
            notes: Notes::default(),
            facts: NodeFacts::default(),
            retry: Retry::default(),
            audit: Audit::default(),
            problems: Problems::default(),
            schedulers: Schedulers::default(),
            flows: Flows::default(),
            findings: None,
            shared: Shared::default(),
            suspects: Suspects::default(),
            waiting: Touch::default(),
            call_failed: false,
            ipvs_fails: false,
            node_findings: NodeFindings::default(),
            sysctls: Sysctls::default(),
            backlog: VecDeque::new(),
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
            Event::Model(event) => self.model.apply(event),
            Event::Touched(table) => {
                self.suspects.tables.insert(table);
            }
        }
    }

    /// Does what is due: a slice of the audit, or some polls of drains, or everything else (plans dirty services,
    /// retries). They take turns, so that none of them waits for more than two steps that are not its own.
    ///
    /// Tell [`Reconciler::spent`] afterwards what it took, and audit and polls keep to their shares of a core.
    pub fn step(&mut self, now: Time) -> Report {
        let mut report = Report::default();
        self.forget_last_step();
        if !self.model.is_synced() || !self.adopted(now, &mut report) {
            return report;
        }
        // Where nothing else is due, what has just had its turn has the next one too.
        let order = match self.turn {
            Turn::Changes => [Turn::Audit, Turn::Polls, Turn::Changes],
            Turn::Audit => [Turn::Polls, Turn::Changes, Turn::Audit],
            Turn::Polls => [Turn::Changes, Turn::Audit, Turn::Polls],
        };
        let taken = order.into_iter().find(|turn| self.take_turn(*turn, now, &mut report));
        self.turn = taken.unwrap_or(Turn::Changes);
        report
    }

    /// Does what the turn is for, if it is due.
    fn take_turn(&mut self, turn: Turn, now: Time, report: &mut Report) -> bool {
        match turn {
            Turn::Audit => self.audit(now, report),
            Turn::Polls => self.poll_drains(now, report),
            Turn::Changes => {
                let due = self.next_change(now).is_some_and(|due| due <= now);
                if due {
                    self.plan_changes(now, report);
                }
                due
            }
        }
    }

    /// What the last step took has been accounted for.
    fn forget_last_step(&mut self) {
        self.audit.forget_last();
        self.notes.polled = 0;
    }

    /// Everything but audit and polls.
    fn plan_changes(&mut self, now: Time, report: &mut Report) {
        let Findings { mut touch, drift } = self.findings.take().unwrap_or_default();
        report.drift += drift;
        self.recheck(now, &mut touch, report);
        self.refresh_node(&mut touch);
        touch.servers.extend(self.ledger.rested(now));
        self.retry.touch_due(now, &mut touch);
        self.recheck_shared(now);
        self.desire_backlog(now, &mut touch, report);
        self.write_sysctls_for_ipv6(report);
        self.settle(now, touch, report);
        self.note_programmed(report);
        self.delete_flows(now, report);
    }

    /// How much of a core the last step took; it ended at `now`. If it was a slice of the audit, the next one waits
    /// until that is paid off; if it polled drains, the next polls are as far away as that demands. What has failed is
    /// tried again that much later.
    pub fn spent(&mut self, took: Duration, now: Time) {
        self.retry.tried_until(now);
        let longest = self.longest_rest();
        self.audit.spent(took, now, longest);
        self.polls_spent(took);
        self.suspects.spent(took, now);
        self.flows.spent(took, now);
    }

    /// When [`Reconciler::step`] has something to do even without an event; `None` before the input is complete.
    pub fn next_wakeup(&self, now: Time) -> Option<Time> {
        if !self.model.is_synced() {
            return None;
        }
        let audit = self.is_planned().then(|| now.max(self.audit.next_due()));
        [self.next_change(now), audit, self.ledger.next_deadline()].into_iter().flatten().min()
    }

    /// When there is something to do besides audit and polls.
    fn next_change(&self, now: Time) -> Option<Time> {
        let running = self.phase == Phase::Running;
        let starting = self.phase == Phase::Starting;
        let unknown = self.phase == Phase::Unknown && !self.retry.is_failing(&Subject::Base);
        let suspects = self.suspects.due(|subject| self.retry.is_failing(&subject));
        let suspects = suspects.filter(|_| running).map(|due| due.max(now));
        let in_doubt = running && self.findings.is_some();
        let node = running && (self.model.has_node_changed() || self.has_new_cidrs());
        let at_once = (starting || unknown || in_doubt || node).then_some(now);
        let moved = !self.ledger.is_empty() && self.model.has_changes();
        let dirty = moved || !self.backlog.is_empty() || self.model.has_dirty();
        let changes = (running && dirty).then(|| now.max(self.earliest_plan()));
        let (flows, rested) = (self.flows_due(), self.ledger.next_rested());
        let shared = self.shared.due().filter(|_| running).map(|due| due.max(now));
        [at_once, suspects, changes, flows, rested, shared, self.retry.next_due()].into_iter().flatten().min()
    }

    /// When changed services may be planned: at once, unless a minimal distance between syncs is configured.
    fn earliest_plan(&self) -> Time {
        self.planned.map_or(Time::ZERO, |planned| planned + self.config.min_sync_period)
    }

    /// What would be written if everything were synced now; writes nothing.
    pub fn dry_run(&mut self) -> Result<Plan, dataplane::TableError> {
        let mut touch = Touch::default();
        self.adopt()?;
        self.find_default_scheduler(Time::ZERO);
        self.refresh_node(&mut touch);
        let mut report = Report::default();
        while !self.backlog.is_empty() || self.model.has_dirty() {
            self.desire_backlog(Time::ZERO, &mut touch, &mut report);
        }
        touch.extend(Touch::all(&self.desired, &self.mirror));
        let mut plan = self.diff(&touch);
        [plan.sysctls, plan.link_sysctls] = self.plan_sysctls()?;
        Ok(plan)
    }

    /// Whether everything has been programmed at least once, except for single objects that the kernel refuses.
    pub fn is_running(&self) -> bool {
        self.programmed
    }

    /// Whether changes wait that [`Reconciler::step`] has not planned yet.
    pub fn has_backlog(&self) -> bool {
        !self.backlog.is_empty() || self.model.has_dirty()
    }

    /// Sizes of what is programmed.
    pub fn totals(&self) -> Totals {
        Totals {
            services: self.desired.services().count(),
            virtual_servers: self.mirror.servers.len(),
            real_servers: self.mirror.servers.values().map(|server| server.real_servers.len()).sum(),
            draining: self.ledger.len(),
            retrying: self.retry.len() + self.problems.len() + self.waiting.len(),
        }
    }

    /// What the kernel cannot or will not do at the moment.
    pub fn shortfalls(&self) -> Shortfalls {
        Shortfalls {
            schedulers: self.schedulers.missing().collect(),
            no_scheduler: self.schedulers.lack(default_scheduler(&self.config.planner)),
            vips: self.retry.failing_vips(),
            virtual_servers: self.retry.failing_servers(),
        }
    }

    /// Dumps the kernel once, before anything is written.
    fn adopted(&mut self, now: Time, report: &mut Report) -> bool {
        if self.phase != Phase::Unknown {
            return true;
        }
        if self.retry.must_wait(&Subject::Base, now) {
            return false;
        }
        if let Err(error) = self.adopt() {
            self.base_failed(&error, now);
            return false;
        }
        self.retry.succeed(&Subject::Base);
        self.find_default_scheduler(now);
        self.adopt_drains(now);
        self.write_sysctls_or_later(report);
        self.check_bridges(report);
        self.check_forwarding(report);
        self.audit.schedule(now, self.config.sync_period);
        self.phase = Phase::Starting;
        true
    }

    /// Takes the layout and the facts of the node over from the model.
    fn refresh_node(&mut self, touch: &mut Touch) {
        self.refresh_ownership();
        if !self.model.take_node_changed() {
            return;
        }
        let bit = self.config.planner.layout.masquerade_bit;
        let layout = self.config.local_mode.layout(self.model.node(), bit);
        if layout != self.config.planner.layout {
            self.config.planner.layout = layout;
            self.mirror.layout_current = false;
        }
        let addresses = self.facts.addresses.clone();
        self.replace_facts(addresses, touch);
    }

    /// Takes over which prefixes are ours; what lies in a new one is compared by the next audit.
    fn refresh_ownership(&mut self) {
        if self.has_new_cidrs() {
            self.config.ownership.announced_cidrs = self.model.service_cidrs().to_vec();
            self.audit.request();
        }
    }

    fn has_new_cidrs(&self) -> bool {
        self.config.ownership.announced_cidrs != self.model.service_cidrs()
    }

    /// Computes the intents of as many dirty services as one step takes, critical ones alone at first.
    fn desire_backlog(&mut self, now: Time, touch: &mut Touch, report: &mut Report) {
        if self.phase == Phase::Running && now < self.earliest_plan() {
            return;
        }
        self.backlog.extend(self.model.take_dirty());
        let starting = self.phase == Phase::Starting;
        let critical = |name: &ServiceName| self.model.service(name).is_some_and(|service| service.critical);
        let first = self.backlog.iter().take_while(|name| starting && critical(name)).count();
        let count = if first > 0 { first } else { self.backlog.len().min(self.services_per_step) };
        let names: Vec<_> = self.backlog.drain(..count).collect();
        let mut changes = Changes::default();
        for name in &names {
            self.desire(name, now, &mut changes);
        }
        let Changes { touch: changed, vacated, configured } = changes;
        touch.extend(changed);
        for vs in configured {
            self.ledger.configure(vs, self.desired.drain_overrides(&vs), now);
        }
        self.revise_drains(vacated, now, touch);
        if self.backlog.is_empty() {
            self.model.forget_changes();
        }
        report.services += names.len();
        if !names.is_empty() {
            self.planned = Some(now);
        }
        if starting && self.backlog.is_empty() {
            touch.extend(Touch::leftovers(&self.desired, &self.mirror));
            self.phase = Phase::Running;
            self.audit.schedule(now, self.config.sync_period);
        }
    }

    fn desire(&mut self, name: &ServiceName, now: Time, changes: &mut Changes) {
        self.find_named_scheduler(name, now);
        self.look_for_listeners(name);
        let node = (&self.config.ownership, &self.facts);
        let desired = self
            .model
            .service(name)
            .map(|service| desire_service(service, &self.model, node, &self.config.planner));
        let (intent, problems) = desired.unzip();
        let rivals = self.desired.replace(name, intent, changes);
        self.problems.replace_own(name, problems.unwrap_or_default());
        if rivals.is_empty() && !self.problems.has_conflicts(name) {
            return;
        }
        for service in rivals.iter().chain([name]) {
            self.problems.replace_conflicts(service, self.desired.conflicts(service));
        }
    }

    /// Compares and writes until nothing follows from what was written.
    fn settle(&mut self, now: Time, mut touch: Touch, report: &mut Report) {
        for _ in 0..ROUNDS {
            if self.phase != Phase::Running {
                // What no Service wants so far may only not have been planned yet.
                touch.keep_desired(&self.desired);
            }
            let base_due = !self.retry.must_wait(&Subject::Base, now);
            if base_due {
                touch.extend(std::mem::take(&mut self.waiting));
            }
            if touch.is_empty() && self.base_is_ready() && base_due {
                // What failed has been done along with something else meanwhile.
                self.retry.succeed(&Subject::Base);
            }
            if touch.is_empty() && (self.base_is_ready() || !base_due) {
                return;
            }
            let plan = self.diff(&touch);
            if !plan.is_empty() {
                debug!(writes = plan.len(), "plan");
            }
            let follow_up = self.apply(&plan, &touch, now, report);
            let gone = touch.servers.iter().filter(|vs| !self.mirror.servers.contains_key(vs));
            gone.for_each(|vs| self.desired.forget(vs));
            touch = follow_up;
        }
    }

    /// The first programming is complete when all of it has been tried with the link and the chains in place. What the
    /// kernel refuses of single Services even then must not keep the node from being ready.
    fn note_programmed(&mut self, report: &mut Report) {
        self.call_failed &= self.retry.len() > 0;
        let complete = self.phase == Phase::Running && self.base_is_ready() && self.waiting.is_empty();
        if complete && !self.programmed && !self.call_failed && !self.retry.is_failing(&Subject::Base) {
            self.programmed = true;
            report.completed_start = true;
            self.flows.add(&planner::untranslated(&self.desired, &self.mirror));
        }
    }

    /// Whether everything has been planned once.
    pub(crate) fn is_planned(&self) -> bool {
        self.phase == Phase::Running
    }

    pub(crate) fn base_is_ready(&self) -> bool {
        self.mirror.link_ready && self.mirror.layout_current
    }

    fn diff(&self, touch: &Touch) -> Plan {
        let (sides, node) = ((&self.desired, &self.mirror), (&self.config.ownership, &self.facts));
        let doubts = (&self.ledger, self.suspects.servers());
        diff(touch, &Inputs::new(sides, node, &self.config.planner, doubts))
    }
}
