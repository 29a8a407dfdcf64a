//! The error type of this crate.

use dataplane::{ErrorKind, TableError};

/// Failure of a whole call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel gave no socket.
    #[error("cannot open the connection tracking table")]
    Open(#[source] netlink::Error),
    /// The kernel does not know the table.
    #[error("this kernel does not list its connection tracking: load module nf_conntrack_netlink")]
    Missing(#[source] netlink::Error),
    /// The dump failed.
    #[error("cannot dump the connection tracking table")]
    Dump(#[source] netlink::Error),
    /// The kernel refused deletions, or did not take them.
    #[error("cannot delete tracked connections")]
    Delete(#[source] netlink::Error),
}

impl Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Error::Missing(_) => ErrorKind::NotSupported,
            Error::Open(e) | Error::Dump(e) | Error::Delete(e) if e.is_permission_denied() => {
                ErrorKind::PermissionDenied
            }
            Error::Open(e) | Error::Dump(e) | Error::Delete(e) if e.is_retryable() => ErrorKind::Transient,
            Error::Open(e) if e.is_not_supported() => ErrorKind::NotSupported,
            _ => ErrorKind::Other,
        }
    }
}

impl From<Error> for TableError {
    fn from(error: Error) -> Self {
        TableError::new("delete flows", error.kind(), error)
    }
}
