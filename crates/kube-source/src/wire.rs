//! API objects as they are written: only the fields that we read, each of which accepts any value.
//!
//! Parsing them fails only if the text is not YAML or JSON at all. `null` lists are normal (Go writes them),
//! unknown fields are skipped, and a value of the wrong kind is kept as such for `convert` to report.

mod lenient;

use serde::Deserialize;

pub use lenient::{Labels, List, Object, Scalar};

/// `metadata`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct Metadata {
    pub name: Scalar,
    pub namespace: Scalar,
    pub uid: Scalar,
    pub resource_version: Scalar,
    pub creation_timestamp: Scalar,
    pub deletion_timestamp: Scalar,
    pub labels: Labels,
    pub annotations: Labels,
}

/// `v1` Service
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct Service {
    pub metadata: Object<Metadata>,
    pub spec: Object<Spec>,
    pub status: Object<Status>,
}

/// `v1` Node
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct Node {
    pub metadata: Object<Metadata>,
    pub spec: Object<Spec>,
    pub status: Object<Status>,
}

/// `discovery.k8s.io/v1` EndpointSlice
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct EndpointSlice {
    pub metadata: Object<Metadata>,
    pub address_type: Scalar,
    pub ports: List<Object<SlicePort>>,
    pub endpoints: List<Object<Endpoint>>,
}

/// `networking.k8s.io/v1` ServiceCIDR
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct ServiceCidr {
    pub metadata: Object<Metadata>,
    pub spec: Object<Spec>,
}

/// `spec` of all kinds that have one. No name means two things, so one type reads them all, even if the kind
/// of the object comes last in the text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct Spec {
    // Service
    #[serde(rename = "type")]
    pub kind: Scalar,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Scalar,
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: List<Scalar>,
    pub ip_families: List<Scalar>,
    pub ports: List<Object<ServicePort>>,
    pub session_affinity: Scalar,
    pub session_affinity_config: Object<SessionAffinityConfig>,
    pub internal_traffic_policy: Scalar,
    pub external_traffic_policy: Scalar,
    #[serde(rename = "externalIPs")]
    pub external_ips: List<Scalar>,
    pub load_balancer_source_ranges: List<Scalar>,
    pub health_check_node_port: Scalar,
    // Node
    pub taints: List<Object<Taint>>,
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Scalar,
    #[serde(rename = "podCIDRs")]
    pub pod_cidrs: List<Scalar>,
    // ServiceCIDR
    pub cidrs: List<Scalar>,
}

/// `spec.taints[]` of a Node
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct Taint {
    pub key: Scalar,
}

/// `spec.ports[]` of a Service
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct ServicePort {
    pub name: Scalar,
    pub protocol: Scalar,
    pub port: Scalar,
    pub node_port: Scalar,
}

/// `spec.sessionAffinityConfig`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct SessionAffinityConfig {
    #[serde(rename = "clientIP")]
    pub client_ip: Object<ClientIpConfig>,
}

/// `spec.sessionAffinityConfig.clientIP`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct ClientIpConfig {
    pub timeout_seconds: Scalar,
}

/// `status` of a Node or a Service
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct Status {
    pub addresses: List<Object<NodeAddress>>,
    pub load_balancer: Object<LoadBalancer>,
}

/// `status.loadBalancer` of a Service
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct LoadBalancer {
    pub ingress: List<Object<Ingress>>,
}

/// `status.loadBalancer.ingress[]` of a Service
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct Ingress {
    pub ip: Scalar,
    pub ip_mode: Scalar,
}

/// `status.addresses[]` of a Node
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct NodeAddress {
    #[serde(rename = "type")]
    pub kind: Scalar,
    pub address: Scalar,
}

/// `ports[]` of an EndpointSlice
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct SlicePort {
    pub name: Scalar,
    pub protocol: Scalar,
    pub port: Scalar,
}

/// `endpoints[]` of an EndpointSlice
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct Endpoint {
    pub addresses: List<Scalar>,
    pub conditions: Object<Conditions>,
    pub node_name: Scalar,
    pub hints: Object<Hints>,
    pub target_ref: Object<TargetRef>,
}

/// `endpoints[].conditions`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct Conditions {
    pub ready: Scalar,
    pub serving: Scalar,
    pub terminating: Scalar,
}

/// `endpoints[].hints`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct Hints {
    pub for_zones: List<Object<Hint>>,
    pub for_nodes: List<Object<Hint>>,
}

/// `forZones[]` and `forNodes[]`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct Hint {
    pub name: Scalar,
}

/// `endpoints[].targetRef`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct TargetRef {
    pub namespace: Scalar,
    pub name: Scalar,
    pub uid: Scalar,
}

/// An object of any kind, read in one pass wherever its `kind` stands; `items` is only in lists.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(missing_docs, reason = "the API's names")]
pub struct AnyObject {
    pub api_version: Scalar,
    pub kind: Scalar,
    pub metadata: Object<Metadata>,
    pub spec: Object<Spec>,
    pub status: Object<Status>,
    pub address_type: Scalar,
    pub ports: List<Object<SlicePort>>,
    pub endpoints: List<Object<Endpoint>>,
    pub items: List<Object<AnyObject>>,
}

impl AnyObject {
    /// Its fields as a Service.
    pub fn into_service(self) -> Service {
        Service { metadata: self.metadata, spec: self.spec, status: self.status }
    }

    /// Its fields as a Node.
    pub fn into_node(self) -> Node {
        Node { metadata: self.metadata, spec: self.spec, status: self.status }
    }

    /// Its fields as an EndpointSlice.
    pub fn into_slice(self) -> EndpointSlice {
        let AnyObject { metadata, address_type, ports, endpoints, .. } = self;
        EndpointSlice { metadata, address_type, ports, endpoints }
    }
}
