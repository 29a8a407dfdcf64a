//! The kernel's tables, with the mirror that every dump corrects.
//!
//! [`Kernel`] owns the handles of all tables and our copy of what they hold; every dump goes through here. A
//! dump corrects the mirror and leaves what it found different in [`Findings`]. This module never writes to a
//! table (`executor` and `conntrack` do) and never decides what a difference means: it marks the subject dirty,
//! and the planner compares.
//!
//! Reading order: [`Kernel`], [`Findings`], [`Ours`]; then [`Kernel::adopt_servers`] (the first dump) and the
//! `observe_` methods.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hash,
    net::IpAddr,
};

use dataplane::{BridgeFilters, ObservedRealServer, ObservedRules, ObservedVips, TableError, Tables};
use lb_types::{FastMap, RulesLayout, VirtualServerId};
use planner::{Desired, Dirty, Mirror, MirrorServer, Ownership, Subject};

use crate::Drift;

/// Tables and mirror; nobody else has the handles.
pub(crate) struct Kernel {
    pub(crate) tables: Tables,
    pub(crate) mirror: Mirror,
}

/// Differences between kernel and mirror that dumps have shown; the mirror is correct again.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) dirty: Dirty,
    /// Number of objects that somebody else has changed.
    pub(crate) drift: Drift,
    /// Virtual servers whose real servers the mirror does not know.
    pub(crate) unknown: Vec<VirtualServerId>,
}

/// Predicate for the virtual servers that concern us: others may do with theirs as they like.
#[derive(Clone, Copy)]
pub(crate) struct Ours<'a> {
    pub(crate) desired: &'a Desired,
    pub(crate) ownership: &'a Ownership,
}

impl Ours<'_> {
    pub(crate) fn has(&self, vs: &VirtualServerId, mirror: &Mirror) -> bool {
        let is_wanted = mirror.front(vs).is_some_and(|front| self.desired.front(&front).is_some());
        is_wanted || self.ownership.owns(vs, mirror)
    }
}

/// Facts about the node's links that come along with a dump of the VIPs.
#[derive(Debug, Default)]
pub(crate) struct NodeLinks {
    /// Addresses with the names of their links.
    pub(crate) addresses: BTreeMap<IpAddr, String>,
    /// Links on networks that they share with others.
    pub(crate) shared: BTreeSet<String>,
    pub(crate) bridges: BTreeMap<String, BridgeFilters>,
}

impl Kernel {
    pub(crate) fn new(tables: Tables) -> Self {
        Kernel { tables, mirror: Mirror::default() }
    }

    /// Tells whether the link and the chains are there.
    pub(crate) fn has_base(&self) -> bool {
        self.mirror.link_ready && self.mirror.layout_current
    }

    /// Fills the mirror with all virtual and real servers.
    pub(crate) fn adopt_servers(&mut self) -> Result<(), TableError> {
        self.mirror.servers.clear();
        for (vs, settings) in self.tables.ipvs.dump_virtual_servers()?.virtual_servers {
            let found = self.tables.ipvs.dump_real_servers(vs)?;
            self.mirror.servers.insert(vs, MirrorServer { settings, real_servers: sorted(&found) });
        }
        Ok(())
    }

    /// Dumps link, routes and addresses.
    pub(crate) fn observe_vips(&mut self, findings: &mut Findings) -> Result<NodeLinks, TableError> {
        let observed = self.tables.vips.observe()?;
        let ObservedVips { link, routes, steered, rules, addresses, node_addresses, shared_links, bridges } =
            observed;
        let mirror = &mut self.mirror;
        mirror.link_ours = link.is_some_and(|link| link.dummy);
        let is_ready = link.is_some_and(|link| link.dummy && link.up);
        let mut drifted: BTreeSet<IpAddr> = changed_keys(&mirror.routes, &routes).collect();
        drifted.extend(mirror.steered.symmetric_difference(&steered));
        findings.drift.vips += drifted.len();
        // One that is bound there comes back.
        drifted.extend(mirror.addresses.difference(&addresses));
        let rules_drifted = mirror.rules.symmetric_difference(&rules);
        for (family, _) in rules_drifted {
            findings.drift.vips += 1;
            findings.dirty.insert(Subject::Steering(*family));
        }
        if is_ready != mirror.link_ready {
            findings.drift.vips += 1;
            findings.dirty.insert(Subject::Base);
        }
        findings.dirty.extend(drifted.into_iter().map(Subject::Vip));
        findings.dirty.extend(addresses.iter().copied().map(Subject::Address));
        mirror.link_ready = is_ready;
        (mirror.routes, mirror.addresses) = (routes.into(), addresses.into());
        (mirror.steered, mirror.rules) = (steered, rules);
        mirror.node_addresses = node_addresses.keys().copied().collect();
        Ok(NodeLinks { addresses: node_addresses, shared: shared_links, bridges })
    }

