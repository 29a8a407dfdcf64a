//! Deletions of tracked connections that follow from other writes.

use lb_types::{ConntrackFilter, ConntrackOp, RealServer, RealServerId, VipPort};

use super::*;
use crate::untranslated;

const UDP: &str = "10.96.0.80:80/UDP";

fn dns(endpoints: &[(&str, bool)]) -> [ModelEvent; 2] {
    let dns = ModelEvent::ServiceApplied(service("dns", &[WEB], Protocol::Udp));
    [dns, slice("dns", Protocol::Udp, endpoints)]
}

/// A world that has programmed the Service with these endpoints.
fn programmed(endpoints: &[(&str, bool)]) -> PlannedKernel {
    let mut world = PlannedKernel::new();
    for event in dns(endpoints) {
        _ = world.sync(event);
    }
    world
}

/// Damages the real servers of every virtual server.
fn each_server(mirror: &mut Mirror, damage: fn(&mut Vec<(RealServerId, RealServer)>)) {
    for server in mirror.servers.values_mut() {
        damage(&mut server.real_servers);
    }
}

/// Takes the source of every route away.
fn forget_sources(mirror: &mut Mirror) {
    for source in mirror.routes.values_mut() {
        *source = None;
    }
}

#[track_caller]
fn check_flows(plan: &Plan, expect: &[&str]) {
    let lines: Vec<_> = of_stage(plan, Stage::Conntrack).iter().map(ToString::to_string).collect();
    assert_eq!(lines, expect, "{plan}");
    let last = plan.operations().skip(plan.len() - lines.len());
    assert!(last.into_iter().all(|op| matches!(op, Operation::Conntrack(_))), "flows come last: {plan}");
}

#[test]
fn a_service_from_its_first_endpoint_to_its_last() {
    let mut world = PlannedKernel::new();
    let [service, first] = dns(&[("10.244.0.11", true)]);
    let no_real_server = format!("delete tracked connections of {UDP} to no real server");
    let real_server =
        |last: u8| format!("delete tracked connections of {UDP} to real server 10.244.0.{last}:8080");
    check_flows(&world.sync(service), &[]);
    check_flows(&world.sync(first), &[&no_real_server]);
    let both = slice("dns", Protocol::Udp, &[("10.244.0.11", true), ("10.244.0.12", true)]);
    check_flows(&world.sync(both), &[]);
    let replaced = slice("dns", Protocol::Udp, &[("10.244.0.12", true), ("10.244.0.13", true)]);
    check_flows(&world.sync(replaced), &[&real_server(11)]);
    check_flows(&world.sync(slice("dns", Protocol::Udp, &[])), &[&real_server(12), &real_server(13)]);
    check_flows(&world.sync(slice("dns", Protocol::Udp, &[("10.244.0.14", true)])), &[&no_real_server]);
    let deleted = ModelEvent::ServiceDeleted(ServiceName::new("default", "dns"));
    check_flows(&world.sync(deleted), &[&real_server(14)]);
}

#[test]
fn a_service_that_is_new_with_its_endpoints() {
    let mut world = PlannedKernel::new();
    let mut dirty = Dirty::default();
    for event in dns(&[("10.244.0.11", true)]) {
        dirty.extend(world.replace(event));
    }
    check(
        &world.diff(&dirty),
        "add element vips 10.96.0.80
         add element unanswered-vips 10.96.0.80
         add element services 10.96.0.80:80/UDP
         add element masquerade-nonlocal 10.96.0.80:80/UDP
         add virtual server 10.96.0.80:80/UDP rr
         add real server 10.244.0.11:8080 to 10.96.0.80:80/UDP Masq weight 1
         ensure route local 10.96.0.80 src 192.168.50.10
         delete tracked connections of 10.96.0.80:80/UDP to no real server",
    );
}

#[test]
fn what_was_lost_and_comes_back() {
    let no_real_server = format!("delete tracked connections of {UDP} to no real server");
    type Damage<'a> = &'a dyn Fn(&mut Mirror);
    let cases: [(Damage<'_>, &[&str]); 6] = [
        (&|_| {}, &[]),
        (&|m| m.servers.clear(), &[&no_real_server]),
        (&|m| each_server(m, |real_servers| real_servers.clear()), &[&no_real_server]),
        (&|m| each_server(m, |real_servers| _ = real_servers.pop()), &[]),
        (&|m| m.routes.clear(), &[&no_real_server]),
        (&|m| forget_sources(m), &[]),
    ];
    for (number, (damage, expect)) in cases.into_iter().enumerate() {
        let mut world = programmed(&[("10.244.0.11", true), ("10.244.0.12", true)]);
        damage(&mut world.mirror);
        println!("case {number}");
        check_flows(&world.resync(), expect);
        // The same with TCP has nothing to delete.
        let mut tcp = PlannedKernel::new();
        tcp.sync(ModelEvent::ServiceApplied(service("web", &[WEB], Protocol::Tcp)));
        tcp.sync(slice("web", Protocol::Tcp, &[("10.244.0.11", true), ("10.244.0.12", true)]));
        damage(&mut tcp.mirror);
        check_flows(&tcp.resync(), &[]);
    }
}

#[test]
fn a_virtual_server_that_is_given_up_with_its_real_servers() {
    let mut world = programmed(&[("10.244.0.11", true)]);
    let vs = *world.mirror.servers.keys().next().unwrap();
    let dirty = world.replace(ModelEvent::ServiceDeleted(ServiceName::new("default", "dns")));
    world.facts.own_ports.insert(vs.vip_port().unwrap());
    let plan = world.diff(&dirty);
    assert_eq!(of_stage(&plan, Stage::IpvsRemove), [IpvsOp::DeleteVirtualServer { vs }.into()]);
    check_flows(&plan, &[&format!("delete tracked connections of {UDP} to real server 10.244.0.11:8080")]);
}

/// Conformance: conntrack/cleanup TestServiceWithoutEndpoints
#[test]
fn only_what_the_kernel_holds_is_a_reason() {
    let mut world = programmed(&[("10.244.0.11", true)]);
    let port = |addr, protocol| VipPort { addr: ip(addr), protocol, port: 80.try_into().unwrap() };
    let rs = |addr| RealServerId { addr: ip(addr), port: 8080.try_into().unwrap() };
    let served = port(WEB, Protocol::Udp);
    let check = |world: &PlannedKernel, filter, expect| {
        assert_eq!(world.mirror.justifies(&filter), expect, "{filter}")
    };
    check(&world, ConntrackFilter::of_real_server(served, rs("10.244.0.11")), false);
    check(&world, ConntrackFilter::of_real_server(served, rs("10.244.0.12")), true);
    check(&world, ConntrackFilter::of_real_server(port("10.96.0.1", Protocol::Udp), rs("10.244.0.11")), true);
    check(&world, ConntrackFilter::untranslated(served), true);
    check(&world, ConntrackFilter::untranslated(port("10.96.0.1", Protocol::Udp)), false);
    assert_eq!(
        untranslated(&world.desired, &world.mirror),
        [ConntrackOp::Delete(ConntrackFilter::untranslated(served))]
    );
    world.mirror.routes.clear();
    check(&world, ConntrackFilter::untranslated(served), false);
    let mut world = programmed(&[]);
    check(&world, ConntrackFilter::untranslated(served), false);
    assert_eq!(untranslated(&world.desired, &world.mirror), []);
    world.desired = Desired::default();
    assert_eq!(untranslated(&world.desired, &world.mirror), []);
}
