//! Several nodes and an outside client on one segment, and pods on each node.
//!
//! ```text
//!   outside                  node-a                      node-b
//!   192.168.50.2             192.168.50.10               192.168.50.11            fd00:50::/64
//!        |                     |      \ 10.244.0.11 ...    |      \ 10.244.1.11 ...
//!        +------- br0 ---------+-------------- br0 --------+
//! ```
//!
//! Pods are routed, and every node has a route to the pods of each other one, as plug-ins without an overlay
//! make them.

use std::net::IpAddr;

use testkit::NetNs;

use super::{
    Both, Client, NODE, OUTSIDE, Pod, PodNetwork, ProbeProgram, Server, daemon, decimal_group, ip,
    pod_address,
};

/// Names of nodes.
const NAMES: [&str; 3] = ["node-a", "node-b", "node-c"];

/// A node of a [`Segment`].
#[derive(Debug)]
pub struct Node {
    /// Name in the API.
    pub name: &'static str,
    /// Its addresses on the segment.
    pub address: Both,
    /// Its network, where kube-ipvs runs.
    pub namespace: NetNs,
    number: u8,
}

impl Node {
    fn new(number: u8) -> Node {
        let mut address = NODE;
        let [.., last] = address.v4.octets();
        address.v4 = [192, 168, 50, last + number].into();
        address.v6 = (u128::from(address.v6) + u128::from(number)).into();
        Node { name: NAMES[usize::from(number)], address, namespace: NetNs::create(), number }
    }

    /// Ranges of its pods, IPv4 first.
    pub fn pod_ranges(&self) -> [String; 2] {
        [format!("10.244.{}.0/24", self.number), format!("fd00:244:0:{}::/64", self.number)]
    }

    /// A client that is a process on this node.
    pub fn client(&self) -> Client {
        let place = format!("process of {}", self.name);
        Client { place, namespace: self.namespace.clone(), own: self.address }
    }
}

/// Nodes and an outside client. Pods are separate values: they come and go.
#[derive(Debug)]
pub struct Segment {
    /// Nodes, `node-a` first.
    pub nodes: Vec<Node>,
    /// Network of a machine beside the nodes.
    pub outside: NetNs,
    /// Network of the bridge between them.
    switch: NetNs,
    program: ProbeProgram,
}

impl Segment {
    /// Builds up to three nodes and the outside client, which reaches ClusterIPs through the first node.
    pub fn new(nodes: u8, program: ProbeProgram) -> Segment {
        let nodes = (0..nodes).map(Node::new).collect();
        let segment = Segment { nodes, outside: NetNs::create(), switch: NetNs::create(), program };
        let lines = "link add name br0 type bridge mcast_snooping 0\nlink set br0 up\n";
        ip::batch(&segment.switch, lines);
        segment.plug("outside", &segment.outside, OUTSIDE);
        for node in &segment.nodes {
            segment.plug(node.name, &node.namespace, node.address);
            segment.route_from(node);
            // IPv6 forwarding is up to the CNI plug-in; IPv4 forwarding is left to kube-ipvs.
            ip::sysctls(&node.namespace, &[("net/ipv6/conf/all/forwarding", "1")]);
        }
        segment.route_to_node(0, &["10.96.0.0/16", "fd00:96::/112"]);
        segment
    }

    /// Connects a machine to the bridge; see [`super::Net`] for its link-local address.
    fn plug(&self, name: &str, machine: &NetNs, address: Both) {
        let lines = format!(
            "link add name {name} type veth peer name eth0 netns {}\n\
             link set {name} master br0\n\
             link set {name} up\n",
            ip::path(machine),
        );
        ip::batch(&self.switch, &lines);
        let Both { v4, v6 } = address;
        let [.., last] = v4.octets();
        let lines = format!(
            "link set eth0 addrgenmode none\n\
             address add {v4}/24 dev eth0\n\
             address add {v6}/64 dev eth0 nodad\n\
             address add fe80::{:x}/64 dev eth0 nodad\n\
             link set eth0 up\n",
            decimal_group(last),
        );
        ip::batch(machine, &lines);
        ip::sysctls(machine, &[("net/ipv4/ping_group_range", "0 0")]);
    }

    /// Routes of a node: pods of others through their nodes, addresses that no pod has nowhere, the rest to the
    /// outside client.
    fn route_from(&self, node: &Node) {
        let mut lines =
            format!("route add default via {}\nroute add default via {}\n", OUTSIDE.v4, OUTSIDE.v6);
        for other in &self.nodes {
            for (range, via) in other.pod_ranges().iter().zip(other.address.each()) {
                lines += &if other.number == node.number {
                    format!("route add unreachable {range}\n")
                } else {
                    format!("route add {range} via {via}\n")
                };
            }
        }
        ip::batch(&node.namespace, &lines);
    }

    /// Routes ranges of addresses from the outside to a node.
    pub fn route_to_node(&self, node: usize, ranges: &[&str]) {
        let via = |range: &str| {
            let addr: IpAddr = range.split('/').next().and_then(|addr| addr.parse().ok()).expect("a range");
            self.nodes[node].address.like(addr)
        };
        let lines: String =
            ranges.iter().map(|range| format!("route replace {range} via {}\n", via(range))).collect();
        ip::batch(&self.outside, &lines);
    }

    /// Starts pod number `number` of a node, with servers for all transports of `ports` on both its addresses.
    pub fn pod(&self, node: usize, name: &str, number: u8, ports: &[u16]) -> Pod {
        let node = &self.nodes[node];
        let Both { mut v4, mut v6 } = pod_address(number);
        v4 = (u32::from(v4) + (u32::from(node.number) << 8)).into();
        v6 = (u128::from(v6) + (u128::from(node.number) << 64)).into();
        let address = Both { v4, v6 };
        let mut pod = Pod::connect(&node.namespace, PodNetwork::Routed, name, number, address);
        pod.serve(&self.program, ports);
        pod
    }

    /// Starts a server on a node, for TCP and UDP at its own addresses.
    pub fn daemon(&self, node: usize, name: &str, port: u16) -> Server {
        let node = &self.nodes[node];
        let at = node.address.port(port).map(|at| at.to_string());
        daemon(&node.namespace, &self.program, name, &at)
    }

    /// The client outside.
    pub fn outside_client(&self) -> Client {
        Client { place: "outside client".to_owned(), namespace: self.outside.clone(), own: OUTSIDE }
    }
}
