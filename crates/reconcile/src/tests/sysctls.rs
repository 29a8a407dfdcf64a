//! Kernel parameters.

use dataplane::{ErrorKind, Touched};
use lb_types::{Leaves, SysctlNeed, SysctlWhen};

use super::*;

const FORWARDING: &str = "net/ipv6/conf/all/forwarding";
const LINK: &str = "net/ipv6/conf/kube-ipvs0/disable_ipv6";
const NEW_LINKS: &str = "net/ipv6/conf/default/disable_ipv6";
const NODE: &str = "net/ipv6/conf/all/disable_ipv6";
const LIMIT: &str = "net/netfilter/nf_conntrack_max";

/// A node whose parameters are at the kernel's defaults.
fn kernel() -> Kernel {
    let kernel = Kernel::new();
    for (name, value) in [(FORWARDING, 0), (NEW_LINKS, 0), (NODE, 0), (LIMIT, 65_536)] {
        kernel.sysctls.set(name, value);
    }
    for link in ["eth0", "eth1", "eth2"] {
        kernel.sysctls.set(&accept_ra(link), 1);
    }
    kernel
}

fn accept_ra(link: &str) -> String {
    format!("net/ipv6/conf/{link}/accept_ra")
}

fn world(kernel: &Kernel) -> World {
    let need = |name, value, when| SysctlNeed { when, ..SysctlOp::new(name, value).into() };
    let limit = SysctlNeed { leaves: Leaves::LargerOrZero, ..need(LIMIT, 131_072, SysctlWhen::Once) };
    let sysctls =
        vec![need(FORWARDING, 1, SysctlWhen::Ipv6Forwarding), need(LINK, 0, SysctlWhen::OnLink), limit];
    let planner = PlannerConfig { sysctls, ..PlannerConfig::default() };
    World::on(kernel.clone(), Config { planner, ..config() })
}

fn six() -> ModelEvent {
    applied(service("six", "fd00:96::1"))
}

fn written(kernel: &Kernel) -> Vec<String> {
    kernel.sysctls.log().iter().map(ToString::to_string).collect()
}

#[test]
fn forwarding_is_switched_on_with_the_first_service_that_has_an_ipv6_address() {
    let kernel = kernel();
    let mut world = world(&kernel);
    world.deliver(web());
    world.run();
    assert_eq!(kernel.sysctls.get(FORWARDING), Some(0));
    world.sync(six());
    assert_eq!(kernel.sysctls.get(FORWARDING), Some(1));
}

#[test]
fn advertised_default_routes_are_kept_before_forwarding_would_end_them() {
    let kernel = kernel();
    kernel.vips.set_advertised_links(["eth0", "eth1"]);
    kernel.sysctls.set(&accept_ra("eth1"), 0);
    let mut world = world(&kernel);
    world.deliver([six()]);
    let plan = world.reconciler.dry_run().unwrap();
    let expect =
        ["set sysctl net/ipv6/conf/eth0/accept_ra = 2", "set sysctl net/ipv6/conf/all/forwarding = 1"];
    assert_eq!(plan.operations().map(ToString::to_string).collect::<Vec<_>>()[..2], expect);
    world.run();
    assert_eq!(written(&kernel)[..2], expect);
    assert_eq!(kernel.sysctls.get(&accept_ra("eth1")), Some(0), "its route is not the kernel's");
    assert_eq!(kernel.sysctls.get(&accept_ra("eth2")), Some(1), "has no such route");
}

#[test]
fn forwarding_stays_off_while_a_route_cannot_be_kept() {
    let kernel = kernel();
    kernel.vips.set_advertised_links(["eth0"]);
    kernel.sysctls.refuse(&accept_ra("eth0"), true);
    let mut world = world(&kernel);
    world.deliver([six()]);
    world.run();
    world.pass(SYNC_PERIOD * 3);
    assert_eq!(kernel.sysctls.get(FORWARDING), Some(0));
    // Somebody does it by hand.
    kernel.sysctls.set(&accept_ra("eth0"), 2);
    world.pass(SYNC_PERIOD * 2);
    assert_eq!(kernel.sysctls.get(FORWARDING), Some(1));
}

