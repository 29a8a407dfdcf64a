//! Settings of the node that keep Services from working.

use dataplane::{BridgeFilters, ForwardDrop, Touched};

use super::*;
use crate::{LocalMode, NodeFinding};

const FILTER: &str = "net/bridge/bridge-nf-call-iptables";

fn objects(world: &World, finding: NodeFinding) -> Vec<String> {
    world.reconciler.node_findings(finding).map(str::to_owned).collect()
}

fn drops(family: Option<IpFamily>, table: &str) -> ForwardDrop {
    ForwardDrop { family, table: table.into(), chain: "FORWARD".into() }
}

#[test]
fn a_chain_that_drops_answers_is_told_until_it_is_gone() {
    let kernel = Kernel::new();
    kernel.rules.set_forward_drops(vec![
        drops(Some(IpFamily::V6), "ip6 filter"),
        drops(Some(IpFamily::V4), "ip filter"),
    ]);
    let mut world = World::on(kernel.clone(), config());
    world.deliver(web());
    assert!(world.reconciler.step(world.now).findings, "at start");
    world.run();
    let now = |world: &World| objects(world, NodeFinding::ForwardPolicyDrop);
    assert_eq!(now(&world), ["ip filter FORWARD"], "no Service has an IPv6 address");
    world.send(applied(service("six", "fd00:96::1")));
    world.pass(SYNC_PERIOD * 2);
    assert_eq!(now(&world), ["ip filter FORWARD", "ip6 filter FORWARD"]);
    kernel.rules.set_forward_drops(vec![]);
    world.pass(SYNC_PERIOD * 2);
    assert_eq!(now(&world), [""; 0]);
}

/// A node with a bridge of pods and one of containers.
fn with_bridges(filters: BridgeFilters) -> Kernel {
    let kernel = Kernel::new();
    kernel.vips.set_node_addresses([
        (ip("192.168.50.10"), "eth0"),
        (ip("10.244.1.1"), "cni0"),
        (ip("172.17.0.1"), "docker0"),
    ]);
    kernel.vips.set_bridges([("cni0", filters), ("docker0", BridgeFilters::default())]);
    kernel
}

fn with_cluster_cidr() -> Config {
    Config { local_mode: LocalMode::ClusterCidr(vec!["10.244.0.0/16".parse().unwrap()]), ..config() }
}

#[test]
fn a_bridge_of_pods_that_netfilter_does_not_see_is_told() {
    for (value, own, config, expect) in [
        (None, false, with_cluster_cidr(), true),
        (Some(0), false, with_cluster_cidr(), true),
        (Some(1), false, with_cluster_cidr(), false),
        (Some(0), true, with_cluster_cidr(), false),
        (Some(0), false, config(), false),
        (Some(0), false, Config { local_mode: LocalMode::BridgeInterface("cni0".into()), ..config() }, true),
    ] {
        let kernel = with_bridges(BridgeFilters { ipv4: own, ipv6: false });
        if let Some(value) = value {
            kernel.sysctls.set(FILTER, value);
        }
        let what = format!("{value:?} {own} {:?}", config.local_mode);
        let mut world = World::on(kernel, config);
        world.deliver(web());
        world.run();
        let expect: &[&str] = if expect { &["cni0 IPv4"] } else { &[] };
        assert_eq!(objects(&world, NodeFinding::BridgeNotFiltered), expect, "{what}");
    }
}

#[test]
fn a_bridge_that_comes_later_is_told_and_one_that_is_mended_is_not_any_more() {
    let kernel = Kernel::new();
    kernel.sysctls.set(FILTER, 0);
    let mut world = World::on(kernel.clone(), with_cluster_cidr());
    world.deliver(web());
    world.run();
    let now = |world: &World| objects(world, NodeFinding::BridgeNotFiltered);
    assert_eq!(now(&world), [""; 0]);
    kernel.vips.set_node_addresses([(ip("192.168.50.10"), "eth0"), (ip("10.244.1.1"), "cni0")]);
    kernel.vips.set_bridges([("cni0", BridgeFilters::default())]);
    world.reconciler.handle(Event::Touched(Touched::Vips));
    world.run();
    assert_eq!(now(&world), ["cni0 IPv4"]);
    kernel.sysctls.set(FILTER, 1);
    world.pass(SYNC_PERIOD * 2);
    assert_eq!(now(&world), [""; 0]);
}

#[test]
fn a_parameter_that_cannot_be_written_is_told() {
    let kernel = Kernel::new();
    kernel.sysctls.refuse("net/ipv4/vs/conntrack", true);
    let mut world = World::on(kernel.clone(), config());
    world.deliver(web());
    world.run();
    let now = |world: &World| objects(world, NodeFinding::ParameterRefused);
    assert_eq!(now(&world), ["net/ipv4/vs/conntrack"]);
    kernel.sysctls.refuse("net/ipv4/vs/conntrack", false);
    world.pass(SYNC_PERIOD * 2);
    assert_eq!(now(&world), [""; 0]);
}
