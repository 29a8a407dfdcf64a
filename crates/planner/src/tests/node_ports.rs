//! Node ports, and the fronts that a packet mark selects.

use lb_types::{ForwardingMethod, LocalDetection, VirtualServerId};

use super::*;
use crate::NodePortServers;

/// A Service with node port 30080 and these endpoints, by address and node.
fn node_port(policy: TrafficPolicy, endpoints: &[(&str, Option<&str>)]) -> [ModelEvent; 2] {
    let [ModelEvent::ServiceApplied(mut service), slice] = external(policy, endpoints) else {
        unreachable!()
    };
    service.external_ips.clear();
    service.ports[0].node_port = 30080.try_into().ok();
    [ModelEvent::ServiceApplied(service), slice]
}

fn on_n1() -> PlannedKernel {
    PlannedKernel { model: ServiceModel::on_node("n1"), ..PlannedKernel::new() }
}

/// Executes events as one change; the plan without the lines of the ClusterIP.
fn plan(world: &mut PlannedKernel, events: impl IntoIterator<Item = ModelEvent>) -> String {
    let mut dirty = Dirty::default();
    for event in events {
        dirty.extend(world.replace(event));
    }
    let plan = world.diff(&dirty);
    never_fewer(world, &plan);
    world.execute(&plan);
    assert!(world.resync().is_empty(), "{}", world.resync());
    plan.to_string().lines().filter(|line| !line.contains(WEB)).map(|line| format!("{line}\n")).collect()
}

fn deleted() -> ModelEvent {
    ModelEvent::ServiceDeleted(ServiceName::new("default", "web"))
}

#[test]
fn a_node_port_is_one_virtual_server_for_all_addresses() {
    let mut world = on_n1();
    let first = plan(&mut world, node_port(TrafficPolicy::Cluster, &BOTH));
    assert_eq!(
        first,
        "add element services 0.0.0.0:30080/TCP\n\
         add element masquerade 0.0.0.0:30080/TCP\n\
         add element marks 0.0.0.0:30080/TCP 0x01b57ad8\n\
         add virtual server fwmark 0x1b57ad8 IPv4 rr\n\
         add real server 10.244.1.12:8080 to fwmark 0x1b57ad8 IPv4 Masq weight 1\n\
         add real server 10.244.0.11:8080 to fwmark 0x1b57ad8 IPv4 Masq weight 1\n"
    );
    let gone = plan(&mut world, [deleted()]);
    assert_eq!(
        gone,
        "add element no-endpoints 0.0.0.0:30080/TCP\n\
         set real server 10.244.0.11:8080 of fwmark 0x1b57ad8 IPv4 Masq weight 0\n\
         set real server 10.244.1.12:8080 of fwmark 0x1b57ad8 IPv4 Masq weight 0\n",
        "it drains under its mark, and refuses new connections"
    );
    let back = plan(&mut world, node_port(TrafficPolicy::Cluster, &BOTH));
    assert!(
        back.contains("delete element no-endpoints") && !back.contains("virtual server fwmark"),
        "{back}"
    );
}

#[test]
fn a_drained_node_port_goes_with_its_mark() {
    let mut world = on_n1();
    plan(&mut world, node_port(TrafficPolicy::Local, &[]));
    assert_eq!(world.mirror.servers.len(), 3, "{:?}", world.mirror.servers.keys());
    let gone = plan(&mut world, [deleted()]);
    let lines: Vec<_> = gone.lines().collect();
    let server = lines.iter().position(|line| line.starts_with("delete virtual server fwmark")).unwrap();
    let tag = lines.iter().position(|line| line.starts_with("delete element marks 0.0.0.0")).unwrap();
    assert!(server < tag, "the tag outlives what it tags: {gone}");
    assert!(world.mirror.servers.is_empty());
    assert_eq!(world.mirror.marks, crate::Marks::default());
}

