//! Bindings of VIPs: the choice, and the writes that move a VIP from one to another.

use std::sync::Arc;

use lb_types::VipBinding;
use service_model::ExternalIpBinding;

use super::*;
use crate::{Bindings, Choice};

const VIP: &str = "192.0.2.7";
const BALANCER: &str = "192.0.2.8";

/// Bindings that let a Service choose for its external IPs.
fn free() -> Bindings {
    Bindings { external_cidrs: vec!["192.0.2.0/24".parse().unwrap()], ..Bindings::default() }
}

fn on_n1(bindings: Bindings) -> PlannedKernel {
    let config = PlannerConfig { bindings, ..PlannerConfig::default() };
    PlannedKernel { model: ServiceModel::on_node("n1"), config, ..PlannedKernel::new() }
}

/// A Service with the first of the two addresses and one endpoint, or the second one, and its annotation.
fn wants(source: ExternalSource, wish: Option<ExternalIpBinding>) -> [ModelEvent; 2] {
    let [ModelEvent::ServiceApplied(mut service), slice] = external(TrafficPolicy::Cluster, &BOTH[..1])
    else {
        unreachable!()
    };
    service.external_ips.retain(|external| external.source == source);
    service.settings.external_ip_binding = wish.map(Arc::new);
    [ModelEvent::ServiceApplied(service), slice]
}

fn all(binding: VipBinding) -> Option<ExternalIpBinding> {
    Some(ExternalIpBinding { others: Some(binding), of: Vec::new() })
}

/// Lines of the plan about the address, without those of the virtual server itself.
fn lines(plan: &Plan) -> String {
    let is_meant = |line: &&str| {
        let of_binding = ["ensure ", "delete route", "delete address", "delete rule", "vips", "steered"];
        !line.contains("10.96.") && of_binding.iter().any(|word| line.contains(word))
    };
    plan.to_string().lines().filter(is_meant).map(|line| format!("{line}\n")).collect()
}

fn plan(world: &mut PlannedKernel, events: [ModelEvent; 2]) -> String {
    let mut dirty = Dirty::default();
    for event in events {
        dirty.extend(world.replace(event));
    }
    let plan = world.diff(&dirty);
    world.execute(&plan);
    lines(&plan)
}

#[test]
fn the_operator_then_the_service_then_the_kind_decides() {
    let excluded = || Bindings { excluded: vec!["192.0.2.0/29".parse().unwrap()], ..Bindings::default() };
    let named =
        Some(ExternalIpBinding { others: Some(VipBinding::Route), of: vec![(ip(VIP), VipBinding::Address)] });
    let defaults = Bindings::default;
    let listed = || Bindings { external_cidrs: vec!["192.0.2.7/32".parse().unwrap()], ..defaults() };
    let by_kind =
        || Bindings { external_ip: VipBinding::Address, load_balancer: VipBinding::None, ..defaults() };
    let (external, balancer) = (ExternalSource::ExternalIps, ExternalSource::LoadBalancer);
    for (what, bindings, source, wish, expect) in [
        ("default", defaults(), external, None, "steer: --external-ip-binding"),
        ("default", defaults(), balancer, None, "steer: --load-balancer-ip-binding"),
        ("flags", by_kind(), external, None, "address: --external-ip-binding"),
        ("flags", by_kind(), balancer, None, "none: --load-balancer-ip-binding"),
        ("annotation", by_kind(), balancer, all(VipBinding::Route), "route: annotation"),
        ("annotation of the address", listed(), external, named.clone(), "address: annotation"),
        (
            "annotation that reaches too far",
            defaults(),
            external,
            named.clone(),
            "steer: --external-ip-binding",
        ),
        ("annotation of the others", defaults(), balancer, named, "route: annotation"),
        ("excluded", excluded(), external, all(VipBinding::Route), "none: --exclude-external-ips"),
        ("not excluded", excluded(), balancer, None, "steer: --load-balancer-ip-binding"),
    ] {
        let mut world = on_n1(bindings);
        plan(&mut world, wants(source, wish));
        let vip = ip(if source == external { VIP } else { BALANCER });
        let (binding, reason) = world.desired.external_bindings()[&vip];
        let binding = binding.map_or("none".to_owned(), |binding| binding.to_string());
        assert!(format!("{binding}: {reason}").starts_with(expect), "{what}: {binding}: {reason}");
    }
}

