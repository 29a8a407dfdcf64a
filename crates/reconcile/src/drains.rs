//! Between model, kernel and ledger: drains begin, are looked at, and end.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use drain::{Cause, Drain, EndpointGone, Key, Outcome, Overrides, Record, Time};
use lb_types::{RealServerId, ServiceName, VirtualServerId};
use planner::{Plan, ServerIntent, Touch};
use service_model::{Departure, Moves, is_another_pod};
use tracing::{info, warn};

use crate::{Ended, Reconciler, Report, adopt::chain, apply::Run, retry::Subject};

/// Virtual servers whose draining real servers are looked at in one step, so that events never wait long.
const POLLS_PER_STEP: usize = 4;

/// How long an arrival is remembered at least: slices of several Services follow each other.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What moved among the endpoints of one Service, and which virtual servers it had before.
#[derive(Debug)]
struct Moved {
    name: ServiceName,
    moves: Moves,
    before: Vec<VirtualServerId>,
}

/// What only matters until a drain begins, or is planned.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    /// Of the Services of this step.
    moved: Vec<Moved>,
    /// Pods of real servers whose endpoints have left their slices, until their drains begin.
    left: HashMap<Key, Arc<str>>,
    /// Pods that have come to an address not long ago, and those that came before.
    arrived: [HashMap<IpAddr, Arc<str>>; 2],
    /// When the first of `arrived` was begun.
    arrived_since: Time,
    /// Drains that have begun and are not reported yet.
    begun: usize,
    /// Virtual servers that the last step polled.
    polled: usize,
    /// Drains of the process before this one.
    restored: Vec<(Key, Record)>,
}

impl Notes {
    /// Remembers who came where.
    fn arrive(&mut self, now: Time) {
        if now.saturating_sub(self.arrived_since) >= REMEMBERED {
            let recent = std::mem::take(&mut self.arrived[0]);
            self.arrived[1] = recent;
            self.arrived_since = now;
        }
        for (addr, pod) in self.moved.iter().flat_map(|moved| &moved.moves.arrived) {
            self.arrived[0].insert(*addr, Arc::clone(pod));
        }
    }