/// Packet rules know the endpoints of this node where they take the pods of all nodes for those of this one.
#[test]
fn pods_of_other_nodes_keep_their_address_towards_endpoints_of_this_node() {
    let known = |local_v4: LocalDetection, policy| {
        let mut world = on_n1();
        world.config.layout.local_v4 = local_v4;
        plan(&mut world, node_port(policy, &BOTH));
        let of_endpoints = |element: &&RuleElement| matches!(element, RuleElement::LocalEndpoint(_));
        let seen: Vec<_> =
            world.mirror.elements.iter().filter(of_endpoints).map(ToString::to_string).collect();
        let none: [(&str, Option<&str>); 0] = [];
        plan(&mut world, [external(policy, &none)[1].clone()]);
        assert_eq!(world.mirror.elements.iter().find(of_endpoints), None, "the endpoints have gone");
        seen
    };
    let prefix = || vec!["10.244.0.0/16".parse().unwrap()];
    let (cluster, local) = (TrafficPolicy::Cluster, TrafficPolicy::Local);
    assert_eq!(known(LocalDetection::ClusterCidr(prefix()), local), ["local-endpoints 10.244.0.11:8080/TCP"]);
    assert_eq!(known(LocalDetection::ClusterCidr(prefix()), cluster), [""; 0]);
    assert_eq!(known(LocalDetection::NodeCidr(prefix()), local), [""; 0]);
}

#[test]
fn a_service_of_one_family_has_node_ports_of_that_family() {
    let mut world = on_n1();
    let [ModelEvent::ServiceApplied(mut service), slice] = node_port(TrafficPolicy::Cluster, &BOTH) else {
        unreachable!()
    };
    service.cluster_ips = vec![ip("fd00:96::80")];
    let first = plan(&mut world, [ModelEvent::ServiceApplied(service), slice]);
    assert!(first.contains("[::]:30080/TCP") && !first.contains("0.0.0.0"), "{first}");
}

#[test]
fn a_change_of_policy_leaves_no_moment_without_real_servers() {
    let mut world = on_n1();
    plan(&mut world, node_port(TrafficPolicy::Cluster, &BOTH));
    let local = plan(&mut world, node_port(TrafficPolicy::Local, &BOTH));
    assert_eq!(
        local,
        "add element masquerade-pods 0.0.0.0:30080/TCP\n\
         add element unmarked-external 0.0.0.0:30080/TCP 0x01b56a9a\n\
         add virtual server fwmark 0x1b56a9a IPv4 rr\n\
         add real server 10.244.0.11:8080 to fwmark 0x1b56a9a IPv4 Masq weight 1\n\
         add element marks-external 0.0.0.0:30080/TCP 0x01b56a9a\n\
         delete element unmarked-external 0.0.0.0:30080/TCP 0x01b56a9a\n\
         delete element masquerade 0.0.0.0:30080/TCP\n",
        "clients outside are led there once it is complete"
    );
    let cluster = plan(&mut world, node_port(TrafficPolicy::Cluster, &BOTH));
    assert_eq!(
        cluster,
        "add element masquerade 0.0.0.0:30080/TCP\n\
         add element unmarked-external 0.0.0.0:30080/TCP 0x01b56a9a\n\
         delete element marks-external 0.0.0.0:30080/TCP 0x01b56a9a\n\
         set real server 10.244.0.11:8080 of fwmark 0x1b56a9a IPv4 Masq weight 0\n\
         delete element masquerade-pods 0.0.0.0:30080/TCP\n",
        "they are led away before it drains, and the other element tags it meanwhile"
    );
}

#[test]
fn the_last_local_endpoint_that_goes_and_comes_back() {
    let mut world = on_n1();
    plan(&mut world, node_port(TrafficPolicy::Local, &BOTH));
    let [_, without] = node_port(TrafficPolicy::Local, &BOTH[1..]);
    let gone = plan(&mut world, [without]);
    assert!(gone.contains("add element no-local-endpoints 0.0.0.0:30080/TCP"), "{gone}");
    assert!(!gone.contains("unmarked"), "{gone}");
    let [_, with] = node_port(TrafficPolicy::Local, &BOTH);
    let back = plan(&mut world, [with]);
    assert!(back.contains("delete element no-local-endpoints 0.0.0.0:30080/TCP"), "{back}");
    assert!(
        back.contains("set real server 10.244.0.11:8080 of fwmark 0x1b56a9a IPv4 Masq weight 1"),
        "{back}"
    );
}

