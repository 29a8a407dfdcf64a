//! Cost of a change, counted: requests to the kernel, allocations, look-ups in our own tables. All counters
//! belong to the thread, so that the tests may run side by side.
#![expect(unsafe_code, reason = "an allocator that counts")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    rc::Rc,
};

use dataplane::{
    BatchReport, IpvsTable, ObservedRealServer, TableError, Tables, VirtualServerDump,
    fake::{FakeConntrack, FakeIpvs, FakeRules, FakeSysctls, FakeVips},
};
use drain::Time;
use lb_types::{IpFamily, IpvsOp, Protocol, RealServerId, Scheduler, ServiceName, VipPort, VirtualServerId};
use planner::Ownership;
use reconcile::{Config, Event, Reconciler};
use service_model::{
    ModelEvent, Node, Service, SliceEndpoint, SlicePort,
    testing::{plain_endpoint, plain_port, plain_service, plain_slice},
};

thread_local! {
    static ALLOCATED: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
}

/// Counts allocations and their bytes by thread.
struct Counting;

fn allocated(bytes: usize) {
    // A thread that ends allocates nothing that a test would count.
    let _ended = ALLOCATED.try_with(|cell| {
        let (count, sum) = cell.get();
        cell.set((count + 1, sum + bytes as u64));
    });
}

// SAFETY: everything is passed on to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        allocated(layout.size());
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the pointer came from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        allocated(new_size);
        // SAFETY: the pointer came from `System` with this layout.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// Cost of one change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    requests: usize,
    look_ups: u64,
    allocations: u64,
    bytes: u64,
}

/// A loop over fakes that has programmed its services.
struct CountedLoop {
    ipvs: FakeIpvs,
    vips: FakeVips,
    rules: FakeRules,
    reconciler: Reconciler,
}

const NOW: Time = Time::from_secs(1000);

impl CountedLoop {
    /// `services` services with ten endpoints each.
    fn new(services: usize) -> Self {
        CountedLoop::with_tables(services, |ipvs| Box::new(ipvs))
    }

    fn with_tables(services: usize, table: impl FnOnce(FakeIpvs) -> Box<dyn IpvsTable>) -> Self {
        let (ipvs, vips, rules) = (FakeIpvs::default(), FakeVips::default(), FakeRules::default());
        vips.set_node_addresses([("192.168.50.10".parse().unwrap(), "eth0")]);
        let tables = Tables {
            ipvs: table(ipvs.clone()),
            vips: Box::new(vips.clone()),
            rules: Box::new(rules.clone()),
            sysctls: Box::new(FakeSysctls::default()),
            conntrack: Box::new(FakeConntrack::default()),
        };
        let ownership =
            Ownership { service_cidrs: vec!["10.96.0.0/12".parse().unwrap()], ..Ownership::default() };
        let mut world = CountedLoop {
            ipvs,
            vips,
            rules,
            reconciler: Reconciler::new(Config { ownership, ..Config::default() }, tables),
        };
        world.send(node());
        for n in 0..services {
            world.send(ModelEvent::ServiceApplied(service(n)));
            world.send(slice(n, 0..10));
        }
        world.send(ModelEvent::Synced);
        world.settle();
        assert!(world.reconciler.is_running());
        world
    }

    fn send(&mut self, event: ModelEvent) {
        self.reconciler.handle(Event::Model(event));
    }

    fn settle(&mut self) {
        while self.reconciler.next_wakeup(NOW).is_some_and(|due| due <= NOW) {
            self.reconciler.step(NOW);
        }
        // The fakes' logs are not what is measured.
        self.ipvs.take_ops();
        self.vips.take_ops();
    }

    fn requests(&self) -> usize {
        self.ipvs.requests() + self.vips.requests() + self.rules.requests()
    }

    /// Cost of an event from its delivery until the loop has nothing to do any more.
    fn cost(&mut self, event: ModelEvent) -> Cost {
        let before = self.requests();
        let (count, bytes) = ALLOCATED.get();
        let look_ups = tally::asked(|| {
            self.send(event);
            while self.reconciler.next_wakeup(NOW).is_some_and(|due| due <= NOW) {
                self.reconciler.step(NOW);
            }
        });
        let (count_after, bytes_after) = ALLOCATED.get();
        let cost = Cost {
            requests: self.requests() - before,
            look_ups,
            allocations: count_after - count,
            bytes: bytes_after - bytes,
        };
        self.settle();
        cost
    }

    /// The median of what a kind of change costs, so that neither a map's growth nor a first time counts.
    fn median(&mut self, event: impl Fn(usize) -> ModelEvent) -> Cost {
        let mut costs: Vec<_> = (0..21).map(|n| self.cost(event(n))).collect();
        let requests: BTreeSet<_> = costs.iter().map(|cost| cost.requests).collect();
        assert_eq!(requests.len(), 1, "the same change costs the same requests every time: {costs:?}");
        costs.sort_by_key(|cost| (cost.look_ups, cost.allocations));
        costs[10]
    }
}

