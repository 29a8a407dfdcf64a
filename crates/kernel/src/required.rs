//! Kernel parameters with the values that they must have.

use lb_types::{Leaves, SysctlNeed, SysctlOp, SysctlWhen};

use crate::ConnReuseMode;

/// Counting of traffic, which can be switched off since Linux 5.15 (`sysctl_run_estimation`,
/// include/net/ip_vs.h). It is only read: an operator who switches it off wants it so.
pub const RUN_ESTIMATION: &str = "net/ipv4/vs/run_estimation";
/// Switch by which conntrack sees the connections of IPVS.
pub const CONNTRACK: &str = "net/ipv4/vs/conntrack";
/// Treatment of reused source ports; see [`crate::decide_conn_reuse_mode`].
pub const CONN_REUSE_MODE: &str = "net/ipv4/vs/conn_reuse_mode";
/// Switch by which connections of removed real servers end at once.
pub const EXPIRE_NODEST_CONN: &str = "net/ipv4/vs/expire_nodest_conn";
/// Switch by which session affinity leaves real servers of weight 0.
pub const EXPIRE_QUIESCENT_TEMPLATE: &str = "net/ipv4/vs/expire_quiescent_template";
/// Switch of IPv4 forwarding.
pub const IPV4_FORWARDING: &str = "net/ipv4/ip_forward";
/// Switch of IPv6 forwarding.
pub const IPV6_FORWARDING: &str = "net/ipv6/conf/all/forwarding";
/// First half of strict ARP.
pub const ARP_IGNORE: &str = "net/ipv4/conf/all/arp_ignore";
/// Second half of strict ARP.
pub const ARP_ANNOUNCE: &str = "net/ipv4/conf/all/arp_announce";

/// Switch that takes IPv6 from our link; new links inherit it from `conf/default`.
pub const LINK_DISABLE_IPV6: &str = "net/ipv6/conf/kube-ipvs0/disable_ipv6";
/// Limit of tracked connections; the kernel drops new ones beyond.
pub const CONNTRACK_MAX: &str = "net/netfilter/nf_conntrack_max";
/// Size of the hash table of tracked connections.
pub const CONNTRACK_BUCKETS: &str = "net/netfilter/nf_conntrack_buckets";
/// Seconds for which the kernel tracks an idle established TCP connection.
pub const CONNTRACK_ESTABLISHED: &str = "net/netfilter/nf_conntrack_tcp_timeout_established";
/// Seconds for which the kernel tracks a TCP connection whose server has closed and whose client has not.
pub const CONNTRACK_CLOSE_WAIT: &str = "net/netfilter/nf_conntrack_tcp_timeout_close_wait";

/// Seconds for which the kernel tracks a UDP flow without an answer.
pub const CONNTRACK_UDP: &str = "net/netfilter/nf_conntrack_udp_timeout";
/// Seconds for which the kernel tracks an idle UDP flow with packets in both directions.
pub const CONNTRACK_UDP_STREAM: &str = "net/netfilter/nf_conntrack_udp_timeout_stream";
/// Switch by which the kernel tracks TCP packets outside of the window as well.
pub const CONNTRACK_BE_LIBERAL: &str = "net/netfilter/nf_conntrack_tcp_be_liberal";

/// Most tracked connections that follow from the number of cores (pkg/proxy/conntrack/sysctls.go,
/// `getConntrackMax`).
const TRACKED_BY_CORES: u32 = 1 << 20;
/// Tracked connections for each bucket, as in kube-proxy.
const TRACKED_PER_BUCKET: u32 = 4;
/// Seconds of the kernel's default for established connections (`tcp_timeouts` in
/// net/netfilter/nf_conntrack_proto_tcp.c).
const ESTABLISHED_DEFAULT: u32 = 5 * 24 * 3600;

