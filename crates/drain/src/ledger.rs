//! The ledger of draining real servers.
//!
//! ```text
//!            begin, restore              poll: drained, silent or overdue;
//!                                        endpoint_gone, endpoint_perhaps_gone
//!                                        and its time; address_reused
//!   Absent ──────────────────> Draining ─────────────────────────────────> Due(outcome)
//!    ^  ^                         │                                            │
//!    │  └─────────────────────────┴── end: removed, serves again, vanished ────┤
//!    │                                                                         │
//!    └────────────────── HeldDown(until) <─────────────────────────────────────┘
//!      take_released                     end and hold_down: removed, because its
//!                                        pod is gone or its address changed hands
//! ```
//!
//! [`Ledger::address_reused`] goes from `Absent` to `Due` in one step.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    num::NonZeroU16,
    sync::Arc,
    time::Duration,
};

use lb_types::{Front, Protocol, RealServerId};
use tally::Tallied;

#[cfg(feature = "serde")]
use crate::spelling::{millis, text};
use crate::{Cause, Drain, Outcome, Overrides, Policy, Reading, Settings, Time, polls::Polls};

/// A real server of a virtual server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Key {
    /// The virtual server.
    #[cfg_attr(feature = "serde", serde(rename = "virtualServer", with = "text"))]
    pub front: Front,
    /// Its real server.
    #[cfg_attr(feature = "serde", serde(rename = "realServer", with = "text"))]
    pub rs: RealServerId,
}

/// State of a real server in the ledger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It serves, or nothing is known of it.
    Absent,
    /// Its connections may end by themselves.
    Draining,
    /// It must be removed; stays so until the kernel has executed that.
    Due(Outcome),
    /// It was removed, and must not come back before a time.
    HeldDown(Time),
}

/// Fate of a real server that should not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Weight 0; connections continue.
    Quiesce,
    /// Remove it now.
    Remove(Outcome),
}

/// The part of a drain that survives a restart of the process.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "camelCase"))]
pub struct Record {
    /// Reason for which it began.
    pub cause: Cause,
    /// Its beginning, in time since boot: the deadline follows from it.
    #[cfg_attr(feature = "serde", serde(rename = "sinceMillis", with = "millis"))]
    pub since: Time,
    /// Settings of its Service.
    #[cfg_attr(
        feature = "serde",
        serde(rename = "service", default, skip_serializing_if = "Overrides::is_none")
    )]
    pub overrides: Overrides,
    /// The pod that its connections belong to.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "Option::is_none"))]
    pub pod: Option<Arc<str>>,
    /// Set if that pod has left some slice while it was terminating.
    #[cfg_attr(feature = "serde", serde(default, skip_serializing_if = "std::ops::Not::not"))]
    pub pod_ended: bool,
}

/// Time for which a real server stays away that was removed because its pod is gone or its address has
/// changed hands.
///
/// A real server that comes back at once is revived with its old connections (`ip_vs_trash_get_dest`,
/// net/netfilter/ipvs/ip_vs_ctl.c); those are gone when `expire_nodest_conn_work`, queued a jiffy after the
/// removal, has walked the table: 0.1 to 0.2 s for 100,000 connections. Nor does it come back before tracked
/// UDP connections to it have been deleted, which happens twice a second.
const HOLD_DOWN: Duration = Duration::from_millis(600);

/// Time within which a pod that has left one of several slices is listed by another if it has only moved: the controller
/// writes them one after the other, and an API server that is busy takes some of it for each.
const MOVE_TIME: Duration = Duration::from_secs(2);

/// All draining real servers.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Settings for Services that want nothing special.
    pub settings: Settings,
    drains: Tallied<BTreeMap<Key, Drain>>,
    /// The same by address of the real server.
    by_addr: Tallied<BTreeMap<IpAddr, BTreeSet<Key>>>,
    polls: Polls,
    /// Real servers that must not come back before a time.
    held_down: Tallied<BTreeMap<Key, Time>>,
    /// Counts changes of what must survive a restart.
    version: u64,
    /// Counts what polls have changed of what drains wait for.
    details: u64,
}

impl Ledger {
    /// Nothing drains.
    pub fn new(settings: Settings) -> Self {
        Ledger { settings, ..Ledger::default() }
    }

    /// Decides what becomes of a real server that should not serve, also of one that does not drain yet.
    ///
    /// UDP has no end that the kernel could count (it is never "active",
    /// net/netfilter/ipvs/ip_vs_proto_udp.c), so its real servers go at once and their clients move on with the
    /// next packet.
    pub fn judge(&self, key: &Key, overrides: &Overrides) -> Verdict {
        if let State::Due(outcome) = self.state(key) {
            return Verdict::Remove(outcome);
        }
        let connectionless = key.front.protocol() == Protocol::Udp;
        let own = self.drains.get(key).map(|drain| drain.settings.policy);
        let policy = own.unwrap_or_else(|| self.settings.with(overrides).policy);
        if connectionless || policy == Policy::Immediate {
            Verdict::Remove(Outcome::Immediate)
        } else {
            Verdict::Quiesce
        }
    }

