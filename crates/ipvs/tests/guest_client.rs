//! Calls of the client besides [`dataplane::IpvsTable`], against the kernel.
//!
//! Needs root and ip_vs: `cargo xtask guest test -p ipvs`.

use std::{
    fs,
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    time::{Duration, Instant},
};

use dataplane::{ErrorKind, IpvsTable};
use ipvs::{
    IpvsClient,
    codec::{Command, Daemon, DaemonState, ServiceKey, Timeouts, uapi},
};
use lb_types::{
    IpFamily, IpvsOp, Protocol, RealServer, RealServerId, Scheduler, VipPort, VirtualServer, VirtualServerId,
};
use netlink::{Batch, Buffers, Protocol as Netlink, RequestSocket, genl};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// Runs a test in a network namespace with loopback up.
fn with_client(test: impl FnOnce(&mut IpvsClient) + Send) {
    testkit::run(&["modprobe", "ip_vs"]);
    testkit::in_new_netns(|| test(&mut IpvsClient::open().expect("open IPVS")));
}

fn vs(addr: &str, port: u16) -> VirtualServerId {
    let addr = addr.parse().expect("an address");
    VipPort { addr, protocol: Protocol::Tcp, port: port.try_into().expect("a port") }.into()
}

fn rs(addr: &str, port: u16) -> RealServerId {
    RealServerId { addr: addr.parse().expect("an address"), port: port.try_into().expect("a port") }
}

fn add(client: &mut IpvsClient, vs: VirtualServerId, reals: &[RealServerId]) {
    let mut ops = vec![IpvsOp::AddVirtualServer { vs, settings: VirtualServer::new(Scheduler::RR) }];
    ops.extend(reals.iter().map(|rs| IpvsOp::AddRealServer { vs, rs: *rs, settings: RealServer::SERVING }));
    let report = client.apply(&ops).expect("apply");
    assert!(report.is_clean(), "{report:?}");
}

#[test]
fn timeouts_are_set_one_by_one() {
    with_client(|client| {
        assert_eq!(client.timeouts().unwrap(), Timeouts { tcp: 900, tcp_fin: 120, udp: 300 });
        client.set_timeouts(&Timeouts { tcp: 7200, ..Timeouts::default() }).unwrap();
        assert_eq!(client.timeouts().unwrap(), Timeouts { tcp: 7200, tcp_fin: 120, udp: 300 });
        assert!(testkit::run(&["ipvsadm", "-L", "--timeout"]).contains("7200 120 300"));
        let error = client.set_timeouts(&Timeouts { tcp: u32::MAX, ..Timeouts::default() }).unwrap_err();
        assert_eq!(error.errno(), Some(libc::EINVAL));
        assert_eq!(
            error.to_string(),
            "set IPVS timeouts: EINVAL (22): a timeout is too large for the kernel's clock"
        );
    });
}

#[test]
fn version_is_1_2_1() {
    with_client(|client| assert_eq!(client.info().unwrap().version, 0x01_02_01));
}

#[test]
fn one_virtual_server_is_found_or_not() {
    with_client(|client| {
        add(client, vs("10.96.0.1", 80), &[]);
        let service = client.get_service(vs("10.96.0.1", 80)).unwrap();
        assert_eq!(service.scheduler, Scheduler::RR);
        let error = client.get_service(vs("10.96.0.1", 81)).unwrap_err();
        assert!(error.is_not_found() && !error.is_retryable());
        assert_eq!(
            error.to_string(),
            "get virtual server 10.96.0.1:81/TCP: ESRCH (3): there is no such virtual server"
        );
        assert!(client.zero(Some(vs("10.96.0.1", 81))).unwrap_err().is_not_found());
        client.zero(Some(vs("10.96.0.1", 80))).unwrap();
        client.zero(None).unwrap();
    });
}

