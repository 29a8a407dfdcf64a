//! The ledger of draining real servers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
    num::NonZeroU16,
    time::Duration,
};

use lb_types::{ConnectionCounters, Protocol, RealServerId, TrafficCounters, VirtualServerId};
use tally::Tallied;

use crate::{Cause, EndpointGone, Outcome, Policy, Settings, Time};

/// A real server of a virtual server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The virtual server.
    pub vs: VirtualServerId,
    /// Its real server.
    pub rs: RealServerId,
}

/// What must become of a real server that should not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Weight 0; connections continue.
    Quiesce,
    /// Remove it now.
    Remove(Outcome),
}

/// One draining real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Why it began.
    pub cause: Cause,
    /// When it began.
    pub since: Time,
    /// Settings when it began.
    pub settings: Settings,
    /// Last time that an active connection or traffic was seen; starts at `since`.
    pub last_activity: Time,
    /// Sum of the byte counters at the last poll; a change is activity.
    pub bytes: Option<u64>,
    /// Set once it must be removed; stays until the kernel has executed that.
    pub due: Option<Outcome>,
}

impl Drain {
    /// When it is removed in any case.
    pub fn deadline(&self) -> Option<Time> {
        self.settings.timeout.map(|timeout| self.since + timeout)
    }

    fn observe(&mut self, now: Time, connections: &ConnectionCounters, traffic: &TrafficCounters) {
        let bytes = traffic.bytes_in.wrapping_add(traffic.bytes_out);
        let moved = self.bytes.is_some_and(|before| before != bytes);
        self.bytes = Some(bytes);
        if connections.active > 0 || moved {
            self.last_activity = now;
        }
        self.due = self.due.or_else(|| self.decide(now, connections));
    }

    fn decide(&self, now: Time, connections: &ConnectionCounters) -> Option<Outcome> {
        let drained = match self.settings.policy {
            Policy::Immediate => return Some(Outcome::Immediate),
            Policy::AllConnections => connections.active == 0 && connections.inactive == 0,
            Policy::ActiveOnly => {
                connections.active == 0 && now.saturating_sub(self.last_activity) >= self.settings.linger
            }
        };
        match drained {
            true => Some(Outcome::Drained),
            false => self.overdue(now),
        }
    }

    fn overdue(&self, now: Time) -> Option<Outcome> {
        self.deadline().filter(|deadline| now >= *deadline).map(|_| Outcome::TimedOut)
    }
}

/// When the counters of a virtual server that has draining real servers are read.
#[derive(Clone, Copy, Debug)]
struct Watch {
    due: Time,
    /// Begin of its youngest drain; that one may have ended since, which only means that the others are polled often
    /// for a little longer.
    youngest: Time,
}

/// What one virtual server adds to the interval between its polls: however many there are, at most so many are read
/// per second that it costs a few percent of a core.
const SHARE: Duration = Duration::from_micros(500);

/// All draining real servers.
///
/// Every virtual server is polled at times of its own, so that new drains never postpone the polls of old ones.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    drains: Tallied<BTreeMap<Key, Drain>>,
    /// One for each virtual server that has a drain.
    watches: Tallied<BTreeMap<VirtualServerId, Watch>>,
    /// The same by time.
    by_due: Tallied<BTreeSet<(Time, VirtualServerId)>>,
}

impl Ledger {
    /// What must become of a real server that should not serve; also answers for one that is not draining yet.
    ///
    /// UDP has no end that the kernel could count (it is never "active", net/netfilter/ipvs/ip_vs_proto_udp.c), so its
    /// real servers go at once and their flows move on with the next packet.
    pub fn judge(&self, key: &Key, settings: &Settings) -> Verdict {
        if let Some(outcome) = self.drains.get(key).and_then(|drain| drain.due) {
            return Verdict::Remove(outcome);
        }
        let connectionless = key.vs.protocol() == Some(Protocol::Udp);
        match connectionless || settings.policy == Policy::Immediate {
            true => Verdict::Remove(Outcome::Immediate),
            false => Verdict::Quiesce,
        }
    }

    /// Starts a drain unless one runs; returns whether it started. A running one learns that its pod terminates.
    pub fn begin(&mut self, key: Key, cause: Cause, settings: Settings, now: Time) -> bool {
        match self.drains.get_mut(&key) {
            Some(drain) => {
                if cause == Cause::Terminating || cause == Cause::ServiceGone {
                    drain.cause = cause;
                }
                false
            }
            None => {
                let drain = Drain { cause, since: now, settings, last_activity: now, bytes: None, due: None };
                self.drains.insert(key, drain);
                self.watch(key.vs, now);
                true
            }
        }
    }

