//! The directory of manifests: its files, and notifications about them.
//!
//! Notifications (inotify(7)) tell at once that the directory should be listed again, and when a writer has
//! finished. They are missing on network file systems, for files behind symbolic links, and when the user has
//! no watches left. So the directory is listed from time to time in any case.

use std::{
    collections::BTreeMap,
    fs, io,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
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

use super::{
    notices::Notices,
    stamp::{Inode, Stamp},
};

/// Pause between notifications that ends a burst. Changes seldom come alone (a rollout edits several files),
/// so those of one burst are handled together.
const BURST_PAUSE: Duration = Duration::from_millis(5);
/// Largest number of notifications in one burst.
const BURST_NOTIFICATIONS: usize = 20;
/// Largest file that is read; a larger one is a mistake.
const MAX_FILE_BYTES: u64 = 1 << 30;

/// A directory of manifests.
pub(super) struct Directory {
    path: PathBuf,
    watch: Option<Watch>,
    /// Notices about files so far.
    pub(super) notices: Notices,
}

/// Notifications about one directory, which another of the same name may replace.
struct Watch {
    inotify: OwnedFd,
    inode: Inode,
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

    /// Lists all manifest files. It follows symbolic links, so that a swapped directory behind them is
    /// noticed.
    pub(super) fn list(&mut self) -> io::Result<BTreeMap<Arc<str>, Stamp>> {
        self.ensure_watched()?;
        self.drain(Instant::now());
        let mut found = BTreeMap::new();
        for entry in fs::read_dir(&self.path)? {
            let name = entry?.file_name();
            let Some(name) = name.to_str().filter(|name| is_manifest(name)) else { continue };
            // A file may vanish between the listing and this call, and a link may lead nowhere.
            if let Ok(metadata) = fs::metadata(self.path.join(name))
                && metadata.is_file()
            {
                found.insert(name.into(), Stamp::of(&metadata));
            }
        }
        Ok(found)
    }

    /// Content of a file, and whether the stamp still fits it.
    pub(super) fn read(&self, name: &str, stamp: Stamp) -> io::Result<(String, bool)> {
        if stamp.size() > MAX_FILE_BYTES {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 1 GiB"));
        }
        let path = self.path.join(name);
        let text = fs::read_to_string(&path)?;
        let unchanged = fs::metadata(&path).is_ok_and(|metadata| Stamp::of(&metadata) == stamp);
        Ok((text, unchanged))
    }

    /// Waits for a notification, at most until `end`; returns whether one came that calls for a new listing.
    pub(super) fn wait_until(&mut self, end: Instant) -> bool {
        if !self.wait_once(end) {
            return false;
        }
        for _ in 0..BURST_NOTIFICATIONS {
            if !self.wait_once(Instant::now() + BURST_PAUSE) {
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

    /// Reads all notifications; returns whether any of them calls for a new listing (an unfinished write does
    /// not).
    fn drain(&mut self, now: Instant) -> bool {
        let Some(watch) = &self.watch else { return false };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(watch.inotify.as_fd(), &mut buffer);
        let mut list_again = false;
        while let Ok(event) = reader.next() {
            let name = event.file_name().and_then(|name| name.to_str().ok());
            list_again |= take_notice(event.events(), name, now, &mut self.notices);
        }
        list_again
    }

    /// Subscribes to notifications about the directory, which must exist. If that fails, regular listings
    /// must do.
    fn ensure_watched(&mut self) -> io::Result<()> {
        let inode = Inode::of(&fs::metadata(&self.path)?);
        if self.watch.as_ref().is_some_and(|watch| watch.inode == inode) {
            return Ok(());
        }
        self.notices.forget_all();
        self.watch = match watch(&self.path) {
            Ok(inotify) => Some(Watch { inotify, inode }),
            Err(error) => {
                debug!(path = %self.path.display(), %error, "no notifications about manifests; listing them regularly");
                None
            }
        };
        Ok(())
    }

    /// Tells whether notifications arrive at all.
    pub(super) fn is_watched(&self) -> bool {
        self.watch.is_some()
    }

    #[cfg(test)]
    pub(super) fn stop_watching(&mut self) {
        let inode = Inode::of(&fs::metadata(&self.path).unwrap());
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

/// Takes in a notification; returns whether it calls for a new listing.
fn take_notice(event: ReadFlags, name: Option<&str>, now: Instant, notices: &mut Notices) -> bool {
    if event.contains(ReadFlags::QUEUE_OVERFLOW) {
        notices.forget_all();
        return true;
    }
    // Only notices about manifests are kept. Still every change counts: a manifest may be a link to any other
    // name.
    let is_unfinished_write = event.contains(ReadFlags::MODIFY);
    if let Some(name) = name.filter(|name| is_manifest(name)) {
        if is_unfinished_write {
            notices.note_write(name.into(), now);
        } else if event.intersects(ReadFlags::CLOSE_WRITE | ReadFlags::MOVED_TO) {
            notices.note_completion(name.into());
        } else if event.intersects(ReadFlags::DELETE | ReadFlags::MOVED_FROM) {
            notices.note_removal(name);
        }
    }
    !is_unfinished_write
}

fn is_manifest(name: &str) -> bool {
    let extension = Path::new(name).extension().and_then(|extension| extension.to_str());
    !name.starts_with('.') && extension.is_some_and(|e| ["yaml", "yml", "json"].contains(&e))
}
