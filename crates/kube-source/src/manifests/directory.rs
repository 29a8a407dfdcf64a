//! The directory: which files it has, and when it may have changed.

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    mem::MaybeUninit,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
};

use crate::Problem;

/// Whoever opens a file and never closes it is not waited for any longer.
const WRITER_PATIENCE: Duration = Duration::from_secs(2);

/// Changes seldom come alone (a rollout edits several files); they are read together.
const QUIET: Duration = Duration::from_millis(5);

/// What tells that a file is another one, or has other content, than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
    inode: (u64, u64),
}

pub(super) struct Directory {
    path: PathBuf,
    inotify: OwnedFd,
    /// Files that somebody has begun to write, and has not closed.
    writing: HashMap<Arc<str>, Instant>,
}

impl Directory {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        let interest = WatchFlags::MODIFY
            | WatchFlags::CLOSE_WRITE
            | WatchFlags::MOVE
            | WatchFlags::CREATE
            | WatchFlags::DELETE
            | WatchFlags::ATTRIB
            | WatchFlags::ONLYDIR;
        inotify::add_watch(&inotify, path, interest)?;
        Ok(Directory { path: path.to_owned(), inotify, writing: HashMap::new() })
    }

    /// All manifest files; links are followed, so that a swapped directory behind them shows.
    pub(super) fn list(&self) -> io::Result<BTreeMap<Arc<str>, Stamp>> {
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str().filter(|name| is_manifest(name)) else { continue };
            // A file may go between the listing and the look at it.
            if let Ok(metadata) = fs::metadata(self.path.join(name))
                && metadata.is_file()
            {
                found.insert(name.into(), stamp(&metadata));
            }
        }
        Ok(found)
    }

    pub(super) fn read(&self, name: &str) -> io::Result<String> {
        fs::read_to_string(self.path.join(name))
    }

    /// Whether a file is half-written: it is read when its writer has closed it.
    pub(super) fn is_being_written(&self, name: &str) -> bool {
        self.writing.contains_key(name)
    }

    pub(super) fn problem(&self, error: &io::Error) -> Problem {
        Problem {
            file: Some(self.path.display().to_string().into()),
            object: String::new(),
            field: String::new(),
            message: format!("directory cannot be listed: {error}; its last objects stay"),
            remedy: "make it readable".into(),
        }
    }

    /// Waits for a change; all changes that follow within [`QUIET`] count as one.
    pub(super) fn wait(&mut self, timeout: Duration) -> bool {
        let changed = self.wait_once(timeout);
        if changed {
            while self.wait_once(QUIET) {}
        }
        let before = self.writing.len();
        self.writing.retain(|_, since| since.elapsed() < WRITER_PATIENCE);
        changed || self.writing.len() < before
    }

    fn wait_once(&mut self, timeout: Duration) -> bool {
        let timeout = Timespec::try_from(timeout).ok();
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
        let ready = poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0);
        ready && self.drain()
    }

    /// Reads all notifications; whether any of them makes a look worth while.
    fn drain(&mut self) -> bool {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(&self.inotify, &mut buffer);
        let mut changed = false;
        while let Ok(event) = reader.next() {
            let name = event.file_name().and_then(|name| name.to_str().ok()).map(Arc::from);
            match name {
                Some(name) if event.events() == ReadFlags::MODIFY => {
                    self.writing.entry(name).or_insert_with(Instant::now);
                }
                Some(name) => {
                    let complete = ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO | ReadFlags::DELETE;
                    if event.events().intersects(complete) {
                        self.writing.remove(&name);
                    }
                    changed = true;
                }
                // The queue overflowed, or the directory itself changed.
                None => changed = true,
            }
        }
        changed
    }
}

fn is_manifest(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    !name.starts_with('.') && extension.is_some_and(|e| ["yaml", "yml", "json"].contains(&e))
}

fn stamp(metadata: &fs::Metadata) -> Stamp {
    Stamp {
        modified: (metadata.mtime(), metadata.mtime_nsec()),
        changed: (metadata.ctime(), metadata.ctime_nsec()),
        size: metadata.size(),
        inode: (metadata.dev(), metadata.ino()),
    }
}
