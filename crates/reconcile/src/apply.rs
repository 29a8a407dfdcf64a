//! Executing a plan. No choices are made here: what is written, and in which order, stands in the plan.
//!
//! One rule stands above it: where a write fails, the later ones of the same plan that stand on it are left out
//! ([`Run::held`]), and everything else goes on. What was left out is planned again together with what failed.

mod ipvs;
mod rules;
mod vips;

use std::{borrow::Cow, collections::BTreeSet};

use dataplane::TableError;
use drain::Time;
use lb_types::{IpvsOp, Operation, RuleSet, RulesOp, VipOp, VirtualServerId};
use planner::{Plan, Touch};
use tracing::{debug, error, info};

use crate::{
    Reconciler, Report,
    adopt::chain,
    retry::{Subject, subjects},
};

/// Healed subjects that are named in the log; more are counted.
const NAMED: usize = 8;

/// One execution of a plan.
pub(crate) struct Run<'a> {
    pub(crate) now: Time,
    pub(crate) report: &'a mut Report,
    /// Whether the link and the chains may be tried, or have just been refused.
    base_due: bool,
    /// What an earlier write has failed for: later ones stand on it.
    held: BTreeSet<Subject>,
    /// Virtual servers with a refused write to IPVS: whether they refuse new connections is decided once more, by what
    /// the kernel holds then.
    refused: BTreeSet<VirtualServerId>,
    /// Virtual servers that could not be deleted: their elements stay until they are, the one that names them above all.
    undeleted: BTreeSet<VirtualServerId>,
    /// Virtual servers that lost a real server.
    shrunk: BTreeSet<VirtualServerId>,
}

impl Run<'_> {
    /// The operations that nothing holds.
    fn free<'o, Op: Clone>(&self, ops: &'o [Op], subject: impl Fn(&Op) -> Subject) -> Cow<'o, [Op]> {
        match self.held.is_empty() {
            true => Cow::Borrowed(ops),
            false => ops.iter().filter(|op| !self.held.contains(&subject(op))).cloned().collect(),
        }
    }

    /// The elements that no refused write to IPVS holds.
    fn free_elements(&self, ops: &[RulesOp]) -> Vec<RulesOp> {
        let is_held = |vs: &VirtualServerId, set: RuleSet| {
            self.undeleted.contains(vs) || set == RuleSet::NoEndpoints && self.refused.contains(vs)
        };
        let is_free = |op: &&RulesOp| match (op, rules_subject(op)) {
            (RulesOp::DeleteElement(element), Subject::Server(vs)) => !is_held(&vs, element.set),
            _ => true,
        };
        ops.iter().filter(is_free).cloned().collect()
    }
}

impl Reconciler {
    /// Executes a plan and returns what has to be compared again because of it.
    pub(crate) fn apply(&mut self, plan: &Plan, touch: &Touch, now: Time, report: &mut Report) -> Touch {
        let (held, refused, undeleted, shrunk) = Default::default();
        let base_due = !self.retry.must_wait(&Subject::Base, now);
        let mut run = Run { now, report, base_due, held, refused, undeleted, shrunk };
        self.apply_stages(plan, touch, &mut run);
        self.begin_drains(plan, &mut run);
        self.flows.add(&plan.flows);
        self.clear_retries(touch, now);
        let mut follow_up = Touch::default();
        follow_up.servers.extend(run.shrunk.into_iter().filter(|vs| self.desired.server(vs).is_none()));
        follow_up.refusals.extend(run.refused.into_iter().filter(|vs| self.desired.server(vs).is_some()));
        follow_up
    }

    fn apply_stages(&mut self, plan: &Plan, touch: &Touch, run: &mut Run<'_>) {
        self.apply_ipvs(&plan.ipvs_evict, run);
        if !plan.link.is_empty() && !self.apply_link(&plan.link, run) {
            self.waiting.extend(touch.clone());
            // A VIP that has its route already does not wait for the link.
            let is_routed = |vs: &VirtualServerId| {
                vs.vip_port().is_some_and(|port| self.mirror.routes.contains_key(&port.addr))
            };
            let waits = |subject: &Subject| !matches!(subject, Subject::Server(vs) if is_routed(vs));
            self.hold_new(subjects(touch).filter(waits), run);
            run.held.extend(touch.vips.iter().chain(&touch.addresses).map(|vip| Subject::Vip(*vip)));
        }
        if !plan.link.is_empty() && self.mirror.link_ready {
            // IPv6 routes need them.
            self.write_link_sysctls(run.report);
        }
        self.apply_rules(&plan.rules_add, run);
        self.apply_ipvs(&plan.ipvs_add, run);
        self.apply_vips(&plan.vips_add, run);
        self.apply_vips(&plan.vips_remove, run);
        self.apply_ipvs(&plan.ipvs_remove, run);
        let free = run.free_elements(&plan.rules_remove);
        self.apply_rules(&free, run);
    }

    /// Holds what the kernel does not have yet. What it has already serves, and goes on following the API.
    fn hold_new(&self, subjects: impl IntoIterator<Item = Subject>, run: &mut Run<'_>) {
        let is_new = |subject: &Subject| match subject {
            Subject::Server(vs) => !self.mirror.servers.contains_key(vs),
            Subject::Vip(vip) => !self.mirror.routes.contains_key(vip),
            _ => false,
        };
        run.held.extend(subjects.into_iter().filter(is_new));
    }

    fn clear_retries(&mut self, touch: &Touch, now: Time) {
        if self.retry.len() == 0 {
            return;
        }
        let base = Some(Subject::Base).filter(|_| self.base_is_ready());
        let tried = subjects(touch).chain(base);
        let healed: Vec<_> = tried.filter(|subject| self.retry.tried(subject, now)).collect();
        healed.iter().take(NAMED).for_each(|subject| info!("healed: {subject}"));
        if let Some(more) = healed.len().checked_sub(NAMED).filter(|more| *more > 0) {
            info!("healed: {more} more");
        }
    }

    fn executed(&mut self, op: &Operation, run: &mut Run<'_>) {
        debug!("{op}");
        self.mirror.record(op);
        run.report.written += 1;
    }

    pub(crate) fn base_failed(&mut self, error: &TableError, now: Time) {
        let reason = chain(error);
        if self.retry.fail(Subject::Base, &reason, now) {
            error!("{reason}; will be tried again");
        }
    }
}

fn ipvs_subject(op: &IpvsOp) -> Subject {
    Subject::Server(op.virtual_server())
}

/// What a write stands on: an address goes with its VIP, because that must be bound some other way first.
fn vip_subject(op: &VipOp) -> Subject {
    match op {
        VipOp::EnsureRoute { vip, .. } | VipOp::DeleteRoute { vip } => Subject::Vip(*vip),
        VipOp::DeleteAddress { addr } => Subject::Vip(*addr),
        VipOp::EnsureLink | VipOp::DeleteLink => Subject::Base,
    }
}

fn rules_subject(op: &RulesOp) -> Subject {
    match op {
        RulesOp::AddElement(element) | RulesOp::DeleteElement(element) => Subject::of(element),
        RulesOp::InstallLayout(_) | RulesOp::DeleteTable => Subject::Base,
    }
}
