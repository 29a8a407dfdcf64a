//! Execution of a plan: one loop over its stages.
//!
//! The executor owns the calls that write, and the record of what came of them: the mirror follows each
//! executed write, [`Work`] keeps each refused one for another try, and [`Outcome`] tells the rest of the
//! loop. It never decides what is written or in which order; that stands in the plan.
//!
//! One rule stands above the order: where a write fails, the later writes of the same plan that depend on it
//! are held ([`Run::holds`]), and everything else goes on. Held writes are planned again together with the
//! failed one.
//!
//! Reading order: [`Executor::run`], [`Run::batch`], [`Run::holds`]; then one module for each table (`ipvs`,
//! `vips`, `rules`, `sysctls`).

mod ipvs;
mod rules;
mod sysctls;
mod vips;

use std::{collections::BTreeSet, mem::discriminant, net::IpAddr};

use dataplane::TableError;
use drain::Time;
use lb_types::{
    ConntrackOp, Front, IpFamily, IpvsOp, Operation, RouteTable, RuleElement, RulesOp, Scheduler, SysctlOp,
    VipOp,
};
use planner::{Binding, Desired, Plan, Subject, is_of_link};
use tracing::{debug, error};

use crate::{Report, kernel::Kernel, problems::chain, work::Work};

/// Inputs of an execution besides the plan.
pub(crate) struct Executor<'a> {
    pub(crate) kernel: &'a mut Kernel,
    pub(crate) work: &'a mut Work,
    pub(crate) desired: &'a Desired,
    /// Schedulers that the kernel is known to lack.
    pub(crate) lacking: &'a BTreeSet<Scheduler>,
    pub(crate) now: Time,
}

/// Outcome of a plan, for the rest of the loop.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Deletions in IPVS that the kernel executed, in order.
    pub(crate) deleted: Vec<IpvsOp>,
    /// Deletions of tracked connections that the plan asks for; the mirror shows which of them are due.
    pub(crate) conntrack: Vec<ConntrackOp>,
    /// Schedulers that are gone, as a refused write has shown.
    pub(crate) lost_schedulers: BTreeSet<Scheduler>,
    /// Writes of kernel parameters, each with its result.
    pub(crate) sysctls: Vec<(SysctlOp, Result<(), TableError>)>,
    /// Fronts with a refused write to IPVS. The planner decides once more whether they refuse new
    /// connections, by what the kernel holds then.
    pub(crate) refused: BTreeSet<Front>,
}

impl Executor<'_> {
    /// Executes a plan.
    pub(crate) fn run(self, plan: &Plan, report: &mut Report) -> Outcome {
        let base_due = !self.work.must_wait(Subject::Base, self.now);
        let (held, undeleted, outcome) = Default::default();
        let mut run = Run {
            executor: self,
            report,
            base_due,
            link_failed: false,
            forwarding_held: false,
            held,
            undeleted,
            outcome,
        };
        for (_, ops) in plan.stages() {
            for batch in ops.chunk_by(|one, other| discriminant(one) == discriminant(other)) {
                run.batch(batch);
            }
        }
        run.outcome
    }
}

/// Execution of a plan in progress.
struct Run<'a> {
    executor: Executor<'a>,
    report: &'a mut Report,
    /// True if the link and the chains may be tried; false if they have just failed.
    base_due: bool,
    /// True if the link was to be made and is not there.
    link_failed: bool,
    /// True if routes that the forwarding of IPv6 would end could not be kept.
    forwarding_held: bool,
    /// Subjects with an earlier write that failed.
    held: BTreeSet<Subject>,
    /// Fronts whose virtual servers could not be deleted. Their elements stay until those are gone, above all
    /// the one that tags them as ours.
    undeleted: BTreeSet<Front>,
    outcome: Outcome,
}

