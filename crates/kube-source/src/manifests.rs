//! Objects from a directory of YAML or JSON files, and their changes.

mod changes;
mod directory;
mod documents;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod notices;
mod objects;
mod stamp;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use service_model::ModelEvent;

use crate::Problem;
use changes::{Changes, Due};
use directory::Directory;
use objects::Loaded;
use stamp::Stamp;
use store::Store;

/// Pause between two listings while notifications arrive.
const PAUSE_WITH_NOTIFICATIONS: Duration = Duration::from_millis(500);
/// Pause between two listings while no notifications arrive.
const PAUSE_WITHOUT_NOTIFICATIONS: Duration = Duration::from_millis(200);
/// Longest pause between two listings, however long one takes.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// Duration of a pause as a multiple of the time that the listing took: many files cost little of the time.
const PAUSE_PER_LISTING: u32 = 200;

/// Error of a directory that cannot be followed.
#[derive(Debug, thiserror::Error)]
#[error("read the manifests in {}", dir.display())]
pub struct ManifestError {
    /// The directory.
    pub dir: PathBuf,
    /// Error of the operating system.
    #[source]
    pub source: io::Error,
}

/// Changes since the last delivery.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Changes of objects; the first batch ends with [`ModelEvent::Synced`].
    pub events: Vec<ModelEvent>,
    /// New problems.
    pub problems: Vec<Problem>,
    /// Problems that no longer exist.
    pub healed: Vec<Problem>,
}

/// A directory of manifests.
///
/// It reads every file ending in `.yaml`, `.yml` or `.json`, symbolic links included, but no file whose name
/// begins with a dot and no directories below. In the files it reads Services, EndpointSlices, Lists of them
/// and the own Node. If two files have the same object, the first file by name determines it.
///
/// A document that does not parse spoils no other. As long as a file contains one, objects that the file had
/// before stay, even if they are no longer in it. So do all objects while a file is being written, or is away
/// for a moment.
pub struct ManifestSource {
    directory: Directory,
    node_name: Arc<str>,
    changes: Changes,
    store: Store,
    /// Failure of the last listing.
    unlisted: Option<Problem>,
    reported: BTreeSet<Problem>,
    /// Time of the next listing if no notification comes before.
    list_again: Instant,
    synced: bool,
}

impl ManifestSource {
    /// Starts following a directory; `node_name` is the only Node that is read.
    pub fn open(dir: &Path, node_name: &str) -> Result<Self, ManifestError> {
        let directory =
            Directory::open(dir).map_err(|source| ManifestError { dir: dir.to_owned(), source })?;
        Ok(ManifestSource {
            directory,
            node_name: node_name.into(),
            changes: Changes::default(),
            store: Store::default(),
            unlisted: None,
            reported: BTreeSet::new(),
            list_again: Instant::now(),
            synced: false,
        })
    }

    /// Lists the directory and returns all changes since the last call. Reads only files that changed.
    pub fn poll(&mut self) -> Batch {
        let start = Instant::now();
        let listed = self.directory.list();
        self.schedule_next_listing(start);
        let (changed, unlisted) = match listed {
            Ok(found) => (self.take_changes(&found), None),
            Err(error) => (false, Some(unlisted(self.directory.path(), &error))),
        };
        let mut batch = Batch { events: self.store.deliver(), ..Batch::default() };
        if !std::mem::replace(&mut self.synced, true) {
            batch.events.push(ModelEvent::Synced);
        }
        if changed || unlisted != self.unlisted {
            self.unlisted = unlisted;
            self.report(&mut batch);
        }
        batch
    }

    /// Blocks until the directory may have changed, at most for `timeout`; returns whether it may have.
    pub fn wait(&mut self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        loop {
            let due = self
                .changes
                .next_due(&self.directory.notices)
                .map_or(self.list_again, |due| due.min(self.list_again));
            if self.directory.wait_until(due.min(end)) || Instant::now() >= due {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
        }
    }

    /// Reads and forgets the files for which that is due; returns whether there was any.
    fn take_changes(&mut self, found: &BTreeMap<Arc<str>, Stamp>) -> bool {
        let now = Instant::now();
        let due = self.changes.compare(found, &mut self.directory.notices, now);
        let changed = !due.is_empty();
        let mut texts = Vec::new();
        for due in due {
            match due {
                Due::Forget(name) => self.store.remove(&name),
                Due::Read(name, stamp) => texts.extend(self.read(name, stamp)),
            }
        }
        for (loaded, (name, _)) in objects::load(&texts, &self.node_name).into_iter().zip(&texts) {
            self.store.replace(name, loaded);
        }
        changed
    }

    /// Text of a file, unless it cannot be read now, or at all. The first call takes whatever the file
    /// contains.
    fn read(&mut self, name: Arc<str>, stamp: Stamp) -> Option<(Arc<str>, String)> {
        match self.directory.read(&name, stamp) {
            Ok((_, false)) if self.synced => {
                self.changes.note_change_while_reading(name, Instant::now());
                None
            }
            Ok((text, _)) => {
                self.changes.note_read(Arc::clone(&name), stamp);
                Some((name, text))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.changes.note_change_while_reading(name, Instant::now());
                None
            }
            Err(error) => {
                self.store.replace(&name, Loaded::unreadable(&name, &error));
                self.changes.note_read(name, stamp);
                None
            }
        }
    }

    fn schedule_next_listing(&mut self, start: Instant) {
        let least =
            if self.directory.is_watched() { PAUSE_WITH_NOTIFICATIONS } else { PAUSE_WITHOUT_NOTIFICATIONS };
        let pause = (start.elapsed() * PAUSE_PER_LISTING).clamp(least, LONGEST_PAUSE);
        self.list_again = Instant::now() + pause;
    }

    fn report(&mut self, batch: &mut Batch) {
        let now: BTreeSet<_> = self.store.problems().chain(self.unlisted.clone()).collect();
        let before = std::mem::replace(&mut self.reported, now);
        batch.problems = self.reported.difference(&before).cloned().collect();
        batch.healed = before.difference(&self.reported).cloned().collect();
    }
}

fn unlisted(dir: &Path, error: &io::Error) -> Problem {
    Problem {
        file: Some(dir.display().to_string().into()),
        object: String::new(),
        service: None,
        field: String::new(),
        message: format!("the directory cannot be listed: {error}; its last objects stay"),
        remedy: "make the directory readable".into(),
    }
}
