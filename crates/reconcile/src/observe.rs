//! Correcting the mirror by what the kernel says.

use std::{collections::BTreeSet, net::IpAddr};

use dataplane::{ObservedRealServer, ObservedRules, ObservedVips, TableError, Touched};
use drain::{Key, Outcome, Time};
use lb_types::{ElementKey, RuleElement, RuleSet, VirtualServerId};
use planner::{MirrorServer, NodeFacts, Touch};
use tracing::{info, warn};

use crate::{Reconciler, Report, adopt::chain};

/// Virtual servers that are dumped again in one step, so that events never wait long.
const SUSPECTS_PER_STEP: usize = 128;

/// What a notification or a failed write made doubtful: dumped at once, whatever that costs.
#[derive(Clone, Debug, Default)]
pub(crate) struct Suspects {
    pub(crate) tables: BTreeSet<Touched>,
    /// Virtual servers whose real servers are in doubt.
    servers: BTreeSet<VirtualServerId>,
    /// Whether it is doubtful which virtual servers there are.
    list: bool,
}

impl Suspects {
    /// Everything about some virtual servers is doubtful.
    pub(crate) fn add_servers(&mut self, servers: impl IntoIterator<Item = VirtualServerId>) {
        self.servers.extend(servers);
        self.list = true;
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.servers.is_empty() && !self.list
    }
}

impl Reconciler {
    /// Dumps what a notification or a failed write made doubtful.
    pub(crate) fn recheck(&mut self, touch: &mut Touch, report: &mut Report) {
        for table in std::mem::take(&mut self.suspects.tables) {
            let result = match table {
                Touched::Vips => self.observe_vips(touch, report),
                Touched::Rules => self.observe_rules(touch, report),
            };
            self.unless_failed(result);
        }
        let result = self.recheck_servers(touch, report);
        self.unless_failed(result);
    }

    fn recheck_servers(&mut self, touch: &mut Touch, report: &mut Report) -> Result<(), TableError> {
        if std::mem::take(&mut self.suspects.list) {
            self.observe_servers(touch, report)?;
        }
        for _ in 0..SUSPECTS_PER_STEP {
            let Some(vs) = self.suspects.servers.pop_first() else { break };
            self.observe_real_servers(vs, touch, report)?;
        }
        Ok(())
    }

    /// What cannot be dumped now is left to an audit.
    fn unless_failed(&mut self, result: Result<(), TableError>) {
        if let Err(error) = result {
            warn!("{}", chain(&error));
            self.suspects.servers.clear();
            self.audit.request();
        }
    }

    /// Dumps link, routes and addresses.
    pub(crate) fn observe_vips(&mut self, touch: &mut Touch, report: &mut Report) -> Result<(), TableError> {
        let observed = self.tables.vips.observe()?;
        self.compare_vips(observed, touch, report);
        Ok(())
    }

    fn compare_vips(&mut self, observed: ObservedVips, touch: &mut Touch, report: &mut Report) {
        let ready = observed.link.is_some_and(|link| link.dummy && link.up);
        let drifted: BTreeSet<IpAddr> = changed_keys(&self.mirror.routes, &observed.routes).collect();
        report.drift += drifted.len() + usize::from(ready != self.mirror.link_ready);
        touch.vips.extend(drifted);
        self.mirror.link_ready = ready;
        self.mirror.routes = observed.routes.into();
        touch.addresses.extend(&observed.addresses);
        self.mirror.addresses = observed.addresses.into();
        self.replace_facts(observed.node_addresses.into_keys().collect(), touch);
    }

    /// Takes over the node's addresses; every VIP may need another source then.
    pub(crate) fn replace_facts(&mut self, addresses: BTreeSet<IpAddr>, touch: &mut Touch) {
        let facts = NodeFacts::new(&self.model.node().addresses, addresses);
        if facts.sources != self.facts.sources {
            touch.vips.extend(self.desired.vips());
        }
        let changed: Vec<_> = facts.addresses.symmetric_difference(&self.facts.addresses).copied().collect();
        self.facts = facts;
        if changed.is_empty() {
            return;
        }
        // Only a VIP that became, or no longer is, an address of the node changes an intent.
        let affected =
            |service: &&service_model::Service| service.cluster_ips.iter().any(|ip| changed.contains(ip));
        let names: Vec<_> =
            self.model.services().filter(affected).map(|service| service.name.clone()).collect();
        names.into_iter().for_each(|name| self.model.mark_dirty(name));
    }

    /// Dumps the nftables table.
    pub(crate) fn observe_rules(&mut self, touch: &mut Touch, report: &mut Report) -> Result<(), TableError> {
        let observed = self.tables.rules.observe(&self.config.planner.layout)?;
        self.compare_rules(observed, touch, report);
        Ok(())
    }

