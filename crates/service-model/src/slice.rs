//! EndpointSlices in their stored form, canonical and small.

use std::{cmp::Reverse, net::IpAddr, num::NonZeroU16, sync::Arc};

use lb_types::{IpFamily, PodUid, Protocol, RealServerId};

use crate::{
    Endpoint, EndpointSlice, Listing, Node, Placement, SliceEndpoint, SliceName, SlicePort, intern::Interner,
    pods,
};

/// A slice whose ports and endpoints are sorted and have no duplicates, so that a reordered one compares
/// equal.
///
/// It has each address once for every pod that the slice names for it, the most usable copy first.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct StoredSlice {
    pub(crate) name: SliceName,
    pub(crate) family: IpFamily,
    ports: Box<[SlicePort]>,
    endpoints: Box<[StoredEndpoint]>,
    /// Pods of all endpoints, packed one after the other (`pods::pack`).
    pods: Box<[u8]>,
}

/// An endpoint before it is combined with a port.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct StoredEndpoint {
    addr: IpAddr,
    rank: Rank,
    placement: Arc<Placement>,
    /// End of its pod in `StoredSlice::pods`; the pod begins where the one before ends.
    pod_end: u32,
}

/// Conditions of an endpoint; of two copies of one endpoint, the lesser one counts.
///
/// A copy that does not terminate wins over one that does, as in pkg/proxy/endpointslicecache.go. Between
/// equals there, which that file leaves to chance, ready wins over serving, and serving over neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    pub(crate) terminating: bool,
    pub(crate) ready: Reverse<bool>,
    pub(crate) serving: Reverse<bool>,
}

/// Copy of an endpoint in one slice. Of several copies, the least one counts; if conditions do not decide,
/// any order will do as long as it is always the same.
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
        keep_first_of_each_pod(&mut endpoints);
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

    /// Ports of the slice for a service port of this name and protocol.
    pub(crate) fn ports_named(&self, name: &str, protocol: Protocol) -> impl Iterator<Item = &SlicePort> {
        let key = |p: &SlicePort| (&*p.name, p.protocol).cmp(&(name, protocol));
        let from = self.ports.partition_point(|p| key(p).is_lt());
        let to = self.ports.partition_point(|p| key(p).is_le());
        self.ports.get(from..to).unwrap_or_default().iter()
    }

    /// Endpoints that another version of the slice lacks, or has for another pod.
    pub(crate) fn without<'a>(
        &'a self,
        other: Option<&'a StoredSlice>,
    ) -> impl Iterator<Item = EndpointCopy<'a>> + 'a {
        self.endpoints().filter(move |copy| {
            !other.is_some_and(|other| other.copies(copy.addr).any(|twin| twin.is_of_the_same_pod(copy)))
        })
    }

    /// Listings of an endpoint, one for each port.
    pub(crate) fn listings<'a>(&'a self, copy: EndpointCopy<'a>) -> impl Iterator<Item = Listing> + 'a {
        let (addr, pod) = (copy.addr, copy.pod());
        let portless = self.ports.is_empty().then_some(None);
        let ports = self.ports.iter().map(|port| Some((port.protocol, port.port)));
        ports.chain(portless).map(move |port| Listing { addr, pod, port })
    }

    /// Listings of all endpoints.
    pub(crate) fn all_listings(&self) -> impl Iterator<Item = Listing> {
        self.endpoints().flat_map(|copy| self.listings(copy))
    }

    /// Copies of an address, one for each pod, the most usable one first.
    pub(crate) fn copies(&self, addr: IpAddr) -> impl Iterator<Item = EndpointCopy<'_>> {
        let from = self.endpoints.partition_point(|e| e.addr < addr);
        let copies = (from..self.endpoints.len()).map(|at| self.endpoint_at(at));
        copies.take_while(move |copy| copy.addr == addr)
    }

    fn endpoint_at(&self, at: usize) -> EndpointCopy<'_> {
        let e = &self.endpoints[at];
        let before = at.checked_sub(1).map_or(0, |before| self.endpoints[before].pod_end);
        let [start, end] = [before, e.pod_end].map(|n| usize::try_from(n).unwrap_or_default());
        EndpointCopy {
            addr: e.addr,
            rank: e.rank,
            placement: &e.placement,
            packed_pod: self.pods.get(start..end).unwrap_or_default(),
            namespace: &self.name.namespace,
        }
    }

    /// Endpoints by address.
    pub(crate) fn endpoints(&self) -> impl ExactSizeIterator<Item = EndpointCopy<'_>> {
        (0..self.endpoints.len()).map(|at| self.endpoint_at(at))
    }

    /// Endpoints by address, combined with a port; an address may come more than once.
    pub(crate) fn endpoints_at(
        &self,
        port: NonZeroU16,
    ) -> impl Iterator<Item = (RealServerId, EndpointCopy<'_>)> {
        self.endpoints().map(move |copy| (RealServerId { addr: copy.addr, port }, copy))
    }
}

