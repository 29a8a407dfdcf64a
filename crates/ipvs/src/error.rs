//! Errors of whole calls; those of single operations are [`dataplane::FailedOp`]s.

use std::fmt;

use dataplane::{ErrorKind, TableError, errno_name};
use lb_types::{Scheduler, VirtualServerId};

use crate::codec::DaemonState;

/// Attempted call, with its object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// [`crate::IpvsClient::open`]
    Open,
    /// Execution of a batch of operations.
    Apply {
        /// Number of operations.
        operations: usize,
    },
    /// Dump of all virtual servers.
    DumpVirtualServers,
    /// Dump of the real servers of one virtual server.
    DumpRealServers(VirtualServerId),
    /// Question about one virtual server.
    GetVirtualServer(VirtualServerId),
    /// Question about a scheduler.
    FindScheduler(Scheduler),
    /// Reset of the counters of one virtual server, or of all.
    Zero(Option<VirtualServerId>),
    /// Question about connection timeouts.
    GetTimeouts,
    /// Change of connection timeouts.
    SetTimeouts,
    /// Question about version and table size.
    GetInfo,
    /// Dump of the sync daemons.
    DumpDaemons,
    /// Start of a sync daemon.
    StartDaemon(DaemonState),
    /// Stop of a sync daemon.
    StopDaemon(DaemonState),
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Call::Open => f.write_str("open IPVS"),
            Call::Apply { operations } => write!(f, "apply {operations} IPVS operations"),
            Call::DumpVirtualServers => f.write_str("dump virtual servers"),
            Call::DumpRealServers(vs) => write!(f, "dump real servers of {vs}"),
            Call::GetVirtualServer(vs) => write!(f, "get virtual server {vs}"),
            Call::FindScheduler(scheduler) => write!(f, "look for scheduler {scheduler}"),
            Call::Zero(Some(vs)) => write!(f, "zero counters of {vs}"),
            Call::Zero(None) => f.write_str("zero all counters"),
            Call::GetTimeouts => f.write_str("get IPVS timeouts"),
            Call::SetTimeouts => f.write_str("set IPVS timeouts"),
            Call::GetInfo => f.write_str("get IPVS version"),
            Call::DumpDaemons => f.write_str("dump sync daemons"),
            Call::StartDaemon(state) => write!(f, "start {} sync daemon", daemon_name(*state)),
            Call::StopDaemon(state) => write!(f, "stop {} sync daemon", daemon_name(*state)),
        }
    }
}

const fn daemon_name(state: DaemonState) -> &'static str {
    match state {
        DaemonState::Master => "master",
        DaemonState::Backup => "backup",
    }
}

/// Failure of a whole call.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel has no IPVS.
    #[error(
        "{call}: the kernel has no IPVS because its module ip_vs is not loaded: run `modprobe ip_vs` on the host \
         (in a container, mount the host's /lib/modules to do it there)"
    )]
    NotSupported {
        /// Attempted call.
        call: Call,
        /// Answer of the kernel that shows it.
        #[source]
        source: netlink::Error,
    },
    /// CAP_NET_ADMIN is missing.
    #[error(
        "{call}: not permitted: IPVS needs the capability NET_ADMIN in the initial user namespace, that of a network \
         namespace's owner is not enough"
    )]
    PermissionDenied {
        /// Attempted call.
        call: Call,
        /// Answer of the kernel that shows it.
        #[source]
        source: netlink::Error,
    },
    /// The kernel refused the request.
    #[error("{call}: {} ({errno}): {meaning}", errno_name(*errno))]
    Refused {
        /// Attempted call.
        call: Call,
        /// The error number.
        errno: i32,
        /// Meaning of the number for this call.
        meaning: &'static str,
        /// Answer of the kernel.
        #[source]
        source: netlink::Error,
    },
    /// The kernel's answer lacks what it always contains.
    #[error("{call}: the kernel's answer is incomplete")]
    Incomplete {
        /// Attempted call.
        call: Call,
    },
    /// Anything else that failed on the way to the kernel or back.
    #[error("{call}")]
    Netlink {
        /// Attempted call.
        call: Call,
        /// Failure of the netlink socket.
        #[source]
        source: netlink::Error,
    },
}

impl Error {
    pub(crate) fn new(call: Call, source: netlink::Error) -> Self {
        if matches!(source, netlink::Error::FamilyNotFound { .. }) {
            return Error::NotSupported { call, source };
        }
        if source.is_permission_denied() {
            return Error::PermissionDenied { call, source };
        }
        match (&source, source.errno()) {
            (netlink::Error::Refused { .. }, Some(errno)) => {
                Error::Refused { call, errno, meaning: meaning(call, errno), source }
            }
            _ => Error::Netlink { call, source },
        }
    }

    /// Error number of the kernel, if it gave one.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Error::NotSupported { source, .. }
            | Error::PermissionDenied { source, .. }
            | Error::Refused { source, .. }
            | Error::Netlink { source, .. } => source.errno(),
            Error::Incomplete { .. } => None,
        }
    }

    /// Classifies the error by what a caller can do about it.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Error::NotSupported { .. } => ErrorKind::NotSupported,
            Error::PermissionDenied { .. } => ErrorKind::PermissionDenied,
            Error::Refused { source, .. } | Error::Netlink { source, .. } => match source {
                e if e.is_retryable() => ErrorKind::Transient,
                e if e.is_not_supported() => ErrorKind::NotSupported,
                _ => ErrorKind::Other,
            },
            Error::Incomplete { .. } => ErrorKind::Other,
        }
    }

    /// Tells whether the virtual server or sync daemon in question does not exist.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::Refused { errno: libc::ESRCH | libc::ENOENT, .. })
    }

    /// Tells whether the same call may succeed later without anything else changing.
    pub fn is_retryable(&self) -> bool {
        self.kind() == ErrorKind::Transient
    }

    /// Attempted call.
    pub const fn call(&self) -> Call {
        match self {
            Error::NotSupported { call, .. }
            | Error::PermissionDenied { call, .. }
            | Error::Refused { call, .. }
            | Error::Incomplete { call }
            | Error::Netlink { call, .. } => *call,
        }
    }
}

impl From<Error> for TableError {
    fn from(error: Error) -> TableError {
        TableError::new(error.call().to_string(), error.kind(), error)
    }
}

/// Meaning of an error number for a call (net/netfilter/ipvs/ip_vs_ctl.c, ip_vs_sync.c).
fn meaning(call: Call, errno: i32) -> &'static str {
    match (call, errno) {
        (Call::GetVirtualServer(_) | Call::Zero(Some(_)), libc::ESRCH) => "there is no such virtual server",
        (Call::StartDaemon(_), libc::EEXIST) => "one is running already",
        (Call::StartDaemon(_), libc::ENODEV) => "there is no such interface",
        (Call::StartDaemon(_), libc::EINVAL) => {
            "an argument is not valid, or real servers of another family than their virtual server's exist"
        }
        (Call::StopDaemon(_), libc::ESRCH) => "none is running",
        (Call::SetTimeouts, libc::EINVAL) => "a timeout is too large for the kernel's clock",
        (_, libc::EAFNOSUPPORT) => "the kernel has no support for the address family",
        (_, libc::ENOMEM) => "the kernel is out of memory",
        (_, libc::EBUSY) => "the table is busy",
        (_, libc::ENOPROTOOPT) => "module ip_vs is being unloaded",
        (_, libc::EOPNOTSUPP) => "this kernel does not know the command",
        _ => "the kernel refused it",
    }
}
