//! Executing a plan. No choices are made here: what is written, and in which order, stands in the plan.

use dataplane::{BatchReport, TableError, Touched};
use drain::{Key, Time};
use lb_types::{IpvsOp, Operation, RulesOp, VipOp, VirtualServerId};
use planner::{Plan, Touch};
use tracing::{debug, error, info, warn};

use crate::{
    Reconciler, Report,
    adopt::chain,
    retry::{Subject, subjects},
};

/// ENOENT, ESRCH, EEXIST: the mirror was wrong about what exists.
const MIRROR_WAS_WRONG: [i32; 3] = [2, 3, 17];
const ENOENT: i32 = 2;

/// The rest of a plan cannot go on without what failed.
struct Aborted;

impl Reconciler {
    /// Executes a plan and returns what has to be compared again because of it.
    pub(crate) fn apply(&mut self, plan: &Plan, touch: &Touch, now: Time, report: &mut Report) -> Touch {
        self.begin_drains(plan, now, report);
        if self.apply_stages(plan, now, report).is_err() {
            // What depends on the failed part is tried again with it.
            for subject in subjects(touch) {
                self.retry.fail(subject, "waits for the part of the plan that failed", now);
            }
        } else {
            self.clear_retries(touch, now);
        }
        let mut follow_up = Touch::default();
        let removed = plan.ipvs_remove.iter().map(IpvsOp::virtual_server);
        follow_up.servers.extend(removed.filter(|vs| self.desired.is_retiring(vs)));
        follow_up
    }

    fn apply_stages(&mut self, plan: &Plan, now: Time, report: &mut Report) -> Result<(), Aborted> {
        self.apply_vips(&plan.link, now, report)?;
        self.apply_rules(&plan.rules_add, now, report)?;
        self.apply_ipvs(&plan.ipvs_add, now, report);
        self.apply_vips(&plan.vips_add, now, report)?;
        self.apply_vips(&plan.vips_remove, now, report)?;
        self.apply_ipvs(&plan.ipvs_remove, now, report);
        self.apply_rules(&plan.rules_remove, now, report)
    }

    fn clear_retries(&mut self, touch: &Touch, now: Time) {
        if self.retry.len() == 0 {
            return;
        }
        for subject in subjects(touch).chain([Subject::Base]) {
            if self.retry.tried(&subject, now) {
                info!("healed: {subject}");
            }
        }
    }

    fn begin_drains(&mut self, plan: &Plan, now: Time, report: &mut Report) {
        for new in &plan.drains {
            if self.ledger.begin(new.key, new.cause, self.config.drain, now) {
                report.drains_begun += 1;
                let policy = self.config.drain.policy;
                info!(%policy, "drain of real server {} of {} begins: {}", new.key.rs, new.key.vs, new.cause);
            }
        }
        for key in &plan.returned {
            self.end_drain(key, "returned", now, report);
        }
    }

    fn end_drain(&mut self, key: &Key, how: &str, now: Time, report: &mut Report) {
        if let Some(drain) = self.ledger.end(key) {
            report.drains_ended += 1;
            let after = now.saturating_sub(drain.since);
            info!("drain of real server {} of {} ended: {how} after {after:.1?}", key.rs, key.vs);
        }
    }

    fn apply_ipvs(&mut self, ops: &[IpvsOp], now: Time, report: &mut Report) {
        if ops.is_empty() {
            return;
        }
        let outcome = match self.tables.ipvs.apply(ops) {
            Ok(outcome) => outcome,
            Err(error) => return self.ipvs_call_failed(ops, &error, now, report),
        };
        if outcome.replies_lost {
            warn!("answers of the kernel were lost: the virtual servers concerned are dumped again");
            self.suspects.add_servers(ops.iter().map(IpvsOp::virtual_server));
        }
        let mut failed = outcome.failed.iter().peekable();
        for (index, op) in ops.iter().enumerate() {
            match failed.next_if(|failure| failure.index == index) {
                Some(failure) => self.ipvs_failed(op, failure.errno, &failure.reason, (now, report)),
                None => self.ipvs_executed(op, now, report),
            }
        }
    }

    fn ipvs_executed(&mut self, op: &IpvsOp, now: Time, report: &mut Report) {
        self.executed(&Operation::Ipvs(*op), report);
        match *op {
            IpvsOp::AddVirtualServer { vs, .. } => {
                self.config.ownership.written.insert(vs);
            }
            IpvsOp::DeleteRealServer { vs, rs } => {
                let key = Key { vs, rs };
                let how =
                    self.ledger.get(&key).and_then(|drain| drain.due).map_or("removed", |due| due.as_str());
                self.end_drain(&key, how, now, report);
            }
            IpvsOp::DeleteVirtualServer { vs } => {
                let keys: Vec<_> = self.ledger.of(&vs).copied().collect();
                keys.iter()
                    .for_each(|key| self.end_drain(key, "removed with its virtual server", now, report));
                self.config.ownership.written.remove(&vs);
            }
            _ => {}
        }
    }

