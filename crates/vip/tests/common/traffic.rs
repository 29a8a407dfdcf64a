//! The view of clients of a VIP. Only ordinary sockets listen: it takes no IPVS to show where packets go.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::fd::{AsFd, AsRawFd},
    time::Duration,
};

use dataplane::contract::vips::{NODE_LINK, NODE_V4, NODE_V6};
use lb_types::{IpFamily, RouteTable, VipOp};
use testkit::{NetNs, in_new_netns, wait_for};

use super::{ensure, namespace::NodeNamespace, vip};

const PATIENCE: Duration = Duration::from_secs(10);

/// A listener on all addresses of the family.
fn listen(family: IpFamily) -> TcpListener {
    TcpListener::bind(SocketAddr::new(family.unspecified(), 0)).expect("a free port")
}

/// Connects to a VIP and returns the address at which the server saw the client.
fn client_seen_by_server(listener: &TcpListener, to: IpAddr) -> IpAddr {
    let address = SocketAddr::new(to, listener.local_addr().expect("bound").port());
    let _client = TcpStream::connect_timeout(&address, PATIENCE).expect("connect to the VIP");
    listener.accept().expect("a connection").1.ip()
}

pub fn connections_of_the_node_start_at_its_address(kind: &str) {
    in_new_netns(|| {
        let mut namespace = NodeNamespace::new(kind);
        let vips = [(vip("10.96.0.1"), NODE_V4), (vip("fd00:1111::1"), NODE_V6)];
        let bare = vip("10.96.0.2");
        namespace.apply(&[
            VipOp::EnsureLink,
            VipOp::EnsureRoute { vip: bare, table: RouteTable::Local, source: None },
        ]);
        namespace.apply(&vips.map(|(vip, _)| ensure(vip)));
        for (vip, node) in vips {
            let listener = listen(IpFamily::of(vip));
            assert_eq!(client_seen_by_server(&listener, vip), node);
            if vip.is_ipv4() {
                assert_eq!(client_seen_by_server(&listener, bare), bare, "without a source it is the VIP");
            }
        }
    });
}

pub fn outside_clients_reach_a_vip(kind: &str) {
    in_new_netns(|| {
        let mut namespace = NodeNamespace::new(kind);
        let vips = [(vip("10.96.0.1"), "192.0.2.100"), (vip("fd00:1111::1"), "fd00:ff::100")];
        let ops: Vec<_> = [VipOp::EnsureLink].into_iter().chain(vips.map(|(vip, _)| ensure(vip))).collect();
        namespace.apply(&ops);
        let outside = outside_network();
        for (vip, client) in vips {
            let listener = listen(IpFamily::of(vip));
            let address = SocketAddr::new(vip, listener.local_addr().expect("bound").port());
            let _connection = outside.enter(|| {
                wait_for(PATIENCE, "a connection from outside", || {
                    TcpStream::connect_timeout(&address, Duration::from_secs(1))
                })
            });
            assert_eq!(listener.accept().expect("a connection").1.ip().to_string(), client);
        }
    });
}

/// A network namespace behind the node's link, which sends everything to the node.
fn outside_network() -> NetNs {
    let outside = NetNs::create();
    let path = format!("/proc/{}/fd/{}", std::process::id(), outside.as_fd().as_raw_fd());
    testkit::run(&["ip", "link", "set", "peer0", "netns", &path]);
    outside.sh("ip addr add 192.0.2.100/24 dev peer0");
    outside.sh("ip addr add fd00:ff::100/64 dev peer0 nodad");
    outside.sh("ip link set peer0 up");
    outside.sh("ip route add default via 192.0.2.1");
    outside.sh("ip -6 route add default via fd00:ff::1");
    testkit::run(&["ip", "link", "set", NODE_LINK, "up"]);
    outside
}