impl EndpointCopy<'_> {
    /// Endpoint behind a port, as a node sees it.
    pub(crate) fn endpoint(&self, id: RealServerId, here: &Node) -> Endpoint {
        Endpoint {
            id,
            pod: self.pod(),
            ready: self.rank.ready.0,
            serving: self.rank.serving.0,
            terminating: self.rank.terminating,
            local: self.is_on(here),
            placement: Arc::clone(self.placement),
        }
    }

    /// Tells whether it says that its pod is on a node.
    pub(crate) fn is_on(&self, node: &Node) -> bool {
        self.placement.node.as_ref().is_some_and(|name| !name.is_empty() && *name == node.name)
    }

    /// Its pod, if it names one.
    pub(crate) fn pod(&self) -> Option<PodUid> {
        pods::uid(self.packed_pod, self.namespace)
    }

    /// `NAMESPACE/NAME/UID` of its pod.
    pub(crate) fn pod_name(&self) -> Option<Arc<str>> {
        pods::unpack(self.packed_pod, self.namespace)
    }

    /// Tells whether two copies of one namespace belong to the same pod.
    fn is_of_the_same_pod(&self, other: &EndpointCopy<'_>) -> bool {
        self.packed_pod == other.packed_pod || self.pod() == other.pod()
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
        // No API delivers a slice with 4 GiB of names; the last pods of one would be cut off.
        let pod_end = u32::try_from(pods.len()).unwrap_or(u32::MAX);
        StoredEndpoint { addr, rank, placement, pod_end }
    }
}

/// Keeps the first copy of each pod at an address; the copies of one address are neighbours. A copy without a
/// pod adds nothing to others, since it may belong to any of their pods.
fn keep_first_of_each_pod(endpoints: &mut Vec<SliceEndpoint>) {
    // Hardly any slice has an address twice.
    if endpoints.windows(2).all(|pair| pair[0].addr != pair[1].addr) {
        return;
    }
    let mut kept = Vec::with_capacity(endpoints.len());
    let mut from = 0;
    for endpoint in endpoints.drain(..) {
        if kept.get(from).is_none_or(|first: &SliceEndpoint| first.addr != endpoint.addr) {
            from = kept.len();
        }
        let pod = |endpoint: &SliceEndpoint| endpoint.pod.as_deref().and_then(PodUid::of);
        let new = pod(&endpoint);
        let is_first = kept.len() == from;
        if is_first || new.is_some() && kept[from..].iter().all(|other| pod(other) != new) {
            kept.push(endpoint);
        }
    }
    *endpoints = kept;
}

fn sort_key(endpoint: &SliceEndpoint) -> impl Ord {
    let SliceEndpoint { addr, node, zone_hints, node_hints, pod, .. } = endpoint;
    (addr, Rank::of(endpoint), node.is_none(), node, zone_hints, node_hints, pod)
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
    /// Small endpoints keep 100,000 of them within a few megabytes.
    #[test]
    fn an_endpoint_is_small() {
        assert!(size_of::<super::StoredEndpoint>() <= 32, "{}", size_of::<super::StoredEndpoint>());
    }
}
