//! EndpointSlices as they are kept: canonical and small.

use std::{cmp::Reverse, net::IpAddr, sync::Arc};

use lb_types::{IpFamily, Protocol};

use crate::{EndpointSlice, Placement, SliceEndpoint, SliceName, SlicePort, intern::Interner};

/// A slice with its ports and endpoints sorted and without duplicates, so that a re-ordered one compares equal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StoredSlice {
    pub(crate) name: SliceName,
    pub(crate) family: IpFamily,
    pub(crate) ports: Box<[SlicePort]>,
    pub(crate) endpoints: Box<[StoredEndpoint]>,
}

/// An endpoint before it is combined with a port.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StoredEndpoint {
    pub(crate) addr: IpAddr,
    pub(crate) rank: Rank,
    pub(crate) placement: Arc<Placement>,
    pub(crate) pod: Option<Arc<str>>,
}

/// Conditions, ordered by which of two copies of one endpoint is believed.
///
/// A copy that does not terminate wins over one that does, as in pkg/proxy/endpointslicecache.go; where that leaves the
/// result to chance, ready wins over serving wins over neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) terminating: bool,
    pub(crate) ready: Reverse<bool>,
    pub(crate) serving: Reverse<bool>,
}

impl StoredSlice {
    /// Canonical form of a slice; strings come from `interner`.
    pub(crate) fn new(slice: EndpointSlice, interner: &mut Interner) -> Self {
        let EndpointSlice { name, family, mut ports, endpoints, .. } = slice;
        ports.sort_unstable_by(|a, b| (&a.name, a.protocol, a.port).cmp(&(&b.name, b.protocol, b.port)));
        ports.dedup();
        for port in &mut ports {
            port.name = interner.string(&port.name);
        }
        let of_family = endpoints.into_iter().filter(|e| IpFamily::of(e.addr) == family);
        let mut endpoints: Vec<_> = of_family.map(|e| StoredEndpoint::new(e, interner)).collect();
        endpoints.sort_unstable();
        endpoints.dedup_by_key(|e| e.addr);
        let name = SliceName { namespace: interner.string(&name.namespace), name: name.name };
        StoredSlice { name, family, ports: ports.into(), endpoints: endpoints.into() }
    }

    /// Port numbers of all endpoints for a service port.
    pub(crate) fn ports_named(&self, name: &str, protocol: Protocol) -> impl Iterator<Item = &SlicePort> {
        self.ports.iter().filter(move |p| p.protocol == protocol && &*p.name == name)
    }
}

impl StoredEndpoint {
    fn new(endpoint: SliceEndpoint, interner: &mut Interner) -> Self {
        let SliceEndpoint { addr, ready, serving, terminating, node, zone_hints, node_hints, pod } = endpoint;
        let placement = interner.placement(Placement { node, zone_hints, node_hints });
        let rank = Rank { terminating, ready: Reverse(ready), serving: Reverse(serving) };
        StoredEndpoint { addr, rank, placement, pod }
    }
}
