//! One draining real server.

use std::sync::Arc;

use lb_types::{ConnectionCounters, IpFamily, PodUid, TrafficCounters};

use crate::{
    Cause, Outcome, Overrides, Policy, Settings, Time,
    silence::{STALE, Silence},
};

/// Counters of a real server.
pub type Reading = (ConnectionCounters, TrafficCounters);

/// One draining real server.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Reason for which it began.
    pub cause: Cause,
    /// Its beginning, from which the deadline counts.
    pub since: Time,
    /// Settings of its Service.
    pub overrides: Overrides,
    /// The configuration with those.
    pub settings: Settings,
    /// `NAMESPACE/NAME/UID` of the pod that its connections belong to, if known.
    pub pod: Option<Arc<str>>,
    /// Its pod has left some slice while it was terminating: once no slice lists it any more, it is gone.
    pub pod_ended: bool,
    /// Time at which its pod counts as deleted, unless a slice lists it again before.
    pub gone_at: Option<Time>,
    /// Last time that an active connection or traffic was seen; starts at `since`, and anew after a restart.
    pub last_activity: Time,
    /// Counters of the last poll; `None` before the first.
    pub seen: Option<Reading>,
    /// The outcome for which it must be removed; stays until the kernel has executed that.
    pub due: Option<Outcome>,
    family: IpFamily,
    silence: Silence,
}

impl Drain {
    pub(crate) fn new(
        family: IpFamily,
        cause: Cause,
        since: Time,
        (overrides, settings): (Overrides, Settings),
    ) -> Self {
        Drain {
            family,
            cause,
            since,
            overrides,
            settings,
            pod: None,
            pod_ended: false,
            gone_at: None,
            last_activity: since,
            seen: None,
            due: None,
            silence: Silence::default(),
        }
    }

    /// Time at which it is removed in any case.
    pub fn deadline(&self) -> Option<Time> {
        let timeout = self.settings.timeout.filter(|_| !self.cause.is_patient());
        let timeout = timeout.into_iter().chain(self.cause.longest()).min();
        timeout.map(|timeout| self.since.saturating_add(timeout))
    }

    /// Identity of the pod that its connections belong to, if known.
    pub fn owner(&self) -> Option<PodUid> {
        self.pod.as_deref().and_then(PodUid::of)
    }

    /// Follows a cause that says more. What had no deadline, or a later one, has one from now on; what clients waited for
    /// before says nothing about a pod that was healthy.
    pub(crate) fn change_cause(&mut self, cause: Cause, now: Time) {
        if self.cause.is_patient() || cause.longest().is_some() {
            (self.since, self.silence) = (now, Silence::default());
        }
        self.cause = cause;
    }

    /// Connections that its removal would cut, as far as known.
    pub fn active(&self) -> u32 {
        self.seen.map_or(0, |(connections, _)| connections.active)
    }

    /// Takes counters in; without them only times do.
    pub(crate) fn poll(&mut self, now: Time, counters: Option<Reading>) {
        let outcome = match counters {
            Some((connections, traffic)) => {
                self.observe(now, &connections, &traffic);
                self.decide(now, &connections)
            }
            None => None,
        };
        let gone = || self.gone_at.filter(|at| now >= *at).map(|_| Outcome::EndpointGone);
        let overdue = || self.deadline().filter(|deadline| now >= *deadline).map(|_| Outcome::TimedOut);
        self.due = self.due.or_else(gone).or(outcome).or_else(overdue);
    }

    fn observe(&mut self, now: Time, connections: &ConnectionCounters, traffic: &TrafficCounters) {
        let before = self.seen.replace((*connections, *traffic));
        let moved = before.is_some_and(|(_, before)| bytes(&before) != bytes(traffic));
        if connections.active > 0 || moved {
            self.last_activity = now;
        }
        self.silence.observe(now, before.as_ref(), &(*connections, *traffic), self.family);
    }

    /// Time at which a poll could find it drained, unless something happens before.
    pub(crate) fn lingers_until(&self) -> Option<Time> {
        let idle = self.settings.policy == Policy::ActiveOnly && self.active() == 0;
        let quiet = self.seen.map_or(self.settings.linger, |(connections, _)| self.quiet_time(&connections));
        idle.then(|| self.last_activity.saturating_add(quiet))
    }

    /// Time at which clients will have waited too long; `None` unless they wait for certain.
    pub(crate) fn unanswered_until(&self) -> Option<Time> {
        self.silence.lasts_until(self.silence_limit()?)
    }

    /// Time at which a poll could find it silent.
    pub(crate) fn silent_at(&self, now: Time) -> Option<Time> {
        self.silence.decided_at(now, self.silence_limit()?)
    }

    /// Time for which nothing must have moved. Where there may be half-closed connections, so long that the
    /// counters would show it.
    fn quiet_time(&self, connections: &ConnectionCounters) -> Time {
        match connections.inactive {
            0 => self.settings.linger,
            _ => self.settings.linger.max(STALE + Time::from_millis(500)),
        }
    }

    fn decide(&self, now: Time, connections: &ConnectionCounters) -> Option<Outcome> {
        let policy = self.settings.policy;
        let is_quiet = match policy {
            Policy::Immediate => return Some(Outcome::Immediate),
            Policy::AllConnections => true,
            Policy::ActiveOnly => now.saturating_sub(self.last_activity) >= self.quiet_time(connections),
        };
        if is_quiet && policy.awaited(connections) == 0 {
            return Some(Outcome::Drained);
        }
        self.unanswered_until().is_some_and(|until| now >= until).then_some(Outcome::Silent)
    }

    /// Time for which clients may wait for an answer; `None` where that is never judged, as of a ready
    /// endpoint.
    fn silence_limit(&self) -> Option<Time> {
        self.settings.silence.filter(|_| !self.cause.is_patient())
    }
}

const fn bytes(traffic: &TrafficCounters) -> (u64, u64) {
    (traffic.bytes_in, traffic.bytes_out)
}
