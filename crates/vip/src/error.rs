//! The error type of this crate.

use std::io;

use dataplane::{ErrorKind, TableError};

/// Failure of a whole call; the report holds refused operations instead.
#[derive(Debug, thiserror::Error)]
pub enum VipError {
    /// A netlink exchange failed.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// An rtnetlink request failed, or got no answer that makes sense.
    #[error("rtnetlink: {0}")]
    Rtnetlink(rtnetlink::Error),
    /// The runtime that rtnetlink needs could not start, or waiting for the kernel failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl VipError {
    /// Classifies the error by what a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            VipError::Netlink(e) if e.is_not_supported() => ErrorKind::NotSupported,
            VipError::Netlink(e) if e.is_permission_denied() => ErrorKind::PermissionDenied,
            VipError::Netlink(e) if e.is_retryable() => ErrorKind::Transient,
            VipError::Io(e) if e.kind() == io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::Other,
        }
    }

    /// Adds the operation that failed.
    pub(crate) fn during(self, operation: &str) -> TableError {
        TableError::new(operation, self.kind(), self)
    }
}
