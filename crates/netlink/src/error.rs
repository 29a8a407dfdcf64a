//! The one error type of this crate.

use std::io;

use crate::Protocol;

/// What can go wrong with a whole call; failures inside a batch are [`crate::Failure`]s.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The socket could not be made.
    #[error("cannot open a netlink socket of {protocol}")]
    Open {
        /// Which subsystem.
        protocol: Protocol,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A multicast group could not be joined.
    #[error("cannot join multicast group {group} of {protocol}")]
    Join {
        /// Which subsystem.
        protocol: Protocol,
        /// Which group.
        group: u32,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A socket option was refused.
    #[error("cannot set netlink socket option {option}")]
    SocketOption {
        /// Which option.
        option: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel did not take a datagram; nothing in it was executed, earlier ones of the batch were.
    #[error("cannot send {bytes} bytes in {messages} netlink messages")]
    Send {
        /// Size of the datagram.
        bytes: usize,
        /// Messages in it.
        messages: usize,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Replies could not be read.
    #[error("cannot receive from the netlink socket")]
    Receive {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel answered a request with an error.
    #[error("the kernel refused the request: {source}{}", text.as_ref().map(|t| format!(" ({t})")).unwrap_or_default())]
    Refused {
        /// The error number.
        source: io::Error,
        /// The kernel's own words (extended acknowledgement), if any.
        text: Option<String>,
    },
    /// The table changed during every attempt to dump it (`NLM_F_DUMP_INTR`).
    #[error("the dump was interrupted by changes in all {attempts} attempts")]
    DumpInterrupted {
        /// Number of attempts.
        attempts: usize,
    },
    /// Replies were dropped because the receive buffer was full, or the last one never came.
    #[error("replies of the kernel were lost")]
    RepliesLost,
    /// A reply was larger than the buffer; the buffer has been enlarged.
    #[error("a reply of {size} bytes did not fit the receive buffer")]
    Truncated {
        /// Size of the reply.
        size: usize,
    },
    /// There is no generic netlink family of that name: its module is not loaded.
    #[error("the kernel has no generic netlink family {name:?}")]
    FamilyNotFound {
        /// Name of the family.
        name: String,
    },
    /// A message of a batch cannot be sent: shorter than a header, or an attribute exceeds 65,535 bytes.
    #[error("message {index} of the batch is malformed")]
    Malformed {
        /// Position in the batch.
        index: usize,
    },
}

impl Error {
    /// Error number behind the error, if there is one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::Open { source, .. }
            | Error::Join { source, .. }
            | Error::SocketOption { source, .. }
            | Error::Send { source, .. }
            | Error::Receive { source }
            | Error::Refused { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the object or the family does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::FamilyNotFound { .. })
            || matches!(self.errno(), Some(libc::ENOENT | libc::ESRCH | libc::ENODEV))
    }

    /// Whether a capability is missing.
    pub fn is_permission_denied(&self) -> bool {
        matches!(self.errno(), Some(libc::EPERM | libc::EACCES))
    }

    /// Whether the kernel lacks the subsystem or the command.
    pub fn is_not_supported(&self) -> bool {
        matches!(self, Error::FamilyNotFound { .. })
            || matches!(
                self.errno(),
                Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::ENOPROTOOPT)
            )
    }

    /// Whether the same call may succeed later without anything else changing.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::DumpInterrupted { .. } | Error::RepliesLost | Error::Truncated { .. })
            || matches!(
                self.errno(),
                Some(libc::EBUSY | libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM)
            )
    }
}
