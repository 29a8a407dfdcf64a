//! Tasks for later, and the reason for each: one table.
//!
//! A task is here because it has failed and is tried again, because a dump is needed before the mirror can be
//! trusted, because it waits for the link and the chains, or because an audit or a poll has found a
//! difference. Whatever the reason, a task has one due time: [`Work::next_due`] is the earliest of them, and
//! [`Work::take_due`] and [`Work::due_dumps`] return what is due by it. This module also owns the delays
//! between tries. It never does a task, and has no clock.
//!
//! Reading order: [`Task`], [`Table`], [`Work`]: first [`Work::request`] and [`Work::fail`], then
//! [`Work::take_due`] and [`Work::finish`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use dataplane::Touched;
use drain::{Backoff, Share, Time, WaitsFor};
use lb_types::{Front, VirtualServerId};
use planner::{Dirty, Subject};
use tally::Tallied;

/// Delays between tries of what has failed.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), longest: Duration::from_secs(30) };

/// Share of a core for dumps that others make necessary: whoever fights with us over a table gets no more.
const SHARE_OF_DUMPS: Share = Share::one_of(10);

/// Task for later.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Task {
    /// A comparison with the mirror, and the writes that follow. [`Subject::Base`] stands for the first dumps
    /// too.
    Compare(Subject),
    /// A dump, because a notification or a failed write has made the mirror doubtful.
    Dump(Table),
    /// Deletions of tracked connections.
    DeleteTracked,
}

/// Unit that is dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Table {
    /// Link, routes, addresses and kernel parameters.
    Vips,
    /// The nftables table.
    Rules,
    /// List of virtual servers.
    VirtualServers,
    /// Real servers of one virtual server.
    RealServers(VirtualServerId),
}

impl From<Touched> for Table {
    fn from(touched: Touched) -> Self {
        match touched {
            Touched::Vips => Table::Vips,
            Touched::Rules => Table::Rules,
        }
    }
}

impl From<Subject> for Task {
    fn from(subject: Subject) -> Self {
        Task::Compare(subject)
    }
}

impl From<Table> for Task {
    fn from(table: Table) -> Self {
        Task::Dump(table)
    }
}

impl Task {
    /// Tells whether the task is about a single object of the kernel, not about what all of them depend on or
    /// what only accompanies them.
    pub(crate) const fn is_object(&self) -> bool {
        matches!(
            self,
            Task::Compare(Subject::Front(_) | Subject::Vip(_) | Subject::Address(_) | Subject::Steering(_))
        )
    }
}

impl fmt::Display for Task {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Task::Compare(Subject::Base) => f.write_str("link and packet rules"),
            Task::Compare(Subject::Sysctls) => f.write_str("kernel parameters"),
            Task::Compare(Subject::Steering(family)) => write!(f, "{family} rule for steered packets"),
            Task::Compare(Subject::Vip(vip)) => write!(f, "VIP {vip}"),
            Task::Compare(Subject::Element(element)) => write!(f, "element {element}"),
            Task::Compare(Subject::Address(addr)) => write!(f, "address {addr}"),
            Task::Compare(Subject::Front(front) | Subject::Refusal(front)) => {
                write!(f, "virtual server {front}")
            }
            Task::Dump(Table::Vips) => f.write_str("dump of link, routes and addresses"),
            Task::Dump(Table::Rules) => f.write_str("dump of packet rules"),
            Task::Dump(Table::VirtualServers) => f.write_str("dump of virtual servers"),
            Task::Dump(Table::RealServers(vs)) => write!(f, "dump of the real servers of {vs}"),
            Task::DeleteTracked => f.write_str("deletions of tracked connections"),
        }
    }
}

/// Reach of a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extent {
    /// The kernel refused something of this task.
    Task,
    /// A whole call failed, whatever was in it.
    Call,
}

#[derive(Clone, Debug)]
struct Failure {
    /// Failures in a row.
    attempts: u32,
    /// Last reason, so that a lasting failure is reported once.
    reason: String,
    extent: Extent,
}

#[derive(Clone, Debug)]
struct Entry {
    /// Time at which it is done next; `None` while it only waits for the link and the chains.
    due: Option<Time>,
    awaits_base: bool,
    failure: Option<Failure>,
}

impl Entry {
    /// Tells whether writes may be waiting for it.
    fn is_obstacle(&self, task: &Task) -> bool {
        self.awaits_base || self.failure.is_some() || matches!(task, Task::Dump(Table::RealServers(_)))
    }
}

