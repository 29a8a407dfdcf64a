//! The one error type of this crate.

use std::io;

use dataplane::{ErrorKind, TableError};

/// Failure of a whole call; refused operations are told in the report instead.
#[derive(Debug, thiserror::Error)]
pub enum VipError {
    /// A netlink exchange failed.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// An rtnetlink request got no answer that makes sense.
    #[error("rtnetlink: {0}")]
    Rtnetlink(rtnetlink::Error),
    /// The runtime that rtnetlink needs could not be made, or the kernel could not be waited for.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl VipError {
    /// What a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            VipError::Netlink(e) if e.is_not_supported() => ErrorKind::NotSupported,
            VipError::Netlink(e) if e.is_permission_denied() => ErrorKind::PermissionDenied,
            VipError::Netlink(e) if e.is_retryable() => ErrorKind::Transient,
            VipError::Io(e) if e.kind() == io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::Other,
        }
    }

    /// With the operation that failed.
    pub(crate) fn during(self, operation: &str) -> TableError {
        TableError::new(operation, self.kind(), self)
    }
}
