//! Small networks of namespaces. One node, its pods, and a client outside ([`Net`]):
//!
//! ```text
//!   outside                    node                              pods
//!   eth0 192.168.50.2  ------  eth0 192.168.50.10
//!        fd00:50::2                 fd00:50::10
//!                              cni0 10.244.0.1, fd00:244::1  --  10.244.0.11, fd00:244::11  (bridged)
//!                              cali11, cali12, ...           --  10.244.0.11, fd00:244::11  (routed)
//! ```
//!
//! Or several such nodes on one segment ([`Segment`]).
//!
//! The namespaces have no names and end with the values that hold them, or with the process.

mod ip;
mod pod;
mod segment;

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
    time::Duration,
};

use testkit::NetNs;

pub use pod::{Pod, Server};
pub use segment::{Node, Segment};

use crate::probe::{
    Failure, Proto,
    once::{Outcome, Question, ask, ping},
};

/// Time for which a client waits for anything that should come: generous, for a slow guest.
pub const CLIENT_TIMEOUT: Duration = Duration::from_secs(10);

/// An address of each family.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Both {
    /// IPv4 address.
    pub v4: Ipv4Addr,
    /// IPv6 address.
    pub v6: Ipv6Addr,
}

impl Both {
    /// Both addresses, IPv4 first.
    pub fn each(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// Address of the same family as `other`.
    pub fn like(self, other: IpAddr) -> IpAddr {
        if other.is_ipv4() { self.v4.into() } else { self.v6.into() }
    }

    /// Both addresses with a port, IPv4 first.
    pub fn port(self, port: u16) -> [SocketAddr; 2] {
        self.each().map(|ip| SocketAddr::new(ip, port))
    }

    /// Tells whether `ip` is one of the two.
    pub fn contains(self, ip: IpAddr) -> bool {
        self.each().contains(&ip)
    }
}

/// Addresses of the node towards the outside.
pub const NODE: Both =
    Both { v4: Ipv4Addr::new(192, 168, 50, 10), v6: Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 0x10) };
/// Addresses of the outside client.
pub const OUTSIDE: Both =
    Both { v4: Ipv4Addr::new(192, 168, 50, 2), v6: Ipv6Addr::new(0xfd00, 0x50, 0, 0, 0, 0, 0, 2) };
/// Addresses of the pod bridge, where there is one.
pub const BRIDGE: Both =
    Both { v4: Ipv4Addr::new(10, 244, 0, 1), v6: Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 1) };

/// Addresses of pod number `number`.
pub fn pod_address(number: u8) -> Both {
    let v4 = Ipv4Addr::new(10, 244, 0, number);
    Both { v4, v6: Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, decimal_group(number)) }
}

/// ClusterIPs number `number`: 10.96.0.80 and fd00:96::80 for 80.
pub fn cluster_ip(number: u8) -> Both {
    let v4 = Ipv4Addr::new(10, 96, 0, number);
    Both { v4, v6: Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, decimal_group(number)) }
}

/// Number that *looks* like `number` in hexadecimal: 11 is 0x11, so that both families read alike.
fn decimal_group(number: u8) -> u16 {
    let number = u16::from(number);
    (number / 100) * 0x100 + (number / 10 % 10) * 0x10 + number % 10
}

/// Way in which pods are connected to the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PodNetwork {
    /// Every pod is behind a port of the bridge `cni0`; needs the module br_netfilter, as such clusters do.
    Bridge,
    /// Every pod is behind its own routed interface `caliN`.
    Routed,
}

/// The helper binary, with the words that turn it into the prober.
#[derive(Debug, Clone)]
pub struct ProbeProgram {
    /// Path of the executable.
    pub path: PathBuf,
    /// Words before the prober's own arguments.
    pub prefix: Vec<String>,
}

impl ProbeProgram {
    /// A program that is the prober itself.
    pub fn at(path: &Path) -> ProbeProgram {
        ProbeProgram { path: path.to_owned(), prefix: Vec::new() }
    }
}

/// Node and outside client. Pods are separate values: they come and go.
#[derive(Debug)]
pub struct Net {
    /// Network of the node, where kube-ipvs runs.
    pub node: NetNs,
    /// Network of a machine beside the node that routes service addresses to the node.
    pub outside: NetNs,
    network: PodNetwork,
    program: ProbeProgram,
}

impl Net {
    /// Builds the node and the outside client.
    pub fn new(network: PodNetwork, program: ProbeProgram) -> Net {
        let net = Net { node: NetNs::create(), outside: NetNs::create(), network, program };
        net.connect_outside();
        if network == PodNetwork::Bridge {
            net.make_bridge();
        } else {
            // Routed CNI plug-ins do this: addresses of the node's range that no pod has are nobody else's
            // either.
            let lines = "route add unreachable 10.244.0.0/24\nroute add unreachable fd00:244::/64\n";
            ip::batch(&net.node, lines);
        }
        net
    }

