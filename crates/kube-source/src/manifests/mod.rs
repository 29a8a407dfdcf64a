//! Objects from a directory of YAML or JSON files, followed as it changes.

mod directory;
mod documents;
mod store;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use service_model::ModelEvent;

use crate::Problem;
use directory::{Directory, Stamp};
use store::Store;

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
/// do not. A file that does not parse keeps the objects that it had. An object that stands in two files is taken from
/// the first by name.
pub struct ManifestSource {
    directory: Directory,
    files: BTreeMap<Arc<str>, Stamp>,
    store: Store,
    reported: BTreeSet<Problem>,
    synced: bool,
}

impl ManifestSource {
    /// Begins to follow a directory; only the Node named `node_name` is read.
    pub fn open(dir: &Path, node_name: &str) -> Result<Self, ManifestError> {
        let directory =
            Directory::open(dir).map_err(|source| ManifestError { dir: dir.to_owned(), source })?;
        let (files, reported) = (BTreeMap::new(), BTreeSet::new());
        Ok(ManifestSource { directory, files, store: Store::new(node_name), reported, synced: false })
    }

    /// Looks at the directory and returns what changed since the last look. Reads changed files only.
    pub fn poll(&mut self) -> Batch {
        let mut events = Vec::new();
        let unreadable = match self.directory.list() {
            Ok(found) => {
                self.compare(found, &mut events);
                None
            }
            Err(error) => Some(self.directory.problem(&error)),
        };
        if !std::mem::replace(&mut self.synced, true) {
            events.push(ModelEvent::Synced);
        }
        let now: BTreeSet<_> = self.store.problems().chain(unreadable).collect();
        let before = std::mem::replace(&mut self.reported, now);
        Batch {
            events,
            problems: self.reported.difference(&before).cloned().collect(),
            healed: before.difference(&self.reported).cloned().collect(),
        }
    }

    /// Blocks until the directory may have changed, at most for `timeout`; whether it may have.
    pub fn wait(&mut self, timeout: Duration) -> bool {
        self.directory.wait(timeout)
    }

    fn compare(&mut self, found: BTreeMap<Arc<str>, Stamp>, events: &mut Vec<ModelEvent>) {
        let gone: Vec<_> = self.files.keys().filter(|name| !found.contains_key(*name)).cloned().collect();
        for name in gone {
            self.files.remove(&name);
            self.store.remove(&name);
        }
        for (name, stamp) in found {
            let unchanged = self.files.get(&name) == Some(&stamp);
            if unchanged || self.directory.is_being_written(&name) {
                continue;
            }
            match self.directory.read(&name) {
                Ok(text) => self.store.replace(&name, &text),
                Err(error) => self.store.unreadable(&name, &error),
            }
            self.files.insert(name, stamp);
        }
        self.store.drain(events);
    }
}
