//! Memory that the loop keeps, and that it needs on the way there, at 10,000 Services with ten endpoints
//! each.
#![expect(unsafe_code, reason = "an allocator that counts")]
#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
    collections::BTreeSet,
    net::IpAddr,
};

use dataplane::{
    BatchReport, ForwardDrop, IpvsTable, ObservedLink, ObservedRealServer, ObservedRules, ObservedVips,
    RulesTable, TableError, Tables, VipTable, VirtualServerDump,
    fake::{FakeConntrack, FakeSysctls},
};
use drain::Time;
use lb_types::{
    IpvsOp, Protocol, RulesLayout, RulesOp, Scheduler, ServiceName, VipOp, VipPort, VirtualServerId,
};
use planner::Ownership;
use reconcile::{Config, Event, Reconciler};
use service_model::{
    ModelEvent, Service, SliceEndpoint, SlicePort,
    testing::{plain_endpoint, plain_port, plain_service, plain_slice},
};

thread_local! {
    /// Bytes in use, and the most that ever were.
    static LIVE: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

/// Follows what a thread has allocated.
struct Counting;

/// Bytes that glibc's allocator takes for a request: a header, and sizes that are multiples of 16.
const fn taken(bytes: usize) -> usize {
    let chunk = (bytes + 8).next_multiple_of(16);
    if chunk < 32 { 32 } else { chunk }
}

fn change(more: usize, less: usize) {
    // A thread that ends allocates nothing that a test would count.
    let _ended = LIVE.try_with(|cell| {
        let (live, peak) = cell.get();
        let live = (live + more).saturating_sub(less);
        cell.set((live, peak.max(live)));
    });
}

// SAFETY: everything is passed on to the system's allocator; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        change(taken(layout.size()), 0);
        // SAFETY: the caller keeps the contract of `alloc`.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        change(0, taken(layout.size()));
        // SAFETY: the pointer came from `System` with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        change(taken(new_size), taken(layout.size()));
        // SAFETY: the pointer came from `System` with this layout.
        unsafe { System.realloc(pointer, layout, new_size) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

/// A kernel that takes everything and remembers nothing.
struct Void;

impl IpvsTable for Void {
    fn dump_virtual_servers(&mut self) -> Result<VirtualServerDump, TableError> {
        Ok(VirtualServerDump::default())
    }

    fn dump_real_servers(&mut self, _: VirtualServerId) -> Result<Vec<ObservedRealServer>, TableError> {
        Ok(Vec::new())
    }

    fn has_scheduler(&mut self, _: Scheduler) -> Result<bool, TableError> {
        Ok(true)
    }

    fn apply(&mut self, _: &[IpvsOp]) -> Result<BatchReport, TableError> {
        Ok(BatchReport::default())
    }
}

impl VipTable for Void {
    fn observe(&mut self) -> Result<ObservedVips, TableError> {
        let link = Some(ObservedLink { dummy: true, up: true });
        Ok(ObservedVips { link, ..ObservedVips::default() })
    }

    fn mark_rules(&mut self) -> Result<Vec<lb_types::MarkRule>, TableError> {
        Ok(Vec::new())
    }

    fn advertised_links(&mut self) -> Result<BTreeSet<String>, TableError> {
        Ok(BTreeSet::new())
    }

    fn apply(&mut self, _: &[VipOp]) -> Result<BatchReport, TableError> {
        Ok(BatchReport::default())
    }

    fn listeners(&mut self, _: &[VipPort]) -> Result<BTreeSet<VipPort>, TableError> {
        Ok(BTreeSet::new())
    }
}

impl RulesTable for Void {
    fn observe(&mut self, _: &RulesLayout) -> Result<ObservedRules, TableError> {
        Ok(ObservedRules::default())
    }

    fn forward_drops(&mut self) -> Result<Vec<ForwardDrop>, TableError> {
        Ok(Vec::new())
    }

    fn apply(&mut self, _: &[RulesOp]) -> Result<BatchReport, TableError> {
        Ok(BatchReport::default())
    }
}

const SERVICES: usize = 10_000;
const NOW: Time = Time::from_secs(1000);

#[test]
fn memory_at_10_000_services_with_10_endpoints() {
    let tables = Tables {
        ipvs: Box::new(Void),
        vips: Box::new(Void),
        rules: Box::new(Void),
        sysctls: Box::new(FakeSysctls::default()),
        conntrack: Box::new(FakeConntrack::default()),
    };
    let ownership =
        Ownership { service_cidrs: vec!["10.96.0.0/12".parse().unwrap()], ..Ownership::default() };
    let mut reconciler = Reconciler::new(Config { ownership, ..Config::default() }, tables);
    let mut send = |event| reconciler.handle(Event::Model(event));
    let (begin, _) = LIVE.get();
    for n in 0..SERVICES {
        send(ModelEvent::ServiceApplied(service(n)));
        send(slice(n));
    }
    send(ModelEvent::Synced);
    let (model, _) = LIVE.get();
    while reconciler.next_wakeup(NOW).is_some_and(|due| due <= NOW) {
        reconciler.step(NOW);
    }
    assert!(reconciler.is_running());
    let (settled, peak) = LIVE.get();
    let megabytes = |bytes: usize| (bytes - begin) / 1_000_000;
    let (model, settled, peak) = (megabytes(model), megabytes(settled), megabytes(peak));
    println!("model {model} MB, settled {settled} MB, peak {peak} MB");
    assert!(settled <= 42, "settled {settled} MB");
    assert!(peak <= 46, "peak {peak} MB");
}

fn vip(n: usize) -> IpAddr {
    format!("10.96.{}.{}", n / 250, n % 250 + 1).parse().unwrap()
}

fn service(n: usize) -> Service {
    let name = ServiceName::new(&format!("ns-{}", n % 50), &format!("service-{n}"));
    let port = plain_port("http", Protocol::Tcp, 80.try_into().unwrap());
    let uid = "00000000-0000-0000-0000-000000000000".into();
    Service { uid, ..plain_service(name, vec![vip(n)], vec![port]) }
}

fn slice(n: usize) -> ModelEvent {
    let namespace = format!("ns-{}", n % 50);
    let endpoint = |e: usize| {
        let addr = format!("10.{}.{}.{}", 128 + n / 250, n % 250, e + 1).parse().unwrap();
        let pod = format!("{namespace}/service-{n}-7c9d8b6f5-{e:05}/10000000-0000-0000-0000-{n:012}");
        let node = Some(format!("node-{}", (n + e) % 500).into());
        SliceEndpoint { node, pod: Some(pod.into()), ..plain_endpoint(addr) }
    };
    let port = SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: 8080.try_into().unwrap() };
    let of = ServiceName::new(&namespace, &format!("service-{n}"));
    let endpoints = (0..10).map(endpoint).collect();
    ModelEvent::SliceApplied(plain_slice(&format!("service-{n}-abcde"), of, vec![port], endpoints))
}
