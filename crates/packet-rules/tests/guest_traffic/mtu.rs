//! Packets that are too large for a link behind the VIP, sent by a process of the node.
//!
//! To such a process the VIP is local, with the loopback link's MTU; what IPVS translates it checks against the link
//! that it leaves through, as if it had been forwarded (`ensure_mtu_is_adequate` in net/netfilter/ipvs/ip_vs_xmit.c).

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    time::{Duration, Instant},
};

use lb_types::{IpFamily, RuleSet, RulesLayout};
use testkit::NetNs;

use crate::{
    ipvs::{Cluster, PORT, TARGET, VIP, reinstall},
    support::{
        by_cidr,
        net::{Both, Client, NODE, SERVER, veth},
        talk::at,
    },
};

/// An endpoint behind a router, which is the namespace of the other endpoint.
const FAR: Both = Both("10.244.0.20", "fd00:244::20");
const SMALL: u16 = 1400;
const LARGE: u16 = 1500;
const DATAGRAM: [u8; 4000] = [b'x'; 4000];
const TRANSFER: usize = 300_000;
/// More than some round trips, less than the first retransmission timeouts together.
const QUICKLY: Duration = Duration::from_secs(3);

/// Fate of some large datagrams in a row.
fn send(ns: &NetNs, to: SocketAddr) -> Vec<Result<(), i32>> {
    ns.enter(|| {
        let any = if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let socket = UdpSocket::bind(any).expect("a socket");
        socket.connect(to).expect("connect");
        socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
        let once = || {
            socket.send(&DATAGRAM)?;
            socket.recv(&mut [0; 64]).map(drop)
        };
        (0..3).map(|_| once().map_err(|error| error.raw_os_error().unwrap_or(0))).collect()
    })
}

fn set_mtu(cluster: &Cluster, mtu: u16) {
    cluster.net.node.sh(&format!("ip link set srv mtu {mtu}"));
    cluster.net.server.sh(&format!("ip link set eth0 mtu {mtu}"));
}

/// A known limit. IPv4: the first datagram is lost, and those behind it pass for as long as the kernel remembers the
/// path's MTU. IPv6: none ever passes, because fragments are made behind IPVS only.
/// Conformance: e2e/dual_stack should be able to handle large requests: udp (secondary family)
#[test]
fn datagrams_of_the_node_that_are_larger_than_the_mtu() {
    let cluster = Cluster::create(&by_cidr());
    cluster.serve_vip(RuleSet::MasqueradeNonLocal);
    set_mtu(&cluster, SMALL);
    let lost = Err(libc::EMSGSIZE);
    let node = &cluster.net.node;
    assert_eq!(send(node, at(VIP.0, PORT)), [lost, Ok(()), Ok(())]);
    assert_eq!(send(node, at(VIP.1, PORT)), [lost; 3]);
    for family in IpFamily::ALL {
        assert_eq!(send(node, at(SERVER.of(family), TARGET)), [Ok(()); 3], "{family} directly");
    }
    // Pods learn of the MTU as they do on any way through a router: over IPv6 only senders make fragments.
    let pod = cluster.net.of(Client::PodA);
    assert_eq!(send(pod, at(VIP.0, PORT)), [Ok(()); 3]);
    assert_eq!(send(pod, at(VIP.1, PORT)), [lost, Ok(()), Ok(())]);
}

/// Puts the router's namespace between the node and an endpoint that has the VIP for itself.
fn serve_from_afar(cluster: &Cluster) -> NetNs {
    let (node, router, far) = (&cluster.net.node, &cluster.net.server, NetNs::create());
    veth(router, "behind", &far);
    router.enter(|| {
        for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            std::fs::write(format!("/proc/sys/{key}"), "1").expect("switch forwarding on");
        }
    });
    router.sh(&format!("ip address add {}/128 dev behind nodad", SERVER.1));
    for family in IpFamily::ALL {
        let (addr, router_addr) = (FAR.of(family), SERVER.of(family));
        let nodad = if family == IpFamily::V4 { "" } else { "nodad" };
        router.sh(&format!("ip route add {addr} dev behind"));
        far.sh(&format!("ip address add {addr} dev eth0 {nodad}"));
        far.sh(&format!("ip route add {router_addr} dev eth0"));
        far.sh(&format!("ip route add default via {router_addr} dev eth0"));
        node.sh(&format!("ip route add {addr} via {router_addr} dev srv"));
        let endpoint = at(addr, TARGET);
        let listener = far.enter(|| TcpListener::bind(endpoint)).expect("listen");
        std::thread::spawn(move || {
            for peer in listener.incoming().flatten() {
                drop(std::thread::spawn(|| receive(peer)));
            }
        });
        let vs = at(VIP.of(family), PORT);
        cluster.ipvsadm(&format!("-d -t {vs} -r {}", at(router_addr, TARGET)));
        cluster.ipvsadm(&format!("-a -t {vs} -r {endpoint} -m"));
    }
    far
}

/// Confirms a whole transfer.
fn receive(mut peer: TcpStream) {
    let mut buffer = vec![0; TRANSFER];
    if peer.read_exact(&mut buffer).is_ok() {
        let _ = peer.write_all(b"y");
        let _ = peer.read(&mut buffer);
    }
}

fn transfer(ns: &NetNs, to: SocketAddr) -> Duration {
    ns.enter(|| {
        let start = Instant::now();
        let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(10)).expect("connect");
        stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a timeout");
        stream.write_all(&vec![b'x'; TRANSFER]).expect("send");
        stream.read_exact(&mut [0]).expect("confirmation");
        start.elapsed()
    })
}

/// The kernel forgets the MTU of paths.
fn forget(node: &NetNs) {
    for (family, vip, source) in [("-4", VIP.0, NODE.0), ("-6", VIP.1, NODE.1)] {
        node.sh(&format!("ip {family} route del local {vip} dev lo table local"));
        node.sh(&format!("ip {family} route add local {vip} dev lo table local src {source}"));
    }
    node.sh("ip -4 route flush cache");
    node.sh("ip -6 route flush cache");
}

/// Transfers find the MTU of their path at once, wherever it is small and whether or not the node is masqueraded.
/// Conformance: e2e/dual_stack should be able to handle large requests: http (secondary family)
/// Conformance: e2e/networking should be able to handle large requests: http, udp
#[test]
fn transfers_of_the_node_over_a_path_with_a_small_mtu() {
    let cluster = Cluster::create(&by_cidr());
    cluster.serve_vip(RuleSet::MasqueradeNonLocal);
    let _far = serve_from_afar(&cluster);
    for layout in [by_cidr(), RulesLayout::default()] {
        reinstall(&cluster, &layout);
        for (first, behind) in [(LARGE, SMALL), (SMALL, LARGE)] {
            cluster.net.node.sh(&format!("ip link set srv mtu {first}"));
            cluster.net.server.sh(&format!("ip link set behind mtu {behind}"));
            for family in IpFamily::ALL {
                forget(&cluster.net.node);
                let took = transfer(&cluster.net.node, at(VIP.of(family), PORT));
                println!("{family} {:?}, MTU {first}, then {behind}: {took:?}", layout.local_v4);
                assert!(took < QUICKLY, "{family}, MTU {first}, then {behind}: {took:?}");
            }
        }
    }
}
