//! EndpointSlices as they are kept: canonical and small.

use std::{cmp::Reverse, collections::BTreeMap, net::IpAddr, num::NonZeroU16, sync::Arc};

use lb_types::{IpFamily, Protocol, RealServerId};

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

/// Whether two pods (`NAMESPACE/NAME/UID`) cannot be the same: without a UID that is not known.
pub fn is_another_pod(one: &str, other: &str) -> bool {
    uid(one).zip(uid(other)).is_some_and(|(one, other)| one != other)
}

fn uid(pod: &str) -> Option<&str> {
    pod.rsplit_once('/').map(|(_, uid)| uid).filter(|uid| !uid.is_empty())
}

/// What moved among the endpoints of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Addresses that left a slice, or belong to another pod now. Another slice may have them still.
    pub departed: BTreeMap<IpAddr, Departure>,
    /// Addresses that came into a slice, or belong to another pod now, with that pod (`NAMESPACE/NAME/UID`).
    pub arrived: BTreeMap<IpAddr, Arc<str>>,
}

/// How an address left a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Departure {
    /// `NAMESPACE/NAME/UID` of the pod that it belonged to, if known.
    pub pod: Option<Arc<str>>,
    /// Whether that was terminating: unless another slice has the address, the pod is gone.
    pub terminating: bool,
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
        endpoints.dedup_by(|later, first| {
            let same = later.addr == first.addr;
            if same && later.pod != first.pod {
                // Pods that share an address, that of their node: it cannot be told whose connections are there.
                first.pod = None;
            }
            same
        });
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

    /// Addresses that the next version of the slice does not have, or has for another pod.
    pub(crate) fn departed<'a>(
        &'a self,
        next: Option<&'a StoredSlice>,
    ) -> impl Iterator<Item = (IpAddr, Departure)> + 'a {
        let stays = move |copy: &EndpointCopy<'_>| {
            let next = next.and_then(|next| next.endpoint(copy.addr));
            next.is_some_and(|next| !copy.belongs_to_another_pod_than(&next))
        };
        let departure =
            |copy: EndpointCopy<'_>| Departure { pod: copy.pod(), terminating: copy.rank.terminating };
        self.endpoints().filter(move |copy| !stays(copy)).map(move |copy| (copy.addr, departure(copy)))
    }

    /// Addresses that the version before did not have, or had for another pod, with their pods as far as known.
    pub(crate) fn arrived<'a>(
        &'a self,
        before: Option<&'a StoredSlice>,
    ) -> impl Iterator<Item = (IpAddr, Arc<str>)> + 'a {
        let was_there = move |copy: &EndpointCopy<'_>| {
            let before = before.and_then(|before| before.endpoint(copy.addr));
            before.is_some_and(|before| !copy.belongs_to_another_pod_than(&before))
        };
        let new = self.endpoints().filter(move |copy| !was_there(copy));
        new.filter_map(|copy| Some((copy.addr, copy.pod()?)))
    }

    /// The endpoint with an address.
    pub(crate) fn endpoint(&self, addr: IpAddr) -> Option<EndpointCopy<'_>> {
        self.endpoints.binary_search_by_key(&addr, |e| e.addr).ok().map(|at| self.endpoint_at(at))
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

    /// The same, combined with a port.
    pub(crate) fn endpoints_at(
        &self,
        port: NonZeroU16,
    ) -> impl ExactSizeIterator<Item = (RealServerId, EndpointCopy<'_>)> {
        self.endpoints().map(move |copy| (RealServerId { addr: copy.addr, port }, copy))
    }
}

impl EndpointCopy<'_> {
    /// Its pod, if known.
    pub(crate) fn pod(&self) -> Option<Arc<str>> {
        pods::unpack(self.packed_pod, self.namespace)
    }

    /// Only if both pods are known. Both copies are of one slice.
    fn belongs_to_another_pod_than(&self, other: &EndpointCopy<'_>) -> bool {
        let packed_alike = self.packed_pod == other.packed_pod;
        !packed_alike && self.pod().zip(other.pod()).is_some_and(|(one, other)| is_another_pod(&one, &other))
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
