//! Every scheduler that the kernel has, while one of four endpoints drains.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use e2e::{
    manifest::{Endpoint, Port, Service},
    net::{Pod, PodNetwork, cluster_ip},
    probe::{Proto, socket},
};
use testkit::{try_output_with_input, wait_for, wait_until};

use crate::testbed::{Testbed, WAIT_LIMIT};

const ALL: [&str; 14] =
    ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos"];

/// Time for which the endpoint drains while clients come, at least.
const DRAIN_TIME: Duration = Duration::from_secs(60);

/// Number of new connections to each Service.
const CONNECTIONS_PER_SERVICE: u32 = 1000;

/// Number of connections at a time.
const WORKERS: u32 = 4;

/// Port of the pods' servers that only accept.
const ACCEPT_PORT: u16 = 9000;

/// Addresses of the clients, behind one link.
fn clients() -> Vec<Ipv4Addr> {
    (1..=200).map(|last| Ipv4Addr::new(192, 168, 77, last)).collect()
}

/// Adds the clients' addresses outside, and the node's way back to them.
fn add_clients(testbed: &Testbed) {
    let lines: String =
        clients().iter().map(|client| format!("address add {client}/32 dev eth0\n")).collect();
    let mut ip = testbed.net.outside.command("ip");
    try_output_with_input(ip.args(["-batch", "-"]), &lines).expect("add the clients' addresses");
    testbed.net.node.sh("ip route add 192.168.77.0/24 via 192.168.50.2");
}

/// Schedulers with a module for the running kernel.
fn available() -> Vec<&'static str> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
    let modules = format!("/lib/modules/{}/kernel/net/netfilter/ipvs", release.trim());
    let files: BTreeSet<_> = fs::read_dir(&modules)
        .unwrap_or_else(|error| panic!("{modules}: {error}"))
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    ALL.into_iter().filter(|name| files.iter().any(|f| f.starts_with(&format!("ip_vs_{name}.ko")))).collect()
}

