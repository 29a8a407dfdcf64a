//! Notices about the files of the directory, from notifications. Pure: the time is an argument.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

/// Longest wait after the last write of a writer that does not close the file.
pub(super) const WRITER_TIMEOUT: Duration = Duration::from_secs(2);

/// Notices about files since they were last read.
#[derive(Debug, Default)]
pub(super) struct Notices {
    /// Files with an open writer, and the time of the last write.
    writing: BTreeMap<Arc<str>, Instant>,
    /// Files that were closed after writing, or moved here: complete, even if they look the same.
    complete: BTreeSet<Arc<str>>,
}

impl Notices {
    /// Notes that somebody wrote to a file.
    pub(super) fn note_write(&mut self, name: Arc<str>, now: Instant) {
        self.complete.remove(&name);
        self.writing.insert(name, now);
    }

    /// Notes that the writer closed a file, or that it was moved here.
    pub(super) fn note_completion(&mut self, name: Arc<str>) {
        self.writing.remove(&name);
        self.complete.insert(name);
    }

    /// Notes that a file is no longer here.
    pub(super) fn note_removal(&mut self, name: &str) {
        self.writing.remove(name);
        self.complete.remove(name);
    }

    /// Forgets everything, because notifications were lost.
    pub(super) fn forget_all(&mut self) {
        *self = Notices::default();
    }

    /// Takes the notice that a file is complete, if there is one.
    pub(super) fn take_completion(&mut self, name: &str) -> bool {
        self.complete.remove(name)
    }

    /// Tells whether a writer is at work. One that has been idle for too long is forgotten.
    pub(super) fn is_being_written(&mut self, name: &str, now: Instant) -> bool {
        let is_active = self.writing.get(name).is_some_and(|last| now < *last + WRITER_TIMEOUT);
        if !is_active {
            self.writing.remove(name);
        }
        is_active
    }

    /// Times at which the waits for writers end.
    pub(super) fn writer_deadlines(&self) -> impl Iterator<Item = Instant> {
        self.writing.values().map(|last| *last + WRITER_TIMEOUT)
    }
}
