//! Endpoints of service ports, merged from all slices; `select` chooses among them by policy.

use std::sync::Arc;

use lb_types::{PodUid, RealServerId};

/// Node and hints of an endpoint. Endpoints with equal ones share them.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Placement {
    /// `nodeName`
    pub node: Option<Arc<str>>,
    /// `hints.forZones`
    pub zone_hints: Vec<Arc<str>>,
    /// `hints.forNodes`
    pub node_hints: Vec<Arc<str>>,
}

/// Endpoint of a service port, whatever its condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Key of its real server.
    pub id: RealServerId,
    /// Pod of the endpoint, if it names one. If there are several at one address and port, it is the most
    /// usable one.
    pub pod: Option<PodUid>,
    /// True if it takes new connections.
    pub ready: bool,
    /// True if it passes its readiness probe, even while terminating.
    pub serving: bool,
    /// True if its pod is being deleted.
    pub terminating: bool,
    /// True if it runs on this node.
    pub local: bool,
    /// Node and hints.
    pub placement: Arc<Placement>,
}

impl Endpoint {
    /// Tells whether it may take new connections while no endpoint is ready (KEP-1669).
    pub const fn is_fallback(&self) -> bool {
        self.serving && self.terminating
    }
}
