//! Kernel parameters on this machine's kernel: real ones, and real routes, in network namespaces; the tables that it may
//! not have are fakes.

use std::{
    fs,
    net::{Ipv6Addr, SocketAddrV6},
    os::fd::{AsFd as _, AsRawFd as _},
    time::Duration,
};

use dataplane::fake::{FakeConntrack, FakeIpvs, FakeRules};
use dataplane::{Tables, Touched};
use ipvs::codec::Timeouts;
use kernel::{ConnReuseFlag, KernelRelease, ProcSysctls};
use lb_types::{Protocol, ServiceName};
use reconcile::{Event, Reconciler};
use service_model::{
    ModelEvent, Node, Service,
    testing::{plain_port, plain_service},
};
use socket2::{Domain, Socket, Type};
use testkit::{NetNs, in_new_netns, run, wait_until};
use vip::VipClient;

use super::{for_this_kernel, timeouts};
use crate::{
    config::{IdleTimeouts, Settings},
    conn_reuse::ConnReuseChoice,
    invocation::testing::invocation,
};

const SOON: Duration = Duration::from_secs(20);
const VIP: &str = "fd00:96::80";
/// Stands in for dummy, which this kernel may not have.
const STAND_IN: &str = "ifb";

#[expect(clippy::print_stderr, reason = "a test says why it is skipped")]
fn possible() -> bool {
    let root = rustix::process::geteuid().is_root();
    let made =
        root && in_new_netns(|| testkit::try_run(&["ip", "link", "add", "x0", "type", STAND_IN]).is_ok());
    if !made {
        eprintln!("skipped: needs root and links of type {STAND_IN}");
    }
    made
}

fn sh(line: &str) -> String {
    run(&line.split_whitespace().collect::<Vec<_>>())
}

/// A loop over this namespace's links, routes and parameters, with one Service that has an IPv6 ClusterIP.
struct Process {
    reconciler: Reconciler,
    now: Duration,
}

impl Process {
    fn start() -> Self {
        let settings = Settings::new(&invocation(&["--service-cidrs=fd00:96::/112"])).expect("valid flags");
        let choice = ConnReuseChoice::make(ConnReuseFlag::Keep, &KernelRelease::running());
        let tables = Tables {
            ipvs: Box::new(FakeIpvs::default()),
            vips: Box::new(VipClient::open_with_kind(STAND_IN).expect("a socket")),
            rules: Box::new(FakeRules::default()),
            sysctls: Box::new(ProcSysctls::default()),
            conntrack: Box::new(FakeConntrack::default()),
        };
        let reconciler = Reconciler::new(for_this_kernel(&settings, &choice), tables);
        let mut process = Process { reconciler, now: Duration::from_secs(1000) };
        for event in [ModelEvent::NodeApplied(Node::default()), ModelEvent::ServiceApplied(service())] {
            process.reconciler.handle(Event::Model(event));
        }
        process.reconciler.handle(Event::Model(ModelEvent::Synced));
        process.settle();
        process
    }

    /// Steps as long as something is due now.
    fn settle(&mut self) {
        for _ in 0..100 {
            if self.reconciler.next_wakeup(self.now).is_none_or(|due| due > self.now) {
                return;
            }
            self.reconciler.step(self.now);
        }
        panic!("always something to do at once");
    }
}

fn service() -> Service {
    let port = plain_port("", Protocol::Tcp, 80.try_into().expect("not 0"));
    plain_service(ServiceName::new("default", "six"), vec![VIP.parse().expect("an address")], vec![port])
}

/// Another namespace at the other end of `up0` that advertises itself as a router.
struct Router {
    socket: Socket,
    to: SocketAddrV6,
}

