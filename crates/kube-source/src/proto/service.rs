//! Services (staging/src/k8s.io/api/core/v1/generated.proto).

use prost::Message;

use super::{Text, always, meta::ObjectMeta, object, objects, omitted, pointer, texts};
use crate::wire;

/// `v1.Service`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Service {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
    #[prost(message, optional, tag = "2")]
    spec: Option<ServiceSpec>,
    #[prost(message, optional, tag = "3")]
    status: Option<ServiceStatus>,
}

/// `v1.ServiceSpec`
#[derive(Clone, PartialEq, Message)]
struct ServiceSpec {
    #[prost(message, repeated, tag = "1")]
    ports: Vec<ServicePort>,
    #[prost(bytes = "vec", optional, tag = "3")]
    cluster_ip: Option<Text>,
    #[prost(bytes = "vec", optional, tag = "4")]
    kind: Option<Text>,
    #[prost(bytes = "vec", repeated, tag = "5")]
    external_ips: Vec<Text>,
    #[prost(bytes = "vec", optional, tag = "7")]
    session_affinity: Option<Text>,
    #[prost(bytes = "vec", repeated, tag = "9")]
    load_balancer_source_ranges: Vec<Text>,
    #[prost(bytes = "vec", optional, tag = "11")]
    external_traffic_policy: Option<Text>,
    #[prost(int32, optional, tag = "12")]
    health_check_node_port: Option<i32>,
    #[prost(message, optional, tag = "14")]
    session_affinity_config: Option<SessionAffinityConfig>,
    #[prost(bytes = "vec", repeated, tag = "18")]
    cluster_ips: Vec<Text>,
    #[prost(bytes = "vec", repeated, tag = "19")]
    ip_families: Vec<Text>,
    #[prost(bytes = "vec", optional, tag = "22")]
    internal_traffic_policy: Option<Text>,
}

/// `v1.ServicePort`
#[derive(Clone, PartialEq, Message)]
struct ServicePort {
    #[prost(bytes = "vec", optional, tag = "1")]
    name: Option<Text>,
    #[prost(bytes = "vec", optional, tag = "2")]
    protocol: Option<Text>,
    #[prost(int32, optional, tag = "3")]
    port: Option<i32>,
    #[prost(int32, optional, tag = "5")]
    node_port: Option<i32>,
}

/// `v1.SessionAffinityConfig`
#[derive(Clone, PartialEq, Message)]
struct SessionAffinityConfig {
    #[prost(message, optional, tag = "1")]
    client_ip: Option<ClientIpConfig>,
}

/// `v1.ClientIPConfig`
#[derive(Clone, PartialEq, Message)]
struct ClientIpConfig {
    #[prost(int32, optional, tag = "1")]
    timeout_seconds: Option<i32>,
}

/// `v1.ServiceStatus`
#[derive(Clone, PartialEq, Message)]
struct ServiceStatus {
    #[prost(message, optional, tag = "1")]
    load_balancer: Option<LoadBalancerStatus>,
}

/// `v1.LoadBalancerStatus`
#[derive(Clone, PartialEq, Message)]
struct LoadBalancerStatus {
    #[prost(message, repeated, tag = "1")]
    ingress: Vec<LoadBalancerIngress>,
}

/// `v1.LoadBalancerIngress`
#[derive(Clone, PartialEq, Message)]
struct LoadBalancerIngress {
    #[prost(bytes = "vec", optional, tag = "1")]
    ip: Option<Text>,
    #[prost(bytes = "vec", optional, tag = "3")]
    ip_mode: Option<Text>,
}

impl From<Service> for wire::Service {
    fn from(message: Service) -> Self {
        wire::Service {
            metadata: object(message.metadata),
            spec: object(message.spec),
            status: object(message.status),
        }
    }
}

impl From<ServiceSpec> for wire::Spec {
    fn from(message: ServiceSpec) -> Self {
        wire::Spec {
            kind: omitted(message.kind),
            cluster_ip: omitted(message.cluster_ip),
            cluster_ips: texts(message.cluster_ips),
            ip_families: texts(message.ip_families),
            ports: objects(message.ports),
            session_affinity: omitted(message.session_affinity),
            session_affinity_config: object(message.session_affinity_config),
            internal_traffic_policy: pointer(message.internal_traffic_policy),
            external_traffic_policy: omitted(message.external_traffic_policy),
            external_ips: texts(message.external_ips),
            load_balancer_source_ranges: texts(message.load_balancer_source_ranges),
            health_check_node_port: omitted(message.health_check_node_port),
            ..wire::Spec::default()
        }
    }
}

impl From<ServicePort> for wire::ServicePort {
    fn from(message: ServicePort) -> Self {
        wire::ServicePort {
            name: omitted(message.name),
            protocol: omitted(message.protocol),
            port: always(message.port),
            node_port: omitted(message.node_port),
        }
    }
}

impl From<SessionAffinityConfig> for wire::SessionAffinityConfig {
    fn from(message: SessionAffinityConfig) -> Self {
        wire::SessionAffinityConfig { client_ip: object(message.client_ip) }
    }
}

impl From<ClientIpConfig> for wire::ClientIpConfig {
    fn from(message: ClientIpConfig) -> Self {
        wire::ClientIpConfig { timeout_seconds: pointer(message.timeout_seconds) }
    }
}

impl From<ServiceStatus> for wire::Status {
    fn from(message: ServiceStatus) -> Self {
        wire::Status { load_balancer: object(message.load_balancer), ..wire::Status::default() }
    }
}

impl From<LoadBalancerStatus> for wire::LoadBalancer {
    fn from(message: LoadBalancerStatus) -> Self {
        wire::LoadBalancer { ingress: objects(message.ingress) }
    }
}

impl From<LoadBalancerIngress> for wire::Ingress {
    fn from(message: LoadBalancerIngress) -> Self {
        wire::Ingress { ip: omitted(message.ip), ip_mode: pointer(message.ip_mode) }
    }
}
