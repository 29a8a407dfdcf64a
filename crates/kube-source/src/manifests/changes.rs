//! When a file is read again: pure, the time is an argument.
//!
//! A file that is half-written, or gone for the moment in which an editor replaces it, must not take its objects with
//! it. So a file is read when its writer has closed it or when it has stood still for a while, and forgotten when it has
//! been away for a while.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use super::directory::Stamp;

/// A file whose writer is not known to have closed it has to stand still for this long.
pub(super) const SETTLE: Duration = Duration::from_millis(100);
/// A file has to be away for this long: some editors move the old one away before they write the new one.
pub(super) const GONE: Duration = Duration::from_millis(200);
/// Whoever writes a file and does not close it is waited for this long after the last write.
pub(super) const WRITER_PATIENCE: Duration = Duration::from_secs(2);

/// What notifications told about files since they were last read.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// Written to and not closed yet, with the time of the last write.
    writing: BTreeMap<Arc<str>, Instant>,
    /// Closed after writing, or moved here: complete, even if it looks the same.
    complete: BTreeSet<Arc<str>>,
}

impl Notices {
    /// Somebody wrote to the file.
    pub(super) fn written(&mut self, name: Arc<str>, now: Instant) {
        self.complete.remove(&name);
        self.writing.insert(name, now);
    }

    /// Its writer closed the file, or it was moved here.
    pub(super) fn completed(&mut self, name: Arc<str>) {
        self.writing.remove(&name);
        self.complete.insert(name);
    }

    /// The file is not here any more.
    pub(super) fn removed(&mut self, name: &str) {
        self.writing.remove(name);
        self.complete.remove(name);
    }

    /// Some were lost: nothing is known.
    pub(super) fn forget_all(&mut self) {
        *self = Notices::default();
    }

    fn is_being_written(&mut self, name: &str, now: Instant) -> bool {
        let patient = self.writing.get(name).is_some_and(|last| now < *last + WRITER_PATIENCE);
        if !patient {
            self.writing.remove(name);
        }
        patient
    }
}

/// What to do about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Its content may have changed.
    Read(Arc<str>, Stamp),
    /// It is gone.
    Forget(Arc<str>),
}

/// Which content of which file is known, and what may soon have to be done.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// By name, with the content that was read last; `None` if it has to be read again.
    known: BTreeMap<Arc<str>, Option<Stamp>>,
    /// Differences that are not settled yet, `None` for a file that is away; and since when.
    pending: BTreeMap<Arc<str>, (Option<Stamp>, Instant)>,
    begun: bool,
}

