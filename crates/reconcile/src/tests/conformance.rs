//! Behaviours that kube-proxy's tests pin for its IPVS mode, by the names of those tests.

use std::num::NonZeroU16;

use lb_types::{IpvsOp, RealServer, Scheduler, VirtualServer, Weight};

use super::*;

const BALANCER: &str = "192.0.2.8";

/// `web` behind a load balancer with the policy Local, which asks for its endpoints at a port.
fn balanced(health_check_port: u16) -> Service {
    Service {
        external_ips: vec![ExternalIp { addr: ip(BALANCER), source: ExternalSource::LoadBalancer }],
        external_traffic_policy: TrafficPolicy::Local,
        health_check_port: NonZeroU16::new(health_check_port),
        ..service("web", WEB)
    }
}

/// The same with the policy Cluster, under which `spec.healthCheckNodePort` does not count.
fn balanced_by_all() -> Service {
    Service { external_traffic_policy: TrafficPolicy::Cluster, health_check_port: None, ..balanced(1) }
}

/// Ports at which load balancers may ask this node.
fn health_checks(world: &World) -> Vec<u16> {
    world.reconciler.state().desired.health_checks().map(|(_, check)| check.port.get()).collect()
}

/// The same as the packet rules have it: ports that stay reachable at the load balancer's address.
fn open_ports(world: &World) -> Vec<String> {
    let elements = world.kernel.rules.elements();
    let open = elements.iter().filter(|element| element.set() == lb_types::RuleSet::HealthChecks);
    open.map(ToString::to_string).collect()
}

/// Addresses at which virtual servers serve, with `mark` for those that a packet mark selects.
fn addresses(world: &World) -> Vec<String> {
    let servers = world.kernel.ipvs.virtual_servers();
    let name = |vs: &VirtualServerId| vs.vip_port().map_or("mark".to_owned(), |port| port.addr.to_string());
    servers.keys().map(name).collect()
}

/// Conformance: ipvs/proxier TestGetNodeIPs
#[test]
fn an_address_of_the_node_that_kube_ipvs0_has_too_stays_the_nodes() {
    let kernel = Kernel::new();
    let mut first = World::on(kernel.clone(), config());
    first.deliver([]);
    first.run();
    for addr in ["192.168.50.10", "10.96.7.7"] {
        kernel.vips.add_address(ip(addr));
    }
    let mut world = World::on(kernel.clone(), config());
    world.deliver(web());
    world.run();
    let nodes: Vec<_> = world.reconciler.state().facts.node_ports.iter().copied().collect();
    assert_eq!(nodes, [ip("192.168.50.10"), ip("fd00:50::10")]);
    assert!(kernel.rules.elements().contains(&RuleElement::NodeAddress(ip("192.168.50.10"))));
}

/// Conformance: ipvs/proxier TestEndpointSliceE2E
#[test]
fn endpoint_slice_e2e() {
    let endpoints = [
        ("10.244.0.11", Is::Ready),
        ("10.244.0.12", Is::Ready),
        ("10.244.0.13", Is::Ready),
        ("10.244.0.14", Is::Unready),
    ];
    let mut world = World::synced([applied(service("web", WEB)), slice("web", Protocol::Tcp, &endpoints)]);
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1), (13, 1)]);
    world.sync(ModelEvent::SliceDeleted(SliceName { namespace: "default".into(), name: "web".into() }));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 0), (12, 0), (13, 0)]);
    world.pass(Duration::from_secs(15));
    assert_eq!(world.kernel.weights(web_vs()), []);
    let refused = RuleElement::Refuse(web_vs().vip_port().unwrap());
    assert!(world.kernel.rules.elements().contains(&refused));
}

/// Conformance: ipvs/proxier TestHealthCheckNodePort
/// Conformance: ipvs/proxier TestHealthCheckNodePortE2E
#[test]
fn health_check_node_port_e2e() {
    let mut world = World::synced([applied(balanced(31_080)), ready("web", &["10.244.0.11"])]);
    assert_eq!(health_checks(&world), [31_080]);
    assert_eq!(open_ports(&world), ["health-checks 192.0.2.8:31080/TCP"]);
    world.sync(applied(balanced(31_081)));
    assert_eq!(health_checks(&world), [31_081]);
    assert_eq!(open_ports(&world), ["health-checks 192.0.2.8:31081/TCP"]);
    world.sync(applied(balanced_by_all()));
    assert_eq!((health_checks(&world), open_ports(&world)), (vec![], vec![]));
    world.sync(applied(balanced(31_080)));
    assert_eq!(health_checks(&world), [31_080]);
    world.sync(deleted("web"));
    assert_eq!((health_checks(&world), open_ports(&world)), (vec![], vec![]));
}

/// Conformance: e2e/service_cidrs should create Services and serve on different Service CIDRs
#[test]
fn cluster_ips_of_every_range_are_served() {
    let elsewhere = [applied(service("web", "10.98.0.80")), ready("web", &["10.244.0.11"])];
    let mut world = World::synced(elsewhere);
    let vs = vs("10.98.0.80", Protocol::Tcp);
    assert_eq!(world.kernel.weights(vs), [(11, 1)], "a range that is not known yet");
    world.kernel.ipvs.take_ops();
    world.sync(ModelEvent::ServiceCidrsApplied(vec!["10.98.0.0/16".parse().unwrap()]));
    world.run();
    assert_eq!((world.kernel.weights(vs), world.kernel.ipvs.take_ops()), (vec![(11, 1)], vec![]));
}

