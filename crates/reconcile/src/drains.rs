//! Between model, kernel and ledger: drains begin, are looked at, and end.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use drain::{Cause, Drain, Key, Outcome, Record, Time};
use lb_types::{PodUid, Protocol, RealServerId, VirtualServerId};
use planner::{Fate, Plan, Situation, Successor, Touch, Vacated};
use tracing::{info, warn};

use crate::{Ended, Reconciler, Report, adopt::chain, apply::Run, retry::Subject};

/// Virtual servers whose draining real servers are looked at in one step, so that events never wait long.
const POLLS_PER_STEP: usize = 4;

/// The pod that a real server has served, until its drain begins.
#[derive(Clone, Debug)]
struct Owner {
    /// `NAMESPACE/NAME/UID`
    name: Arc<str>,
    /// Whether it has left a slice while it was terminating.
    ended: bool,
}

/// What only matters until a drain begins, or is planned.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Owners of real servers that take no new connections any more and whose drains have not begun: the kernel has yet
    /// to execute the write.
    owners: HashMap<Key, Owner>,
    /// Drains that have begun and are not reported yet.
    begun: usize,
    /// Virtual servers that the last step polled.
    pub(crate) polled: usize,
    /// Drains of the process before this one.
    restored: Vec<(Key, Record)>,
}

impl Reconciler {
    /// Takes over the drains of the process before this one; to be called before the first step.
    pub fn restore(&mut self, records: impl IntoIterator<Item = (Key, Record)>) {
        self.notes.restored.extend(records);
    }

    /// The real servers that are on their way out: for listings, and for [`Reconciler::restore`] after a restart.
    pub fn drains(&self) -> impl Iterator<Item = (&Key, &Drain)> {
        self.ledger.iter()
    }

    /// How many there are.
    pub fn draining(&self) -> usize {
        self.ledger.len()
    }

    /// Changes whenever what must survive a restart has changed.
    pub fn drains_version(&self) -> u64 {
        self.ledger.version()
    }

    /// Of the drains of the process before this one, those whose real servers the kernel still has, quiesced. What has
    /// become of their pods meanwhile is judged at once.
    pub(crate) fn adopt_drains(&mut self, now: Time) {
        let (mut resumed, records) = (0, std::mem::take(&mut self.notes.restored));
        let count = records.len();
        for (key, record) in records {
            if self.is_quiesced(&key) {
                let ended = record.cause == Cause::Terminating;
                self.ledger.restore(key, record, now);
                if ended {
                    self.ledger.pod_ended(&key);
                }
                resumed += 1;
                let fate = self.situation_of_drain(&key).map(|situation| match situation.successor {
                    // Whoever is there has come while nobody looked.
                    Successor::SamePort => Situation { successor: Successor::Newcomer, ..situation }.fate(),
                    _ => situation.fate(),
                });
                self.follow_fate(key, fate.unwrap_or(Fate::Keep), now, &mut Touch::default());
            }
        }
        if resumed < count {
            // Who lists the drains must not be shown what is none.
            self.ledger.mark_changed();
        }
        if count > 0 {
            info!("goes on with {resumed} of {count} drains that were recorded");
        }
    }

    /// What all that came and went means for real servers: pods that are gone, and addresses that have changed hands.
    pub(crate) fn revise_drains(&mut self, vacated: Vec<Vacated>, now: Time, touch: &mut Touch) {
        for Vacated { key, service, pod } in vacated {
            let has =
                self.mirror.servers.get(&key.vs).is_some_and(|have| have.real_server(&key.rs).is_some());
            if !has || self.ledger.get(&key).is_some() {
                continue;
            }
            let situation = self.situation(&key, pod, false);
            // Whoever serves there now shares what goes on; an eviction is of the pod that did.
            let is_its = !situation.serves || situation.fate() == Fate::HandedOver;
            let pod = pod.filter(|_| is_its);
            match pod.and_then(|pod| self.model.pod_name(&service, key.rs.addr, pod)) {
                Some(name) => _ = self.notes.owners.insert(key, Owner { name, ended: situation.ended }),
                None => _ = self.notes.owners.remove(&key),
            }
            self.follow_fate(key, situation.fate(), now, touch);
        }
        if !self.ledger.is_empty() {
            self.revise_running(now, touch);
        }
    }