    /// Starts a drain unless one runs; returns whether it started. A running one learns of a cause that says
    /// more.
    pub fn begin(&mut self, key: Key, cause: Cause, overrides: &Overrides, now: Time) -> bool {
        if let Some(drain) = self.drains.get_mut(&key) {
            if cause.supersedes(drain.cause) {
                let before = drain.deadline();
                drain.change_cause(cause, now);
                if drain.deadline() != before {
                    self.polls.watch(key.front, now, drain.deadline());
                }
                self.version += 1;
            }
            return false;
        }
        self.insert(
            key,
            Drain::new(key.front.family(), cause, now, (*overrides, self.settings.with(overrides))),
            now,
        );
        true
    }

    /// Takes over a drain that began before a restart.
    pub fn restore(&mut self, key: Key, record: Record, now: Time) {
        let Record { cause, since, overrides, pod, pod_ended } = record;
        let settings = self.settings.with(&overrides);
        let mut drain = Drain::new(key.front.family(), cause, since.min(now), (overrides, settings));
        // What has moved before is not known.
        (drain.pod, drain.pod_ended, drain.last_activity) = (pod, pod_ended, now);
        self.insert(key, drain, now);
    }

    fn insert(&mut self, key: Key, drain: Drain, now: Time) {
        self.by_addr.entry(key.rs.addr).or_default().insert(key);
        self.polls.watch(key.front, now, drain.deadline());
        self.drains.insert(key, drain);
        self.version += 1;
    }

    /// Notes whose connections they are, unless that is known.
    pub fn note_pod(&mut self, key: &Key, pod: &Arc<str>) {
        if let Some(drain) = self.drains.get_mut(key)
            && drain.pod.is_none()
        {
            drain.pod = Some(Arc::clone(pod));
            self.version += 1;
        }
    }

    /// The Service wants something else than when the drains of its virtual server began: it counts from now
    /// on.
    pub fn configure(&mut self, front: Front, overrides: &Overrides, now: Time) {
        let settings = self.settings.with(overrides);
        let mut changed = false;
        for drain in
            self.drains.range_mut(lowest(front)..).take_while(|(key, _)| key.front == front).map(|(_, d)| d)
        {
            if drain.overrides != *overrides {
                (drain.overrides, drain.settings) = (*overrides, settings);
                changed = true;
            }
        }
        if changed {
            self.version += 1;
            self.polls.hurry(front, now);
        }
    }

    /// Ends a drain: the real server was removed, or serves again.
    pub fn end(&mut self, key: &Key) -> Option<Drain> {
        let ended = self.drains.remove(key)?;
        self.version += 1;
        if let Some(keys) = self.by_addr.get_mut(&key.rs.addr) {
            keys.remove(key);
            if keys.is_empty() {
                self.by_addr.remove(&key.rs.addr);
            }
        }
        if self.of(&key.front).next().is_none() {
            self.polls.forget(&key.front);
        }
        Some(ended)
    }

    /// The pod has left some slice while it was terminating.
    pub fn pod_ended(&mut self, key: &Key) {
        if let Some(drain) = self.drains.get_mut(key).filter(|drain| !drain.pod_ended) {
            drain.pod_ended = true;
            self.version += 1;
        }
    }

    /// The endpoint was terminating and has left every EndpointSlice, and is to be removed then.
    pub fn endpoint_gone(&mut self, key: &Key) {
        if let Some(drain) = self.drains.get_mut(key) {
            drain.due.get_or_insert(Outcome::EndpointGone);
        }
    }

    /// The same where its Service has other slices: it is to be removed unless [`Ledger::endpoint_listed`] says soon
    /// that one of them lists the pod now.
    pub fn endpoint_perhaps_gone(&mut self, key: &Key, now: Time) {
        if let Some(drain) = self.drains.get_mut(key) {
            let at = *drain.gone_at.get_or_insert(now + MOVE_TIME);
            self.polls.watch(key.front, now, Some(at));
        }
    }

    /// Some slice lists the pod again, or connections continue for another reason.
    pub fn endpoint_listed(&mut self, key: &Key) {
        if let Some(drain) = self.drains.get_mut(key).filter(|drain| drain.gone_at.is_some()) {
            (drain.gone_at, drain.pod_ended) = (None, false);
            self.version += 1;
        }
    }

    /// The address belongs to another pod: whatever connections there are, they are not its own. Also for a
    /// real server that serves; returns whether it did.
    pub fn address_reused(&mut self, key: Key, now: Time) -> bool {
        let served = self.begin(key, Cause::AddressReused, &Overrides::NONE, now);
        if let Some(drain) = self.drains.get_mut(&key) {
            drain.due = Some(Outcome::AddressReused);
        }
        served
    }