/// Conformance: ipvs/proxier TestBuildServiceMapServiceUpdate
/// Conformance: servicechangetracker TestBuildServiceMapServiceUpdate
/// Conformance: e2e/loadbalancer should be able to change the type and ports of a TCP service
/// Conformance: e2e/loadbalancer should be able to change the type and ports of a UDP service
#[test]
fn build_service_map_service_update() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let over = |mut service: Service| {
            service.ports[0].protocol = protocol;
            service
        };
        let (web, balanced) = (over(service("web", WEB)), over(balanced(31_080)));
        let mut world =
            World::synced([applied(web.clone()), slice("web", protocol, &[("10.244.0.11", Is::Ready)])]);
        assert_eq!((addresses(&world), health_checks(&world)), (vec![WEB.to_owned()], vec![]));
        world.sync(applied(balanced.clone()));
        let all = [WEB, BALANCER, "mark"].map(str::to_owned).to_vec();
        assert_eq!((addresses(&world), health_checks(&world)), (all.clone(), vec![31_080]));
        let report = world.sync(applied(balanced.clone()));
        assert!(report.is_quiet(), "{report}");
        assert_eq!(addresses(&world), all);
        let mut moved = balanced;
        moved.ports[0].port = 81.try_into().unwrap();
        world.sync(applied(moved));
        world.pass(Duration::from_secs(15));
        assert_eq!(addresses(&world), all);
        let servers = world.kernel.ipvs.virtual_servers();
        assert!(servers.keys().filter_map(VirtualServerId::vip_port).all(|port| port.port.get() == 81));
        world.sync(applied(web));
        world.pass(Duration::from_secs(15));
        assert_eq!((addresses(&world), health_checks(&world)), (vec![WEB.to_owned()], vec![]));
    }
}

/// Conformance: ipvs/proxier Test_syncEndpoint_updateWeightsOnRestart
#[test]
fn sync_endpoint_updates_weights_on_restart() {
    let kernel = Kernel::new();
    let (vs, settings) = (web_vs(), VirtualServer::new(Scheduler::RR));
    kernel.ipvs.by_another(IpvsOp::AddVirtualServer { vs, settings });
    let quiesced = RealServer { weight: Weight::QUIESCED, ..RealServer::SERVING };
    kernel.ipvs.by_another(IpvsOp::AddRealServer { vs, rs: rs("10.244.0.11"), settings: quiesced });
    let mut world = World::on(kernel, config());
    world.deliver(web());
    world.run();
    assert_eq!(world.kernel.weights(vs), [(11, 1), (12, 1)]);
    world.pass(Duration::from_secs(120));
    assert_eq!(world.kernel.weights(vs), [(11, 1), (12, 1)]);
}

/// Conformance: ipvs/proxier TestCleanLegacyService
/// Conformance: ipvs/proxier TestCleanLegacyService6
/// Conformance: ipvs/proxier TestCleanLegacyServiceWithRealServers
/// Conformance: ipvs/proxier TestCleanLegacyRealServersExcludeCIDRs
/// Conformance: ipvs/proxier TestFilterCIDRs
#[test]
fn clean_legacy_service() {
    let kernel = Kernel::new();
    let mut first = World::on(kernel.clone(), config());
    first.deliver([]);
    first.run();
    // Of each family: a virtual server that a Service wants, one that none wants, and one to be left alone.
    let vips = [WEB, "10.96.7.7", "10.96.9.9", "fd00:96::80", "fd00:96::77", "fd00:96::99"];
    let settings = VirtualServer::new(Scheduler::RR);
    for vip in vips {
        kernel.vips.add_address(ip(vip));
        let vs = vs(vip, Protocol::Tcp);
        kernel.ipvs.by_another(IpvsOp::AddVirtualServer { vs, settings });
        let addr = if vip.contains(':') { "fd00:244::11" } else { "10.244.0.11" };
        kernel.ipvs.by_another(IpvsOp::AddRealServer { vs, rs: rs(addr), settings: RealServer::SERVING });
    }
    let mut config = config();
    config.ownership.exclude_cidrs =
        ["10.96.9.0/24", "fd00:96::90/124"].map(|net| net.parse().unwrap()).to_vec();
    let mut world = World::on(kernel.clone(), config);
    let web = Service { cluster_ips: vec![ip(WEB), ip("fd00:96::80")], ..service("web", WEB) };
    let ModelEvent::SliceApplied(mut six) = ready("web", &["fd00:244::11"]) else { unreachable!() };
    (six.family, six.name.name) = (IpFamily::V6, "web-6".into());
    world.deliver([applied(web), ready("web", &["10.244.0.11"]), ModelEvent::SliceApplied(six)]);
    world.pass(Duration::from_secs(60));
    let mut left = addresses(&world);
    left.sort_unstable();
    assert_eq!(left, ["10.96.255.80", "10.96.9.9", "fd00:96::80", "fd00:96::99"]);
    for vip in ["10.96.9.9", "fd00:96::99", WEB, "fd00:96::80"] {
        assert_eq!(kernel.weights(vs(vip, Protocol::Tcp)).len(), 1, "{vip} keeps its real server");
    }
    let addresses = kernel.vips.addresses();
    for vip in ["10.96.7.7", "fd00:96::77", WEB, "fd00:96::80"] {
        assert!(!addresses.contains(&ip(vip)), "{vip} is bound no more");
    }
}