/// Tasks by key and by time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Work {
    entries: Tallied<BTreeMap<Task, Entry>>,
    /// Tasks by due time, so that nobody looks at those that are not due.
    by_due: Tallied<BTreeSet<(Time, Task)>>,
    /// Tasks that have failed since [`Work::end_step`].
    fresh: BTreeSet<Task>,
    /// Number of tasks that wait for the link and the chains.
    awaiting: usize,
    /// Earliest time for another dump of a whole table that somebody else has touched, or that a refused write has made
    /// doubtful.
    dump_rest: Time,
    /// Counts changes of what [`Work::obstacle`] answers.
    obstacles: u64,
}

impl Work {
    /// Asks for a task at a time; one that is due earlier stays so. A dump that has failed keeps its own
    /// time, and so do the link and the chains. Returns the time at which the task is due.
    pub(crate) fn request(&mut self, task: impl Into<Task>, due: Time) -> Time {
        let task = task.into();
        let due = match self.entries.get(&task) {
            Some(Entry { failure: Some(_), due: Some(due), .. })
                if matches!(task, Task::Dump(_) | Task::Compare(Subject::Base)) =>
            {
                *due
            }
            Some(Entry { due: Some(before), .. }) => due.min(*before),
            _ => due,
        };
        self.change(task, |entry| entry.due = Some(due));
        due
    }

    /// Asks for the dump of a whole table, which keeps to its share of a core.
    pub(crate) fn doubt(&mut self, table: Table, now: Time) {
        self.request(table, now.max(self.dump_rest));
    }

    /// Accounts for the processor time of a step that has dumped whole tables, which ended at `now`.
    pub(crate) fn charge_dumps(&mut self, took: Duration, now: Time) {
        self.dump_rest = now + SHARE_OF_DUMPS.pause(took);
    }

    /// Puts a task off that has not been tried.
    pub(crate) fn postpone(&mut self, task: impl Into<Task>, due: Time) {
        self.change(task.into(), |entry| entry.due = Some(due));
    }

    /// Asks for comparisons at once.
    pub(crate) fn compare(&mut self, dirty: Dirty, now: Time) {
        for subject in dirty {
            self.request(subject, now);
        }
    }

    /// Keeps a comparison until the link and the chains are there.
    pub(crate) fn await_base(&mut self, subject: Subject) {
        let task = Task::Compare(subject);
        self.awaiting += usize::from(self.entries.get(&task).is_none_or(|entry| !entry.awaits_base));
        self.change(task, |entry| (entry.awaits_base, entry.due) = (true, None));
    }

    /// Notes a failure, so that the task is tried again later; returns whether the reason is news. Several
    /// failures of a task that is not due again yet count once.
    pub(crate) fn fail(&mut self, task: impl Into<Task>, reason: &str, now: Time) -> bool {
        self.note(task.into(), reason, Extent::Task, now)
    }

    /// Notes the same of a task in a call that has failed as a whole.
    pub(crate) fn fail_call(&mut self, task: impl Into<Task>, reason: &str, now: Time) {
        self.note(task.into(), reason, Extent::Call, now);
    }

    fn note(&mut self, task: Task, reason: &str, extent: Extent, now: Time) -> bool {
        let before = self.entries.get(&task);
        let failure = before.and_then(|entry| entry.failure.as_ref());
        let is_tried_again = before.and_then(|entry| entry.due).is_none_or(|due| due <= now);
        let attempts = match failure {
            Some(failure) if is_tried_again => failure.attempts.saturating_add(1),
            Some(failure) => failure.attempts,
            None => 1,
        };
        let is_news = failure.is_none_or(|failure| failure.reason != reason);
        let failure = Failure { attempts, reason: reason.to_owned(), extent };
        self.change(task, |entry| {
            (entry.due, entry.failure) = (Some(now + BACKOFF.delay(attempts)), Some(failure));
        });
        self.fresh.insert(task);
        is_news
    }

    /// Ends a step: the delays of what has failed in it count from here, so that a step that takes longer
    /// than its delays is not repeated without a pause.
    pub(crate) fn end_step(&mut self, now: Time) {
        for task in std::mem::take(&mut self.fresh) {
            if let Some(failure) = self.entries.get(&task).and_then(|entry| entry.failure.as_ref()) {
                let due = Some(now + BACKOFF.delay(failure.attempts));
                self.change(task, |entry| entry.due = due);
            }
        }
    }

    /// Forgets a task; returns whether it had failed before.
    pub(crate) fn succeed(&mut self, task: impl Into<Task>) -> bool {
        let task = task.into();
        let Some(entry) = self.entries.remove(&task) else { return false };
        if let Some(due) = entry.due {
            self.by_due.remove(&(due, task));
        }
        self.awaiting -= usize::from(entry.awaits_base);
        self.obstacles += u64::from(entry.is_obstacle(&task));
        entry.failure.is_some()
    }

