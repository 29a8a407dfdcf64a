//! Between model, kernel and ledger: drains begin, are polled, and end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use dataplane::TableError;
use drain::{Cause, Key, Ledger, Outcome, Record, Settings, State, Time, Verdict};
use lb_types::{Front, IpvsOp, PodUid, RealServerId};
use planner::{Desired, Dirty, Fate, Mirror, Plan, Situation, Subject, Successor, Vacated};
use service_model::ServiceModel;
use tracing::{info, warn};

use crate::{Ended, Report, intents::Intents, kernel::Findings, problems::chain, syncer::Syncer};

/// Fronts whose draining real servers are polled in one step, so that events never wait long.
const POLLS_PER_STEP: usize = 4;

/// The pod that a real server has served, until its drain begins.
#[derive(Clone, Debug)]
struct Owner {
    /// `NAMESPACE/NAME/UID`
    name: Arc<str>,
    /// True if it has left a slice while it was terminating.
    ended: bool,
}

/// Everything about the way out.
pub(crate) struct Drains {
    pub(crate) ledger: Ledger,
    /// Owners of real servers that take no new connections any more and whose drains have not begun: the kernel has yet
    /// to execute the write.
    owners: BTreeMap<Key, Owner>,
    /// Drains that have begun and are not reported yet.
    begun: usize,
    /// Drains of the process before this one.
    restored: Vec<(Key, Record)>,
}

/// State by which drains are judged.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    model: &'a ServiceModel,
    desired: &'a Desired,
    mirror: &'a Mirror,
    now: Time,
}

impl<'a> View<'a> {
    pub(crate) fn new(intents: &'a Intents, mirror: &'a Mirror, now: Time) -> Self {
        View { model: &intents.model, desired: &intents.desired, mirror, now }
    }

    /// Tells whether the kernel has a real server and gives it no new connections.
    fn is_quiesced(&self, key: &Key) -> bool {
        let settings = self.mirror.server(&key.front).and_then(|server| server.real_server(&key.rs));
        settings.is_some_and(|settings| settings.weight.is_quiesced())
    }
}

impl Drains {
    pub(crate) fn new(settings: Settings) -> Self {
        Drains { ledger: Ledger::new(settings), owners: BTreeMap::new(), begun: 0, restored: Vec::new() }
    }

    /// Keeps the drains of the process before this one until the kernel has been dumped.
    pub(crate) fn restore(&mut self, records: impl IntoIterator<Item = (Key, Record)>) {
        self.restored.extend(records);
    }

    /// Real servers whose drains the process before this one has recorded.
    pub(crate) fn recorded(&self) -> impl Iterator<Item = &Key> {
        self.restored.iter().map(|(key, _)| key)
    }

    /// Goes on with those drains of the process before this one whose real servers the kernel still has, quiesced, and
    /// judges at once what has become of their pods meanwhile.
    pub(crate) fn adopt(&mut self, view: View<'_>) {
        let (mut resumed, records) = (0, std::mem::take(&mut self.restored));
        let count = records.len();
        for (key, record) in records {
            if !view.is_quiesced(&key) {
                continue;
            }
            let ended = record.pod_ended || record.cause == Cause::Terminating;
            self.ledger.restore(key, record, view.now);
            if ended {
                self.ledger.pod_ended(&key);
            }
            resumed += 1;
            let fate = self.situation_of_drain(&key, view).map(|situation| match situation.successor {
                // Whoever is there has come while nobody looked.
                Successor::SamePort => Situation { successor: Successor::Newcomer, ..situation }.fate(),
                // The first list may fall between two writes of the controller.
                _ => Situation { may_move: true, ..situation }.fate(),
            });
            self.follow_fate(key, fate.unwrap_or(Fate::Keep), view, &mut Dirty::default());
        }
        if resumed < count {
            // Who lists the drains must not be shown what is none.
            self.ledger.mark_changed();
        }
        if count > 0 {
            info!("goes on with {resumed} of {count} drains that were recorded");
        }
    }

    /// Judges real servers by what came and went: pods that are gone, and addresses that have changed hands.
    pub(crate) fn revise(&mut self, vacated: Vec<Vacated>, view: View<'_>, dirty: &mut Dirty) {
        for Vacated { key, service, pod } in vacated {
            let server = view.mirror.server(&key.front);
            let has = server.is_some_and(|have| have.real_server(&key.rs).is_some());
            if !has || self.ledger.get(&key).is_some() {
                continue;
            }
            let situation = self.situation(&key, pod, false, view);
            // Whoever serves there now shares what goes on; an eviction is of the pod that did.
            let is_its = !situation.serves || situation.fate() == Fate::HandedOver;
            let pod = pod.filter(|_| is_its);
            match pod.and_then(|pod| view.model.pod_name(&service, key.rs.addr, pod)) {
                Some(name) => _ = self.owners.insert(key, Owner { name, ended: situation.ended }),
                None => _ = self.owners.remove(&key),
            }
            self.follow_fate(key, situation.fate(), view, dirty);
        }
        if !self.ledger.is_empty() || !self.owners.is_empty() {
            self.revise_running(view, dirty);
        }
    }

