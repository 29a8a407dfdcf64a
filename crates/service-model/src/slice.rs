//! EndpointSlices as they are kept: canonical and small.

use std::{cmp::Reverse, net::IpAddr, sync::Arc};

use lb_types::{IpFamily, Protocol};

use crate::{EndpointSlice, Placement, SliceEndpoint, SliceName, SlicePort, intern::Interner, pods};

/// A slice with its ports and endpoints sorted and without duplicates, so that a re-ordered one compares equal.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StoredSlice {
    pub(crate) name: SliceName,
    pub(crate) family: IpFamily,
    ports: Box<[SlicePort]>,
    endpoints: Box<[StoredEndpoint]>,
    /// Pods of all endpoints, one after the other (`pods::pack`).
    pods: Box<[u8]>,
}

/// An endpoint before it is combined with a port.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct StoredEndpoint {
    addr: IpAddr,
    rank: Rank,
    placement: Arc<Placement>,
    /// End of its pod in `StoredSlice::pods`; it begins where the one before ends.
    pod_end: u32,
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

/// One slice's copy of an endpoint. The order tells which of several copies is believed; where conditions do not
/// decide, any order will do as long as it is always the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct EndpointCopy<'a> {
    pub(crate) addr: IpAddr,
    pub(crate) rank: Rank,
    pub(crate) placement: &'a Arc<Placement>,
    packed_pod: &'a [u8],
    namespace: &'a str,
}

impl StoredSlice {
    /// Canonical form of a slice; strings come from `interner`.
    pub(crate) fn new(slice: EndpointSlice, interner: &mut Interner) -> Self {
        let EndpointSlice { name, family, ports, endpoints, .. } = slice;
        let name = SliceName { namespace: interner.string(&name.namespace), name: name.name };
        let mut endpoints = endpoints;
        endpoints.retain(|e| IpFamily::of(e.addr) == family);
        endpoints.sort_unstable_by(|a, b| sort_key(a).cmp(&sort_key(b)));
        endpoints.dedup_by_key(|e| e.addr);
        let mut pods = Vec::new();
        let store = |endpoint| StoredEndpoint::new(endpoint, &name.namespace, &mut pods, interner);
        let endpoints = endpoints.into_iter().map(store).collect();
        let ports = canonical_ports(ports, interner);
        StoredSlice { name, family, ports, endpoints, pods: pods.into() }
    }

    /// All ports, sorted.
    pub(crate) fn ports(&self) -> &[SlicePort] {
        &self.ports
    }

    /// Port numbers of all endpoints for a service port.
    pub(crate) fn ports_named(&self, name: &str, protocol: Protocol) -> impl Iterator<Item = &SlicePort> {
        let key = |p: &SlicePort| (&*p.name, p.protocol).cmp(&(name, protocol));
        let from = self.ports.partition_point(|p| key(p).is_lt());
        let to = self.ports.partition_point(|p| key(p).is_le());
        self.ports.get(from..to).unwrap_or_default().iter()
    }

    /// Addresses that are terminating here and that the next version of the slice does not have.
    pub(crate) fn departed<'a>(&'a self, next: Option<&'a StoredSlice>) -> impl Iterator<Item = IpAddr> + 'a {
        // Of several entries with one address the one that ranks first decides.
        let groups = self.endpoints.chunk_by(|a, b| a.addr == b.addr);
        let terminating = groups.filter_map(<[_]>::first).filter(|e| e.rank.terminating).map(|e| e.addr);
        terminating.filter(move |addr| next.is_none_or(|next| !next.has(*addr)))
    }

    fn has(&self, addr: IpAddr) -> bool {
        self.endpoints.binary_search_by_key(&addr, |e| e.addr).is_ok()
    }

    /// Endpoints by address.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = EndpointCopy<'_>> {
        let mut start = 0;
        self.endpoints.iter().map(move |e| {
            let end = usize::try_from(e.pod_end).unwrap_or_default();
            let packed_pod = self.pods.get(start..end).unwrap_or_default();
            start = end;
            EndpointCopy {
                addr: e.addr,
                rank: e.rank,
                placement: &e.placement,
                packed_pod,
                namespace: &self.name.namespace,
            }
        })
    }
}

impl EndpointCopy<'_> {
    /// Its pod, if known.
    pub(crate) fn pod(&self) -> Option<Arc<str>> {
        pods::unpack(self.packed_pod, self.namespace)
    }
}

impl Rank {
    fn of(endpoint: &SliceEndpoint) -> Self {
        let SliceEndpoint { ready, serving, terminating, .. } = *endpoint;
        Rank { terminating, ready: Reverse(ready), serving: Reverse(serving) }
    }
}

impl StoredEndpoint {
    fn new(endpoint: SliceEndpoint, namespace: &str, pods: &mut Vec<u8>, interner: &mut Interner) -> Self {
        let rank = Rank::of(&endpoint);
        let SliceEndpoint { addr, node, zone_hints, node_hints, pod, .. } = endpoint;
        let placement = interner.placement(Placement { node, zone_hints, node_hints });
        pods::pack(pod.as_deref(), namespace, pods);
        // A slice of 4 GiB of names cannot come from any API; its last pods would be cut off.
        let pod_end = u32::try_from(pods.len()).unwrap_or(u32::MAX);
        StoredEndpoint { addr, rank, placement, pod_end }
    }
}

fn sort_key(endpoint: &SliceEndpoint) -> impl Ord {
    let SliceEndpoint { addr, node, zone_hints, node_hints, pod, .. } = endpoint;
    (addr, Rank::of(endpoint), node, zone_hints, node_hints, pod)
}

fn canonical_ports(mut ports: Vec<SlicePort>, interner: &mut Interner) -> Box<[SlicePort]> {
    ports.sort_unstable_by(|a, b| (&a.name, a.protocol, a.port).cmp(&(&b.name, b.protocol, b.port)));
    ports.dedup();
    for port in &mut ports {
        port.name = interner.string(&port.name);
    }
    ports.into()
}

#[cfg(test)]
mod tests {
    /// What keeps 100,000 endpoints within a few megabytes.
    #[test]
    fn an_endpoint_is_small() {
        assert!(size_of::<super::StoredEndpoint>() <= 32, "{}", size_of::<super::StoredEndpoint>());
    }
}
