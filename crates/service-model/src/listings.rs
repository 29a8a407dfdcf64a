//! Pods behind addresses, over the slices of all Services, and how that changes.
//!
//! A real server is known by its address alone, so whose connections it has is asked here: does any slice still list
//! the pod, has its address or its very port another pod now, had it been terminating when it left?

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU16,
    sync::Arc,
};

use lb_types::{PodUid, Protocol, RealServerId};
use tally::Tallied;

use crate::slice::StoredSlice;

/// One endpoint of one pod, as some slice lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listing {
    /// Address of the pod, which the pods of a node's network share.
    pub addr: IpAddr,
    /// `None` for an endpoint that names no pod: it may belong to any.
    pub pod: Option<PodUid>,
    /// Port and protocol; `None` for a slice without ports.
    pub port: Option<(Protocol, NonZeroU16)>,
}

impl Listing {
    /// Whether it is an endpoint at a real server's address and port.
    pub fn is_at(&self, rs: &RealServerId, protocol: Protocol) -> bool {
        self.addr == rs.addr && self.port == Some((protocol, rs.port))
    }
}

/// A pod that has left a slice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Departure {
    /// `NAMESPACE/NAME/UID`, if known.
    pub name: Option<Arc<str>>,
    /// Whether it was terminating, and its slice said that it is gone rather than that its Service is.
    pub ended: bool,
}

/// Listings that came and went, not yet forgotten.
#[derive(Debug, Default)]
pub(crate) struct Listings {
    /// How many slices have each listing.
    counts: Tallied<BTreeMap<Listing, u32>>,
    arrived: Tallied<BTreeSet<Listing>>,
    departed: Tallied<BTreeMap<(IpAddr, Option<PodUid>), Departure>>,
}

impl Listings {
    /// Replaces everything by the listings of all slices; nothing of it is news.
    pub(crate) fn fill(&mut self, mut all: Vec<Listing>) {
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

    /// Follows a slice from one version to the next.
    pub(crate) fn replace_slice(&mut self, before: &StoredSlice, after: &StoredSlice) {
        if before.ports() == after.ports() {
            for listing in before.without(Some(after)).flat_map(|copy| before.listings(copy)) {
                self.remove(&listing);
            }
            for listing in after.without(Some(before)).flat_map(|copy| after.listings(copy)) {
                self.add(listing);
            }
        } else {
            // What both have is added before it is removed, so that it is no arrival.
            self.add_slice(after);
            self.remove_all(before);
        }
        self.depart_from(before, Some(after), true);
    }

    /// Follows the deletion of a slice.
    pub(crate) fn remove_slice(&mut self, removed: &StoredSlice, says_who_ended: bool) {
        self.remove_all(removed);
        self.depart_from(removed, None, says_who_ended);
    }

    /// Takes in a slice that was not there.
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

    fn depart_from(&mut self, before: &StoredSlice, after: Option<&StoredSlice>, says_who_ended: bool) {
        for copy in before.without(after) {
            let ended = copy.rank.terminating && says_who_ended;
            self.depart(copy.addr, copy.pod(), Departure { name: copy.pod_name(), ended });
        }
    }

    /// Notes that a pod has left an address in some slice. Whatever says that it has ended is believed.
    fn depart(&mut self, addr: IpAddr, pod: Option<PodUid>, departure: Departure) {
        let known = self.departed.entry((addr, pod)).or_default();
        known.ended |= departure.ended;
        known.name = known.name.take().or(departure.name);
    }

    /// Whether a slice lists a pod at the address of a real server, whatever the port, or an endpoint at its very port
    /// that names no pod and may be it. Without a pod: whether a slice lists the address.
    pub(crate) fn lists(&self, rs: &RealServerId, protocol: Protocol, pod: Option<PodUid>) -> bool {
        let may_be = |listing: &Listing| match listing.pod {
            // Addresses of nodes are listed so by hand and for the API server: other ports say nothing of the pod.
            None => listing.port.is_none() || listing.is_at(rs, protocol),
            of_a_pod => of_a_pod == pod,
        };
        self.at(rs.addr).any(|listing| pod.is_none() || may_be(listing))
    }

    /// Listings at an address that certainly are of another pod.
    pub(crate) fn others(&self, addr: IpAddr, pod: PodUid) -> impl Iterator<Item = &Listing> {
        self.at(addr).filter(move |listing| listing.pod.is_some_and(|other| other != pod))
    }

    pub(crate) fn departed(&self) -> impl Iterator<Item = (&(IpAddr, Option<PodUid>), &Departure)> {
        self.departed.iter()
    }

    pub(crate) fn departure(&self, addr: IpAddr, pod: Option<PodUid>) -> Option<&Departure> {
        // Nearly always empty.
        if self.departed.is_empty() { None } else { self.departed.get(&(addr, pod)) }
    }

    pub(crate) fn arrived(&self) -> impl Iterator<Item = &Listing> {
        self.arrived.iter()
    }

    pub(crate) fn has_arrived(&self, listing: &Listing) -> bool {
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

    /// Whether nothing is kept.
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
