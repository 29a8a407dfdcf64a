//! A node that nobody can read: 403, 404, no answer for 30 s, or deleted while the process was away.

use planner::PlannerConfig;

use super::*;

/// A loop on node `n1` whose sources have delivered everything but the Node.
fn without_a_node(events: impl IntoIterator<Item = ModelEvent>) -> World {
    let planner = PlannerConfig { node_name: "n1".into(), ..PlannerConfig::default() };
    let mut world = World::on(Kernel::new(), Config { planner, ..config() });
    for event in events.into_iter().chain([ModelEvent::Synced]) {
        world.send(event);
    }
    world.run();
    world
}

/// Endpoints on nodes: (address, node, the only node that it is meant for).
fn on_nodes(endpoints: &[(&str, &str, Option<&str>)]) -> ModelEvent {
    let addrs: Vec<_> = endpoints.iter().map(|(addr, ..)| *addr).collect();
    let ModelEvent::SliceApplied(mut slice) = ready("web", &addrs) else { unreachable!() };
    for (endpoint, (_, node, hint)) in slice.endpoints.iter_mut().zip(endpoints) {
        endpoint.node = Some((*node).into());
        endpoint.node_hints = hint.iter().map(|hint| (*hint).into()).collect();
    }
    ModelEvent::SliceApplied(slice)
}

/// Conformance: node TestNewNodeManager
#[test]
fn traffic_that_stays_on_the_node_has_its_local_endpoints() {
    let mut web = service("web", WEB);
    web.internal_traffic_policy = TrafficPolicy::Local;
    let slice = on_nodes(&[("10.244.0.11", "n1", None), ("10.244.1.12", "n2", None)]);
    let mut world = without_a_node([applied(web), slice]);
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1)]);
    world.sync(node());
    world.run();
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1)], "the Node says the same as soon as it can be read");
}

/// Conformance: e2e/traffic_distribution should route traffic to an endpoint on the same node or fall...
#[test]
fn node_hints_are_followed() {
    let hinted = [("10.244.0.11", "n1", Some("n1")), ("10.244.1.12", "n2", Some("n2"))];
    let world = without_a_node([applied(service("web", WEB)), on_nodes(&hinted)]);
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1)]);
}

/// Conformance: e2e/traffic_distribution should route traffic to an endpoint on the same node or fall back...
/// Conformance: e2e/traffic_distribution should route traffic...when the endpoint becomes unavailable
#[test]
fn a_preference_for_this_node_lasts_as_long_as_it_has_an_endpoint() {
    let here = ("10.244.0.11", "n1", Some("n1"));
    let there = ("10.244.1.12", "n2", Some("n2"));
    let mut world = without_a_node([applied(service("web", WEB)), on_nodes(&[here, there])]);
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1)]);
    world.sync(on_nodes(&[there]));
    world.pass(Duration::from_secs(15));
    assert_eq!(world.kernel.weights(web_vs()), [(12, 1)]);
    world.sync(on_nodes(&[here, there]));
    world.pass(Duration::from_secs(15));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1)]);
}
