//! Source ranges of load balancers.

use lb_types::VipBinding;
use service_model::SourceRanges;

use super::*;

/// A Service whose second external address is of a load balancer with these ranges.
fn balanced(ranges: Option<&[&str]>) -> ModelEvent {
    let [ModelEvent::ServiceApplied(mut service), _] = external(TrafficPolicy::Cluster, &BOTH) else {
        unreachable!()
    };
    let v4 = ranges.map(|ranges| ranges.iter().map(|text| text.parse().unwrap()).collect());
    service.source_ranges = Some(SourceRanges { v4, v6: None }.into());
    ModelEvent::ServiceApplied(service)
}

/// Lines of a plan about ranges.
fn about_ranges(plan: &Plan) -> Vec<String> {
    let text = plan.to_string();
    text.lines()
        .filter(|line| line.contains("restricted") || line.contains("allowed"))
        .map(str::to_owned)
        .collect()
}

/// Conformance: ipvs/proxier TestLoadBalancerSourceRanges
#[test]
fn ranges_are_there_before_the_address_and_hold_for_it_alone() {
    let mut world = PlannedKernel::new();
    let plan = world.sync(balanced(Some(&["10.0.0.0/8", "192.0.2.0/24"])));
    assert_eq!(
        about_ranges(&plan),
        [
            "add element restricted 192.0.2.8:80/TCP",
            "add element allowed 192.0.2.8:80/TCP 10.0.0.0/8",
            "add element allowed 192.0.2.8:80/TCP 192.0.2.0/24",
        ]
    );
    let at = |part: &str| plan.operations().position(|op| op.to_string().contains(part)).unwrap();
    assert!(at("allowed") < at("add virtual server") && at("restricted") < at("ensure route"));
    assert!(world.resync().is_empty());
}

#[test]
fn an_edit_is_one_transaction_and_opens_the_port_to_nobody_else() {
    let mut world = PlannedKernel::new();
    world.sync(balanced(Some(&["10.0.0.0/8"])));
    let edit = world.sync(balanced(Some(&["10.1.0.0/16", "10.2.0.0/16"])));
    assert_eq!(
        edit.to_string(),
        "delete element allowed 192.0.2.8:80/TCP 10.0.0.0/8\n\
         add element allowed 192.0.2.8:80/TCP 10.1.0.0/16\n\
         add element allowed 192.0.2.8:80/TCP 10.2.0.0/16\n",
        "what overlaps goes first"
    );
    assert_eq!(edit.stages().map(|(stage, _)| stage).collect::<Vec<_>>(), [Stage::RulesAdd]);
    let nobody = world.sync(balanced(Some(&[])));
    assert_eq!(about_ranges(&nobody).len(), 2, "it stays restricted: {nobody}");
    let open = world.sync(balanced(None));
    assert_eq!(about_ranges(&open), ["delete element restricted 192.0.2.8:80/TCP"]);
    assert!(world.mirror.allowed.is_empty() && world.resync().is_empty());
}

#[test]
fn a_deleted_service_stays_closed_while_it_drains() {
    for binding in [VipBinding::Route, VipBinding::Address] {
        let mut world = PlannedKernel::new();
        world.config.bindings.load_balancer = binding;
        world.sync(balanced(Some(&["10.0.0.0/8"])));
        world.sync(external(TrafficPolicy::Cluster, &BOTH)[1].clone());
        let draining = world.sync(ModelEvent::ServiceDeleted(ServiceName::new("default", "web")));
        assert_eq!(about_ranges(&draining), [""; 0], "{draining}");
        for server in world.mirror.servers.values_mut() {
            server.real_servers.clear();
        }
        let gone = world.resync();
        world.execute(&gone);
        assert_eq!(about_ranges(&gone).len(), 2, "{gone}");
        assert!(world.mirror.allowed.is_empty() && world.mirror.elements.iter().all(|e| e.front().is_none()));
    }
}

