//! The directory for state that must survive a restart of the process but not of the node.
//!
//! A user who can write to a directory above it must not make this process, which is root, write elsewhere. So it
//! follows no links, and makes everything here for this user alone.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use anyhow::bail;
use rustix::{
    fs::{FlockOperation, OFlags, flock},
    io::Errno,
};
use tracing::warn;

/// Locks the directory. Two processes would undo each other's work, so the second one stops here.
///
/// Where the directory cannot be written, the process runs all the same: Services matter more than that state.
pub fn lock(state_dir: &Path) -> anyhow::Result<Option<File>> {
    let path = state_dir.join("lock");
    let file = match create(state_dir).and_then(|()| open_lock(&path)) {
        Ok(file) => file,
        Err(error) => {
            warn!(
                "cannot write to --state-dir {}: {error}; kube-ipvs runs without it: a restart forgets since when and \
                 why real servers drain, and nothing notices a second kube-ipvs on this node; name a directory that \
                 can be written",
                state_dir.display()
            );
            return Ok(None);
        }
    };
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => {
            bail!("{} is locked: another kube-ipvs runs on this node; stop it first", path.display())
        }
        Err(error) => {
            warn!("cannot lock {}: {error}; nothing notices a second kube-ipvs on this node", path.display())
        }
        Ok(()) => {}
    }
    Ok(Some(file))
}

/// Makes the directory if it does not exist; the directories above it may serve others too.
fn create(state_dir: &Path) -> io::Result<()> {
    if let Some(parent) = state_dir.parent() {
        fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(state_dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let is_directory = fs::symlink_metadata(state_dir).is_ok_and(|found| found.is_dir());
            if is_directory { Ok(()) } else { Err(error) }
        }
        result => result,
    }
}

/// Tells whether a process holds the lock of a directory, by the kernel's list: taking the lock for a moment would keep
/// a process from starting in it.
pub fn is_locked(state_dir: &Path) -> bool {
    let (Ok(lock), Ok(locks)) = (fs::metadata(state_dir.join("lock")), fs::read_to_string("/proc/locks"))
    else {
        return false;
    };
    // `1: FLOCK  ADVISORY  WRITE 1234 00:1a:5678 0 EOF`; the device may be another one than the file's, as on btrfs.
    let inode = format!(":{}", lock.ino());
    locks.lines().any(|line| {
        let mut words = line.split_whitespace();
        words.any(|word| word == "FLOCK") && words.any(|word| word.ends_with(&inode))
    })
}

fn open_lock(path: &Path) -> io::Result<File> {
    // Neither a link is followed nor the other end of a pipe waited for.
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use testkit::TempDir;

    use super::*;

    #[test]
    fn what_is_made_is_for_this_user_alone() {
        let outside = TempDir::new("state-dir");
        let dir = outside.path().join("above/kube-ipvs");
        let first = lock(&dir).unwrap();
        assert!(first.is_some());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&dir), mode(&dir.join("lock"))), (0o700, 0o600));
        assert!(mode(&outside.path().join("above")) & 0o055 == 0o055, "others' directories stay usable");
        let error = lock(&dir).unwrap_err().to_string();
        assert!(error.contains("another kube-ipvs runs"), "{error}");
        drop(first);
        assert!(lock(&dir).unwrap().is_some());
    }

    #[test]
    fn a_link_in_place_of_the_directory_is_not_followed() {
        let dir = TempDir::new("state-dir-itself");
        let (target, link) = (dir.path().join("target"), dir.path().join("kube-ipvs"));
        fs::create_dir(&target).unwrap();
        symlink(&target, &link).unwrap();
        assert!(lock(&link).unwrap().is_none(), "runs without a lock");
        assert_eq!(fs::read_dir(target).unwrap().count(), 0);
    }

    #[test]
    fn a_pipe_in_place_of_the_lock_is_not_waited_for() {
        let dir = TempDir::new("state-dir-pipe");
        testkit::run(&["mkfifo", dir.path().join("lock").to_str().unwrap()]);
        assert!(lock(dir.path()).unwrap().is_none(), "runs without a lock");
    }

    #[test]
    fn a_lock_is_seen_while_it_is_held() {
        let dir = TempDir::new("state-dir-locked");
        assert!(!is_locked(dir.path()));
        let held = lock(dir.path()).unwrap();
        assert!(is_locked(dir.path()));
        drop(held);
        assert!(!is_locked(dir.path()));
    }

    #[test]
    fn a_link_in_place_of_the_lock_is_not_followed() {
        let dir = TempDir::new("state-dir-link");
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        symlink(&victim, dir.path().join("lock")).unwrap();
        assert!(lock(dir.path()).unwrap().is_none(), "runs without a lock");
        assert_eq!(fs::read_to_string(victim).unwrap(), "precious");
    }

    #[test]
    fn a_state_directory_that_cannot_be_written_stops_nothing_and_a_second_process_is_stopped() {
        let directory = testkit::TempDir::new("lock");
        let held = lock(directory.path()).unwrap();
        assert!(held.is_some());
        let error = lock(directory.path()).unwrap_err().to_string();
        assert!(error.contains("another kube-ipvs runs"), "{error}");
        // Nothing can be made below a file, nor in /proc.
        for impossible in [directory.path().join("lock/state"), "/proc/kube-ipvs/state".into()] {
            assert!(lock(&impossible).unwrap().is_none(), "{}", impossible.display());
        }
    }
}
