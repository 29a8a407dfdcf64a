//! Scenarios: the loop over fakes with the time as an argument.

mod adoption;
mod arp;
mod budget;
mod configured;
mod conformance;
mod conntrack;
mod crash;
mod draining;
mod marks;
mod node;
mod node_findings;
mod problems;
mod programming;
mod properties;
mod refusals;
mod repair;
mod reports;
mod schedulers;
mod shared;
mod standing;
mod succession;
mod sysctls;
mod turns;
mod unlucky;

use std::{net::IpAddr, time::Duration};

use dataplane::{
    Tables,
    fake::{FakeConntrack, FakeIpvs, FakeRules, FakeSysctls, FakeVips},
};
use drain::Time;
use lb_types::{
    Front, IpFamily, Protocol, RealServerId, RuleElement, ServiceName, SysctlOp, VipPort, VirtualServerId,
};
use planner::{Ownership, PlannerConfig};
use service_model::{
    EndpointSlice, ExternalIp, ExternalSource, ModelEvent, Node, Service, ServicePort, ServiceSettings,
    SliceEndpoint, SliceName, SlicePort, TrafficPolicy,
    testing::{plain_endpoint, plain_port, plain_service, plain_slice},
};

use crate::{Config, Event, Reconciler, Report};

/// The kernel of the tests: handles that outlive the loop, as the kernel outlives the process.
#[derive(Clone, Default)]
struct Kernel {
    ipvs: FakeIpvs,
    vips: FakeVips,
    rules: FakeRules,
    sysctls: FakeSysctls,
    conntrack: FakeConntrack,
}

impl Kernel {
    fn new() -> Self {
        let kernel = Kernel::default();
        kernel.vips.set_node_addresses([(ip("192.168.50.10"), "eth0"), (ip("fd00:50::10"), "eth0")]);
        kernel.sysctls.set("net/ipv4/vs/conntrack", 0);
        kernel
    }

    fn tables(&self) -> Tables {
        Tables {
            ipvs: Box::new(self.ipvs.clone()),
            vips: Box::new(self.vips.clone()),
            rules: Box::new(self.rules.clone()),
            sysctls: Box::new(self.sysctls.clone()),
            conntrack: Box::new(self.conntrack.clone()),
        }
    }

    /// All requests that any table has had.
    fn requests(&self) -> usize {
        self.ipvs.requests() + self.vips.requests() + self.rules.requests()
    }

    /// Serving and quiesced real servers of a virtual server: (last byte of the address, weight).
    fn weights(&self, vs: VirtualServerId) -> Vec<(u8, u32)> {
        let servers = self.ipvs.virtual_servers();
        let Some((_, real_servers)) = servers.get(&vs) else { return Vec::new() };
        let last = |rs: &RealServerId| match rs.addr {
            IpAddr::V4(addr) => addr.octets()[3],
            IpAddr::V6(addr) => addr.octets()[15],
        };
        real_servers.iter().map(|(rs, settings)| (last(rs), settings.weight.0)).collect()
    }

    /// Elements that follow from Services.
    fn elements_of_services(&self) -> Vec<RuleElement> {
        let is_of_node = |element: &RuleElement| matches!(element, RuleElement::NodeAddress(_));
        self.rules.elements().into_iter().filter(|element| !is_of_node(element)).collect()
    }

    /// Everything that is programmed, for comparisons.
    fn state(&self) -> impl PartialEq + std::fmt::Debug + use<> {
        let bound = (self.vips.routes(), self.vips.steered(), self.vips.addresses());
        (self.ipvs.virtual_servers(), bound, self.rules.elements(), self.rules.layout())
    }
}

/// A loop, its kernel and its clock.
struct World {
    kernel: Kernel,
    reconciler: Reconciler,
    now: Time,
}

const SYNC_PERIOD: Duration = Duration::from_secs(30);

fn config() -> Config {
    Config {
        ownership: Ownership {
            service_cidrs: vec!["10.96.0.0/16".parse().unwrap(), "fd00:96::/112".parse().unwrap()],
            ..Ownership::default()
        },
        sync_period: SYNC_PERIOD,
        planner: PlannerConfig {
            sysctls: vec![SysctlOp::new("net/ipv4/vs/conntrack", 1).into()],
            ..PlannerConfig::default()
        },
        ..Config::default()
    }
}

impl World {
    fn new() -> Self {
        World::on(Kernel::new(), config())
    }

    fn on(kernel: Kernel, config: Config) -> Self {
        let reconciler = Reconciler::new(config, kernel.tables());
        World { kernel, reconciler, now: Time::from_secs(1000) }
    }

    /// A loop that has delivered its input once.
    fn synced(events: impl IntoIterator<Item = ModelEvent>) -> Self {
        let mut world = World::new();
        world.deliver(events);
        world.run();
        world
    }

