//! API objects after parsing, valid by construction.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
    time::SystemTime,
};

use drain::Overrides;
use ipnetwork::IpNetwork;
use lb_types::{IpFamily, Protocol, Scheduler, SchedulerFlags, ServiceName, VipBinding};

/// Policy on endpoints of other nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TrafficPolicy {
    /// Endpoints of all nodes serve.
    #[default]
    Cluster,
    /// Only endpoints of the node where the traffic arrives serve.
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
    /// Name; empty if the only port has none.
    pub name: Arc<str>,
    /// Protocol of the port on the VIPs and on the node.
    pub protocol: Protocol,
    /// Port on the VIPs.
    pub port: NonZeroU16,
    /// Port on the node's own addresses, if any.
    pub node_port: Option<NonZeroU16>,
}

/// Settings of a Service, from annotations under `kube-ipvs.io/`; absent ones follow the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ServiceSettings {
    /// `kube-ipvs.io/scheduler`
    pub scheduler: Option<Scheduler>,
    /// `kube-ipvs.io/scheduler-flags`
    pub scheduler_flags: Option<SchedulerFlags>,
    /// True if `no-fallback` is among the flags, so that clients of a draining real server are refused rather
    /// than moved to another one.
    pub no_fallback: bool,
    /// `kube-ipvs.io/max-connections`
    pub max_connections: Option<NonZeroU32>,
    /// `kube-ipvs.io/one-packet`
    pub one_packet: bool,
    /// `kube-ipvs.io/external-ip-binding`
    pub external_ip_binding: Option<Arc<ExternalIpBinding>>,
    /// `kube-ipvs.io/graceful-*`, if there is any.
    pub drain: Option<Arc<Overrides>>,
}

/// Bindings that a Service asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ExternalIpBinding {
    /// For all its external and load-balancer IPs that are not in `of`.
    pub others: Option<VipBinding>,
    /// For some of them.
    pub of: Vec<(IpAddr, VipBinding)>,
}

impl ExternalIpBinding {
    /// Binding that it asks for an address, if it does.
    pub fn of(&self, addr: IpAddr) -> Option<VipBinding> {
        let named = self.of.iter().find(|(named, _)| *named == addr).map(|(_, binding)| *binding);
        named.or(self.others)
    }
}

/// Where a Service's external address is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExternalSource {
    /// `spec.externalIPs`
    ExternalIps,
    /// `status.loadBalancer.ingress`, with `ipMode: VIP`
    LoadBalancer,
    /// The same, with `ipMode: Proxy`: the load balancer is a proxy that clients are to pass, so no node serves the
    /// address.
    Proxy,
}

impl ExternalSource {
    /// Field of the object.
    pub const fn field(self) -> &'static str {
        match self {
            ExternalSource::ExternalIps => "spec.externalIPs",
            ExternalSource::LoadBalancer | ExternalSource::Proxy => "status.loadBalancer.ingress",
        }
    }
}

/// Address under which clients outside of the cluster reach a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ExternalIp {
    /// The address.
    pub addr: IpAddr,
    /// Where it is written.
    pub source: ExternalSource,
}

/// Clients that may reach the load-balancer IPs of a Service: `spec.loadBalancerSourceRanges`, by family. `None` for
/// everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct SourceRanges {
    /// Over IPv4; prefixes without host bits, sorted, none within another.
    pub v4: Option<Arc<[IpNetwork]>>,
    /// Over IPv6; the same.
    pub v6: Option<Arc<[IpNetwork]>>,
}

impl SourceRanges {
    /// Clients of a family.
    pub const fn of(&self, family: IpFamily) -> Option<&Arc<[IpNetwork]>> {
        match family {
            IpFamily::V4 => self.v4.as_ref(),
            IpFamily::V6 => self.v6.as_ref(),
        }
    }
}

/// A Service that has at least one ClusterIP.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Service {
    /// Namespace and name.
    pub name: ServiceName,
    /// `metadata.uid`; empty for a manifest without one.
    pub uid: Arc<str>,
    /// `metadata.creationTimestamp` in seconds since the epoch. Of two Services that claim a VIP, the older
    /// one gets it; `None` counts as the youngest.
    pub created: Option<i64>,
    /// ClusterIPs, at most one per family.
    pub cluster_ips: Vec<IpAddr>,
    /// External and load-balancer IPs, each once, those that no node serves included.
    pub external_ips: Vec<ExternalIp>,
    /// Clients that may reach its load-balancer IPs, unless everybody may.
    pub source_ranges: Option<Arc<SourceRanges>>,
    /// `spec.healthCheckNodePort`, where the load balancer asks for it: under `externalTrafficPolicy: Local`.
    pub health_check_port: Option<NonZeroU16>,
    /// Ports, unique by (name, protocol) and by (port, protocol).
    pub ports: Vec<ServicePort>,
    /// Session affinity, if any.
    pub affinity: Option<Affinity>,
    /// Policy on traffic to ClusterIPs.
    pub internal_traffic_policy: TrafficPolicy,
    /// Policy on traffic to node ports, external and load-balancer IPs.
    pub external_traffic_policy: TrafficPolicy,
    /// Settings from annotations.
    pub settings: ServiceSettings,
    /// True if it is programmed before ordinary Services (cluster DNS, `default/kubernetes`).
    pub critical: bool,
}

