//! The directory: which files it has, and when a look at it is worth while.
//!
//! Notifications (inotify(7)) say so at once, and say when a writer has finished. They are missing on network file
//! systems, for files behind symbolic links and where the user has no watches left, so a look is due from time to time
//! in any case.

use std::{
    collections::BTreeMap,
    fs, io,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags},
};
use tracing::debug;

use super::changes::Notices;

/// Changes seldom come alone (a rollout edits several files): those that follow so closely are looked at together,
const QUIET: Duration = Duration::from_millis(5);
/// up to this many.
const QUIET_ROUNDS: usize = 20;
/// A file beyond this is a mistake.
const MAX_FILE_SIZE: u64 = 1 << 30;

/// What tells that a file is another one, or has other content, than before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
    inode: (u64, u64),
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Stamp {
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.size(),
            inode: (metadata.dev(), metadata.ino()),
        }
    }

    /// One of many different stamps.
    #[cfg(test)]
    pub(super) fn numbered(number: u64) -> Self {
        Stamp { modified: (0, 0), changed: (0, 0), size: number, inode: (0, 0) }
    }
}

pub(super) struct Directory {
    path: PathBuf,
    watch: Option<Watch>,
    /// What notifications told so far.
    pub(super) notices: Notices,
}

/// Notifications about one directory, which may be replaced by another of the same name.
struct Watch {
    inotify: OwnedFd,
    inode: (u64, u64),
}

impl Directory {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        fs::read_dir(path)?;
        let mut directory = Directory { path: path.to_owned(), watch: None, notices: Notices::default() };
        directory.ensure_watched()?;
        Ok(directory)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// All manifest files; symbolic links are followed, so that a swapped directory behind them shows.
    pub(super) fn list(&mut self) -> io::Result<BTreeMap<Arc<str>, Stamp>> {
        self.ensure_watched()?;
        self.drain(Instant::now());
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str().filter(|name| is_manifest(name)) else { continue };
            // A file may go between the listing and the look at it, and a link may lead nowhere.
            if let Ok(metadata) = fs::metadata(self.path.join(name))
                && metadata.is_file()
            {
                found.insert(name.into(), Stamp::of(&metadata));
            }
        }
        Ok(found)
    }

    /// Content of a file, and whether it is what stood there when the stamp was taken.
    pub(super) fn read(&self, name: &str, stamp: Stamp) -> io::Result<(String, bool)> {
        if stamp.size > MAX_FILE_SIZE {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 GiB"));
        }
        let path = self.path.join(name);
        let text = fs::read_to_string(&path)?;
        let unchanged = fs::metadata(&path).is_ok_and(|metadata| Stamp::of(&metadata) == stamp);
        Ok((text, unchanged))
    }

    /// Waits for a notification, at most until a time; whether there was one that makes a look worth while.
    pub(super) fn wait_until(&mut self, end: Instant) -> bool {
        if !self.wait_once(end) {
            return false;
        }
        for _ in 0..QUIET_ROUNDS {
            if !self.wait_once(Instant::now() + QUIET) {
                break;
            }
        }
        true
    }

    fn wait_once(&mut self, end: Instant) -> bool {
        loop {
            let now = Instant::now();
            let left = end.saturating_duration_since(now);
            let Some(watch) = &self.watch else {
                thread::sleep(left);
                return false;
            };
            let timeout = Timespec::try_from(left).ok();
            let mut fds = [PollFd::new(&watch.inotify, PollFlags::IN)];
            let ready = poll(&mut fds, timeout.as_ref()).is_ok_and(|ready| ready > 0);
            if ready && self.drain(Instant::now()) {
                return true;
            }
            if now >= end {
                return false;
            }
        }
    }

    /// Reads all notifications; whether any of them makes a look worth while (a write that goes on does not).
    fn drain(&mut self, now: Instant) -> bool {
        let Some(watch) = &self.watch else { return false };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(watch.inotify.as_fd(), &mut buffer);
        let mut worth_while = false;
        while let Ok(event) = reader.next() {
            let name = event.file_name().and_then(|name| name.to_str().ok());
            worth_while |= take_notice(event.events(), name, now, &mut self.notices);
        }
        worth_while
    }

    /// Notifications are a convenience: without them, looks alone must do. The directory itself must be there.
    fn ensure_watched(&mut self) -> io::Result<()> {
        let metadata = fs::metadata(&self.path)?;
        let inode = (metadata.dev(), metadata.ino());
        if self.watch.as_ref().is_some_and(|watch| watch.inode == inode) {
            return Ok(());
        }
        self.notices.forget_all();
        self.watch = match watch(&self.path) {
            Ok(inotify) => Some(Watch { inotify, inode }),
            Err(error) => {
                debug!(path = %self.path.display(), %error, "no notifications about manifests; looking regularly");
                None
            }
        };
        Ok(())
    }

    /// Whether notifications arrive at all.
    pub(super) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    #[cfg(test)]
    pub(super) fn stop_watching(&mut self) {
        let inode = fs::metadata(&self.path).map(|metadata| (metadata.dev(), metadata.ino())).unwrap();
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).unwrap();
        self.watch = Some(Watch { inotify, inode });
    }
}

fn watch(path: &Path) -> io::Result<OwnedFd> {
    let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let interest = WatchFlags::MODIFY
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::MOVE
        | WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::ATTRIB
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    inotify::add_watch(&inotify, path, interest)?;
    Ok(inotify)
}

/// Whether a notification makes a look worth while.
fn take_notice(event: ReadFlags, name: Option<&str>, now: Instant, notices: &mut Notices) -> bool {
    if event.contains(ReadFlags::QUEUE_OVERFLOW) {
        notices.forget_all();
        return true;
    }
    // A link elsewhere may be behind any name: only notices about manifests are kept, but every change counts.
    let manifest = name.filter(|name| is_manifest(name));
    if event.contains(ReadFlags::MODIFY) {
        manifest.into_iter().for_each(|name| notices.written(name.into(), now));
        return false;
    }
    if event.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) {
        manifest.into_iter().for_each(|name| notices.completed(name.into()));
    } else if event.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
        manifest.into_iter().for_each(|name| notices.removed(name));
    }
    true
}

fn is_manifest(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    !name.starts_with('.') && extension.is_some_and(|e| ["yaml", "yml", "json"].contains(&e))
}