/// Demands of the configuration and of earlier decisions on the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SysctlNeeds {
    /// Mode by [`crate::decide_conn_reuse_mode`]; `None` leaves the parameter alone.
    pub conn_reuse_mode: Option<ConnReuseMode>,
    /// True if IPv4 services are served.
    pub ipv4: bool,
    /// True if IPv6 services are served.
    pub ipv6: bool,
    /// Value of `ipvs.strictARP` of the configuration.
    pub strict_arp: bool,
    /// Limits and timeouts of connection tracking; `None` leaves all of them alone.
    pub tracking: Option<ConnectionTracking>,
}

/// Limits and timeouts of connection tracking; 0 leaves each of them alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionTracking {
    /// Number of processors.
    pub cores: u32,
    /// Tracked connections for each of them.
    pub max_per_core: u32,
    /// Tracked connections at least, unless `max_per_core` is 0.
    pub min: u32,
    /// Seconds for which an idle established TCP connection is tracked.
    pub established: u32,
    /// Seconds for which a TCP connection is tracked whose server has closed.
    pub close_wait: u32,
    /// Seconds for which a UDP flow without an answer is tracked.
    pub udp: u32,
    /// Seconds for which an idle UDP flow is tracked.
    pub udp_stream: u32,
    /// Tracks TCP packets outside of the window as well.
    pub be_liberal: bool,
}

impl ConnectionTracking {
    /// Default of `established` in seconds.
    pub const ESTABLISHED: u32 = 24 * 3600;
    /// Default of `close_wait` in seconds.
    pub const CLOSE_WAIT: u32 = 3600;

    /// Defaults of kube-proxy for a number of processors.
    pub const fn defaults(cores: u32) -> Self {
        ConnectionTracking {
            cores,
            max_per_core: 32 << 10,
            min: 128 << 10,
            established: Self::ESTABLISHED,
            close_wait: Self::CLOSE_WAIT,
            udp: 0,
            udp_stream: 0,
            be_liberal: false,
        }
    }

    /// Limit of tracked connections. The minimum counts beyond a million as well, unlike in kube-proxy.
    fn limit(&self) -> u32 {
        if self.max_per_core == 0 {
            return 0;
        }
        self.cores.saturating_mul(self.max_per_core).min(TRACKED_BY_CORES).max(self.min)
    }
}

/// A parameter with the value that it must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredSysctl {
    /// The parameter, its value, and the moment when it is written.
    pub need: SysctlNeed,
    /// Damage without it; one line for `doctor`.
    pub why: &'static str,
}

/// All parameters that must have a certain value, in the order in which they are written.
///
/// They are those of kube-proxy (pkg/proxy/ipvs: `NewProxier`), with two differences: `conn_reuse_mode` is
/// decided rather than left alone on new kernels, and IPv6 forwarding is set, because kube-proxy's IPv6
/// services only work where somebody else set it. A limit of tracked connections that somebody has raised is
/// never lowered.
pub fn required_sysctls(needs: &SysctlNeeds) -> Vec<RequiredSysctl> {
    let mut required = vec![
        RequiredSysctl::new(
            CONNTRACK,
            1,
            "IPVS connections could be neither masqueraded nor matched by state",
        ),
        RequiredSysctl::new(EXPIRE_NODEST_CONN, 1, "clients of a removed real server would hang"),
        RequiredSysctl::new(
            EXPIRE_QUIESCENT_TEMPLATE,
            1,
            "session affinity would send new connections to a draining real server",
        ),
    ];
    if let Some(mode) = needs.conn_reuse_mode {
        let why = "reused source ports would be treated wrongly for this kernel";
        required.push(RequiredSysctl::new(CONN_REUSE_MODE, mode.value(), why));
    }
    if needs.ipv4 {
        let why = "clients outside of this node could not reach pods through IPv4 services";
        required.push(RequiredSysctl::new(IPV4_FORWARDING, 1, why));
    }
    if needs.ipv6 {
        let why = "clients outside of this node could not reach pods through IPv6 services";
        required.push(RequiredSysctl::new(IPV6_FORWARDING, 1, why).when(SysctlWhen::Ipv6Forwarding));
        let why = "IPv6 VIPs could not be routed to the link";
        required.push(RequiredSysctl::new(LINK_DISABLE_IPV6, 0, why).when(SysctlWhen::OnLink));
    }
    if needs.strict_arp {
        let why = "strictARP is configured: the node would answer ARP for VIPs";
        required.push(RequiredSysctl::new(ARP_IGNORE, 1, why));
        required.push(RequiredSysctl::new(ARP_ANNOUNCE, 2, why));
    }
    required.extend(needs.tracking.iter().flat_map(connection_tracking));
    required
}

