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

/// What it has of the Node itself counts where it does not have the configured address, such as one of loopback.
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
