//! Paths of packets from a client to an endpoint of this node.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result};
use e2e::net::{Both, NODE, Net, Pod, PodNetwork, ProbeProgram, cluster_ip};

use super::{
    traffic::{self, Server},
    ways::{Scene, Way},
};
use crate::programming::Bench;

/// Port of the Service.
pub const PORT: u16 = 80;
/// Port of its endpoint.
pub const TARGET_PORT: u16 = 8080;
/// Its node port.
pub const NODE_PORT: u16 = 30_080;
/// Addresses of its load balancer.
pub const BALANCER: Both = Both {
    v4: std::net::Ipv4Addr::new(192, 0, 2, 90),
    v6: std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x90),
};

/// Place of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// Pod of the node.
    Pod,
    /// Process of the node.
    Node,
    /// Machine beside the node.
    Outside,
    /// The pod that is the endpoint.
    Itself,
}

/// Address that the client connects to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// ClusterIP of the Service.
    ClusterIp,
    /// Node port at the node's address.
    NodePort,
    /// Ingress IP of its load balancer, by a local route.
    Routed,
    /// Ingress IP of its load balancer, by steering.
    Steered,
}

/// Path of packets from a client to the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Path {
    /// Client.
    pub from: Client,
    /// Address that it connects to.
    pub to: To,
    /// True for IPv6.
    pub is_v6: bool,
    /// True for session affinity.
    pub affinity: bool,
    /// Number of other Services.
    pub others: usize,
}

impl Path {
    /// The paths of a run, in the order of the table.
    pub fn all(quick: bool) -> Vec<Path> {
        let of = |from, to| Path { from, to, is_v6: false, affinity: false, others: 0 };
        let clients = [Client::Pod, Client::Node, Client::Outside];
        let mut paths: Vec<_> = clients.map(|from| of(from, To::ClusterIp)).into();
        paths.push(of(Client::Outside, To::NodePort));
        paths.push(of(Client::Outside, To::Steered));
        if quick {
            return paths;
        }
        paths.extend([of(Client::Pod, To::NodePort), of(Client::Node, To::NodePort)]);
        paths.extend([of(Client::Pod, To::Steered), of(Client::Node, To::Steered)]);
        paths.extend(clients.map(|from| of(from, To::Routed)));
        paths.push(of(Client::Itself, To::ClusterIp));
        paths.extend(clients.map(|from| Path { affinity: true, ..of(from, To::ClusterIp) }));
        let v6 = paths.clone().into_iter().map(|path| Path { is_v6: true, ..path });
        paths.extend(v6.collect::<Vec<_>>());
        paths.extend(clients.map(|from| Path { others: 10_000, ..of(from, To::ClusterIp) }));
        paths.push(Path { others: 10_000, ..of(Client::Outside, To::NodePort) });
        paths
    }

    /// Words for a line of the table.
    pub fn name(&self) -> String {
        let from = match self.from {
            Client::Pod => "pod",
            Client::Node => "node process",
            Client::Outside => "outside client",
            Client::Itself => "the endpoint itself",
        };
        let to = match self.to {
            To::ClusterIp => "ClusterIP",
            To::NodePort => "node port",
            To::Routed => "load balancer (route)",
            To::Steered => "load balancer (steer)",
        };
        let family = if self.is_v6 { "IPv6" } else { "IPv4" };
        let affinity = if self.affinity { ", affinity" } else { "" };
        let others = if self.others > 0 { format!(", {} Services", self.others) } else { String::new() };
        format!("{from} to {to}, {family}{affinity}{others}")
    }

    /// Address of the virtual server.
    pub fn front(&self) -> SocketAddr {
        let (addresses, port) = match self.to {
            To::ClusterIp => (cluster_ip(80), PORT),
            To::NodePort => (NODE, NODE_PORT),
            To::Routed | To::Steered => (BALANCER, PORT),
        };
        SocketAddr::new(self.of_family(addresses), port)
    }

    /// The address of the path's family.
    pub fn of_family(&self, addresses: Both) -> IpAddr {
        addresses.each()[usize::from(self.is_v6)]
    }

    /// Tells whether the address is one that no link has, a VIP.
    pub fn is_to_vip(&self) -> bool {
        self.to != To::NodePort
    }

    /// Tells whether kube-ipvs and kube-proxy both masquerade the client.
    pub fn takes_masquerading(&self) -> bool {
        matches!(self.from, Client::Outside | Client::Itself)
    }

    /// Programs a node of its own, and counts; figures by unit.
    pub fn measure(&self, way: Way, bench: &Bench) -> Result<[(&'static str, f64); 2]> {
        self.measure_changed(way, bench, |_| Ok(()))
    }

    /// The same, but for a change of the node in between.
    pub fn measure_changed(
        &self,
        way: Way,
        bench: &Bench,
        change: impl FnOnce(&testkit::NetNs) -> Result<()>,
    ) -> Result<[(&'static str, f64); 2]> {
        let directory = bench.directory("exact")?;
        let net = Net::new(PodNetwork::Routed, ProbeProgram::at(&bench.binary));
        net.route_to_node(BALANCER);
        let endpoint = net.bare_pod("endpoint", 11);
        let client = net.bare_pod("client", 12);
        let server = Server::start(&endpoint.namespace, TARGET_PORT)?;
        let scene = Scene {
            path: self,
            net: &net,
            endpoint: &endpoint,
            binary: &bench.binary,
            directory: &directory,
        };
        let context = || format!("{}, {}", self.name(), way.as_str());
        way.program(&scene).and_then(|()| change(&net.node)).with_context(context)?;
        let counts = traffic::measure(&self.namespace(&net, &endpoint, &client), self.front());
        drop(server);
        counts.with_context(context)
    }

    fn namespace(&self, net: &Net, endpoint: &Pod, client: &Pod) -> testkit::NetNs {
        match self.from {
            Client::Pod => client.namespace.clone(),
            Client::Node => net.node.clone(),
            Client::Outside => net.outside.clone(),
            Client::Itself => endpoint.namespace.clone(),
        }
    }
}