#[test]
fn clients_outside_belong_to_the_service_that_has_the_port() {
    let mut world = on_n1();
    let [ModelEvent::ServiceApplied(mut old), _] = external(TrafficPolicy::Cluster, &BOTH) else {
        unreachable!()
    };
    old.created = Some(1);
    let mut young = Service { cluster_ips: vec![ip("10.96.0.81")], created: Some(2), ..old.clone() };
    young.name = ServiceName::new("default", "young");
    young.external_traffic_policy = TrafficPolicy::Local;
    let external_front = |world: &PlannedKernel| {
        let port = "192.0.2.7:80/TCP".parse::<Front>().unwrap();
        world.desired.service_of(&port.for_external()).cloned()
    };
    plan(&mut world, [ModelEvent::ServiceApplied(young.clone())]);
    assert_eq!(external_front(&world), Some(young.name.clone()));
    let lost = plan(&mut world, [ModelEvent::ServiceApplied(old.clone())]);
    assert_eq!(external_front(&world), None, "the older Service serves all clients alike");
    assert!(lost.contains("delete virtual server fwmark"), "{lost}");
    assert_eq!(world.conflicts(&young.name).len(), 2, "one for each address");
    plan(&mut world, [ModelEvent::ServiceDeleted(old.name)]);
    assert_eq!(external_front(&world), Some(young.name));
}

/// Conformance: ipvs/proxier TestGetNodeIPs
/// Conformance: ipvs/proxier TestIpIsValidForSet
/// Conformance: util TestGetNodeIPs
/// Conformance: util TestIsZeroCIDR
#[test]
fn only_addresses_that_lead_to_this_node_alone_serve_node_ports() {
    let addresses = [
        "127.0.0.1",
        "192.168.50.10",
        "192.168.60.10",
        "169.254.20.10",
        "10.96.0.10",
        "::1",
        "fe80::1",
        "fd00:50::10",
        "fd00:60::10",
    ];
    let node_ips = BTreeMap::from([(IpFamily::V4, ip("192.168.50.10")), (IpFamily::V6, ip("fd00:60::10"))]);
    let check = |configured: NodePortAddresses, expect: &[&str]| {
        let mut world = PlannedKernel::new();
        let addresses = addresses.iter().map(|addr| (ip(addr), "eth0".to_owned())).collect();
        world.facts = NodeFacts::new(&node_ips, addresses, &configured);
        world.mirror.elements = FastSet::default().into();
        let plan = world.resync().to_string();
        let served: Vec<_> =
            plan.lines().filter_map(|line| line.strip_prefix("add element node-addresses ")).collect();
        assert_eq!(served, expect, "{configured:?}");
    };
    let within = |prefixes: &[&str]| {
        NodePortAddresses::Prefixes(prefixes.iter().map(|text| text.parse().unwrap()).collect())
    };
    check(NodePortAddresses::All, &["192.168.50.10", "192.168.60.10", "fd00:50::10", "fd00:60::10"]);
    check(within(&["0.0.0.0/0", "::/0"]), &["192.168.50.10", "192.168.60.10", "fd00:50::10", "fd00:60::10"]);
    check(NodePortAddresses::Primary, &["192.168.50.10", "fd00:60::10"]);
    check(within(&["192.168.50.0/24", "fd00:50::/64"]), &["192.168.50.10", "fd00:50::10"]);
    check(within(&["192.168.60.0/24"]), &["192.168.60.10", "fd00:50::10", "fd00:60::10"]);
    check(within(&["127.0.0.0/8", "::1/128"]), &[]);
    check(within(&["169.254.0.0/16", "10.96.0.0/16", "fe80::/10"]), &[]);
}

#[test]
fn a_cluster_ip_outside_of_the_known_ranges_is_no_address_for_node_ports() {
    let mut world = PlannedKernel::new();
    world.ownership.service_cidrs.clear();
    let mut cache = service("dns", &["192.168.50.10"], Protocol::Udp);
    let plan = world.sync(ModelEvent::ServiceApplied(cache.clone()));
    assert!(plan.to_string().contains("delete element node-addresses 192.168.50.10"), "{plan}");
    cache.cluster_ips = vec![ip("10.96.0.10")];
    let plan = world.sync(ModelEvent::ServiceApplied(cache));
    assert!(plan.to_string().contains("add element node-addresses 192.168.50.10"), "{plan}");
}