#[test]
fn what_is_of_the_node_stays_the_nodes() {
    let service = service("web", &[WEB], Protocol::Tcp);
    let mut world = on_n1(Bindings::default());
    world.facts.addresses.insert(ip(VIP), "eth1".to_owned());
    let source = Some(ExternalSource::ExternalIps);
    let Choice { binding, .. } = Bindings::choose(&service, ip(VIP), source, &world.config, &world.facts);
    assert_eq!(binding, Some(Binding::Node));
    let Choice { binding, reason, .. } =
        Bindings::choose(&service, ip(WEB), None, &world.config, &world.facts);
    assert_eq!((binding, reason.to_string().as_str()), (Some(Binding::Route), "--cluster-ip-binding"));
}

/// A program of the node, such as keepalived, may bring an address to the node whose ports another one has.
#[test]
fn what_is_bound_to_no_node_has_no_virtual_server_at_an_address_of_the_node_either() {
    let source = ExternalSource::ExternalIps;
    let of_node = |world: &mut PlannedKernel| _ = world.facts.addresses.insert(ip(VIP), "eth1".to_owned());
    let excluded = Bindings { excluded: vec!["192.0.2.7/32".parse().unwrap()], ..free() };
    let flag = Bindings { external_ip: VipBinding::None, ..free() };
    for (what, bindings, wish, expect) in [
        ("annotation", free(), all(VipBinding::None), "annotation kube-ipvs.io/external-ip-binding"),
        ("flag", flag, None, "--external-ip-binding"),
        ("excluded", excluded, all(VipBinding::Route), "--exclude-external-ips"),
    ] {
        let mut world = on_n1(bindings);
        of_node(&mut world);
        plan(&mut world, wants(source, wish));
        let (binding, reason) = world.desired.external_bindings()[&ip(VIP)];
        assert_eq!((binding, reason.to_string().as_str()), (None, expect), "{what}");
        assert_eq!(world.mirror.fronts_on(ip(VIP)).count(), 0, "{what}");
    }
    // What is served there, or is steered still, goes at once.
    let mut world = on_n1(free());
    of_node(&mut world);
    plan(&mut world, wants(source, all(VipBinding::Steer)));
    assert_eq!(world.mirror.fronts_on(ip(VIP)).count(), 1);
    plan(&mut world, wants(source, all(VipBinding::None)));
    assert_eq!(world.mirror.fronts_on(ip(VIP)).count(), 0);
    let mut world = on_n1(free());
    plan(&mut world, wants(source, None));
    plan(&mut world, wants(source, all(VipBinding::None)));
    assert_eq!(world.mirror.fronts_on(ip(VIP)).count(), 1, "connections go on");
    of_node(&mut world);
    let plan = world.resync();
    world.execute(&plan);
    assert_eq!(world.mirror.fronts_on(ip(VIP)).count(), 0, "{plan}");
    assert!(world.resync().is_empty(), "{}", world.resync());
}

#[test]
fn annotations_count_only_where_they_may() {
    let mut world = on_n1(Bindings::default());
    world.config.service_overrides = ServiceOverrides::Graceful;
    let [ModelEvent::ServiceApplied(service), _] = wants(ExternalSource::ExternalIps, all(VipBinding::Route))
    else {
        unreachable!()
    };
    let (intent, problems) = desire_service(&service, &world.model, world.context());
    assert_eq!(intent.fronts.last().unwrap().binding, Binding::Steer);
    let text: String = problems.iter().map(|problem| format!("{problem}\n")).collect();
    assert_lines(&text, &["/external-ip-binding]: not allowed"]);
}

