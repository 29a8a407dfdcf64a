//! The merged input and the set of services that changed.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnetwork::IpNetwork;
use lb_types::{FastMap, IpFamily, RealServerId, ServiceName};
use tally::Tallied;

use crate::{
    Endpoint, EndpointSlice, ModelEvent, Node, PortEndpoints, Service, ServicePort, SliceName, SlicePort,
    intern::Interner,
    slice::{Departure, EndpointCopy, Moves, StoredSlice},
};

/// Services, EndpointSlices and the own Node, as last delivered.
///
/// Events may come in any order; a slice may be known before its Service and outlive it. Every change marks the
/// services that it may affect; an event that says nothing new marks none.
#[derive(Debug, Default)]
pub struct ServiceModel {
    entries: Tallied<FastMap<ServiceName, Entry>>,
    /// Which entry holds a slice: it may move to another Service, and its deletion names the slice only.
    owners: Tallied<FastMap<SliceName, ServiceName>>,
    node: Node,
    node_changed: bool,
    service_cidrs: Vec<IpNetwork>,
    dirty: Tallied<BTreeSet<ServiceName>>,
    /// What left and came to slices, by dirty Service.
    moves: Tallied<FastMap<ServiceName, Moves>>,
    /// Number of Services with an IPv6 ClusterIP.
    ipv6_services: usize,
    synced: bool,
    interner: Interner,
}

/// All that is known under one Service name; never empty.
#[derive(Debug, Default)]
struct Entry {
    service: Option<Box<Service>>,
    slices: Vec<StoredSlice>,
}

impl Entry {
    fn is_empty(&self) -> bool {
        self.service.is_none() && self.slices.is_empty()
    }
}

impl ServiceModel {
    /// Takes in a change and marks the services that it affects.
    pub fn apply(&mut self, event: ModelEvent) {
        match event {
            ModelEvent::ServiceApplied(service) => self.apply_service(service),
            ModelEvent::ServiceDeleted(name) => self.delete_service(&name),
            ModelEvent::SliceApplied(slice) => self.apply_slice(slice),
            ModelEvent::SliceDeleted(name) => self.delete_slice(&name),
            ModelEvent::NodeApplied(node) => self.apply_node(node),
            ModelEvent::ServiceCidrsApplied(cidrs) => self.service_cidrs = cidrs,
            ModelEvent::Synced => self.synced = true,
        }
    }

    /// Whether everything has been delivered at least once; nothing is programmed before.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Facts about the own Node; empty until known.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Prefixes that the cluster takes ClusterIPs from; empty until known.
    pub fn service_cidrs(&self) -> &[IpNetwork] {
        &self.service_cidrs
    }

    /// Whether any fact about the Node changed since the last call. Services whose endpoints depend on it are dirty
    /// already; the caller has to look at addresses and pod CIDRs.
    pub fn take_node_changed(&mut self) -> bool {
        std::mem::take(&mut self.node_changed)
    }

    /// Whether [`ServiceModel::take_node_changed`] would say so.
    pub fn has_node_changed(&self) -> bool {
        self.node_changed
    }

    /// Services that changed since the last call, deleted ones included: `default/kubernetes` first, then the other
    /// critical ones, then the rest, each by name.
    pub fn take_dirty(&mut self) -> Vec<ServiceName> {
        let mut names: Vec<_> = std::mem::take(&mut *self.dirty).into_iter().collect();
        names.sort_by_cached_key(|name| self.urgency(name));
        names
    }

    /// Whether [`ServiceModel::take_dirty`] would return something.
    pub fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// What left and came to the slices of a service since the last call. What comes before everything has been
    /// delivered once is no news.
    pub fn take_moves(&mut self, name: &ServiceName) -> Moves {
        // Nearly always empty: then the name need not be hashed.
        if self.moves.is_empty() {
            return Moves::default();
        }
        self.moves.remove(name).unwrap_or_default()
    }

    /// Marks one service, known or not: for a retry.
    pub fn mark_dirty(&mut self, name: ServiceName) {
        self.dirty.insert(name);
    }

    /// Marks every known service.
    pub fn mark_all_dirty(&mut self) {
        let known = self.entries.iter().filter(|(_, e)| e.service.is_some());
        self.dirty.extend(known.map(|(name, _)| name.clone()));
    }

