//! The choice of endpoints by readiness, traffic policy and topology.
//!
//! Mirrors `CategorizeEndpoints` in pkg/proxy/topology.go, which all of kube-proxy's modes share.

use lb_types::RealServerId;

use crate::{Endpoint, Node, PortEndpoints, Service, ServicePort, TrafficPolicy};

/// Which policies a service port has: decides which lists of endpoints exist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct EndpointPolicy {
    /// For traffic to ClusterIPs.
    pub internal: TrafficPolicy,
    /// For traffic from outside; `None` if the port cannot be reached from there, then the Service's policy is void.
    pub external: Option<TrafficPolicy>,
}

impl EndpointPolicy {
    /// Policy of a service port.
    pub fn of(service: &Service, port: &ServicePort) -> Self {
        EndpointPolicy {
            internal: service.internal_traffic_policy,
            external: port.node_port.map(|_| service.external_traffic_policy),
        }
    }

    /// Whether traffic may go to endpoints of all nodes. External traffic always may: with the Local policy, clients
    /// on this node are still served by all (`UsesClusterEndpoints` in pkg/proxy/serviceport.go).
    pub fn uses_cluster(self) -> bool {
        self.internal == TrafficPolicy::Cluster || self.external.is_some()
    }

    /// Whether some traffic stays on this node (`UsesLocalEndpoints` in pkg/proxy/serviceport.go).
    ///
    /// Unlike kube-proxy's IPVS mode, which gives ClusterIPs all endpoints as soon as the Service has a node port, the
    /// internal policy holds whatever else the Service has, as the API says.
    pub fn uses_local(self) -> bool {
        self.internal == TrafficPolicy::Local || self.external == Some(TrafficPolicy::Local)
    }
}

/// The endpoints that take new connections, by policy. Sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelectedEndpoints {
    /// For traffic that may leave the node; empty if no policy asks for it.
    pub cluster: Vec<RealServerId>,
    /// For traffic that stays on the node; empty if no policy asks for it.
    pub local: Vec<RealServerId>,
    /// Whether any node has a usable endpoint: with an empty list it tells "drop" (true) from "reject" (false).
    pub has_any: bool,
}

impl SelectedEndpoints {
    /// The list for traffic under a policy.
    pub fn under(&self, policy: TrafficPolicy) -> &[RealServerId] {
        match policy {
            TrafficPolicy::Cluster => &self.cluster,
            TrafficPolicy::Local => &self.local,
        }
    }

    /// Both lists, merged: a terminating or topologically distant local endpoint is in `local` only.
    pub fn reachable(&self) -> Vec<RealServerId> {
        let mut all: Vec<_> = self.cluster.iter().chain(&self.local).copied().collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

impl PortEndpoints {
    /// Chooses the endpoints that take new connections.
    pub fn select(&self, policy: EndpointPolicy, node: &Node) -> SelectedEndpoints {
        let cluster = if policy.uses_cluster() { self.cluster_list(node) } else { Vec::new() };
        let local = if policy.uses_local() { self.local_list() } else { Vec::new() };
        SelectedEndpoints { cluster, local, has_any: self.all.iter().any(|e| e.ready || e.is_fallback()) }
    }

    /// Ready endpoints that topology allows; if nothing is ready, serving ones that terminate, wherever they are.
    fn cluster_list(&self, node: &Node) -> Vec<RealServerId> {
        let topology = Topology::of(&self.all, node);
        ready_or_fallback(self.all.iter(), |e| topology.allows(e, node))
    }

    /// The same among the endpoints of this node; topology does not matter here.
    fn local_list(&self) -> Vec<RealServerId> {
        ready_or_fallback(self.all.iter().filter(|e| e.local), |_| true)
    }
}

fn ready_or_fallback<'a>(
    endpoints: impl Iterator<Item = &'a Endpoint> + Clone,
    allowed: impl Fn(&Endpoint) -> bool,
) -> Vec<RealServerId> {
    // Nearly always all of them are.
    let mut ready = Vec::with_capacity(endpoints.clone().count());
    ready.extend(endpoints.clone().filter(|e| e.ready && allowed(e)).map(|e| e.id));
    if !ready.is_empty() {
        return ready;
    }
    endpoints.filter(|e| e.is_fallback()).map(|e| e.id).collect()
}

/// Preference that the hints of the ready endpoints ask for (`topologyModeFromHints` in pkg/proxy/topology.go).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Topology {
    /// Some ready endpoint has no hint, or none is meant for here.
    Everywhere,
    /// All ready endpoints name nodes, and one names this one.
    SameNode,
    /// All ready endpoints name zones, and one names this node's.
    SameZone,
}

impl Topology {
    /// Node hints are looked at before zone hints.
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
