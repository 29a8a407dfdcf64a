//! The choice of endpoints by readiness, traffic policy and topology.
//!
//! Mirrors `CategorizeEndpoints` in pkg/proxy/topology.go, which all of kube-proxy's modes share.

use lb_types::RealServerId;

use crate::{Endpoint, Node, Service, ServicePort, TrafficPolicy};

/// Policies of a service port, which determine the lists of endpoints.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EndpointPolicy {
    /// Policy on traffic to ClusterIPs.
    pub internal: TrafficPolicy,
    /// Policy on traffic from outside; `None` if the port cannot be reached from there, so that the Service's
    /// policy does not matter.
    pub external: Option<TrafficPolicy>,
}

impl EndpointPolicy {
    /// Policies of a service port.
    pub fn of(service: &Service, port: &ServicePort) -> Self {
        let is_external = port.node_port.is_some() || service.has_external_vip();
        EndpointPolicy {
            internal: service.internal_traffic_policy,
            external: is_external.then_some(service.external_traffic_policy),
        }
    }

    /// Tells whether traffic may go to endpoints of all nodes. External traffic always may: even with the
    /// policy Local, all endpoints serve the clients on this node (`UsesClusterEndpoints` in
    /// pkg/proxy/serviceport.go).
    pub fn uses_cluster(self) -> bool {
        self.internal == TrafficPolicy::Cluster || self.external.is_some()
    }

    /// Tells whether some traffic stays on this node (`UsesLocalEndpoints` in pkg/proxy/serviceport.go).
    ///
    /// Unlike kube-proxy's IPVS mode, which gives ClusterIPs all endpoints as soon as the Service has a node
    /// port, the internal policy applies to every Service, as the API says.
    pub fn uses_local(self) -> bool {
        self.internal == TrafficPolicy::Local || self.external == Some(TrafficPolicy::Local)
    }
}

/// Endpoints that take new connections, by policy, sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelectedEndpoints {
    /// Endpoints for traffic that may leave the node; empty if no policy needs the list.
    pub cluster: Vec<RealServerId>,
    /// Endpoints for traffic that stays on the node; empty if no policy needs the list.
    pub local: Vec<RealServerId>,
    /// True if any node has a usable endpoint. If a list is empty, traffic is dropped if so, and rejected
    /// otherwise.
    pub has_any: bool,
}

impl SelectedEndpoints {
    /// Chooses among all endpoints of a port. Those of this node are chosen whatever the topology.
    pub fn of(endpoints: &[Endpoint], policy: EndpointPolicy, node: &Node) -> Self {
        let (mut cluster, mut local) = (Vec::new(), Vec::new());
        if policy.uses_cluster() {
            let topology = Topology::of(endpoints, node);
            cluster = ready_or_fallback(endpoints.iter(), |e| topology.allows(e, node));
        }
        if policy.uses_local() {
            local = ready_or_fallback(endpoints.iter().filter(|e| e.local), |_| true);
        }
        SelectedEndpoints { cluster, local, has_any: endpoints.iter().any(|e| e.ready || e.is_fallback()) }
    }
}

/// Ready endpoints that are allowed; if there is none, all that are serving and terminating.
fn ready_or_fallback<'a>(
    endpoints: impl Iterator<Item = &'a Endpoint> + Clone,
    allowed: impl Fn(&Endpoint) -> bool,
) -> Vec<RealServerId> {
    // Nearly always all endpoints are ready, so one allocation is enough.
    let mut ready = Vec::with_capacity(endpoints.clone().count());
    ready.extend(endpoints.clone().filter(|e| e.ready && allowed(e)).map(|e| e.id));
    if !ready.is_empty() {
        return ready;
    }
    endpoints.filter(|e| e.is_fallback()).map(|e| e.id).collect()
}

/// Preference that follows from the hints of the ready endpoints (`topologyModeFromHints` in
/// pkg/proxy/topology.go).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology {
    /// Some ready endpoint has no hint, or no hint names this node or its zone.
    Everywhere,
    /// All ready endpoints have hints for nodes, one of them for this node.
    SameNode,
    /// All ready endpoints have hints for zones, one of them for the zone of this node.
    SameZone,
}

impl Topology {
    /// Finds the preference; hints for nodes take precedence over those for zones.
    fn of(endpoints: &[Endpoint], node: &Node) -> Self {
        let ready = || endpoints.iter().filter(|e| e.ready);
        if ready().all(|e| !e.placement.node_hints.is_empty()) && ready().any(|e| names_node(e, node)) {
            Topology::SameNode
        } else if ready().all(|e| !e.placement.zone_hints.is_empty()) && ready().any(|e| names_zone(e, node))
        {
            Topology::SameZone
        } else {
            Topology::Everywhere
        }
    }

    fn allows(self, endpoint: &Endpoint, node: &Node) -> bool {
        match self {
            Topology::Everywhere => true,
            Topology::SameNode => names_node(endpoint, node),
            Topology::SameZone => names_zone(endpoint, node),
        }
    }
}

fn names_node(endpoint: &Endpoint, node: &Node) -> bool {
    endpoint.placement.node_hints.contains(&node.name)
}

fn names_zone(endpoint: &Endpoint, node: &Node) -> bool {
    node.zone.as_ref().is_some_and(|zone| endpoint.placement.zone_hints.contains(zone))
}

#[cfg(test)]
mod tests;