#[test]
fn addresses_that_nobody_may_capture_are_refused() {
    let mut world =
        on_n1(Bindings { external_cidrs: vec!["192.0.2.0/29".parse().unwrap()], ..Bindings::default() });
    world.config.pod_cidrs = vec!["10.244.0.0/16".parse().unwrap()];
    let mut service = service("web", &[WEB], Protocol::Tcp);
    service.external_ips = ["192.0.2.7", "203.0.113.1", "10.244.3.4"]
        .map(|addr| ExternalIp { addr: ip(addr), source: ExternalSource::ExternalIps })
        .to_vec();
    // Those of a load balancer are the cluster's own, and may be among the pods of a flat network.
    let balancers = ["203.0.113.9", "10.244.3.5"]
        .map(|addr| ExternalIp { addr: ip(addr), source: ExternalSource::LoadBalancer });
    service.external_ips.extend(balancers);
    let (intent, problems) = desire_service(&service, &world.model, world.context());
    let text: Vec<_> = problems.iter().map(IntentProblem::to_string).collect();
    let [foreign, of_pod] = &text[..] else { panic!("{text:?}") };
    assert!(foreign.contains("203.0.113.1 lies in none of the ranges of --external-ip-cidrs"), "{foreign}");
    assert!(of_pod.contains("10.244.3.4 lies in the range of pods 10.244.0.0/16"), "{of_pod}");
    let served: Vec<_> = intent.fronts.iter().map(|front| front.front.port.addr.to_string()).collect();
    assert_eq!(served, [WEB, "192.0.2.7", "203.0.113.9", "10.244.3.5"]);
    // Where nodes and pods share a network, an address of this node is no pod's.
    world.config.bindings = Bindings::default();
    world.facts.addresses.insert(ip("10.244.3.4"), "eth0".to_owned());
    let (_, problems) = desire_service(&service, &world.model, world.context());
    assert_eq!(problems, []);
}

/// Each binding is complete before the one before it goes, so that no connection is lost which both can carry.
#[test]
fn a_vip_moves_from_binding_to_binding() {
    let mut world = on_n1(free());
    let source = ExternalSource::ExternalIps;
    let steer = plan(&mut world, wants(source, None));
    assert_eq!(
        steer,
        "ensure rule IPv4 fwmark 0x1000/0x1000 lookup steering\n\
         add element steered-vips 192.0.2.7\n\
         ensure route local 192.0.2.7 table steering\n\
         add element steered 192.0.2.7:80/TCP\n"
    );
    let route = plan(&mut world, wants(source, all(VipBinding::Route)));
    assert_eq!(
        route,
        "add element vips 192.0.2.7\nadd element unanswered-vips 192.0.2.7\n\
         ensure route local 192.0.2.7 src 192.168.50.10\n\
         delete route local 192.0.2.7 table steering\n\
         delete element steered-vips 192.0.2.7\n\
         delete element steered 192.0.2.7:80/TCP\n"
    );
    let address = plan(&mut world, wants(source, all(VipBinding::Address)));
    assert_eq!(
        address,
        "ensure address 192.0.2.7 of kube-ipvs0\n\
         delete route local 192.0.2.7\n\
         delete element unanswered-vips 192.0.2.7\n"
    );
    let steer = plan(&mut world, wants(source, all(VipBinding::Steer)));
    assert_eq!(
        steer,
        "add element steered-vips 192.0.2.7\n\
         ensure route local 192.0.2.7 table steering\n\
         add element steered 192.0.2.7:80/TCP\n\
         delete address 192.0.2.7 of kube-ipvs0\n\
         delete element vips 192.0.2.7\n"
    );
    assert!(world.resync().is_empty(), "{}", world.resync());
}

/// Known connections go on where steering can tell them; where it cannot, the address is left at once.
#[test]
fn a_vip_that_is_bound_to_no_node_any_more() {
    let source = ExternalSource::ExternalIps;
    let mut world = on_n1(free());
    plan(&mut world, wants(source, None));
    let none = plan(&mut world, wants(source, all(VipBinding::None)));
    assert_eq!(none, "add element steered-known 192.0.2.7:80/TCP\ndelete element steered 192.0.2.7:80/TCP\n");
    let back = plan(&mut world, wants(source, None));
    assert_eq!(back, "add element steered 192.0.2.7:80/TCP\ndelete element steered-known 192.0.2.7:80/TCP\n");
    plan(&mut world, wants(source, all(VipBinding::Route)));
    let none = plan(&mut world, wants(source, all(VipBinding::None)));
    assert_eq!(
        none,
        "delete route local 192.0.2.7\ndelete element vips 192.0.2.7\ndelete element unanswered-vips 192.0.2.7\n"
    );
}

