//! Random histories of everything at once: objects, node, time, refusals, failing calls, lost answers, damage
//! by others, restarts.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use dataplane::{ErrorKind, Touched};
use lb_types::{
    ConnectionCounters, Front, IpFamily, IpvsOp, RealServer, RouteTable, RuleElement, RulesOp, VipBinding,
    VipOp,
};
use proptest::prelude::*;
use service_model::{ExternalIpBinding, SourceRanges};

use super::*;

/// Events that can happen. Numbers choose among a few.
#[derive(Clone, Debug)]
enum Step {
    Service(Shape),
    DeleteService(u8),
    /// A slice changes: its number, its Service, its endpoints, their conditions, its ports.
    Slice {
        n: u8,
        owner: u8,
        set: u8,
        conditions: u8,
        ports: u8,
    },
    DeleteSlice(u8),
    Node(u8),
    NodeAddresses(u8),
    Pass(u16),
    Run,
    /// The n-th operation of a table fails.
    Fail(Table, u8, i32),
    FailCall(Table),
    LoseReplies(Table),
    Damage(u8),
    /// A real server has a connection, or none any more.
    Busy(u8, bool),
    Restart,
}

#[derive(Clone, Debug)]
struct Shape {
    n: u8,
    vip: u8,
    ports: u8,
    created: Option<i64>,
    dual: bool,
    local: bool,
    /// An external address, which may be the node's own or one of the ClusterIPs, whether its policy is Local, and how
    /// it is to be bound.
    external: Option<(u8, bool, Option<VipBinding>)>,
    /// Node ports, which all Services share: none, numbers of their own, or those of the ports, which an external
    /// address of the node has, too.
    node_ports: u8,
    affinity: bool,
}

#[derive(Clone, Copy, Debug)]
enum Table {
    Ipvs,
    Vips,
    Rules,
}

fn shape() -> impl Strategy<Value = Shape> {
    let created = prop::option::of(0i64..3);
    let binding = prop::option::of(prop::sample::select(VipBinding::ALL.as_slice()));
    let external = prop::option::of((0u8..4, any::<bool>(), binding));
    let flags = (any::<bool>(), any::<bool>(), any::<bool>());
    (0u8..3, 0u8..2, 1u8..8, created, flags, external, 0u8..3).prop_map(
        |(n, vip, ports, created, (dual, local, affinity), external, node_ports)| Shape {
            n,
            vip,
            ports,
            created,
            dual,
            local,
            external,
            node_ports,
            affinity,
        },
    )
}

fn table() -> impl Strategy<Value = Table> {
    prop_oneof![Just(Table::Ipvs), Just(Table::Vips), Just(Table::Rules)]
}

fn step() -> impl Strategy<Value = Step> {
    let slice = (0u8..4, 0u8..3, 0u8..16, 0u8..81, 1u8..8);
    let slice =
        slice.prop_map(|(n, owner, set, conditions, ports)| Step::Slice { n, owner, set, conditions, ports });
    let errno = prop_oneof![Just(2), Just(3), Just(5), Just(12), Just(17), Just(105)];
    prop_oneof![
        6 => shape().prop_map(Step::Service),
        2 => (0u8..3).prop_map(Step::DeleteService),
        8 => slice,
        2 => (0u8..4).prop_map(Step::DeleteSlice),
        1 => (0u8..3).prop_map(Step::Node),
        1 => (0u8..4).prop_map(Step::NodeAddresses),
        4 => (0u16..40_000).prop_map(Step::Pass),
        6 => Just(Step::Run),
        2 => (table(), 0u8..6, errno).prop_map(|(table, n, errno)| Step::Fail(table, n, errno)),
        1 => table().prop_map(Step::FailCall),
        1 => table().prop_map(Step::LoseReplies),
        2 => (0u8..6).prop_map(Step::Damage),
        2 => (0u8..8, any::<bool>()).prop_map(|(n, busy)| Step::Busy(n, busy)),
        1 => Just(Step::Restart),
    ]
}