    /// The pod that came to an address last, not long ago.
    fn newcomer(&self, addr: IpAddr) -> Option<&Arc<str>> {
        self.arrived[0].get(&addr).or_else(|| self.arrived[1].get(&addr))
    }
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
            if self.is_quiesced(&key) {
                self.ledger.restore(key, record, now);
                resumed += 1;
            }
        }
        if count > 0 {
            info!("goes on with {resumed} of {count} drains that were recorded");
        }
    }

    /// Once all Services are known: pods that were terminating when the process before this one ended, and are gone, or
    /// whose address another pod has now.
    pub(crate) fn judge_resumed(&mut self, now: Time, touch: &mut Touch) {
        if self.ledger.is_empty() {
            return;
        }
        let is_listed = |key: &Key, intent: &ServerIntent| intent.known.binary_search(&key.rs).is_ok();
        let has_left = |key: &Key| self.served(&key.vs).is_some_and(|intent| !is_listed(key, intent));
        let resumed = self.ledger.iter().filter(|(_, drain)| drain.cause == Cause::Terminating);
        let gone: Vec<_> = resumed.map(|(key, _)| *key).filter(has_left).collect();
        for key in gone {
            self.ledger.endpoint_gone(&key);
            touch.servers.insert(key.vs);
        }
        let pods = self.model.pods_at(|addr| self.ledger.at(addr).next().is_some());
        pods.iter().for_each(|(addr, pod)| self.evict_predecessors(*addr, pod, now, touch));
    }

    /// Whether the Service of a drain lists its address for another pod.
    fn has_successor(&self, key: &Key, drain: &Drain) -> bool {
        let name = self.desired.last_service_of(&key.vs);
        let listed = name.and_then(|name| self.model.pod_at(name, key.rs.addr));
        differs(drain.pod.as_ref(), listed.as_ref())
    }

    /// Notes what moved in a Service that is planned now; its drains follow its settings.
    pub(crate) fn note_moves(
        &mut self,
        name: &ServiceName,
        before: Vec<VirtualServerId>,
        moves: Moves,
        now: Time,
    ) {
        if moves != Moves::default() {
            self.notes.moved.push(Moved { name: name.clone(), moves, before });
        }
        if !self.ledger.is_empty() {
            for server in self.desired.servers_of(name) {
                self.ledger.configure(server.vs, server.drain_overrides(), now);
            }
        }
    }

    /// What all that moved means for real servers: pods that are gone, and addresses that have changed hands.
    pub(crate) fn revise_drains(&mut self, now: Time, touch: &mut Touch) {
        self.notes.arrive(now);
        let moved = std::mem::take(&mut self.notes.moved);
        for service in &moved {
            for (addr, departure) in &service.moves.departed {
                self.depart(service, (*addr, departure), now, touch);
            }
        }
        for (addr, pod) in moved.iter().flat_map(|service| &service.moves.arrived) {
            self.evict_predecessors(*addr, pod, now, touch);
        }
    }

    fn depart(
        &mut self,
        service: &Moved,
        (addr, departure): (IpAddr, &Departure),
        now: Time,
        touch: &mut Touch,
    ) {
        let exists = self.model.service(&service.name).is_some();
        for key in self.real_servers_at(service, addr) {
            let pod = departure.pod.as_ref();
            if self.is_listed(&service.name, &key) {
                if differs(pod, self.model.pod_at(&service.name, addr).as_ref()) {
                    self.address_reused(key, now, touch);
                }
                continue;
            }
            pod.iter().for_each(|pod| _ = self.notes.left.insert(key, Arc::clone(pod)));
            if departure.terminating && exists {
                self.endpoint_gone(key, now, touch);
            } else if differs(pod, self.notes.newcomer(addr)) {
                self.address_reused(key, now, touch);
            }
        }
    }

    /// Those of a Service that the kernel has, in virtual servers that it has, had before this step, or has given up
    /// while they drain.
    fn real_servers_at(&self, service: &Moved, addr: IpAddr) -> BTreeSet<Key> {
        let now = self.desired.servers_of(&service.name).map(|server| server.vs);
        let own = now.chain(service.before.iter().copied());
        let given_up = self.ledger.at(addr).map(|key| key.vs);
        let given_up =
            given_up.filter(|vs| self.desired.last_service_of(vs).is_some_and(|name| *name == service.name));
        let mut keys = BTreeSet::new();
        for vs in own.chain(given_up) {
            let present = self.mirror.servers.get(&vs).into_iter();
            keys.extend(present.flat_map(|have| have.real_servers_at(addr)).map(|rs| Key { vs, rs }));
        }
        keys
    }

    /// Whether the Service still has the endpoint, whatever its condition.
    fn is_listed(&self, name: &ServiceName, key: &Key) -> bool {
        match self.served(&key.vs) {
            Some(intent) => intent.known.binary_search(&key.rs).is_ok(),
            None => self.model.lists(name, key.rs.addr),
        }
    }

    /// What a virtual server must be, if a Service has it.
    fn served(&self, vs: &VirtualServerId) -> Option<&ServerIntent> {
        self.desired.server(vs).filter(|_| !self.desired.is_retiring(vs))
    }

    /// Whether the kernel has a real server and gives it no new connections.
    fn is_quiesced(&self, key: &Key) -> bool {
        let server = self.mirror.servers.get(&key.vs);
        let settings = server.and_then(|server| server.real_server(&key.rs));
        settings.is_some_and(|settings| settings.weight.is_quiesced())
    }

    /// What the Service of a virtual server wants of drains otherwise than the configuration.
    fn overrides(&self, vs: &VirtualServerId) -> Overrides {
        self.desired.server(vs).map(|intent| *intent.drain_overrides()).unwrap_or_default()
    }

    /// The pod of an endpoint was deleted: its real server is not waited for.
    fn endpoint_gone(&mut self, key: Key, now: Time, touch: &mut Touch) {
        let overrides = self.overrides(&key.vs);
        if self.config.drain.with(&overrides).endpoint_gone == EndpointGone::Remove {
            self.begin_drain(key, Cause::Terminating, now);
        }
        self.ledger.endpoint_gone(&key);
        touch.servers.insert(key.vs);
    }

    /// The address of a real server belongs to another pod now.
    fn address_reused(&mut self, key: Key, now: Time, touch: &mut Touch) {
        if self.ledger.address_reused(key, now) {
            self.note_begun(&key, Cause::AddressReused);
        }
        touch.servers.insert(key.vs);
    }

    /// A pod comes to an address that connections of another pod still use, in whatever Service: those go first. As long
    /// as the other pod is listed there as well, both live: they share the address of their node.
    fn evict_predecessors(&mut self, addr: IpAddr, pod: &Arc<str>, now: Time, touch: &mut Touch) {
        let has_gone = |key: &&Key| {
            let Some(name) = self.desired.last_service_of(&key.vs) else { return true };
            let drain = self.ledger.get(key);
            !self.model.lists(name, addr) || drain.is_some_and(|drain| self.has_successor(key, drain))
        };
        let of_another =
            |key: &&Key| differs(self.ledger.get(key).and_then(|drain| drain.pod.as_ref()), Some(pod));
        let evicted: Vec<_> = self.ledger.at(addr).filter(of_another).filter(has_gone).copied().collect();
        evicted.into_iter().for_each(|key| self.address_reused(key, now, touch));
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
            self.end_drain(key, Outcome::Returned, run.now, run.report);
        }
        run.report.drains_begun += std::mem::take(&mut self.notes.begun);
    }

    fn begin_drain(&mut self, key: Key, cause: Cause, now: Time) {
        let overrides = self.overrides(&key.vs);
        if self.ledger.begin(key, cause, &overrides, now) {
            self.note_begun(&key, cause);
        }
    }

    fn note_begun(&mut self, key: &Key, cause: Cause) {
        self.notes.begun += 1;
        let pod = self.name_pod(key);
        let policy = self.config.drain.with(&self.overrides(&key.vs)).policy;
        let pod = pod.as_deref().unwrap_or("unknown");
        info!(%policy, pod, "drain of real server {} of {} begins: {cause}", key.rs, key.vs);
    }

    /// Notes whose connections drain: those of the pod that is listed, or has left.
    fn name_pod(&mut self, key: &Key) -> Option<Arc<str>> {
        let left = self.notes.left.remove(key);
        let listed = || self.model.pod_at(self.desired.last_service_of(&key.vs)?, key.rs.addr);
        let pod = listed().or(left)?;
        self.ledger.note_pod(key, &pod);
        Some(pod)
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
        self.notes.left.retain(|key, _| key.vs != vs);
        let keys: Vec<_> = self.ledger.of(&vs).copied().collect();
        keys.iter().for_each(|key| self.end_drain(key, Outcome::VirtualServerGone, run.now, run.report));
    }

    /// A real server was removed.
    pub(crate) fn drained(&mut self, key: &Key, run: &mut Run<'_>) {
        let outcome = self.ledger.get(key).and_then(|drain| drain.due).unwrap_or(Outcome::Immediate);
        self.notes.left.remove(key);
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

    /// Whether the last step polled; this one has not yet.
    pub(crate) fn take_polled(&mut self) -> bool {
        std::mem::take(&mut self.notes.polled) > 0
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

/// Whether both pods are known and not the same one.
fn differs(a: Option<&Arc<str>>, b: Option<&Arc<str>>) -> bool {
    a.zip(b).is_some_and(|(a, b)| is_another_pod(a, b))
}