/// Where Services share a VIP, the binding that reaches furthest holds.
#[test]
fn the_widest_reach_wins() {
    let mut world = on_n1(free());
    plan(&mut world, wants(ExternalSource::ExternalIps, None));
    let other = on_port_81(VipBinding::Route);
    let shared = lines(&world.sync(ModelEvent::ServiceApplied(other.clone())));
    assert_eq!(
        shared,
        "add element vips 192.0.2.7\nadd element unanswered-vips 192.0.2.7\nensure route local 192.0.2.7 src 192.168.50.10\ndelete route local 192.0.2.7 table steering\n\
         delete element steered-vips 192.0.2.7\n"
    );
    let again = world.resync();
    assert!(again.is_empty(), "{again}");
    // The one that asks for less is told, whoever comes first.
    let web = ServiceName::new("default", "web");
    let kind = ProblemKind::BoundFurther { vip: ip(VIP), own: Some(Binding::Steer), binding: Binding::Route };
    let problem = IntentProblem { service: web.clone(), kind };
    assert_eq!(world.conflicts(&web), std::slice::from_ref(&problem));
    assert_eq!(world.conflicts(&other.name), []);
    assert!(problem.to_string().contains("the binding of 192.0.2.7 is route"), "{problem}");
    for (name, of_none) in [(&other.name, &[web.clone()][..]), (&web, &[])] {
        let intent = desire_service(world.model.service(name).unwrap(), &world.model, world.context()).0;
        let rivals = world.desired.replace(name, None, &mut Changes::default());
        assert_eq!(rivals, of_none.iter().cloned().collect());
        assert_eq!(world.conflicts(&web), []);
        // Conflicts are looked for again where there is a rival.
        let rivals = world.desired.replace(name, Some(intent), &mut Changes::default());
        assert_eq!(rivals.len(), 1);
    }
    assert_eq!(world.conflicts(&web), [problem]);
    let alone = lines(&world.sync(ModelEvent::ServiceDeleted(other.name)));
    assert_eq!(world.conflicts(&web), []);
    assert_eq!(
        alone,
        "add element steered-vips 192.0.2.7\nensure route local 192.0.2.7 table steering\n\
         delete route local 192.0.2.7\ndelete element vips 192.0.2.7\ndelete element unanswered-vips 192.0.2.7\n"
    );
}

/// A Service whose only external address is `VIP`, with port 81.
fn on_port_81(binding: VipBinding) -> Service {
    let mut other = service("other", &["10.96.0.81"], Protocol::Tcp);
    other.external_ips = vec![ExternalIp { addr: ip(VIP), source: ExternalSource::ExternalIps }];
    other.ports[0].port = 81.try_into().unwrap();
    other.settings.external_ip_binding = all(binding).map(Arc::new);
    other
}

