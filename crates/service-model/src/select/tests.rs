use lb_types::IpFamily;

use super::{EndpointPolicy, SelectedEndpoints};
use crate::{
    Endpoint, ModelEvent, TrafficPolicy,
    testing::{model, node, service, slice},
};

/// Endpoints of one port on node `n1`, in the notation of `testing::endpoint`.
fn endpoints(text: &str) -> Vec<Endpoint> {
    let service = service("web", "http:80/TCP");
    let model = model([
        ModelEvent::ServiceApplied(service.clone()),
        ModelEvent::SliceApplied(slice("web-1", "web", "http:80/TCP", text)),
    ]);
    model.endpoints(&service, &service.ports[0], IpFamily::V4)
}

/// Parses the internal policy, and behind a slash the external one of a port that is reachable from outside:
/// `C`, `L/C`.
fn policy(text: &str) -> EndpointPolicy {
    let parse = |text| if text == "L" { TrafficPolicy::Local } else { TrafficPolicy::Cluster };
    let (internal, external) = text.split_once('/').map_or((text, None), |(i, e)| (i, Some(e)));
    EndpointPolicy { internal: parse(internal), external: external.map(parse) }
}

/// A row of `TestCategorizeEndpoints` in pkg/proxy/topology_test.go.
struct Case {
    name: &'static str,
    policy: &'static str,
    zone: &'static str,
    endpoints: &'static str,
    /// Lists for traffic that may leave the node, for traffic that stays, and for both; `any` if some node
    /// has a usable endpoint.
    expect: [&'static str; 4],
}

const fn case(
    name: &'static str,
    policy: &'static str,
    zone: &'static str,
    endpoints: &'static str,
    expect: [&'static str; 4],
) -> Case {
    Case { name, policy, zone, endpoints, expect }
}

fn check(case: &Case) {
    let node = node("n1", case.zone);
    let selected = SelectedEndpoints::of(&endpoints(case.endpoints), policy(case.policy), &node);
    let mut both = [selected.cluster.clone(), selected.local.clone()].concat();
    both.sort_unstable();
    both.dedup();
    let show = |ids: &[lb_types::RealServerId]| {
        let number = |id: &lb_types::RealServerId| id.addr.to_string().replace("10.0.0.", "");
        ids.iter().map(number).collect::<Vec<_>>().join(" ")
    };
    let any = if selected.has_any { "any" } else { "" };
    let lists = [show(&selected.cluster), show(&selected.local), show(&both), any.to_owned()];
    assert_eq!(lists, case.expect, "{}", case.name);
}

/// Zones a to d, node `n1` in the zone given; `L` marks endpoints of this node.
const HINTED: &str = "3R@a 4R@b 5R@c 6R@a";
const TOPOLOGY: [Case; 15] = [
    case("1 topology used", "C", "a", HINTED, ["3 6", "", "3 6", "any"]),
    case(
        "2 eTP Local: topology ignored for local endpoints",
        "C/L",
        "a",
        "3RL@a 4RL@b 5R@c 6R@a",
        ["3 6", "3 4", "3 4 6", "any"],
    ),
    case(
        "3 iTP Local: topology ignored for local endpoints",
        "L/C",
        "a",
        "3RL@a 4RL@b 5R@c 6R@a",
        ["3 6", "3 4", "3 4 6", "any"],
    ),
    case("4 empty node labels", "C", "", HINTED, ["3 4 5 6", "", "3 4 5 6", "any"]),
    case("5 empty zone label", "C", "", HINTED, ["3 4 5 6", "", "3 4 5 6", "any"]),
    case("6 node in a zone without endpoint", "C", "d", HINTED, ["3 4 5 6", "", "3 4 5 6", "any"]),
    case("7 unready endpoint not used", "C", "a", "3R@a 4R@b 5R@c 6@a", ["3", "", "3", "any"]),
    case("8 only unready endpoints in the zone", "C", "a", "3@a 4R@b 5R@c 6@a", ["4 5", "", "4 5", "any"]),
    case("9 missing hint on one", "C", "a", "3R@a 4R@b 5R 6R@a", ["3 4 5 6", "", "3 4 5 6", "any"]),
    case(
        "10 several hints per endpoint",
        "C",
        "c",
        "3R@a+b+c 4R@b+c 5R@b+d 6R@c",
        ["3 4 6", "", "3 4 6", "any"],
    ),
    case("11 no node hints: same zone", "C", "a", HINTED, ["3 6", "", "3 6", "any"]),
    case("12 same node available", "C", "a", "3R@a#n1 4R@b#n2 5R@c#n3 6R@a#n4", ["3", "", "3", "any"]),
    case(
        "13 same node ignored if some endpoints have no hint",
        "C",
        "a",
        "3R@a#n1 4R@b#n2 5R@c 6R@a#n4",
        ["3 6", "", "3 6", "any"],
    ),
    case(
        "14 same node falls back to same zone",
        "C",
        "a",
        "3R@a#n0 4R@b#n2 5R@c#n3 6R@a#n4",
        ["3 6", "", "3 6", "any"],
    ),
    case(
        "15 conflicting topology and localness",
        "C/L",
        "a",
        "3R@a 4RL@b 5RL@c 6R@a",
        ["3 6", "4 5", "3 4 5 6", "any"],
    ),
];

const POLICIES: [Case; 17] = [
    case("16 iTP Local with empty endpoints", "L", "", "", ["", "", "", ""]),
    case("17 iTP Local, all remote", "L", "", "0RS 1RS", ["", "", "", "any"]),
    case("18 iTP Local, all local", "L", "", "0RSL 1RSL", ["", "0 1", "0 1", "any"]),
    case("19 iTP Local, some local", "L", "", "0RSL 1RS", ["", "0", "0", "any"]),
    case("20 Cluster, none ready", "C", "", "0 1", ["", "", "", ""]),
    case("21 Cluster, some ready", "C", "", "0RS 1", ["0", "", "0", "any"]),
    case("22 Cluster, all terminating", "C", "", "0ST 1ST 2T", ["0 1", "", "0 1", "any"]),
    case("23 iTP Local, eTP Cluster, some local", "L/C", "", "0RSL 1RS", ["0 1", "0", "0 1", "any"]),
    case("24 iTP Cluster, eTP Local, some local", "C/L", "", "0RSL 1RS", ["0 1", "0", "0 1", "any"]),
    case("25 both Local, some local", "L/L", "", "0RSL 1RS", ["0 1", "0", "0 1", "any"]),
    case("26 both Local, all remote", "L/L", "", "0RS 1RS", ["0 1", "", "0 1", "any"]),
    case("27 both Local, all remote and terminating", "L/L", "", "0ST 1ST", ["0 1", "", "0 1", "any"]),
    case(
        "28 iTP Cluster, eTP Local, with terminating endpoints",
        "C/L",
        "",
        "0RS 1 2STL 3TL",
        ["0", "2", "0 2", "any"],
    ),
    case(
        "29 external policy void if not reachable from outside",
        "C",
        "",
        "0RSL 1RS",
        ["0 1", "", "0 1", "any"],
    ),
    case("30 no cluster list for an internal iTP Local port", "L", "", "0RSL 1RS", ["", "0", "0", "any"]),
    case("31 no endpoints at all", "C/L", "", "", ["", "", "", ""]),
    case("32 single endpoint neither ready, serving nor terminating", "C", "", "0", ["", "", "", ""]),
];

/// Cases that the upstream table does not cover.
const MORE: [Case; 9] = [
    case("serving but neither ready nor terminating", "C/L", "", "0SL", ["", "", "", ""]),
    case("ready and terminating (publishNotReadyAddresses)", "C/L", "", "0RSTL", ["0", "0", "0", "any"]),
    case("fallback ignores topology", "C", "a", "3ST@a 4ST@b", ["3 4", "", "3 4", "any"]),
    case("hints of unready endpoints do not count", "C", "a", "3R@a 4 5R@b", ["3", "", "3", "any"]),
    case("local fallback next to a ready remote", "L", "", "0RS 1STL", ["", "1", "1", "any"]),
    case("ready local wins over local fallback", "L", "", "0RSL 1STL", ["", "0", "0", "any"]),
    case("no node name is never local", "L", "", "0RS-", ["", "", "", "any"]),
    case("same node wins over same zone", "C", "a", "3R@a#n2 4R@b#n1", ["4", "", "4", "any"]),
    case("several nodes hinted", "C", "", "3R#n2+n1 4R#n2", ["3", "", "3", "any"]),
];

/// Conformance: topology TestCategorizeEndpoints
/// Conformance: e2e/traffic_distribution should route traffic to an endpoint...zone when using PreferClose
/// Conformance: e2e/traffic_distribution should route traffic correctly...when using PreferClose
/// Conformance: e2e/traffic_distribution should route traffic to an endpoint...zone when using PreferSameZone
/// Conformance: e2e/traffic_distribution should route traffic correctly...when using PreferSameZone
/// Conformance: e2e/topology_hints should distribute endpoints evenly
#[test]
fn categorize_endpoints_by_topology() {
    TOPOLOGY.iter().for_each(check);
}

/// Conformance: topology TestCategorizeEndpoints
#[test]
fn categorize_endpoints_by_policy() {
    POLICIES.iter().for_each(check);
}

/// Conformance: e2e/service should create endpoints for unready pods
/// Conformance: e2e/service should be able to connect to terminating and unready endpoints...
#[test]
fn categorize_endpoints_beyond_upstream() {
    MORE.iter().for_each(check);
}

#[test]
fn policy_of_a_port_without_node_port_has_no_external_side() {
    let mut service = service("web", "http:80/TCP");
    service.external_traffic_policy = TrafficPolicy::Local;
    assert_eq!(EndpointPolicy::of(&service, &service.ports[0]), policy("C"));
    service.ports[0].node_port = "30080".parse().ok();
    assert_eq!(EndpointPolicy::of(&service, &service.ports[0]), policy("C/L"));
}

/// Checks the real servers of a ClusterIP on node `n1`; its Service has a node port, too.
fn check_cluster_ip(name: &str, internal: TrafficPolicy, text: &str, expect: &str) {
    let mut service = service("web", "http:80/TCP");
    service.internal_traffic_policy = internal;
    service.external_traffic_policy = TrafficPolicy::Local;
    service.ports[0].node_port = "30080".parse().ok();
    let policy = EndpointPolicy::of(&service, &service.ports[0]);
    let selected = SelectedEndpoints::of(&endpoints(text), policy, &node("n1", "a"));
    let list = match internal {
        TrafficPolicy::Cluster => selected.cluster,
        TrafficPolicy::Local => selected.local,
    };
    let numbers: Vec<_> = list.iter().map(|id| id.addr.to_string().replace("10.0.0.", "")).collect();
    assert_eq!(numbers.join(" "), expect, "{name}");
}

/// Conformance: e2e/service should respect internalTrafficPolicy=Local Pod to Pod
/// Conformance: e2e/service should fallback to local terminating endpoints...internalTrafficPolicy=Local
/// Conformance: e2e/service should fallback to terminating endpoints...internalTrafficPolicy=Cluster
#[test]
fn cluster_ips() {
    use TrafficPolicy::{Cluster, Local};
    for (name, internal, text, expect) in [
        ("TestTestInternalTrafficPolicyE2E: Cluster, with local endpoints", Cluster, "1RSL 2RS 3RS", "1 2 3"),
        ("TestTestInternalTrafficPolicyE2E: Cluster, without local endpoints", Cluster, "1RS 2RS", "1 2"),
        ("TestTestInternalTrafficPolicyE2E: Local, with local endpoints", Local, "1RSL 2RS 3RS", "1"),
        ("TestTestInternalTrafficPolicyE2E: Local, without local endpoints", Local, "1RS 2RS 3RS", ""),
        ("Test_EndpointSliceReadyAndTerminatingCluster", Cluster, "1RSL 2RSL 3STL 4TL 5RS", "1 2 5"),
        ("Test_EndpointSliceReadyAndTerminatingLocal", Cluster, "1RSL 2RSL 3STL 4TL 5RS", "1 2 5"),
        ("Test_EndpointSliceOnlyReadyAndTerminatingCluster", Cluster, "1STL 2STL 3TL 4ST", "1 2 4"),
        ("Test_EndpointSliceOnlyReadyAndTerminatingLocal", Cluster, "1STL 2STL 3TL 4RS", "4"),
        ("Local: the fallback stays on the node", Local, "1STL 2RS", "1"),
        ("Local: unready local endpoints are no reason to leave the node", Local, "1L 2RS", ""),
    ] {
        check_cluster_ip(name, internal, text, expect);
    }
}

#[test]
fn endpoints_are_sorted_by_their_real_servers() {
    let endpoints = endpoints("9ST 2RS 1RS");
    assert!(endpoints.len() == 3 && endpoints.is_sorted_by_key(|endpoint| endpoint.id), "{endpoints:?}");
}