impl Run<'_> {
    /// Executes consecutive writes to one table, except for those that are held.
    fn batch(&mut self, ops: &[Operation]) {
        let (mut ipvs, mut vips, mut rules, mut sysctls) = (vec![], vec![], vec![], vec![]);
        for op in ops {
            if self.holds(op) || self.strips(op, ops) {
                continue;
            }
            match op {
                Operation::Ipvs(op) => ipvs.push(*op),
                Operation::Vip(op) => vips.push(*op),
                Operation::Rules(op) => rules.push(op.clone()),
                Operation::Sysctl(op) => sysctls.push(op.clone()),
                Operation::Conntrack(op) => self.outcome.conntrack.push(*op),
            }
        }
        self.ipvs(&ipvs);
        self.vips(&vips);
        self.rules(rules);
        self.sysctls(sysctls);
    }

    /// Tells whether a write depends on another one that failed. A write that depends on the link waits for
    /// it.
    fn holds(&mut self, op: &Operation) -> bool {
        let subject = Subject::of(op, &self.executor.kernel.mirror);
        if self.link_failed && self.needs_link(op, subject) {
            if let Some(subject) = subject {
                self.executor.work.await_base(subject);
            }
            return true;
        }
        match op {
            Operation::Rules(RulesOp::DeleteElement(element))
                if element.front().is_some_and(|front| self.holds_element(element, &front)) =>
            {
                true
            }
            Operation::Rules(RulesOp::DeleteElement(
                element @ (RuleElement::Steer(_) | RuleElement::SteerKnown(_)),
            )) if self.held.contains(&Subject::Vip(element.addr())) => {
                self.try_again(Subject::of_element(element), "the VIP is not bound in another way yet");
                true
            }
            Operation::Vip(
                VipOp::DeleteRoute { vip, table: RouteTable::Local } | VipOp::DeleteAddress { addr: vip },
            ) if self.lacks_steering(vip) => {
                self.try_again(Subject::Vip(*vip), "packets to the VIP cannot be steered yet");
                true
            }
            Operation::Sysctl(op) if self.forwarding_held => planner::enables_forwarding(op),
            _ => subject.is_some_and(|subject| self.held.contains(&subject)),
        }
    }

    /// Tells whether a VIP is to be steered, and the rule that leads steered packets has been refused.
    fn lacks_steering(&self, vip: &IpAddr) -> bool {
        self.held.contains(&Subject::Steering(IpFamily::of(*vip)))
            && self.executor.desired.binding(vip) == Some(Binding::Steer)
    }

    fn try_again(&mut self, subject: Subject, reason: &str) {
        let Executor { work, now, .. } = &mut self.executor;
        work.fail(subject, reason, *now);
    }

    /// Tells whether a write would leave a virtual server without a tag, because another one that was to come before has
    /// failed; `batch` is what is executed with it.
    fn strips(&self, op: &Operation, batch: &[Operation]) -> bool {
        let Operation::Rules(RulesOp::DeleteElement(element)) = op else { return false };
        let Some(tag) = element.marked() else { return false };
        let comes = |op: &Operation| match op {
            Operation::Rules(RulesOp::AddElement(other)) => other.marked() == Some(tag),
            _ => false,
        };
        self.executor.kernel.mirror.is_last_tag(element) && !batch.iter().any(comes)
    }

    /// Tells whether a write needs the link. A virtual server that exists, or whose VIP has its route, serves
    /// already and does not wait for it.
    fn needs_link(&self, op: &Operation, subject: Option<Subject>) -> bool {
        let mirror = &self.executor.kernel.mirror;
        match (op, subject) {
            (Operation::Sysctl(op), _) => is_of_link(op),
            (_, Some(Subject::Vip(_))) => true,
            (_, Some(Subject::Front(front))) => {
                let is_routed = front.vip().is_none_or(|vip| mirror.reaches(&vip));
                !is_routed && mirror.server(&front).is_none()
            }
            _ => false,
        }
    }

    fn holds_element(&self, element: &RuleElement, front: &Front) -> bool {
        let is_refusal = matches!(element, RuleElement::Refuse(_) | RuleElement::DropExternal(_));
        self.undeleted.contains(front) || is_refusal && self.outcome.refused.contains(front)
    }

    /// Holds the subjects that the kernel does not have yet. Those that it has serve already, and go on
    /// following the API.
    fn hold_new(&mut self, subjects: impl IntoIterator<Item = Subject>) {
        let Executor { kernel, work, desired, now, .. } = &mut self.executor;
        let is_new = |subject: &Subject| match subject {
            Subject::Front(front) => kernel.mirror.server(front).is_none(),
            Subject::Vip(vip) => !kernel.mirror.reaches(vip),
            _ => false,
        };
        for subject in subjects.into_iter().filter(is_new) {
            self.held.insert(subject);
            let Subject::Front(front) = subject else { continue };
            // Clients outside must not get to a port before what keeps some of them from it.
            let external = front.for_external();
            let sibling = Subject::Front(external);
            if external != front && desired.front(&external).is_some() && is_new(&sibling) {
                self.held.insert(sibling);
                work.fail(sibling, "the port is not served to the others", *now);
            }
        }
    }

    /// Keeps the subject of a write until the link and the chains are there.
    fn await_base(&mut self, op: &Operation) {
        let subject = Subject::of(op, &self.executor.kernel.mirror);
        if let Some(subject) = subject.filter(|subject| *subject != Subject::Base) {
            self.executor.work.await_base(subject);
            self.hold_new([subject]);
        }
    }

    fn executed(&mut self, op: &Operation) {
        debug!("{op}");
        self.executor.kernel.mirror.record(op);
        self.report.written += 1;
    }

    /// Notes a refused write, which is counted already, and logs it unless it was refused for the same reason before.
    fn refused(&mut self, subject: Subject, op: &Operation, reason: &str) {
        let Executor { work, now, .. } = &mut self.executor;
        if work.fail(subject, reason, *now) {
            error!("{op}: {reason}; will be tried again");
        }
    }
}

/// Notes that the link, the chains or the first dumps have failed.
pub(crate) fn fail_base(work: &mut Work, error: &TableError, now: Time) {
    let reason = chain(error);
    if work.fail(Subject::Base, &reason, now) {
        error!("{reason}; will be tried again");
    }
}
