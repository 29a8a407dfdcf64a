//! Configuration of draining.

use std::time::Duration;

use lb_types::ConnectionCounters;

#[cfg(feature = "serde")]
use crate::spelling::millis;
use crate::words::words;

words! {
    /// Rule by which a draining real server counts as drained.
    #[derive(Default)]
    Policy {
        /// No active connection for the linger time, and no traffic either: half-closed transfers still move
        /// data.
        #[default]
        ActiveOnly = "active-only",
        /// Neither active nor inactive connections: kube-proxy's rule
        /// (pkg/proxy/ipvs/graceful_termination.go).
        AllConnections = "all-connections",
        /// At once.
        Immediate = "immediate",
    }
    /// A policy name that does not exist.
    UnknownPolicy = "unknown graceful policy {0:?}: expected active-only, all-connections or immediate"
}

impl Policy {
    /// Connections that must end before a real server counts as drained.
    pub const fn awaited(self, connections: &ConnectionCounters) -> u32 {
        match self {
            Policy::ActiveOnly => connections.active,
            Policy::AllConnections => connections.active.saturating_add(connections.inactive),
            Policy::Immediate => 0,
        }
    }
}

words! {
    /// Action when a terminating endpoint leaves every EndpointSlice: its pod is deleted and its address
    /// free.
    #[derive(Default)]
    EndpointGone {
        /// Remove the real server at once, so that clients of the dead pod are told.
        #[default]
        Remove = "remove",
        /// Go on draining by the policy.
        Drain = "drain",
    }
    /// An action that does not exist.
    UnknownAction = "unknown action {0:?}: expected remove or drain"
}

/// Settings of one drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Settings {
    /// Rule by which it counts as drained.
    pub policy: Policy,
    /// Time for which `ActiveOnly` wants it quiet.
    pub linger: Duration,
    /// Removed after this long in any case; `None` for no deadline.
    pub timeout: Option<Duration>,
    /// Removed when clients have sent for this long and nothing came back; `None` for never.
    pub silence: Option<Duration>,
    /// Action when its pod is deleted.
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

/// The shortest silence that means something: the kernel's counters are up to 2 s old, so that a shorter one
/// may only mean that an answer has not been counted yet.
pub const LEAST_SILENCE: Duration = Duration::from_millis(2500);

/// The limit of silence as users write it: zero means that there is none, and what is too short is raised.
pub fn silence_limit(duration: Duration) -> Option<Duration> {
    limit(duration).map(|silence| silence.max(LEAST_SILENCE))
}

/// Settings that one Service wants otherwise than the configuration.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(rename_all = "camelCase", default))]
pub struct Overrides {
    /// In the place of [`Settings::policy`].
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub policy: Option<Policy>,
    /// In the place of [`Settings::linger`].
    #[cfg_attr(feature = "serde", serde(rename = "lingerMillis", serialize_with = "millis::serialize"))]
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "Option::is_none", deserialize_with = "millis::optional")
    )]
    pub linger: Option<Duration>,
    /// In the place of [`Settings::timeout`]; zero for no deadline.
    #[cfg_attr(feature = "serde", serde(rename = "timeoutMillis", serialize_with = "millis::serialize"))]
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "Option::is_none", deserialize_with = "millis::optional")
    )]
    pub timeout: Option<Duration>,
    /// In the place of [`Settings::silence`]; zero for never.
    #[cfg_attr(feature = "serde", serde(rename = "silenceMillis", serialize_with = "millis::serialize"))]
    #[cfg_attr(
        feature = "serde",
        serde(skip_serializing_if = "Option::is_none", deserialize_with = "millis::optional")
    )]
    pub silence: Option<Duration>,
    /// In the place of [`Settings::endpoint_gone`].
    #[cfg_attr(feature = "serde", serde(skip_serializing_if = "Option::is_none"))]
    pub endpoint_gone: Option<EndpointGone>,
}

impl Overrides {
    /// For Services that want nothing special.
    pub const NONE: Overrides =
        Overrides { policy: None, linger: None, timeout: None, silence: None, endpoint_gone: None };

    /// Tells whether nothing special is wanted.
    pub fn is_none(&self) -> bool {
        *self == Overrides::NONE
    }
}