impl Changes {
    /// Compares with what was found in the directory. The first time everything is due at once.
    pub(super) fn look(
        &mut self,
        found: &BTreeMap<Arc<str>, Stamp>,
        notices: &mut Notices,
        now: Instant,
    ) -> Vec<Due> {
        let first = !std::mem::replace(&mut self.begun, true);
        let mut due = Vec::new();
        for (name, stamp) in found {
            let complete = notices.complete.remove(name);
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

    /// The content behind a stamp was read.
    pub(super) fn has_read(&mut self, name: Arc<str>, stamp: Stamp) {
        self.pending.remove(&name);
        self.known.insert(name, Some(stamp));
    }

    /// The file changed while it was read: it has to settle again.
    pub(super) fn changed_meanwhile(&mut self, name: Arc<str>, now: Instant) {
        self.known.entry(Arc::clone(&name)).and_modify(|stamp| *stamp = None);
        self.pending.insert(name, (None, now));
    }

    /// When a look is due although nothing more is heard of.
    pub(super) fn next_due(&self, notices: &Notices) -> Option<Instant> {
        let settling = self.pending.values().map(|(seen, since)| *since + patience(*seen));
        settling.chain(notices.writing.values().map(|last| *last + WRITER_PATIENCE)).min()
    }

    fn is_settled(
        &mut self,
        name: &Arc<str>,
        seen: Option<Stamp>,
        notices: &mut Notices,
        now: Instant,
    ) -> bool {
        if notices.is_being_written(name, now) {
            self.pending.remove(name);
            return false;
        }
        match self.pending.get(name) {
            Some((before, since)) if *before == seen => now >= *since + patience(seen),
            _ => {
                self.pending.insert(Arc::clone(name), (seen, now));
                false
            }
        }
    }
}

fn patience(seen: Option<Stamp>) -> Duration {
    if seen.is_some() { SETTLE } else { GONE }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(10);

    /// A directory in words: `a1` is a file `a` with content 1.
    fn found(files: &str) -> BTreeMap<Arc<str>, Stamp> {
        let stamp = |text: &str| Stamp::numbered(text[1..].parse().unwrap());
        files.split_whitespace().map(|text| (text[..1].into(), stamp(text))).collect()
    }

    struct World {
        changes: Changes,
        notices: Notices,
        now: Instant,
    }

    impl World {
        fn new(files: &str) -> Self {
            let mut world =
                World { changes: Changes::default(), notices: Notices::default(), now: Instant::now() };
            assert_eq!(world.look(files).split_whitespace().count(), files.split_whitespace().count());
            world
        }

        /// One look and its reads; the names of read files, and `-` and the names of forgotten ones.
        fn look(&mut self, files: &str) -> String {
            let due = self.changes.look(&found(files), &mut self.notices, self.now);
            let mut done = Vec::new();
            for due in due {
                match due {
                    Due::Read(name, stamp) => {
                        done.push(name.to_string());
                        self.changes.has_read(name, stamp);
                    }
                    Due::Forget(name) => done.push(format!("-{name}")),
                }
            }
            done.join(" ")
        }

        fn after(&mut self, wait: Duration, files: &str) -> String {
            self.now += wait;
            self.look(files)
        }
    }

    #[test]
    fn without_notices_a_file_has_to_stand_still() {
        let mut world = World::new("a1 b1");
        assert_eq!(world.after(STEP, "a1 b1"), "");
        assert_eq!(world.after(STEP, "a2 b1"), "");
        assert_eq!(world.after(SETTLE - STEP, "a3 b1"), "", "it is still being written");
        assert_eq!(world.changes.next_due(&world.notices), Some(world.now + SETTLE));
        assert_eq!(world.after(SETTLE - STEP, "a3 b1"), "");
        assert_eq!(world.after(STEP, "a3 b1"), "a");
        assert_eq!(world.changes.next_due(&world.notices), None);
        assert_eq!(world.after(STEP, "a3 b1"), "");
        assert_eq!(world.after(STEP, "a3 b1 c1"), "", "a new file too");
        assert_eq!(world.after(SETTLE, "a3 b1 c1"), "c");
    }

    #[test]
    fn a_closed_file_is_complete_even_if_it_looks_the_same() {
        let mut world = World::new("a1");
        world.notices.written("a".into(), world.now);
        assert_eq!(world.after(SETTLE * 2, "a2"), "", "not closed");
        world.notices.completed("a".into());
        assert_eq!(world.look("a2"), "a");
        world.notices.completed("a".into());
        assert_eq!(world.look("a2"), "a", "two writes within one tick of the file system's clock");
        assert_eq!(world.look("a2"), "");
    }

    #[test]
    fn a_writer_that_never_closes_is_not_waited_for_any_longer() {
        let mut world = World::new("a1");
        world.notices.written("a".into(), world.now);
        assert_eq!(world.changes.next_due(&world.notices), Some(world.now + WRITER_PATIENCE));
        assert_eq!(world.after(WRITER_PATIENCE - STEP, "a2"), "");
        world.notices.written("a".into(), world.now);
        assert_eq!(world.after(WRITER_PATIENCE - STEP, "a3"), "", "it is still at work");
        assert_eq!(world.after(STEP, "a3"), "");
        assert_eq!(world.after(SETTLE, "a3"), "a");
    }

    #[test]
    fn a_file_that_is_away_for_a_moment_keeps_its_objects() {
        let mut world = World::new("a1 b1");
        assert_eq!(world.after(STEP, "b1"), "");
        assert_eq!(world.after(GONE - STEP, "b1"), "");
        world.notices.completed("a".into());
        assert_eq!(world.after(STEP, "a2 b1"), "a", "replaced, not removed");
        assert_eq!(world.after(STEP, "b1"), "");
        assert_eq!(world.after(GONE, "b1"), "-a");
        assert_eq!(world.after(GONE, "b1"), "");
        assert_eq!(world.changes.next_due(&world.notices), None);
    }

    #[test]
    fn a_file_that_changes_while_it_is_read_is_read_again() {
        let mut world = World::new("a1");
        world.changes.changed_meanwhile("a".into(), world.now);
        assert_eq!(world.after(STEP, "a1"), "");
        assert_eq!(world.after(SETTLE, "a1"), "a");
    }

    #[test]
    fn a_file_that_goes_while_it_is_read_is_forgotten() {
        let mut world = World::new("a1");
        world.changes.changed_meanwhile("a".into(), world.now);
        assert_eq!(world.after(STEP, ""), "");
        assert_eq!(world.after(GONE, ""), "-a");
    }

    #[test]
    fn a_file_that_comes_and_goes_unread_leaves_nothing() {
        let mut world = World::new("");
        assert_eq!(world.after(STEP, "a1"), "");
        assert_eq!(world.after(STEP, ""), "");
        assert_eq!(world.changes.next_due(&world.notices), None);
    }
}