#[test]
fn a_foreign_virtual_server_of_a_mark_is_left_alone_and_its_number_not_drawn() {
    let mut world = on_n1();
    let mut other = on_n1();
    plan(&mut other, node_port(TrafficPolicy::Cluster, &BOTH));
    world.mirror.servers = other.mirror.servers.clone();
    world.mirror.servers.retain(|vs, _| vs.vip_port().is_none());
    let foreign = *world.mirror.servers.keys().next().unwrap();
    assert!(!world.ownership.owns(&foreign, &world.mirror));
    assert!(world.resync().is_empty(), "{}", world.resync());
    let first = plan(&mut world, node_port(TrafficPolicy::Cluster, &BOTH));
    assert!(!first.contains(&foreign.to_string()) && first.contains("add virtual server fwmark"), "{first}");
}

/// kube-proxy has a virtual server for each address of the node. Once packets to the port get a mark, nobody comes to
/// those any more, and they go like all that nobody wants.
#[test]
fn what_kube_proxy_has_for_a_node_port_goes_once_there_is_one_for_all_addresses() {
    let mut world = on_n1();
    let at = |number: u16| VipPort {
        addr: ip("192.168.50.10"),
        protocol: Protocol::Tcp,
        port: number.try_into().unwrap(),
    };
    let [its, others] = [30080, 30099].map(|number| VirtualServerId::from(at(number)));
    plan(&mut world, node_port(TrafficPolicy::Cluster, &BOTH));
    let served =
        world.mirror.servers.values().find(|server| !server.real_servers.is_empty()).unwrap().clone();
    for vs in [its, others] {
        world.mirror.servers.insert(vs, served.clone());
    }
    assert!(!world.ownership.owns(&its, &world.mirror), "somebody has made it lately");
    world.mirror.note_left();
    assert!(world.ownership.owns(&its, &world.mirror) && !world.ownership.owns(&others, &world.mirror));
    // A number that no packet gets yet takes nobody from it.
    let mut before = world.mirror.clone();
    let marks = before.elements.iter().filter(|element| matches!(element, RuleElement::Mark(..))).copied();
    for element in marks.collect::<Vec<_>>() {
        before.elements.remove(&element);
    }
    assert!(!world.ownership.owns(&its, &before));
    // kube-proxy has masqueraded all.
    let mut routed = world.mirror.clone();
    routed.servers.get_mut(&its).unwrap().real_servers[0].1.forwarding = ForwardingMethod::Local;
    routed.note_left();
    assert!(!world.ownership.owns(&its, &routed));
    let quiesced = world.resync();
    assert!(quiesced.to_string().contains("192.168.50.10:30080"), "{quiesced}");
    assert!(!quiesced.to_string().contains("30099"), "{quiesced}");
    world.ownership.exclude_cidrs = vec!["192.168.50.0/24".parse().unwrap()];
    assert!(!world.ownership.owns(&its, &world.mirror));
}

#[test]
fn what_an_element_has_named_stays_ours_under_its_mark() {
    let mut world = on_n1();
    plan(&mut world, node_port(TrafficPolicy::Local, &BOTH));
    let whole = world.mirror.clone();
    let changed = world.mirror.replace_elements(FastSet::default());
    let lost: Dirty = changed.iter().map(Subject::of_element).collect();
    assert!(whole.servers.keys().all(|vs| world.ownership.owns(vs, &world.mirror)));
    let repair = world.diff(&lost);
    world.execute(&repair);
    assert_eq!(world.mirror.elements, whole.elements);
    assert_eq!(of_stage(&repair, Stage::ServersAdd), [], "{repair}");
    // A restart reads the numbers back.
    let mut restarted = Mirror { servers: whole.servers.clone(), ..Mirror::default() };
    restarted.replace_elements(whole.elements.iter().copied().collect());
    assert_eq!(restarted.marks, whole.marks);
}

/// The same with session affinity, on a node with two addresses for node ports.
fn with_affinity(seconds: u32, policy: TrafficPolicy) -> [ModelEvent; 2] {
    let [ModelEvent::ServiceApplied(mut service), slice] = node_port(policy, &BOTH) else { unreachable!() };
    service.affinity = NonZeroU32::new(seconds).map(|timeout_seconds| Affinity { timeout_seconds });
    [ModelEvent::ServiceApplied(service), slice]
}

fn on_two_addresses() -> PlannedKernel {
    let mut world = on_n1();
    move_to(&mut world, &["192.168.50.10", "192.168.60.10"]);
    world
}

