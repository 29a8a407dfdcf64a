//! The cluster that is measured: N Services with the same number of endpoints each, one port, IPv4.
//!
//! The same objects exist in each form that a consumer takes: manifests and model events.

use std::{fmt::Write as _, net::Ipv4Addr, num::NonZeroU16};

use lb_types::{IpFamily, Protocol, ServiceName, VipPort, VirtualServerId};
use serde::Serialize;
use serde_json::{Value, json};
use service_model::{
    EndpointSlice, ModelEvent, Service, SliceEndpoint, SlicePort,
    testing::{plain_endpoint, plain_port, plain_service, plain_slice},
};

/// Name of the node, as given by `--hostname-override`.
pub const NODE_NAME: &str = "node-0";
/// Address of the node, on an interface of every [`crate::node::Node`].
pub const NODE_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 50, 10);
/// Range of ClusterIPs.
pub const SERVICE_CIDR: &str = "10.96.0.0/12";
/// Range of the pods' addresses.
pub const POD_CIDR: &str = "10.0.0.0/10";

/// Namespace of all objects.
pub const NAMESPACE: &str = "bench";

const PORT: u16 = 80;
const TARGET_PORT: u16 = 8080;

/// Size of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Size {
    /// Number of Services.
    pub services: usize,
    /// Number of endpoints of each Service.
    pub endpoints: usize,
}

impl Size {
    /// A size with ten endpoints for each Service, as everything here is measured.
    pub const fn of(services: usize) -> Size {
        Size { services, endpoints: 10 }
    }

    /// Number of real servers of all virtual servers.
    pub const fn real_servers(self) -> usize {
        self.services * self.endpoints
    }
}

/// The ClusterIP of a Service.
pub fn vip(service: usize) -> Ipv4Addr {
    offset(Ipv4Addr::new(10, 96, 1, 0), service)
}

/// The virtual server of a Service.
pub fn virtual_server(service: usize) -> VirtualServerId {
    VipPort { addr: vip(service).into(), protocol: Protocol::Tcp, port: port(PORT) }.into()
}

/// The pods behind a Service at the start.
pub fn pods(size: Size, service: usize) -> Vec<Ipv4Addr> {
    let first = service * size.endpoints;
    (first..first + size.endpoints).map(|pod| offset(Ipv4Addr::new(10, 0, 1, 0), pod)).collect()
}

/// A pod that is behind no Service at the start.
pub fn new_pod(number: usize) -> Ipv4Addr {
    offset(Ipv4Addr::new(10, 32, 1, 0), number)
}

/// The key of a Service.
pub fn service_name(service: usize) -> ServiceName {
    ServiceName::new(NAMESPACE, &name(service))
}

fn name(service: usize) -> String {
    format!("s-{service}")
}

/// The name of its slice.
pub fn slice_name(service: usize) -> String {
    format!("s-{service}-x")
}

fn node_of(service: usize, endpoint: usize) -> String {
    format!("node-{}", (service + endpoint) % 100)
}

fn offset(base: Ipv4Addr, by: usize) -> Ipv4Addr {
    Ipv4Addr::from_bits(u32::from(base).wrapping_add(u32::try_from(by).unwrap_or(u32::MAX)))
}

/// The Node.
pub fn node() -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": NODE_NAME},
        "spec": {"podCIDRs": ["10.0.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": NODE_ADDRESS}]},
    })
}

/// A Service.
pub fn service_json(service: usize) -> Value {
    let vip = vip(service);
    json!({
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"namespace": NAMESPACE, "name": name(service), "uid": format!("u-{service}")},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": vip,
            "clusterIPs": [vip],
            "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "protocol": "TCP", "port": PORT, "targetPort": TARGET_PORT}],
        },
    })
}

/// Its only slice, with these endpoints; an endpoint's pod is named after its address.
pub fn slice_json(service: usize, pods: &[Ipv4Addr]) -> Value {
    let endpoint = |(number, pod): (usize, &Ipv4Addr)| {
        json!({
            "addresses": [pod],
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "nodeName": node_of(service, number),
            "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": format!("p-{pod}"), "uid": format!("p-{pod}")},
        })
    };
    let endpoints: Vec<_> = pods.iter().enumerate().map(endpoint).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": NAMESPACE,
            "name": slice_name(service),
            "labels": {"kubernetes.io/service-name": name(service)},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": TARGET_PORT}],
        "endpoints": endpoints,
    })
}

/// Everything as JSON objects.
pub fn all_json(size: Size) -> impl Iterator<Item = Value> {
    let of_service = move |service| [service_json(service), slice_json(service, &pods(size, service))];
    std::iter::once(node()).chain((0..size.services).flat_map(of_service))
}

/// Everything as JSON documents, one a line.
pub fn manifests(size: Size) -> String {
    all_json(size).fold(String::new(), |mut text, object| {
        let _ = writeln!(text, "{object}");
        text
    })
}

/// Everything as the model takes it, complete.
pub fn events(size: Size) -> Vec<ModelEvent> {
    let node = service_model::Node {
        name: NODE_NAME.into(),
        addresses: [(IpFamily::V4, NODE_ADDRESS.into())].into(),
        ..service_model::Node::default()
    };
    let mut events = vec![ModelEvent::NodeApplied(node)];
    for index in 0..size.services {
        events.push(ModelEvent::ServiceApplied(service(index)));
        events.push(ModelEvent::SliceApplied(slice(index, &pods(size, index))));
    }
    events.push(ModelEvent::Synced);
    events
}

fn service(index: usize) -> Service {
    let port = plain_port("http", Protocol::Tcp, port(PORT));
    let uid = format!("u-{index}").into();
    Service { uid, ..plain_service(service_name(index), vec![vip(index).into()], vec![port]) }
}

/// The only slice of a Service as the model takes it, with these endpoints.
pub fn slice(index: usize, pods: &[Ipv4Addr]) -> EndpointSlice {
    let endpoint = |(number, pod): (usize, &Ipv4Addr)| SliceEndpoint {
        node: Some(node_of(index, number).into()),
        pod: Some(format!("{NAMESPACE}/p-{pod}/p-{pod}").into()),
        ..plain_endpoint((*pod).into())
    };
    let port = SlicePort { name: "http".into(), protocol: Protocol::Tcp, port: port(TARGET_PORT) };
    let endpoints = pods.iter().enumerate().map(endpoint).collect();
    plain_slice(&slice_name(index), service_name(index), vec![port], endpoints)
}

const fn port(number: u16) -> NonZeroU16 {
    match NonZeroU16::new(number) {
        Some(port) => port,
        None => panic!("port 0"),
    }
}
