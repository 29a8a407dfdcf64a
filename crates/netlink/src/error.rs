//! The error type of this crate.

use std::io;

use crate::Protocol;

/// Failure of a whole call; failures inside a batch are [`crate::Failure`]s.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel gave no socket.
    #[error("cannot open a netlink socket of {protocol}")]
    Open {
        /// Subsystem of the socket.
        protocol: Protocol,
        /// Error of the system call.
        #[source]
        source: io::Error,
    },
    /// The kernel refused membership in a multicast group.
    #[error("cannot join multicast group {group} of {protocol}")]
    Join {
        /// Subsystem of the socket.
        protocol: Protocol,
        /// Number of the group.
        group: u32,
        /// Error of the system call.
        #[source]
        source: io::Error,
    },
    /// The kernel refused a socket option.
    #[error("cannot set netlink socket option {option}")]
    SocketOption {
        /// Name of the option.
        option: &'static str,
        /// Error of the system call.
        #[source]
        source: io::Error,
    },
    /// The kernel did not take a datagram; it executed nothing in it, but the earlier ones of the batch.
    #[error("cannot send {bytes} bytes in {messages} netlink messages")]
    Send {
        /// Size of the datagram.
        bytes: usize,
        /// Number of messages in the datagram.
        messages: usize,
        /// Error of the system call.
        #[source]
        source: io::Error,
    },
    /// Reading replies failed.
    #[error("cannot receive from the netlink socket")]
    Receive {
        /// Error of the system call.
        #[source]
        source: io::Error,
    },
    /// The kernel answered a request with an error.
    #[error("the kernel refused the request: {source}{}", text.as_ref().map(|t| format!(" ({t})")).unwrap_or_default())]
    Refused {
        /// Error number of the answer.
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
    /// The kernel dropped replies because the receive buffer was full, or the last reply never came.
    #[error("replies of the kernel were lost")]
    RepliesLost,
    /// A reply was larger than the buffer, which has been enlarged since.
    #[error("a reply of {size} bytes did not fit the receive buffer")]
    Truncated {
        /// Size of the reply.
        size: usize,
    },
    /// The kernel has no generic netlink family of that name: its module is not loaded.
    #[error("the kernel has no generic netlink family {name:?}")]
    FamilyNotFound {
        /// Name of the family.
        name: String,
    },
    /// An attribute of a message exceeds 65,535 bytes; nothing of the batch was sent.
    #[error("message {index} of the batch is malformed: an attribute exceeds 65535 bytes")]
    Malformed {
        /// Position of the message in the batch.
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

    /// Tells whether the object or the family does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::FamilyNotFound { .. })
            || matches!(self.errno(), Some(libc::ENOENT | libc::ESRCH | libc::ENODEV))
    }

    /// Tells whether a capability is missing.
    pub fn is_permission_denied(&self) -> bool {
        matches!(self.errno(), Some(libc::EPERM | libc::EACCES))
    }

    /// Tells whether the kernel lacks the subsystem or the command.
    pub fn is_not_supported(&self) -> bool {
        matches!(self, Error::FamilyNotFound { .. })
            || matches!(
                self.errno(),
                Some(libc::EOPNOTSUPP | libc::EPROTONOSUPPORT | libc::EAFNOSUPPORT | libc::ENOPROTOOPT)
            )
    }

    /// Tells whether the same call may succeed later without anything else changing.
    pub fn is_retryable(&self) -> bool {
        matches!(self, Error::DumpInterrupted { .. } | Error::RepliesLost | Error::Truncated { .. })
            || matches!(
                self.errno(),
                Some(libc::EBUSY | libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM)
            )
    }
}
