//! One sync: dumps of what is in doubt, the comparison, and the writes that follow.
//!
//! [`Syncer`] owns everything that a sync reads or changes, each part with an owner of its own: what Services ask
//! for ([`Intents`]), tables and mirror ([`Kernel`]), writing ([`Executor`]), tasks for later ([`Work`]), real
//! servers on their way out ([`Drains`]). It never decides when it runs, which is the [`crate::Reconciler`]'s part,
//! nor what is written, which is [`planner::diff`]'s.
//!
//! Reading order: [`Syncer::adopt`] and [`Syncer::dump_due`], [`Syncer::settle`], [`Syncer::execute`].

use dataplane::{ObservedRealServer, TableError, Tables};
use drain::Time;
use lb_types::{Front, ServiceName, VirtualServerId};
use planner::{Dirty, Inputs, Plan, Subject, diff};
use tracing::{debug, error, info, warn};

use crate::{
    Config, Drift, Report,
    conntrack::PendingDeletions,
    drains::{Drains, View},
    executor::Executor,
    full::Full,
    intents::{Intents, Planned},
    kernel::{Findings, Kernel},
    node_findings::NodeFindings,
    problems::chain,
    sysctls::RefusedSysctls,
    traffic::ServiceTraffic,
    work::{Table, Task, Work},
};

/// Dumps of tables and of single virtual servers in one step, so that events never wait long.
const DUMPS_PER_STEP: usize = 128;

/// Rounds of comparing and writing within one step: a virtual server that has lost its last real server goes
/// in the next round.
const ROUNDS: usize = 3;

/// Healed tasks that one step names in the log; it counts the others.
const HEALED_NAMED: usize = 8;

/// Everything that a sync reads or changes.
pub(crate) struct Syncer {
    pub(crate) kernel: Kernel,
    pub(crate) intents: Intents,
    pub(crate) drains: Drains,
    pub(crate) work: Work,
    /// Deletions of tracked connections that are not done.
    pub(crate) deletions: PendingDeletions,
    pub(crate) node_findings: NodeFindings,
    refused_sysctls: RefusedSysctls,
    pub(crate) full: Full,
    /// Traffic of Services, if it is counted.
    pub(crate) traffic: Option<ServiceTraffic>,
    /// True if some front did not get a packet mark.
    out_of_marks: bool,
    /// Objects that audits and polls have found changed, to be reported with the writes that follow.
    pub(crate) drift: Drift,
}

/// Subjects that a sync may write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Those that a Service asks for.
    Desired,
    /// Also those that no Service asks for.
    All,
}

impl Syncer {
    pub(crate) fn new(config: Config, tables: Tables) -> Self {
        Syncer {
            kernel: Kernel::new(tables),
            drains: Drains::new(config.drain),
            work: Work::default(),
            deletions: PendingDeletions::default(),
            node_findings: NodeFindings::default(),
            refused_sysctls: RefusedSysctls::default(),
            full: Full::default(),
            traffic: config.service_traffic.then(ServiceTraffic::default),
            intents: Intents::new(config),
            out_of_marks: false,
            drift: Drift::default(),
        }
    }

    /// Notes whether a virtual server has room for new connections.
    pub(crate) fn note_full(&mut self, vs: VirtualServerId, observed: &[ObservedRealServer]) {
        if let Some(front) = self.kernel.mirror.front(&vs) {
            self.full.look(front, observed, &self.intents.desired, &mut self.intents.problems);
        }
    }

    /// Dumps what a notification or a failed write made doubtful; returns whether that included a whole table
    /// that others write to. What cannot be dumped stays in doubt, and keeps nothing else from being dumped.
    pub(crate) fn dump_due(&mut self, now: Time, findings: &mut Findings, report: &mut Report) -> bool {
        let tables = self.work.due_dumps(now, DUMPS_PER_STEP);
        let mut ipvs_due = None;
        for table in &tables {
            let is_of_ipvs = matches!(table, Table::VirtualServers | Table::RealServers(_));
            // Where IPVS has just answered no dump, the others are tried together with that one.
            if let Some(due) = ipvs_due.filter(|_| is_of_ipvs) {
                self.work.postpone(*table, due);
                continue;
            }
            match self.dump(table, findings, report) {
                Ok(()) => _ = self.work.succeed(*table),
                Err(error) => {
                    let reason = chain(&error);
                    if self.work.fail(*table, &reason, now) {
                        warn!("{reason}; will be tried again");
                    }
                    ipvs_due = ipvs_due.or(self.work.due(*table).filter(|_| is_of_ipvs));
                }
            }
        }
        tables.iter().any(|table| matches!(table, Table::Vips | Table::Rules))
    }

