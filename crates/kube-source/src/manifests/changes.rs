//! Decision when to read a file again. Pure: the time is an argument.
//!
//! A file that is half-written, or away for the moment in which an editor replaces it, must not take its
//! objects with it. So a file is read when its writer has closed it or when it has not changed for a while,
//! and forgotten when it has been away for a while.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use super::{notices::Notices, stamp::Stamp};

/// Time for which a file must not change before it is read, unless its writer is known to have closed it.
pub(super) const SETTLING_TIME: Duration = Duration::from_millis(100);
/// Time for which a file must be away before it is forgotten: some editors move the old one away before they
/// write the new one.
pub(super) const ABSENCE_TIME: Duration = Duration::from_millis(200);

/// Action that is due for a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Read it: its content may have changed.
    Read(Arc<str>, Stamp),
    /// Forget its objects: it is gone.
    Forget(Arc<str>),
}

/// Known content of each file, and the differences that may soon have to be acted on.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// Content of each file that was read last, by name; `None` if the file has to be read again.
    known: BTreeMap<Arc<str>, Option<Stamp>>,
    /// Differences that have not settled yet.
    pending: BTreeMap<Arc<str>, Difference>,
    begun: bool,
}

/// Difference between the known content of a file and the directory.
#[derive(Clone, Copy, Debug)]
struct Difference {
    /// Content in the directory; `None` for a file that is away.
    found: Option<Stamp>,
    since: Instant,
}

impl Difference {
    /// Time at which the difference counts as settled, if the file stays as it is.
    fn settled_at(&self) -> Instant {
        self.since + if self.found.is_some() { SETTLING_TIME } else { ABSENCE_TIME }
    }
}

impl Changes {
    /// Compares the known files with those in the directory. The first time everything is due at once.
    pub(super) fn compare(
        &mut self,
        found: &BTreeMap<Arc<str>, Stamp>,
        notices: &mut Notices,
        now: Instant,
    ) -> Vec<Due> {
        let first = !std::mem::replace(&mut self.begun, true);
        let mut due = Vec::new();
        for (name, stamp) in found {
            let complete = notices.take_completion(name);
            if !complete && self.known.get(name) == Some(&Some(*stamp)) {
                self.pending.remove(name);
            } else if first || complete || self.is_settled(name, Some(*stamp), notices, now) {
                due.push(Due::Read(Arc::clone(name), *stamp));
            }
        }
        let away: Vec<_> = self.known.keys().filter(|name| !found.contains_key(*name)).cloned().collect();
        for name in away {
            if self.is_settled(&name, None, notices, now) {
                self.known.remove(&name);
                due.push(Due::Forget(name));
            }
        }
        self.pending.retain(|name, _| found.contains_key(name) || self.known.contains_key(name));
        due
    }

    /// Notes that the content behind a stamp was read.
    pub(super) fn note_read(&mut self, name: Arc<str>, stamp: Stamp) {
        self.pending.remove(&name);
        self.known.insert(name, Some(stamp));
    }

    /// Notes that a file changed while it was read, so that it has to settle again.
    pub(super) fn note_change_while_reading(&mut self, name: Arc<str>, now: Instant) {
        self.known.entry(Arc::clone(&name)).and_modify(|stamp| *stamp = None);
        self.pending.insert(name, Difference { found: None, since: now });
    }

    /// Time of the next comparison that is due if no further notification comes.
    pub(super) fn next_due(&self, notices: &Notices) -> Option<Instant> {
        self.pending.values().map(Difference::settled_at).chain(notices.writer_deadlines()).min()
    }

