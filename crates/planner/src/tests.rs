mod bindings;
mod conformance;
mod conntrack;
mod node_ports;
mod source_ranges;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::{NonZeroU16, NonZeroU32},
};

use drain::{Cause, Ledger, Overrides, Verdict};
use lb_types::{
    FastSet, Front, IpFamily, IpvsOp, MarkRange, MarkRule, Operation, Protocol, RealServer, RuleElement,
    RuleSet, Scheduler, ServiceName, VipPort, Weight,
};
use proptest::prelude::*;
use service_model::{
    Affinity, ExternalIp, ExternalSource, ModelEvent, Service, ServiceModel, ServicePort, ServiceSettings,
    SliceEndpoint, SlicePort, TrafficPolicy,
    testing::{plain_endpoint, plain_port, plain_service, plain_slice},
};

use crate::{
    Binding, Changes, Context, Desired, Dirty, FrontIntent, Inputs, IntentProblem, Mirror, NodeFacts,
    NodePortAddresses, Ownership, Plan, PlannerConfig, ProblemKind, ServiceOverrides, Stage, Subject,
    desire_service, diff,
};

/// The planner over one model and one mirror; every plan is taken as executed.
struct PlannedKernel {
    model: ServiceModel,
    desired: Desired,
    mirror: Mirror,
    ownership: Ownership,
    facts: NodeFacts,
    config: PlannerConfig,
    drains: Ledger,
}

impl PlannedKernel {
    fn new() -> Self {
        let node_ips =
            BTreeMap::from([(IpFamily::V4, ip("192.168.50.10")), (IpFamily::V6, ip("fd00:50::10"))]);
        // As an earlier start has left it.
        let mut mirror =
            Mirror { link_ours: true, link_ready: true, layout_current: true, ..Mirror::default() };
        mirror.replace_elements(node_ips.values().map(|ip| RuleElement::NodeAddress(*ip)).collect());
        PlannedKernel {
            model: ServiceModel::default(),
            desired: Desired::default(),
            mirror,
            ownership: Ownership {
                service_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
                ..Ownership::default()
            },
            facts: NodeFacts::new(
                &node_ips,
                node_ips.values().map(|ip| (*ip, "eth0".into())).collect(),
                &NodePortAddresses::All,
            ),
            config: PlannerConfig::default(),
            drains: Ledger::default(),
        }
    }