/// Parameters of connection tracking. What somebody has raised stays where the default is configured; any other
/// value is written as it is.
fn connection_tracking(tracking: &ConnectionTracking) -> Vec<RequiredSysctl> {
    let full = "a busy node would drop new connections: its table of tracked connections would be full";
    let slow = "look-ups of tracked connections would be slow";
    let idle = "idle connections would stay tracked for days";
    let half_closed = "a client that is slow to close would find its connection no longer tracked";
    let flows = "UDP flows would not stay tracked for the configured time";
    let window = "TCP packets outside of the window would count as invalid, against the configuration";
    let unless = |default: u32, value: u32, leaves| if value == default { leaves } else { Leaves::Nothing };
    let established =
        unless(ConnectionTracking::ESTABLISHED, tracking.established, Leaves::LargerBut(ESTABLISHED_DEFAULT));
    let close_wait = unless(ConnectionTracking::CLOSE_WAIT, tracking.close_wait, Leaves::Larger);
    let limit = tracking.limit();
    let all = [
        (CONNTRACK_MAX, limit, Leaves::LargerOrZero, full),
        (CONNTRACK_BUCKETS, limit / TRACKED_PER_BUCKET, Leaves::Larger, slow),
        (CONNTRACK_ESTABLISHED, tracking.established, established, idle),
        (CONNTRACK_CLOSE_WAIT, tracking.close_wait, close_wait, half_closed),
        (CONNTRACK_UDP, tracking.udp, Leaves::Nothing, flows),
        (CONNTRACK_UDP_STREAM, tracking.udp_stream, Leaves::Nothing, flows),
        (CONNTRACK_BE_LIBERAL, tracking.be_liberal.into(), Leaves::Nothing, window),
    ];
    let given = all.into_iter().filter(|(_, value, ..)| *value > 0);
    let need =
        |name, value, leaves| SysctlNeed { op: SysctlOp::new(name, value), leaves, when: SysctlWhen::Once };
    given.map(|(name, value, leaves, why)| RequiredSysctl { need: need(name, value, leaves), why }).collect()
}

/// Warning to the operator of a node that does not count traffic, given the value of [`RUN_ESTIMATION`].
pub fn without_estimation(value: Option<u32>) -> Option<&'static str> {
    (value == Some(0)).then_some(
        "net.ipv4.vs.run_estimation is 0: traffic is not counted, so that a draining real server whose last connection \
         is half closed counts as idle after --graceful-linger, and one whose host is silent is kept until \
         --graceful-timeout; sysctl -w net.ipv4.vs.run_estimation=1 ends that",
    )
}

impl RequiredSysctl {
    fn new(name: &'static str, value: u32, why: &'static str) -> Self {
        RequiredSysctl { need: SysctlOp::new(name, value).into(), why }
    }