/// The client counts virtual servers of port 0 and of other protocols, and neither shows nor touches them.
#[test]
fn foreign_virtual_servers_are_counted() {
    with_client(|client| {
        add(client, vs("10.96.0.1", 80), &[]);
        testkit::run(&["ipvsadm", "-A", "-t", "10.96.0.2:0", "-s", "wlc", "-p", "60"]);
        let mut socket = RequestSocket::open(Netlink::GENERIC, &Buffers::default()).unwrap();
        let family = genl::resolve(&mut socket, uapi::FAMILY_NAME).unwrap().id;
        let mut service = client.get_service(vs("10.96.0.1", 80)).unwrap();
        service.key = ServiceKey::Address { addr: [10, 96, 0, 3].into(), protocol: 1, port: 80 };
        let mut batch = Batch::new();
        Command::NewService(&service).push(&mut batch, family);
        assert!(socket.execute(&mut batch).unwrap().failures.is_empty());

        let dump = client.dump_virtual_servers().unwrap();
        assert_eq!(dump.unsupported, 2);
        assert_eq!(dump.virtual_servers.len(), 1);
        assert_eq!(client.dump_services().unwrap().len(), 3);
    });
}

#[test]
fn connections_and_traffic_are_counted() {
    with_client(|client| {
        let (vs, rs) = (vs("127.0.0.2", 80), rs("127.0.0.3", 8080));
        add(client, vs, &[rs]);
        let listener = TcpListener::bind("127.0.0.3:8080").unwrap();
        let mut connection = TcpStream::connect("127.0.0.2:80").unwrap();
        let (mut server, _) = listener.accept().unwrap();
        connection.write_all(b"hello").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();

        let real = client.dump_real_servers(vs).unwrap()[0];
        assert_eq!((real.connections.active, real.connections.inactive), (1, 0));
        drop((connection, server));
        testkit::wait_until(Duration::from_secs(10), "the connection counts as inactive", || {
            client.dump_real_servers(vs).unwrap()[0].connections.inactive == 1
        });
        testkit::wait_until(Duration::from_secs(20), "the estimator has run", || {
            client.dump_real_servers(vs).unwrap()[0].traffic.bytes_in > 0
        });
        let real = client.dump_real_servers(vs).unwrap()[0];
        assert_eq!((real.connections.active, real.connections.inactive), (0, 1));
        assert_eq!(real.traffic.connections, 1);
        assert!(real.traffic.packets_in >= 4 && real.traffic.packets_out >= 3, "{real:?}");
        let service = client.get_service(vs).unwrap();
        assert_eq!(service.stats.bytes_in, real.traffic.bytes_in);
        let listed = testkit::run(&["ipvsadm", "-L", "-n", "--stats", "--exact"]);
        let row = listed.lines().find(|line| line.contains("-> 127.0.0.3:8080")).expect("a row");
        let numbers: Vec<u64> = row.split_whitespace().skip(2).map(|n| n.parse().unwrap()).collect();
        let t = real.traffic;
        assert_eq!(numbers, [t.connections, t.packets_in, t.packets_out, t.bytes_in, t.bytes_out]);

        client.zero(Some(vs)).unwrap();
        assert_eq!(client.dump_real_servers(vs).unwrap()[0].traffic.bytes_in, 0);
    });
}

#[test]
fn sync_daemons_start_and_stop() {
    with_client(|client| {
        testkit::run(&["ip", "link", "add", "sync0", "type", "dummy"]);
        testkit::run(&["ip", "address", "add", "192.0.2.1/24", "dev", "sync0"]);
        testkit::run(&["ip", "link", "set", "sync0", "up"]);
        let daemon = Daemon {
            state: DaemonState::Master,
            interface: "sync0".to_owned(),
            sync_id: 7,
            max_length: 1400,
            group: Some([224, 0, 0, 99].into()),
            port: 8849,
            ttl: 2,
        };
        assert!(client.dump_daemons().unwrap().is_empty());
        assert!(client.stop_daemon(DaemonState::Master).unwrap_err().is_not_found());
        client.start_daemon(&daemon).unwrap();
        assert_eq!(client.dump_daemons().unwrap(), std::slice::from_ref(&daemon));
        let error = client.start_daemon(&daemon).unwrap_err();
        assert_eq!(error.to_string(), "start master sync daemon: EEXIST (17): one is running already");
        client.stop_daemon(DaemonState::Master).unwrap();
        assert!(client.dump_daemons().unwrap().is_empty());
        let nowhere = Daemon { interface: "nowhere0".to_owned(), ..daemon };
        assert_eq!(client.start_daemon(&nowhere).unwrap_err().errno(), Some(libc::ENODEV));
    });
}