    fn dump(
        &mut self,
        table: &Table,
        findings: &mut Findings,
        report: &mut Report,
    ) -> Result<(), TableError> {
        match table {
            Table::Vips => self.observe_vips(findings, report),
            Table::Rules => self.kernel.observe_rules(&self.intents.config.layout, findings).map(drop),
            Table::VirtualServers => {
                self.kernel.observe_servers(self.intents.ours(), findings)?;
                // Before they are compared: what is not known of them would be added again.
                let unknown = findings.unknown.iter().take(DUMPS_PER_STEP).copied().collect::<Vec<_>>();
                for vs in unknown {
                    self.kernel.observe_real_servers(vs, self.intents.ours(), findings)?;
                    findings.unknown.retain(|unknown| *unknown != vs);
                }
                Ok(())
            }
            Table::RealServers(vs) => {
                // For a virtual server that nobody wants, the planner did not know whether it is empty.
                let front = self.kernel.mirror.front(vs);
                let unwanted = front.filter(|front| self.intents.desired.front(front).is_none());
                findings.dirty.extend(unwanted.map(Subject::Front));
                self.kernel.observe_real_servers(*vs, self.intents.ours(), findings).map(drop)
            }
        }
    }

    /// Adds up the traffic of Services, if that is wanted.
    pub(crate) fn observe_traffic(&mut self) -> Result<(), TableError> {
        let Some(traffic) = &mut self.traffic else { return Ok(()) };
        let (mirror, desired) = (&self.kernel.mirror, &self.intents.desired);
        let dump = self.kernel.tables.ipvs.dump_traffic()?;
        traffic.take(dump, |vs| Some(desired.name_of(&mirror.front(vs)?)?.service));
        traffic.retain(|service| desired.has_service(service));
        Ok(())
    }

    /// Dumps link, routes, addresses and kernel parameters.
    pub(crate) fn observe_vips(
        &mut self,
        findings: &mut Findings,
        report: &mut Report,
    ) -> Result<(), TableError> {
        let sysctls = self.observe_sysctls(&mut findings.dirty);
        self.observe_links(findings, report)?;
        sysctls
    }

    /// Dumps link, routes and addresses.
    fn observe_links(&mut self, findings: &mut Findings, report: &mut Report) -> Result<(), TableError> {
        let links = self.kernel.observe_vips(findings)?;
        let mirror = &mut self.kernel.mirror;
        self.intents.replace_addresses(links.addresses, mirror, &mut findings.dirty);
        if self.intents.replace_shared_links(links.shared) && mirror.layout_current {
            mirror.layout_current = false;
            findings.dirty.insert(Subject::Base);
        }
        self.node_findings.bridges = links.bridges;
        report.findings |= self.node_findings.check_bridges(&mut self.kernel, &self.intents);
        Ok(())
    }

    pub(crate) fn observe_sysctls(&mut self, dirty: &mut Dirty) -> Result<(), TableError> {
        dirty.insert(Subject::Sysctls);
        self.kernel.observe_sysctls(&self.intents.config.sysctls, self.intents.model.addresses().has_ipv6())
    }