impl Router {
    /// Makes the link, too.
    fn new() -> Self {
        let namespace = NetNs::create();
        sh("ip link add up0 type veth peer name down0");
        let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_fd().as_raw_fd());
        sh(&format!("ip link set down0 netns {path}"));
        // Addresses that can be used at once.
        set("up0/accept_dad", 0);
        set("up0/accept_ra", 1);
        namespace.enter(|| set("down0/accept_dad", 0));
        namespace.sh("ip link set down0 up");
        sh("ip link set up0 up");
        let (socket, index) = namespace.enter(|| {
            let socket =
                Socket::new(Domain::IPV6, Type::RAW, Some(socket2::Protocol::ICMPV6)).expect("a socket");
            let index = rustix::net::netdevice::name_to_index(&socket, "down0").expect("the link");
            (socket, index)
        });
        // Nobody believes an advertisement that may have come through another router.
        socket.set_multicast_hops_v6(255).expect("an option");
        socket.set_multicast_if_v6(index).expect("an option");
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        Router { socket, to: SocketAddrV6::new(all_nodes, 0, 0, index) }
    }

    /// `struct nd_router_advert`: type, code, checksum (the kernel's job), hop limit, flags, lifetime, two timers.
    fn advertise(&self) {
        let [high, low] = 1800u16.to_be_bytes();
        let message = [134, 0, 0, 0, 64, 0, high, low, 0, 0, 0, 0, 0, 0, 0, 0];
        // Fails until the link has its address.
        let _ = self.socket.send_to(&message, &self.to.into());
    }

    /// Advertises until the node has a default route by it.
    #[track_caller]
    fn wait_for_default_route(&self) {
        wait_until(SOON, "a default route by router advertisement", || {
            self.advertise();
            has_default_route()
        });
    }
}

fn has_default_route() -> bool {
    sh("ip -6 route show default").contains("proto ra")
}

/// IPv6 parameters of this thread's namespace.
fn path(name: &str) -> String {
    format!("/proc/sys/net/ipv6/conf/{name}")
}

fn parameter(name: &str) -> String {
    fs::read_to_string(path(name)).expect("a parameter").trim().to_owned()
}

fn set(name: &str, value: u32) {
    fs::write(path(name), value.to_string()).unwrap_or_else(|error| panic!("{name}: {error}"));
}

#[test]
fn a_default_route_by_router_advertisement_survives_the_first_ipv6_service() {
    if !possible() {
        return;
    }
    in_new_netns(|| {
        let router = Router::new();
        router.wait_for_default_route();
        let _process = Process::start();
        assert_eq!((parameter("all/forwarding"), parameter("up0/accept_ra")), ("1".into(), "2".into()));
        assert_eq!(parameter("lo/accept_ra"), "1", "has no such route");
        assert!(has_default_route(), "{}", sh("ip -6 route show"));
        // Later advertisements count as well.
        sh("ip -6 route del default dev up0");
        router.wait_for_default_route();
    });
}

#[test]
fn ipv6_vips_have_routes_where_new_links_have_no_ipv6() {
    if !possible() {
        return;
    }
    in_new_netns(|| {
        set("default/disable_ipv6", 1);
        let mut process = Process::start();
        let has_route = || sh("ip -6 route show table local").contains(VIP);
        assert!(has_route(), "{}", sh("ip -6 route show table local"));
        set("kube-ipvs0/disable_ipv6", 1);
        assert!(!has_route());
        process.reconciler.handle(Event::Touched(Touched::Vips));
        process.settle();
        assert!(has_route());
    });
}

#[test]
fn idle_connections_are_kept_as_long_as_they_are_tracked() {
    let kernel = Timeouts { tcp: 900, tcp_fin: 120, udp: 300 };
    let idle = |tcp, udp| IdleTimeouts {
        tcp: Duration::from_secs(tcp),
        tcp_fin: Duration::ZERO,
        udp: Duration::from_secs(udp),
    };
    assert_eq!(timeouts(idle(0, 0), kernel), Timeouts { tcp: 86_400, ..kernel });
    let raised = Timeouts { tcp: 100_000, ..kernel };
    assert_eq!(timeouts(idle(0, 0), raised), raised, "what somebody raised stays");
    assert_eq!(timeouts(idle(900, 10), raised), Timeouts { tcp: 900, tcp_fin: 120, udp: 10 });
    let short = IdleTimeouts { tcp: Duration::from_millis(1), ..idle(0, u64::MAX) };
    assert_eq!(
        timeouts(short, kernel),
        Timeouts { tcp: 1, udp: 2_147_483, ..kernel },
        "what the kernel takes"
    );
}
