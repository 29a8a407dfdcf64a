//! EndpointSlices (staging/src/k8s.io/api/discovery/v1/generated.proto).

use prost::Message;

use super::{Text, always, meta::ObjectMeta, object, objects, omitted, pointer, texts};
use crate::wire;

/// `discovery.k8s.io/v1.EndpointSlice`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct EndpointSlice {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(message, repeated, tag = "2")]
    endpoints: Vec<Endpoint>,
    #[prost(message, repeated, tag = "3")]
    ports: Vec<EndpointPort>,
    #[prost(bytes = "vec", optional, tag = "4")]
    address_type: Option<Text>,
}

/// `discovery.k8s.io/v1.Endpoint`
#[derive(Clone, PartialEq, Message)]
struct Endpoint {
    #[prost(bytes = "vec", repeated, tag = "1")]
    addresses: Vec<Text>,
    #[prost(message, optional, tag = "2")]
    conditions: Option<EndpointConditions>,
    #[prost(message, optional, tag = "4")]
    target_ref: Option<ObjectReference>,
    #[prost(bytes = "vec", optional, tag = "6")]
    node_name: Option<Text>,
    #[prost(message, optional, tag = "8")]
    hints: Option<EndpointHints>,
}

/// `discovery.k8s.io/v1.EndpointConditions`
#[derive(Clone, PartialEq, Message)]
struct EndpointConditions {
    #[prost(bool, optional, tag = "1")]
    ready: Option<bool>,
    #[prost(bool, optional, tag = "2")]
    serving: Option<bool>,
    #[prost(bool, optional, tag = "3")]
    terminating: Option<bool>,
}

/// `discovery.k8s.io/v1.EndpointHints`
#[derive(Clone, PartialEq, Message)]
struct EndpointHints {
    #[prost(message, repeated, tag = "1")]
    for_zones: Vec<Hint>,
    #[prost(message, repeated, tag = "2")]
    for_nodes: Vec<Hint>,
}

/// `discovery.k8s.io/v1.ForZone` and `discovery.k8s.io/v1.ForNode`
#[derive(Clone, PartialEq, Message)]
struct Hint {
    #[prost(bytes = "vec", optional, tag = "1")]
    name: Option<Text>,
}

/// `discovery.k8s.io/v1.EndpointPort`
#[derive(Clone, PartialEq, Message)]
struct EndpointPort {
    #[prost(bytes = "vec", optional, tag = "1")]
    name: Option<Text>,
    #[prost(bytes = "vec", optional, tag = "2")]
    protocol: Option<Text>,
    #[prost(int32, optional, tag = "3")]
    port: Option<i32>,
}

/// `v1.ObjectReference` (staging/src/k8s.io/api/core/v1/generated.proto)
#[derive(Clone, PartialEq, Message)]
struct ObjectReference {
    #[prost(bytes = "vec", optional, tag = "2")]
    namespace: Option<Text>,
    #[prost(bytes = "vec", optional, tag = "3")]
    name: Option<Text>,
    #[prost(bytes = "vec", optional, tag = "4")]
    uid: Option<Text>,
}

impl From<EndpointSlice> for wire::EndpointSlice {
    fn from(message: EndpointSlice) -> Self {
        wire::EndpointSlice {
            metadata: object(message.metadata),
            address_type: always(message.address_type),
            ports: objects(message.ports),
            endpoints: objects(message.endpoints),
        }
    }
}

impl From<EndpointPort> for wire::SlicePort {
    fn from(message: EndpointPort) -> Self {
        wire::SlicePort {
            name: pointer(message.name),
            protocol: pointer(message.protocol),
            port: pointer(message.port),
        }
    }
}

impl From<Endpoint> for wire::Endpoint {
    fn from(message: Endpoint) -> Self {
        wire::Endpoint {
            addresses: texts(message.addresses),
            conditions: object(message.conditions),
            node_name: pointer(message.node_name),
            hints: object(message.hints),
            target_ref: object(message.target_ref),
        }
    }
}

impl From<EndpointConditions> for wire::Conditions {
    fn from(message: EndpointConditions) -> Self {
        wire::Conditions {
            ready: pointer(message.ready),
            serving: pointer(message.serving),
            terminating: pointer(message.terminating),
        }
    }
}

impl From<EndpointHints> for wire::Hints {
    fn from(message: EndpointHints) -> Self {
        wire::Hints { for_zones: objects(message.for_zones), for_nodes: objects(message.for_nodes) }
    }
}

impl From<Hint> for wire::Hint {
    fn from(message: Hint) -> Self {
        wire::Hint { name: always(message.name) }
    }
}

impl From<ObjectReference> for wire::TargetRef {
    fn from(message: ObjectReference) -> Self {
        wire::TargetRef {
            namespace: omitted(message.namespace),
            name: omitted(message.name),
            uid: omitted(message.uid),
        }
    }
}
