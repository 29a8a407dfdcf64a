//! One draining real server.

use std::sync::Arc;

use lb_types::{ConnectionCounters, IpFamily, PodUid, TrafficCounters};

use crate::{Cause, EndpointGone, Outcome, Overrides, Policy, Settings, Time};

/// What the kernel says of a real server.
pub type Reading = (ConnectionCounters, TrafficCounters);

/// One draining real server.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Why it began.
    pub cause: Cause,
    /// When it began: its deadline counts from here.
    pub since: Time,
    /// What its Service wants otherwise than the configuration.
    pub overrides: Overrides,
    /// The configuration with that.
    pub settings: Settings,
    /// `NAMESPACE/NAME/UID` of the pod that its connections belong to, if known.
    pub pod: Option<Arc<str>>,
    /// Its pod has left some slice while it was terminating: once no slice lists it any more, it is gone.
    pub pod_ended: bool,
    /// Last time that an active connection or traffic was seen; starts at `since`, and anew after a restart.
    pub last_activity: Time,
    /// What the last poll saw; `None` before the first.
    pub seen: Option<Reading>,
    /// Set once it must be removed; stays until the kernel has executed that.
    pub due: Option<Outcome>,
    /// The last reading up to which clients were answered, or did not ask.
    answered: Time,
    waiting: Waiting,
    /// A client's packet of more bytes carries data.
    bare: u64,
}

/// Whether clients wait for an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Waiting {
    /// They have sent nothing since the last answer.
    #[default]
    No,
    /// They have sent something that nobody has to answer, such as a last ACK or a reset: in so many readings, the last
    /// one at a time.
    Perhaps(u8, Time),
    /// They have sent data, which a living host acknowledges within a fraction of a second, or something again and again.
    Surely,
}

/// Readings with packets that nobody has to answer after which somebody should have: clients of a dead pod repeat theirs.
const REPEATED: u8 = 3;

/// Such packets further apart have nothing to do with each other; clients repeat theirs after 0.2, 0.4, ... 6.4 s.
const APART: Time = Time::from_secs(10);

/// Counters are up to so old: the kernel sums them up every 2 s (`IP_VS_EST_TICK`, net/netfilter/ipvs/ip_vs_est.c).
const STALE: Time = Time::from_secs(2);

/// No packet without data is longer: 20 bytes of IPv4 or 40 of IPv6, 20 of TCP, 40 of its options.
const fn longest_without_data(family: IpFamily) -> u64 {
    match family {
        IpFamily::V4 => 80,
        IpFamily::V6 => 100,
    }
}

impl Drain {
    pub(crate) fn new(
        family: IpFamily,
        cause: Cause,
        since: Time,
        (overrides, settings): (Overrides, Settings),
    ) -> Self {
        Drain {
            bare: longest_without_data(family),
            cause,
            since,
            overrides,
            settings,
            pod: None,
            pod_ended: false,
            last_activity: since,
            seen: None,
            due: None,
            answered: since,
            waiting: Waiting::No,
        }
    }

    /// When it is removed in any case.
    pub fn deadline(&self) -> Option<Time> {
        let timeout = self.settings.timeout.filter(|_| !self.cause.is_patient());
        timeout.map(|timeout| self.since.saturating_add(timeout))
    }

    /// Identity of the pod that its connections belong to, if known.
    pub fn owner(&self) -> Option<PodUid> {
        self.pod.as_deref().and_then(PodUid::of)
    }

    /// Follows a cause that says more. What had no deadline has one from now on; what clients waited for before says
    /// nothing about a pod that was healthy.
    pub(crate) fn change_cause(&mut self, cause: Cause, now: Time) {
        if self.cause.is_patient() {
            (self.since, self.answered, self.waiting) = (now, now, Waiting::No);
        }
        self.cause = cause;
    }

    /// Connections that its removal would cut, as far as known.
    pub fn active(&self) -> u32 {
        self.seen.map_or(0, |(connections, _)| connections.active)
    }

    /// The same after a restart: what has moved before is not known.
    pub(crate) fn resumed(self, pod: Option<Arc<str>>, now: Time) -> Self {
        Drain { pod, last_activity: now, answered: now, ..self }
    }

    fn must_go(&mut self, outcome: Outcome) {
        self.due = self.due.or(Some(outcome));
    }