    /// Judges the drains at addresses that somebody has left or come to.
    fn revise_running(&mut self, now: Time, touch: &mut Touch) {
        let departed = self.model.departed().map(|((addr, pod), how)| (*addr, *pod, how.ended));
        let arrived = self.model.arrived().map(|listing| (listing.addr, listing.pod, false));
        let changes: Vec<_> = departed.chain(arrived).collect();
        for (addr, pod, ended) in changes {
            let keys: Vec<_> = self.ledger.at(addr).copied().collect();
            for key in keys {
                if ended && self.ledger.get(&key).is_some_and(|drain| drain.owner() == pod) {
                    self.ledger.pod_ended(&key);
                }
                let fate = self.situation_of_drain(&key).map_or(Fate::Keep, Situation::fate);
                self.follow_fate(key, fate, now, touch);
            }
        }
    }

    fn situation_of_drain(&self, key: &Key) -> Option<Situation> {
        let drain = self.ledger.get(key)?;
        let endpoint_gone = drain.settings.endpoint_gone;
        Some(Situation { endpoint_gone, ..self.situation(key, drain.owner(), drain.pod_ended) })
    }

    /// What is known of a pod whose connections a real server has.
    fn situation(&self, key: &Key, pod: Option<PodUid>, ended: bool) -> Situation {
        let protocol = key.vs.protocol().unwrap_or(Protocol::Tcp);
        let endpoint = self.desired.server(&key.vs).and_then(|server| server.endpoint(&key.rs));
        let serves = endpoint.is_some_and(|endpoint| endpoint.chosen);
        let endpoint_gone = self.config.drain.with(self.desired.drain_overrides(&key.vs)).endpoint_gone;
        Situation::of(pod, (&key.rs, protocol), &self.model, (ended, serves), endpoint_gone)
    }

    fn follow_fate(&mut self, key: Key, fate: Fate, now: Time, touch: &mut Touch) {
        match fate {
            Fate::Keep => return,
            Fate::Gone => {
                self.begin_drain(key, Cause::Terminating, now);
                self.ledger.endpoint_gone(&key);
            }
            Fate::HandedOver => {
                if self.ledger.address_reused(key, now) {
                    self.note_begun(&key, Cause::AddressReused);
                }
            }
        }
        touch.servers.insert(key.vs);
    }

    /// Whether the kernel has a real server and gives it no new connections.
    fn is_quiesced(&self, key: &Key) -> bool {
        let server = self.mirror.servers.get(&key.vs);
        let settings = server.and_then(|server| server.real_server(&key.rs));
        settings.is_some_and(|settings| settings.weight.is_quiesced())
    }

    /// Begins the drains of those that really do not take new connections any more: nothing could be said about the
    /// others.
    pub(crate) fn begin_drains(&mut self, plan: &Plan, run: &mut Run<'_>) {
        for new in &plan.drains {
            if self.is_quiesced(&new.key) {
                self.begin_drain(new.key, new.cause, run.now);
            }
        }
        for key in &plan.returned {
            // Where the kernel has refused the weight, it goes on draining.
            if !self.is_quiesced(key) {
                self.end_drain(key, Outcome::Returned, run.now, run.report);
            }
        }
        run.report.drains_begun += std::mem::take(&mut self.notes.begun);
    }

    fn begin_drain(&mut self, key: Key, cause: Cause, now: Time) {
        let overrides = *self.desired.drain_overrides(&key.vs);
        if self.ledger.begin(key, cause, &overrides, now) {
            self.note_begun(&key, cause);
        }
    }

    fn note_begun(&mut self, key: &Key, cause: Cause) {
        self.notes.begun += 1;
        let pod = self.name_pod(key);
        let policy = self.config.drain.with(self.desired.drain_overrides(&key.vs)).policy;
        let pod = pod.as_deref().unwrap_or("unknown");
        info!(%policy, pod, "drain of real server {} of {} begins: {cause}", key.rs, key.vs);
    }

    /// Notes whose connections drain: those of the pod that served last, else of the one that is listed.
    fn name_pod(&mut self, key: &Key) -> Option<Arc<str>> {
        let owner = self.notes.owners.remove(key);
        let listed = || {
            let pod = self.desired.server(&key.vs)?.endpoint(&key.rs)?.pod?;
            let name = self.model.pod_name(self.desired.service_of(&key.vs)?, key.rs.addr, pod)?;
            Some(Owner { name, ended: false })
        };
        let Owner { name, ended } = owner.or_else(listed)?;
        self.ledger.note_pod(key, &name);
        if ended {
            self.ledger.pod_ended(key);
        }
        Some(name)
    }

