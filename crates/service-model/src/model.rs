//! The merged input, and the set of Services that changed.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use ipnetwork::IpNetwork;
use lb_types::{FastMap, IpFamily, PodUid, ServiceName};
use tally::Tallied;

use crate::{
    Endpoint, EndpointSlice, ModelEvent, Node, Service, ServicePort, SliceName, SlicePort, Trigger,
    addresses::Addresses,
    changes::Changes,
    intern::Interner,
    listings::Listings,
    slice::{EndpointCopy, StoredSlice},
};

/// Services, EndpointSlices and the own Node, as last delivered.
///
/// Events may come in any order; a slice may come before its Service and outlive it. Every change marks the
/// Services that it may affect as dirty; an event without a change marks none.
#[derive(Debug, Default)]
pub struct ServiceModel {
    entries: Tallied<FastMap<ServiceName, Entry>>,
    /// Entry that holds each slice: a slice may move to another Service, and its deletion names only the
    /// slice.
    owners: Tallied<FastMap<SliceName, ServiceName>>,
    node: Node,
    node_changed: bool,
    service_cidrs: Vec<IpNetwork>,
    dirty: Tallied<BTreeSet<ServiceName>>,
    /// Pods behind addresses; empty until everything has been delivered once.
    listings: Listings,
    changes: Changes,
    addresses: Addresses,
    synced: bool,
    interner: Interner,
}

