//! Annotations of a Service that set [`crate::ServiceSettings`].

/// Beginning of all annotations.
pub const PREFIX: &str = "kube-ipvs.io/";

/// All annotations.
pub const ALL: [&str; 10] = [
    SCHEDULER,
    SCHEDULER_FLAGS,
    MAX_CONNECTIONS,
    ONE_PACKET,
    EXTERNAL_IP_BINDING,
    GRACEFUL_POLICY,
    GRACEFUL_LINGER,
    GRACEFUL_TIMEOUT,
    GRACEFUL_SILENCE,
    GRACEFUL_ENDPOINT_GONE,
];

/// Scheduler of the virtual servers.
pub const SCHEDULER: &str = "kube-ipvs.io/scheduler";
/// Flags of the scheduler.
pub const SCHEDULER_FLAGS: &str = "kube-ipvs.io/scheduler-flags";
/// Most connections of one endpoint at a time.
pub const MAX_CONNECTIONS: &str = "kube-ipvs.io/max-connections";
/// Choice of scheduling every datagram anew.
pub const ONE_PACKET: &str = "kube-ipvs.io/one-packet";
/// Way by which packets to external and load-balancer IPs come to IPVS.
pub const EXTERNAL_IP_BINDING: &str = "kube-ipvs.io/external-ip-binding";
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
