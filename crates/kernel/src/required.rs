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

/// Tracked connections for each core, at least and at most: kube-proxy's defaults
/// (pkg/proxy/conntrack/sysctls.go, `getConntrackMax`).
const TRACKED_PER_CORE: u32 = 32 << 10;
const TRACKED_AT_LEAST: u32 = 128 << 10;
const TRACKED_AT_MOST: u32 = 1 << 20;
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
    /// Number of processors, by which the limits of connection tracking rise; `None` leaves them alone.
    pub cores: Option<u32>,
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
/// services only work where somebody else set it. A limit of connection tracking that somebody has raised is
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
    required.extend(needs.cores.into_iter().flat_map(connection_tracking));
    required
}

/// Limits of connection tracking for a number of processors.
fn connection_tracking(cores: u32) -> [RequiredSysctl; 4] {
    let tracked = cores.saturating_mul(TRACKED_PER_CORE).clamp(TRACKED_AT_LEAST, TRACKED_AT_MOST);
    let full = "a busy node would drop new connections: its table of tracked connections would be full";
    let slow = "look-ups of tracked connections would be slow";
    let idle = "idle connections would stay tracked for five days";
    let half_closed = "a client that is slow to close would find its connection no longer tracked";
    let limit = |name, value, leaves, why| RequiredSysctl {
        need: SysctlNeed { op: SysctlOp::new(name, value), leaves, when: SysctlWhen::Once },
        why,
    };
    [
        limit(CONNTRACK_MAX, tracked, Leaves::LargerOrZero, full),
        limit(CONNTRACK_BUCKETS, tracked / TRACKED_PER_BUCKET, Leaves::Larger, slow),
        limit(CONNTRACK_ESTABLISHED, 24 * 3600, Leaves::LargerBut(ESTABLISHED_DEFAULT), idle),
        limit(CONNTRACK_CLOSE_WAIT, 3600, Leaves::Larger, half_closed),
    ]
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

    #[test]
    fn limits_of_connection_tracking_are_those_of_kube_proxy() {
        for (cores, tracked) in
            [(0, 131_072), (1, 131_072), (4, 131_072), (5, 163_840), (32, 1 << 20), (500, 1 << 20)]
        {
            let names = names(SysctlNeeds { cores: Some(cores), ..SysctlNeeds::default() });
            let expect = [
                format!("net/netfilter/nf_conntrack_max={tracked}"),
                format!("net/netfilter/nf_conntrack_buckets={}", tracked / 4),
                "net/netfilter/nf_conntrack_tcp_timeout_established=86400".to_owned(),
                "net/netfilter/nf_conntrack_tcp_timeout_close_wait=3600".to_owned(),
            ];
            assert_eq!(names[ALWAYS.len()..], expect, "{cores} cores");
        }
    }
}