/// A Service that binds its address to no node is told who takes its packets there.
#[test]
fn whoever_binds_an_address_to_no_node_is_told_who_takes_it() {
    let source = ExternalSource::ExternalIps;
    let web = ServiceName::new("default", "web");
    for (binding, taken) in
        [(VipBinding::Steer, false), (VipBinding::Route, true), (VipBinding::Address, true)]
    {
        let mut world = on_n1(free());
        plan(&mut world, wants(source, all(VipBinding::None)));
        assert_eq!(world.conflicts(&web), []);
        let other = on_port_81(binding);
        let intent = |world: &PlannedKernel| desire_service(&other, &world.model, world.context()).0;
        let both = BTreeSet::from([web.clone()]);
        let rivals = world.desired.replace(&other.name, Some(intent(&world)), &mut Changes::default());
        assert_eq!(rivals, both, "{binding}: it is looked at again");
        let [problem] = &world.conflicts(&web)[..] else { panic!("{binding}: {:?}", world.conflicts(&web)) };
        let text = problem.to_string();
        assert!(text.contains(&format!("the binding of 192.0.2.7 is {binding}")), "{text}");
        assert!(text.contains("not none"), "{text}");
        assert_eq!(text.contains("refuses ports that only this Service has"), taken, "{text}");
        assert_eq!(world.conflicts(&other.name), []);
        // Whoever comes later is told, too, and not any more when the other one goes.
        let unbound = desire_service(world.model.service(&web).unwrap(), &world.model, world.context()).0;
        world.desired.replace(&web, None, &mut Changes::default());
        let rivals = world.desired.replace(&web, Some(unbound), &mut Changes::default());
        assert_eq!(rivals, BTreeSet::from([other.name.clone()]), "{binding}");
        assert_eq!(world.conflicts(&web).len(), 1);
        assert_eq!(world.desired.replace(&other.name, None, &mut Changes::default()), both);
        assert_eq!(world.conflicts(&web), []);
    }
}

/// The load balancer has said so, not the Service, which can do nothing about it.
#[test]
fn whoever_has_a_proxy_is_told_nothing_of_its_address() {
    let mut world = on_n1(free());
    let mut web = service("web", &[WEB], Protocol::Tcp);
    web.external_ips = vec![ExternalIp { addr: ip(VIP), source: ExternalSource::Proxy }];
    world.sync(ModelEvent::ServiceApplied(web.clone()));
    world.sync(ModelEvent::ServiceApplied(on_port_81(VipBinding::Route)));
    assert_eq!(world.conflicts(&web.name), []);
}

/// Under a Local policy nobody is masqueraded but processes of the node, where another Service makes the VIP their source.
#[test]
fn masquerading_follows_the_binding_that_holds() {
    let mut world = on_n1(free());
    let [ModelEvent::ServiceApplied(mut web), slice] = wants(ExternalSource::ExternalIps, None) else {
        unreachable!()
    };
    web.external_traffic_policy = TrafficPolicy::Local;
    plan(&mut world, [ModelEvent::ServiceApplied(web), slice]);
    let port = VipPort { addr: ip(VIP), protocol: Protocol::Tcp, port: 80.try_into().unwrap() };
    let is_masqueraded =
        |world: &PlannedKernel| world.mirror.elements.contains(&RuleElement::MasqueradeVips(port));
    assert!(!is_masqueraded(&world));
    for (binding, expect) in
        [(VipBinding::Address, true), (VipBinding::Route, false), (VipBinding::Address, true)]
    {
        world.sync(ModelEvent::ServiceApplied(on_port_81(binding)));
        assert_eq!(is_masqueraded(&world), expect, "{binding}");
        assert!(world.resync().is_empty(), "{binding}: {}", world.resync());
    }
    world.sync(ModelEvent::ServiceDeleted(on_port_81(VipBinding::None).name));
    assert!(!is_masqueraded(&world));
    assert!(world.resync().is_empty(), "{}", world.resync());
}

#[test]
fn another_bit_has_another_rule() {
    let mut world = on_n1(Bindings::default());
    plan(&mut world, wants(ExternalSource::ExternalIps, None));
    world.config.layout.steer_bit = 13;
    let plan = world.resync();
    assert_eq!(
        lines(&plan),
        "ensure rule IPv4 fwmark 0x2000/0x2000 lookup steering\ndelete rule IPv4 fwmark 0x1000/0x1000 lookup steering\n"
    );
    world.execute(&plan);
    assert!(world.resync().is_empty());
}