/// Small socket buffers make small datagrams, not lost replies.
#[test]
fn small_buffers_lose_nothing() {
    testkit::run(&["modprobe", "ip_vs"]);
    testkit::in_new_netns(|| {
        let mut client = IpvsClient::open_with(&Buffers { send: 1, receive: 1 }).unwrap();
        let ops: Vec<_> = (1..2000)
            .map(|port| IpvsOp::DeleteVirtualServer { vs: vs("10.96.0.1", port) })
            .chain([IpvsOp::AddVirtualServer {
                vs: vs("10.96.0.1", 80),
                settings: VirtualServer::new(Scheduler::RR),
            }])
            .collect();
        let report = client.apply(&ops).unwrap();
        assert_eq!((report.failed.len(), report.replies_lost), (1999, false));
        assert_eq!(client.dump_virtual_servers().unwrap().virtual_servers.len(), 1);
    });
}

/// Number of system calls for 5,000 virtual servers with two real servers each.
#[test]
fn a_large_batch_takes_few_system_calls() {
    with_client(|client| {
        let ops: Vec<_> = (1..=5000)
            .flat_map(|port| {
                let vs = vs("10.96.0.1", port);
                let settings = VirtualServer::new(Scheduler::RR);
                let reals = [rs("10.0.0.1", port), rs("10.0.0.2", port)];
                let reals = reals.map(|rs| IpvsOp::AddRealServer { vs, rs, settings: RealServer::SERVING });
                [IpvsOp::AddVirtualServer { vs, settings }].into_iter().chain(reals)
            })
            .collect();
        let (before, start) = (client.counters(), Instant::now());
        let report = client.apply(&ops).unwrap();
        eprintln!("{} operations in {:?}", ops.len(), start.elapsed());
        assert!(report.is_clean(), "{report:?}");
        let (sends, receives) =
            (client.counters().sends - before.sends, client.counters().receives - before.receives);
        assert!(sends <= 15 && receives <= 3 * sends, "{sends} sends, {receives} receives");
    });
}

#[test]
fn a_tables_namespace_is_that_of_its_opening() {
    with_client(|client| {
        testkit::in_new_netns(|| {
            let mut other = IpvsClient::open().unwrap();
            add(&mut other, vs("10.96.0.9", 80), &[]);
            add(client, vs("10.96.0.1", 80), &[]);
            assert_eq!(other.dump_virtual_servers().unwrap().virtual_servers.len(), 1);
        });
        let dump = client.dump_virtual_servers().unwrap();
        assert_eq!(dump.virtual_servers[0].0, vs("10.96.0.1", 80));
    });
}

/// Variable that gives the process which this test starts its role.
const INSIDE: &str = "IPVS_TEST_INSIDE_ANOTHER_USER_NAMESPACE";