/// Services, one for each scheduler, at 10.96.0.101 and so on.
fn services(schedulers: &[&'static str]) -> Vec<Service> {
    let service = |(number, scheduler): (u8, &&'static str)| {
        let port = Port { target: ACCEPT_PORT, ..Port::web(Proto::Tcp) };
        let service = Service::new(scheduler, cluster_ip(number), &[]).with_ports(&[port]);
        service
            .with_ips(&[cluster_ip(number).v4.into()])
            .with_annotation("kube-ipvs.io/scheduler", scheduler)
            // The drain must not end when no client is connected for a moment.
            .with_annotation("kube-ipvs.io/graceful-linger", "10m")
    };
    (101..).zip(schedulers).map(service).collect()
}

fn vip(service: &Service) -> SocketAddr {
    SocketAddr::new(service.ips[0], 80)
}

/// Starts a server in the pod that closes every connection at once; returns the number of them.
fn accept(pod: &Pod) -> Arc<AtomicU32> {
    let accepted = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&accepted);
    let [at, _] = pod.address.port(ACCEPT_PORT);
    let listener = pod.namespace.enter(|| socket::listen(Proto::Tcp, at)).expect("listen in the pod");
    // It ends with the process, as the pod's own server does.
    thread::spawn(move || {
        while listener.accept().is_ok() {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    });
    accepted
}

/// Opens a connection and closes it as soon as it is established.
fn connect(client: Ipv4Addr, to: SocketAddr, timeout: Duration) -> std::io::Result<()> {
    let socket = socket::bound(Proto::Tcp, SocketAddr::new(IpAddr::V4(client), 0), timeout)?;
    socket::connect_stream(socket, to).map(drop)
}

/// Makes 1,000 connections to each Service, spread over the time of the drain, from all clients in turn;
/// returns failures.
fn load(testbed: &Testbed, services: &[Service]) -> BTreeMap<String, Vec<String>> {
    let (begin, clients) = (Instant::now(), clients());
    let failed: Mutex<BTreeMap<String, Vec<String>>> = Mutex::default();
    let work = |worker: u32| {
        for turn in (worker..CONNECTIONS_PER_SERVICE).step_by(WORKERS as usize) {
            thread::sleep(
                (begin + DRAIN_TIME * turn / CONNECTIONS_PER_SERVICE)
                    .saturating_duration_since(Instant::now()),
            );
            let client = clients[turn as usize % clients.len()];
            for service in services {
                if let Err(error) = connect(client, vip(service), Duration::from_secs(10)) {
                    let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                    failed.entry(service.name.clone()).or_default().push(format!("{client}: {error}"));
                }
            }
        }
    };
    thread::scope(|scope| {
        let workers = 0..WORKERS;
        for worker in workers {
            _ = scope.spawn(move || testbed.net.outside.enter(|| work(worker)));
        }
    });
    println!("{CONNECTIONS_PER_SERVICE} connections to each Service took {} s", begin.elapsed().as_secs());
    failed.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// Finds the pod to which `dh` gives everything, by one connection.
fn chosen_by_dh(testbed: &Testbed, dh: &Service, accepted: &[Arc<AtomicU32>]) -> usize {
    let first = || connect(clients()[0], vip(dh), WAIT_LIMIT);
    testbed.net.outside.enter(first).expect("a connection through dh");
    wait_for(WAIT_LIMIT, "the connection to be accepted", || {
        accepted.iter().position(|count| count.load(Ordering::Relaxed) > 0).ok_or("nobody has it")
    })
}

/// `dh` is the exception: it gives all connections to a VIP to one endpoint, and refuses them while that one
/// drains.
#[test]
fn no_scheduler_but_dh_refuses_anybody_while_one_of_four_endpoints_drains_slow() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 4);
    add_clients(&testbed);
    let accepted: Vec<_> = testbed.pods.iter().map(accept).collect();
    let schedulers = available();
    let mut services = services(&schedulers);
    let all = testbed.ready(1..=4);
    for service in &services {
        testbed.manifests.serve(service, &all);
    }
    testbed.start(&[&format!("--allowed-schedulers={}", ALL.join(","))]);
    for service in &services {
        testbed.wait_served(service, &all);
    }
    let ipvs = testbed.ipvs();
    for service in &services {
        let has = ipvs.get(Proto::Tcp, vip(service)).map(|vs| vs.scheduler.as_str());
        assert_eq!(has, Some(service.name.as_str()), "the kernel has its module");
    }
    // The endpoint of `dh` leaves, so that the test shows its behaviour.
    let dh =
        services.remove(services.iter().position(|service| service.name == "dh").expect("kernels have dh"));
    let leaves = chosen_by_dh(&testbed, &dh, &accepted);
    let mut endpoints = all;
    endpoints[leaves] = Endpoint::terminating(&testbed.pods[leaves]);
    let [real, _] = testbed.pods[leaves].address.port(ACCEPT_PORT);
    let drains = |service: &Service| {
        testbed.ipvs().get(Proto::Tcp, vip(service)).and_then(|vs| vs.real.get(&real).copied()) == Some(0)
    };
    for service in services.iter().chain([&dh]) {
        testbed.manifests.endpoints(service, &endpoints);
    }
    for service in services.iter().chain([&dh]) {
        wait_until(WAIT_LIMIT, "the endpoint to drain", || drains(service));
    }
    assert_eq!(load(&testbed, &services), BTreeMap::new(), "refused while one endpoint drains");
    assert!(services.iter().all(drains), "a drain was over before the last connection");
    assert_eq!(accepted[leaves].load(Ordering::Relaxed), 1, "new connections at weight 0");
    let ask = |client: &Ipv4Addr| connect(*client, vip(&dh), Duration::from_secs(2));
    let refused =
        clients().iter().take(10).filter(|client| testbed.net.outside.enter(|| ask(client)).is_err()).count();
    assert_eq!(refused, 10, "dh gives its clients to another endpoint: nobody need be warned");
    assert_eq!(testbed.proxy().log_lines(&["default/dh", "refuses them while"]).len(), 1, "warned once");
}
