//! API objects after parsing: valid by construction.

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU16, num::NonZeroU32, sync::Arc};

use drain::Overrides;
use lb_types::{IpFamily, Protocol, Scheduler, SchedulerFlags, ServiceName};

/// Whether endpoints of other nodes may serve.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TrafficPolicy {
    /// Endpoints of all nodes.
    #[default]
    Cluster,
    /// Only endpoints of the node where the traffic arrives.
    Local,
}

/// `sessionAffinity: ClientIP`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Affinity {
    /// `sessionAffinityConfig.clientIP.timeoutSeconds`
    pub timeout_seconds: NonZeroU32,
}

/// One entry of `spec.ports`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServicePort {
    /// Empty when the only port has no name.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Port on the VIPs.
    pub port: NonZeroU16,
    /// Port on the node's own addresses, if any.
    pub node_port: Option<NonZeroU16>,
}

/// Per-Service settings from annotations under `kube-ipvs.io/`; absent ones follow the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceSettings {
    /// `kube-ipvs.io/scheduler`
    pub scheduler: Option<Scheduler>,
    /// `kube-ipvs.io/scheduler-flags`
    pub scheduler_flags: Option<SchedulerFlags>,
    /// `no-fallback` among them: clients of a draining real server are to be refused rather than given to another.
    pub no_fallback: bool,
    /// `kube-ipvs.io/graceful-*`, if there is any.
    pub drain: Option<Arc<Overrides>>,
}

/// A Service that has at least one ClusterIP.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// Key.
    pub name: ServiceName,
    /// `metadata.uid`; empty from manifests without one.
    pub uid: Arc<str>,
    /// `metadata.creationTimestamp` in seconds since the epoch; decides who wins a VIP claimed twice. `None` sorts last.
    pub created: Option<i64>,
    /// At most one per family.
    pub cluster_ips: Vec<IpAddr>,
    /// Ports; unique by (name, protocol) and by (port, protocol).
    pub ports: Vec<ServicePort>,
    /// Session affinity, if any.
    pub affinity: Option<Affinity>,
    /// For traffic to ClusterIPs.
    pub internal_traffic_policy: TrafficPolicy,
    /// For traffic to node ports, external and load-balancer IPs.
    pub external_traffic_policy: TrafficPolicy,
    /// From annotations.
    pub settings: ServiceSettings,
    /// Whether it is programmed before ordinary services (cluster DNS, `default/kubernetes`).
    pub critical: bool,
}

impl Service {
    /// ClusterIP of a family.
    pub fn cluster_ip(&self, family: IpFamily) -> Option<IpAddr> {
        self.cluster_ips.iter().copied().find(|ip| IpFamily::of(*ip) == family)
    }
}

/// Namespace and name of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SliceName {
    /// `metadata.namespace`
    pub namespace: Arc<str>,
    /// `metadata.name`
    pub name: Arc<str>,
}

/// One entry of `ports` of an EndpointSlice, always with a port number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SlicePort {
    /// Matched to the Service's port of the same name; empty for an unnamed one.
    pub name: Arc<str>,
    /// Protocol.
    pub protocol: Protocol,
    /// Port of the endpoints.
    pub port: NonZeroU16,
}

/// One entry of `endpoints`, reduced to its first address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SliceEndpoint {
    /// `addresses[0]`
    pub addr: IpAddr,
    /// Absent means true.
    pub ready: bool,
    /// Absent means true.
    pub serving: bool,
    /// Absent means false.
    pub terminating: bool,
    /// `nodeName`
    pub node: Option<Arc<str>>,
    /// `hints.forZones`
    pub zone_hints: Vec<Arc<str>>,
    /// `hints.forNodes`
    pub node_hints: Vec<Arc<str>>,
    /// `targetRef`: tells an address that came back under another pod. `NAMESPACE/NAME/UID` or empty.
    pub pod: Option<Arc<str>>,
}

/// An EndpointSlice of address type IPv4 or IPv6 with a service name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointSlice {
    /// Key.
    pub name: SliceName,
    /// Label `kubernetes.io/service-name`.
    pub service: ServiceName,
    /// `addressType`
    pub family: IpFamily,
    /// Ports; all endpoints have all of them.
    pub ports: Vec<SlicePort>,
    /// Endpoints, all of `family`.
    pub endpoints: Vec<SliceEndpoint>,
}

/// Facts about the own Node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// `metadata.name`
    pub name: Arc<str>,
    /// Label `topology.kubernetes.io/zone`, unless empty.
    pub zone: Option<Arc<str>>,
    /// First address of each family: InternalIP before ExternalIP.
    pub addresses: BTreeMap<IpFamily, IpAddr>,
    /// `spec.podCIDRs`
    pub pod_cidrs: Vec<ipnetwork::IpNetwork>,
}

/// A change of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelEvent {
    /// A Service was added or changed (also to one that the model no longer accepts: then it is `ServiceDeleted`).
    ServiceApplied(Service),
    /// A Service is gone.
    ServiceDeleted(ServiceName),
    /// An EndpointSlice was added or changed.
    SliceApplied(EndpointSlice),
    /// An EndpointSlice is gone.
    SliceDeleted(SliceName),
    /// The own Node was added or changed.
    NodeApplied(Node),
    /// Prefixes that the cluster takes ClusterIPs from, all of them, changed.
    ServiceCidrsApplied(Vec<ipnetwork::IpNetwork>),
    /// All Services, EndpointSlices and the Node have been delivered at least once.
    Synced,
}
