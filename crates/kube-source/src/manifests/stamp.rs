//! Identity of the content of a file.

use std::{fs, os::unix::fs::MetadataExt};

/// Metadata of a file that change whenever another file, or other content, takes its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    modified: (i64, i64),
    changed: (i64, i64),
    size: u64,
    inode: Inode,
}

/// Device and number of an inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Inode {
    device: u64,
    number: u64,
}

impl Stamp {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        Stamp {
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            size: metadata.size(),
            inode: Inode::of(metadata),
        }
    }

    /// Size of the file in bytes.
    pub(super) const fn size(&self) -> u64 {
        self.size
    }

    /// A stamp that differs from those of other numbers.
    #[cfg(test)]
    pub(super) fn numbered(number: u64) -> Self {
        Stamp { modified: (0, 0), changed: (0, 0), size: number, inode: Inode::default() }
    }
}

impl Inode {
    pub(super) fn of(metadata: &fs::Metadata) -> Self {
        Inode { device: metadata.dev(), number: metadata.ino() }
    }
}
