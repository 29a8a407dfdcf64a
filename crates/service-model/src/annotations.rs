//! Annotations of a Service that set [`crate::ServiceSettings`].

/// Scheduler of the virtual servers.
pub const SCHEDULER: &str = "kube-ipvs.io/scheduler";
/// Flags of the scheduler.
pub const SCHEDULER_FLAGS: &str = "kube-ipvs.io/scheduler-flags";
/// Condition under which a draining real server counts as drained.
pub const GRACEFUL_POLICY: &str = "kube-ipvs.io/graceful-policy";
/// Time for which a draining real server must be quiet.
pub const GRACEFUL_LINGER: &str = "kube-ipvs.io/graceful-linger";
/// Longest duration of a drain.
pub const GRACEFUL_TIMEOUT: &str = "kube-ipvs.io/graceful-timeout";
/// Longest silence of a draining real server.
pub const GRACEFUL_SILENCE: &str = "kube-ipvs.io/graceful-silence";
/// Fate of a draining real server when its pod ends.
pub const GRACEFUL_ENDPOINT_GONE: &str = "kube-ipvs.io/graceful-endpoint-gone";
