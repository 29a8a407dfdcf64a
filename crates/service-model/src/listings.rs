//! Pods behind addresses, over the slices of all Services, and their changes.
//!
//! IPVS knows a real server only by its address. To find out to which pod its connections belong, the drain
//! logic asks here whether any slice still lists the pod, whether another pod has its address or port now,
//! and whether it was terminating when it left.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU16,
    sync::Arc,
};

use lb_types::{PodUid, Protocol, RealServerId};
use tally::Tallied;

use crate::slice::StoredSlice;

/// Entry of a slice for one port of one pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listing {
    /// Address of the pod, which the pods of a node's network share.
    pub addr: IpAddr,
    /// Pod; `None` for an endpoint that names none, and so may belong to any.
    pub pod: Option<PodUid>,
    /// Protocol and port; `None` for a slice without ports.
    pub port: Option<(Protocol, NonZeroU16)>,
}

impl Listing {
    /// Tells whether the endpoint has the address and port of a real server.
    pub fn is_at(&self, rs: &RealServerId, protocol: Protocol) -> bool {
        self.addr == rs.addr && self.port == Some((protocol, rs.port))
    }
}

/// Departure of a pod from a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Departure {
    /// `NAMESPACE/NAME/UID` of the pod, if known.
    pub name: Option<Arc<str>>,
    /// True if the pod was terminating, and left because it is gone rather than because its Service is.
    pub ended: bool,
    /// True if its Service has other slices of the family, one of which may list the pod in a moment: the controller
    /// shuffles the endpoints of slices that it reuses, and writes one slice after the other (`finalize`,
    /// staging/src/k8s.io/endpointslice/reconciler.go).
    pub may_move: bool,
}

/// Listings of all slices, and those that came and went since the last [`crate::ServiceModel::forget_changes`].
#[derive(Debug, Default)]
pub struct Listings {
    /// Number of slices with each listing.
    counts: Tallied<BTreeMap<Listing, u32>>,
    arrived: Tallied<BTreeSet<Listing>>,
    departed: Tallied<BTreeMap<(IpAddr, Option<PodUid>), Departure>>,
}

impl Listings {
    /// Replaces everything by the listings of all slices, none of which counts as an arrival.
    pub(crate) fn fill(&mut self, mut all: Vec<Listing>) {
        // After sorting, equal listings are neighbours, and each run becomes one entry with its length.
        all.sort_unstable();
        let runs = all.chunk_by(PartialEq::eq);
        let count = |run: &[Listing]| (run[0], u32::try_from(run.len()).unwrap_or(u32::MAX));
        *self =
            Listings { counts: runs.map(count).collect::<BTreeMap<_, _>>().into(), ..Listings::default() };
    }

    fn add(&mut self, listing: Listing) {
        let count = self.counts.entry(listing).or_default();
        *count += 1;
        if *count == 1 {
            self.arrived.insert(listing);
        }
    }

    fn remove(&mut self, listing: &Listing) {
        let Some(count) = self.counts.get_mut(listing) else { return };
        *count -= 1;
        if *count == 0 {
            self.counts.remove(listing);
        }
    }

    /// Takes in a new version of a slice, which may be one of several.
    pub(crate) fn replace_slice(&mut self, before: &StoredSlice, after: &StoredSlice, has_siblings: bool) {
        if before.ports() == after.ports() {
            for listing in before.without(Some(after)).flat_map(|copy| before.listings(copy)) {
                self.remove(&listing);
            }
            for listing in after.without(Some(before)).flat_map(|copy| after.listings(copy)) {
                self.add(listing);
            }
        } else {
            // Listings in both versions are added before they are removed, so that they are no arrivals.
            self.add_slice(after);
            self.remove_all(before);
        }
        self.depart_from(before, Some(after), (true, has_siblings));
    }

    /// Takes in the deletion of a slice.
    pub(crate) fn remove_slice(&mut self, removed: &StoredSlice, says_who_ended: bool) {
        self.remove_all(removed);
        // One that had none says nothing about its pods.
        self.depart_from(removed, None, (says_who_ended, true));
    }