    fn deliver(&mut self, events: impl IntoIterator<Item = ModelEvent>) {
        for event in events.into_iter().chain([node(), ModelEvent::Synced]) {
            self.send(event);
        }
    }

    fn send(&mut self, event: ModelEvent) {
        self.reconciler.handle(Event::Model(event));
    }

    /// One event and one step.
    fn sync(&mut self, event: ModelEvent) -> Report {
        self.send(event);
        self.reconciler.step(self.now)
    }

    /// Steps until nothing is due now.
    fn run(&mut self) -> Report {
        let mut all = Report::default();
        let mut steps = 0;
        while self.reconciler.next_wakeup(self.now).is_some_and(|due| due <= self.now) {
            steps += 1;
            assert!(steps < 1000, "always something to do at once: {:?}", self.reconciler.syncer.work);
            let report = self.reconciler.step(self.now);
            all.written += report.written;
            all.failed += report.failed;
            all.drift += report.drift;
            all.ended.extend(report.ended);
            all.flows += report.flows;
            all.completed_start |= report.completed_start;
        }
        all
    }

    /// Lets time pass, stepping whenever something is due.
    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        let mut steps_at_once = 0;
        while let Some(due) = self.reconciler.next_wakeup(self.now).filter(|due| *due <= end) {
            steps_at_once = if due > self.now { 0 } else { steps_at_once + 1 };
            assert!(
                steps_at_once < 1000,
                "always something to do at once: {:?}",
                self.reconciler.syncer.work
            );
            self.now = self.now.max(due);
            self.reconciler.step(self.now);
        }
        self.now = end;
    }

    /// The process is replaced by a new one that gets the same input.
    fn restart(&mut self, events: impl IntoIterator<Item = ModelEvent>) -> Report {
        *self = World { now: self.now, ..World::on(self.kernel.clone(), config()) };
        self.deliver(events);
        self.run()
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn vs(vip: &str, protocol: Protocol) -> VirtualServerId {
    VipPort { addr: ip(vip), protocol, port: 80.try_into().unwrap() }.into()
}

fn rs(addr: &str) -> RealServerId {
    RealServerId { addr: ip(addr), port: 8080.try_into().unwrap() }
}

fn node() -> ModelEvent {
    ModelEvent::NodeApplied(Node {
        name: "n1".into(),
        addresses: [(IpFamily::V4, ip("192.168.50.10")), (IpFamily::V6, ip("fd00:50::10"))].into(),
        ..Node::default()
    })
}

fn service(name: &str, vip: &str) -> Service {
    let port = plain_port("", Protocol::Tcp, 80.try_into().unwrap());
    plain_service(ServiceName::new("default", name), vec![ip(vip)], vec![port])
}

fn udp(mut service: Service) -> Service {
    service.ports[0].protocol = Protocol::Udp;
    service
}

fn applied(service: Service) -> ModelEvent {
    ModelEvent::ServiceApplied(service)
}

fn deleted(name: &str) -> ModelEvent {
    ModelEvent::ServiceDeleted(ServiceName::new("default", name))
}

/// State of an endpoint in a slice.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Is {
    Ready,
    Unready,
    Terminating,
}

fn slice(service: &str, protocol: Protocol, endpoints: &[(&str, Is)]) -> ModelEvent {
    let endpoint = |(addr, is): &(&str, Is)| SliceEndpoint {
        ready: *is == Is::Ready,
        serving: *is != Is::Unready,
        terminating: *is == Is::Terminating,
        ..plain_endpoint(ip(addr))
    };
    let port = SlicePort { name: "".into(), protocol, port: 8080.try_into().unwrap() };
    let endpoints = endpoints.iter().map(endpoint).collect();
    let of = ServiceName::new("default", service);
    ModelEvent::SliceApplied(plain_slice(service, of, vec![port], endpoints))
}

fn ready(service: &str, addrs: &[&str]) -> ModelEvent {
    let endpoints: Vec<_> = addrs.iter().map(|addr| (*addr, Is::Ready)).collect();
    slice(service, Protocol::Tcp, &endpoints)
}

/// `count` services with two endpoints each.
fn many(count: usize) -> Vec<ModelEvent> {
    let pair = |n: usize| {
        let (name, low, high) = (format!("s{n}"), n % 250, n / 250);
        let addrs = [format!("10.{}.{low}.1", 100 + high), format!("10.{}.{low}.2", 100 + high)];
        let slice = ready(&name, &[&addrs[0], &addrs[1]]);
        [applied(service(&name, &format!("10.96.{high}.{low}"))), slice]
    };
    (0..count).flat_map(pair).collect()
}

const WEB: &str = "10.96.255.80";

fn web() -> [ModelEvent; 2] {
    [applied(service("web", WEB)), ready("web", &["10.244.0.11", "10.244.0.12"])]
}

fn web_front() -> Front {
    web_vs().vip_port().unwrap().into()
}

fn web_vs() -> VirtualServerId {
    vs(WEB, Protocol::Tcp)
}
