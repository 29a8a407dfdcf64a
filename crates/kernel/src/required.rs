//! Which kernel parameters must have which value, and what differs from that.

use dataplane::{Sysctls, TableError};
use lb_types::SysctlOp;

use crate::ConnReuseMode;

/// Whether traffic is counted, since Linux 5.15 (`sysctl_run_estimation`, include/net/ip_vs.h). Read only: whoever
/// switches it off wants it so.
pub const RUN_ESTIMATION: &str = "net/ipv4/vs/run_estimation";
/// IPVS connections are seen by conntrack.
pub const CONNTRACK: &str = "net/ipv4/vs/conntrack";
/// See [`crate::decide_conn_reuse_mode`].
pub const CONN_REUSE_MODE: &str = "net/ipv4/vs/conn_reuse_mode";
/// Connections of removed real servers end at once.
pub const EXPIRE_NODEST_CONN: &str = "net/ipv4/vs/expire_nodest_conn";
/// Session affinity lets go of real servers of weight 0.
pub const EXPIRE_QUIESCENT_TEMPLATE: &str = "net/ipv4/vs/expire_quiescent_template";
/// IPv4 forwarding.
pub const IPV4_FORWARDING: &str = "net/ipv4/ip_forward";
/// IPv6 forwarding.
pub const IPV6_FORWARDING: &str = "net/ipv6/conf/all/forwarding";
/// Half of strict ARP.
pub const ARP_IGNORE: &str = "net/ipv4/conf/all/arp_ignore";
/// The other half.
pub const ARP_ANNOUNCE: &str = "net/ipv4/conf/all/arp_announce";

/// What the configuration and earlier decisions ask of the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SysctlNeeds {
    /// Decided by [`crate::decide_conn_reuse_mode`]; `None` leaves the parameter alone.
    pub conn_reuse_mode: Option<ConnReuseMode>,
    /// Whether IPv4 services are served.
    pub ipv4: bool,
    /// Whether IPv6 services are served.
    pub ipv6: bool,
    /// `ipvs.strictARP` of the configuration.
    pub strict_arp: bool,
}

/// A parameter with the value that it must have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequiredSysctl {
    /// The write that makes it so.
    pub op: SysctlOp,
    /// What goes wrong otherwise; one line for logs and `doctor`.
    pub why: &'static str,
}

/// All parameters that must have a certain value, in the order in which they are written.
///
/// The same as kube-proxy writes (pkg/proxy/ipvs: `NewProxier`), with two differences: `conn_reuse_mode` is decided
/// rather than left alone on new kernels, and IPv6 forwarding is set, because kube-proxy's IPv6 services only work
/// where somebody else did. A side effect of the latter: an interface with `accept_ra=1` ignores router
/// advertisements from then on. A node that gets its default route by them needs `accept_ra=2`.
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
        required.push(RequiredSysctl::new(IPV6_FORWARDING, 1, why));
    }
    if needs.strict_arp {
        let why = "strictARP is configured: the node would answer ARP for VIPs";
        required.push(RequiredSysctl::new(ARP_IGNORE, 1, why));
        required.push(RequiredSysctl::new(ARP_ANNOUNCE, 2, why));
    }
    required
}

/// What an operator must know about a node that does not count traffic, given the value of [`RUN_ESTIMATION`].
pub fn without_estimation(value: Option<u32>) -> Option<&'static str> {
    (value == Some(0)).then_some(
        "net.ipv4.vs.run_estimation is 0: traffic is not counted, so that a draining real server whose last connection \
         is half closed counts as idle after --graceful-linger, and one whose host is silent is kept until \
         --graceful-timeout; sysctl -w net.ipv4.vs.run_estimation=1 ends that",
    )
}

impl RequiredSysctl {
    const fn new(name: &'static str, value: u32, why: &'static str) -> Self {
        RequiredSysctl { op: SysctlOp { name, value }, why }
    }
}

/// What differs between the required values and those that the kernel has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SysctlDiff {
    /// Writes that mend it; empty if nothing differs.
    pub ops: Vec<SysctlOp>,
    /// Parameters that the kernel does not have: module `ip_vs` or IPv6 is missing, or the kernel is too old.
    pub absent: Vec<RequiredSysctl>,
}

/// Reads what is required, and lists what differs.
pub fn diff_sysctls(
    required: &[RequiredSysctl],
    sysctls: &mut dyn Sysctls,
) -> Result<SysctlDiff, TableError> {
    let mut diff = SysctlDiff::default();
    for wanted in required {
        match sysctls.read(wanted.op.name)? {
            None => diff.absent.push(wanted.clone()),
            Some(value) if value == wanted.op.value => {}
            Some(_) => diff.ops.push(wanted.op.clone()),
        }
    }
    Ok(diff)
}

#[cfg(test)]
mod tests {
    use dataplane::fake::FakeSysctls;

    use super::*;

    fn names(needs: SysctlNeeds) -> Vec<String> {
        required_sysctls(&needs).iter().map(|r| format!("{}={}", r.op.name, r.op.value)).collect()
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
            (SysctlNeeds { ipv6: true, ..none }, &["net/ipv6/conf/all/forwarding=1"]),
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
    fn only_what_differs_is_written_and_absence_is_told() {
        let sysctls = FakeSysctls::default();
        sysctls.set(CONNTRACK, 0);
        sysctls.set(EXPIRE_NODEST_CONN, 1);
        sysctls.set(IPV4_FORWARDING, 1);
        let required = required_sysctls(&SysctlNeeds { ipv4: true, ..SysctlNeeds::default() });
        let diff = diff_sysctls(&required, &mut sysctls.clone()).unwrap();
        assert_eq!(diff.ops, [SysctlOp { name: CONNTRACK, value: 1 }]);
        assert_eq!(diff.absent.iter().map(|r| r.op.name).collect::<Vec<_>>(), [EXPIRE_QUIESCENT_TEMPLATE]);
        assert_eq!(sysctls.writes(), 0);
    }

    #[test]
    fn what_was_written_differs_no_more() {
        let mut sysctls = FakeSysctls::default();
        let needs = SysctlNeeds {
            conn_reuse_mode: Some(ConnReuseMode::Reschedule),
            ipv4: true,
            ipv6: true,
            strict_arp: true,
        };
        let required = required_sysctls(&needs);
        for wanted in &required {
            sysctls.set(wanted.op.name, 7);
        }
        for op in diff_sysctls(&required, &mut sysctls).unwrap().ops {
            sysctls.write(&op).unwrap();
        }
        assert_eq!(sysctls.writes(), required.len());
        assert_eq!(diff_sysctls(&required, &mut sysctls).unwrap(), SysctlDiff::default());
    }
}
