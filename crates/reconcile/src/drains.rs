//! Between model, kernel and ledger: drains begin, are looked at, and end.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use drain::{Cause, Drain, EndpointGone, Key, Outcome, Record, Time};
use lb_types::{RealServerId, ServiceName, VirtualServerId};
use planner::{Plan, Touch};
use service_model::Departure;
use tracing::{info, warn};

use crate::{Ended, Reconciler, Report, adopt::chain, apply::Run, retry::Subject};

/// Virtual servers whose draining real servers are looked at in one step, so that events never wait long.
const POLLS_PER_STEP: usize = 128;

/// What only matters until the plan of a step is executed, or until the first one is.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Pods of addresses that have left their slices: whose connections drain there.
    left: HashMap<IpAddr, Arc<str>>,
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

    /// Of the drains of the process before this one, those whose real servers the kernel still has, quiesced.
    pub(crate) fn adopt_drains(&mut self, now: Time) {
        let (mut resumed, records) = (0, std::mem::take(&mut self.notes.restored));
        let count = records.len();
        for (key, record) in records {
            let server = self.mirror.servers.get(&key.vs);
            let settings = server.and_then(|server| server.real_server(&key.rs));
            if settings.is_some_and(|settings| settings.weight.is_quiesced()) {
                self.ledger.restore(key, record, now);
                resumed += 1;
            }
        }
        if count > 0 {
            info!("goes on with {resumed} of {count} drains that were recorded");
        }
    }

    /// Once all Services are known: pods that were terminating when the process before this one ended, and are gone.
    pub(crate) fn judge_resumed(&mut self, touch: &mut Touch) {
        let is_gone = |key: &Key, drain: &Drain| {
            let intent = self.desired.server(&key.vs).filter(|_| !self.desired.is_retiring(&key.vs));
            drain.cause == Cause::Terminating
                && intent.is_some_and(|intent| intent.known.binary_search(&key.rs).is_err())
        };
        let gone: Vec<_> =
            self.ledger.iter().filter(|(key, drain)| is_gone(key, drain)).map(|(key, _)| *key).collect();
        for key in gone {
            self.ledger.endpoint_gone(&key);
            touch.servers.insert(key.vs);
        }
    }

    /// What a changed Service means for its drains.
    pub(crate) fn revise_drains(
        &mut self,
        name: &ServiceName,
        departed: BTreeMap<IpAddr, Departure>,
        now: Time,
        touch: &mut Touch,
    ) {
        for (addr, departure) in departed {
            self.depart(name, (addr, &departure), now, touch);
            if let Some(pod) = departure.pod {
                self.notes.left.insert(addr, pod);
            }
        }
        if !self.ledger.is_empty() {
            self.configure_drains(name, now);
            self.evict_predecessors(name, now, touch);
        }
    }

    fn depart(
        &mut self,
        name: &ServiceName,
        (addr, departure): (IpAddr, &Departure),
        now: Time,
        touch: &mut Touch,
    ) {
        for (key, is_known) in self.desired.present_at(name, addr, &self.mirror) {
            if !is_known && departure.terminating {
                self.endpoint_gone(key, now);
            } else if is_known && differs(departure.pod.as_ref(), self.model.pod_at(name, addr).as_ref()) {
                self.ledger.address_reused(key, now);
            } else {
                continue;
            }
            touch.servers.insert(key.vs);
        }
    }

    /// The pod of an endpoint was deleted: its real server is not waited for.
    fn endpoint_gone(&mut self, key: Key, now: Time) {
        let overrides =
            self.desired.server(&key.vs).map(|intent| *intent.drain_overrides()).unwrap_or_default();
        if self.config.drain.with(&overrides).endpoint_gone == EndpointGone::Remove {
            self.ledger.begin(key, Cause::Terminating, &overrides, now);
        }
        self.ledger.endpoint_gone(&key);
    }

    /// Drains follow the settings of their Service.
    fn configure_drains(&mut self, name: &ServiceName, now: Time) {
        for server in self.desired.servers_of(name) {
            self.ledger.configure(server.vs, server.drain_overrides(), now);
        }
    }

    /// Endpoints that come to a Service with an address that connections of another pod still use, in whatever
    /// Service: those go first.
    fn evict_predecessors(&mut self, name: &ServiceName, now: Time, touch: &mut Touch) {
        let mut evicted = Vec::new();
        for server in self.desired.servers_of(name) {
            let have = self.mirror.servers.get(&server.vs);
            let serves = |rs: &RealServerId| {
                have.and_then(|have| have.real_server(rs)).is_some_and(|rs| !rs.weight.is_quiesced())
            };
            for rs in server.real_servers.iter().filter(|rs| !serves(rs)) {
                let mut drains = self.ledger.at(rs.addr).peekable();
                if drains.peek().is_none() {
                    continue;
                }
                let pod = self.model.pod_at(name, rs.addr);
                let of_another = |key: &&Key| {
                    differs(self.ledger.get(key).and_then(|drain| drain.pod.as_ref()), pod.as_ref())
                };
                evicted.extend(drains.filter(of_another).copied());
            }
        }
        for key in evicted {
            self.ledger.address_reused(key, now);
            touch.servers.insert(key.vs);
        }
    }

    /// Begins the drains of those that really do not take new connections any more: nothing could be said about the
    /// others.
    pub(crate) fn begin_drains(&mut self, plan: &Plan, run: &mut Run<'_>) {
        for new in &plan.drains {
            let present =
                self.mirror.servers.get(&new.key.vs).and_then(|server| server.real_server(&new.key.rs));
            if present.is_some_and(|settings| settings.weight.is_quiesced()) {
                self.begin_drain(new.key, new.cause, run);
            }
        }
        for key in &plan.returned {
            self.end_drain(key, Outcome::Returned, run.now, run.report);
        }
        self.notes.left.clear();
    }

    fn begin_drain(&mut self, key: Key, cause: Cause, run: &mut Run<'_>) {
        let intent = self.desired.server(&key.vs);
        let overrides = intent.map(|intent| *intent.drain_overrides()).unwrap_or_default();
        if !self.ledger.begin(key, cause, &overrides, run.now) {
            return;
        }
        let listed = || self.model.pod_at(self.desired.last_service_of(&key.vs)?, key.rs.addr);
        let pod = self.notes.left.get(&key.rs.addr).cloned().or_else(listed);
        pod.iter().for_each(|pod| self.ledger.note_pod(&key, pod));
        run.report.drains_begun += 1;
        let policy = self.config.drain.with(&overrides).policy;
        let pod = pod.as_deref().unwrap_or("unknown");
        info!(%policy, pod, "drain of real server {} of {} begins: {cause}", key.rs, key.vs);
    }

    pub(crate) fn end_drain(&mut self, key: &Key, outcome: Outcome, now: Time, report: &mut Report) {
        let Some(drain) = self.ledger.end(key) else { return };
        let after = now.saturating_sub(drain.since);
        let cut = if outcome.cuts() { drain.active() } else { 0 };
        report.ended.push(Ended { outcome, after, cut });
        info!(cut, "drain of real server {} of {} ended: {outcome} after {after:.1?}", key.rs, key.vs);
    }

    /// A real server was removed.
    pub(crate) fn drained(&mut self, key: &Key, run: &mut Run<'_>) {
        let outcome = self.ledger.get(key).and_then(|drain| drain.due).unwrap_or(Outcome::Immediate);
        if outcome == Outcome::AddressReused {
            self.ledger.rest(*key, run.now);
        }
        self.end_drain(key, outcome, run.now, run.report);
    }

    /// Reads the counters of some virtual servers that have draining real servers, and notes what is due.
    pub(crate) fn poll_drains(&mut self, now: Time, touch: &mut Touch, report: &mut Report) {
        touch.servers.extend(self.ledger.rested(now));
        let due: Vec<_> = self.ledger.due(now).take(POLLS_PER_STEP).collect();
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
            let any_due = self.ledger.poll(vs, now, |rs| counters.get(rs).copied());
            // A refused removal is tried again when its time has come, not with every poll.
            if any_due && !self.retry.must_wait(&Subject::Server(vs), now) {
                touch.servers.insert(vs);
            }
        }
        failed.iter().for_each(|error| warn!("{}", chain(error)));
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

/// Whether both pods are known and not the same.
fn differs(a: Option<&Arc<str>>, b: Option<&Arc<str>>) -> bool {
    a.zip(b).is_some_and(|(a, b)| a != b)
}