/// The API's side of the story.
#[derive(Default)]
struct Api {
    services: BTreeMap<u8, Service>,
    slices: BTreeMap<u8, EndpointSlice>,
    node: Option<ModelEvent>,
    /// Addresses of the node.
    addresses: u8,
}

impl World {
    /// Tells whether the process knows the addresses that the node has at the moment.
    fn knows_addresses(&self) -> bool {
        self.reconciler.syncer.intents.facts.addresses == self.kernel.vips.snapshot().node_addresses
    }
}

impl Api {
    fn begin(&self, world: &mut World) {
        let services = self.services.values().cloned().map(applied);
        let slices = self.slices.values().cloned().map(ModelEvent::SliceApplied);
        world.deliver(services.chain(slices));
        if let Some(node) = &self.node {
            world.send(node.clone());
        }
    }

    /// A kernel on which nothing but this input has ever been programmed.
    fn fresh(&self) -> World {
        let kernel = Kernel::new();
        set_addresses(&kernel, self.addresses);
        let mut world = World::on(kernel, by_cidr());
        self.begin(&mut world);
        world.run();
        world
    }
}

/// The layout follows the Node.
fn by_cidr() -> Config {
    let mut config = Config { local_mode: crate::LocalMode::NodeCidr, ..config() };
    config.planner.bindings.external_cidrs =
        ["192.0.0.0/8", "10.0.0.0/8"].map(|net| net.parse().unwrap()).to_vec();
    config
}

const PORTS: [(&str, Protocol, u16); 3] =
    [("", Protocol::Tcp, 80), ("x", Protocol::Tcp, 81), ("u", Protocol::Udp, 80)];

fn ports(mask: u8) -> impl Iterator<Item = (&'static str, Protocol, u16)> {
    PORTS.into_iter().enumerate().filter(move |(bit, _)| mask & (1 << bit) != 0).map(|(_, port)| port)
}

fn make_service(shape: &Shape) -> Service {
    let mut made = service(&format!("s{}", shape.n), &format!("10.96.1.{}", shape.vip));
    made.created = shape.created;
    made.affinity =
        shape.affinity.then(|| service_model::Affinity { timeout_seconds: 60.try_into().unwrap() });
    made.cluster_ips.extend(shape.dual.then(|| ip(&format!("fd00:96::{}", shape.vip))));
    if shape.local {
        made.internal_traffic_policy = TrafficPolicy::Local;
    }
    if let Some((n, is_local, binding)) = shape.external {
        let wish = |binding| ExternalIpBinding { others: Some(binding), of: Vec::new() }.into();
        made.settings.external_ip_binding = binding.map(wish);
        let addr = ["192.0.2.7", "192.0.2.8", "192.168.50.10", "10.96.1.0"][usize::from(n)];
        // Those of a load balancer may be restricted.
        let (source, ranges): (_, &[&[&str]]) = match n {
            0 => (ExternalSource::ExternalIps, &[]),
            1 => (ExternalSource::LoadBalancer, &[&["10.0.0.0/8"], &["10.1.0.0/16", "192.0.2.0/24"], &[]]),
            _ => (ExternalSource::LoadBalancer, &[]),
        };
        let ranges = ranges.get(usize::from(shape.ports) % 4);
        let v4 = ranges.map(|ranges| ranges.iter().map(|net| net.parse().unwrap()).collect());
        made.source_ranges = Some(SourceRanges { v4, v6: None }.into());
        made.external_ips.push(ExternalIp { addr: ip(addr), source });
        if is_local {
            made.external_traffic_policy = TrafficPolicy::Local;
        }
    }
    let port = |(name, protocol, port): (&str, _, u16)| ServicePort {
        name: name.into(),
        protocol,
        port: port.try_into().unwrap(),
        node_port: [None, Some(port + 30_000), Some(port)][usize::from(shape.node_ports)]
            .and_then(|port| port.try_into().ok()),
    };
    made.ports = ports(shape.ports).map(port).collect();
    made
}

