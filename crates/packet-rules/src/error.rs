//! Failures of whole calls.

use std::io;

use dataplane::{ErrorKind, TableError};

/// Failure of a whole call; operations that the kernel refused are in the report instead.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// Reading the table or opening a socket failed.
    #[error(transparent)]
    Netlink(#[from] netlink::Error),
    /// The kernel did not get the transaction; it executed nothing of it.
    #[error("cannot send a transaction of {bytes} bytes")]
    Send {
        /// Size of the datagram.
        bytes: usize,
        /// Error of the system call.
        #[source]
        source: io::Error,
    },
    /// The kernel did not take the transaction as a whole; it executed nothing of it.
    #[error("the kernel refused the transaction: {source}{}", text.as_ref().map(|t| format!(" ({t})")).unwrap_or_default())]
    Refused {
        /// Error number.
        source: io::Error,
        /// The kernel's own words, if any.
        text: Option<String>,
    },
    /// The kernel lacks nf_tables, as the source shows.
    #[error("the kernel has no nf_tables: load the module (modprobe nf_tables)")]
    NoNfTables(#[source] Box<RulesError>),
    /// Preparing the watcher's socket, or waiting for it, failed.
    #[error("cannot listen to notifications of nf_tables")]
    Watch(#[source] io::Error),
}

impl RulesError {
    fn errno(&self) -> Option<i32> {
        match self {
            RulesError::Netlink(e) => e.errno(),
            RulesError::NoNfTables(e) => e.errno(),
            RulesError::Send { source, .. }
            | RulesError::Refused { source, .. }
            | RulesError::Watch(source) => source.raw_os_error(),
        }
    }

    /// Tells whether a capability is missing.
    pub fn is_permission_denied(&self) -> bool {
        matches!(self.errno(), Some(libc::EPERM | libc::EACCES))
    }

    /// Tells whether the kernel lacks nf_tables.
    ///
    /// nfnetlink answers EINVAL to requests for a subsystem that it does not have, EOPNOTSUPP to
    /// transactions.
    pub fn is_not_supported(&self) -> bool {
        match self {
            RulesError::Netlink(e) => e.is_not_supported() || e.errno() == Some(libc::EINVAL),
            RulesError::Refused { .. } => self.errno() == Some(libc::EOPNOTSUPP),
            RulesError::NoNfTables(_) => true,
            _ => false,
        }
    }

    /// Tells whether the same call may succeed later without anything else changing.
    pub fn is_retryable(&self) -> bool {
        match self {
            RulesError::Netlink(e) => e.is_retryable(),
            _ => matches!(
                self.errno(),
                Some(libc::EAGAIN | libc::EBUSY | libc::EINTR | libc::ENOBUFS | libc::ENOMEM)
            ),
        }
    }

    /// Names the module if one is missing.
    pub(crate) fn with_remedy(self) -> Self {
        if self.is_not_supported() { RulesError::NoNfTables(Box::new(self)) } else { self }
    }

    /// Classifies the error by what a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        if self.is_not_supported() {
            ErrorKind::NotSupported
        } else if self.is_permission_denied() {
            ErrorKind::PermissionDenied
        } else if self.is_retryable() {
            ErrorKind::Transient
        } else {
            ErrorKind::Other
        }
    }

    /// Wraps the error with the operation of a table call.
    pub(crate) fn during(self, operation: &str) -> TableError {
        TableError::new(operation, self.kind(), self.with_remedy())
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn errors_tell_what_to_do() {
        let refused = |errno| RulesError::Refused { source: io::Error::from_raw_os_error(errno), text: None };
        let netlink = |errno| {
            let source = io::Error::from_raw_os_error(errno);
            RulesError::from(netlink::Error::Refused { source, text: None })
        };
        let cases = [
            (refused(libc::EOPNOTSUPP), ErrorKind::NotSupported),
            (netlink(libc::EINVAL), ErrorKind::NotSupported),
            (refused(libc::EINVAL), ErrorKind::Other),
            (refused(libc::EPERM), ErrorKind::PermissionDenied),
            (netlink(libc::EPERM), ErrorKind::PermissionDenied),
            (refused(libc::ENOMEM), ErrorKind::Transient),
            (netlink::Error::RepliesLost.into(), ErrorKind::Transient),
        ];
        for (error, kind) in cases {
            let text = error.to_string();
            let table = error.during("dump");
            assert_eq!(table.kind, kind, "{text}");
            let cause = table.source().map(ToString::to_string).unwrap_or_default();
            assert_eq!(cause.contains("modprobe nf_tables"), kind == ErrorKind::NotSupported, "{cause}");
        }
    }
}