    pub(crate) fn end_drain(&mut self, key: &Key, outcome: Outcome, now: Time, report: &mut Report) {
        let Some(drain) = self.ledger.end(key) else { return };
        let after = now.saturating_sub(drain.since);
        let cut = if outcome.cuts() { drain.active() } else { 0 };
        report.ended.push(Ended { outcome, after, cut });
        info!(cut, "drain of real server {} of {} ended: {outcome} after {after:.1?}", key.rs, key.vs);
    }

    /// A virtual server was removed, with whatever real servers it had.
    pub(crate) fn drained_with(&mut self, vs: VirtualServerId, run: &mut Run<'_>) {
        self.notes.owners.retain(|key, _| key.vs != vs);
        let keys: Vec<_> = self.ledger.of(&vs).copied().collect();
        keys.iter().for_each(|key| self.end_drain(key, Outcome::VirtualServerGone, run.now, run.report));
    }

    /// A real server was removed.
    pub(crate) fn drained(&mut self, key: &Key, run: &mut Run<'_>) {
        let outcome = self.ledger.get(key).and_then(|drain| drain.due).unwrap_or(Outcome::Immediate);
        self.notes.owners.remove(key);
        if matches!(outcome, Outcome::AddressReused | Outcome::EndpointGone) {
            self.ledger.rest(*key, run.now);
        }
        self.end_drain(key, outcome, run.now, run.report);
    }

    /// Reads the counters of some virtual servers that have draining real servers; returns whether any were due. What is
    /// over is removed by the next step, so that what this one costs is what the polls cost.
    pub(crate) fn poll_drains(&mut self, now: Time, report: &mut Report) -> bool {
        let due: Vec<_> = self.ledger.due(now).take(POLLS_PER_STEP).collect();
        if due.is_empty() || !self.is_planned() {
            return false;
        }
        self.notes.polled = due.len();
        let mut touch = Touch::default();
        self.poll_some(due, now, &mut touch, report);
        self.find(touch, report);
        true
    }

    /// What the last step took, if it polled.
    pub(crate) fn polls_spent(&mut self, took: Duration) {
        self.ledger.polls_took(u32::try_from(self.notes.polled).unwrap_or(u32::MAX), took);
    }

    fn poll_some(&mut self, due: Vec<VirtualServerId>, now: Time, touch: &mut Touch, report: &mut Report) {
        let mut failed = None;
        for vs in due {
            let mut counters = BTreeMap::new();
            match self.observe_real_servers(vs, touch, report) {
                Ok(observed) => {
                    counters.extend(observed.into_iter().map(|rs| (rs.id, (rs.connections, rs.traffic))));
                    self.forget_vanished(vs, &counters, now, report);
                }
                // Only the deadline counts then.
                Err(error) => failed = Some(error),
            }
            let known = self.count_over(&vs);
            let any_due = self.ledger.poll(vs, now, |rs| counters.get(rs).copied());
            // A refused write is tried again when its time has come, not with every poll; but what has just come to
            // its end does not wait for that.
            let is_new = self.count_over(&vs) > known;
            if is_new || any_due && !self.retry.must_wait(&Subject::Server(vs), now) {
                touch.servers.insert(vs);
            }
        }
        failed.iter().for_each(|error| warn!("{}", chain(error)));
    }

    /// Real servers of a virtual server that must be removed.
    fn count_over(&self, vs: &VirtualServerId) -> usize {
        let drains = self.ledger.of(vs).filter_map(|key| self.ledger.get(key));
        drains.filter(|drain| drain.due.is_some()).count()
    }

    fn forget_vanished<T>(
        &mut self,
        vs: VirtualServerId,
        present: &BTreeMap<RealServerId, T>,
        now: Time,
        report: &mut Report,
    ) {
        let vanished: Vec<_> =
            self.ledger.of(&vs).filter(|key| !present.contains_key(&key.rs)).copied().collect();
        vanished.iter().for_each(|key| self.end_drain(key, Outcome::Vanished, now, report));
    }
}
