//! When the counters of which virtual server are read.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use lb_types::VirtualServerId;
use tally::Tallied;

use crate::Time;

/// The share of a processor that polls keep to, however many real servers drain: one part of so many.
const SHARE: u32 = 100;

/// So many virtual servers are polled as often as their age demands, whatever that costs: whoever waits for the reset of
/// a silent real server hears of it the sooner.
const FEW: usize = 16;

/// What a poll is taken to cost until that has been measured: more than it does on hardware, because many may begin
/// to drain at once.
const FIRST_COST: Duration = Duration::from_millis(2);

/// No poll is free: what is taken for nothing could never be found dear again.
const LEAST_COST: Duration = Duration::from_micros(1);

/// No poll is put off further than this for the sake of others. Whatever must end at a certain time does so: it has a
/// poll of its own.
const LONGEST: Duration = Duration::from_secs(90);

/// One virtual server that has draining real servers.
#[derive(Clone, Copy, Debug)]
struct Watch {
    due: Time,
    /// Begin of its youngest drain; that one may have ended since, which only means that the others are polled often
    /// for a little longer.
    youngest: Time,
}

/// Every virtual server is polled at times of its own, so that new drains never postpone the polls of old ones.
#[derive(Clone, Debug)]
pub(crate) struct Polls {
    /// What one takes of a processor, by what the last ones took.
    cost: Duration,
    watches: Tallied<BTreeMap<VirtualServerId, Watch>>,
    /// The same by time.
    by_due: Tallied<BTreeSet<(Time, VirtualServerId)>>,
}

impl Default for Polls {
    fn default() -> Self {
        Polls { cost: FIRST_COST, watches: Tallied::default(), by_due: Tallied::default() }
    }
}

impl Polls {
    /// So many polls took so much of a processor. One that was disturbed says little about the next.
    pub(crate) fn took(&mut self, polls: u32, took: Duration) {
        if polls > 0 {
            let one = (took / polls).clamp(LEAST_COST, self.cost * 8);
            self.cost = (self.cost * 7 + one) / 8;
        }
    }

    /// A drain of a virtual server begins, and ends at `deadline` in any case: it is polled soon, but a poll that is due
    /// earlier is not put off.
    pub(crate) fn watch(&mut self, vs: VirtualServerId, now: Time, deadline: Option<Time>) {
        let due = now + self.interval(Duration::ZERO);
        let due = deadline.map_or(due, |deadline| due.min(deadline));
        let due = self.watches.get(&vs).map_or(due, |watch| watch.due.min(due));
        self.schedule(vs, Watch { due, youngest: now });
    }

    /// It has been polled; some drain of it may end at `deadline`.
    pub(crate) fn polled(&mut self, vs: VirtualServerId, now: Time, deadline: Option<Time>) {
        if let Some(watch) = self.watches.get(&vs).copied() {
            let due = now + self.interval(now.saturating_sub(watch.youngest));
            let due = deadline.filter(|deadline| *deadline > now).map_or(due, |deadline| due.min(deadline));
            self.schedule(vs, Watch { due, ..watch });
        }
    }

    /// It is polled at once.
    pub(crate) fn hurry(&mut self, vs: VirtualServerId, now: Time) {
        if let Some(watch) = self.watches.get(&vs).copied() {
            self.schedule(vs, Watch { due: watch.due.min(now), ..watch });
        }
    }

    /// It has no drain any more.
    pub(crate) fn forget(&mut self, vs: &VirtualServerId) {
        if let Some(watch) = self.watches.remove(vs) {
            self.by_due.remove(&(watch.due, *vs));
        }
    }

    /// Due by now, the longest overdue first.
    pub(crate) fn due(&self, now: Time) -> impl Iterator<Item = VirtualServerId> {
        self.by_due.iter().take_while(move |(due, _)| *due <= now).map(|(_, vs)| *vs)
    }

    /// When the first one is due.
    pub(crate) fn next(&self) -> Option<Time> {
        self.by_due.first().map(|(due, _)| *due)
    }

    fn schedule(&mut self, vs: VirtualServerId, watch: Watch) {
        if let Some(before) = self.watches.insert(vs, watch) {
            self.by_due.remove(&(before.due, vs));
        }
        self.by_due.insert((watch.due, vs));
    }

    /// Often while a drain is young, because that is when connections end; rarely once it has become a long one, or
    /// when polls of many add up.
    fn interval(&self, age: Duration) -> Duration {
        let by_age = match age.as_secs() {
            0..10 => Duration::from_millis(500),
            10..60 => Duration::from_secs(2),
            _ => Duration::from_secs(5),
        };
        let many = self.watches.len().saturating_sub(FEW);
        let count = u32::try_from(many).unwrap_or(u32::MAX);
        let by_count = self.cost.saturating_mul(SHARE).saturating_mul(count);
        by_age.max(by_count.min(LONGEST))
    }
}