#[test]
fn forwarding_waits_until_it_is_known_what_it_would_end() {
    let kernel = kernel();
    kernel.vips.set_advertised_links(["eth0"]);
    let mut world = world(&kernel);
    world.deliver(web());
    world.run();
    kernel.vips.fail_next_call(ErrorKind::Transient);
    world.sync(six());
    assert_eq!(kernel.sysctls.get(FORWARDING), Some(0));
    world.pass(Duration::from_secs(1));
    assert_eq!(
        written(&kernel)[1..],
        ["set sysctl net/ipv6/conf/eth0/accept_ra = 2", "set sysctl net/ipv6/conf/all/forwarding = 1"]
    );
}

#[test]
fn our_link_has_ipv6_where_the_node_has_it() {
    let kernel = kernel();
    kernel.sysctls.set(NEW_LINKS, 1);
    let mut world = world(&kernel);
    world.deliver([six()]);
    let plan = world.reconciler.dry_run().unwrap();
    let plan = plan.to_string();
    let link = plan.find("ensure link kube-ipvs0").unwrap();
    assert!(plan[link..].contains(&SysctlOp::new(LINK, 0).to_string()), "the link will inherit it: {plan}");
    kernel.sysctls.set(LINK, 1);
    world.run();
    assert_eq!(kernel.sysctls.get(LINK), Some(0));
    // Somebody switches it off again, which takes our routes along: the watcher tells.
    kernel.sysctls.set(LINK, 1);
    world.reconciler.handle(Event::Touched(Touched::Vips));
    world.run();
    assert_eq!(kernel.sysctls.get(LINK), Some(0));
    // And without a notification.
    kernel.sysctls.set(LINK, 1);
    world.pass(SYNC_PERIOD * 2);
    assert_eq!(kernel.sysctls.get(LINK), Some(0));
}

#[test]
fn where_the_node_has_no_ipv6_its_choice_is_left_alone() {
    let kernel = kernel();
    for name in [NODE, NEW_LINKS, LINK] {
        kernel.sysctls.set(name, 1);
    }
    let mut world = world(&kernel);
    world.deliver([six()]);
    world.run();
    assert_eq!(kernel.sysctls.get(LINK), Some(1));
}

#[test]
fn limits_are_raised_once_and_what_an_operator_sets_later_stays() {
    let kernel = kernel();
    let mut raised = world(&kernel);
    raised.deliver(web());
    raised.run();
    assert_eq!(kernel.sysctls.get(LIMIT), Some(131_072));
    raised.pass(SYNC_PERIOD * 2);
    for chosen in [70_000, 4_000_000] {
        kernel.sysctls.set(LIMIT, chosen);
        raised.pass(SYNC_PERIOD * 2);
        assert_eq!(kernel.sysctls.get(LIMIT), Some(chosen));
    }
    for kept in [4_000_000, 0] {
        kernel.sysctls.set(LIMIT, kept);
        let mut world = world(&kernel);
        world.deliver(web());
        world.run();
        assert_eq!(kernel.sysctls.get(LIMIT), Some(kept), "never lowered, and 0 is no limit");
    }
}

#[test]
fn a_refused_parameter_is_reported_once_and_stops_nothing() {
    let kernel = kernel();
    kernel.sysctls.refuse(LIMIT, true);
    let mut world = world(&kernel);
    world.deliver(web());
    let report = world.run();
    assert_eq!(report.failed, 1);
    assert!(kernel.ipvs.virtual_servers().contains_key(&web_vs()));
    world.now += SYNC_PERIOD * 2;
    assert_eq!(world.run().failed, 0, "tried again without another word");
    kernel.sysctls.refuse(LIMIT, false);
    world.pass(SYNC_PERIOD * 2);
    assert_eq!(kernel.sysctls.get(LIMIT), Some(131_072));
}
