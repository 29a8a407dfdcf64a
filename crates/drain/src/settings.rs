//! How draining is configured and how it is described.

use std::{fmt, str::FromStr, time::Duration};

/// When a draining real server counts as drained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Policy {
    /// No active connection for the linger time, and no traffic either: half-closed transfers still move data.
    #[default]
    ActiveOnly,
    /// Neither active nor inactive connections: kube-proxy's rule (pkg/proxy/ipvs/graceful_termination.go).
    AllConnections,
    /// At once.
    Immediate,
}

impl Policy {
    /// Spelling of the flag.
    pub const fn as_str(self) -> &'static str {
        match self {
            Policy::ActiveOnly => "active-only",
            Policy::AllConnections => "all-connections",
            Policy::Immediate => "immediate",
        }
    }
}

impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A policy name that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown graceful policy {0:?}: expected active-only, all-connections or immediate")]
pub struct UnknownPolicy(pub String);

impl FromStr for Policy {
    type Err = UnknownPolicy;

    fn from_str(s: &str) -> Result<Self, UnknownPolicy> {
        let all = [Policy::ActiveOnly, Policy::AllConnections, Policy::Immediate];
        all.into_iter().find(|p| p.as_str() == s).ok_or_else(|| UnknownPolicy(s.to_owned()))
    }
}

/// What to do when a terminating endpoint leaves every EndpointSlice: its pod is deleted and its address free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum EndpointGone {
    /// Remove the real server at once, so that clients of the dead pod are told.
    #[default]
    Remove,
    /// Go on draining by the policy.
    Drain,
}

/// Settings of one drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// When it counts as drained.
    pub policy: Policy,
    /// How long `ActiveOnly` wants it quiet.
    pub linger: Duration,
    /// Removed after this long in any case; `None` for no deadline.
    pub timeout: Option<Duration>,
    /// What the end of its pod does.
    pub endpoint_gone: EndpointGone,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            policy: Policy::default(),
            linger: Duration::from_secs(5),
            timeout: Some(Duration::from_secs(15 * 60)),
            endpoint_gone: EndpointGone::default(),
        }
    }
}

/// Why a drain began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Cause {
    /// The endpoint is terminating.
    Terminating,
    /// The endpoint is listed but must not serve (unready, or not chosen by policy or topology).
    NotServing,
    /// The endpoint left the EndpointSlices without having been seen terminating: its pod may live.
    LeftSlices,
    /// The Service, its port or its VIP is gone.
    ServiceGone,
}

impl Cause {
    /// For tables and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Cause::Terminating => "terminating",
            Cause::NotServing => "not-serving",
            Cause::LeftSlices => "left-slices",
            Cause::ServiceGone => "service-gone",
        }
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
    /// The endpoint serves again.
    Returned,
    /// Somebody else removed the real server.
    Vanished,
}

impl Outcome {
    /// For metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::Drained => "drained",
            Outcome::Immediate => "immediate",
            Outcome::EndpointGone => "endpoint-gone",
            Outcome::TimedOut => "timed-out",
            Outcome::Returned => "returned",
            Outcome::Vanished => "vanished",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
