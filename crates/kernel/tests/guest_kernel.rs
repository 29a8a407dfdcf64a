//! The real `/proc/sys` of a kernel with IPVS, in a network namespace of its own.

use dataplane::Sysctls as _;
use kernel::{
    ConnReuseFacts, KernelModule, KernelRelease, ModuleFinder, ModulePresence, ProcSysctls, SysctlDiff,
    SysctlNeeds, decide_conn_reuse_mode, diff_sysctls, required_sysctls,
};
use testkit::{in_new_netns, run};

#[test]
fn parameters_are_written_once() {
    run(&["modprobe", "ip_vs"]);
    in_new_netns(|| {
        let version = KernelRelease::running().version;
        let decision = decide_conn_reuse_mode(&ConnReuseFacts { version, ..ConnReuseFacts::default() });
        let needs = SysctlNeeds { conn_reuse_mode: decision.mode, ipv4: true, ipv6: true, strict_arp: true };
        let (required, mut sysctls) = (required_sysctls(&needs), ProcSysctls::default());
        let diff = diff_sysctls(&required, &mut sysctls).expect("readable");
        assert_eq!(diff.absent, [], "every kernel of the guest has all of them");
        assert!(diff.ops.len() >= 4, "a new namespace starts with the defaults: {diff:?}");
        for op in &diff.ops {
            sysctls.write(op).expect("writable");
        }
        assert_eq!(diff_sysctls(&required, &mut sysctls).expect("readable"), SysctlDiff::default());
        for wanted in &required {
            let seen = run(&["cat", &format!("/proc/sys/{}", wanted.op.name)]);
            assert_eq!(seen.trim(), wanted.op.value.to_string(), "{}", wanted.op);
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