/// `conditions` has one digit to the base of three per endpoint: ready, unready, terminating.
fn make_slice(n: u8, owner: u8, set: u8, conditions: u8, mask: u8) -> EndpointSlice {
    let family = if n == 3 { IpFamily::V6 } else { IpFamily::V4 };
    let endpoint = |bit: u8| {
        let condition = conditions / 3u8.pow(bit.into()) % 3;
        let addr = match family {
            IpFamily::V4 => ip(&format!("10.244.0.{bit}")),
            IpFamily::V6 => ip(&format!("fd00:244::{}", bit + 1)),
        };
        SliceEndpoint {
            ready: condition == 0,
            serving: condition != 1,
            terminating: condition == 2,
            node: Some(if bit.is_multiple_of(2) { "n1".into() } else { "n2".into() }),
            ..plain_endpoint(addr)
        }
    };
    let port = |(name, protocol, _): (&str, _, _)| SlicePort {
        name: name.into(),
        protocol,
        port: 8080.try_into().unwrap(),
    };
    let endpoints = (0..4).filter(|bit| set & (1 << bit) != 0).map(endpoint).collect();
    let of = ServiceName::new("default", &format!("s{owner}"));
    let slice = plain_slice(&slice_name(n).name, of, ports(mask).map(port).collect(), endpoints);
    EndpointSlice { family, ..slice }
}

fn slice_name(n: u8) -> SliceName {
    SliceName { namespace: "default".into(), name: format!("l{n}").into() }
}

fn make_node(which: u8) -> ModelEvent {
    let addresses = match which {
        0 => [(IpFamily::V4, ip("192.168.50.10")), (IpFamily::V6, ip("fd00:50::10"))].into(),
        1 => [(IpFamily::V4, ip("192.168.50.11"))].into(),
        _ => BTreeMap::new(),
    };
    let pod_cidrs = if which == 1 { vec!["10.244.0.0/24".parse().unwrap()] } else { vec![] };
    ModelEvent::NodeApplied(Node { name: "n1".into(), addresses, pod_cidrs, ..Node::default() })
}

/// The third has a VIP on a real interface, and a program that listens on one of its ports.
fn set_addresses(kernel: &Kernel, which: u8) {
    let (v4, v6) = ((ip("192.168.50.10"), "eth0"), (ip("fd00:50::10"), "eth0"));
    kernel.vips.set_listeners(vs("10.96.1.1", Protocol::Tcp).vip_port().filter(|_| which == 2));
    match which {
        0 => kernel.vips.set_node_addresses([v4, v6]),
        1 => kernel.vips.set_node_addresses([(ip("192.168.50.11"), "eth0"), (ip("fd00:50::11"), "eth0")]),
        2 => kernel.vips.set_node_addresses([v4, v6, (ip("10.96.1.1"), "eth1")]),
        _ => kernel.vips.set_node_addresses([v4]),
    }
}

fn play(world: &mut World, api: &mut Api, step: Step) {
    let kernel = world.kernel.clone();
    match step {
        Step::Service(shape) => {
            let service = make_service(&shape);
            api.services.insert(shape.n, service.clone());
            world.send(applied(service));
        }
        Step::DeleteService(n) => {
            api.services.remove(&n);
            world.send(deleted(&format!("s{n}")));
        }
        Step::Slice { n, owner, set, conditions, ports } => {
            let slice = make_slice(n, owner, set, conditions, ports);
            api.slices.insert(n, slice.clone());
            world.send(ModelEvent::SliceApplied(slice));
        }
        Step::DeleteSlice(n) => {
            api.slices.remove(&n);
            world.send(ModelEvent::SliceDeleted(slice_name(n)));
        }
        Step::Node(n) => {
            api.node = Some(make_node(n));
            world.send(make_node(n));
        }
        Step::NodeAddresses(n) => {
            api.addresses = n;
            set_addresses(&kernel, n);
            world.reconciler.handle(Event::Touched(Touched::Vips));
        }
        Step::Pass(ms) => world.pass(Duration::from_millis(ms.into())),
        Step::Run => drop(world.reconciler.step(world.now)),
        Step::Restart => {
            let services_per_step = world.reconciler.services_per_step;
            *world = World { now: world.now, ..World::on(kernel, by_cidr()) };
            world.reconciler.services_per_step = services_per_step;
            api.begin(world);
        }
        Step::Damage(which) => damage(world, which),
        Step::Busy(n, busy) => set_busy(&kernel, n, busy),
        Step::Fail(..) | Step::FailCall(_) | Step::LoseReplies(_) => fail(&kernel, &step),
    }
}