    /// Forgets a task that has just been done; one that failed again, or waits, is not due and stays. Returns
    /// whether a forgotten task had failed before.
    pub(crate) fn finish(&mut self, task: impl Into<Task>, now: Time) -> bool {
        let task = task.into();
        let is_done = |entry: &Entry| !entry.awaits_base && entry.due.is_some_and(|due| due <= now);
        self.entries.get(&task).is_some_and(is_done) && self.succeed(task)
    }

    /// Takes the comparisons that are due, and all that wait for the link and the chains once these can be
    /// tried (`base`). Those that have failed stay until they succeed.
    pub(crate) fn take_due(&mut self, now: Time, base: bool) -> Dirty {
        let due = self.by_due.iter().take_while(|(due, _)| *due <= now).map(|(_, task)| *task);
        let mut due: Vec<_> = due.collect();
        if base && self.awaiting > 0 {
            let awaiting = self.entries.iter().filter(|(_, entry)| entry.awaits_base).map(|(task, _)| *task);
            let awaiting: Vec<_> = awaiting.collect();
            self.awaiting = 0;
            for task in &awaiting {
                self.change(*task, |entry| {
                    (entry.awaits_base, entry.due) = (false, Some(entry.due.map_or(now, |due| due.min(now))));
                });
            }
            due.extend(awaiting);
        }
        let mut dirty = Dirty::default();
        for task in due {
            let (Task::Compare(subject), Some(entry)) = (task, self.entries.get(&task)) else { continue };
            dirty.insert(subject);
            if entry.awaits_base {
                self.change(task, |entry| entry.due = None);
            } else if entry.failure.is_none() {
                self.succeed(task);
            }
        }
        dirty
    }

    /// Dumps that are due, `most` of them at the most: whole tables, and single virtual servers.
    pub(crate) fn due_dumps(&self, now: Time, most: usize) -> Vec<Table> {
        let due = self.by_due.iter().take_while(|(due, _)| *due <= now);
        let dumps = due.filter_map(|(_, task)| match task {
            Task::Dump(table) => Some(*table),
            _ => None,
        });
        dumps.take(most).collect()
    }

    /// Time at which something is due next.
    pub(crate) fn next_due(&self) -> Option<Time> {
        self.by_due.first().map(|(due, _)| *due)
    }

    /// Tells whether a task has failed and not succeeded since.
    pub(crate) fn is_failing(&self, task: impl Into<Task>) -> bool {
        self.entries.get(&task.into()).is_some_and(|entry| entry.failure.is_some())
    }

    /// Tells whether a comparison has led to nothing in this step: a write failed, or waits for the link and the chains.
    pub(crate) fn is_stuck(&self, subject: Subject) -> bool {
        let task = Task::Compare(subject);
        self.fresh.contains(&task) || self.entries.get(&task).is_some_and(|entry| entry.awaits_base)
    }

    /// Tells whether a task has failed and is not due again yet.
    pub(crate) fn must_wait(&self, task: impl Into<Task>, now: Time) -> bool {
        self.due(task).is_some_and(|due| due > now)
    }

    /// Time at which a task that has failed is due; `None` for any other task.
    pub(crate) fn due(&self, task: impl Into<Task>) -> Option<Time> {
        let entry = self.entries.get(&task.into())?;
        entry.due.filter(|_| entry.failure.is_some())
    }

    /// Tells whether the mirror may have the real servers of a virtual server wrong.
    pub(crate) fn is_in_doubt(&self, vs: &VirtualServerId) -> bool {
        self.entries.contains_key(&Task::Dump(Table::RealServers(*vs)))
    }

    /// Finds what keeps writes to a virtual server from being executed.
    pub(crate) fn obstacle(&self, front: &Front, vs: Option<&VirtualServerId>) -> Option<WaitsFor> {
        let entry = self.entries.get(&Task::Compare(Subject::Front(*front)));
        let refused = entry.and_then(|entry| Some((entry.due?, &entry.failure.as_ref()?.reason)));
        if entry.is_some_and(|entry| entry.awaits_base) {
            Some(WaitsFor::Base)
        } else if let Some((at, reason)) = refused {
            Some(WaitsFor::Retry { at, refused: reason.clone() })
        } else {
            vs.is_some_and(|vs| self.is_in_doubt(vs)).then_some(WaitsFor::Dump)
        }
    }

    /// Changes whenever [`Work::obstacle`] may answer something else.
    pub(crate) fn obstacles(&self) -> u64 {
        self.obstacles
    }

    /// Tells whether comparisons wait for the link and the chains.
    pub(crate) fn awaits_base(&self) -> bool {
        self.awaiting > 0
    }

