//! Behaviours that kube-proxy's tests pin for its IPVS mode, by the names of those tests.

use lb_types::{Clients, VirtualServer};

use super::*;
use crate::{Binding, HealthCheck, settings::desire_settings};

/// State of an endpoint.
#[derive(Clone, Copy, PartialEq)]
enum Is {
    Ready,
    Unready,
    /// Terminating, and still answering.
    Leaving,
    /// Terminating, and not answering any more.
    Ending,
}
use Is::{Ending, Leaving, Ready, Unready};

/// Address, node and state of an endpoint.
type Endpoint<'a> = (&'a str, &'a str, Is);

const LOCAL: Endpoint<'_> = ("10.244.0.11", "n1", Ready);
const LOCAL_V6: Endpoint<'_> = ("fd00:244::11", "n1", Ready);
const REMOTE: Endpoint<'_> = ("10.244.1.12", "n2", Ready);
const REMOTE_V6: Endpoint<'_> = ("fd00:244:1::12", "n2", Ready);
const WEB_V6: &str = "fd00:96::80";

fn on_n1() -> PlannedKernel {
    PlannedKernel { model: ServiceModel::on_node("n1"), ..PlannedKernel::new() }
}

/// Slices of a Service, one for each family.
fn slices(of: &Service, endpoints: &[Endpoint<'_>]) -> [ModelEvent; 2] {
    [IpFamily::V4, IpFamily::V6].map(|family| {
        let endpoints = || endpoints.iter().filter(|(addr, ..)| IpFamily::of(ip(addr)) == family);
        let addrs: Vec<_> = endpoints().map(|(addr, ..)| (*addr, true)).collect();
        let ModelEvent::SliceApplied(mut slice) = slice(&of.name.name, of.ports[0].protocol, &addrs) else {
            unreachable!()
        };
        (slice.family, slice.name.name) = (family, format!("{}-{family}", of.name.name).into());
        for (endpoint, (_, node, is)) in slice.endpoints.iter_mut().zip(endpoints()) {
            endpoint.node = Some((*node).into());
            endpoint.ready = *is == Ready;
            endpoint.serving = matches!(is, Ready | Leaving);
            endpoint.terminating = matches!(is, Leaving | Ending);
        }
        ModelEvent::SliceApplied(slice)
    })
}

/// Programs a Service with its endpoints.
fn program(world: &mut PlannedKernel, service: &Service, endpoints: &[Endpoint<'_>]) {
    for event in [ModelEvent::ServiceApplied(service.clone())].into_iter().chain(slices(service, endpoints)) {
        world.sync(event);
    }
}

/// Treatment of clients at each front: the endpoints, a refusal or nothing, and the set by which they are masqueraded.
fn served(world: &PlannedKernel) -> Vec<String> {
    let show = |front: Front| {
        let has = |element| world.mirror.elements.contains(&element);
        let servers = serving(&world.mirror, &front);
        let mut words: Vec<_> = servers.iter().map(|rs| rs.addr.to_string()).collect();
        if has(RuleElement::Refuse(front.port)) {
            words.push("refused".to_owned());
        }
        if front.clients == Clients::External && has(RuleElement::DropExternal(front.port)) {
            words.push("dropped".to_owned());
        }
        let sets = [RuleSet::Masquerade, RuleSet::MasqueradeNonLocal, RuleSet::MasqueradeExternal];
        let masquerades =
            |set: &RuleSet| front.clients == Clients::Any && set.of_port(front.port).is_some_and(has);
        words.extend(sets.iter().filter(|set| masquerades(set)).map(ToString::to_string));
        format!("{front} -> {}", words.join(" "))
    };
    let mut lines: Vec<_> =
        world.mirror.servers.keys().filter_map(|vs| world.mirror.front(vs)).map(show).collect();
    lines.sort_unstable();
    lines
}

#[track_caller]
fn check_served(case: &str, service: &Service, endpoints: &[Endpoint<'_>], expect: &[&str]) {
    let mut world = on_n1();
    program(&mut world, service, endpoints);
    assert_eq!(served(&world), expect, "{case}");
    assert!(world.resync().is_empty(), "{case}: {}", world.resync());
}

fn node_port(cluster_ip: &str, protocol: Protocol, policy: TrafficPolicy) -> Service {
    let mut service = service("web", &[cluster_ip], protocol);
    service.external_traffic_policy = policy;
    service.ports[0].node_port = NonZeroU16::new(30080);
    service
}

fn at(addr: &str, source: ExternalSource) -> ExternalIp {
    ExternalIp { addr: ip(addr), source }
}

/// A Service with one external address.
fn external_at(addr: &str, source: ExternalSource, policy: TrafficPolicy) -> Service {
    let external_ips = vec![at(addr, source)];
    Service { external_ips, external_traffic_policy: policy, ..service("web", &[WEB], Protocol::Tcp) }
}

use ExternalSource::{ExternalIps, LoadBalancer};
use TrafficPolicy::{Cluster, Local};

/// Facts about a node with these IPv4 addresses.
fn node_with(addresses: &[&str], configured: &NodePortAddresses) -> NodeFacts {
    let addresses = addresses.iter().map(|addr| (ip(addr), "eth0".to_owned())).collect();
    NodeFacts::new(&BTreeMap::from([(IpFamily::V4, ip("192.168.50.10"))]), addresses, configured)
}

/// Addresses at which node ports are served.
fn node_addresses(world: &PlannedKernel) -> Vec<IpAddr> {
    world.mirror.node_ports.iter().copied().collect()
}

/// Conformance: ipvs/proxier TestNodePortIPv4
#[test]
fn node_port_ipv4() {
    check_served(
        "1 service with node port, has 2 endpoints",
        &node_port(WEB, Protocol::Tcp, Cluster),
        &[LOCAL, REMOTE_V6],
        &[
            "0.0.0.0:30080/TCP -> 10.244.0.11 masquerade",
            "10.96.0.80:80/TCP -> 10.244.0.11 masquerade-nonlocal",
        ],
    );
    check_served(
        "1 UDP service with node port, has endpoints",
        &node_port(WEB, Protocol::Udp, Cluster),
        &[LOCAL],
        &[
            "0.0.0.0:30080/UDP -> 10.244.0.11 masquerade",
            "10.96.0.80:80/UDP -> 10.244.0.11 masquerade-nonlocal",
        ],
    );
    check_served(
        "service has node port but no endpoints",
        &node_port(WEB, Protocol::Tcp, Cluster),
        &[],
        &["0.0.0.0:30080/TCP -> refused masquerade", "10.96.0.80:80/TCP -> refused masquerade-nonlocal"],
    );
    check_served(
        "node port service with protocol sctp and externalTrafficPolicy local",
        &node_port(WEB, Protocol::Sctp, Local),
        &[LOCAL, REMOTE],
        &[
            "0.0.0.0:30080/SCTP (external clients) -> 10.244.0.11",
            "0.0.0.0:30080/SCTP -> 10.244.0.11 10.244.1.12",
            "10.96.0.80:80/SCTP -> 10.244.0.11 10.244.1.12 masquerade-nonlocal",
        ],
    );
    let case = "node port service with protocol sctp on a node with multiple nodeIPs";
    let mut world = on_n1();
    world.facts = node_with(&["192.168.50.10", "192.168.60.10"], &NodePortAddresses::All);
    program(&mut world, &node_port(WEB, Protocol::Sctp, Cluster), &[LOCAL]);
    let plan = world.resync();
    world.execute(&plan);
    assert_eq!(node_addresses(&world), [ip("192.168.50.10"), ip("192.168.60.10")], "{case}");
    let lines = [
        "0.0.0.0:30080/SCTP -> 10.244.0.11 masquerade",
        "10.96.0.80:80/SCTP -> 10.244.0.11 masquerade-nonlocal",
    ];
    assert_eq!(served(&world), lines, "{case}");
}

/// Conformance: ipvs/proxier TestNodePortIPv6
#[test]
fn node_port_ipv6() {
    check_served(
        "1 service with node port, has 2 endpoints",
        &node_port(WEB_V6, Protocol::Tcp, Cluster),
        &[LOCAL, REMOTE_V6],
        &[
            "[::]:30080/TCP -> fd00:244:1::12 masquerade",
            "[fd00:96::80]:80/TCP -> fd00:244:1::12 masquerade-nonlocal",
        ],
    );
    check_served(
        "1 UDP service with node port, has endpoints (no action on IPv6 Proxier)",
        &node_port(WEB, Protocol::Udp, Cluster),
        &[LOCAL, LOCAL_V6],
        &[
            "0.0.0.0:30080/UDP -> 10.244.0.11 masquerade",
            "10.96.0.80:80/UDP -> 10.244.0.11 masquerade-nonlocal",
        ],
    );
    check_served(
        "service has node port but no endpoints",
        &node_port(WEB_V6, Protocol::Tcp, Cluster),
        &[],
        &["[::]:30080/TCP -> refused masquerade", "[fd00:96::80]:80/TCP -> refused masquerade-nonlocal"],
    );
    check_served(
        "node port service with protocol sctp on a node with multiple nodeIPs",
        &node_port(WEB_V6, Protocol::Sctp, Cluster),
        &[LOCAL_V6],
        &[
            "[::]:30080/SCTP -> fd00:244::11 masquerade",
            "[fd00:96::80]:80/SCTP -> fd00:244::11 masquerade-nonlocal",
        ],
    );
    check_served(
        "node port service with protocol sctp and externalTrafficPolicy local",
        &node_port(WEB_V6, Protocol::Sctp, Local),
        &[LOCAL_V6, REMOTE_V6],
        &[
            "[::]:30080/SCTP (external clients) -> fd00:244::11",
            "[::]:30080/SCTP -> fd00:244::11 fd00:244:1::12",
            "[fd00:96::80]:80/SCTP -> fd00:244::11 fd00:244:1::12 masquerade-nonlocal",
        ],
    );
}

/// Conformance: ipvs/proxier TestIPv4Proxier
/// Conformance: ipvs/proxier TestIPv6Proxier
#[test]
fn each_family_has_its_services() {
    let mut world = on_n1();
    for (name, cluster_ip) in [("four", WEB), ("six", WEB_V6)] {
        program(&mut world, &service(name, &[cluster_ip], Protocol::Tcp), &[LOCAL, LOCAL_V6]);
    }
    let lines = [
        "10.96.0.80:80/TCP -> 10.244.0.11 masquerade-nonlocal",
        "[fd00:96::80]:80/TCP -> fd00:244::11 masquerade-nonlocal",
    ];
    assert_eq!(served(&world), lines);
    for (name, cluster_ip) in [("four", WEB), ("six", WEB_V6)] {
        program(&mut world, &service(name, &[cluster_ip], Protocol::Tcp), &[]);
    }
    let lines = [
        "10.96.0.80:80/TCP -> refused masquerade-nonlocal",
        "[fd00:96::80]:80/TCP -> refused masquerade-nonlocal",
    ];
    assert_eq!(served(&world), lines, "no endpoints");
}

/// Conformance: ipvs/proxier TestExternalIPsNoEndpoint
/// Conformance: ipvs/proxier TestExternalIPs
/// Conformance: ipvs/proxier TestOnlyLocalExternalIPs
#[test]
fn external_ips() {
    let mut several = external_at("192.0.2.7", ExternalIps, Cluster);
    several.external_ips.extend([at("192.0.2.8", ExternalIps), at("2001:db8::8", ExternalIps)]);
    check_served(
        "TestExternalIPs",
        &several,
        &[LOCAL, LOCAL_V6],
        &[
            "10.96.0.80:80/TCP -> 10.244.0.11 masquerade-nonlocal",
            "192.0.2.7:80/TCP -> 10.244.0.11 masquerade-external",
            "192.0.2.8:80/TCP -> 10.244.0.11 masquerade-external",
        ],
    );
    check_served(
        "TestExternalIPsNoEndpoint",
        &external_at("192.0.2.7", ExternalIps, Cluster),
        &[],
        &[
            "10.96.0.80:80/TCP -> refused masquerade-nonlocal",
            "192.0.2.7:80/TCP -> refused masquerade-external",
        ],
    );
    check_served(
        "TestOnlyLocalExternalIPs",
        &external_at("192.0.2.7", ExternalIps, Local),
        &[LOCAL, REMOTE],
        &[
            "10.96.0.80:80/TCP -> 10.244.0.11 10.244.1.12 masquerade-nonlocal",
            "192.0.2.7:80/TCP (external clients) -> 10.244.0.11",
            "192.0.2.7:80/TCP -> 10.244.0.11 10.244.1.12",
        ],
    );
}

/// Conformance: ipvs/proxier TestLoadBalancer
/// Conformance: ipvs/proxier TestOnlyLocalLoadBalancing
/// Conformance: e2e/loadbalancer should work for type=LoadBalancer (ESIPP)
/// Conformance: e2e/loadbalancer should be able to create LoadBalancer Service without NodePort...
#[test]
fn load_balancer() {
    check_served(
        "TestLoadBalancer",
        &external_at("192.0.2.8", LoadBalancer, Cluster),
        &[REMOTE],
        &[
            "10.96.0.80:80/TCP -> 10.244.1.12 masquerade-nonlocal",
            "192.0.2.8:80/TCP -> 10.244.1.12 masquerade-external",
        ],
    );
    let affinity = Some(Affinity { timeout_seconds: NonZeroU32::new(10_800).unwrap() });
    check_served(
        "TestOnlyLocalLoadBalancing",
        &Service { affinity, ..external_at("192.0.2.8", LoadBalancer, Local) },
        &[LOCAL, REMOTE],
        &[
            "10.96.0.80:80/TCP -> 10.244.0.11 10.244.1.12 masquerade-nonlocal",
            "192.0.2.8:80/TCP (external clients) -> 10.244.0.11",
            "192.0.2.8:80/TCP -> 10.244.0.11 10.244.1.12",
        ],
    );
}

/// Conformance: ipvs/proxier TestOnlyLocalNodePorts
#[test]
fn only_local_node_ports() {
    let mut world = on_n1();
    let configured = NodePortAddresses::Prefixes(vec!["192.168.60.0/24".parse().unwrap()]);
    world.facts = node_with(&["192.168.50.10", "192.168.60.10"], &configured);
    program(&mut world, &node_port(WEB, Protocol::Tcp, Local), &[LOCAL, REMOTE]);
    let plan = world.resync();
    world.execute(&plan);
    assert_eq!(node_addresses(&world), [ip("192.168.60.10")]);
    let lines = [
        "0.0.0.0:30080/TCP (external clients) -> 10.244.0.11",
        "0.0.0.0:30080/TCP -> 10.244.0.11 10.244.1.12",
        "10.96.0.80:80/TCP -> 10.244.0.11 10.244.1.12 masquerade-nonlocal",
    ];
    assert_eq!(served(&world), lines);
}

/// Conformance: ipvs/proxier TestTestInternalTrafficPolicyE2E
#[test]
fn internal_traffic_policy_e2e() {
    for (case, policy, endpoints, expect) in [
        ("Cluster, with local endpoints", Cluster, &[LOCAL, REMOTE][..], "10.244.0.11 10.244.1.12"),
        ("Cluster, without local endpoints", Cluster, &[REMOTE], "10.244.1.12"),
        ("Local, with local endpoints", Local, &[LOCAL, REMOTE], "10.244.0.11"),
        ("Local, without local endpoints", Local, &[REMOTE], "refused"),
    ] {
        for has_node_port in [false, true] {
            let mut service = node_port(WEB, Protocol::Tcp, Cluster);
            service.internal_traffic_policy = policy;
            service.ports[0].node_port = service.ports[0].node_port.filter(|_| has_node_port);
            let mut world = on_n1();
            program(&mut world, &service, endpoints);
            let line = format!("10.96.0.80:80/TCP -> {expect} masquerade-nonlocal");
            assert_eq!(served(&world).last(), Some(&line), "{case}, node port: {has_node_port}");
        }
    }
}

/// Conformance: ipvs/proxier Test_EndpointSliceReadyAndTerminatingCluster
/// Conformance: ipvs/proxier Test_EndpointSliceReadyAndTerminatingLocal
/// Conformance: ipvs/proxier Test_EndpointSliceOnlyReadyAndTerminatingCluster
/// Conformance: ipvs/proxier Test_EndpointSliceOnlyReadyAndTerminatingLocal
/// Conformance: e2e/service should fallback to terminating endpoints...externallTrafficPolicy=Cluster
/// Conformance: e2e/service should fallback to local terminating endpoints...externalTrafficPolicy=Local
#[test]
fn endpoint_slice_ready_and_terminating() {
    let ending = ("10.244.0.14", "n1", Ending);
    let ready = [
        ("10.244.0.11", "n1", Ready),
        ("10.244.0.12", "n1", Ready),
        ("10.244.0.13", "n1", Leaving),
        ending,
        ("10.244.1.15", "n2", Ready),
    ];
    let leaving = [("10.244.0.11", "n1", Leaving), ending, ("10.244.1.15", "n2", Leaving)];
    let only_remote_ready = [("10.244.0.11", "n1", Leaving), ending, ("10.244.1.15", "n2", Ready)];
    let check = |case: &str, policy, endpoints: &[Endpoint<'_>], any: &str, outside: Option<&str>| {
        let mut world = on_n1();
        program(&mut world, &external_at("192.0.2.7", ExternalIps, policy), endpoints);
        let external = if outside.is_some() { "" } else { " masquerade-external" };
        let mut lines = vec![format!("10.96.0.80:80/TCP -> {any} masquerade-nonlocal")];
        lines.extend(outside.map(|outside| format!("192.0.2.7:80/TCP (external clients) -> {outside}")));
        lines.push(format!("192.0.2.7:80/TCP -> {any}{external}"));
        assert_eq!(served(&world), lines, "{case}");
    };
    let all_ready = "10.244.0.11 10.244.0.12 10.244.1.15";
    check("ReadyAndTerminatingCluster", Cluster, &ready, all_ready, None);
    check("ReadyAndTerminatingLocal", Local, &ready, all_ready, Some("10.244.0.11 10.244.0.12"));
    check("OnlyReadyAndTerminatingCluster", Cluster, &leaving, "10.244.0.11 10.244.1.15", None);
    check("OnlyReadyAndTerminatingLocal", Local, &only_remote_ready, "10.244.1.15", Some("10.244.0.11"));
    check("without any on the node", Local, &[ending, REMOTE], "10.244.1.12", Some("dropped"));
}

/// Conformance: e2e/service should not be able to connect to terminating and unready endpoints...
#[test]
fn unready_endpoints_take_no_connections() {
    check_served(
        "nobody is ready",
        &node_port(WEB, Protocol::Tcp, Cluster),
        &[("10.244.0.11", "n1", Unready), ("10.244.1.12", "n2", Ending)],
        &["0.0.0.0:30080/TCP -> refused masquerade", "10.96.0.80:80/TCP -> refused masquerade-nonlocal"],
    );
}

/// Conformance: ipvs/proxier Test_syncService
/// Conformance: ipvs/proxier Test_syncEndpoint_updateWeightsOnRestart
/// Conformance: ipvs/util TestEqual
#[test]
fn sync_service() {
    type Change = fn(&mut VirtualServer);
    let settings: [(&str, Change); 4] = [
        ("flags", |settings| settings.scheduler_flags = lb_types::SchedulerFlags::PORT),
        ("scheduler", |settings| settings.scheduler = Scheduler::WLC),
        ("persistence", |settings| settings.persistence = None),
        ("one packet", |settings| settings.one_packet = true),
    ];
    for protocol in [Protocol::Tcp, Protocol::Sctp] {
        let affinity = Some(Affinity { timeout_seconds: NonZeroU32::new(600).unwrap() });
        let mut world = on_n1();
        program(&mut world, &Service { affinity, ..service("web", &[WEB], protocol) }, &[LOCAL]);
        assert!(world.resync().is_empty(), "the same: {}", world.resync());
        let whole = world.mirror.clone();
        let vs = *whole.servers.keys().next().unwrap();
        let differs = |damage: &dyn Fn(&mut Mirror), expect: &[String]| {
            let mut world =
                PlannedKernel { mirror: whole.clone(), desired: world.desired.clone(), ..on_n1() };
            damage(&mut world.mirror);
            let plan: Vec<_> = world.resync().operations().map(ToString::to_string).collect();
            assert_eq!(plan, expect, "in place, and nothing else: the address is bound already");
        };
        for (what, change) in settings {
            println!("{protocol}: {what}");
            let set = format!("set virtual server {vs} rr persistent 600s/32");
            differs(&|mirror| change(&mut mirror.servers.get_mut(&vs).unwrap().settings), &[set]);
        }
        let quiesce = |mirror: &mut Mirror| {
            mirror.servers.get_mut(&vs).unwrap().real_servers[0].1.weight = Weight::QUIESCED;
        };
        differs(&quiesce, &[format!("set real server 10.244.0.11:8080 of {vs} Masq weight 1")]);
        let absent = [
            format!("add virtual server {vs} rr persistent 600s/32"),
            format!("add real server 10.244.0.11:8080 to {vs} Masq weight 1"),
        ];
        differs(&|mirror| _ = mirror.servers.remove(&vs), &absent);
    }
}

/// Conformance: e2e/service should be able to switch session affinity for service with type clusterIP
/// Conformance: e2e/loadbalancer should be able to switch session affinity for LoadBalancer service
/// Conformance: e2e/loadbalancer should have session affinity work for LoadBalancer service with ESIPP off
#[test]
fn session_affinity_is_switched_in_place() {
    let mut world = on_n1();
    let external_ips = vec![at("192.0.2.8", LoadBalancer)];
    let plain = Service { external_ips, ..service("web", &[WEB], Protocol::Tcp) };
    program(&mut world, &plain, &[LOCAL, REMOTE]);
    let affinity = Some(Affinity { timeout_seconds: NonZeroU32::new(600).unwrap() });
    let plan = world.sync(ModelEvent::ServiceApplied(Service { affinity, ..plain.clone() }));
    check(
        &plan,
        "set virtual server 10.96.0.80:80/TCP rr persistent 600s/32
         set virtual server 192.0.2.8:80/TCP rr persistent 600s/32",
    );
    let plan = world.sync(ModelEvent::ServiceApplied(plain));
    check(
        &plan,
        "set virtual server 10.96.0.80:80/TCP rr
         set virtual server 192.0.2.8:80/TCP rr",
    );
}

/// Deletions of tracked connections in a plan.
fn flows(plan: &Plan) -> Vec<String> {
    let flows = of_stage(plan, Stage::Conntrack);
    flows.iter().map(|op| op.to_string().replace("delete tracked connections of ", "")).collect()
}

/// Conformance: conntrack/cleanup TestCleanStaleEntries
/// Conformance: e2e/conntrack should be able to preserve UDP traffic...for a NodePort service
/// Conformance: e2e/conntrack should be able to preserve UDP traffic...InternalTrafficPolicy set to Local
/// Conformance: e2e/loadbalancer should be able to preserve UDP traffic...
/// Conformance: e2e/conntrack should be able to cleanup conntrack entries...
#[test]
fn clean_stale_entries() {
    let mut dns = node_port(WEB, Protocol::Udp, Local);
    dns.external_ips = vec![at("192.0.2.7", ExternalIps), at("192.0.2.8", LoadBalancer)];
    let mut world = on_n1();
    program(&mut world, &dns, &[LOCAL, REMOTE]);
    let [without_remote, _] = slices(&dns, &[LOCAL]);
    assert_eq!(
        flows(&world.sync(without_remote.clone())),
        [
            "0.0.0.0:30080/UDP to real server 10.244.1.12:8080",
            "10.96.0.80:80/UDP to real server 10.244.1.12:8080",
            "192.0.2.7:80/UDP to real server 10.244.1.12:8080",
            "192.0.2.8:80/UDP to real server 10.244.1.12:8080",
        ],
        "of this endpoint, wherever clients send, and of no other"
    );
    // Another target port.
    let ModelEvent::SliceApplied(mut other_port) = without_remote else { unreachable!() };
    other_port.ports[0].port = 9090.try_into().unwrap();
    let other_port = flows(&world.sync(ModelEvent::SliceApplied(other_port)));
    assert_eq!(other_port.iter().filter(|flow| flow.ends_with("to real server 10.244.0.11:8080")).count(), 7);
    // Under an internal policy Local, another pod of the node.
    dns.internal_traffic_policy = Local;
    dns.external_ips.clear();
    dns.ports[0].node_port = None;
    let mut world = on_n1();
    program(&mut world, &dns, &[LOCAL, REMOTE]);
    let [next, _] = slices(&dns, &[("10.244.0.21", "n1", Ready), REMOTE]);
    assert_eq!(flows(&world.sync(next)), ["10.96.0.80:80/UDP to real server 10.244.0.11:8080"]);
    // Connections of TCP and SCTP end by themselves.
    for protocol in [Protocol::Tcp, Protocol::Sctp] {
        let mut world = on_n1();
        let web = node_port(WEB, protocol, Cluster);
        world.sync(ModelEvent::ServiceApplied(web.clone()));
        let [both, _] = slices(&web, &[LOCAL, REMOTE]);
        assert_eq!(flows(&world.sync(both)), [""; 0], "nor do those that came too early matter");
        let [without_remote, _] = slices(&web, &[LOCAL]);
        world.sync(without_remote);
        let draining: Vec<_> = world.drains.iter().map(|(key, _)| key.front).collect();
        for front in draining {
            world.drains.poll(front, drain::Time::from_secs(3600), |_| None);
        }
        let gone = world.resync();
        assert!(gone.to_string().contains("delete real server 10.244.1.12:8080"), "{gone}");
        assert_eq!(flows(&gone), [""; 0]);
    }
}

/// Conformance: ipvs/proxier Test_HealthCheckNodePortWhenTerminating
/// Conformance: endpointschangetracker TestGetLocalEndpointIPs
#[test]
fn health_check_node_port_when_terminating() {
    let mut service = external_at("192.0.2.8", LoadBalancer, Local);
    service.health_check_port = NonZeroU16::new(31080);
    let count = |service: &Service, endpoints: &[Endpoint<'_>]| {
        let mut world = on_n1();
        program(&mut world, service, endpoints);
        HealthCheck::of(service, &world.model, Vec::new()).unwrap().local_endpoints
    };
    let v4 = |count| BTreeMap::from([(IpFamily::V4, count)]);
    let other = ("10.244.0.12", "n1", Ready);
    assert_eq!(count(&service, &[LOCAL, other, REMOTE]), v4(2));
    assert_eq!(count(&service, &[LOCAL, ("10.244.0.12", "n1", Leaving), REMOTE]), v4(1));
    assert_eq!(count(&service, &[LOCAL, ("10.244.0.12", "n1", Unready)]), v4(1));
    assert_eq!(count(&service, &[("10.244.0.11", "n1", Leaving), REMOTE]), v4(0), "it serves all the same");
    let both = Service { cluster_ips: vec![ip(WEB), ip(WEB_V6)], ..service.clone() };
    assert_eq!(count(&both, &[LOCAL, LOCAL_V6]), BTreeMap::from([(IpFamily::V4, 1), (IpFamily::V6, 1)]));
    // An address counts once, however many ports it has.
    let mut ports = service;
    ports.ports.push(ServicePort { port: 81.try_into().unwrap(), ..ports.ports[0].clone() });
    assert_eq!(count(&ports, &[LOCAL, REMOTE]), v4(1));
}

/// Conformance: ipvs/proxier TestNoEndpointsMetric
#[test]
fn services_that_a_local_policy_leaves_without_an_endpoint_here_are_counted() {
    use TrafficPolicy::{Cluster, Local};
    let counted = |internal, external, endpoints: &[Endpoint<'_>]| {
        let mut world = on_n1();
        let mut web = service("web", &["10.96.0.80", WEB_V6], Protocol::Tcp);
        web.ports[0].node_port = 30080.try_into().ok();
        (web.internal_traffic_policy, web.external_traffic_policy) = (internal, external);
        program(&mut world, &web, endpoints);
        let numbers =
            |world: &PlannedKernel| world.desired.no_local_endpoints().map(|(.., n)| n).collect::<Vec<_>>();
        let before = numbers(&world);
        world.sync(ModelEvent::ServiceDeleted(web.name));
        assert_eq!(numbers(&world), [0; 4], "the Service is gone");
        before
    };
    // Internal IPv4 and IPv6, external IPv4 and IPv6.
    assert_eq!(counted(Local, Cluster, &[LOCAL, REMOTE]), [0, 0, 0, 0]);
    assert_eq!(counted(Local, Cluster, &[REMOTE]), [1, 0, 0, 0]);
    assert_eq!(counted(Cluster, Local, &[REMOTE, REMOTE_V6]), [0, 0, 1, 1]);
    assert_eq!(counted(Local, Local, &[REMOTE, LOCAL_V6]), [1, 0, 1, 0]);
    assert_eq!(counted(Local, Local, &[LOCAL, LOCAL_V6]), [0, 0, 0, 0]);
    assert_eq!(counted(Local, Local, &[]), [0, 0, 0, 0], "there are none anywhere");
    assert_eq!(counted(Cluster, Cluster, &[REMOTE]), [0, 0, 0, 0]);
}

/// The kernel gives connections to all unprivileged ports of an address to a persistent virtual server of port 21 there.
#[test]
fn ftp_at_an_address_that_is_not_a_vip_alone_takes_no_other_port() {
    let affinity = Some(Affinity { timeout_seconds: NonZeroU32::new(600).unwrap() });
    let mut ftp = Service { affinity, ..service("ftp", &[WEB], Protocol::Tcp) };
    ftp.ports[0].port = 21.try_into().unwrap();
    for (binding, is_persistent) in [(Binding::Node, false), (Binding::Route, true), (Binding::Steer, false)]
    {
        let front = Front::from(VipPort {
            addr: ip("192.168.50.10"),
            protocol: Protocol::Tcp,
            port: ftp.ports[0].port,
        });
        let settings = desire_settings(&ftp, &front, binding, &PlannerConfig::default());
        assert_eq!(settings.persistence.is_some(), is_persistent, "{binding:?}");
        assert_eq!(settings.scheduler == Scheduler::MH, !is_persistent, "{binding:?}");
    }
}