    fn compare_rules(&mut self, observed: ObservedRules, touch: &mut Touch, report: &mut Report) {
        report.drift += usize::from(observed.layout_current != self.mirror.layout_current);
        for element in observed.elements.symmetric_difference(&self.mirror.elements) {
            report.drift += 1;
            touch_element(element, touch);
        }
        self.mirror.layout_current = observed.layout_current;
        self.mirror.elements = observed.elements.into();
    }

    /// Dumps the list of virtual servers.
    pub(crate) fn observe_servers(
        &mut self,
        touch: &mut Touch,
        report: &mut Report,
    ) -> Result<(), TableError> {
        let mut found = self.tables.ipvs.dump_virtual_servers()?.virtual_servers;
        found.sort_unstable_by_key(|(vs, _)| *vs);
        let is_missing = |vs: &&VirtualServerId| found.binary_search_by_key(*vs, |(vs, _)| *vs).is_err();
        let missing: Vec<_> = self.mirror.servers.keys().filter(is_missing).copied().collect();
        for (vs, settings) in found {
            match self.mirror.servers.get_mut(&vs) {
                Some(server) if server.settings == settings => continue,
                Some(server) => server.settings = settings,
                None => {
                    self.mirror.servers.insert(vs, MirrorServer { settings, real_servers: Vec::new() });
                    self.suspects.servers.insert(vs);
                }
            }
            self.drifted(vs, touch, report);
        }
        for vs in missing {
            self.mirror.servers.remove(&vs);
            self.drifted(vs, touch, report);
        }
        Ok(())
    }

    /// Dumps the real servers of one virtual server.
    pub(crate) fn observe_real_servers(
        &mut self,
        vs: VirtualServerId,
        touch: &mut Touch,
        report: &mut Report,
    ) -> Result<Vec<ObservedRealServer>, TableError> {
        let observed = self.tables.ipvs.dump_real_servers(vs)?;
        let mut found: Vec<_> = observed.iter().map(|rs| (rs.id, rs.settings)).collect();
        found.sort_unstable();
        if let Some(server) = self.mirror.servers.get_mut(&vs)
            && server.real_servers != found
        {
            server.real_servers = found;
            self.drifted(vs, touch, report);
        }
        Ok(observed)
    }

    /// Only what concerns us is drift: others may do with their virtual servers as they like.
    fn drifted(&mut self, vs: VirtualServerId, touch: &mut Touch, report: &mut Report) {
        if self.desired.server(&vs).is_some() || self.config.ownership.owns(&vs) {
            touch.servers.insert(vs);
            report.drift += 1;
        }
    }

    /// Reads the counters of what drains, and notes what is due.
    pub(crate) fn poll_drains(&mut self, now: Time, touch: &mut Touch, report: &mut Report) {
        if self.ledger.next_poll().is_none_or(|due| due > now) {
            return;
        }
        let mut counters = std::collections::BTreeMap::new();
        for vs in self.ledger.virtual_servers() {
            match self.observe_real_servers(vs, touch, report) {
                Ok(observed) => {
                    let read =
                        observed.into_iter().map(|rs| (Key { vs, rs: rs.id }, (rs.connections, rs.traffic)));
                    counters.extend(read);
                    self.forget_vanished(vs, &counters, report);
                }
                Err(error) => warn!("{}", chain(&error)),
            }
        }
        touch.servers.extend(self.ledger.poll(now, |key| counters.get(key).copied()));
    }

    fn forget_vanished<T>(
        &mut self,
        vs: VirtualServerId,
        present: &std::collections::BTreeMap<Key, T>,
        report: &mut Report,
    ) {
        let vanished: Vec<_> =
            self.ledger.of(&vs).filter(|key| !present.contains_key(key)).copied().collect();
        for key in vanished {
            self.ledger.end(&key);
            report.drains_ended += 1;
            info!("drain of real server {} of {} ended: {}", key.rs, key.vs, Outcome::Vanished);
        }
    }
}

/// Keys that only one side has, or that both have with different values.
fn changed_keys<'a, K: Ord + Copy, V: PartialEq>(
    a: &'a std::collections::BTreeMap<K, V>,
    b: &'a std::collections::BTreeMap<K, V>,
) -> impl Iterator<Item = K> + 'a {
    let in_a = a.iter().filter(|(key, value)| b.get(key) != Some(value)).map(|(key, _)| *key);
    in_a.chain(b.keys().filter(|key| !a.contains_key(key)).copied())
}

fn touch_element(element: &RuleElement, touch: &mut Touch) {
    let _new = match element.key {
        ElementKey::Addr(vip) => touch.vips.insert(vip),
        ElementKey::Port(_) if element.set == RuleSet::Hairpin => touch.elements.insert(*element),
        ElementKey::Port(port) => touch.servers.insert(port.into()),
    };
}