/// Its known connections are steered until they end, and new ones go where routing leads, whoever the client is.
#[test]
fn a_steered_address_that_is_given_up_is_restricted_no_more() {
    let mut world = PlannedKernel::new();
    world.sync(balanced(Some(&["10.0.0.0/8"])));
    world.sync(external(TrafficPolicy::Cluster, &BOTH)[1].clone());
    let draining = world.sync(ModelEvent::ServiceDeleted(ServiceName::new("default", "web")));
    assert_eq!(
        about_ranges(&draining),
        ["delete element restricted 192.0.2.8:80/TCP", "delete element allowed 192.0.2.8:80/TCP 10.0.0.0/8",]
    );
    let removed = of_stage(&draining, Stage::RulesRemove);
    let count = |part: &str| removed.iter().filter(|op| op.to_string().contains(part)).count();
    let together =
        ["element steered 192.0.2.8:80", "element restricted 192.0.2.8:80", "element allowed 192.0.2.8:80"];
    assert_eq!(together.map(count), [1; 3], "in one transaction: {draining}");
    assert!(draining.to_string().contains("add element steered-known 192.0.2.8:80/TCP"), "{draining}");
}

#[test]
fn ranges_that_somebody_takes_away_come_back_and_others_go() {
    let mut world = PlannedKernel::new();
    world.sync(balanced(Some(&["10.0.0.0/8"])));
    let whole = world.mirror.clone();
    let port = "192.0.2.8:80/TCP".parse().unwrap();
    let strange = RuleElement::Allow(port, "0.0.0.0/0".parse().unwrap());
    let mut elements: FastSet<RuleElement> = whole.elements.iter().copied().collect();
    elements.remove(&RuleElement::Allow(port, "10.0.0.0/8".parse().unwrap()));
    elements.insert(strange);
    let changed = world.mirror.replace_elements(elements);
    let plan = world.diff(&changed.iter().map(Subject::of_element).collect());
    world.execute(&plan);
    assert_eq!(plan.len(), 2, "{plan}");
    assert_eq!(world.mirror, whole);
}

/// Where a VIP is an address of the node, its own processes call it from there.
#[test]
fn a_node_that_ranges_let_in_is_let_in_under_the_address_of_a_vip() {
    let ranges = |binding, ranges: &[&str]| {
        let mut world = PlannedKernel::new();
        world.config.bindings.load_balancer = binding;
        about_ranges(&world.sync(balanced(Some(ranges))))[1..].to_vec()
    };
    let node = ["192.168.50.0/24"];
    assert_eq!(
        ranges(VipBinding::Address, &node),
        [
            "add element allowed 192.0.2.8:80/TCP 192.168.50.0/24",
            "add element allowed 192.0.2.8:80/TCP 192.0.2.8/32"
        ]
    );
    assert_eq!(ranges(VipBinding::Address, &["10.0.0.0/8"]).len(), 1, "the node is not let in");
    assert_eq!(ranges(VipBinding::Address, &["192.0.0.0/8"]).len(), 1, "the VIP is among them");
    assert_eq!(ranges(VipBinding::Route, &node).len(), 1, "the node comes from its own address");
}

/// Under a Local policy clients outside have connections of their own, which may last longer than those of pods.
#[test]
fn known_connections_of_clients_outside_are_steered_until_they_end() {
    let mut world = PlannedKernel { model: ServiceModel::on_node("n1"), ..PlannedKernel::new() };
    for event in external(TrafficPolicy::Local, &BOTH) {
        world.sync(event);
    }
    world.sync(ModelEvent::ServiceDeleted(ServiceName::new("default", "web")));
    let any: Front = "192.0.2.8:80/TCP".parse::<VipPort>().unwrap().into();
    let known = RuleElement::SteerKnown(any.port);
    assert!(world.mirror.elements.contains(&known));
    let mut end = |front: Front| {
        let vs = world.mirror.key(&front).unwrap();
        world.mirror.servers.get_mut(&vs).unwrap().real_servers.clear();
        let plan = world.diff(&std::iter::once(Subject::Front(front)).collect());
        world.execute(&plan);
        (world.mirror.server(&front).is_none(), world.mirror.elements.contains(&known))
    };
    assert_eq!(end(any), (true, true));
    assert_eq!(end(any.for_external()), (true, false));
    assert!(world.resync().operations().all(|op| !op.to_string().contains("192.0.2.8")));
}
