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

impl EndpointGone {
    /// Spelling of the flag.
    pub const fn as_str(self) -> &'static str {
        match self {
            EndpointGone::Remove => "remove",
            EndpointGone::Drain => "drain",
        }
    }
}

impl fmt::Display for EndpointGone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An action that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown action {0:?}: expected remove or drain")]
pub struct UnknownAction(pub String);

impl FromStr for EndpointGone {
    type Err = UnknownAction;

    fn from_str(s: &str) -> Result<Self, UnknownAction> {
        let all = [EndpointGone::Remove, EndpointGone::Drain];
        all.into_iter().find(|a| a.as_str() == s).ok_or_else(|| UnknownAction(s.to_owned()))
    }
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
    /// Removed when clients have sent for this long and nothing came back; `None` for never.
    pub silence: Option<Duration>,
    /// What the end of its pod does.
    pub endpoint_gone: EndpointGone,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            policy: Policy::default(),
            linger: Duration::from_secs(5),
            timeout: Some(Duration::from_secs(15 * 60)),
            silence: Some(Duration::from_secs(3)),
            endpoint_gone: EndpointGone::default(),
        }
    }
}

impl Settings {
    /// The same with what one Service wants otherwise.
    #[must_use]
    pub fn with(self, overrides: &Overrides) -> Self {
        Settings {
            policy: overrides.policy.unwrap_or(self.policy),
            linger: overrides.linger.unwrap_or(self.linger),
            timeout: overrides.timeout.map_or(self.timeout, limit),
            silence: overrides.silence.map_or(self.silence, silence_limit),
            endpoint_gone: overrides.endpoint_gone.unwrap_or(self.endpoint_gone),
        }
    }
}

/// A time limit as users write it: zero means that there is none.
pub fn limit(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

/// The shortest silence that means something: the kernel's counters are up to 2 s old, so that a shorter one may only
/// mean that an answer has not been counted yet.
pub const LEAST_SILENCE: Duration = Duration::from_millis(2500);

/// The limit of silence as users write it: zero means that there is none, and what is too short is raised.
pub fn silence_limit(duration: Duration) -> Option<Duration> {
    limit(duration).map(|silence| silence.max(LEAST_SILENCE))
}

/// What one Service wants otherwise than the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Overrides {
    /// In the place of [`Settings::policy`].
    pub policy: Option<Policy>,
    /// In the place of [`Settings::linger`].
    pub linger: Option<Duration>,
    /// In the place of [`Settings::timeout`]; zero for no deadline.
    pub timeout: Option<Duration>,
    /// In the place of [`Settings::silence`]; zero for never.
    pub silence: Option<Duration>,
    /// In the place of [`Settings::endpoint_gone`].
    pub endpoint_gone: Option<EndpointGone>,
}

impl Overrides {
    /// For Services that want nothing special.
    pub const NONE: Overrides =
        Overrides { policy: None, linger: None, timeout: None, silence: None, endpoint_gone: None };
}
