//! `plan` prints the writes that a start would make, and writes nothing.

use e2e::{net::PodNetwork, observe::Snapshot};

use crate::testbed::{Testbed, WEB, ask_all, web};

#[test]
fn plan_on_a_fresh_node_and_on_a_converged_one() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let service = web();
    testbed.manifests.serve(&service, &testbed.ready(1..=2));
    let fresh = Snapshot::take(&testbed.net.node);
    let plan = testbed.settings.plan(&testbed.net.node).unwrap_or_else(|error| panic!("{error}"));
    println!("{plan}");
    fresh.assert_same(&Snapshot::take(&testbed.net.node), "by plan on a fresh node");
    for vip in WEB.port(80) {
        let named = plan.lines().any(|line| line.contains(&vip.to_string()));
        assert!(named, "the plan does not name the virtual server {vip}:\n{plan}");
    }
    for real in testbed.pods.iter().flat_map(|pod| pod.address.port(8080)) {
        assert!(plan.contains(&real.to_string()), "the plan does not name the real server {real}:\n{plan}");
    }

    testbed.start(&[]);
    testbed.wait_served(&service, &testbed.ready(1..=2));
    let converged = Snapshot::take(&testbed.net.node);
    let plan = testbed.settings.plan(&testbed.net.node).unwrap_or_else(|error| panic!("{error}"));
    println!("{plan}");
    assert!(plan.to_lowercase().contains("nothing to"), "a converged node has nothing to do:\n{plan}");
    converged.assert_same(&Snapshot::take(&testbed.net.node), "by plan on a converged node");

    // Timeouts are not part of the comparison, but the plan must not write them either.
    let timeouts = testbed.net.node.sh("ipvsadm -l --timeout");
    let settings = testbed
        .settings
        .with_flags(&["--ipvs-tcp-timeout=123s", "--cluster-cidr=10.244.0.0/16,fd00:244::/56"]);
    settings.plan(&testbed.net.node).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(testbed.net.node.sh("ipvsadm -l --timeout"), timeouts);

    // One real server is missing: the plan names that and nothing else.
    testbed.proxy().terminate();
    testbed.net.node.sh("ipvsadm -d -t 10.96.0.80:80 -r 10.244.0.12:8080");
    let plan = testbed.settings.plan(&testbed.net.node).unwrap_or_else(|error| panic!("{error}"));
    println!("{plan}");
    assert!(plan.contains("10.244.0.12:8080") && !plan.contains("10.244.0.11:8080"), "{plan}");
    testbed.proxy().start_again();
    testbed.wait_served(&service, &testbed.ready(1..=2));
    ask_all(&testbed.net.outside_client(), &service);
}

/// Kernel parameters and timeouts are set by `--init-only`, and nothing else is written.
#[test]
fn init_only_leaves_no_kernel_parameter_to_write() {
    let testbed = Testbed::new(PodNetwork::Routed, 1);
    testbed.manifests.serve(&web(), &testbed.ready(1..=1));
    let node = &testbed.net.node;
    let before = Snapshot::take(node);
    node.sh("sysctl -qw net.ipv4.vs.conntrack=0 net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=1");
    let settings = testbed
        .settings
        .with_flags(&["--ipvs-tcp-timeout=123s", "--cluster-cidr=10.244.0.0/16,fd00:244::/56"]);
    let plan = || settings.plan(node).unwrap_or_else(|error| panic!("{error}"));
    assert!(plan().contains("set sysctl net/ipv4/vs/conntrack = 1"), "{}", plan());

    settings.init(node).unwrap_or_else(|error| panic!("{error}"));
    let plan = plan();
    assert!(plan.contains("10.96.0.80:80/TCP") && !plan.contains("set sysctl"), "{plan}");
    let timeouts = node.sh("ipvsadm -l --timeout");
    assert!(timeouts.contains(": 123 "), "{timeouts}");
    before.assert_same(&Snapshot::take(node), "by --init-only");
}

#[test]
fn version_says_something() {
    let testbed = Testbed::new(PodNetwork::Routed, 0);
    let version = testbed.settings.version().unwrap_or_else(|error| panic!("{error}"));
    assert!(version.contains("kube-ipvs"), "{version:?}");
}