fn move_to(world: &mut PlannedKernel, addresses: &[&str]) {
    let addresses = addresses.iter().map(|addr| (ip(addr), "eth0".to_owned())).collect();
    world.facts = NodeFacts::new(&BTreeMap::new(), addresses, &NodePortAddresses::All);
    let plan = world.resync();
    world.execute(&plan);
}

/// Conformance: ipvs/proxier TestSessionAffinity
/// Conformance: e2e/service should have session affinity timeout work for NodePort service
#[test]
fn a_node_port_with_affinity_is_one_persistent_virtual_server_for_each_address() {
    let mut world = on_two_addresses();
    let first = plan(&mut world, with_affinity(60, TrafficPolicy::Cluster));
    for addr in ["192.168.50.10", "192.168.60.10"] {
        assert!(
            first.contains(&format!("add virtual server {addr}:30080/TCP rr persistent 60s/32")),
            "{first}"
        );
        assert!(first.contains(&format!("add element masquerade {addr}:30080/TCP")), "{first}");
    }
    assert!(!first.contains("fwmark") && !first.contains("marks"), "{first}");
    let local = plan(&mut world, with_affinity(60, TrafficPolicy::Local));
    assert!(local.contains("add virtual server fwmark"), "{local}");
}

/// Conformance: e2e/service should be able to switch session affinity for NodePort service
#[test]
fn switching_affinity_leaves_no_moment_without_real_servers() {
    let mut world = on_two_addresses();
    plan(&mut world, with_affinity(0, TrafficPolicy::Cluster));
    let on = plan(&mut world, with_affinity(60, TrafficPolicy::Cluster));
    let position = |plan: &str, text: &str| {
        plan.lines().position(|line| line.starts_with(text)).unwrap_or_else(|| panic!("{text}: {plan}"))
    };
    let order = [
        "add element unmarked 0.0.0.0:30080/TCP",
        "add real server 10.244.0.11:8080 to 192.168.60.10:30080/TCP",
        "delete element marks 0.0.0.0:30080/TCP",
        "set real server 10.244.0.11:8080 of fwmark",
    ];
    assert!(order.map(|text| position(&on, text)).is_sorted(), "{on}");
    assert!(!on.contains("no-endpoints"), "{on}");
    let off = plan(&mut world, with_affinity(0, TrafficPolicy::Cluster));
    let order = [
        "set real server 10.244.0.11:8080 of fwmark",
        "add element marks 0.0.0.0:30080/TCP",
        "delete element unmarked 0.0.0.0:30080/TCP",
        "set real server 10.244.0.11:8080 of 192.168.50.10:30080/TCP",
    ];
    assert!(order.map(|text| position(&off, text)).is_sorted(), "{off}");
    assert!(!off.contains("no-endpoints"), "{off}");
    // Nobody is cut, and nobody waits for a deadline.
    let causes: BTreeSet<_> = world.drains.iter().map(|(_, drain)| drain.cause).collect();
    assert_eq!(causes, [Cause::NotChosen].into());
}

#[test]
fn virtual_servers_by_address_go_with_the_address() {
    let mut world = on_two_addresses();
    plan(&mut world, with_affinity(60, TrafficPolicy::Cluster));
    let service = world.model.services().next().unwrap().clone();
    assert!(crate::has_node_ports_by_address(&service, world.config.node_port_servers));
    move_to(&mut world, &["192.168.60.10"]);
    world.model.mark_dirty(service.name.clone());
    let gone = plan(&mut world, [ModelEvent::ServiceDeleted(ServiceName::new("default", "another"))]);
    assert_eq!(
        gone,
        "set real server 10.244.0.11:8080 of 192.168.50.10:30080/TCP Masq weight 0\n\
         set real server 10.244.1.12:8080 of 192.168.50.10:30080/TCP Masq weight 0\n"
    );
    // Its connections have moved with it, unless it comes back soon.
    let causes: BTreeSet<_> = world.drains.iter().map(|(_, drain)| drain.cause).collect();
    assert_eq!(causes, [Cause::AddressLeft].into());
    move_to(&mut world, &["192.168.50.10", "192.168.60.10"]);
    world.model.mark_dirty(service.name);
    let back = plan(&mut world, [ModelEvent::ServiceDeleted(ServiceName::new("default", "another"))]);
    assert!(
        back.contains("set real server 10.244.0.11:8080 of 192.168.50.10:30080/TCP Masq weight 1"),
        "{back}"
    );
    assert!(world.drains.is_empty());
}

