//! Times at which the counters of virtual servers are read.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_types::Front;
use tally::Tallied;

use crate::{Share, Time};

/// Share of a processor that polls keep to, however many real servers drain.
const SHARE: Share = Share::one_of(100);

/// Number of virtual servers that are polled as often as their age demands, whatever that costs: a client
/// that waits for the reset of a silent real server gets it sooner.
const ALWAYS_POLLED_BY_AGE: usize = 16;

/// Assumed cost of a poll until one has been measured: more than on hardware, because many drains may begin
/// at once.
const FIRST_COST: Duration = Duration::from_millis(2);

/// Lower bound of the cost of a poll: from zero it could never grow again.
const LEAST_COST: Duration = Duration::from_micros(1);

/// Bound of the pauses that polls make for the sake of each other. Whatever must end at a certain time has a
/// poll of its own.
const LONGEST_PAUSE: Duration = Duration::from_secs(90);

/// One virtual server that has draining real servers.
#[derive(Clone, Copy, Debug)]
struct Watch {
    due: Time,
    /// Begin of its youngest drain; that one may have ended since, which only means that the others are
    /// polled often for a little longer.
    youngest: Time,
}

/// Every virtual server is polled at times of its own, so that new drains never postpone the polls of old
/// ones.
#[derive(Clone, Debug)]
pub(crate) struct Polls {
    /// Processor time of one poll, by that of the last ones.
    cost: Duration,
    watches: Tallied<BTreeMap<Front, Watch>>,
    /// The same by time.
    by_due: Tallied<BTreeSet<(Time, Front)>>,
}

impl Default for Polls {
    fn default() -> Self {
        Polls { cost: FIRST_COST, watches: Tallied::default(), by_due: Tallied::default() }
    }
}

impl Polls {
    /// Takes in the processor time of some polls. One that was disturbed says little about the next.
    pub(crate) fn took(&mut self, polls: u32, took: Duration) {
        if polls > 0 {
            let one = (took / polls).clamp(LEAST_COST, self.cost * 8);
            self.cost = (self.cost * 7 + one) / 8;
        }
    }

    /// A drain of a virtual server begins, and ends at `deadline` in any case: it is polled soon, but a poll
    /// that is due earlier is not put off.
    pub(crate) fn watch(&mut self, front: Front, now: Time, deadline: Option<Time>) {
        let due = now + self.interval(Duration::ZERO);
        let due = deadline.map_or(due, |deadline| due.min(deadline));
        let due = self.watches.get(&front).map_or(due, |watch| watch.due.min(due));
        self.schedule(front, Watch { due, youngest: now });
    }

    /// It has been polled; some drain of it may end at `deadline`.
    pub(crate) fn polled(&mut self, front: Front, now: Time, deadline: Option<Time>) {
        if let Some(watch) = self.watches.get(&front).copied() {
            let due = now + self.interval(now.saturating_sub(watch.youngest));
            let due = deadline.filter(|deadline| *deadline > now).map_or(due, |deadline| due.min(deadline));
            self.schedule(front, Watch { due, ..watch });
        }
    }

    /// It is polled at once.
    pub(crate) fn hurry(&mut self, front: Front, now: Time) {
        if let Some(watch) = self.watches.get(&front).copied() {
            self.schedule(front, Watch { due: watch.due.min(now), ..watch });
        }
    }

    /// It has no drain any more.
    pub(crate) fn forget(&mut self, front: &Front) {
        if let Some(watch) = self.watches.remove(front) {
            self.by_due.remove(&(watch.due, *front));
        }
    }

    /// Due by now, the longest overdue first.
    pub(crate) fn due(&self, now: Time) -> impl Iterator<Item = Front> {
        self.by_due.iter().take_while(move |(due, _)| *due <= now).map(|(_, front)| *front)
    }

    /// Time at which the first one is due.
    pub(crate) fn next(&self) -> Option<Time> {
        self.by_due.first().map(|(due, _)| *due)
    }

    /// Time at which one virtual server is due.
    pub(crate) fn next_of(&self, front: &Front) -> Option<Time> {
        self.watches.get(front).map(|watch| watch.due)
    }

    fn schedule(&mut self, front: Front, watch: Watch) {
        if let Some(before) = self.watches.insert(front, watch) {
            self.by_due.remove(&(before.due, front));
        }
        self.by_due.insert((watch.due, front));
    }

    /// Often while a drain is young, because that is when connections end; rarely once it has become a long
    /// one, or when polls of many add up.
    fn interval(&self, age: Duration) -> Duration {
        let by_age = match age.as_secs() {
            0..10 => Duration::from_millis(500),
            10..60 => Duration::from_secs(2),
            _ => Duration::from_secs(5),
        };
        let many = self.watches.len().saturating_sub(ALWAYS_POLLED_BY_AGE);
        let count = u32::try_from(many).unwrap_or(u32::MAX);
        by_age.max(SHARE.pause(self.cost.saturating_mul(count)).min(LONGEST_PAUSE))
    }
}