fn fail(kernel: &Kernel, step: &Step) {
    match *step {
        Step::Fail(Table::Ipvs, n, errno) => kernel.ipvs.fail_nth(n.into(), errno),
        Step::Fail(Table::Vips, n, errno) => kernel.vips.fail_nth(n.into(), errno),
        Step::Fail(Table::Rules, n, errno) => kernel.rules.fail_nth(n.into(), errno),
        Step::FailCall(Table::Ipvs) => kernel.ipvs.fail_next_call(ErrorKind::Transient),
        Step::FailCall(Table::Vips) => kernel.vips.fail_next_call(ErrorKind::Transient),
        Step::FailCall(Table::Rules) => kernel.rules.fail_next_call(ErrorKind::Transient),
        Step::LoseReplies(Table::Ipvs) => kernel.ipvs.lose_replies_next(),
        Step::LoseReplies(Table::Vips) => kernel.vips.lose_replies_next(),
        Step::LoseReplies(Table::Rules) => kernel.rules.lose_replies_next(),
        _ => {}
    }
}

/// Damages what others could. The rules are damaged under a process that has read them, and that has the time to mend
/// them: only they tell that a virtual server on an external address is ours.
fn damage(world: &mut World, which: u8) {
    if matches!(which, 1 | 5..) {
        world.pass(Duration::from_secs(1));
        for _ in 0..100 {
            if world.reconciler.is_running() {
                damage_rules(world, which);
                break;
            }
            world.pass(Duration::from_secs(1));
        }
        world.pass(Duration::from_secs(1));
        return;
    }
    let kernel = &world.kernel;
    let servers = kernel.ipvs.virtual_servers();
    match which {
        0 => kernel.ipvs.flush(),
        2 => kernel.vips.delete_link(),
        3 => {
            if let Some(vs) = servers.keys().next() {
                kernel.ipvs.by_another(IpvsOp::DeleteVirtualServer { vs: *vs });
            }
        }
        _ => {
            let mut all = servers.iter().flat_map(|(vs, (_, rs))| rs.keys().map(|rs| (*vs, *rs)));
            if let Some((vs, rs)) = all.next() {
                kernel.ipvs.by_another(IpvsOp::DeleteRealServer { vs, rs });
            }
        }
    }
}

fn damage_rules(world: &mut World, which: u8) {
    let rules = &world.kernel.rules;
    if which == 1 {
        rules.delete_table();
        world.reconciler.handle(Event::Touched(Touched::Rules));
    } else if let Some(element) = rules.elements().into_iter().next() {
        rules.delete_element(element);
    }
}

fn set_busy(kernel: &Kernel, n: u8, busy: bool) {
    let all = kernel.ipvs.virtual_servers();
    let pairs: Vec<_> = all.iter().flat_map(|(vs, (_, rs))| rs.keys().map(|rs| (*vs, *rs))).collect();
    if let Some((vs, rs)) = usize::from(n).checked_rem(pairs.len()).map(|at| pairs[at]) {
        let counters = ConnectionCounters { active: u32::from(busy), inactive: 0, persistent: 0 };
        kernel.ipvs.set_connections(vs, rs, counters);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 250, failure_persistence: None, ..ProptestConfig::default() })]

    /// Once it is quiet, the kernel holds what a first start would write, nothing drains, and nothing is
    /// written.
    /// Conformance: node TestNodeManagerOnNodeChange
    /// Conformance: e2e/service should be able to up and down services
    #[test]
    fn every_history_ends_like_a_first_start(
        steps in proptest::collection::vec(step(), 1..60),
        services_per_step in prop_oneof![Just(1usize), Just(1024)],
    ) {
        let (mut world, mut api) = (World::on(Kernel::new(), by_cidr()), Api::default());
        world.reconciler.services_per_step = services_per_step;
        api.begin(&mut world);
        world.run();
        for step in steps {
            play(&mut world, &mut api, step);
        }
        world.pass(Duration::from_secs(1000));
        // A ready endpoint that is not chosen keeps its connections for as long as they last.
        world.kernel.ipvs.end_connections();
        world.pass(Duration::from_secs(1000));
        let mut expect = api.fresh();
        expect.pass(Duration::from_secs(100));
        prop_assert_eq!(world.kernel.state(), expect.kernel.state());
        prop_assert_eq!(world.reconciler.syncer.work.len(), expect.reconciler.syncer.work.len());
        prop_assert_eq!(world.reconciler.state().drains.iter().count(), 0);
        check_shortcuts(&world.kernel.rules.elements())?;
        let written = world.kernel.ipvs.ops().len();
        world.pass(Duration::from_secs(100));
        prop_assert_eq!(world.kernel.ipvs.ops().len(), written);
    }
}