/// Clients of the addresses are refused under the mark again when nobody wants the addresses either.
#[test]
fn a_node_port_that_is_given_up_after_it_moved_leaves_no_tag_behind() {
    let mut world = on_two_addresses();
    plan(&mut world, with_affinity(0, TrafficPolicy::Cluster));
    plan(&mut world, with_affinity(60, TrafficPolicy::Cluster));
    let gone = plan(&mut world, [deleted()]);
    assert!(gone.contains("add element marks 0.0.0.0:30080/TCP"), "{gone}");
    assert!(gone.contains("delete element unmarked 0.0.0.0:30080/TCP"), "{gone}");
    for server in world.mirror.servers.values_mut() {
        server.real_servers.clear();
    }
    let plan = world.resync();
    world.execute(&plan);
    assert!(world.mirror.elements.iter().all(|element| element.front().is_none()), "{plan}");
    assert!(world.mirror.servers.is_empty(), "{plan}");
}

/// Clients keep their address under a Local policy, although virtual servers at the addresses still drain.
#[test]
fn a_node_port_that_moves_from_its_addresses_to_a_mark_leaves_no_masquerade_behind() {
    let mut world = on_two_addresses();
    plan(&mut world, with_affinity(60, TrafficPolicy::Cluster));
    let local = plan(&mut world, with_affinity(60, TrafficPolicy::Local));
    for addr in ["192.168.50.10", "192.168.60.10"] {
        assert!(local.contains(&format!("delete element masquerade {addr}:30080/TCP\n")), "{local}");
        assert!(!local.contains(&format!("delete element services {addr}:30080/TCP\n")), "{local}");
    }
    world.config.node_port_servers = NodePortServers::Address;
    plan(&mut world, with_affinity(0, TrafficPolicy::Cluster));
    let local = plan(&mut world, with_affinity(0, TrafficPolicy::Local));
    assert!(local.contains("delete element masquerade 192.168.50.10:30080/TCP\n"), "{local}");
}

/// An external address of a Service may be an address of the node, and its port the node port of the same Service.
#[test]
fn a_place_that_a_service_has_twice_is_counted_once() {
    let mut world = on_two_addresses();
    let [ModelEvent::ServiceApplied(mut service), slice] = with_affinity(60, TrafficPolicy::Cluster) else {
        unreachable!()
    };
    service.external_ips = external_service("x", "192.168.50.10", 1).external_ips;
    service.ports[0].port = 30080.try_into().unwrap();
    plan(&mut world, [ModelEvent::ServiceApplied(service.clone()), slice]);
    let vip = ip("192.168.50.10");
    assert_eq!(world.desired.binding(&vip), Some(Binding::Node));
    service.affinity = None;
    plan(&mut world, [ModelEvent::ServiceApplied(service.clone())]);
    service.external_ips.clear();
    plan(&mut world, [ModelEvent::ServiceApplied(service)]);
    assert_eq!(world.desired.binding(&vip), None);
}

/// Conformance: ipvs/proxier TestNodePortIPv4: node port service with protocol sctp...multiple nodeIPs
#[test]
fn all_node_ports_may_have_virtual_servers_by_address() {
    let mut world = on_two_addresses();
    world.config.node_port_servers = NodePortServers::Address;
    let first = plan(&mut world, with_affinity(0, TrafficPolicy::Cluster));
    assert!(first.contains("add virtual server 192.168.50.10:30080/TCP rr\n"), "{first}");
}