    pub(crate) fn endpoint_gone(&mut self) {
        if self.settings.endpoint_gone == EndpointGone::Remove {
            self.must_go(Outcome::EndpointGone);
        }
    }

    /// Takes counters in; without them only the deadline counts.
    pub(crate) fn poll(&mut self, now: Time, counters: Option<Reading>) {
        let outcome = match counters {
            Some((connections, traffic)) => {
                self.observe(now, &connections, &traffic);
                self.decide(now, &connections)
            }
            None => None,
        };
        let overdue = || self.deadline().filter(|deadline| now >= *deadline).map(|_| Outcome::TimedOut);
        self.due = self.due.or(outcome).or_else(overdue);
    }

    fn observe(&mut self, now: Time, connections: &ConnectionCounters, traffic: &TrafficCounters) {
        let before = self.seen.replace((*connections, *traffic));
        let moved = before.is_some_and(|(_, before)| bytes(&before) != bytes(traffic));
        if connections.active > 0 || moved {
            self.last_activity = now;
        }
        self.waiting = match before {
            Some(before) if connections.active > 0 && traffic.packets_out == before.1.packets_out => {
                self.wait(now, before, (*connections, *traffic))
            }
            _ => Waiting::No,
        };
        if self.waiting == Waiting::No {
            self.answered = now;
        }
    }

    /// Nothing came back between two readings.
    ///
    /// An ICMP error that IPVS passes on to the client counts as a packet to it (`handle_response_icmp`,
    /// net/netfilter/ipvs/ip_vs_core.c). Routers report the address of a vanished pod as unreachable; our packet rules
    /// keep that from IPVS.
    fn wait(&self, now: Time, before: Reading, reading: Reading) -> Waiting {
        let grown = |of: fn(&TrafficCounters) -> u64| of(&reading.1).saturating_sub(of(&before.1));
        let (packets, bytes) = (grown(|traffic| traffic.packets_in), grown(|traffic| traffic.bytes_in));
        let ended = u64::from(before.0.active.saturating_sub(reading.0.active));
        match self.waiting {
            Waiting::Surely => Waiting::Surely,
            _ if packets > 0 && bytes > packets * self.bare => Waiting::Surely,
            Waiting::Perhaps(_, last) if now.saturating_sub(last) > APART => Waiting::No,
            // A connection that its client resets costs one packet.
            waiting if packets <= ended => waiting,
            Waiting::No => Waiting::Perhaps(1, now),
            Waiting::Perhaps(count, _) if count + 1 >= REPEATED => Waiting::Surely,
            Waiting::Perhaps(count, _) => Waiting::Perhaps(count + 1, now),
        }
    }

    /// When a poll could find it drained, unless something happens before.
    pub(crate) fn lingers_until(&self) -> Option<Time> {
        let idle = self.settings.policy == Policy::ActiveOnly && self.active() == 0;
        let quiet = self.seen.map_or(self.settings.linger, |(connections, _)| self.quiet_time(&connections));
        idle.then(|| self.last_activity.saturating_add(quiet))
    }

    /// How long nothing must have moved. Where there may be half-closed connections, so long that the counters would
    /// show it.
    fn quiet_time(&self, connections: &ConnectionCounters) -> Time {
        match connections.inactive {
            0 => self.settings.linger,
            _ => self.settings.linger.max(STALE + Time::from_millis(500)),
        }
    }

    fn decide(&self, now: Time, connections: &ConnectionCounters) -> Option<Outcome> {
        let drained = match self.settings.policy {
            Policy::Immediate => return Some(Outcome::Immediate),
            Policy::AllConnections => connections.active == 0 && connections.inactive == 0,
            Policy::ActiveOnly => {
                connections.active == 0
                    && now.saturating_sub(self.last_activity) >= self.quiet_time(connections)
            }
        };
        if drained {
            return Some(Outcome::Drained);
        }
        self.is_silent(now).then_some(Outcome::Silent)
    }

    fn is_silent(&self, now: Time) -> bool {
        if self.cause.is_patient() {
            return false;
        }
        let lasts = |limit| now.saturating_sub(self.answered) >= limit;
        self.waiting == Waiting::Surely && self.settings.silence.is_some_and(lasts)
    }
}

const fn bytes(traffic: &TrafficCounters) -> (u64, u64) {
    (traffic.bytes_in, traffic.bytes_out)
}