    /// Ends a drain: the real server was removed, or serves again.
    pub fn end(&mut self, key: &Key) -> Option<Drain> {
        let ended = self.drains.remove(key)?;
        if self.of(&key.vs).next().is_none()
            && let Some(watch) = self.watches.remove(&key.vs)
        {
            self.by_due.remove(&(watch.due, key.vs));
        }
        Some(ended)
    }

    /// A drain of a virtual server begins: it is polled soon, but a poll that is due earlier is not put off.
    fn watch(&mut self, vs: VirtualServerId, now: Time) {
        let due = now + self.interval(Duration::ZERO);
        let due = self.watches.get(&vs).map_or(due, |watch| watch.due.min(due));
        self.schedule(vs, Watch { due, youngest: now });
    }

    fn schedule(&mut self, vs: VirtualServerId, watch: Watch) {
        if let Some(before) = self.watches.insert(vs, watch) {
            self.by_due.remove(&(before.due, vs));
        }
        self.by_due.insert((watch.due, vs));
    }

    /// Often while a drain is young, because that is when connections end; rarely once it has become a long one, or
    /// when a great many drain.
    fn interval(&self, age: Duration) -> Duration {
        let by_age = match age.as_secs() {
            0..10 => Duration::from_millis(500),
            10..60 => Duration::from_secs(2),
            _ => Duration::from_secs(5),
        };
        by_age.max(SHARE * u32::try_from(self.watches.len()).unwrap_or(u32::MAX))
    }

    /// The endpoint was terminating and has left every EndpointSlice.
    pub fn endpoint_gone(&mut self, key: &Key) {
        if let Some(drain) = self.drains.get_mut(key)
            && drain.settings.endpoint_gone == EndpointGone::Remove
        {
            drain.due = drain.due.or(Some(Outcome::EndpointGone));
        }
    }

    /// Takes fresh counters of one virtual server and returns whether it has real servers to remove.
    ///
    /// `counters` answers `None` when the kernel did not tell; then only the deadline counts.
    pub fn poll(
        &mut self,
        vs: VirtualServerId,
        now: Time,
        counters: impl Fn(&RealServerId) -> Option<(ConnectionCounters, TrafficCounters)>,
    ) -> bool {
        let mut any_due = false;
        for (key, drain) in self.drains.range_mut(lowest(vs)..).take_while(|(key, _)| key.vs == vs) {
            match counters(&key.rs) {
                Some((connections, traffic)) => drain.observe(now, &connections, &traffic),
                None => drain.due = drain.due.or_else(|| drain.overdue(now)),
            }
            any_due |= drain.due.is_some();
        }
        if let Some(watch) = self.watches.get(&vs).copied() {
            let due = now + self.interval(now.saturating_sub(watch.youngest));
            self.schedule(vs, Watch { due, ..watch });
        }
        any_due
    }

    /// When counters should be read next; `None` when nothing drains.
    pub fn next_poll(&self) -> Option<Time> {
        self.by_due.first().map(|(due, _)| *due)
    }

    /// Virtual servers whose counters should be read by now, the longest overdue first.
    pub fn due(&self, now: Time) -> impl Iterator<Item = VirtualServerId> {
        self.by_due.iter().take_while(move |(due, _)| *due <= now).map(|(_, vs)| *vs)
    }

    /// All drains, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&Key, &Drain)> {
        self.drains.iter()
    }

    /// The draining real servers of one virtual server.
    pub fn of(&self, vs: &VirtualServerId) -> impl Iterator<Item = &Key> {
        self.drains.range(lowest(*vs)..).map(|(key, _)| key).take_while(|key| key.vs == *vs)
    }

    /// One drain.
    pub fn get(&self, key: &Key) -> Option<&Drain> {
        self.drains.get(key)
    }

    /// Whether nothing drains.
    pub fn is_empty(&self) -> bool {
        self.drains.is_empty()
    }
}

/// Not above any key of the virtual server.
fn lowest(vs: VirtualServerId) -> Key {
    Key { vs, rs: RealServerId { addr: Ipv4Addr::UNSPECIFIED.into(), port: NonZeroU16::MIN } }
}