/// Packets to a node port have its mark, so that nothing else may be decided about them.
#[test]
fn an_external_ip_of_the_node_leaves_a_port_that_is_a_node_port_to_that() {
    let mut world = on_n1();
    let mut other = external_service("other", "192.168.50.10", 30080);
    let first = plan(&mut world, [ModelEvent::ServiceApplied(other.clone())]);
    assert!(first.contains("add virtual server 192.168.50.10:30080/TCP"), "{first}");
    assert_eq!(world.problems(&other.name), []);
    // Whoever comes first.
    let node_port = plan(&mut world, node_port(TrafficPolicy::Cluster, &BOTH));
    for line in ["virtual server", "element services", "element no-endpoints"] {
        assert!(node_port.contains(&format!("delete {line} 192.168.50.10:30080/TCP\n")), "{node_port}");
    }
    let kind = ProblemKind::PortIsNodePort {
        port: "192.168.50.10:30080/TCP".parse().unwrap(),
        winner: ServiceName::new("default", "web"),
    };
    let problem = IntentProblem { service: other.name.clone(), kind };
    assert!(problem.to_string().contains("a node port of Service default/web"), "{problem}");
    assert_eq!(world.problems(&other.name), std::slice::from_ref(&problem));
    assert_eq!(world.problems(&ServiceName::new("default", "web")), []);
    let back = plan(&mut world, [deleted()]);
    assert!(back.contains("add virtual server 192.168.50.10:30080/TCP"), "{back}");
    assert_eq!(world.problems(&other.name), []);
    // Neither another port nor an address at which node ports are not served is concerned.
    plan(&mut world, super::node_ports::node_port(TrafficPolicy::Cluster, &BOTH));
    assert_eq!(world.problems(&other.name), [problem]);
    let served = std::mem::take(&mut world.facts.node_ports);
    assert_eq!(world.problems(&other.name), []);
    world.facts.node_ports = served;
    other.ports[0].port = 30081.try_into().unwrap();
    plan(&mut world, [ModelEvent::ServiceApplied(other.clone())]);
    assert_eq!(world.problems(&other.name), []);
}

/// Source ranges of a front that drains do not hold for the node port that has taken its place.
#[test]
fn source_ranges_go_with_the_port_that_a_node_port_takes_over() {
    let mut world = on_n1();
    let mut other = external_service("other", "192.168.50.10", 30080);
    other.external_ips[0].source = service_model::ExternalSource::LoadBalancer;
    let v4 = Some(["203.0.113.0/24".parse().unwrap()].into());
    other.source_ranges = Some(service_model::SourceRanges { v4, v6: None }.into());
    let endpoints = slice("other", Protocol::Tcp, &[("10.244.0.21", true)]);
    let first = plan(&mut world, [ModelEvent::ServiceApplied(other), endpoints]);
    assert!(first.contains("add element restricted 192.168.50.10:30080/TCP"), "{first}");
    let taken = plan(&mut world, node_port(TrafficPolicy::Cluster, &BOTH));
    assert!(
        taken.contains("set real server 10.244.0.21:8080 of 192.168.50.10:30080/TCP Masq weight 0"),
        "{taken}"
    );
    assert!(taken.contains("delete element restricted 192.168.50.10:30080/TCP"), "{taken}");
}

/// A number may be the port of one port of a Service and the node port of another.
#[test]
fn an_external_ip_of_the_node_leaves_a_port_to_a_node_port_of_the_same_service() {
    let mut world = on_n1();
    let mut service = external_service("web", "192.168.50.10", 30080);
    let [first, second] = [(30080, 31000), (80, 30080)].map(|(port, node_port): (u16, u16)| ServicePort {
        name: port.to_string().into(),
        port: port.try_into().unwrap(),
        node_port: node_port.try_into().ok(),
        ..service.ports[0].clone()
    });
    for ports in [[first.clone(), second.clone()], [second, first]] {
        service.ports = ports.to_vec();
        world.model.apply(ModelEvent::ServiceApplied(service.clone()));
        let (intent, problems) = desire_service(&service, &world.model, world.context());
        let at = "192.168.50.10:30080/TCP".parse::<lb_types::VipPort>().unwrap();
        assert!(intent.fronts.iter().all(|want| want.front.port != at), "{intent:?}");
        let kinds: Vec<_> = problems.iter().map(|problem| &problem.kind).collect();
        assert!(matches!(kinds[..], [ProblemKind::PortIsNodePort { port, .. }] if *port == at), "{kinds:?}");
    }
}

fn external_service(name: &str, addr: &str, port: u16) -> Service {
    let mut service = service(name, &["10.96.0.90"], Protocol::Tcp);
    let source = service_model::ExternalSource::ExternalIps;
    service.external_ips = vec![service_model::ExternalIp { addr: ip(addr), source }];
    service.ports[0].port = port.try_into().unwrap();
    service
}
