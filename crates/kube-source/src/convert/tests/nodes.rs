use super::{check_problems, parse};
use crate::{convert::node, wire};

/// Checks the zone, addresses and pod CIDRs of a Node `n1`.
fn check(case: &str, yaml: &str, expect: &str, problems: &[&str]) {
    let yaml = format!("metadata: {{name: n1, {yaml}");
    let converted = node(&parse::<wire::Node>(&yaml));
    let node = converted.object.unwrap();
    assert_eq!(&*node.name, "n1");
    let zone = node.zone.iter().map(|zone| format!("zone {zone}"));
    let rest = node
        .addresses
        .values()
        .map(ToString::to_string)
        .chain(node.pod_cidrs.iter().map(ToString::to_string));
    assert_eq!(zone.chain(rest).collect::<Vec<_>>().join(" "), expect, "{case}");
    check_problems(case, "Node n1", &converted.problems, problems);
}

#[test]
fn zone() {
    check("zone", "labels: {topology.kubernetes.io/zone: a, kubernetes.io/hostname: n1}}", "zone a", &[]);
    check("empty", "labels: {topology.kubernetes.io/zone: ''}}", "", &[]);
    check("none", "labels: null}", "", &[]);
    check(
        "odd",
        "labels: {topology.kubernetes.io/zone: [a]}}",
        "",
        &["metadata.labels[topology.kubernetes.io/zone]|found a list"],
    );
}

/// `GetNodeHostIPs` in pkg/util/node/node.go.
/// Conformance: app Test_detectNodeIPs
#[test]
fn addresses() {
    let check = |case, addresses: &str, expect: &str, problems: &[&str]| {
        check(case, &format!("}}\nstatus: {{addresses: {addresses}}}"), expect, problems);
    };
    check("none", "null", "", &[]);
    check("one", "[{type: InternalIP, address: 192.168.0.1}]", "192.168.0.1", &[]);
    check(
        "internal before external, first of each family",
        "[{type: ExternalIP, address: 1.2.3.4}, {type: InternalIP, address: 192.168.0.1}, \
         {type: InternalIP, address: 192.168.0.2}, {type: ExternalIP, address: '2001:db8::1'}]",
        "192.168.0.1 2001:db8::1",
        &[],
    );
    check(
        "names do not count",
        "[{type: Hostname, address: n1}, {type: InternalDNS, address: n1.local}, {type: InternalIP, address: 10.0.0.1}]",
        "10.0.0.1",
        &[],
    );
    check(
        "bad",
        "[{type: InternalIP, address: n1}, {type: InternalIP, address: 10.0.0.1}]",
        "10.0.0.1",
        &["status.addresses[0].address|found \"n1\""],
    );
    check("no list", "10.0.0.1", "", &["status.addresses|found text"]);
}

#[test]
fn pod_cidrs() {
    let check = |case, spec: &str, expect: &str, problems: &[&str]| {
        check(case, &format!("}}\nspec: {{{spec}}}"), expect, problems);
    };
    check("both families", "podCIDRs: [10.244.0.0/24, 'fd00:244::/64']", "10.244.0.0/24 fd00:244::/64", &[]);
    check("old field", "podCIDR: 10.244.0.0/24", "10.244.0.0/24", &[]);
    check("both fields", "podCIDR: 10.244.0.0/24, podCIDRs: [10.244.0.0/24]", "10.244.0.0/24", &[]);
    check("host bits", "podCIDR: 10.244.0.7/24", "10.244.0.0/24", &[]);
    check(
        "bad",
        "podCIDRs: [10.244.0.0, 10.245.0.0/24]",
        "10.245.0.0/24",
        &["spec.podCIDRs[0]|found \"10.244.0.0\""],
    );
}

/// Conformance: healthcheck TestHealthzServer
#[test]
fn a_node_leaves_when_it_is_deleted_or_the_autoscaler_has_chosen_it() {
    let leaves = |rest: &str| {
        let yaml = format!("metadata: {{name: n1, {rest}");
        node(&parse::<wire::Node>(&yaml)).object.unwrap().leaves
    };
    let tainted = |key: &str| format!("}}\nspec: {{taints: [{{key: {key}, effect: NoSchedule}}]}}");
    assert!(!leaves("}"));
    assert!(!leaves(&tainted("other")) && !leaves(&tainted("node.kubernetes.io/unschedulable")));
    assert!(leaves(&tainted("ToBeDeletedByClusterAutoscaler")));
    assert!(!leaves("}\nspec: {taints: null}"), "the taint is removed");
    assert!(leaves("deletionTimestamp: '2024-02-29T12:34:56Z'}"));
}

#[test]
fn a_node_without_a_name_is_a_problem() {
    let converted = node(&parse::<wire::Node>("{}"));
    assert_eq!(converted.object, None);
    check_problems("no name", "Node", &converted.problems, &["metadata.name|found nothing"]);
}