    /// Connects the outside client. Every link has a link-local address, without which IPv6 cannot look for a
    /// neighbour on behalf of others; given by hand, so that nothing has to wait for the detection of
    /// duplicates.
    fn connect_outside(&self) {
        let lines = format!(
            "link add name eth0 type veth peer name eth0 netns {outside}\n\
             link set eth0 addrgenmode none\n\
             address add {}/24 dev eth0\n\
             address add {}/64 dev eth0 nodad\n\
             address add fe80::10/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add default via {}\n\
             route add default via {}\n",
            NODE.v4,
            NODE.v6,
            OUTSIDE.v4,
            OUTSIDE.v6,
            outside = ip::path(&self.outside),
        );
        ip::batch(&self.node, &lines);
        let lines = format!(
            "link set eth0 addrgenmode none\n\
             address add {}/24 dev eth0\n\
             address add {}/64 dev eth0 nodad\n\
             address add fe80::2/64 dev eth0 nodad\n\
             link set eth0 up\n\
             route add 10.96.0.0/16 via {}\n\
             route add fd00:96::/112 via {}\n",
            OUTSIDE.v4, OUTSIDE.v6, NODE.v4, NODE.v6,
        );
        ip::batch(&self.outside, &lines);
        for namespace in [&self.node, &self.outside] {
            ip::sysctls(namespace, &[("net/ipv4/ping_group_range", "0 0")]);
        }
        // IPv6 forwarding is up to the CNI plug-in; IPv4 forwarding is left to kube-ipvs.
        ip::sysctls(&self.node, &[("net/ipv6/conf/all/forwarding", "1")]);
    }

    fn make_bridge(&self) {
        let lines = format!(
            "link add name cni0 address 02:00:00:00:00:01 type bridge mcast_snooping 0\n\
             link set cni0 addrgenmode none\n\
             address add {}/24 dev cni0\n\
             address add {}/64 dev cni0 nodad\n\
             address add fe80::1/64 dev cni0 nodad\n\
             link set cni0 up\n",
            BRIDGE.v4, BRIDGE.v6
        );
        ip::batch(&self.node, &lines);
        // Without this module the answer of one pod to another crosses the bridge without passing IPVS.
        let _ = testkit::try_run(&["modprobe", "br_netfilter"]);
        let switches = ["iptables", "ip6tables"].map(|kind| format!("net/bridge/bridge-nf-call-{kind}"));
        ip::sysctls(&self.node, &switches.each_ref().map(|name| (name.as_str(), "1")));
    }

    /// Starts pod number `number` with servers for all transports of `ports` on both its addresses.
    pub fn pod(&self, name: &str, number: u8, ports: &[u16]) -> Pod {
        let mut pod = self.bare_pod(name, number);
        pod.serve(&self.program, ports);
        pod
    }

    /// Connects pod number `number`, in which nothing runs.
    pub fn bare_pod(&self, name: &str, number: u8) -> Pod {
        Pod::connect(&self.node, self.network, name, number, pod_address(number))
    }

    /// Starts a server on the node itself, as daemons listen there: TCP and UDP, on every address of both
    /// families.
    pub fn node_daemon(&self, name: &str, port: u16) -> Server {
        self.node_daemon_at(name, [format!("0.0.0.0:{port}"), format!("[::]:{port}")])
    }

    /// Starts a server on the node at one address of each family.
    pub fn node_daemon_at(&self, name: &str, at: [String; 2]) -> Server {
        daemon(&self.node, &self.program, name, &at)
    }

    /// Gives the machine outside further addresses, as a load balancer has them, and a server there. The node and its
    /// pods reach them by routing.
    pub fn outside_daemon_at(&self, name: &str, at: Both, port: u16) -> Server {
        self.outside.sh(&format!("ip addr replace {}/32 dev eth0", at.v4));
        self.outside.sh(&format!("ip addr replace {}/128 dev eth0 nodad", at.v6));
        self.outside.sh(&format!("ip route replace 10.244.0.0/24 via {}", NODE.v4));
        self.outside.sh(&format!("ip -6 route replace fd00:244::/64 via {}", NODE.v6));
        daemon(&self.outside, &self.program, name, &at.port(port).map(|at| at.to_string()))
    }

    /// Routes addresses that no link has from the outside to the node.
    pub fn route_to_node(&self, addresses: Both) {
        for addr in addresses.each() {
            let family = if addr.is_ipv4() { "-4" } else { "-6" };
            self.outside.sh(&format!("ip {family} route add {addr} via {}", NODE.like(addr)));
        }
    }

    /// A client that is a process on the node.
    pub fn node_client(&self) -> Client {
        Client { place: "node process".to_owned(), namespace: self.node.clone(), own: NODE }
    }

    /// The client outside.
    pub fn outside_client(&self) -> Client {
        Client { place: "outside client".to_owned(), namespace: self.outside.clone(), own: OUTSIDE }
    }
}

/// Starts a server on a node for TCP and UDP.
fn daemon(node: &NetNs, program: &ProbeProgram, name: &str, at: &[String]) -> Server {
    let listeners: Vec<_> = [Proto::Tcp, Proto::Udp]
        .into_iter()
        .flat_map(|proto| at.iter().map(move |at| (proto, at.clone())))
        .collect();
    Server::start(node, program, name, &listeners)
}

/// A place to ask from.
#[derive(Debug, Clone)]
pub struct Client {
    /// Name of the place for messages: `node process`, `pod web-1`, `outside client`.
    pub place: String,
    /// Namespace of its sockets.
    pub namespace: NetNs,
    /// Its own addresses.
    pub own: Both,
}

impl Client {
    /// Asks once; an SCTP client binds its own address, as an unbound one would announce all that it has.
    pub fn ask(&self, proto: Proto, to: SocketAddr) -> Outcome {
        self.ask_within(CLIENT_TIMEOUT, proto, to)
    }

    /// Asks like [`Client::ask`], with another bound on connect and on the answer.
    pub fn ask_within(&self, timeout: Duration, proto: Proto, to: SocketAddr) -> Outcome {
        let own = SocketAddr::new(self.own.like(to.ip()), 0);
        let from = (proto == Proto::Sctp).then_some(own);
        self.namespace.enter(|| ask(&Question { proto, to, from, timeout }))
    }

    /// Sends one ICMP echo.
    pub fn ping(&self, to: IpAddr) -> Result<Duration, Failure> {
        self.namespace.enter(|| ping(to, CLIENT_TIMEOUT))
    }
}