/// Checks what the order of the packet rules builds on: ports of which they know more are ports of Services, and those of
/// ClusterIPs have neither source ranges nor real servers for clients outside.
fn check_shortcuts(elements: &BTreeSet<RuleElement>) -> Result<(), TestCaseError> {
    let is_service = |port: VipPort| elements.contains(&RuleElement::Service(port));
    for element in elements {
        match element {
            RuleElement::MasqueradeNonLocal(port) => {
                let others = [RuleElement::Restrict(*port), RuleElement::DropExternal(*port)];
                let external = Front::from(*port).for_external();
                let has_mark = elements
                    .iter()
                    .any(|other| matches!(other, RuleElement::Mark(front, _) if *front == external));
                let has_others = has_mark || others.iter().any(|other| elements.contains(other));
                prop_assert!(is_service(*port) && !has_others, "{element}");
            }
            RuleElement::Masquerade(port)
            | RuleElement::MasqueradeExternal(port)
            | RuleElement::MasqueradePods(port)
            | RuleElement::MasqueradeVips(port)
            | RuleElement::Refuse(port)
            | RuleElement::DropExternal(port)
            | RuleElement::Restrict(port) => prop_assert!(is_service(*port), "{element}"),
            RuleElement::Mark(front, _) => prop_assert!(is_service(front.port), "{element}"),
            _ => {}
        }
    }
    Ok(())
}

/// Watches what is written: nothing that is wanted may be taken away.
#[derive(Default)]
struct Guard {
    wanted: BTreeSet<(VirtualServerId, RealServerId)>,
    seen: Vec<String>,
    /// Elements that a first start would add.
    elements: BTreeSet<RuleElement>,
    /// VIPs that a first start would bind: one that is an address of the node is served without that.
    bound: BTreeSet<IpAddr>,
    /// VIPs that it would steer.
    steered: BTreeSet<IpAddr>,
    /// Addresses that it would add.
    addresses: BTreeSet<IpAddr>,
}

impl Guard {
    fn check(&mut self, bad: bool, op: &dyn std::fmt::Display) {
        self.seen.extend(bad.then(|| op.to_string()));
    }

    fn wants_server(&self, vs: &VirtualServerId) -> bool {
        self.wanted.iter().any(|(wanted, _)| wanted == vs)
    }

    fn wants_vip(&self, vip: IpAddr) -> bool {
        self.bound.contains(&vip)
            && self.wanted.iter().any(|(vs, _)| vs.vip_port().is_some_and(|port| port.addr == vip))
    }

    fn ipvs(&mut self, op: &IpvsOp) {
        let quiesces = |settings: &RealServer| settings.weight.is_quiesced();
        let bad = match op {
            IpvsOp::DeleteVirtualServer { vs } => self.wants_server(vs),
            IpvsOp::DeleteRealServer { vs, rs } => self.wanted.contains(&(*vs, *rs)),
            IpvsOp::SetRealServer { vs, rs, settings } | IpvsOp::AddRealServer { vs, rs, settings } => {
                self.wanted.contains(&(*vs, *rs)) && quiesces(settings)
            }
            _ => false,
        };
        self.check(bad, op);
    }