impl Service {
    /// ClusterIP of a family.
    pub fn cluster_ip(&self, family: IpFamily) -> Option<IpAddr> {
        self.cluster_ips.iter().copied().find(|ip| IpFamily::of(*ip) == family)
    }

    /// External and load-balancer IPs of a family, those that no node serves included. Without a ClusterIP of that family
    /// there are none, as in kube-proxy (pkg/proxy/serviceport.go).
    pub fn external_ips_of(&self, family: IpFamily) -> impl Iterator<Item = ExternalIp> {
        let served = self.cluster_ip(family).is_some();
        self.external_ips.iter().filter(move |ip| served && IpFamily::of(ip.addr) == family).copied()
    }

    /// Clients of a family that may reach its load-balancer IPs; `None` for everybody.
    pub fn source_ranges_of(&self, family: IpFamily) -> Option<&Arc<[IpNetwork]>> {
        self.source_ranges.as_ref()?.of(family)
    }

    /// Tells whether nodes may serve an external or load-balancer IP of it.
    pub fn has_external_vip(&self) -> bool {
        self.external_ips.iter().any(|ip| ip.source != ExternalSource::Proxy)
    }

    /// All VIPs.
    pub fn vips(&self) -> impl Iterator<Item = IpAddr> {
        let external = IpFamily::ALL.into_iter().flat_map(|family| self.external_ips_of(family));
        let external = external.filter(|ip| ip.source != ExternalSource::Proxy);
        self.cluster_ips.iter().copied().chain(external.map(|ip| ip.addr))
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
    /// Name of the Service's port to which it belongs; empty for an unnamed one.
    pub name: Arc<str>,
    /// Protocol, which must be that of the Service's port, too.
    pub protocol: Protocol,
    /// Port of the endpoints.
    pub port: NonZeroU16,
}

/// One entry of `endpoints`, reduced to its first address.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SliceEndpoint {
    /// `addresses[0]`
    pub addr: IpAddr,
    /// `conditions.ready`; absent means true.
    pub ready: bool,
    /// `conditions.serving`; absent means true.
    pub serving: bool,
    /// `conditions.terminating`; absent means false.
    pub terminating: bool,
    /// `nodeName`
    pub node: Option<Arc<str>>,
    /// `hints.forZones`
    pub zone_hints: Vec<Arc<str>>,
    /// `hints.forNodes`
    pub node_hints: Vec<Arc<str>>,
    /// `targetRef` as `NAMESPACE/NAME/UID`, if any. It shows that an address came back with another pod.
    pub pod: Option<Arc<str>>,
}

/// An EndpointSlice of address type IPv4 or IPv6 with a service name.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub name: SliceName,
    /// Label `kubernetes.io/service-name`.
    pub service: ServiceName,
    /// `addressType`
    pub family: IpFamily,
    /// Ports, all of which every endpoint has.
    pub ports: Vec<SlicePort>,
    /// Endpoints, all of `family`.
    pub endpoints: Vec<SliceEndpoint>,
    /// Time of what triggered the last change, by the annotation `endpoints.kubernetes.io/last-change-trigger-time`. It
    /// is no part of the state: a slice that differs in it alone is the same.
    pub triggered: Option<SystemTime>,
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
    /// True if it is about to go or has gone: it is being deleted, or the autoscaler has tainted it for that.
    pub leaves: bool,
}

/// A change of the input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ModelEvent {
    /// A Service was added or changed. If a change makes it unacceptable for the model, the event is
    /// `ServiceDeleted`.
    ServiceApplied(Service),
    /// A Service is gone.
    ServiceDeleted(ServiceName),
    /// An EndpointSlice was added or changed.
    SliceApplied(EndpointSlice),
    /// An EndpointSlice is gone.
    SliceDeleted(SliceName),
    /// The own Node was added or changed.
    NodeApplied(Node),
    /// The own Node is gone. What is known of it goes on to hold.
    NodeDeleted,
    /// The prefixes of ClusterIPs changed; the event has all of them.
    ServiceCidrsApplied(Vec<ipnetwork::IpNetwork>),
    /// The source has delivered all Services, EndpointSlices and the Node at least once.
    Synced,
}
