//! Annotations of a Service that set [`crate::ServiceSettings`].

/// Scheduler of its virtual servers.
pub const SCHEDULER: &str = "kube-ipvs.io/scheduler";
/// Flags of the scheduler.
pub const SCHEDULER_FLAGS: &str = "kube-ipvs.io/scheduler-flags";
/// When a draining real server counts as drained.
pub const GRACEFUL_POLICY: &str = "kube-ipvs.io/graceful-policy";
/// How long a draining real server must be quiet.
pub const GRACEFUL_LINGER: &str = "kube-ipvs.io/graceful-linger";
/// How long a drain can take.
pub const GRACEFUL_TIMEOUT: &str = "kube-ipvs.io/graceful-timeout";
/// How long a draining real server may be silent.
pub const GRACEFUL_SILENCE: &str = "kube-ipvs.io/graceful-silence";
/// What the end of its pod does to a draining real server.
pub const GRACEFUL_ENDPOINT_GONE: &str = "kube-ipvs.io/graceful-endpoint-gone";