    /// Tells whether a whole call has failed, with something in it that has not succeeded since.
    pub(crate) fn has_failed_call(&self) -> bool {
        let mut failures = self.entries.values().filter_map(|entry| entry.failure.as_ref());
        failures.any(|failure| failure.extent == Extent::Call)
    }

    /// Tasks that have failed.
    pub(crate) fn failing(&self) -> impl Iterator<Item = &Task> {
        self.entries.iter().filter(|(_, entry)| entry.failure.is_some()).map(|(task, _)| task)
    }

    /// Number of tasks that have failed or wait for the link and the chains.
    pub(crate) fn len(&self) -> usize {
        self.entries.values().filter(|entry| entry.failure.is_some() || entry.awaits_base).count()
    }

    fn change(&mut self, task: Task, change: impl FnOnce(&mut Entry)) {
        let new = || Entry { due: None, awaits_base: false, failure: None };
        let entry = self.entries.entry(task).or_insert_with(new);
        let (before, was_obstacle) = (entry.due, entry.is_obstacle(&task));
        change(entry);
        let after = entry.due;
        self.obstacles += u64::from(was_obstacle || entry.is_obstacle(&task));
        if before != after {
            if let Some(due) = before {
                self.by_due.remove(&(due, task));
            }
            self.by_due.extend(after.map(|due| (due, task)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: Task = Task::Compare(Subject::Base);
    const VIPS: Task = Task::Dump(Table::Vips);

    fn fail(work: &mut Work, reason: &str, now: Time) -> bool {
        work.fail(BASE, reason, now)
    }

    /// Conformance: runner retry interval
    #[test]
    fn delays_double_up_to_half_a_minute_and_start_over_after_success() {
        let (mut work, mut now, mut delays) = (Work::default(), Time::ZERO, Vec::new());
        for _ in 0..12 {
            fail(&mut work, "no", now);
            let due = work.next_due().unwrap();
            delays.push((due - now).as_millis());
            now = due;
        }
        assert_eq!(delays[..4], [100, 200, 400, 800]);
        assert_eq!(delays[11], 30_000);
        assert!(work.succeed(BASE) && !work.succeed(BASE));
        fail(&mut work, "no", now);
        assert_eq!(work.next_due(), Some(now + BACKOFF.first));
        assert!(work.succeed(BASE));
        assert_eq!(work.next_due(), None, "what has succeeded is due no more");
    }

    #[test]
    fn delays_begin_when_the_step_that_failed_has_ended() {
        let mut work = Work::default();
        let later = Duration::from_secs(1);
        fail(&mut work, "no", Time::ZERO);
        work.end_step(later);
        assert_eq!(work.next_due(), Some(later + BACKOFF.first));
        work.end_step(later * 2);
        assert_eq!(work.next_due(), Some(later + BACKOFF.first), "only what this step has tried");
    }

    #[test]
    fn several_failures_of_one_try_count_once_and_news_is_a_changed_reason() {
        let mut work = Work::default();
        assert!(fail(&mut work, "a", Time::ZERO));
        assert!(!fail(&mut work, "a", Time::ZERO));
        assert_eq!(work.next_due(), Some(BACKOFF.first));
        assert!(fail(&mut work, "b", BACKOFF.first));
        assert_eq!(work.next_due(), Some(BACKOFF.first * 3));
    }

    #[test]
    fn a_request_hastens_a_comparison_but_no_dump_that_has_failed() {
        let (mut work, now) = (Work::default(), Time::from_secs(9));
        work.fail(Subject::Sysctls, "no", now);
        work.request(Subject::Sysctls, now);
        assert_eq!(work.next_due(), Some(now));
        work.succeed(Subject::Sysctls);
        work.request(VIPS, now + BACKOFF.first * 9);
        work.fail_call(VIPS, "no", now);
        work.request(VIPS, now);
        assert_eq!(work.next_due(), Some(now + BACKOFF.first));
        assert_eq!(work.due_dumps(now, 9), []);
        assert_eq!(work.due_dumps(now + BACKOFF.first, 9), [Table::Vips]);
    }

    #[test]
    fn what_waits_for_the_base_is_due_with_it() {
        let (mut work, now) = (Work::default(), Time::from_secs(9));
        work.await_base(Subject::Sysctls);
        work.await_base(Subject::Sysctls);
        assert_eq!((work.next_due(), work.len()), (None, 1));
        assert!(work.take_due(now, false).is_empty() && work.awaits_base());
        let dirty = work.take_due(now, true);
        assert!(dirty.contains(&Subject::Sysctls) && !work.awaits_base());
        assert_eq!((work.next_due(), work.len()), (None, 0));
    }
}