    fn when(mut self, when: SysctlWhen) -> Self {
        self.need.when = when;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(needs: SysctlNeeds) -> Vec<String> {
        let required = required_sysctls(&needs);
        required.iter().map(|r| format!("{}={}", r.need.op.name, r.need.op.value)).collect()
    }

    const ALWAYS: [&str; 3] = [
        "net/ipv4/vs/conntrack=1",
        "net/ipv4/vs/expire_nodest_conn=1",
        "net/ipv4/vs/expire_quiescent_template=1",
    ];

    #[test]
    fn only_a_node_that_counts_no_traffic_is_told_so() {
        assert!(without_estimation(Some(0)).is_some_and(|text| text.contains("run_estimation=1")));
        for value in [None, Some(1)] {
            assert_eq!(without_estimation(value), None);
        }
    }

    #[test]
    fn every_need_adds_its_own() {
        let none = SysctlNeeds::default();
        let cases: [(SysctlNeeds, &[&str]); 6] = [
            (none, &[]),
            (SysctlNeeds { ipv4: true, ..none }, &["net/ipv4/ip_forward=1"]),
            (
                SysctlNeeds { ipv6: true, ..none },
                &["net/ipv6/conf/all/forwarding=1", "net/ipv6/conf/kube-ipvs0/disable_ipv6=0"],
            ),
            (
                SysctlNeeds { strict_arp: true, ..none },
                &["net/ipv4/conf/all/arp_ignore=1", "net/ipv4/conf/all/arp_announce=2"],
            ),
            (
                SysctlNeeds { conn_reuse_mode: Some(ConnReuseMode::FollowOld), ..none },
                &["net/ipv4/vs/conn_reuse_mode=0"],
            ),
            (
                SysctlNeeds { conn_reuse_mode: Some(ConnReuseMode::Reschedule), ..none },
                &["net/ipv4/vs/conn_reuse_mode=1"],
            ),
        ];
        for (needs, more) in cases {
            assert_eq!(names(needs), [&ALWAYS, more].concat(), "{needs:?}");
        }
    }

    /// Parameters of connection tracking, each with its value.
    fn tracked(tracking: ConnectionTracking) -> Vec<String> {
        let all = names(SysctlNeeds { tracking: Some(tracking), ..SysctlNeeds::default() });
        let prefix = "net/netfilter/nf_conntrack_";
        all[ALWAYS.len()..].iter().map(|name| name.replace(prefix, "")).collect()
    }

    /// Conformance: conntrack/sysctls TestGetConntrackMax
    /// Conformance: conntrack/sysctls TestGetConntrackMax_Capped
    /// Conformance: e2e/kube_proxy should set TCP CLOSE_WAIT timeout
    #[test]
    fn limits_of_connection_tracking_are_those_of_kube_proxy() {
        for (cores, limit) in
            [(0, 131_072), (1, 131_072), (4, 131_072), (5, 163_840), (32, 1 << 20), (500, 1 << 20)]
        {
            let expect = [
                format!("max={limit}"),
                format!("buckets={}", limit / 4),
                "tcp_timeout_established=86400".to_owned(),
                "tcp_timeout_close_wait=3600".to_owned(),
            ];
            assert_eq!(tracked(ConnectionTracking::defaults(cores)), expect, "{cores} cores");
        }
    }

    /// Conformance: conntrack/sysctls TestSetupConntrack
    #[test]
    fn connection_tracking_is_set_as_configured_and_zero_leaves_it_alone() {
        let defaults = ConnectionTracking::defaults(4);
        let none = ConnectionTracking { max_per_core: 0, established: 0, close_wait: 0, ..defaults };
        assert_eq!(tracked(none), [""; 0], "without a limit for each core, the minimum does not count");
        let all = ConnectionTracking { udp: 10, udp_stream: 20, be_liberal: true, ..none };
        assert_eq!(tracked(all), ["udp_timeout=10", "udp_timeout_stream=20", "tcp_be_liberal=1"]);
        let large = ConnectionTracking { max_per_core: u32::MAX, min: 3 << 20, ..none };
        assert_eq!(tracked(large)[0], format!("max={}", 3 << 20), "a larger minimum counts");
    }

    #[test]
    fn only_defaults_give_way_to_larger_values() {
        let leaves = |established| {
            let tracking = ConnectionTracking { established, ..ConnectionTracking::defaults(1) };
            connection_tracking(&tracking)[2].need.leaves
        };
        assert_eq!(leaves(ConnectionTracking::ESTABLISHED), Leaves::LargerBut(ESTABLISHED_DEFAULT));
        assert_eq!(leaves(7200), Leaves::Nothing);
    }
}
