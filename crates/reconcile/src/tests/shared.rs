//! A VIP that another program has put on an interface of the node.

use dataplane::{ErrorKind, Touched};
use lb_types::{ConnectionCounters, RuleElement, RuleSet};

use super::*;

const DNS: &str = "10.96.0.10";
/// Time that a change of listening sockets may take.
const SOON: Duration = Duration::from_millis(1100);

fn port(protocol: Protocol, port: u16) -> VipPort {
    VipPort { addr: ip(DNS), protocol, port: port.try_into().unwrap() }
}

fn dns_port(name: &str, protocol: Protocol, port: u16) -> ServicePort {
    ServicePort { name: name.into(), protocol, port: port.try_into().unwrap(), node_port: None }
}

/// The cluster DNS, with its metrics.
fn dns() -> [ModelEvent; 2] {
    let mut service = service("dns", DNS);
    service.ports = vec![
        dns_port("dns", Protocol::Udp, 53),
        dns_port("dns-tcp", Protocol::Tcp, 53),
        dns_port("metrics", Protocol::Tcp, 9153),
    ];
    let ModelEvent::SliceApplied(mut endpoints) = ready("dns", &["10.244.0.11"]) else { panic!("no slice") };
    let ports = service.ports.iter();
    endpoints.ports = ports
        .map(|port| SlicePort { name: port.name.clone(), protocol: port.protocol, port: port.port })
        .collect();
    [applied(service), ModelEvent::SliceApplied(endpoints)]
}

fn all_ports() -> Vec<VipPort> {
    vec![port(Protocol::Tcp, 53), port(Protocol::Tcp, 9153), port(Protocol::Udp, 53)]
}

fn cache() -> [VipPort; 2] {
    [port(Protocol::Tcp, 53), port(Protocol::Udp, 53)]
}

/// The cache puts the address of the cluster DNS on a link of its own.
fn share(world: &mut World) {
    world.kernel.vips.set_node_addresses([(ip("192.168.50.10"), "eth0"), (ip(DNS), "nodelocaldns")]);
    world.reconciler.handle(Event::Touched(Touched::Vips));
    world.run();
}

/// The cache's link goes.
fn unshare(world: &mut World) {
    world.kernel.vips.set_node_addresses([(ip("192.168.50.10"), "eth0")]);
    world.reconciler.handle(Event::Touched(Touched::Vips));
    world.run();
}

/// The ports that IPVS serves; the elements of the packet rules name the same ones.
#[track_caller]
fn assert_served(world: &World, ports: &[VipPort]) {
    let served: Vec<_> = world.kernel.ipvs.virtual_servers().keys().filter_map(|vs| vs.vip_port()).collect();
    let mut sorted = ports.to_vec();
    sorted.sort_unstable();
    assert_eq!(served, sorted);
    let elements = world.kernel.rules.elements();
    let refused = elements.iter().filter(|element| element.set() == RuleSet::NoEndpoints).count();
    assert_eq!(refused, 0, "nothing of the node's may be refused");
    let named = elements.iter().filter(|element| element.set() == RuleSet::Services).count();
    assert_eq!(named, ports.len());
}

#[test]
fn ports_on_which_nobody_listens_are_served() {
    let mut world = World::synced(dns());
    // A connection would let it drain, and the port be refused for so long.
    let counters = ConnectionCounters { active: 1, inactive: 0, persistent: 0 };
    let dns_rs = RealServerId { addr: ip("10.244.0.11"), port: 53.try_into().unwrap() };
    world.kernel.ipvs.set_connections(port(Protocol::Tcp, 53).into(), dns_rs, counters);
    share(&mut world);
    assert_served(&world, &all_ports());
    assert!(world.kernel.vips.routes().is_empty(), "the address itself leads here");
    assert!(
        !world.kernel.rules.elements().contains(&RuleElement::Vip(ip(DNS))),
        "other ports are the node's"
    );
    // The cache begins to listen a moment after it has made its address.
    world.kernel.vips.set_listeners(cache());
    world.pass(SOON);
    assert_served(&world, &[port(Protocol::Tcp, 9153)]);
    // It is restarted, with its link left in place.
    world.kernel.vips.set_listeners([]);
    world.pass(SOON);
    assert_served(&world, &all_ports());
    world.kernel.vips.set_listeners(cache());
    world.pass(SOON);
    unshare(&mut world);
    assert_served(&world, &all_ports());
    assert_eq!(world.kernel.vips.routes().len(), 1);
}

#[test]
fn a_cache_that_was_there_first_keeps_its_ports() {
    let mut world = World::new();
    world.kernel.vips.set_node_addresses([(ip("192.168.50.10"), "eth0"), (ip(DNS), "nodelocaldns")]);
    world.kernel.vips.set_listeners(cache());
    world.deliver(dns());
    world.run();
    assert_served(&world, &[port(Protocol::Tcp, 9153)]);
    let ops = world.kernel.ipvs.ops();
    assert!(!ops.iter().any(|op| op.to_string().contains(":53/")), "not for a moment: {ops:#?}");
}

