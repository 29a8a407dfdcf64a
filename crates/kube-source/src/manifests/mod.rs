//! Objects from a directory of YAML or JSON files, followed as it changes.

mod changes;
mod directory;
mod documents;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod objects;
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
use directory::{Directory, Stamp};
use objects::Loaded;
use store::Store;

/// Between two looks where notifications arrive, and where they do not. A look at many files costs something: at most
/// a two-hundredth of the time is spent so.
const LOOK_WATCHED: Duration = Duration::from_millis(500);
const LOOK_BLIND: Duration = Duration::from_millis(200);
const LOOK_AT_LEAST_EVERY: Duration = Duration::from_secs(10);
const LOOK_SHARE: u32 = 200;

/// The directory cannot be followed.
#[derive(Debug, thiserror::Error)]
#[error("read the manifests in {}", dir.display())]
pub struct ManifestError {
    /// The directory.
    pub dir: PathBuf,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// What one look at the directory brought.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Changes of objects; the first batch ends with [`ModelEvent::Synced`].
    pub events: Vec<ModelEvent>,
    /// Problems that were not there before.
    pub problems: Vec<Problem>,
    /// Problems that are not there any more.
    pub healed: Vec<Problem>,
}

/// A directory of manifests.
///
/// Every file ending in `.yaml`, `.yml` or `.json` counts, symbolic links included; files whose names begin with a dot
/// do not, and neither do directories below. Services, EndpointSlices, Lists of them and the own Node are read. An
/// object that stands in two files is taken from the first by name.
///
/// A document that does not parse spoils no other; as long as there is one in a file, objects that the file had before
/// and has no more stay. So do all objects while a file is being written, or is away for a moment.
pub struct ManifestSource {
    directory: Directory,
    node_name: Arc<str>,
    changes: Changes,
    store: Store,
    /// Why the last look failed.
    unlisted: Option<Problem>,
    reported: BTreeSet<Problem>,
    /// When the next look is due although nothing is heard of.
    look_again: Instant,
    synced: bool,
}

impl ManifestSource {
    /// Begins to follow a directory; only the Node named `node_name` is read.
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
            look_again: Instant::now(),
            synced: false,
        })
    }

    /// Looks at the directory and returns what changed since the last look. Reads changed files only.
    pub fn poll(&mut self) -> Batch {
        let start = Instant::now();
        let listed = self.directory.list();
        self.schedule_next_look(start);
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

    /// Blocks until the directory may have changed, at most for `timeout`; whether it may have.
    pub fn wait(&mut self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        loop {
            let due = self
                .changes
                .next_due(&self.directory.notices)
                .map_or(self.look_again, |due| due.min(self.look_again));
            if self.directory.wait_until(due.min(end)) || Instant::now() >= due {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
        }
    }

    /// Reads what is due; whether anything was.
    fn take_changes(&mut self, found: &BTreeMap<Arc<str>, Stamp>) -> bool {
        let now = Instant::now();
        let due = self.changes.look(found, &mut self.directory.notices, now);
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

    /// Text of a file, unless it cannot be read, now or at all. The first look takes what is there.
    fn read(&mut self, name: Arc<str>, stamp: Stamp) -> Option<(Arc<str>, String)> {
        match self.directory.read(&name, stamp) {
            Ok((_, false)) if self.synced => {
                self.changes.changed_meanwhile(name, Instant::now());
                None
            }
            Ok((text, _)) => {
                self.changes.has_read(Arc::clone(&name), stamp);
                Some((name, text))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.changes.changed_meanwhile(name, Instant::now());
                None
            }
            Err(error) => {
                self.store.replace(&name, Loaded::unreadable(&name, &error));
                self.changes.has_read(name, stamp);
                None
            }
        }
    }

    fn schedule_next_look(&mut self, start: Instant) {
        let least = if self.directory.is_watched() { LOOK_WATCHED } else { LOOK_BLIND };
        let pause = (start.elapsed() * LOOK_SHARE).clamp(least, LOOK_AT_LEAST_EVERY);
        self.look_again = Instant::now() + pause;
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
        field: String::new(),
        message: format!("directory cannot be listed: {error}; its last objects stay"),
        remedy: "make it readable".into(),
    }
}
