//! `kube-ipvs cleanup` on this machine, in network namespaces of its own.

use testkit::{NetNs, TempDir};

const BINARY: &str = env!("CARGO_BIN_EXE_kube-ipvs");

fn possible() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: network namespaces need root");
    }
    root
}

/// On a kernel without IPVS this failed before it looked at the other tables.
#[test]
fn the_table_of_packet_rules_goes_whether_the_kernel_has_ipvs_or_not() {
    if !possible() {
        return;
    }
    let (node, state) = (NetNs::create(), TempDir::new("cleanup"));
    node.sh("nft add table inet kube-ipvs");
    node.sh("nft add table arp kube-ipvs");
    node.sh("nft add table inet others");
    let state = state.path().to_str().expect("a path");
    let plan = node.run(&[BINARY, "cleanup", "--hostname-override=n1", "--state-dir", state]);
    assert!(plan.contains("delete tables inet and arp kube-ipvs"), "{plan}");
    assert_eq!(node.sh("nft list tables").trim(), "table inet others");
}

#[test]
fn a_state_directory_on_a_read_only_file_system_is_warned_of_and_no_more() {
    if !possible() {
        return;
    }
    let (node, mount) = (NetNs::create(), TempDir::new("read-only"));
    node.sh("nft add table inet kube-ipvs");
    let script = format!(
        "mount -t tmpfs -o ro none {mount} && exec {BINARY} cleanup --hostname-override=n1 --state-dir {mount}/x 2>&1",
        mount = mount.path().display()
    );
    let output = node.run(&["unshare", "--mount", "sh", "-c", &script]);
    assert!(
        output.contains("Read-only file system") && output.contains("cannot write to --state-dir"),
        "{output}"
    );
    assert_eq!(node.sh("nft list tables").trim(), "");
}