/// While nobody knows whether a program listens, nothing is taken from the node.
#[test]
fn a_service_is_not_served_before_it_is_known_who_listens() {
    let mut world = World::synced(web());
    share(&mut world);
    world.kernel.vips.fail_next_call(ErrorKind::NotSupported);
    for event in dns() {
        world.send(event);
    }
    world.reconciler.step(world.now);
    let served = |world: &World| world.kernel.ipvs.virtual_servers().len();
    assert_eq!(served(&world), 1, "the other Service");
    world.pass(SOON);
    assert_eq!(served(&world), 1 + all_ports().len());
}

#[test]
fn what_was_known_holds_while_the_kernel_does_not_tell() {
    let mut world = World::synced(dns());
    world.kernel.vips.set_listeners(cache());
    share(&mut world);
    world.kernel.vips.set_listeners([]);
    world.kernel.vips.fail_next_call(ErrorKind::Transient);
    world.pass(SOON);
    assert_served(&world, &[port(Protocol::Tcp, 9153)]);
    world.pass(SOON);
    assert_served(&world, &all_ports());
    world.kernel.vips.fail_next_call(ErrorKind::Transient);
    world.pass(SOON);
    assert_served(&world, &all_ports());
}

/// A look for one Service must not hide from another, which has the same ports, that something has changed.
#[test]
fn services_with_the_same_ports_are_looked_at_each_for_itself() {
    let mut world = World::synced(web());
    share(&mut world);
    let [ModelEvent::ServiceApplied(mut other), _] = dns() else { panic!("no Service") };
    other.name.name = "dns-other".into();
    let others = [ModelEvent::ServiceApplied(other), ready("dns-other", &["10.244.0.99"])];
    for event in dns().into_iter().chain(others) {
        world.send(event);
    }
    world.kernel.vips.fail_next_call(ErrorKind::NotSupported);
    world.reconciler.step(world.now);
    world.pass(SOON);
    let servers = world.kernel.ipvs.virtual_servers();
    let served = &servers[&port(Protocol::Tcp, 53).into()];
    let real: Vec<_> = served.1.keys().map(|rs| rs.addr).collect();
    assert_eq!(real, [ip("10.244.0.11")], "those of the Service that has the port");
}

/// That a program listens on a port of the node matters to the Service that has it as an external IP, not to the one
/// whose node port it is, before or after.
#[test]
fn a_node_port_does_not_yield_to_the_listener_on_an_external_ip() {
    let node = ip("192.168.50.10");
    let at = |port: u16| VipPort { addr: node, protocol: Protocol::Tcp, port: port.try_into().unwrap() };
    let mut plain = service("plain", "10.96.0.81");
    plain.ports[0].port = 30080.try_into().unwrap();
    let mut external = plain.clone();
    external.external_ips = vec![ExternalIp { addr: node, source: ExternalSource::ExternalIps }];
    let mut sticky = service("sticky", "10.96.0.82");
    sticky.affinity = Some(service_model::Affinity { timeout_seconds: 60.try_into().unwrap() });
    sticky.ports[0].node_port = 30080.try_into().ok();
    for gives_up_first in [true, false] {
        let endpoints = [ready("plain", &["10.244.0.11"]), ready("sticky", &["10.244.0.12"])];
        let mut world = World::synced([applied(external.clone())].into_iter().chain(endpoints));
        world.kernel.vips.set_listeners([at(30080)]);
        world.pass(SOON);
        assert!(!world.kernel.ipvs.virtual_servers().contains_key(&at(30080).into()), "left to the program");
        let mut events = [applied(plain.clone()), applied(sticky.clone())];
        if !gives_up_first {
            events.reverse();
        }
        for event in events {
            world.send(event);
            world.run();
        }
        assert_eq!(world.kernel.weights(at(30080).into()), [(12, 1)], "{gives_up_first}");
    }
}

#[test]
fn sockets_are_looked_at_only_while_a_vip_is_shared() {
    let mut world = World::synced(dns());
    let before = world.kernel.vips.requests();
    world.pass(Duration::from_secs(5));
    assert_eq!(world.kernel.vips.requests(), before);
    share(&mut world);
    let before = world.kernel.vips.requests();
    world.pass(Duration::from_secs(5));
    assert_eq!(world.kernel.vips.requests() - before, 5 * all_ports().len());
    unshare(&mut world);
    // The VIP has its route back.
    world.pass(SOON);
    let before = world.kernel.vips.requests();
    world.pass(Duration::from_secs(5));
    assert_eq!(world.kernel.vips.requests(), before);
}