    fn is_settled(
        &mut self,
        name: &Arc<str>,
        found: Option<Stamp>,
        notices: &mut Notices,
        now: Instant,
    ) -> bool {
        if notices.is_being_written(name, now) {
            self.pending.remove(name);
            return false;
        }
        match self.pending.get(name) {
            Some(difference) if difference.found == found => now >= difference.settled_at(),
            _ => {
                self.pending.insert(Arc::clone(name), Difference { found, since: now });
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::notices::WRITER_TIMEOUT, *};

    const STEP: Duration = Duration::from_millis(10);

    /// A directory in words: `a1` is a file `a` with content 1.
    fn found(names: &str) -> BTreeMap<Arc<str>, Stamp> {
        let stamp = |text: &str| Stamp::numbered(text[1..].parse().unwrap());
        names.split_whitespace().map(|text| (text[..1].into(), stamp(text))).collect()
    }

    struct WatchedFiles {
        changes: Changes,
        notices: Notices,
        now: Instant,
    }

    impl WatchedFiles {
        fn new(names: &str) -> Self {
            let mut files = WatchedFiles {
                changes: Changes::default(),
                notices: Notices::default(),
                now: Instant::now(),
            };
            assert_eq!(files.look(names).split_whitespace().count(), names.split_whitespace().count());
            files
        }

        /// Makes one comparison and its reads; returns the names of read files, and of forgotten ones with
        /// `-`.
        fn look(&mut self, names: &str) -> String {
            let due = self.changes.compare(&found(names), &mut self.notices, self.now);
            let mut done = Vec::new();
            for due in due {
                match due {
                    Due::Read(name, stamp) => {
                        done.push(name.to_string());
                        self.changes.note_read(name, stamp);
                    }
                    Due::Forget(name) => done.push(format!("-{name}")),
                }
            }
            done.join(" ")
        }

        fn after(&mut self, wait: Duration, names: &str) -> String {
            self.now += wait;
            self.look(names)
        }
    }

    #[test]
    fn without_notices_a_file_has_to_stand_still() {
        let mut files = WatchedFiles::new("a1 b1");
        assert_eq!(files.after(STEP, "a1 b1"), "");
        assert_eq!(files.after(STEP, "a2 b1"), "");
        assert_eq!(files.after(SETTLING_TIME - STEP, "a3 b1"), "", "it is still being written");
        assert_eq!(files.changes.next_due(&files.notices), Some(files.now + SETTLING_TIME));
        assert_eq!(files.after(SETTLING_TIME - STEP, "a3 b1"), "");
        assert_eq!(files.after(STEP, "a3 b1"), "a");
        assert_eq!(files.changes.next_due(&files.notices), None);
        assert_eq!(files.after(STEP, "a3 b1"), "");
        assert_eq!(files.after(STEP, "a3 b1 c1"), "", "a new file too");
        assert_eq!(files.after(SETTLING_TIME, "a3 b1 c1"), "c");
    }

    #[test]
    fn a_closed_file_is_complete_even_if_it_looks_the_same() {
        let mut files = WatchedFiles::new("a1");
        files.notices.note_write("a".into(), files.now);
        assert_eq!(files.after(SETTLING_TIME * 2, "a2"), "", "not closed");
        files.notices.note_completion("a".into());
        assert_eq!(files.look("a2"), "a");
        files.notices.note_completion("a".into());
        assert_eq!(files.look("a2"), "a", "two writes within one tick of the file system's clock");
        assert_eq!(files.look("a2"), "");
    }

    #[test]
    fn a_writer_that_never_closes_is_not_waited_for_any_longer() {
        let mut files = WatchedFiles::new("a1");
        files.notices.note_write("a".into(), files.now);
        assert_eq!(files.changes.next_due(&files.notices), Some(files.now + WRITER_TIMEOUT));
        assert_eq!(files.after(WRITER_TIMEOUT - STEP, "a2"), "");
        files.notices.note_write("a".into(), files.now);
        assert_eq!(files.after(WRITER_TIMEOUT - STEP, "a3"), "", "it is still at work");
        assert_eq!(files.after(STEP, "a3"), "");
        assert_eq!(files.after(SETTLING_TIME, "a3"), "a");
    }

    #[test]
    fn a_file_that_is_away_for_a_moment_keeps_its_objects() {
        let mut files = WatchedFiles::new("a1 b1");
        assert_eq!(files.after(STEP, "b1"), "");
        assert_eq!(files.after(ABSENCE_TIME - STEP, "b1"), "");
        files.notices.note_completion("a".into());
        assert_eq!(files.after(STEP, "a2 b1"), "a", "replaced, not removed");
        assert_eq!(files.after(STEP, "b1"), "");
        assert_eq!(files.after(ABSENCE_TIME, "b1"), "-a");
        assert_eq!(files.after(ABSENCE_TIME, "b1"), "");
        assert_eq!(files.changes.next_due(&files.notices), None);
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_read_again() {
        let mut files = WatchedFiles::new("a1");
        files.changes.note_change_while_reading("a".into(), files.now);
        assert_eq!(files.after(STEP, "a1"), "");
        assert_eq!(files.after(SETTLING_TIME, "a1"), "a");
    }

    #[test]
    fn a_file_that_goes_while_it_is_read_is_forgotten() {
        let mut files = WatchedFiles::new("a1");
        files.changes.note_change_while_reading("a".into(), files.now);
        assert_eq!(files.after(STEP, ""), "");
        assert_eq!(files.after(ABSENCE_TIME, ""), "-a");
    }

    #[test]
    fn a_file_that_comes_and_goes_unread_leaves_nothing() {
        let mut files = WatchedFiles::new("");
        assert_eq!(files.after(STEP, "a1"), "");
        assert_eq!(files.after(STEP, ""), "");
        assert_eq!(files.changes.next_due(&files.notices), None);
    }
}