/// Name of a kind of change, the requests that it costs, and its n-th event.
type Kind = (&'static str, usize, fn(usize) -> ModelEvent);

/// Kinds of changes that cost the same among 10 and among 10,000 services.
fn check(kinds: &[Kind]) {
    let (mut few, mut many) = (CountedLoop::new(10), CountedLoop::new(10_000));
    for (what, requests, event) in kinds {
        let (few, many) = (few.median(event), many.median(event));
        println!("{what}: {few:?} with 10 services, {many:?} with 10,000");
        assert_eq!((few.requests, many.requests), (*requests, *requests), "{what}: requests");
        assert_eq!(few.look_ups, many.look_ups, "{what}: look-ups");
        assert!(few.look_ups > 0 || !cfg!(debug_assertions), "{what}: look-ups are counted");
        assert!(few.allocations.abs_diff(many.allocations) <= 4, "{what}: {few:?}, {many:?}");
        assert!(few.bytes.abs_diff(many.bytes) <= 2048, "{what}: {few:?}, {many:?}");
    }
}

/// Conformance: e2e/service_latency should not be very high
#[test]
fn a_change_costs_the_same_with_10_and_with_10_000_services() {
    check(&[
        ("one endpoint more", 1, |n| slice(5, 0..11 + n)),
        ("one endpoint comes, one goes", 2, |n| slice(6, n + 1..n + 11)),
        ("another affinity", 1, |n| {
            let timeout_seconds = u32::try_from(n + 1).unwrap().try_into().unwrap();
            let affinity = Some(service_model::Affinity { timeout_seconds });
            ModelEvent::ServiceApplied(Service { affinity, ..service(7) })
        }),
    ]);
}

/// Look-ups for one more endpoint of a Service, `draining` others of which drain.
fn cost_beside_drains(draining: usize) -> u64 {
    let mut world = CountedLoop::new(10);
    let terminating = |count: usize| match slice(5, 0..count) {
        ModelEvent::SliceApplied(mut slice) => {
            for endpoint in slice.endpoints.iter_mut().take(draining) {
                (endpoint.ready, endpoint.terminating) = (false, true);
            }
            ModelEvent::SliceApplied(slice)
        }
        other => other,
    };
    world.send(slice(5, 0..draining + 1));
    world.settle();
    world.send(terminating(draining + 1));
    world.settle();
    assert_eq!(world.reconciler.state().drains.len(), draining);
    world.median(|n| terminating(draining + 2 + n)).look_ups
}

#[test]
fn a_draining_endpoint_costs_the_same_however_many_drain() {
    let (few, many) = (cost_beside_drains(20), cost_beside_drains(200));
    println!("{few} look-ups beside 20 drains, {many} beside 200");
    assert!(many <= few * 11, "each looks at each: {few}, {many}");
}

#[test]
fn an_object_delivered_again_costs_nothing_but_the_comparison() {
    check(&[
        ("the same slice", 0, |_| slice(5, 0..10)),
        ("the same service", 0, |_| ModelEvent::ServiceApplied(service(5))),
        ("the same node", 0, |_| node()),
    ]);
}

#[test]
fn an_idle_loop_asks_and_allocates_nothing() {
    let mut world = CountedLoop::new(1000);
    let (before, requests) = (ALLOCATED.get(), world.requests());
    let look_ups = tally::asked(|| assert!(world.reconciler.next_wakeup(NOW) > Some(NOW)));
    assert_eq!((ALLOCATED.get(), world.requests()), (before, requests));
    assert!(look_ups < 10, "{look_ups}");
    let look_ups = tally::asked(|| assert!(world.reconciler.step(NOW).is_quiet()));
    assert_eq!(world.requests(), requests);
    assert!(look_ups < 20, "{look_ups}");
}

/// A kernel that looks at every single operation of a burst.
///
/// The invariant, after every operation and for every service: the real servers that serve are never fewer
/// than those that both its old and its new set have, and, because what comes precedes what goes, never fewer
/// than the smaller of both sets; nor is any of those that both sets have ever not serving.
struct Watched {
    inner: FakeIpvs,
    serving: BTreeMap<VirtualServerId, BTreeSet<RealServerId>>,
    sets: Rc<BTreeMap<VirtualServerId, [BTreeSet<RealServerId>; 2]>>,
    batches: Rc<Cell<usize>>,
    armed: Rc<Cell<bool>>,
}

impl Watched {
    fn follow(&mut self, op: &IpvsOp) {
        let serving = self.serving.entry(op.virtual_server()).or_default();
        match op {
            IpvsOp::AddRealServer { rs, settings, .. } | IpvsOp::SetRealServer { rs, settings, .. } => {
                if settings.weight.is_quiesced() {
                    serving.remove(rs);
                } else {
                    serving.insert(*rs);
                }
            }
            IpvsOp::DeleteRealServer { rs, .. } => drop(serving.remove(rs)),
            IpvsOp::DeleteVirtualServer { .. } => serving.clear(),
            IpvsOp::AddVirtualServer { .. } | IpvsOp::SetVirtualServer { .. } => {}
        }
    }

    fn check(&self, op: &IpvsOp) {
        let vs = op.virtual_server();
        let [old, new] = &self.sets[&vs];
        let serving = &self.serving[&vs];
        assert!(old.intersection(new).all(|rs| serving.contains(rs)), "{op}: one that stays does not serve");
        assert!(serving.len() >= old.len().min(new.len()), "{op}: {} of {vs} serve", serving.len());
    }
}

impl IpvsTable for Watched {
    fn dump_virtual_servers(&mut self) -> Result<VirtualServerDump, TableError> {
        self.inner.dump_virtual_servers()
    }

    fn dump_real_servers(&mut self, vs: VirtualServerId) -> Result<Vec<ObservedRealServer>, TableError> {
        self.inner.dump_real_servers(vs)
    }

    fn has_scheduler(&mut self, scheduler: Scheduler) -> Result<bool, TableError> {
        self.inner.has_scheduler(scheduler)
    }

    fn apply(&mut self, ops: &[IpvsOp]) -> Result<BatchReport, TableError> {
        self.batches.set(self.batches.get() + 1);
        for op in ops {
            self.follow(op);
            if self.armed.get() {
                self.check(op);
            }
        }
        self.inner.apply(ops)
    }
}

#[test]
fn a_burst_of_1000_changes_is_a_handful_of_batches_and_no_service_ever_lacks_real_servers() {
    const SERVICES: usize = 1000;
    // Replaced as a whole, partly, shrunk, grown.
    let new = |n: usize| match n % 4 {
        0 => 10..20,
        1 => 5..15,
        2 => 0..2,
        _ => 0..14,
    };
    let set = |n: usize, range: std::ops::Range<usize>| range.map(|e| endpoint_id(n, e)).collect();
    let sets = (0..SERVICES).map(|n| (vs(n), [set(n, 0..10), set(n, new(n))])).collect();
    let (sets, batches, armed) = (Rc::new(sets), Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let (counter, arm) = (batches.clone(), armed.clone());
    let mut world = CountedLoop::with_tables(SERVICES, move |inner| {
        Box::new(Watched { inner, serving: BTreeMap::new(), sets, batches: counter, armed: arm })
    });
    let (before, transactions) = (batches.replace(0), world.rules.transactions());
    assert!(before <= 2, "{before} batches for the first programming");
    armed.set(true);
    for n in 0..SERVICES {
        world.send(slice(n, new(n)));
    }
    world.settle();
    assert!((1..=2).contains(&batches.get()), "one for what comes, one for what goes: {}", batches.get());
    assert_eq!(world.rules.transactions(), transactions, "no rule depends on them");
    let serving = |n: usize| {
        let (_, real_servers) = &world.ipvs.virtual_servers()[&vs(n)];
        real_servers.values().filter(|settings| !settings.weight.is_quiesced()).count()
    };
    assert_eq!([serving(0), serving(1), serving(2), serving(3)], [10, 10, 2, 14]);
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn node() -> ModelEvent {
    let addresses = [(IpFamily::V4, ip("192.168.50.10"))].into();
    ModelEvent::NodeApplied(Node { name: "n1".into(), addresses, ..Node::default() })
}

fn vip(n: usize) -> IpAddr {
    ip(&format!("10.96.{}.{}", n / 250, n % 250 + 1))
}

fn vs(n: usize) -> VirtualServerId {
    VipPort { addr: vip(n), protocol: Protocol::Tcp, port: 80.try_into().unwrap() }.into()
}

fn endpoint_id(n: usize, e: usize) -> RealServerId {
    let addr = ip(&format!("10.{}.{}.{}", 128 + n / 250, n % 250, e + 1));
    RealServerId { addr, port: 8080.try_into().unwrap() }
}

fn service(n: usize) -> Service {
    let port = plain_port("", Protocol::Tcp, 80.try_into().unwrap());
    plain_service(ServiceName::new("default", &format!("s{n}")), vec![vip(n)], vec![port])
}

/// The slice of service `n` with the endpoints of a range.
fn slice(n: usize, endpoints: std::ops::Range<usize>) -> ModelEvent {
    let endpoint = |e| SliceEndpoint { node: Some("n2".into()), ..plain_endpoint(endpoint_id(n, e).addr) };
    let port = SlicePort { name: "".into(), protocol: Protocol::Tcp, port: 8080.try_into().unwrap() };
    let name = format!("s{n}");
    let of = ServiceName::new("default", &name);
    ModelEvent::SliceApplied(plain_slice(&name, of, vec![port], endpoints.map(endpoint).collect()))
}
