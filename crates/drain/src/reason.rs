//! Why a drain begins, and how it ends.

use std::{fmt, str::FromStr};

/// Why a drain began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The endpoint is terminating.
    Terminating,
    /// The endpoint is listed but not ready.
    NotServing,
    /// The endpoint is ready, but topology or a traffic policy does not choose it any more. Its pod is healthy and stays,
    /// so its connections may too: no deadline, no silence.
    NotChosen,
    /// The endpoint left the EndpointSlices without having been seen terminating: its pod may live.
    LeftSlices,
    /// The Service, its port or its VIP is gone.
    ServiceGone,
    /// Its address belongs to another pod now.
    AddressReused,
}

impl Cause {
    const ALL: [Cause; 6] = [
        Cause::Terminating,
        Cause::NotServing,
        Cause::NotChosen,
        Cause::LeftSlices,
        Cause::ServiceGone,
        Cause::AddressReused,
    ];

    /// Whether a drain that began for another reason is told this one as well: a pod that terminates does not come
    /// back, whatever its conditions or slices say later.
    pub fn supersedes(self, earlier: Cause) -> bool {
        let is_final = matches!(earlier, Cause::Terminating | Cause::AddressReused);
        self != earlier && (!is_final || self == Cause::ServiceGone)
    }

    /// Whether connections may last as long as they like.
    pub(crate) const fn is_patient(self) -> bool {
        matches!(self, Cause::NotChosen)
    }

    /// For tables and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Cause::Terminating => "terminating",
            Cause::NotServing => "not-serving",
            Cause::NotChosen => "not-chosen",
            Cause::LeftSlices => "left-slices",
            Cause::ServiceGone => "service-gone",
            Cause::AddressReused => "address-reused",
        }
    }
}

/// A cause that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown cause of a drain {0:?}")]
pub struct UnknownCause(pub String);

impl FromStr for Cause {
    type Err = UnknownCause;

    fn from_str(s: &str) -> Result<Self, UnknownCause> {
        Cause::ALL.into_iter().find(|c| c.as_str() == s).ok_or_else(|| UnknownCause(s.to_owned()))
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How a drain ended, or must end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Its connections ended.
    Drained,
    /// The policy is `Immediate`, or the protocol has no connections that could end.
    Immediate,
    /// Its pod is deleted.
    EndpointGone,
    /// The deadline passed.
    TimedOut,
    /// Clients sent, and nothing came back.
    Silent,
    /// Its address belongs to another pod now.
    AddressReused,
    /// The endpoint serves again.
    Returned,
    /// Somebody else removed the real server.
    Vanished,
    /// Its virtual server was removed: the VIP is an address of the node now, or all is cleaned up.
    VirtualServerGone,
}

impl Outcome {
    /// All of them, for metrics.
    pub const ALL: [Outcome; 9] = [
        Outcome::Drained,
        Outcome::Immediate,
        Outcome::EndpointGone,
        Outcome::TimedOut,
        Outcome::Silent,
        Outcome::AddressReused,
        Outcome::Returned,
        Outcome::Vanished,
        Outcome::VirtualServerGone,
    ];

    /// Whether connections that were still open were cut by it.
    pub const fn cuts(self) -> bool {
        !matches!(self, Outcome::Drained | Outcome::Returned | Outcome::Vanished)
    }

    /// For metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Drained => "drained",
            Outcome::Immediate => "immediate",
            Outcome::EndpointGone => "endpoint-gone",
            Outcome::TimedOut => "timed-out",
            Outcome::Silent => "silent",
            Outcome::AddressReused => "address-reused",
            Outcome::Returned => "returned",
            Outcome::Vanished => "vanished",
            Outcome::VirtualServerGone => "virtual-server-gone",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
