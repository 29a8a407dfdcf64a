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
    silent: Option<Silence>,
}

/// Clients send and nothing comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Silence {
    since: Time,
    /// Whether clients have sent again after that. One packet without an answer is nothing: a last ACK, a reset. Clients
    /// of a dead pod repeat theirs.
    repeated: bool,
}

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
            silent: None,
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
        Drain { pod, last_activity: now, ..self }
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
        let Some((_, before)) = before else { return };
        if traffic.packets_out != before.packets_out || connections.active == 0 {
            self.silent = None;
        } else if traffic.packets_in > before.packets_in {
            let repeated = self.silent.is_some();
            let since = self.silent.map_or(now, |silent| silent.since);
            self.silent = Some(Silence { since, repeated });
        }
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
        let (Some(silent), Some(limit)) = (self.silent, self.settings.silence) else { return false };
        silent.repeated && now.saturating_sub(silent.since) >= limit
    }
}

const fn bytes(traffic: &TrafficCounters) -> (u64, u64) {
    (traffic.bytes_in, traffic.bytes_out)
}
