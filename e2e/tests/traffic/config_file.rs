//! The configuration file: what it says counts, and a change of it takes effect without a new process and without a
//! gap.

use std::{fs, os::unix::fs::symlink, path::Path};

use e2e::{manifest::Service, net::PodNetwork, observe::Snapshot};
use testkit::wait_until;

use crate::testbed::{Testbed, WAIT_LIMIT, WEB, assert_uncut, web};

/// Fields of the file besides these; the last one is what `--cluster-cidr` sets elsewhere. (While a scheduler is replaced,
/// the kernel has none for a moment, so that a change of it may cost a first packet.)
fn text(scheduler: &str, udp_timeout: &str) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nmode: ipvs\n\
         ipvs: {{syncPeriod: 1s, scheduler: {scheduler}, udpTimeout: {udp_timeout}}}\n\
         clusterCIDR: 10.244.0.0/16,fd00:244::/56\n"
    )
}

/// Puts a version of the file in place as kubelet does: a new directory, and a link to it that is renamed.
fn publish(map: &Path, version: &str, text: &str) {
    let (data, swap) = (map.join("..data"), map.join("..data_tmp"));
    fs::create_dir_all(map.join(version)).expect("a directory");
    fs::write(map.join(version).join("config.conf"), text).expect("a file");
    symlink(version, &swap).expect("a link");
    fs::rename(&swap, &data).expect("the link in place");
    if !map.join("config.conf").is_symlink() {
        symlink("..data/config.conf", map.join("config.conf")).expect("a link");
    }
}

fn scheduler(testbed: &Testbed) -> String {
    let vip = WEB.port(80)[0];
    let listed = testbed.net.node.sh(&format!("ipvsadm -Ln -t {vip}"));
    let line = listed.lines().find(|line| line.starts_with("TCP")).unwrap_or_default();
    line.split_whitespace().nth(2).unwrap_or_default().to_owned()
}

fn testbed(map: &Path, service: &Service) -> Testbed {
    let mut testbed = Testbed::new(PodNetwork::Routed, 3);
    testbed.manifests.serve(service, &testbed.ready(1..=3));
    testbed.start(&[&format!("--config={}", map.join("config.conf").display())]);
    testbed.wait_served(service, &testbed.ready(1..=3));
    testbed
}

/// Conformance: app TestConfigChange
#[test]
fn a_config_map_that_changes_takes_effect_under_load_slow() {
    let map = testkit::TempDir::new("config-map");
    publish(map.path(), "..1", &text("rr", "60s"));
    let mut testbed = testbed(map.path(), &web());
    assert_eq!(scheduler(&testbed), "rr");
    testbed.proxy().assert_unprivileged();
    let load = testbed.load(&WEB.port(80));
    let talk = testbed.talk(&WEB.port(80), 20);
    load.let_pass(100);
    publish(map.path(), "..2", &text("rr", "77s"));
    wait_until(WAIT_LIMIT, "the new timeout", || {
        testbed.net.node.sh("ipvsadm -l --timeout").split_whitespace().last() == Some("77")
    });
    load.let_pass(100);
    load.assert_clean();
    assert_uncut(&talk.stop());
    // The same process: it is still the child of this one.
    testbed.proxy().assert_running();
    assert_eq!(testbed.proxy().log_lines(&["kube-ipvs starts"]).len(), 2);
    testbed.proxy().assert_unprivileged();
}

#[test]
fn a_config_file_that_becomes_invalid_changes_nothing() {
    let map = testkit::TempDir::new("config-invalid");
    publish(map.path(), "..1", &text("lc", "60s"));
    let mut testbed = testbed(map.path(), &web());
    let before = Snapshot::take(&testbed.net.node);
    publish(map.path(), "..2", &text("fair", "60s"));
    let errors = |testbed: &mut Testbed| testbed.proxy().log_lines(&["ERROR", "ipvs.scheduler"]).len();
    wait_until(WAIT_LIMIT, "an error line", || errors(&mut testbed) == 1);
    testbed.proxy().assert_running();
    before.assert_same(&Snapshot::take(&testbed.net.node), "by an invalid configuration");
    publish(map.path(), "..3", &text("rr", "60s"));
    wait_until(WAIT_LIMIT, "the repaired file", || scheduler(&testbed) == "rr");
}