    /// A real server was removed because its pod is gone, or its address has changed hands: it must not come
    /// back at once.
    pub fn hold_down(&mut self, key: Key, now: Time) {
        self.held_down.insert(key, now + HOLD_DOWN);
    }

    /// State of a real server. One that somebody else has brought back too early is still held down until it
    /// must be removed again.
    pub fn state(&self, key: &Key) -> State {
        let drain = self.drains.get(key);
        match (drain.and_then(|drain| drain.due), self.held_down.get(key)) {
            (Some(outcome), _) => State::Due(outcome),
            (None, Some(until)) => State::HeldDown(*until),
            (None, None) => drain.map_or(State::Absent, |_| State::Draining),
        }
    }

    /// Virtual servers some of whose real servers may come back now; they do not rest any more.
    pub fn take_released(&mut self, now: Time) -> Vec<Front> {
        let over: Vec<_> =
            self.held_down.iter().filter(|(_, until)| **until <= now).map(|(key, _)| *key).collect();
        for key in &over {
            self.held_down.remove(key);
        }
        over.into_iter().map(|key| key.front).collect()
    }

    /// Takes fresh counters of one virtual server and returns whether it has real servers to remove.
    ///
    /// `counters` answers `None` when the kernel did not tell; then only the deadline counts, and the time of a
    /// pod that may have moved.
    pub fn poll(
        &mut self,
        front: Front,
        now: Time,
        counters: impl Fn(&RealServerId) -> Option<Reading>,
    ) -> bool {
        let (mut any_due, mut deadline) = (false, None::<Time>);
        for (key, drain) in self.drains.range_mut(lowest(front)..).take_while(|(key, _)| key.front == front) {
            let before = drain.waits_for(Time::ZERO, || None);
            drain.poll(now, counters(&key.rs));
            self.details += u64::from(drain.waits_for(Time::ZERO, || None) != before);
            any_due |= drain.due.is_some();
            let ends =
                [deadline, drain.deadline(), drain.gone_at, drain.lingers_until(), drain.silent_at(now)];
            deadline = ends.into_iter().flatten().filter(|at| *at > now).min();
        }
        self.polls.polled(front, now, deadline);
        any_due
    }

    /// Takes in the processor time of some polls: all of them together keep to a share of it.
    pub fn polls_took(&mut self, polls: u32, took: Duration) {
        self.polls.took(polls, took);
    }

    /// Time at which [`Ledger::due`] has something; `None` if nothing drains.
    pub fn next_poll(&self) -> Option<Time> {
        self.polls.next()
    }

    /// Time of the next reading of a virtual server; `None` if nothing of it drains.
    pub fn next_reading(&self, front: &Front) -> Option<Time> {
        self.polls.next_of(front)
    }

    /// Time at which [`Ledger::take_released`] has something.
    pub fn next_release(&self) -> Option<Time> {
        self.held_down.values().copied().min()
    }

    /// Virtual servers whose counters should be read by now, the longest overdue first.
    pub fn due(&self, now: Time) -> impl Iterator<Item = Front> {
        self.polls.due(now)
    }

    /// All drains, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Drain)> {
        self.drains.iter()
    }

    /// Number of drains.
    pub fn len(&self) -> usize {
        self.drains.len()
    }

    /// Tells whether nothing drains, and nothing has to stay away.
    pub fn is_idle(&self) -> bool {
        self.drains.is_empty() && self.held_down.is_empty()
    }

    /// Tells whether nothing drains.
    pub fn is_empty(&self) -> bool {
        self.drains.is_empty()
    }

    /// The draining real servers of one virtual server.
    pub fn of(&self, front: &Front) -> impl Iterator<Item = &Key> {
        self.drains.range(lowest(*front)..).map(|(key, _)| key).take_while(|key| key.front == *front)
    }

    /// The draining real servers at an address, of whatever virtual server.
    pub fn at(&self, addr: IpAddr) -> impl Iterator<Item = &Key> {
        self.by_addr.get(&addr).into_iter().flatten()
    }

    /// One drain.
    pub fn get(&self, key: &Key) -> Option<&Drain> {
        self.drains.get(key)
    }

    /// Counts a change that no drain shows: what was recorded before is out of date.
    pub fn mark_changed(&mut self) {
        self.version += 1;
    }

    /// Changes whenever what must survive a restart has changed.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Changes whenever a poll has changed what some drain waits for.
    pub fn details(&self) -> u64 {
        self.details
    }
}

impl From<&Drain> for Record {
    fn from(drain: &Drain) -> Self {
        let Drain { cause, since, overrides, pod_ended, .. } = *drain;
        Record { cause, since, overrides, pod: drain.pod.clone(), pod_ended }
    }
}

/// A key that is not above any of the virtual server.
fn lowest(front: Front) -> Key {
    Key { front, rs: RealServerId { addr: Ipv4Addr::UNSPECIFIED.into(), port: NonZeroU16::MIN } }
}
