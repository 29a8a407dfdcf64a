//! Correcting the mirror by what the kernel says.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::Hash,
    net::IpAddr,
    time::Duration,
};

use dataplane::{ObservedRealServer, ObservedRules, ObservedVips, TableError, Touched};
use drain::Time;
use lb_types::{FastMap, VirtualServerId};
use planner::{MirrorServer, NodeFacts, Touch};
use tracing::warn;

use crate::{Reconciler, Report, adopt::chain, retry::Subject};

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
    /// Whether the last step dumped tables.
    dumped: bool,
    /// Until then they are not dumped again: whoever fights with us over a table gets a tenth of a core.
    rest: Time,
}

impl Suspects {
    /// Everything about some virtual servers is doubtful.
    pub(crate) fn add_servers(&mut self, servers: impl IntoIterator<Item = VirtualServerId>) {
        self.servers.extend(servers);
        self.list = true;
    }

    /// Virtual servers whose real servers are in doubt.
    pub(crate) fn servers(&self) -> &BTreeSet<VirtualServerId> {
        &self.servers
    }

    /// Whether the mirror does not know the real servers of a virtual server.
    pub(crate) fn contains(&self, vs: &VirtualServerId) -> bool {
        self.servers.contains(vs)
    }

    /// When something can be dumped that has not failed; what has is tried again in its own time.
    pub(crate) fn due(&self, has_failed: impl Fn(Subject) -> bool) -> Option<Time> {
        if (self.list || !self.servers.is_empty()) && !has_failed(Subject::Servers) {
            return Some(Time::ZERO);
        }
        let any = self.tables.iter().any(|table| !has_failed(Subject::Table(*table)));
        any.then_some(self.rest)
    }

    /// The last step took so much of a core, until `now`.
    pub(crate) fn spent(&mut self, took: Duration, now: Time) {
        if std::mem::take(&mut self.dumped) {
            self.rest = now + took * 9;
        }
    }
}

impl Reconciler {
    /// Dumps what a notification or a failed write made doubtful. What cannot be dumped stays in doubt, and keeps
    /// nothing else from being dumped.
    pub(crate) fn recheck(&mut self, now: Time, touch: &mut Touch, report: &mut Report) {
        let rests = now < self.suspects.rest;
        for table in self.suspects.tables.clone() {
            let subject = Subject::Table(table);
            // What has failed has a pause of its own.
            let waits =
                if self.retry.is_failing(&subject) { self.retry.must_wait(&subject, now) } else { rests };
            if waits {
                continue;
            }
            self.suspects.dumped = true;
            let result = match table {
                Touched::Vips => {
                    // Before the routes: IPv6 that was switched off on our link took them along.
                    let written = self.write_sysctls(report);
                    self.observe_vips(touch, report).and(written)
                }
                Touched::Rules => self.observe_rules(touch, report),
            };
            if self.dumped(subject, result, now) {
                self.suspects.tables.remove(&table);
            }
        }
        if !self.retry.must_wait(&Subject::Servers, now) {
            let result = self.recheck_servers(touch, report);
            self.dumped(Subject::Servers, result, now);
        }
    }

    /// Goes on after a failure, so that what can be dumped is; returns the first one.
    fn recheck_servers(&mut self, touch: &mut Touch, report: &mut Report) -> Result<(), TableError> {
        let mut result = Ok(());
        if self.suspects.list {
            result = self.observe_servers(touch, report);
            self.suspects.list = result.is_err();
        }
        let some: Vec<_> = self.suspects.servers.iter().take(SUSPECTS_PER_STEP).copied().collect();
        for vs in some {
            if let Err(error) = self.observe_real_servers(vs, touch, report) {
                result = result.and(Err(error));
            } else if self.suspects.servers.remove(&vs) && self.desired.server(&vs).is_none() {
                // It was not known whether it is empty.
                touch.servers.insert(vs);
            }
        }
        result
    }

    /// Notes how dumps went, and returns whether well.
    fn dumped(&mut self, subject: Subject, result: Result<(), TableError>, now: Time) -> bool {
        let Err(error) = result else {
            self.retry.succeed(&subject);
            return true;
        };
        let reason = chain(&error);
        if self.retry.fail(subject, &reason, now) {
            warn!("{reason}; will be tried again");
        }
        false
    }

    /// Dumps link, routes and addresses.
    pub(crate) fn observe_vips(&mut self, touch: &mut Touch, report: &mut Report) -> Result<(), TableError> {
        let observed = self.tables.vips.observe()?;
        self.compare_vips(observed, touch, report);
        Ok(())
    }

    fn compare_vips(&mut self, observed: ObservedVips, touch: &mut Touch, report: &mut Report) {
        self.mirror.link_ours = observed.link.is_some_and(|link| link.dummy);
        let ready = observed.link.is_some_and(|link| link.dummy && link.up);
        let drifted: BTreeSet<IpAddr> = changed_keys(&self.mirror.routes, &observed.routes).collect();
        report.drift += drifted.len() + usize::from(ready != self.mirror.link_ready);
        touch.vips.extend(drifted);
        self.mirror.link_ready = ready;
        self.mirror.routes = observed.routes.into();
        touch.addresses.extend(&observed.addresses);
        self.mirror.addresses = observed.addresses.into();
        self.replace_facts(observed.node_addresses, touch);
        self.node_findings.bridges = observed.bridges;
        self.check_bridges(report);
    }

    /// Takes over the node's addresses; every VIP may need another source then.
    pub(crate) fn replace_facts(&mut self, addresses: BTreeMap<IpAddr, String>, touch: &mut Touch) {
        let mut facts = NodeFacts::new(&self.model.node().addresses, addresses);
        facts.own_ports = std::mem::take(&mut self.facts.own_ports);
        facts.own_ports.retain(|port| facts.addresses.contains_key(&port.addr));
        if facts.sources != self.facts.sources {
            touch.vips.extend(self.desired.vips());
        }
        let (new, old) = (&facts.addresses, &self.facts.addresses);
        let came = new.keys().filter(|addr| !old.contains_key(addr));
        let went = old.keys().filter(|addr| !new.contains_key(addr));
        let changed: Vec<_> = came.chain(went).copied().collect();
        self.facts = facts;
        if changed.is_empty() {
            return;
        }
        touch.vips.extend(&changed);
        touch.servers.extend(changed.iter().flat_map(|addr| self.mirror.servers_on(*addr)));
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
            Subject::of(element).touch(touch);
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
        if self.desired.server(&vs).is_some() || self.config.ownership.owns(&vs, &self.mirror) {
            touch.servers.insert(vs);
            report.drift += 1;
        }
    }
}

/// Keys that only one side has, or that both have with different values.
fn changed_keys<'a, K: Hash + Eq + Copy, V: PartialEq>(
    a: &'a FastMap<K, V>,
    b: &'a FastMap<K, V>,
) -> impl Iterator<Item = K> + 'a {
    let in_a = a.iter().filter(|(key, value)| b.get(key) != Some(value)).map(|(key, _)| *key);
    in_a.chain(b.keys().filter(|key| !a.contains_key(key)).copied())
}