    /// A Service by name.
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.entries.get(name)?.service.as_deref()
    }

    /// All Services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.entries.values().filter_map(|e| e.service.as_deref())
    }

    /// Whether any Service has an IPv6 ClusterIP.
    pub fn has_ipv6(&self) -> bool {
        self.ipv6_services > 0
    }

    /// Every endpoint of a service port in a family, whatever its condition, merged over the slices of the Service.
    pub fn endpoints(&self, service: &Service, port: &ServicePort, family: IpFamily) -> PortEndpoints {
        let slices = self.entries.get(&service.name).map_or(&[][..], |e| &e.slices);
        let of_family = slices.iter().filter(|s| s.family == family);
        let named =
            |slice| StoredSlice::ports_named(slice, &port.name, port.protocol).map(move |p| (slice, p));
        let sources: Vec<_> = of_family.flat_map(named).collect();
        // Nearly always one: its endpoints are sorted, and each is there once.
        if let [(slice, port)] = &*sources {
            let copies = slice.endpoints_at(port.port);
            return PortEndpoints { all: copies.map(|(id, copy)| self.endpoint(id, &copy)).collect() };
        }
        let mut copies: Vec<_> =
            sources.iter().flat_map(|(slice, port)| slice.endpoints_at(port.port)).collect();
        copies.sort_unstable();
        copies.dedup_by_key(|(id, _)| *id);
        PortEndpoints { all: copies.iter().map(|(id, copy)| self.endpoint(*id, copy)).collect() }
    }

    /// `NAMESPACE/NAME/UID` of the pod behind an address, as the slices of a Service have it, known or deleted.
    pub fn pod_at(&self, name: &ServiceName, addr: IpAddr) -> Option<Arc<str>> {
        let slices = &self.entries.get(name)?.slices;
        slices.iter().filter_map(|slice| slice.endpoint(addr)).min()?.pod()
    }

    /// Known pods behind addresses that are of interest, whatever Services list them: one walk over all slices.
    pub fn pods_at(&self, is_of_interest: impl Fn(IpAddr) -> bool) -> Vec<(IpAddr, Arc<str>)> {
        let slices = self.entries.values().flat_map(|entry| &entry.slices);
        let endpoints = slices.flat_map(StoredSlice::endpoints).filter(|copy| is_of_interest(copy.addr));
        endpoints.filter_map(|copy| Some((copy.addr, copy.pod()?))).collect()
    }

    /// Whether a slice of a Service has an address.
    pub fn lists(&self, name: &ServiceName, addr: IpAddr) -> bool {
        let slices = self.entries.get(name).map_or(&[][..], |entry| &entry.slices);
        slices.iter().any(|slice| slice.endpoint(addr).is_some())
    }

    /// Ports of a Service's slices that no port of the Service matches by name and protocol: endpoints behind them are
    /// not served. In a cluster that is so for a moment when ports are renamed.
    pub fn unmatched_ports<'a>(
        &'a self,
        service: &'a Service,
    ) -> impl Iterator<Item = (&'a SliceName, &'a SlicePort)> {
        let slices = self.entries.get(&service.name).map_or(&[][..], |e| &e.slices);
        let mut names: Vec<_> = service.ports.iter().map(|p| (&p.name, p.protocol)).collect();
        names.sort_unstable();
        let matched = move |port: &SlicePort| names.binary_search(&(&port.name, port.protocol)).is_ok();
        let ports = slices.iter().flat_map(|slice| slice.ports().iter().map(move |port| (&slice.name, port)));
        ports.filter(move |(_, port)| !matched(port))
    }

    fn endpoint(&self, id: RealServerId, copy: &EndpointCopy<'_>) -> Endpoint {
        let node = copy.placement.node.as_ref();
        Endpoint {
            id,
            ready: copy.rank.ready.0,
            serving: copy.rank.serving.0,
            terminating: copy.rank.terminating,
            local: node.is_some_and(|node| !node.is_empty() && *node == self.node.name),
            placement: Arc::clone(copy.placement),
        }
    }

    fn urgency(&self, name: &ServiceName) -> u8 {
        if &*name.namespace == "default" && &*name.name == "kubernetes" {
            0
        } else if self.service(name).is_some_and(|s| s.critical) {
            1
        } else {
            2
        }
    }

    fn apply_service(&mut self, mut service: Service) {
        let name = self.shared_name(&service.name);
        let known = self.entries.entry(name.clone()).or_default();
        if known.service.as_deref() == Some(&service) {
            return;
        }
        service.name = name.clone();
        for port in &mut service.ports {
            port.name = self.interner.string(&port.name);
        }
        self.ipv6_services += usize::from(has_ipv6(&service));
        let before = known.service.replace(Box::new(service));
        self.ipv6_services -= usize::from(before.as_deref().is_some_and(has_ipv6));
        self.dirty.insert(name);
    }

    fn delete_service(&mut self, name: &ServiceName) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        if let Some(service) = entry.service.take() {
            self.ipv6_services -= usize::from(has_ipv6(&service));
            self.dirty.insert(name.clone());
        }
        self.drop_if_empty(name);
    }

    fn apply_slice(&mut self, slice: EndpointSlice) {
        if self.owners.get(&slice.name).is_some_and(|owner| *owner != slice.service) {
            self.delete_slice(&slice.name);
        }
        let service = self.shared_name(&slice.service);
        let slice = StoredSlice::new(slice, &mut self.interner);
        let entry = self.entries.entry(service.clone()).or_default();
        match entry.slices.iter_mut().find(|s| s.name == slice.name) {
            Some(known) if *known == slice => return,
            Some(known) => {
                let departed: Vec<_> = known.departed(Some(&slice)).collect();
                let arrived: Vec<_> = slice.arrived(Some(known)).collect();
                *known = slice;
                self.note_moves(&service, departed, arrived);
            }
            None => {
                let arrived = if self.synced { slice.arrived(None).collect() } else { Vec::new() };
                self.owners.insert(slice.name.clone(), service.clone());
                // Nearly all Services have one slice per family, for which the usual spare room is too much.
                if entry.slices.len() < 2 {
                    entry.slices.reserve_exact(1);
                }
                entry.slices.push(slice);
                self.note_moves(&service, Vec::new(), arrived);
            }
        }
        self.mark_if_known(&service);
    }

    fn delete_slice(&mut self, name: &SliceName) {
        let Some(service) = self.owners.remove(name) else { return };
        let slices = self.entries.get_mut(&service).map(|entry| &mut entry.slices);
        let at = slices.as_ref().and_then(|slices| slices.iter().position(|slice| slice.name == *name));
        if let Some((slices, at)) = slices.zip(at) {
            let removed = slices.remove(at);
            // With the last slice of a Service all of it goes, or is about to be replaced: that tells nothing of pods.
            let others = slices.iter().any(|slice| slice.family == removed.family);
            let departed = removed.departed(None).map(|(addr, departure)| {
                (addr, Departure { terminating: departure.terminating && others, ..departure })
            });
            self.note_moves(&service, departed.collect(), Vec::new());
        }
        self.mark_if_known(&service);
        self.drop_if_empty(&service);
    }

    /// Notes what moved, if anybody will ask for it. Of an address that departs more than once the first pod counts:
    /// connections that are still there are its own.
    fn note_moves(
        &mut self,
        service: &ServiceName,
        departed: Vec<(IpAddr, Departure)>,
        arrived: Vec<(IpAddr, Arc<str>)>,
    ) {
        let nothing = departed.is_empty() && arrived.is_empty();
        if nothing || self.service(service).is_none() {
            return;
        }
        let moves = self.moves.entry(service.clone()).or_default();
        for (addr, new) in departed {
            let known = moves.departed.entry(addr).or_default();
            known.terminating |= new.terminating;
            known.pod = known.pod.take().or(new.pod);
        }
        moves.arrived.extend(arrived);
    }

    fn apply_node(&mut self, node: Node) {
        if node == self.node {
            return;
        }
        let old = std::mem::replace(&mut self.node, node);
        self.node_changed = true;
        let names = (old.name != self.node.name).then(|| [old.name.clone(), self.node.name.clone()]);
        let zones = (old.zone != self.node.zone).then(|| [old.zone.clone(), self.node.zone.clone()]);
        let affected = |copy: EndpointCopy<'_>| {
            let p = copy.placement;
            names.iter().flatten().any(|n| p.node.as_ref() == Some(n) || p.node_hints.contains(n))
                || zones.iter().flatten().flatten().any(|z| p.zone_hints.contains(z))
        };
        let is_dirty = |e: &Entry| e.slices.iter().flat_map(StoredSlice::endpoints).any(affected);
        let services = self.entries.iter().filter(|(_, e)| e.service.is_some() && is_dirty(e));
        self.dirty.extend(services.map(|(name, _)| name.clone()));
    }

    /// The name as the entry has it, so that its strings exist once.
    fn shared_name(&mut self, name: &ServiceName) -> ServiceName {
        match self.entries.get_key_value(name) {
            Some((known, _)) => known.clone(),
            None => {
                ServiceName { namespace: self.interner.string(&name.namespace), name: Arc::clone(&name.name) }
            }
        }
    }

    /// Whether nothing is kept of any Service or slice, once the dirty set is taken.
    #[cfg(test)]
    fn is_pristine(&mut self) -> bool {
        self.interner.sweep();
        let kept = [self.entries.len(), self.owners.len(), self.dirty.len(), self.moves.len()];
        kept == [0; 4] && self.interner.len() == 0
    }

    fn mark_if_known(&mut self, name: &ServiceName) {
        if self.service(name).is_some() {
            self.dirty.insert(name.clone());
        }
    }

    fn drop_if_empty(&mut self, name: &ServiceName) {
        if self.entries.get(name).is_some_and(Entry::is_empty) {
            self.entries.remove(name);
        }
    }
}

fn has_ipv6(service: &Service) -> bool {
    service.cluster_ip(IpFamily::V6).is_some()
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