/// Service and slices of one Service name; never empty.
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
    /// A model for a node whose name is configured. So endpoints are known as local without the Node, which
    /// may be unreadable or deleted.
    pub fn on_node(name: &str) -> Self {
        ServiceModel { node: Node { name: name.into(), ..Node::default() }, ..ServiceModel::default() }
    }

    /// Takes in a change, and marks the Services that it affects as dirty.
    pub fn apply(&mut self, event: ModelEvent) {
        match event {
            ModelEvent::ServiceApplied(service) => self.apply_service(service),
            ModelEvent::ServiceDeleted(name) => self.delete_service(&name),
            ModelEvent::SliceApplied(slice) => self.apply_slice(slice),
            ModelEvent::SliceDeleted(name) => self.delete_slice(&name),
            ModelEvent::NodeApplied(node) => self.apply_node(node),
            ModelEvent::NodeDeleted => self.apply_node(Node { leaves: true, ..self.node.clone() }),
            ModelEvent::ServiceCidrsApplied(cidrs) => self.service_cidrs = cidrs,
            ModelEvent::Synced => self.sync(),
        }
    }

    /// Tells whether the source has delivered everything at least once; nothing is programmed before.
    pub fn is_synced(&self) -> bool {
        self.synced
    }

    /// Facts about the own Node; until they are known, all but the name are empty.
    pub fn node(&self) -> &Node {
        &self.node
    }

    /// Prefixes from which the cluster takes ClusterIPs; empty until known.
    pub fn service_cidrs(&self) -> &[IpNetwork] {
        &self.service_cidrs
    }

    /// Tells whether any fact about the Node changed since the last call. Services whose endpoints depend on
    /// it are already dirty; the caller has to look at addresses and pod CIDRs.
    pub fn take_node_changed(&mut self) -> bool {
        std::mem::take(&mut self.node_changed)
    }

    /// Tells whether [`ServiceModel::take_node_changed`] would return true.
    pub fn has_node_changed(&self) -> bool {
        self.node_changed
    }

    /// Services that changed since the last call, deleted ones included: `default/kubernetes` first, then the
    /// other critical ones, then the rest, each by name.
    pub fn take_dirty(&mut self) -> Vec<ServiceName> {
        let mut names: Vec<_> = std::mem::take(&mut *self.dirty).into_iter().collect();
        names.sort_by_cached_key(|name| urgency(name, self.service(name)));
        names
    }

    /// Tells whether [`ServiceModel::take_dirty`] would return any Service.
    pub fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Marks one Service as dirty, known or not, for a retry.
    pub fn mark_dirty(&mut self, name: ServiceName) {
        self.dirty.insert(name);
    }

    /// Service of a name.
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.entries.get(name)?.service.as_deref()
    }

    /// All Services, in no order.
    pub fn services(&self) -> impl Iterator<Item = &Service> {
        self.entries.values().filter_map(|e| e.service.as_deref())
    }

    /// Index of Services by ClusterIP and node port. Services with one of those as an external address, or with the
    /// number there, are marked as dirty when it comes or goes.
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Every endpoint of a service port in a family, whatever its condition, merged over the slices of the
    /// Service: one per address and port, sorted by these.
    pub fn endpoints(&self, service: &Service, port: &ServicePort, family: IpFamily) -> Vec<Endpoint> {
        let slices = self.entries.get(&service.name).map_or(&[][..], |e| &e.slices);
        let of_family = slices.iter().filter(|s| s.family == family);
        let named =
            |slice| StoredSlice::ports_named(slice, &port.name, port.protocol).map(move |p| (slice, p));
        let sources: Vec<_> = of_family.flat_map(named).collect();
        // There is nearly always one source, whose endpoints are already sorted.
        if let [(slice, port)] = &*sources {
            let copies = slice.endpoints_at(port.port);
            let mut all = Vec::with_capacity(slice.endpoints().len());
            all.extend(copies.map(|(id, copy)| copy.endpoint(id, &self.node)));
            all.dedup_by_key(|endpoint: &mut Endpoint| endpoint.id);
            return all;
        }
        let mut copies: Vec<_> =
            sources.iter().flat_map(|(slice, port)| slice.endpoints_at(port.port)).collect();
        // The least copy of each endpoint counts, so it is sorted first and stays. Where one slice says that it
        // is on this node, it is.
        copies.sort_unstable_by_key(|(id, copy)| {
            (*id, copy.rank, !copy.is_on(&self.node), copy.placement.node.is_none(), *copy)
        });
        copies.dedup_by_key(|(id, _)| *id);
        copies.iter().map(|(id, copy)| copy.endpoint(*id, &self.node)).collect()
    }

    /// `NAMESPACE/NAME/UID` of a pod that the slices of a Service list at an address, or that has left a
    /// slice since the last [`ServiceModel::forget_changes`].
    pub fn pod_name(&self, service: &ServiceName, addr: IpAddr, pod: PodUid) -> Option<Arc<str>> {
        let slices = self.entries.get(service).map_or(&[][..], |entry| &entry.slices);
        let mut copies = slices.iter().flat_map(|slice| slice.copies(addr));
        let listed = copies.find(|copy| copy.pod() == Some(pod)).and_then(|copy| copy.pod_name());
        listed.or_else(|| self.listings.departure(addr, Some(pod))?.name.clone())
    }

    /// Pods behind addresses, over the slices of all Services, and who came and went since
    /// [`ServiceModel::forget_changes`]. Arrivals before everything has been delivered once are no news.
    pub fn listings(&self) -> &Listings {
        &self.listings
    }

    /// Forgets departures and arrivals, and which changes are pending, once the caller has looked at all Services
    /// concerned.
    pub fn forget_changes(&mut self) {
        self.listings.forget_changes();
        self.changes.see_all();
    }

    /// Numbers of changes: all so far, and those since [`ServiceModel::forget_changes`].
    pub fn changes(&self) -> &Changes {
        &self.changes
    }

    /// Takes what triggered the changes of a Service's endpoints since the last call, as `LastChangeTriggerTimes` in
    /// pkg/proxy/endpointschangetracker.go. Endpoints of the first lists have no trigger.
    pub fn take_triggers(&mut self, service: &ServiceName) -> Vec<Trigger> {
        self.changes.take_triggers(service)
    }

    /// Ports of a Service's slices that match no port of the Service by name and protocol, so that endpoints
    /// behind them are not served. In a cluster this happens for a moment when ports are renamed.
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
        let before = known.service.replace(Box::new(service));
        let now = known.service.as_deref();
        self.dirty.extend(self.addresses.replace(&name, before.as_deref(), now));
        self.changes.count_service();
        self.dirty.insert(name);
    }

    fn delete_service(&mut self, name: &ServiceName) {
        let Some(entry) = self.entries.get_mut(name) else { return };
        if let Some(service) = entry.service.take() {
            self.dirty.extend(self.addresses.replace(name, Some(&service), None));
            self.changes.count_service();
            self.changes.take_triggers(name);
            self.dirty.insert(name.clone());
        }
        self.drop_if_empty(name);
    }

    fn apply_slice(&mut self, slice: EndpointSlice) {
        if self.owners.get(&slice.name).is_some_and(|owner| *owner != slice.service) {
            self.delete_slice(&slice.name);
        }
        let service = self.shared_name(&slice.service);
        let trigger = slice.triggered.map(|at| Trigger { family: slice.family, at });
        let slice = StoredSlice::new(slice, &mut self.interner);
        let entry = self.entries.entry(service.clone()).or_default();
        let mut of_family = entry.slices.iter().filter(|s| s.family == slice.family);
        let has_siblings = of_family.any(|s| s.name != slice.name);
        match entry.slices.iter_mut().find(|s| s.name == slice.name) {
            Some(known) if *known == slice => return,
            Some(known) => {
                if self.synced {
                    self.listings.replace_slice(known, &slice, has_siblings);
                }
                *known = slice;
            }
            None => {
                if self.synced {
                    self.listings.add_slice(&slice);
                }
                self.owners.insert(slice.name.clone(), service.clone());
                // Nearly all Services have one slice per family, for which the usual spare room would be too
                // much.
                if entry.slices.len() < 2 {
                    entry.slices.reserve_exact(1);
                }
                entry.slices.push(slice);
            }
        }
        self.changes.count_slice();
        let is_served = self.synced && self.service(&service).is_some();
        if let Some(trigger) = trigger.filter(|_| is_served) {
            self.changes.note_trigger(&service, trigger);
        }
        self.mark_if_known(&service);
    }

    fn sync(&mut self) {
        if !self.synced {
            let slices = self.entries.values().flat_map(|entry| &entry.slices);
            self.listings.fill(slices.flat_map(StoredSlice::all_listings).collect());
        }
        self.synced = true;
    }

    fn delete_slice(&mut self, name: &SliceName) {
        let Some(service) = self.owners.remove(name) else { return };
        self.changes.count_slice();
        // As in kube-proxy: what is left says nothing about the time of the deletion.
        self.changes.take_triggers(&service);
        let slices = self.entries.get_mut(&service).map(|entry| &mut entry.slices);
        let at = slices.as_ref().and_then(|slices| slices.iter().position(|slice| slice.name == *name));
        if let Some((slices, at)) = slices.zip(at) {
            let removed = slices.remove(at);
            // The last slice of a Service goes together with the Service, or is about to be replaced. Its
            // deletion says nothing about pods.
            let others = slices.iter().any(|slice| slice.family == removed.family);
            if self.synced {
                let says_who_ended = others && self.service(&service).is_some();
                self.listings.remove_slice(&removed, says_who_ended);
            }
        }
        self.mark_if_known(&service);
        self.drop_if_empty(&service);
    }

    fn apply_node(&mut self, node: Node) {
        if node == self.node {
            return;
        }
        let old = std::mem::replace(&mut self.node, node);
        self.node_changed = true;
        // A change of the name affects endpoints on the old or new node and hints for them; a change of the
        // zone affects hints for the old or new zone.
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

    /// The same name with the strings of the entry, so that they exist once.
    fn shared_name(&mut self, name: &ServiceName) -> ServiceName {
        match self.entries.get_key_value(name) {
            Some((known, _)) => known.clone(),
            None => {
                ServiceName { namespace: self.interner.string(&name.namespace), name: Arc::clone(&name.name) }
            }
        }
    }

    /// Tells whether nothing of any Service or slice is left, once the dirty set is taken.
    #[cfg(test)]
    fn is_pristine(&mut self) -> bool {
        self.interner.sweep();
        let kept = [self.entries.len(), self.owners.len(), self.dirty.len(), self.interner.len()];
        kept == [0; 4] && self.listings.is_pristine() && self.changes.has_no_triggers()
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

/// Rank of a Service among dirty ones, the most urgent first.
fn urgency(name: &ServiceName, service: Option<&Service>) -> u8 {
    if &*name.namespace == "default" && &*name.name == "kubernetes" {
        0
    } else if service.is_some_and(|service| service.critical) {
        1
    } else {
        2
    }
}

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
