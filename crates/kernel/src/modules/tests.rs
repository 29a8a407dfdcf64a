use ModulePresence::{Loadable, NotInstalled, Present, Unknown};

use super::*;

const RELEASE: &str = "6.12.107+deb13-cloud-amd64";

/// A file system with these files.
fn finder(files: &[(&str, &str)]) -> (testkit::TempDir, ModuleFinder) {
    let dir = testkit::TempDir::new("modules");
    for (name, content) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let finder = ModuleFinder::new(dir.path(), &KernelRelease::new(RELEASE));
    (dir, finder)
}

fn lists(dep: &str, builtin: &str) -> Vec<(String, String)> {
    let dir = format!("lib/modules/{RELEASE}");
    vec![
        (format!("{dir}/modules.dep"), dep.to_owned()),
        (format!("{dir}/modules.builtin"), builtin.to_owned()),
    ]
}

/// Conformance: ipvs/proxier Test_getFirstColumn
#[test]
fn presence_by_every_source() {
    let dep = "kernel/net/netfilter/ipvs/ip_vs.ko.xz: kernel/lib/crc32.ko.xz\nkernel/drivers/net/dummy.ko:\n";
    let builtin = "kernel/net/netfilter/nf_conntrack.ko\nkernel/net/netfilter/ipvs/ip-vs-rr.ko\n";
    let mut files = lists(dep, builtin);
    files.push((
        "proc/modules".into(),
        "nf_tables 376832 12 nft_ct, Live 0x0\nip_vs_wrr 16384 0 - Live 0x0\n".into(),
    ));
    files.push(("sys/module/ip_vs_mh/refcnt".into(), "0\n".into()));
    let files: Vec<_> = files.iter().map(|(name, content)| (name.as_str(), content.as_str())).collect();
    let (_dir, finder) = finder(&files);
    let cases = [
        (KernelModule::IpVs, Loadable),
        (KernelModule::Dummy, Loadable),
        (KernelModule::NfTables, Present),
        (KernelModule::NfConntrack, Present),
        (KernelModule::Scheduler(Scheduler::RR), Present),
        (KernelModule::Scheduler(Scheduler::WRR), Present),
        (KernelModule::Scheduler(Scheduler::MH), Present),
        (KernelModule::Scheduler(Scheduler::SH), NotInstalled),
    ];
    for (module, expect) in cases {
        assert_eq!(finder.presence(module), expect, "{module}");
    }
    let loaded: Vec<_> = finder.loaded_schedulers().collect();
    assert_eq!(loaded, [Scheduler::RR, Scheduler::WRR, Scheduler::MH]);
}

#[test]
fn without_module_lists_nothing_is_claimed() {
    let (_dir, finder) = finder(&[("proc/modules", "ip_vs 188416 0 - Live 0x0\n")]);
    assert_eq!(finder.presence(KernelModule::IpVs), Present);
    assert_eq!(finder.presence(KernelModule::Dummy), Unknown);
}

#[test]
fn errors_name_module_and_remedy() {
    let error =
        |module, presence| MissingModule { module, presence, release: RELEASE.to_owned() }.to_string();
    let text = error(KernelModule::IpVs, Unknown);
    for part in
        ["module ip_vs is missing", "modprobe ip_vs`", "/etc/modules-load.d/ip_vs.conf", "CONFIG_IP_VS"]
    {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
    let text = error(KernelModule::Scheduler(Scheduler::WRR), Loadable);
    assert!(text.contains("modprobe ip_vs_wrr") && !text.contains("CONFIG"), "{text}");
    let text = error(KernelModule::Dummy, NotInstalled);
    assert!(text.contains("not installed for kernel 6.12") && !text.contains("modprobe"), "{text}");
    let text = error(KernelModule::NfConntrackNetlink, NotInstalled);
    for part in ["nf_conntrack_netlink is missing", "everything else works", "CONFIG_NF_CT_NETLINK"] {
        assert!(text.contains(part), "{part:?} is missing in {text}");
    }
}

#[test]
fn the_running_kernel_can_be_asked() {
    for module in KernelModule::REQUIRED {
        let missing = ModuleFinder::running().missing(module);
        assert!(missing.to_string().contains(&module.name()));
    }
}
