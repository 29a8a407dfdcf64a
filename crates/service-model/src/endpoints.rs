//! Endpoints of one service port: merged from all slices, then chosen by policy (`select`).

use std::sync::Arc;

use lb_types::{PodUid, RealServerId};

/// Where an endpoint runs and for whom it is meant. Shared by all endpoints that say the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Placement {
    /// `nodeName`
    pub node: Option<Arc<str>>,
    /// `hints.forZones`
    pub zone_hints: Vec<Arc<str>>,
    /// `hints.forNodes`
    pub node_hints: Vec<Arc<str>>,
}

/// One endpoint of a service port, whatever its condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Key of its real server.
    pub id: RealServerId,
    /// Pod that it belongs to, if it names one: of several at one address and port the one that is believed.
    pub pod: Option<PodUid>,
    /// Takes new connections.
    pub ready: bool,
    /// Passes its readiness probe, even while terminating.
    pub serving: bool,
    /// Its pod is being deleted.
    pub terminating: bool,
    /// Runs on this node.
    pub local: bool,
    /// Node and hints.
    pub placement: Arc<Placement>,
}

impl Endpoint {
    /// Whether new connections may still go there when nothing is ready (KEP-1669).
    pub const fn is_fallback(&self) -> bool {
        self.serving && self.terminating
    }
}

/// All endpoints of one service port in one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortEndpoints {
    /// Merged over all slices, one per (address, port), sorted by `id`.
    pub all: Vec<Endpoint>,
}

impl PortEndpoints {
    /// The endpoint behind a real server.
    pub fn get(&self, id: RealServerId) -> Option<&Endpoint> {
        self.all.binary_search_by_key(&id, |e| e.id).ok().and_then(|i| self.all.get(i))
    }
}
