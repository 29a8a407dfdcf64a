//! One draining real server.

use std::sync::Arc;

use lb_types::{ConnectionCounters, TrafficCounters};

use crate::{Cause, EndpointGone, Outcome, Overrides, Policy, Settings, Time};

/// One draining real server.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Why it began.
    pub cause: Cause,
    /// When it began.
    pub since: Time,
    /// What its Service wants otherwise than the configuration.
    pub overrides: Overrides,
    /// The configuration with that.
    pub settings: Settings,
    /// `NAMESPACE/NAME/UID` of the pod that its connections belong to, if known.
    pub pod: Option<Arc<str>>,
    /// Last time that an active connection or traffic was seen; starts at `since`, and anew after a restart.
    pub last_activity: Time,
    /// What the last poll saw; `None` before the first.
    pub seen: Option<(ConnectionCounters, TrafficCounters)>,
    /// Set once it must be removed; stays until the kernel has executed that.
    pub due: Option<Outcome>,
    /// The last reading up to which clients were answered, or did not ask.
    answered: Time,
    waiting: Waiting,
}

/// Whether clients wait for an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Waiting {
    /// They have sent nothing since the last answer.
    #[default]
    No,
    /// They have sent something that nobody has to answer, such as a last ACK or a reset.
    Perhaps,
    /// They have sent data, which a living host acknowledges within a fraction of a second, or something again and again.
    Surely,
}

/// No packet without data is longer: 40 bytes of IPv6, 20 of TCP, 40 of its options.
const BARE: u64 = 100;

impl Drain {
    pub(crate) fn new(cause: Cause, since: Time, overrides: Overrides, settings: Settings) -> Self {
        Drain {
            cause,
            since,
            overrides,
            settings,
            pod: None,
            last_activity: since,
            seen: None,
            due: None,
            answered: since,
            waiting: Waiting::No,
        }
    }

    /// When it is removed in any case.
    pub fn deadline(&self) -> Option<Time> {
        self.settings.timeout.map(|timeout| self.since.saturating_add(timeout))
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
    pub(crate) fn poll(&mut self, now: Time, counters: Option<(ConnectionCounters, TrafficCounters)>) {
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
        let asked = match before {
            Some((_, before)) if connections.active > 0 && traffic.packets_out == before.packets_out => {
                let sent = |traffic: &TrafficCounters| (traffic.packets_in, traffic.bytes_in);
                let ((packets, bytes), (packets_before, bytes_before)) = (sent(traffic), sent(&before));
                (packets.saturating_sub(packets_before), bytes.saturating_sub(bytes_before))
            }
            _ => {
                (self.answered, self.waiting) = (now, Waiting::No);
                return;
            }
        };
        self.waiting = match (asked, self.waiting) {
            ((0, _), waiting) => waiting,
            ((packets, bytes), Waiting::No) if bytes <= packets * BARE => Waiting::Perhaps,
            _ => Waiting::Surely,
        };
    }

    /// When a poll could find it drained, unless something happens before.
    pub(crate) fn lingers_until(&self) -> Option<Time> {
        let idle = self.settings.policy == Policy::ActiveOnly && self.active() == 0;
        idle.then(|| self.last_activity.saturating_add(self.settings.linger))
    }

    fn decide(&self, now: Time, connections: &ConnectionCounters) -> Option<Outcome> {
        let drained = match self.settings.policy {
            Policy::Immediate => return Some(Outcome::Immediate),
            Policy::AllConnections => connections.active == 0 && connections.inactive == 0,
            Policy::ActiveOnly => {
                connections.active == 0 && now.saturating_sub(self.last_activity) >= self.settings.linger
            }
        };
        if drained {
            return Some(Outcome::Drained);
        }
        self.is_silent(now).then_some(Outcome::Silent)
    }

    fn is_silent(&self, now: Time) -> bool {
        let lasts = |limit| now.saturating_sub(self.answered) >= limit;
        self.waiting == Waiting::Surely && self.settings.silence.is_some_and(lasts)
    }
}

const fn bytes(traffic: &TrafficCounters) -> (u64, u64) {
    (traffic.bytes_in, traffic.bytes_out)
}
