//! Nodes (staging/src/k8s.io/api/core/v1/generated.proto) and ServiceCIDRs
//! (staging/src/k8s.io/api/networking/v1/generated.proto).

use prost::Message;

use super::{Text, always, meta::ObjectMeta, object, objects, omitted, texts};
use crate::wire;

/// `v1.Node`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Node {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    spec: Option<NodeSpec>,
    #[prost(message, optional, tag = "3")]
    status: Option<NodeStatus>,
}

/// `v1.NodeSpec`
#[derive(Clone, PartialEq, Message)]
struct NodeSpec {
    #[prost(bytes = "vec", optional, tag = "1")]
    pod_cidr: Option<Text>,
    #[prost(message, repeated, tag = "5")]
    taints: Vec<Taint>,
    #[prost(bytes = "vec", repeated, tag = "7")]
    pod_cidrs: Vec<Text>,
}

/// `v1.Taint`
#[derive(Clone, PartialEq, Message)]
struct Taint {
    #[prost(bytes = "vec", optional, tag = "1")]
    key: Option<Text>,
}

/// `v1.NodeStatus`
#[derive(Clone, PartialEq, Message)]
struct NodeStatus {
    #[prost(message, repeated, tag = "5")]
    addresses: Vec<NodeAddress>,
}

/// `v1.NodeAddress`
#[derive(Clone, PartialEq, Message)]
struct NodeAddress {
    #[prost(bytes = "vec", optional, tag = "1")]
    kind: Option<Text>,
    #[prost(bytes = "vec", optional, tag = "2")]
    address: Option<Text>,
}

/// `networking.k8s.io/v1.ServiceCIDR`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ServiceCidr {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    spec: Option<ServiceCidrSpec>,
}

/// `networking.k8s.io/v1.ServiceCIDRSpec`
#[derive(Clone, PartialEq, Message)]
struct ServiceCidrSpec {
    #[prost(bytes = "vec", repeated, tag = "1")]
    cidrs: Vec<Text>,
}

impl From<Node> for wire::Node {
    fn from(message: Node) -> Self {
        wire::Node {
            metadata: object(message.metadata),
            spec: object(message.spec),
            status: object(message.status),
        }
    }
}

impl From<NodeSpec> for wire::Spec {
    fn from(message: NodeSpec) -> Self {
        wire::Spec {
            taints: objects(message.taints),
            pod_cidr: omitted(message.pod_cidr),
            pod_cidrs: texts(message.pod_cidrs),
            ..wire::Spec::default()
        }
    }
}

impl From<Taint> for wire::Taint {
    fn from(message: Taint) -> Self {
        wire::Taint { key: always(message.key) }
    }
}

impl From<NodeStatus> for wire::Status {
    fn from(message: NodeStatus) -> Self {
        wire::Status { addresses: objects(message.addresses), ..wire::Status::default() }
    }
}

impl From<NodeAddress> for wire::NodeAddress {
    fn from(message: NodeAddress) -> Self {
        wire::NodeAddress { kind: always(message.kind), address: always(message.address) }
    }
}

impl From<ServiceCidr> for wire::ServiceCidr {
    fn from(message: ServiceCidr) -> Self {
        wire::ServiceCidr { metadata: object(message.metadata), spec: object(message.spec) }
    }
}

impl From<ServiceCidrSpec> for wire::Spec {
    fn from(message: ServiceCidrSpec) -> Self {
        wire::Spec { cidrs: texts(message.cidrs), ..wire::Spec::default() }
    }
}
