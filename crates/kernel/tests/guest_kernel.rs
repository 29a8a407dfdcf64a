//! Tests with the real `/proc/sys` of a kernel with IPVS, in a network namespace of its own.

use dataplane::Sysctls as _;
use kernel::{
    ConnReuseFacts, ConnectionTracking, KernelModule, KernelRelease, ModuleFinder, ModulePresence,
    ProcSysctls, SysctlNeeds, decide_conn_reuse_mode, required_sysctls,
};
use lb_types::SysctlWhen;
use testkit::{in_new_netns, run};

#[test]
fn parameters_exist_and_are_written() {
    run(&["modprobe", "ip_vs"]);
    in_new_netns(|| {
        let version = KernelRelease::running().version;
        let decision = decide_conn_reuse_mode(&ConnReuseFacts { version, ..ConnReuseFacts::default() });
        let needs = SysctlNeeds {
            conn_reuse_mode: decision.mode,
            ipv4: true,
            ipv6: true,
            strict_arp: true,
            tracking: None,
        };
        let mut sysctls = ProcSysctls::default();
        for required in required_sysctls(&needs).into_iter().filter(|r| r.need.when != SysctlWhen::OnLink) {
            let op = required.need.op;
            assert_ne!(
                sysctls.read(&op.name).expect("readable"),
                None,
                "every kernel of the guest has it: {op}"
            );
            sysctls.write(&op).expect("writable");
            let seen = run(&["cat", &format!("/proc/sys/{}", op.name)]);
            assert_eq!(seen.trim(), op.value.to_string(), "{op}");
        }
    });
}

#[test]
fn modules_are_found() {
    run(&["modprobe", "ip_vs"]);
    let finder = ModuleFinder::running();
    assert_eq!(finder.presence(KernelModule::IpVs), ModulePresence::Present);
    let dummy = finder.presence(KernelModule::Dummy);
    assert!(matches!(dummy, ModulePresence::Present | ModulePresence::Loadable), "{dummy:?}");
}

/// The kernel takes the values that kube-proxy writes, in the node's first network namespace.
/// Conformance: e2e/kube_proxy should set TCP CLOSE_WAIT timeout
#[test]
fn limits_of_connection_tracking_are_written() {
    run(&["modprobe", "nf_conntrack"]);
    let needs = SysctlNeeds { tracking: Some(ConnectionTracking::defaults(40)), ..SysctlNeeds::default() };
    let mut sysctls = ProcSysctls::default();
    let limits = required_sysctls(&needs).into_iter().filter(|r| r.need.when == SysctlWhen::Once);
    for op in limits.map(|required| required.need.op) {
        assert!(sysctls.is_writable(&op.name), "{op}");
        sysctls.write(&op).expect("writable");
        // The kernel rounds the number of buckets up to whole pages.
        let now = sysctls.read(&op.name).expect("readable").expect("present");
        assert!(now >= op.value, "{op}: {now}");
    }
    testkit::in_new_netns(|| assert!(!ProcSysctls::default().is_writable("net/netfilter/nf_conntrack_max")));
}