    /// Dumps the nftables table; returns whether it exists.
    pub(crate) fn observe_rules(
        &mut self,
        layout: &RulesLayout,
        findings: &mut Findings,
    ) -> Result<bool, TableError> {
        let ObservedRules { table, layout_current, elements } = self.tables.rules.observe(layout)?;
        let mirror = &mut self.mirror;
        if layout_current != mirror.layout_current {
            findings.drift.rules += 1;
            findings.dirty.insert(Subject::Base);
        }
        mirror.layout_current = layout_current;
        for element in mirror.replace_elements(elements) {
            findings.drift.rules += 1;
            findings.dirty.insert(Subject::of_element(&element));
        }
        Ok(table)
    }

    /// Dumps the list of virtual servers with their settings.
    pub(crate) fn observe_servers(
        &mut self,
        ours: Ours<'_>,
        findings: &mut Findings,
    ) -> Result<(), TableError> {
        let mut found = self.tables.ipvs.dump_virtual_servers()?.virtual_servers;
        found.sort_unstable_by_key(|(vs, _)| *vs);
        // Both directions: what only the mirror has was deleted, what only the kernel has was added.
        let is_missing = |vs: &&VirtualServerId| found.binary_search_by_key(*vs, |(vs, _)| *vs).is_err();
        let missing: Vec<_> = self.mirror.servers.keys().filter(is_missing).copied().collect();
        for (vs, settings) in found {
            match self.mirror.servers.get_mut(&vs) {
                Some(server) if server.settings == settings => continue,
                Some(server) => server.settings = settings,
                None => {
                    self.mirror.servers.insert(vs, MirrorServer { settings, real_servers: Vec::new() });
                    findings.unknown.push(vs);
                }
            }
            self.note_drift(vs, ours, findings);
        }
        for vs in missing {
            self.mirror.servers.remove(&vs);
            self.mirror.left.remove(&vs);
            self.mirror.lost.remove(&vs);
            self.note_drift(vs, ours, findings);
        }
        Ok(())
    }

    /// Dumps the real servers of one virtual server.
    pub(crate) fn observe_real_servers(
        &mut self,
        vs: VirtualServerId,
        ours: Ours<'_>,
        findings: &mut Findings,
    ) -> Result<Vec<ObservedRealServer>, TableError> {
        let observed = self.tables.ipvs.dump_real_servers(vs)?;
        let found = sorted(&observed);
        if let Some(server) = self.mirror.servers.get_mut(&vs)
            && server.real_servers != found
        {
            server.real_servers = found;
            self.note_drift(vs, ours, findings);
        }
        Ok(observed)
    }

    fn note_drift(&self, vs: VirtualServerId, ours: Ours<'_>, findings: &mut Findings) {
        if ours.has(&vs, &self.mirror) {
            findings.dirty.extend(self.mirror.front(&vs).map(Subject::Front));
            findings.drift.ipvs += 1;
        }
    }
}

fn sorted(observed: &[ObservedRealServer]) -> Vec<(lb_types::RealServerId, lb_types::RealServer)> {
    let mut real_servers: Vec<_> = observed.iter().map(|rs| (rs.id, rs.settings)).collect();
    real_servers.sort_unstable();
    real_servers
}

/// Keys that only one side has, or that both have with different values.
fn changed_keys<'a, K: Hash + Eq + Copy, V: PartialEq>(
    a: &'a FastMap<K, V>,
    b: &'a FastMap<K, V>,
) -> impl Iterator<Item = K> + 'a {
    let in_a = a.iter().filter(|(key, value)| b.get(key) != Some(value)).map(|(key, _)| *key);
    in_a.chain(b.keys().filter(|key| !a.contains_key(key)).copied())
}
