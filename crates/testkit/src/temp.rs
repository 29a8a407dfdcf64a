//! Files and directories of tests.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

/// A directory under the system's temporary directory, removed with the value.
#[derive(Debug)]
pub struct TempDir {
    path: PathBuf,
}

impl TempDir {
    /// Creates an empty directory whose name starts with `prefix`.
    #[track_caller]
    pub fn new(prefix: &str) -> Self {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("{prefix}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap_or_else(|error| panic!("create {}: {error}", path.display()));
        TempDir { path }
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        // A leftover directory is no reason to fail a test that has already had its result.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// Writes a file as careful tools do: first under a hidden name beside it, which it then renames.
pub fn write_atomic(path: &Path, content: &str) -> io::Result<()> {
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let hidden = path.with_file_name(format!(".{name}.new"));
    fs::write(&hidden, content)?;
    fs::rename(&hidden, path)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::{TempDir, write_atomic};

    #[test]
    fn directories_are_separate_and_vanish() {
        let (one, two) = (TempDir::new("testkit"), TempDir::new("testkit"));
        assert_ne!(one.path(), two.path());
        write_atomic(&one.path().join("file"), "content").unwrap();
        assert_eq!(fs::read_to_string(one.path().join("file")).unwrap(), "content");
        assert_eq!(fs::read_dir(one.path()).unwrap().count(), 1);
        let path = one.path().to_owned();
        drop(one);
        assert!(!path.exists());
    }
}