    fn vips(&mut self, op: &VipOp) {
        let bad = match op {
            VipOp::DeleteRoute { vip, table: RouteTable::Local } => self.wants_vip(*vip),
            VipOp::DeleteRoute { vip, table: RouteTable::Steering } => self.steered.contains(vip),
            VipOp::DeleteAddress { addr } => self.addresses.contains(addr),
            VipOp::DeleteRule { .. } => true,
            _ => false,
        };
        self.check(bad, op);
    }

    /// New connections are refused where the kernel has refused whoever could take them: somebody else may be there
    /// still.
    fn rules(&mut self, op: &RulesOp, serving: &BTreeSet<(VirtualServerId, RealServerId)>) {
        let serves =
            |vs: &VirtualServerId| serving.intersection(&self.wanted).any(|(serving, _)| serving == vs);
        let bad = match op {
            RulesOp::DeleteElement(RuleElement::Vip(vip)) => self.wants_vip(*vip),
            RulesOp::DeleteElement(element @ RuleElement::Steer(_)) => self.elements.contains(element),
            RulesOp::DeleteElement(element @ RuleElement::MasqueradeNonLocal(port)) => {
                self.elements.contains(element) && serves(&(*port).into())
            }
            // A port at an address of the node that nothing serves yet is left to the node for as long as the kernel does
            // not say who listens there.
            RulesOp::DeleteElement(RuleElement::Service(port)) => serves(&(*port).into()),
            RulesOp::AddElement(RuleElement::Refuse(port)) => serves(&(*port).into()),
            _ => false,
        };
        self.check(bad, op);
    }
}

fn watch(kernel: &Kernel) -> Rc<RefCell<Guard>> {
    let guard = Rc::new(RefCell::new(Guard::default()));
    let (ipvs, vips, rules) = (guard.clone(), guard.clone(), guard.clone());
    kernel.ipvs.refuse(move |op| {
        ipvs.borrow_mut().ipvs(op);
        None
    });
    kernel.vips.refuse(move |op| {
        vips.borrow_mut().vips(op);
        None
    });
    let tables = kernel.clone();
    kernel.rules.refuse(move |op| {
        rules.borrow_mut().rules(op, &serving(&tables));
        None
    });
    guard
}

fn serving(kernel: &Kernel) -> BTreeSet<(VirtualServerId, RealServerId)> {
    let all = kernel.ipvs.virtual_servers();
    let of = |(vs, (_, rs)): (&VirtualServerId, &(_, BTreeMap<RealServerId, RealServer>))| {
        let serving = rs.iter().filter(|(_, settings)| !settings.weight.is_quiesced());
        serving.map(|(rs, _)| (*vs, *rs)).collect::<Vec<_>>()
    };
    all.iter().flat_map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// Nothing that the objects want is ever quiesced, removed or refused, as long as one step plans all that
    /// changed.
    #[test]
    fn nothing_wanted_is_taken_away(steps in proptest::collection::vec(step(), 1..40)) {
        let (mut world, mut api) = (World::on(Kernel::new(), by_cidr()), Api::default());
        let guard = watch(&world.kernel);
        api.begin(&mut world);
        world.run();
        let mut may_be_wrong = false;
        for step in steps {
            may_be_wrong |= matches!(step, Step::FailCall(Table::Vips));
            if may_be_wrong && !world.knows_addresses() {
                // Where the kernel does not tell which addresses the node has, others are wanted.
                let seen = std::mem::take(&mut guard.borrow_mut().seen);
                *guard.borrow_mut() = Guard { seen, ..Guard::default() };
            } else if matches!(step, Step::Pass(_) | Step::Run | Step::Restart | Step::Damage(_)) {
                let fresh = api.fresh().kernel;
                guard.borrow_mut().wanted = serving(&fresh);
                guard.borrow_mut().elements = fresh.rules.elements();
                guard.borrow_mut().bound = fresh.vips.routes().into_keys().collect();
                guard.borrow_mut().steered = fresh.vips.steered();
                guard.borrow_mut().addresses = fresh.vips.addresses();
            }
            let text = format!("{step:?}");
            play(&mut world, &mut api, step);
            prop_assert_eq!(&guard.borrow().seen, &Vec::<String>::new(), "in {}", text);
        }
    }
}