    /// Reads the kernel parameters again when the first Service with IPv6 needs more of them.
    pub(crate) fn observe_sysctls_for_ipv6(&mut self, now: Time, dirty: &mut Dirty) {
        let needs_ipv6 = self.intents.model.addresses().has_ipv6();
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

    pub(crate) fn doubt(&mut self, findings: &Findings, now: Time) {
        for vs in &findings.unknown {
            self.work.request(Table::RealServers(*vs), now);
        }
    }

    /// Compares and writes until nothing follows from what was written, for at most [`ROUNDS`] rounds.
    pub(crate) fn settle(&mut self, now: Time, mut dirty: Dirty, scope: Scope, report: &mut Report) {
        for _ in 0..ROUNDS {
            if scope == Scope::Desired {
                // What no Service wants so far may belong to one that has not been planned yet.
                dirty.keep_desired(&self.intents.desired, &self.intents.facts);
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

    /// Reports what has been planned, and which changes of endpoints the kernel now has. A change whose writes fail is not
    /// reported later either: the time of its retry says nothing about the way of changes.
    pub(crate) fn note_planned(&mut self, report: &mut Report) {
        let Planned { families, triggers } = std::mem::take(&mut self.intents.planned);
        report.families.extend(families);
        let is_written = |service: &ServiceName| {
            let mut fronts = self.intents.desired.fronts_of(service).map(|want| want.front);
            fronts.all(|front| {
                let vip = front.vip().map(Subject::Vip);
                ![Some(Subject::Front(front)), vip].into_iter().flatten().any(|one| self.work.is_stuck(one))
            })
        };
        let written = triggers.into_iter().filter(|(service, _)| is_written(service));
        report.programmed.extend(written.map(|(_, trigger)| trigger));
    }

    /// Executes a plan for what was dirty, and returns what has to be compared again because of it.
    pub(crate) fn execute(&mut self, plan: &Plan, dirty: Dirty, now: Time, report: &mut Report) -> Dirty {
        if !plan.is_empty() {
            debug!(writes = plan.len(), "plan");
            report.planned += plan.len();
        }
        let Intents { desired, config, .. } = &self.intents;
        let lacking = &config.unavailable_schedulers;
        let executor = Executor { kernel: &mut self.kernel, work: &mut self.work, desired, lacking, now };
        let outcome = executor.run(plan, report);
        let view = View::new(&self.intents, &self.kernel.mirror, now);
        self.drains.follow(plan, &outcome.deleted, view, report);
        self.deletions.add(&outcome.conntrack);
        if dirty.contains(&Subject::Sysctls) {
            self.refused_sysctls.follow(plan, outcome.sysctls, report);
            report.findings |= self.node_findings.replace_parameters(self.refused_sysctls.names());
        }
        for scheduler in outcome.lost_schedulers {
            self.intents.lose_scheduler(scheduler, &mut self.kernel, now);
        }
        self.await_marks(&dirty, now);
        self.finish(&dirty, now);
        let Intents { desired, .. } = &mut self.intents;
        for front in dirty.fronts() {
            if self.kernel.mirror.server(front).is_none() {
                desired.forget(front);
            }
            if desired.front(front).is_none() {
                self.kernel.mirror.release_mark(front);
            }
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

    pub(crate) fn diff(&mut self, dirty: &Dirty) -> Plan {
        self.assign_marks(dirty);
        let mirror = &self.kernel.mirror;
        let is_in_doubt = |front: &Front| mirror.key(front).is_some_and(|vs| self.work.is_in_doubt(&vs));
        let Intents { desired, .. } = &self.intents;
        let (context, drains) = (self.intents.context(), &self.drains.ledger);
        diff(dirty, &Inputs { desired, mirror, context, drains, is_in_doubt: &is_in_doubt })
    }

    /// Draws packet marks for fronts that need one and are about to be written. A front that gets none is not served.
    fn assign_marks(&mut self, dirty: &Dirty) {
        let mut unnumbered = None;
        for front in dirty.fronts().filter(|front| self.intents.desired.front(front).is_some()) {
            let want = self.intents.desired.front(front);
            let is_its = |rs: &_| want.is_some_and(|want| want.endpoint(rs).is_some());
            self.kernel.mirror.recover_mark(front, is_its);
            if !self.kernel.mirror.assign_mark(front) {
                unnumbered = Some(*front);
            }
        }
        let Some(front) = unnumbered else { return };
        if !std::mem::replace(&mut self.out_of_marks, true) {
            error!(
                "{front} is not served, nor may others be: all numbers of --mark-range={} are in use or belong to rules of \
                 the routing policy (ip rule); choose a range with fewer bits in the mask",
                self.intents.config.layout.marks
            );
        }
    }

    /// Keeps fronts that have got no packet mark, until one is given back.
    fn await_marks(&mut self, dirty: &Dirty, now: Time) {
        let Syncer { intents, kernel, work, .. } = self;
        let is_unnumbered =
            |front: &&Front| intents.desired.front(front).is_some() && kernel.mirror.key(front).is_none();
        for front in dirty.fronts().filter(is_unnumbered) {
            work.fail(Subject::Front(*front), "no packet mark is left", now);
        }
    }

    /// Tells whether the link and the chains may be tried: they have not just failed.
    pub(crate) fn may_try_base(&self, now: Time) -> bool {
        !self.work.must_wait(Subject::Base, now)
    }

    /// Fills the mirror from dumps of all tables.
    pub(crate) fn adopt(&mut self, now: Time, report: &mut Report) -> Result<(), TableError> {
        self.kernel.adopt_servers()?;
        // Nothing is planned yet, so a difference from the empty mirror is not a finding.
        let mut findings = Findings::default();
        if let Err(error) = self.observe_sysctls(&mut findings.dirty) {
            debug!("{}; will be tried again", chain(&error));
            self.work.request(Table::Vips, now);
        }
        self.work.request(Subject::Sysctls, now);
        self.observe_links(&mut findings, report)?;
        self.adopt_arp();
        self.intents.refresh_layout();
        self.kernel.observe_rules(&self.intents.config.layout, &mut findings)?;
        self.adopt_marks();
        self.kernel.mirror.note_left();
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

    /// Learns whether the kernel has tables of family arp, and does without them otherwise.
    fn adopt_arp(&mut self) {
        // A layout with such a table would be refused as a whole where there are none, so that doubt counts as none.
        const WITHOUT: &str = "this node answers ARP requests for VIPs that are bound by route, unless --ipvs-strict-arp is set";
        match self.kernel.tables.rules.has_arp() {
            Ok(true) => return,
            Ok(false) => info!("the kernel has no nftables of family arp (CONFIG_NF_TABLES_ARP): {WITHOUT}"),
            Err(error) => warn!("{}; until the next start, {WITHOUT}", chain(&error)),
        }
        self.intents.config.layout.arp = None;
    }

    /// Learns which packet marks may be drawn. Those that the kernel has stay, even out of a range that was changed
    /// since, and the chains clear them too.
    fn adopt_marks(&mut self) {
        let foreign = self.kernel.tables.vips.mark_rules().unwrap_or_else(|error| {
            warn!("{}; packet marks are drawn without regard to rules of the routing policy", chain(&error));
            Vec::new()
        });
        let (mirror, layout) = (&mut self.kernel.mirror, &mut self.intents.config.layout);
        let range = layout.marks;
        for rule in foreign.iter().filter(|rule| range.meets(**rule)) {
            info!("packet marks that match the ip rule \"{rule}\" are left out of --mark-range={range}");
        }
        let bit = 1_u32 << (layout.steer_bit & 31);
        for rule in foreign.iter().filter(|rule| rule.value & rule.mask & bit != 0) {
            warn!(
                "the ip rule \"{rule}\" looks at the bit of steered packets ({bit:#x}) and may lead them elsewhere; \
                 choose another --steer-mark-bit"
            );
        }
        mirror.marks.draw_from(range, foreign);
        layout.old_marks = mirror.marks.outside(range);
        if let Some(old) = layout.old_marks {
            warn!(
                "packet marks outside of --mark-range={range} are in use since before the start, and stay until their \
                 Services go; the chains clear marks of {old} meanwhile, too"
            );
            mirror.layout_current = false;
        }
    }

    /// Fronts of kube-proxy's virtual servers for node ports that marks serve by now: nobody else notices that they are
    /// ours since.
    pub(crate) fn superseded(&self) -> Vec<Front> {
        let (Intents { desired, ownership, .. }, mirror) = (&self.intents, &self.kernel.mirror);
        let ours = mirror.left.iter().filter(|vs| ownership.owns(vs, mirror));
        let fronts = ours.filter_map(|vs| mirror.front(vs));
        fronts.filter(|front| desired.front(front).is_none()).collect()
    }

    /// Names virtual servers with packet marks of our range that no element names and no front has drawn again.
    pub(crate) fn report_lost_marks(&self) {
        let Kernel { mirror, .. } = &self.kernel;
        let Some(first) = mirror.lost.first() else { return };
        warn!(
            "{} virtual servers have packet marks of --mark-range={} and are of no Service, the first is {first}: they may \
             be left from before the nftables table was deleted between two runs; they get no connections from here; \
             if nobody else uses such marks, ipvsadm -D -f MARK deletes them",
            mirror.lost.len(),
            self.intents.config.layout.marks
        );
    }
}