/// Load balancers may ask for the health of a Service at those of its addresses alone that are bound here.
#[test]
fn health_checks_are_answered_at_the_load_balancers_addresses_that_are_bound_here() {
    let at = |addr: &str, source| ExternalIp { addr: ip(addr), source };
    let (balancer, external) = (ExternalSource::LoadBalancer, ExternalSource::ExternalIps);
    for (what, external_ip, wish, expect) in [
        ("steered", at(BALANCER, balancer), None, true),
        ("routed", at(BALANCER, balancer), all(VipBinding::Route), true),
        ("bound to no node", at(BALANCER, balancer), all(VipBinding::None), false),
        ("among the ClusterIPs", at("10.96.0.99", balancer), None, false),
        ("not of the load balancer", at(BALANCER, external), None, false),
    ] {
        let mut web = service("web", &[WEB], Protocol::Tcp);
        web.external_ips = vec![external_ip];
        web.external_traffic_policy = TrafficPolicy::Local;
        web.health_check_port = NonZeroU16::new(31080);
        web.settings.external_ip_binding = wish.map(Arc::new);
        let mut world = on_n1(Bindings::default());
        world.sync(ModelEvent::ServiceApplied(web));
        let port =
            VipPort { addr: external_ip.addr, protocol: Protocol::Tcp, port: 31080.try_into().unwrap() };
        assert_eq!(world.mirror.elements.contains(&RuleElement::HealthCheck(port)), expect, "{what}");
        assert_eq!(world.desired.elements().has(RuleElement::HealthCheck(port)), expect, "{what}");
        assert_eq!(world.desired.health_checks().count(), 1, "{what}: the node port answers all the same");
    }
}

/// Clients are to pass a load balancer that is a proxy from the moment on at which it says so.
#[test]
fn the_address_of_a_proxy_is_left_at_once() {
    let proxied = |mut events: [ModelEvent; 2]| {
        let [ModelEvent::ServiceApplied(service), _] = &mut events else { unreachable!() };
        service.external_ips[0].source = ExternalSource::Proxy;
        events
    };
    let source = ExternalSource::LoadBalancer;
    for binding in [VipBinding::Route, VipBinding::Address] {
        let mut world = on_n1(free());
        plan(&mut world, wants(source, all(binding)));
        assert_eq!(world.mirror.fronts_on(ip(BALANCER)).count(), 1);
        let left = plan(&mut world, proxied(wants(source, all(binding))));
        let is_gone = left.contains("delete element vips 192.0.2.8") && !left.contains("no-endpoints");
        assert!(is_gone, "{binding}: {left}");
        let (bound, reason) = world.desired.external_bindings()[&ip(BALANCER)];
        assert_eq!((bound, reason.to_string().as_str()), (None, "ipMode: Proxy"));
        assert_eq!(world.mirror.fronts_on(ip(BALANCER)).count(), 0, "{binding}");
        assert!(world.resync().is_empty(), "{binding}: {}", world.resync());
        plan(&mut world, wants(source, all(binding)));
        assert_eq!(world.mirror.fronts_on(ip(BALANCER)).count(), 1, "{binding}: back again");
    }
    let mut world = on_n1(free());
    plan(&mut world, wants(source, None));
    let left = plan(&mut world, proxied(wants(source, None)));
    assert!(left.starts_with("add element steered-known 192.0.2.8:80/TCP\n"), "connections go on: {left}");
}

/// Nothing but the line of the plan comes of an address that is a proxy's.
#[test]
fn the_address_of_a_proxy_counts_for_nothing_else() {
    let mut web = service("web", &[WEB], Protocol::Tcp);
    web.external_traffic_policy = TrafficPolicy::Local;
    web.health_check_port = NonZeroU16::new(31080);
    let mut world = on_n1(Bindings::default());
    world.facts.addresses.insert(ip(BALANCER), "eth1".to_owned());
    let (plain, _) = desire_service(&web, &world.model, world.context());
    // The last one would be refused to a VIP.
    web.external_ips = [BALANCER, "10.96.0.99"]
        .map(|addr| ExternalIp { addr: ip(addr), source: ExternalSource::Proxy })
        .to_vec();
    assert_eq!(world.facts.shared_ports(&web), []);
    let (intent, problems) = desire_service(&web, &world.model, world.context());
    assert_eq!(problems, []);
    assert_eq!(
        (intent.fronts, intent.health_check, intent.no_local),
        (plain.fronts, plain.health_check, plain.no_local)
    );
    assert!(intent.unbound.iter().all(|(vip, _)| *vip != ip("10.96.0.99")), "{:?}", intent.unbound);
}