    /// Judges the drains at addresses that somebody has left or come to.
    fn revise_running(&mut self, view: View<'_>, dirty: &mut Dirty) {
        let departed = view.model.listings().departed().map(|((addr, pod), how)| (*addr, *pod, how.ended));
        let arrived = view.model.listings().arrived().map(|listing| (listing.addr, listing.pod, false));
        for (addr, pod, ended) in departed.chain(arrived) {
            // Also of those whose drains cannot begin, because the kernel refuses the weight.
            for (key, owner) in &mut self.owners {
                owner.ended |= ended && key.rs.addr == addr && PodUid::of(&owner.name) == pod;
            }
            let keys: Vec<_> = self.ledger.at(addr).copied().collect();
            for key in keys {
                if ended && self.ledger.get(&key).is_some_and(|drain| drain.owner() == pod) {
                    self.ledger.pod_ended(&key);
                }
                let fate = self.situation_of_drain(&key, view).map_or(Fate::Keep, Situation::fate);
                self.follow_fate(key, fate, view, dirty);
            }
        }
    }

    fn situation_of_drain(&self, key: &Key, view: View<'_>) -> Option<Situation> {
        let drain = self.ledger.get(key)?;
        let endpoint_gone = drain.settings.endpoint_gone;
        let seen = self.situation(key, drain.owner(), drain.pod_ended, view);
        // Whatever else happens at the address, the pod has its time.
        let has_left = view.model.listings().departure(key.rs.addr, drain.owner()).is_some();
        let may_move = seen.may_move || !has_left && drain.gone_at.is_some_and(|at| at > view.now);
        Some(Situation { endpoint_gone, may_move, ..seen })
    }

    /// Knowledge about a pod whose connections a real server has.
    fn situation(&self, key: &Key, pod: Option<PodUid>, ended: bool, view: View<'_>) -> Situation {
        let endpoint = view.desired.front(&key.front).and_then(|want| want.endpoint(&key.rs));
        let serves = endpoint.is_some_and(|endpoint| endpoint.chosen);
        let endpoint_gone = self.ledger.settings.with(view.desired.drain_overrides(&key.front)).endpoint_gone;
        let seen = Situation::of(pod, &key.rs, key.front.protocol(), view.model.listings());
        Situation { ended: ended || seen.ended, serves, endpoint_gone, ..seen }
    }

    fn follow_fate(&mut self, key: Key, fate: Fate, view: View<'_>, dirty: &mut Dirty) {
        match fate {
            Fate::Keep => return self.ledger.endpoint_listed(&key),
            Fate::PerhapsGone => {
                self.begin(key, Cause::Terminating, view);
                match self.ledger.judge(&key, view.desired.drain_overrides(&key.front)) {
                    Verdict::Quiesce => self.ledger.endpoint_perhaps_gone(&key, view.now),
                    // What is removed at once must stay away as long as if the pod were gone for certain.
                    Verdict::Remove(_) => self.ledger.endpoint_gone(&key),
                }
            }
            Fate::Gone => {
                self.begin(key, Cause::Terminating, view);
                self.ledger.endpoint_gone(&key);
            }
            Fate::HandedOver => {
                if self.ledger.address_reused(key, view.now) {
                    self.note_begun(&key, Cause::AddressReused, view);
                }
            }
        }
        dirty.insert(Subject::Front(key.front));
    }

    /// Follows an executed plan: drains begin and end with what the kernel did of it.
    pub(crate) fn follow(&mut self, plan: &Plan, deleted: &[IpvsOp], view: View<'_>, report: &mut Report) {
        for op in deleted {
            let Some(front) = view.mirror.front(&op.virtual_server()) else { continue };
            match *op {
                IpvsOp::DeleteRealServer { rs, .. } => self.end_removed(&Key { front, rs }, view.now, report),
                _ => self.end_all(front, view.now, report),
            }
        }
        // Nothing could be said about those that still take new connections.
        for new in plan.drains.iter().filter(|new| view.is_quiesced(&new.key)) {
            self.begin(new.key, new.cause, view);
        }
        // Where the kernel has refused the weight, it goes on draining.
        for key in plan.returned.iter().filter(|key| !view.is_quiesced(key)) {
            self.end(key, Outcome::Returned, view.now, report);
        }
        report.drains_begun += std::mem::take(&mut self.begun);
    }

    fn begin(&mut self, key: Key, cause: Cause, view: View<'_>) {
        let overrides = *view.desired.drain_overrides(&key.front);
        if self.ledger.begin(key, cause, &overrides, view.now) {
            self.note_begun(&key, cause, view);
        }
    }