    fn ipvs_failed(&mut self, op: &IpvsOp, errno: i32, reason: &str, (now, report): (Time, &mut Report)) {
        let vs = op.virtual_server();
        report.failed += 1;
        if let IpvsOp::AddVirtualServer { settings, .. } | IpvsOp::SetVirtualServer { settings, .. } = op
            && errno == ENOENT
        {
            self.scheduler_unavailable(vs, settings.scheduler);
        }
        // A virtual server that could not be added makes all of its real servers fail: one line says it.
        let consequence =
            !self.mirror.servers.contains_key(&vs) && !matches!(op, IpvsOp::AddVirtualServer { .. });
        if !consequence && self.retry.fail(Subject::Server(vs), reason, now) {
            let service =
                self.desired.service_of(&vs).map_or_else(|| "no Service".to_owned(), ToString::to_string);
            error!(%service, "{op}: {reason}; will be tried again");
        }
        if MIRROR_WAS_WRONG.contains(&errno) {
            self.suspects.add_servers([vs]);
        }
    }

    fn ipvs_call_failed(&mut self, ops: &[IpvsOp], error: &TableError, now: Time, report: &mut Report) {
        report.failed += ops.len();
        error!("{}; will be tried again", chain(error));
        for op in ops {
            self.retry.fail(Subject::Server(op.virtual_server()), &error.operation, now);
        }
        // Some of them may have been executed.
        self.suspects.add_servers(ops.iter().map(IpvsOp::virtual_server));
    }

    /// The scheduler's module is missing: its Services are served with the default one until the next audit.
    fn scheduler_unavailable(&mut self, vs: VirtualServerId, scheduler: lb_types::Scheduler) {
        if scheduler != self.config.planner.scheduler
            && self.config.planner.unavailable_schedulers.insert(scheduler)
            && let Some(service) = self.desired.service_of(&vs).cloned()
        {
            warn!(%service, "scheduler {scheduler} is not available: the default is used instead");
            self.model.mark_dirty(service);
        }
    }

    fn apply_vips(&mut self, ops: &[VipOp], now: Time, report: &mut Report) -> Result<(), Aborted> {
        if ops.is_empty() {
            return Ok(());
        }
        let outcome = match self.tables.vips.apply(ops) {
            Ok(outcome) => outcome,
            Err(error) => {
                self.suspects.tables.insert(Touched::Vips);
                report.failed += ops.len();
                self.base_failed(&error, now);
                return Err(Aborted);
            }
        };
        let mut failed = outcome.failed.iter().peekable();
        let mut result = Ok(());
        for (index, op) in ops.iter().enumerate() {
            let Some(failure) = failed.next_if(|failure| failure.index == index) else {
                self.executed(&Operation::Vip(*op), report);
                continue;
            };
            report.failed += 1;
            let subject = vip_subject(op);
            if self.retry.fail(subject, &failure.reason, now) {
                error!("{op}: {}; will be tried again", failure.reason);
            }
            if subject == Subject::Base {
                result = Err(Aborted);
            }
        }
        if !outcome.is_clean() {
            self.suspects.tables.insert(Touched::Vips);
        }
        result
    }

    fn apply_rules(&mut self, ops: &[RulesOp], now: Time, report: &mut Report) -> Result<(), Aborted> {
        if ops.is_empty() {
            return Ok(());
        }
        match self.tables.rules.apply(ops) {
            Ok(outcome) if outcome.is_clean() => {
                ops.iter().for_each(|op| self.executed(&Operation::Rules(op.clone()), report));
                return Ok(());
            }
            Ok(outcome) => self.rules_failed(ops, &outcome, now),
            Err(error) => self.base_failed(&error, now),
        }
        report.failed += ops.len();
        self.suspects.tables.insert(Touched::Rules);
        Err(Aborted)
    }

    fn rules_failed(&mut self, ops: &[RulesOp], outcome: &BatchReport, now: Time) {
        let first = outcome.failed.first();
        let reason = first.map_or("answers of the kernel were lost", |failure| &failure.reason);
        if self.retry.fail(Subject::Base, reason, now) {
            let op = first.and_then(|failure| ops.get(failure.index)).map(ToString::to_string);
            error!("nftables transaction refused: {}: {reason}; will be tried again", op.unwrap_or_default());
        }
    }

    fn executed(&mut self, op: &Operation, report: &mut Report) {
        debug!("{op}");
        self.mirror.record(op);
        report.written += 1;
    }

    pub(crate) fn base_failed(&mut self, error: &TableError, now: Time) {
        let reason = chain(error);
        if self.retry.fail(Subject::Base, &reason, now) {
            error!("{reason}; will be tried again");
        }
    }
}

fn vip_subject(op: &VipOp) -> Subject {
    match op {
        VipOp::EnsureRoute { vip, .. } | VipOp::DeleteRoute { vip } => Subject::Vip(*vip),
        VipOp::DeleteAddress { addr } => Subject::Address(*addr),
        VipOp::EnsureLink | VipOp::DeleteLink => Subject::Base,
    }
}
