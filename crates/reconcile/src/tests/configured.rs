//! Settings that add to the objects, or take from them.

use planner::PlannerConfig;
use service_model::{ExternalIp, ExternalSource};

use super::*;

fn start(planner: PlannerConfig, kernel: Kernel, events: impl IntoIterator<Item = ModelEvent>) -> World {
    let mut world = World::on(kernel, Config { planner, ..config() });
    for event in events.into_iter().chain([node(), ModelEvent::Synced]) {
        world.send(event);
    }
    world.run();
    world
}

#[test]
fn external_ips_can_be_left_out_but_not_those_of_load_balancers() {
    let external = |addr, source| ExternalIp { addr: ip(addr), source };
    for (serve_external_ips, weights) in [(true, vec![(11, 1)]), (false, Vec::new())] {
        let mut web = service("web", WEB);
        web.external_ips = vec![
            external("192.0.2.1", ExternalSource::ExternalIps),
            external("192.0.2.2", ExternalSource::LoadBalancer),
        ];
        let planner = PlannerConfig { serve_external_ips, ..PlannerConfig::default() };
        let world = start(planner, Kernel::new(), [applied(web), ready("web", &["10.244.0.11"])]);
        assert_eq!(world.kernel.weights(vs("192.0.2.1", Protocol::Tcp)), weights);
        assert_eq!(world.kernel.weights(vs("192.0.2.2", Protocol::Tcp)), [(11, 1)]);
    }
}

/// The address in the Node object counts where the node lacks the configured one, such as one of loopback.
#[test]
fn a_configured_address_that_the_node_has_counts_instead_of_the_nodes() {
    for (configured, expected) in [("192.168.60.10", "192.168.60.10"), ("127.0.0.1", "192.168.50.10")] {
        let kernel = Kernel::new();
        let addresses = ["192.168.40.10", "192.168.50.10", "192.168.60.10"].map(|addr| (ip(addr), "eth0"));
        kernel.vips.set_node_addresses(addresses);
        let planner = PlannerConfig { node_ip: Some(ip(configured)), ..PlannerConfig::default() };
        let world = start(planner, kernel, [applied(service("web", WEB)), ready("web", &["10.244.0.11"])]);
        let source = world.kernel.vips.routes().get(&ip(WEB)).copied().flatten();
        assert_eq!(source, Some(ip(expected)), "{configured}");
    }
}

/// With `primary`, the Node says which of the node's addresses serve node ports, and may say so anew; an external IP there
/// leaves the number of a node port to that.
#[test]
fn external_ips_follow_the_address_that_serves_node_ports() {
    let kernel = Kernel::new();
    kernel.vips.set_node_addresses(["192.168.50.10", "192.168.60.10"].map(|addr| (ip(addr), "eth0")));
    let mut web = service("web", WEB);
    web.ports[0].node_port = 30080.try_into().ok();
    let mut other = service("other", "10.96.0.90");
    other.ports[0].port = 30080.try_into().unwrap();
    other.external_ips = vec![ExternalIp { addr: ip("192.168.60.10"), source: ExternalSource::ExternalIps }];
    let planner = PlannerConfig {
        node_port_addresses: planner::NodePortAddresses::Primary,
        ..PlannerConfig::default()
    };
    let endpoints = [ready("web", &["10.244.0.11"]), ready("other", &["10.244.0.12"])];
    let mut world = start(planner, kernel, [applied(web), applied(other)].into_iter().chain(endpoints));
    let there: VirtualServerId = "192.168.60.10:30080/TCP".parse::<lb_types::VipPort>().unwrap().into();
    assert_eq!(world.kernel.weights(there), [(12, 1)], "no node port is served there");
    let node = |addr| {
        let addresses = [(lb_types::IpFamily::V4, ip(addr))].into();
        ModelEvent::NodeApplied(service_model::Node { name: "n1".into(), addresses, ..Default::default() })
    };
    world.send(node("192.168.60.10"));
    world.run();
    assert_eq!(world.kernel.weights(there), [(12, 0)]);
    world.send(node("192.168.50.10"));
    world.run();
    assert_eq!(world.kernel.weights(there), [(12, 1)]);
}