    fn note_begun(&mut self, key: &Key, cause: Cause, view: View<'_>) {
        self.begun += 1;
        let pod = self.name_pod(key, view);
        let policy = self.ledger.settings.with(view.desired.drain_overrides(&key.front)).policy;
        let pod = pod.as_deref().unwrap_or("unknown");
        info!(%policy, pod, "drain of real server {} of {} begins: {cause}", key.rs, key.front);
    }

    /// Notes whose connections drain: those of the pod that served last, else of the one that is listed.
    fn name_pod(&mut self, key: &Key, view: View<'_>) -> Option<Arc<str>> {
        let listed = || {
            let pod = view.desired.front(&key.front)?.endpoint(&key.rs)?.pod?;
            let name = view.model.pod_name(view.desired.service_of(&key.front)?, key.rs.addr, pod)?;
            Some(Owner { name, ended: false })
        };
        let Owner { name, ended } = self.owners.remove(key).or_else(listed)?;
        self.ledger.note_pod(key, &name);
        if ended {
            self.ledger.pod_ended(key);
        }
        Some(name)
    }

    fn end(&mut self, key: &Key, outcome: Outcome, now: Time, report: &mut Report) {
        let Some(drain) = self.ledger.end(key) else { return };
        let after = now.saturating_sub(drain.since);
        let cut = if outcome.cuts() { drain.active() } else { 0 };
        report.ended.push(Ended { outcome, after, cut });
        info!(cut, "drain of real server {} of {} ended: {outcome} after {after:.1?}", key.rs, key.front);
    }

    /// A real server was removed.
    fn end_removed(&mut self, key: &Key, now: Time, report: &mut Report) {
        let outcome = match self.ledger.state(key) {
            State::Due(outcome) => outcome,
            State::Absent | State::Draining | State::HeldDown(_) => Outcome::Immediate,
        };
        self.owners.remove(key);
        if matches!(outcome, Outcome::AddressReused | Outcome::EndpointGone) {
            self.ledger.hold_down(*key, now);
        }
        self.end(key, outcome, now, report);
    }

    /// A virtual server was removed, with whatever real servers it had.
    fn end_all(&mut self, front: Front, now: Time, report: &mut Report) {
        self.owners.retain(|key, _| key.front != front);
        let keys: Vec<_> = self.ledger.of(&front).copied().collect();
        for key in keys {
            self.end(&key, Outcome::VirtualServerGone, now, report);
        }
    }

    /// Real servers of a front that must be removed.
    fn count_over(&self, front: &Front) -> usize {
        self.ledger.of(front).filter(|key| matches!(self.ledger.state(key), State::Due(_))).count()
    }

    fn forget_vanished(
        &mut self,
        front: &Front,
        present: &BTreeSet<RealServerId>,
        now: Time,
        report: &mut Report,
    ) {
        self.owners.retain(|key, _| key.front != *front || present.contains(&key.rs));
        let vanished: Vec<_> =
            self.ledger.of(front).filter(|key| !present.contains(&key.rs)).copied().collect();
        for key in vanished {
            self.end(&key, Outcome::Vanished, now, report);
        }
    }
}

impl Syncer {
    /// Polls some fronts that have draining real servers: reads their counters; returns of how many fronts. What is
    /// over is removed by the next step, so that what this one costs is what the polls cost.
    pub(crate) fn poll_some(&mut self, now: Time, report: &mut Report) -> usize {
        let due: Vec<_> = self.drains.ledger.due(now).take(POLLS_PER_STEP).collect();
        let (mut findings, mut failed) = (Findings::default(), None);
        for front in &due {
            // Without counters only the deadline counts.
            if let Err(error) = self.poll(front, now, &mut findings, report) {
                failed = Some(error);
            }
        }
        if let Some(error) = failed {
            warn!("{}", chain(&error));
        }
        self.keep(findings, now);
        due.len()
    }

    fn poll(
        &mut self,
        front: &Front,
        now: Time,
        findings: &mut Findings,
        report: &mut Report,
    ) -> Result<(), TableError> {
        let Syncer { kernel, intents, drains, work, .. } = self;
        let mut counters = BTreeMap::new();
        let result = match kernel.mirror.key(front) {
            Some(vs) => kernel.observe_real_servers(vs, intents.ours(), findings),
            None => Ok(Vec::new()),
        };
        let result = result.map(|observed| {
            counters.extend(observed.into_iter().map(|rs| (rs.id, (rs.connections, rs.traffic))));
            drains.forget_vanished(front, &counters.keys().copied().collect(), now, report);
        });
        let known = drains.count_over(front);
        let any_due = drains.ledger.poll(*front, now, |rs| counters.get(rs).copied());
        // A refused write is tried again when its time has come, not with every poll; but what has just come to its end
        // does not wait for that.
        let is_new = drains.count_over(front) > known;
        let subject = Subject::Front(*front);
        if is_new || any_due && !work.must_wait(subject, now) {
            findings.dirty.insert(subject);
        }
        result
    }
}
