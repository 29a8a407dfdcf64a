//! `plan` says what would be written and writes nothing.

use e2e::net::PodNetwork;
use e2e::observe::Snapshot;

use crate::world::{WEB, World, ask_all, web};

#[test]
fn plan_on_a_fresh_node_and_on_a_converged_one() {
    let mut world = World::new(PodNetwork::Routed, 2);
    let service = web();
    world.manifests.serve(&service, &world.ready(1..=2));
    let fresh = Snapshot::take(&world.net.node);
    let plan = world.settings.plan(&world.net.node).unwrap_or_else(|error| panic!("{error}"));
    println!("{plan}");
    fresh.assert_same(&Snapshot::take(&world.net.node), "by plan on a fresh node");
    for vip in WEB.port(80) {
        let named = plan.lines().any(|line| line.contains(&vip.to_string()));
        assert!(named, "the plan does not name the virtual server {vip}:\n{plan}");
    }
    for real in world.pods.iter().flat_map(|pod| pod.address.port(8080)) {
        assert!(plan.contains(&real.to_string()), "the plan does not name the real server {real}:\n{plan}");
    }

    world.start(&[]);
    world.wait_served(&service, &world.ready(1..=2));
    let converged = Snapshot::take(&world.net.node);
    let plan = world.settings.plan(&world.net.node).unwrap_or_else(|error| panic!("{error}"));
    println!("{plan}");
    assert!(plan.to_lowercase().contains("nothing to"), "a converged node has nothing to do:\n{plan}");
    converged.assert_same(&Snapshot::take(&world.net.node), "by plan on a converged node");

    // Timeouts are no part of what is compared, but they must not be written either.
    let timeouts = world.net.node.sh("ipvsadm -l --timeout");
    let settings =
        world.settings.with_flags(&["--ipvs-tcp-timeout=123s", "--cluster-cidr=10.244.0.0/16,fd00:244::/56"]);
    settings.plan(&world.net.node).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(world.net.node.sh("ipvsadm -l --timeout"), timeouts);

    // One real server is missing: that and nothing else is what the plan says.
    world.proxy().terminate();
    world.net.node.sh("ipvsadm -d -t 10.96.0.80:80 -r 10.244.0.12:8080");
    let plan = world.settings.plan(&world.net.node).unwrap_or_else(|error| panic!("{error}"));
    println!("{plan}");
    assert!(plan.contains("10.244.0.12:8080") && !plan.contains("10.244.0.11:8080"), "{plan}");
    world.proxy().start_again();
    world.wait_served(&service, &world.ready(1..=2));
    ask_all(&world.net.outside_client(), &service);
}

#[test]
fn version_says_something() {
    let world = World::new(PodNetwork::Routed, 0);
    let version = world.settings.version().unwrap_or_else(|error| panic!("{error}"));
    assert!(version.contains("kube-ipvs"), "{version:?}");
}