    /// Takes in a new slice.
    pub(crate) fn add_slice(&mut self, slice: &StoredSlice) {
        for listing in slice.all_listings() {
            self.add(listing);
        }
    }

    fn remove_all(&mut self, slice: &StoredSlice) {
        for listing in slice.all_listings() {
            self.remove(&listing);
        }
    }

    fn depart_from(
        &mut self,
        before: &StoredSlice,
        after: Option<&StoredSlice>,
        (says_who_ended, may_move): (bool, bool),
    ) {
        for copy in before.without(after) {
            let ended = copy.rank.terminating && says_who_ended;
            self.depart(copy.addr, copy.pod(), Departure { name: copy.pod_name(), ended, may_move });
        }
    }

    /// Notes that a pod has left an address in some slice. If one slice says for certain that it has ended, it has.
    fn depart(&mut self, addr: IpAddr, pod: Option<PodUid>, departure: Departure) {
        let known = self.departed.entry((addr, pod)).or_default();
        known.may_move = match (known.ended, departure.ended) {
            (true, true) => known.may_move && departure.may_move,
            (true, false) => known.may_move,
            (false, _) => departure.may_move,
        };
        known.ended |= departure.ended;
        known.name = known.name.take().or(departure.name);
    }

    /// Tells whether anybody has arrived or departed.
    pub fn have_changed(&self) -> bool {
        !self.arrived.is_empty() || !self.departed.is_empty()
    }

    /// Tells whether a slice lists a pod at the address of a real server, on any port, or an endpoint at its
    /// very port that names no pod and so may belong to it. Without a pod: whether a slice lists the address.
    pub fn lists(&self, rs: &RealServerId, protocol: Protocol, pod: Option<PodUid>) -> bool {
        let may_be = |listing: &Listing| match listing.pod {
            // Slices written by hand, and those of the API server, list addresses of nodes without a pod.
            // There, other ports say nothing about the pod.
            None => listing.port.is_none() || listing.is_at(rs, protocol),
            of_a_pod => of_a_pod == pod,
        };
        self.at(rs.addr).any(|listing| pod.is_none() || may_be(listing))
    }

    /// Listings at an address that certainly belong to another pod.
    pub fn others(&self, addr: IpAddr, pod: PodUid) -> impl Iterator<Item = &Listing> {
        self.at(addr).filter(move |listing| listing.pod.is_some_and(|other| other != pod))
    }

    /// Pods that have left a slice; another one may list them still.
    pub fn departed(&self) -> impl Iterator<Item = (&(IpAddr, Option<PodUid>), &Departure)> {
        self.departed.iter()
    }

    /// How a pod has left an address, if it has.
    pub fn departure(&self, addr: IpAddr, pod: Option<PodUid>) -> Option<&Departure> {
        // The map is nearly always empty.
        if self.departed.is_empty() { None } else { self.departed.get(&(addr, pod)) }
    }

    /// Endpoints of pods that no slice listed before.
    pub fn arrived(&self) -> impl Iterator<Item = &Listing> {
        self.arrived.iter()
    }

    /// Tells whether an endpoint is one of [`Listings::arrived`].
    pub fn has_arrived(&self, listing: &Listing) -> bool {
        self.arrived.contains(listing)
    }

    pub(crate) fn forget_changes(&mut self) {
        if !self.arrived.is_empty() {
            self.arrived.clear();
        }
        if !self.departed.is_empty() {
            self.departed.clear();
        }
    }

    /// Tells whether there are no listings and no changes.
    #[cfg(test)]
    pub(crate) fn is_pristine(&self) -> bool {
        self.counts.is_empty() && self.arrived.is_empty() && self.departed.is_empty()
    }

    fn at(&self, addr: IpAddr) -> impl Iterator<Item = &Listing> {
        let lowest = Listing { addr, pod: None, port: None };
        let from = self.counts.range(lowest..).map(|(listing, _)| listing);
        from.take_while(move |listing| listing.addr == addr)
    }
}