    fn context(&self) -> Context<'_> {
        Context { config: &self.config, ownership: &self.ownership, facts: &self.facts }
    }

    fn replace(&mut self, event: ModelEvent) -> Dirty {
        self.model.apply(event);
        let mut changes = Changes::default();
        for name in self.model.take_dirty() {
            let service = self.model.service(&name).cloned();
            let intent = service.map(|s| desire_service(&s, &self.model, self.context()).0);
            self.desired.replace(&name, intent, &mut changes);
        }
        for front in changes.dirty.fronts() {
            self.mirror.assign_mark(front);
        }
        changes.dirty
    }

    fn diff(&self, dirty: &Dirty) -> Plan {
        self.diff_in_doubt(dirty, &|_| false)
    }

    /// Real servers of some fronts are not known for sure.
    fn diff_in_doubt(&self, dirty: &Dirty, is_in_doubt: &dyn Fn(&Front) -> bool) -> Plan {
        let PlannedKernel { desired, mirror, drains, .. } = self;
        diff(dirty, &Inputs { desired, mirror, context: self.context(), drains, is_in_doubt })
    }

    fn execute(&mut self, plan: &Plan) {
        for op in plan.operations() {
            self.mirror.record(op);
        }
        for new in &plan.drains {
            self.drains.begin(new.key, new.cause, &Overrides::NONE, drain::Time::ZERO);
        }
        for key in &plan.returned {
            self.drains.end(key);
        }
    }

    fn sync(&mut self, event: ModelEvent) -> Plan {
        let dirty = self.replace(event);
        let plan = self.diff(&dirty);
        self.execute(&plan);
        plan
    }

    fn conflicts(&self, service: &ServiceName) -> Vec<IntentProblem> {
        self.desired.conflicts(service)
    }

    /// Problems of a Service with its own intent.
    fn problems(&self, service: &ServiceName) -> Vec<IntentProblem> {
        desire_service(self.model.service(service).unwrap(), &self.model, self.context()).1
    }

    fn resync(&self) -> Plan {
        self.diff(&Dirty::all(&self.desired, &self.mirror, &self.facts))
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn service(name: &str, cluster_ips: &[&str], protocol: Protocol) -> Service {
    let cluster_ips = cluster_ips.iter().map(|text| ip(text)).collect();
    let port = plain_port("", protocol, 80.try_into().unwrap());
    plain_service(ServiceName::new("default", name), cluster_ips, vec![port])
}

fn slice(service: &str, protocol: Protocol, endpoints: &[(&str, bool)]) -> ModelEvent {
    let endpoint = |(addr, ready): &(&str, bool)| SliceEndpoint {
        ready: *ready,
        serving: *ready,
        terminating: !ready,
        ..plain_endpoint(ip(addr))
    };
    let port = SlicePort { name: "".into(), protocol, port: 8080.try_into().unwrap() };
    let endpoints = endpoints.iter().map(endpoint).collect();
    let of = ServiceName::new("default", service);
    ModelEvent::SliceApplied(plain_slice(service, of, vec![port], endpoints))
}

/// Writes of a stage.
fn of_stage(plan: &Plan, wanted: Stage) -> Vec<Operation> {
    plan.stages().filter(|(stage, _)| *stage == wanted).flat_map(|(_, ops)| ops.to_vec()).collect()
}

fn check(plan: &Plan, expect: &str) {
    let expect: String =
        expect.lines().map(str::trim).filter(|l| !l.is_empty()).map(|l| format!("{l}\n")).collect();
    assert_eq!(plan.to_string(), expect);
}

const WEB: &str = "10.96.0.80";

#[test]
fn a_service_from_its_first_object_to_its_last() {
    let mut world = PlannedKernel::new();
    let plan = world.sync(ModelEvent::ServiceApplied(service("web", &[WEB], Protocol::Tcp)));
    check(
        &plan,
        "add element vips 10.96.0.80
         add element unanswered-vips 10.96.0.80
         add element services 10.96.0.80:80/TCP
         add element no-endpoints 10.96.0.80:80/TCP
         add element masquerade-nonlocal 10.96.0.80:80/TCP
         add virtual server 10.96.0.80:80/TCP rr
         ensure route local 10.96.0.80 src 192.168.50.10",
    );
    let plan = world.sync(slice("web", Protocol::Tcp, &[("10.244.0.11", true)]));
    check(
        &plan,
        "add real server 10.244.0.11:8080 to 10.96.0.80:80/TCP Masq weight 1
         delete element no-endpoints 10.96.0.80:80/TCP",
    );
    let plan = world.sync(slice("web", Protocol::Tcp, &[("10.244.0.11", true), ("10.244.0.12", true)]));
    check(&plan, "add real server 10.244.0.12:8080 to 10.96.0.80:80/TCP Masq weight 1");
    let plan = world.sync(slice("web", Protocol::Tcp, &[("10.244.0.11", false), ("10.244.0.12", true)]));
    check(&plan, "set real server 10.244.0.11:8080 of 10.96.0.80:80/TCP Masq weight 0");
    assert!(world.resync().is_empty(), "{}", world.resync());
    let plan = world.sync(slice("web", Protocol::Tcp, &[("10.244.0.11", true), ("10.244.0.12", true)]));
    check(&plan, "set real server 10.244.0.11:8080 of 10.96.0.80:80/TCP Masq weight 1");
    assert_eq!(plan.returned.len(), 1, "a returning endpoint leaves the ledger");

    let plan = world.sync(ModelEvent::ServiceDeleted(ServiceName::new("default", "web")));
    check(
        &plan,
        "add element no-endpoints 10.96.0.80:80/TCP
         set real server 10.244.0.11:8080 of 10.96.0.80:80/TCP Masq weight 0
         set real server 10.244.0.12:8080 of 10.96.0.80:80/TCP Masq weight 0",
    );
    assert!(world.resync().is_empty(), "a retiring virtual server is kept: {}", world.resync());
    for server in world.mirror.servers.values_mut() {
        server.real_servers.clear();
    }
    check(
        &world.resync(),
        "delete route local 10.96.0.80
         delete virtual server 10.96.0.80:80/TCP
         delete element vips 10.96.0.80
         delete element unanswered-vips 10.96.0.80
         delete element services 10.96.0.80:80/TCP
         delete element no-endpoints 10.96.0.80:80/TCP
         delete element masquerade-nonlocal 10.96.0.80:80/TCP",
    );
}

#[test]
fn udp_real_servers_go_at_once() {
    let mut world = PlannedKernel::new();
    world.sync(ModelEvent::ServiceApplied(service("dns", &[WEB], Protocol::Udp)));
    world.sync(slice("dns", Protocol::Udp, &[("10.244.0.11", true), ("10.244.0.12", true)]));
    let plan = world.sync(slice("dns", Protocol::Udp, &[("10.244.0.12", true)]));
    check(
        &plan,
        "delete real server 10.244.0.11:8080 of 10.96.0.80:80/UDP
         delete tracked connections of 10.96.0.80:80/UDP to real server 10.244.0.11:8080",
    );
}

#[test]
fn a_vip_claimed_twice_goes_to_the_older_service_and_on_when_that_is_deleted() {
    let mut world = PlannedKernel::new();
    let (mut young, mut old) = (service("a", &[WEB], Protocol::Tcp), service("b", &[WEB], Protocol::Tcp));
    (young.created, old.created) = (Some(2), Some(1));
    world.sync(ModelEvent::ServiceApplied(young.clone()));
    world.sync(ModelEvent::ServiceApplied(old.clone()));
    let front = *world.desired.fronts().next().unwrap();
    assert_eq!(world.desired.service_of(&front), Some(&old.name));
    let kind = ProblemKind::ClaimedByOther { front, winner: old.name.clone() };
    let conflict = IntentProblem { service: young.name.clone(), kind };
    assert_eq!(world.conflicts(&young.name), [conflict]);
    assert!(world.conflicts(&old.name).is_empty());
    let plan = world.sync(ModelEvent::ServiceDeleted(old.name));
    assert!(plan.is_empty(), "same settings, nothing to write: {plan}");
    assert_eq!(world.desired.service_of(&front), Some(&young.name));
    assert!(world.conflicts(&young.name).is_empty());
}

#[test]
fn a_vip_that_is_an_address_of_the_node_is_served_without_being_bound() {
    let mut world = PlannedKernel::new();
    let plan = world.sync(ModelEvent::ServiceApplied(service("web", &["192.168.50.10"], Protocol::Tcp)));
    check(
        &plan,
        "add element services 192.168.50.10:80/TCP
         add element no-endpoints 192.168.50.10:80/TCP
         add element masquerade-nonlocal 192.168.50.10:80/TCP
         add virtual server 192.168.50.10:80/TCP rr
         delete element node-addresses 192.168.50.10",
    );
}

#[test]
fn a_slice_port_that_no_service_port_matches_is_a_problem() {
    let mut world = PlannedKernel::new();
    let mut named = service("web", &[WEB], Protocol::Tcp);
    named.ports[0].name = "http".into();
    world.model.apply(ModelEvent::ServiceApplied(named.clone()));
    world.model.apply(slice("web", Protocol::Tcp, &[("10.244.0.11", true)]));
    let (intent, problems) = desire_service(&named, &world.model, world.context());
    assert!(!intent.fronts[0].has_real_servers());
    let text = problems.iter().map(ToString::to_string).collect::<String>();
    assert!(
        text.starts_with(
            "EndpointSlice default/web: ports[].name: Service default/web has no TCP port named \"\""
        ),
        "{text}"
    );
}

/// Conformance: ipvs/proxier TestMultiPortServiceBindAddr
#[test]
fn ports_of_one_vip_share_the_route_until_the_last_is_gone() {
    let mut world = PlannedKernel::new();
    let mut two = service("web", &[WEB, "fd00:96::80"], Protocol::Tcp);
    two.ports.push(ServicePort {
        name: "admin".into(),
        protocol: Protocol::Tcp,
        port: 81.try_into().unwrap(),
        node_port: None,
    });
    let plan = world.sync(ModelEvent::ServiceApplied(two.clone()));
    assert_eq!(of_stage(&plan, Stage::VipsAdd).len(), 2, "one route per family: {plan}");
    two.ports.pop();
    world.sync(ModelEvent::ServiceApplied(two.clone()));
    assert_eq!(world.mirror.routes.len(), 2);
    let plan = world.sync(ModelEvent::ServiceDeleted(two.name));
    assert_eq!(of_stage(&plan, Stage::VipsRemove).len(), 2, "{plan}");
    assert!(world.mirror.routes.is_empty());
}

#[test]
fn foreign_virtual_servers_are_never_written() {
    let mut world = PlannedKernel::new();
    let mut foreign = PlannedKernel::new();
    foreign.sync(ModelEvent::ServiceApplied(service("theirs", &["172.16.0.1"], Protocol::Tcp)));
    foreign.sync(slice("theirs", Protocol::Tcp, &[("10.244.0.11", true)]));
    world.mirror.servers = foreign.mirror.servers;
    assert!(world.resync().is_empty(), "{}", world.resync());
    let vs = *world.mirror.servers.keys().next().unwrap();
    assert!(!world.ownership.owns(&vs, &world.mirror));
    // Named by our packet rules it is ours, and drains before it goes.
    let port = vs.vip_port().unwrap();
    world.mirror.elements.insert(RuleElement::Service(port));
    world.mirror.elements.insert(RuleElement::Vip(port.addr));
    let plan = world.resync();
    assert!(
        matches!(of_stage(&plan, Stage::IpvsRemove)[..], [Operation::Ipvs(IpvsOp::SetRealServer { .. })]),
        "{plan}"
    );
    for server in world.mirror.servers.values_mut() {
        server.real_servers.clear();
    }
    let delete = IpvsOp::DeleteVirtualServer { vs }.into();
    assert_eq!(of_stage(&world.resync(), Stage::IpvsRemove), [delete]);
    let dirty = Dirty::all(&world.desired, &world.mirror, &world.facts);
    let plan = world.diff_in_doubt(&dirty, &|front| Some(*front) == world.mirror.front(&vs));
    assert_eq!(of_stage(&plan, Stage::IpvsRemove), [], "whether it is empty is not known");
    for element in [RuleElement::Service(port), RuleElement::Vip(port.addr)] {
        world.mirror.elements.remove(&element);
    }
    world.ownership.exclude_cidrs = vec!["172.16.0.0/12".parse().unwrap()];
    assert!(
        world.resync().is_empty(),
        "in excluded prefixes only what is tagged is ours: {}",
        world.resync()
    );
}

/// Conformance: ipvs/ipset TestSyncIPSetEntries
#[test]
fn drift_is_repaired_by_exactly_the_missing_writes() {
    let mut world = PlannedKernel::new();
    world.sync(ModelEvent::ServiceApplied(service("web", &[WEB], Protocol::Tcp)));
    world.sync(slice("web", Protocol::Tcp, &[("10.244.0.11", true), ("10.244.0.12", true)]));
    let whole = world.mirror.clone();
    let vs = *whole.servers.keys().next().unwrap();
    type Damage<'a> = &'a dyn Fn(&mut Mirror);
    let drifts: [(Damage<'_>, &str); 5] = [
        (&|m| m.routes.clear(), "ensure route local 10.96.0.80 src 192.168.50.10"),
        (
            &|m| m.servers.get_mut(&vs).unwrap().real_servers[0].1.weight = Weight::QUIESCED,
            "set real server 10.244.0.11:8080 of 10.96.0.80:80/TCP Masq weight 1",
        ),
        (
            &|m| _ = m.servers.get_mut(&vs).unwrap().real_servers.remove(1),
            "add real server 10.244.0.12:8080 to 10.96.0.80:80/TCP Masq weight 1",
        ),
        (&|m| m.link_ready = false, "ensure link kube-ipvs0"),
        (
            &|m| m.elements.clear(),
            "add element vips 10.96.0.80
         add element unanswered-vips 10.96.0.80
             add element node-addresses 192.168.50.10
             add element node-addresses fd00:50::10
             add element services 10.96.0.80:80/TCP
             add element masquerade-nonlocal 10.96.0.80:80/TCP",
        ),
    ];
    for (damage, repair) in drifts {
        world.mirror = whole.clone();
        damage(&mut world.mirror);
        let plan = world.resync();
        check(&plan, repair);
        world.execute(&plan);
        assert_eq!(world.mirror, whole);
    }
}

#[test]
fn nodes_add_real_servers_in_different_orders() {
    let order = |node: &str| {
        let mut world = PlannedKernel::new();
        world.config.node_name = node.into();
        world.sync(ModelEvent::ServiceApplied(service("web", &[WEB], Protocol::Tcp)));
        let addrs: Vec<String> = (1..=20).map(|n| format!("10.244.0.{n}")).collect();
        let endpoints: Vec<_> = addrs.iter().map(|addr| (addr.as_str(), true)).collect();
        let plan = world.sync(slice("web", Protocol::Tcp, &endpoints));
        of_stage(&plan, Stage::IpvsAdd).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(order("node-a"), order("node-a"));
    assert_ne!(order("node-a"), order("node-b"));
}

/// One random change: which service, and which of its four possible endpoints are absent, ready or
/// terminating.
fn change() -> impl Strategy<Value = (u8, Option<[u8; 4]>)> {
    (0u8..4, proptest::option::of([0u8..3, 0u8..3, 0u8..3, 0u8..3]))
}

proptest! {
    /// After any history the mirror is what the objects say, a full comparison writes nothing more, and no
    /// step ever leaves a service with fewer serving real servers than both its old and its new set.
    #[test]
    fn every_history_converges(changes in proptest::collection::vec(change(), 1..40)) {
        let mut world = PlannedKernel::new();
        for (n, endpoints) in changes {
            let (name, vip) = (format!("s{n}"), format!("10.96.0.{n}"));
            let mut dirty = Dirty::default();
            match endpoints {
                None => dirty.extend(world.replace(ModelEvent::ServiceDeleted(ServiceName::new("default", &name)))),
                Some(states) => {
                    let addrs: Vec<_> = (0..4).map(|i| format!("10.244.{n}.{i}")).collect();
                    let present = addrs.iter().zip(states).filter(|(_, state)| *state > 0);
                    let list: Vec<_> = present.map(|(addr, state)| (addr.as_str(), state == 1)).collect();
                    dirty.extend(world.replace(slice(&name, Protocol::Tcp, &list)));
                    dirty.extend(world.replace(ModelEvent::ServiceApplied(service(&name, &[&vip], Protocol::Tcp))));
                }
            }
            let plan = world.diff(&dirty);
            never_fewer(&world, &plan);
            world.execute(&plan);
            prop_assert!(world.resync().is_empty(), "{}", world.resync());
        }
        for front in world.desired.fronts() {
            let want = world.desired.front(front).unwrap();
            prop_assert_eq!(serving(&world.mirror, front), want.real_servers().collect::<Vec<_>>());
        }
    }
}

fn serving(mirror: &Mirror, front: &Front) -> Vec<lb_types::RealServerId> {
    let server = mirror.server(front);
    let serving = |settings: &RealServer| !settings.weight.is_quiesced();
    server.into_iter().flat_map(|s| &s.real_servers).filter(|(_, s)| serving(s)).map(|(id, _)| *id).collect()
}

/// Executes a plan write by write on a copy and watches every virtual server.
fn never_fewer(world: &PlannedKernel, plan: &Plan) {
    let mut mirror = world.mirror.clone();
    let before: Vec<_> =
        world.desired.fronts().map(|front| (*front, serving(&mirror, front).len())).collect();
    for op in plan.operations() {
        mirror.record(op);
        for (front, old) in &before {
            let new = world.desired.front(front).map_or(0, |want| want.real_servers().count());
            let now = serving(&mirror, front).len();
            // A new virtual server is unreachable until its VIP is bound, which comes after its real servers.
            let reachable = mirror.routes.contains_key(&front.port.addr);
            assert!(now >= (*old).min(new) || !reachable, "{front}: {now} < min({old}, {new}) after {op}");
        }
    }
}

#[test]
fn a_verdict_of_removal_deletes() {
    let mut world = PlannedKernel::new();
    world.sync(ModelEvent::ServiceApplied(service("web", &[WEB], Protocol::Tcp)));
    world.sync(slice("web", Protocol::Tcp, &[("10.244.0.11", true), ("10.244.0.12", true)]));
    world.sync(slice("web", Protocol::Tcp, &[("10.244.0.12", true)]));
    let key = *world.drains.iter().next().unwrap().0;
    world.drains.poll(key.front, drain::Time::from_secs(3600), |_| None);
    assert!(matches!(world.drains.judge(&key, &Overrides::NONE), Verdict::Remove(_)));
    check(&world.resync(), "delete real server 10.244.0.11:8080 of 10.96.0.80:80/TCP");
}

/// Conformance: app Test_detectNodeIPs
#[test]
fn the_source_of_connections_is_an_address_that_other_nodes_can_answer() {
    let check = |node_ip: Option<&str>, addresses: &[(&str, &str)], expect: Option<&str>| {
        let node_ips = node_ip.map(|addr| (IpFamily::V4, ip(addr))).into_iter().collect();
        let addresses = addresses.iter().map(|(addr, link)| (ip(addr), (*link).to_owned())).collect();
        let facts = NodeFacts::new(&node_ips, addresses, &NodePortAddresses::All);
        assert_eq!(facts.sources.get(&IpFamily::V4).copied(), expect.map(ip));
        assert_eq!(facts.sources.get(&IpFamily::V6), None);
    };
    let eth = ("192.168.50.10", "eth0");
    let internal = [
        ("10.96.0.10", "nodelocaldns"),
        ("169.254.20.10", "nodelocaldns"),
        ("172.17.0.1", "docker0"),
        ("10.244.0.1", "cni0"),
        ("10.8.0.2", "wg0"),
    ];
    let all = [&internal[..], &[eth]].concat();
    check(Some("192.168.50.10"), &all, Some("192.168.50.10"));
    check(None, &all, Some("192.168.50.10"));
    check(Some("192.0.2.1"), &all, Some("192.168.50.10"));
    check(None, &[eth, ("10.0.0.5", "eth1")], Some("10.0.0.5"));
    // Where the Node object says so, it is right, whatever the link is called.
    check(Some("10.8.0.2"), &all, Some("10.8.0.2"));
    check(None, &internal, Some("10.8.0.2"));
    check(Some("192.0.2.1"), &[], None);
}

/// Renders the virtual server, the drains and the problems of a Service with these settings under a
/// configuration.
fn with_settings(settings: ServiceSettings, config: PlannerConfig) -> (String, Overrides, String) {
    let world = PlannedKernel { config, ..PlannedKernel::new() };
    let service = Service { settings, ..service("web", &["10.96.0.80"], Protocol::Tcp) };
    let (intent, problems) = desire_service(&service, &world.model, world.context());
    let problems: Vec<_> = problems.iter().map(ToString::to_string).collect();
    (intent.fronts[0].settings.to_string(), *intent.fronts[0].drain_overrides(), problems.join("\n"))
}

fn names(scheduler: &str) -> ServiceSettings {
    ServiceSettings { scheduler: Some(scheduler.parse().unwrap()), ..ServiceSettings::default() }
}

#[track_caller]
fn assert_lines(text: &str, lines: &[&str]) {
    assert_eq!(text.lines().count(), lines.len(), "{text}");
    for (found, expected) in text.lines().zip(lines) {
        assert!(found.starts_with("Service default/web: metadata.annotations[kube-ipvs.io/"), "{found}");
        for part in expected.split("..") {
            assert!(found.contains(part), "{part:?} is not in {found}");
        }
    }
}

#[test]
fn dh_is_a_problem_of_whoever_names_it() {
    let (server, _, problems) = with_settings(names("dh"), PlannerConfig::default());
    assert_eq!(server, "dh");
    assert_lines(&problems, &["/scheduler]: dh gives..refuses them while that one drains; name another"]);
    assert_eq!(with_settings(names("mh"), PlannerConfig::default()).2, "");
}

#[test]
fn limits_of_connections_and_one_packet_scheduling_follow_annotations_where_they_count() {
    let settings = ServiceSettings {
        max_connections: 100.try_into().ok(),
        one_packet: true,
        ..ServiceSettings::default()
    };
    let desire = |protocol, overrides| {
        let config = PlannerConfig { service_overrides: overrides, ..PlannerConfig::default() };
        let world = PlannedKernel { config, ..PlannedKernel::new() };
        let service = Service { settings: settings.clone(), ..service("web", &[WEB], protocol) };
        let (intent, problems) = desire_service(&service, &world.model, world.context());
        let problems = problems.iter().map(|problem| format!("{problem}\n")).collect::<String>();
        let FrontIntent { settings, real_server, .. } = &intent.fronts[0];
        (settings.one_packet, real_server.upper_threshold, problems)
    };
    assert_eq!(desire(Protocol::Udp, ServiceOverrides::All), (true, 100, String::new()));
    assert_eq!(desire(Protocol::Tcp, ServiceOverrides::All), (false, 100, String::new()));
    let (one_packet, limit, problems) = desire(Protocol::Udp, ServiceOverrides::Graceful);
    assert_eq!((one_packet, limit), (false, 0));
    assert_lines(&problems, &["/max-connections]: not allowed", "/one-packet]: not allowed"]);
}

#[test]
fn fallback_is_on_unless_it_is_refused() {
    let flags = |scheduler: &str, flags: Option<u8>, no_fallback: bool| {
        let scheduler_flags = flags.map(lb_types::SchedulerFlags::from_bits);
        let settings = ServiceSettings { scheduler_flags, no_fallback, ..names(scheduler) };
        with_settings(settings, PlannerConfig::default()).0
    };
    for (scheduler, given, no_fallback, expected) in [
        ("mh", None, false, "mh flags 0x3"),
        ("mh", Some(0), false, "mh flags 0x1"),
        ("mh", Some(2), false, "mh flags 0x3"),
        ("mh", Some(2), true, "mh flags 0x2"),
        ("sh", None, false, "sh flags 0x1"),
        ("sh", Some(2), false, "sh flags 0x3"),
        ("sh", Some(0), true, "sh"),
        ("wlc", None, false, "wlc"),
        ("wlc", Some(4), false, "wlc flags 0x4"),
    ] {
        assert_eq!(flags(scheduler, given, no_fallback), expected, "{scheduler} {given:?}");
    }
}

#[test]
fn annotations_count_as_far_as_the_operator_allows() {
    const HOUR: std::time::Duration = std::time::Duration::from_secs(3600);
    let drains = |timeout| Overrides { timeout: Some(timeout), linger: Some(HOUR), ..Overrides::NONE };
    let settings = |timeout| ServiceSettings {
        scheduler_flags: Some(lb_types::SchedulerFlags::PORT),
        drain: Some(std::sync::Arc::new(drains(timeout))),
        ..names("sh")
    };
    let config = |overrides: &str| PlannerConfig {
        service_overrides: overrides.parse().unwrap(),
        ..PlannerConfig::default()
    };
    let (server, drain, problems) = with_settings(settings(HOUR * 2), config("all"));
    assert_eq!((server.as_str(), drain, problems.as_str()), ("sh flags 0x3", drains(HOUR * 2), ""));

    let (server, drain, problems) = with_settings(settings(HOUR * 2), config("graceful"));
    assert_eq!((server.as_str(), drain), ("rr", drains(HOUR * 2)));
    let scheduling = [
        "/scheduler]: not allowed by --service-overrides=graceful; the configuration is followed..remove",
        "/scheduler-flags]: not allowed by --service-overrides=graceful",
    ];
    assert_lines(&problems, &scheduling);

    let (server, drain, problems) = with_settings(settings(HOUR * 2), config("none"));
    assert_eq!((server.as_str(), drain), ("rr", Overrides::NONE));
    assert_lines(&problems, &["/scheduler]", "/scheduler-flags]", "/graceful-linger]", "/graceful-timeout]"]);

    let capped = || PlannerConfig { graceful_timeout_max: Some(HOUR), ..PlannerConfig::default() };
    let (_, drain, problems) = with_settings(settings(HOUR * 2), capped());
    assert_eq!(drain, drains(HOUR));
    assert_lines(&problems, &["/graceful-timeout]: 7200s exceeds --graceful-timeout-max; 3600s is used"]);
    let (_, drain, problems) = with_settings(settings(std::time::Duration::ZERO), capped());
    assert_eq!(drain, drains(HOUR));
    assert_lines(&problems, &["/graceful-timeout]: no deadline exceeds"]);
    let (_, drain, problems) = with_settings(settings(HOUR), capped());
    assert_eq!((drain, problems.as_str()), (drains(HOUR), ""));

    let few =
        PlannerConfig { allowed_schedulers: ["wlc".parse().unwrap()].into(), ..PlannerConfig::default() };
    let (server, _, problems) = with_settings(settings(HOUR), few);
    assert_eq!(server, "rr");
    assert_lines(
        &problems,
        &["/scheduler]: sh is not one of --allowed-schedulers; rr is used instead; name one"],
    );
}

/// A Service with an external and a load-balancer IP, whose endpoints are one on this node and one elsewhere.
fn external(policy: TrafficPolicy, endpoints: &[(&str, Option<&str>)]) -> [ModelEvent; 2] {
    let at = |addr: &str, source| ExternalIp { addr: ip(addr), source };
    let service = Service {
        external_ips: vec![
            at("192.0.2.7", ExternalSource::ExternalIps),
            at("192.0.2.8", ExternalSource::LoadBalancer),
        ],
        external_traffic_policy: policy,
        ..service("web", &[WEB], Protocol::Tcp)
    };
    let addrs: Vec<_> = endpoints.iter().map(|(addr, _)| (*addr, true)).collect();
    let ModelEvent::SliceApplied(mut slice) = slice("web", Protocol::Tcp, &addrs) else { unreachable!() };
    for (endpoint, (_, node)) in slice.endpoints.iter_mut().zip(endpoints) {
        endpoint.node = node.map(Into::into);
    }
    [ModelEvent::ServiceApplied(service), ModelEvent::SliceApplied(slice)]
}

/// Plan for such a Service with the first of its addresses on node `n1`, without the lines of its ClusterIP.
fn external_plan(policy: TrafficPolicy, endpoints: &[(&str, Option<&str>)]) -> String {
    let mut world = PlannedKernel { model: ServiceModel::on_node("n1"), ..PlannedKernel::new() };
    let mut dirty = Dirty::default();
    for mut event in external(policy, endpoints) {
        if let ModelEvent::ServiceApplied(service) = &mut event {
            service.external_ips.truncate(1);
        }
        dirty.extend(world.replace(event));
    }
    let plan = world.diff(&dirty).to_string();
    plan.lines().filter(|line| !line.contains(WEB)).map(|line| format!("{line}\n")).collect()
}

const BOTH: [(&str, Option<&str>); 2] = [("10.244.0.11", Some("n1")), ("10.244.1.12", Some("n2"))];

#[test]
fn external_addresses_are_served_by_all_endpoints_and_masqueraded() {
    assert_eq!(
        external_plan(TrafficPolicy::Cluster, &BOTH),
        "ensure rule IPv4 fwmark 0x1000/0x1000 lookup steering\n\
         add element steered-vips 192.0.2.7\n\
         add element services 192.0.2.7:80/TCP\n\
         add element masquerade-external 192.0.2.7:80/TCP\n\
         add virtual server 192.0.2.7:80/TCP rr\n\
         add real server 10.244.1.12:8080 to 192.0.2.7:80/TCP Masq weight 1\n\
         add real server 10.244.0.11:8080 to 192.0.2.7:80/TCP Masq weight 1\n\
         ensure route local 192.0.2.7 table steering\n\
         add element steered 192.0.2.7:80/TCP\n"
    );
}

#[test]
fn with_a_local_policy_clients_outside_have_endpoints_of_the_node_alone_and_keep_their_address() {
    assert_eq!(
        external_plan(TrafficPolicy::Local, &BOTH),
        "ensure rule IPv4 fwmark 0x1000/0x1000 lookup steering\n\
         add element steered-vips 192.0.2.7\n\
         add element services 192.0.2.7:80/TCP\n\
         add element marks-external 192.0.2.7:80/TCP 0x01b50543\n\
         add virtual server 192.0.2.7:80/TCP rr\n\
         add virtual server fwmark 0x1b50543 IPv4 rr\n\
         add real server 10.244.1.12:8080 to 192.0.2.7:80/TCP Masq weight 1\n\
         add real server 10.244.0.11:8080 to 192.0.2.7:80/TCP Masq weight 1\n\
         add real server 10.244.0.11:8080 to fwmark 0x1b50543 IPv4 Masq weight 1\n\
         ensure route local 192.0.2.7 table steering\n\
         add element steered 192.0.2.7:80/TCP\n"
    );
}

/// The virtual server of a mark has no port, so that the kernel would not translate the port of a persistent one.
/// Conformance: ipvs/proxier TestSessionAffinity
#[test]
fn session_affinity_is_the_schedulers_work_where_a_mark_selects() {
    let scheduler_of = |missing: &[Scheduler]| {
        let mut world = PlannedKernel { model: ServiceModel::on_node("n1"), ..PlannedKernel::new() };
        world.config.unavailable_schedulers.extend(missing);
        let [ModelEvent::ServiceApplied(mut service), _] = external(TrafficPolicy::Local, &BOTH) else {
            unreachable!()
        };
        service.affinity = Some(Affinity { timeout_seconds: NonZeroU32::new(600).unwrap() });
        service.ports[0].node_port = NonZeroU16::new(30080);
        let (intent, _) = desire_service(&service, &world.model, world.context());
        let settings = |front: &FrontIntent| (front.front.is_marked(), front.settings.to_string());
        intent.fronts.iter().map(settings).collect::<BTreeSet<_>>()
    };
    let persistent = (false, "rr persistent 600s/32".to_owned());
    let hashed = |text: &str| (true, text.to_owned());
    assert_eq!(scheduler_of(&[]), [persistent.clone(), hashed("mh flags 0x1")].into());
    assert_eq!(scheduler_of(&[Scheduler::MH]), [persistent.clone(), hashed("sh flags 0x1")].into());
    assert_eq!(scheduler_of(&[Scheduler::MH, Scheduler::SH]), [persistent, hashed("rr")].into());
}

/// Where all endpoints serve clients outside again, the running connections of those to an endpoint that serves have
/// no deadline; once it terminates, they have.
#[test]
fn connections_of_clients_outside_survive_the_end_of_a_local_policy() {
    let mut world = PlannedKernel { model: ServiceModel::on_node("n1"), ..PlannedKernel::new() };
    for event in external(TrafficPolicy::Local, &BOTH) {
        world.sync(event);
    }
    let [cluster, _] = external(TrafficPolicy::Cluster, &BOTH);
    let plan = world.sync(cluster);
    let causes = |plan: &Plan| plan.drains.iter().map(|drain| drain.cause).collect::<Vec<_>>();
    assert_eq!(causes(&plan), [Cause::NotChosen, Cause::NotChosen]);
    let [_, ModelEvent::SliceApplied(mut slice)] = external(TrafficPolicy::Cluster, &BOTH) else {
        unreachable!()
    };
    slice.endpoints[0].terminating = true;
    slice.endpoints[0].ready = false;
    let plan = world.sync(ModelEvent::SliceApplied(slice));
    let causes = causes(&plan);
    assert!(causes.iter().all(|cause| *cause == Cause::Terminating) && causes.len() == 5, "{causes:?}");
}

/// Clients outside must not get endpoints of other nodes where no number is left for theirs.
#[test]
fn clients_outside_are_dropped_while_no_mark_is_left() {
    let mut world = PlannedKernel { model: ServiceModel::on_node("n1"), ..PlannedKernel::new() };
    let everything = MarkRule { value: 1, mask: 0 };
    world.mirror.marks.draw_from(MarkRange::DEFAULT, vec![everything]);
    for event in external(TrafficPolicy::Local, &BOTH) {
        world.sync(event);
    }
    let at = VipPort { addr: ip("192.0.2.7"), protocol: Protocol::Tcp, port: NonZeroU16::new(80).unwrap() };
    assert!(world.mirror.elements.contains(&RuleElement::DropExternal(at)));
    assert!(!world.mirror.elements.contains(&RuleElement::Refuse(at)));
    assert_eq!(world.mirror.server(&at.into()).map(|server| server.real_servers.len()), Some(2));
}

#[test]
fn without_an_endpoint_on_the_node_a_local_policy_drops_clients_outside() {
    assert_eq!(
        external_plan(TrafficPolicy::Local, &BOTH[1..]),
        "ensure rule IPv4 fwmark 0x1000/0x1000 lookup steering\n\
         add element steered-vips 192.0.2.7\n\
         add element services 192.0.2.7:80/TCP\n\
         add element no-local-endpoints 192.0.2.7:80/TCP\n\
         add element marks-external 192.0.2.7:80/TCP 0x01b50543\n\
         add virtual server 192.0.2.7:80/TCP rr\n\
         add virtual server fwmark 0x1b50543 IPv4 rr\n\
         add real server 10.244.1.12:8080 to 192.0.2.7:80/TCP Masq weight 1\n\
         ensure route local 192.0.2.7 table steering\n\
         add element steered 192.0.2.7:80/TCP\n"
    );
    // Nobody has an endpoint: that is refused to all, before anything is dropped.
    let none = external_plan(TrafficPolicy::Local, &[]);
    assert!(none.contains("add element no-endpoints"), "{none}");
}

#[test]
fn an_external_address_among_the_cluster_ips_is_refused_and_costs_nothing_else() {
    let mut world = PlannedKernel::new();
    let [ModelEvent::ServiceApplied(mut service), slice] = external(TrafficPolicy::Cluster, &BOTH) else {
        unreachable!()
    };
    service.external_ips[0].addr = ip("10.96.0.99");
    world.replace(slice);
    let (intent, problems) = desire_service(&service, &world.model, world.context());
    let problems: String = problems.iter().map(ToString::to_string).collect();
    assert!(problems.starts_with("Service default/web: spec.externalIPs: 10.96.0.99 lies in"), "{problems}");
    let vips: Vec<_> = intent.fronts.iter().filter_map(|want| want.front.vip()).collect();
    assert_eq!(vips, [ip(WEB), ip("192.0.2.8")]);
}

#[test]
fn a_service_that_loses_its_external_address_drains_there() {
    let mut world = PlannedKernel::new();
    for event in external(TrafficPolicy::Cluster, &BOTH) {
        world.sync(event);
    }
    let plan = world.sync(ModelEvent::ServiceApplied(service("web", &[WEB], Protocol::Tcp)));
    let plan = plan.to_string();
    for line in [
        "add element steered-known 192.0.2.7:80/TCP",
        "delete element steered 192.0.2.7:80/TCP",
        "set real server 10.244.0.11:8080 of 192.0.2.7:80/TCP Masq weight 0",
    ] {
        assert!(plan.contains(line), "{plan}");
    }
    assert!(!plan.contains("no-endpoints"), "routing takes new connections: {plan}");
    assert!(!plan.contains("delete element masquerade-external 192.0.2.7:80/TCP"), "{plan}");
}

/// An external address that is another Service's ClusterIP is refused at every port: clients of its other ports must be
/// refused, as everybody is.
#[test]
fn a_cluster_ip_is_never_taken_by_an_older_services_external_address() {
    for (port, source) in [
        (80, ExternalSource::ExternalIps),
        (81, ExternalSource::ExternalIps),
        (81, ExternalSource::LoadBalancer),
    ] {
        let mut world = PlannedKernel::new();
        world.ownership.service_cidrs.clear();
        let mut thief = Service {
            created: Some(1),
            external_ips: vec![ExternalIp { addr: ip(WEB), source }],
            ..service("thief", &["10.96.0.66"], Protocol::Tcp)
        };
        thief.ports[0].port = port.try_into().unwrap();
        let owner = Service { created: Some(2), ..service("web", &[WEB], Protocol::Tcp) };
        let at = VipPort { addr: ip(WEB), protocol: Protocol::Tcp, port: thief.ports[0].port };
        let is_served_for = |world: &PlannedKernel, name: &ServiceName| {
            assert!(world.resync().is_empty(), "{}", world.resync());
            world.desired.service_of(&at.into()) == Some(name)
        };
        let problems = |world: &PlannedKernel| desire_service(&thief, &world.model, world.context()).1;
        let kind = ProblemKind::ExternalIpIsOfService { field: source.field(), vip: ip(WEB) };
        let refused = IntentProblem { service: thief.name.clone(), kind };
        world.sync(ModelEvent::ServiceApplied(thief.clone()));
        assert!(is_served_for(&world, &thief.name), "nobody has the address yet");
        assert_eq!(problems(&world), []);
        world.sync(ModelEvent::ServiceApplied(owner.clone()));
        assert!(!is_served_for(&world, &thief.name));
        assert_eq!(problems(&world), std::slice::from_ref(&refused));
        assert_eq!(world.conflicts(&thief.name), [], "one problem is enough");
        assert_eq!(world.desired.binding(&ip(WEB)), Some(Binding::Route));
        world.sync(ModelEvent::ServiceDeleted(owner.name));
        assert!(is_served_for(&world, &thief.name), "the address is free again");
        assert_eq!(problems(&world), []);
    }
}

#[test]
fn what_drains_stays_ours_when_somebody_takes_its_element_away() {
    let mut world = PlannedKernel::new();
    for event in external(TrafficPolicy::Cluster, &BOTH) {
        world.sync(event);
    }
    world.sync(ModelEvent::ServiceApplied(service("web", &[WEB], Protocol::Tcp)));
    assert!(world.drains.iter().any(|(key, _)| key.front.vip() == Some(ip("192.0.2.7"))));
    world.mirror.replace_elements(FastSet::default());
    let plan = world.resync().to_string();
    assert!(plan.contains("add element services 192.0.2.7:80/TCP"), "{plan}");
    assert!(!plan.contains("delete route local 192.0.2.7"), "{plan}");
}