#[test]
fn another_user_namespace_is_not_permitted() {
    if std::env::var_os(INSIDE).is_some() {
        return expect_no_permission();
    }
    testkit::run(&["modprobe", "ip_vs"]);
    let this_test = ["--exact", "another_user_namespace_is_not_permitted"];
    let output = std::process::Command::new("unshare")
        .args(["--user", "--map-root-user", "--net", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(this_test)
        .env(INSIDE, "1")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
}

fn expect_no_permission() {
    let mut client = IpvsClient::open().expect("resolving the family needs no privilege");
    let error = client.dump_virtual_servers().expect_err("a dump needs one");
    assert_eq!(error.kind, ErrorKind::PermissionDenied);
    assert!(error.source.to_string().contains("initial user namespace"), "{}", error.source);
    let op = IpvsOp::DeleteVirtualServer { vs: vs("10.96.0.1", 80) };
    assert_eq!(client.apply(&[op]).expect("a report").failed[0].errno, libc::EPERM);
}

/// A module that is loaded again has another family number; the error names one that is gone.
#[test]
fn the_module_goes_and_comes() {
    with_client(|client| {
        assert_eq!(client.info().unwrap().version, 0x01_02_01);
        unload();
        testkit::run(&["modprobe", "ip_vs"]);
        add(client, vs("10.96.0.1", 80), &[]);
        assert_eq!(client.dump_virtual_servers().unwrap().virtual_servers.len(), 1);

        let delete = IpvsOp::DeleteVirtualServer { vs: vs("10.96.0.1", 80) };
        assert!(client.apply(&[delete]).unwrap().is_clean());
        unload();
        let modprobe = fs::read_to_string("/proc/sys/kernel/modprobe").unwrap();
        fs::write("/proc/sys/kernel/modprobe", "/nowhere").unwrap();
        let error = client.dump_virtual_servers().unwrap_err();
        assert_eq!(error.kind, ErrorKind::NotSupported);
        assert!(error.source.to_string().contains("modprobe ip_vs"), "{}", error.source);
        assert_eq!(client.apply(&[delete]).unwrap_err().kind, ErrorKind::NotSupported);
        let error = IpvsClient::open().err().expect("no module");
        assert_eq!(error.kind(), ErrorKind::NotSupported);
        fs::write("/proc/sys/kernel/modprobe", modprobe.trim()).unwrap();
        testkit::run(&["modprobe", "ip_vs"]);
        assert!(client.dump_virtual_servers().unwrap().virtual_servers.is_empty());
    });
}

/// The module is loaded when the tables are opened, and by a request after it was removed, on every kernel.
#[test]
fn the_module_comes_without_modprobe() {
    testkit::in_new_netns(|| {
        unload();
        let mut client = IpvsClient::open().expect("open IPVS");
        assert!(client.dump_virtual_servers().unwrap().virtual_servers.is_empty());
        unload();
        assert!(client.dump_virtual_servers().unwrap().virtual_servers.is_empty());
    });
}

/// The clean-up of a network namespace and the registration of `lblc` must not wait for each other: the kernel
/// itself would load the scheduler under the lock of IPVS, for which the clean-up waits.
#[test]
fn schedulers_are_found_while_namespaces_are_cleaned_up() {
    with_client(|client| {
        for name in ["lblc", "lblcr"].repeat(5) {
            let _may_not_be_loaded = testkit::try_run(&["rmmod", &format!("ip_vs_{name}")]);
            testkit::in_new_netns(|| add(&mut IpvsClient::open().unwrap(), vs("10.96.0.1", 80), &[]));
            assert!(client.has_scheduler(name.parse().unwrap()).unwrap(), "{name}");
        }
        // Who may not load modules does not make the kernel do it.
        testkit::run(&["rmmod", "ip_vs_lblc"]);
        let mut sets = capabilities(None).unwrap();
        sets.effective.remove(CapabilitySet::SYS_MODULE);
        set_capabilities(None, sets).unwrap();
        let lblc = "lblc".parse().unwrap();
        assert!(!client.has_scheduler(lblc).unwrap());
        testkit::run(&["modprobe", "ip_vs_lblc"]);
        assert!(client.has_scheduler(lblc).unwrap());
    });
}

/// Removes ip_vs and whatever uses it.
fn unload() {
    testkit::wait_until(Duration::from_secs(30), "ip_vs is unloaded", || {
        let modules = fs::read_to_string("/proc/modules").expect("a list of modules");
        let names = modules.lines().filter_map(|line| line.split(' ').next());
        let loaded: Vec<_> = names.filter(|name| name.starts_with("ip_vs") || *name == "xt_ipvs").collect();
        for name in &loaded {
            let _ = testkit::try_run(&["rmmod", name]);
        }
        loaded.is_empty()
    });
}

/// Both families in one table; a mark takes both kinds of packets separately.
#[test]
fn marks_of_both_families_are_different_keys() {
    with_client(|client| {
        let of = |family| VirtualServerId::FwMark { family, mark: 7.try_into().unwrap() };
        add(client, of(IpFamily::V4), &[rs("10.0.0.1", 80)]);
        add(client, of(IpFamily::V6), &[rs("fd00::1", 80)]);
        assert_eq!(client.dump_destinations(of(IpFamily::V4)).unwrap().len(), 1);
        assert_eq!(client.dump_real_servers(of(IpFamily::V6)).unwrap()[0].id, rs("fd00::1", 80));
    });
}
