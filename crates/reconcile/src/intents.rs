//! The desired side: objects and facts in, intents of all Services out.
//!
//! [`Intents`] owns everything that decides what Services ask for: the model, the configuration, facts about
//! the node, and the resulting [`Desired`]; it also keeps the backlog of Services to plan, and the problems
//! found in them. It never compares an intent with the kernel and never writes. It asks the kernel two
//! questions only, through [`Kernel`]: which schedulers it has, and who listens on a VIP that is an address
//! of the node.
//!
//! Reading order: [`Intents`], [`Intents::desire_some`], then what makes Services dirty: `refresh_ownership`,
//! `refresh_node`, `replace_addresses`, `recheck_listeners`.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::IpAddr,
};

use drain::Time;
use lb_types::{Front, IpFamily, ServiceName};
use planner::{
    Changes, Context, Desired, Dirty, Mirror, NodeFacts, Ownership, PlannerConfig, Subject, desire_service,
    has_node_ports_by_address,
};
use service_model::{ExternalSource, ModelEvent, Service, ServiceModel, Trigger};

use crate::{
    Config, LocalMode,
    kernel::{Kernel, Ours},
    listeners::Listeners,
    problems::Problems,
    schedulers::Schedulers,
};

/// Dirty Services that one step plans.
#[derive(Clone, Copy)]
pub(crate) struct Portion {
    /// Largest number of Services.
    pub(crate) most: usize,
    /// True if critical Services at the head of the backlog are planned alone, and all of them at once.
    pub(crate) critical_first: bool,
}

/// Everything that decides what Services ask of the kernel.
pub(crate) struct Intents {
    /// Configuration of the planner; its layout follows `local_mode` and the Node.
    pub(crate) config: PlannerConfig,
    pub(crate) local_mode: LocalMode,
    pub(crate) ownership: Ownership,
    pub(crate) model: ServiceModel,
    pub(crate) facts: NodeFacts,
    /// Links of the node on networks that it shares with others.
    shared_links: BTreeSet<String>,
    pub(crate) desired: Desired,
    pub(crate) problems: Problems,
    pub(crate) schedulers: Schedulers,
    pub(crate) listeners: Listeners,
    /// Dirty Services that did not fit into a step.
    backlog: VecDeque<ServiceName>,
    /// Plans since the last time that somebody took them.
    pub(crate) planned: Planned,
}

/// Plans of a step, for its report.
#[derive(Debug, Default)]
pub(crate) struct Planned {
    /// Families of the Services.
    pub(crate) families: BTreeSet<IpFamily>,
    /// Triggers of the changes of their endpoints.
    pub(crate) triggers: Vec<(ServiceName, Trigger)>,
}

impl Intents {
    pub(crate) fn new(config: Config) -> Self {
        Intents {
            model: ServiceModel::on_node(&config.planner.node_name),
            config: config.planner,
            local_mode: config.local_mode,
            ownership: config.ownership,
            facts: NodeFacts::default(),
            shared_links: BTreeSet::new(),
            desired: Desired::default(),
            problems: Problems::default(),
            schedulers: Schedulers::default(),
            listeners: Listeners::default(),
            backlog: VecDeque::new(),
            planned: Planned::default(),
        }
    }

    /// Takes a change of the objects over, without what the configuration leaves out.
    pub(crate) fn take(&mut self, mut event: ModelEvent) {
        if let ModelEvent::ServiceApplied(service) = &mut event
            && !self.config.serve_external_ips
        {
            service.external_ips.retain(|ip| ip.source != ExternalSource::ExternalIps);
        }
        self.model.apply(event);
    }

    pub(crate) fn context(&self) -> Context<'_> {
        Context { config: &self.config, ownership: &self.ownership, facts: &self.facts }
    }

    pub(crate) fn ours(&self) -> Ours<'_> {
        Ours { desired: &self.desired, ownership: &self.ownership }
    }

    /// Tells whether Services wait to be planned.
    pub(crate) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty() || self.model.has_dirty()
    }

    /// Tells whether the cluster has changed the prefixes of its ClusterIPs.
    pub(crate) fn has_new_cidrs(&self) -> bool {
        self.ownership.announced_cidrs != self.model.service_cidrs()
    }

    /// Takes over the prefixes that the cluster announces as ours; returns whether they have changed.
    pub(crate) fn refresh_ownership(&mut self) -> bool {
        let has_new = self.has_new_cidrs();
        if has_new {
            self.ownership.announced_cidrs = self.model.service_cidrs().to_vec();
            // Whether an external address may be served depends on them.
            self.mark_dirty(|service| !service.external_ips.is_empty());
        }
        has_new
    }

    /// Takes the layout over from the Node and the networks that its links are on; returns whether it has changed.
    pub(crate) fn refresh_layout(&mut self) -> bool {
        let layout = self.local_mode.layout(self.model.node(), &self.shared_links, &self.config.layout);
        let has_changed = layout != self.config.layout;
        self.config.layout = layout;
        has_changed
    }

    /// Takes over the links on shared networks; returns whether the layout has changed by that.
    pub(crate) fn replace_shared_links(&mut self, links: BTreeSet<String>) -> bool {
        self.shared_links = links;
        self.refresh_layout()
    }

    /// Takes the Node over, if it has changed.
    pub(crate) fn refresh_node(&mut self, mirror: &mut Mirror, dirty: &mut Dirty) {
        if self.model.take_node_changed() {
            mirror.layout_current &= !self.refresh_layout();
            // External addresses must not lie among the pods, whose prefixes the Node may name.
            self.mark_dirty(|service| !service.external_ips.is_empty());
            let addresses = self.facts.addresses.clone();
            self.replace_addresses(addresses, mirror, dirty);
        }
    }

    /// Takes over the node's addresses, and marks what depends on them: every VIP may need another source.
    pub(crate) fn replace_addresses(
        &mut self,
        addresses: BTreeMap<IpAddr, String>,
        mirror: &Mirror,
        dirty: &mut Dirty,
    ) {
        let mut node_ips = self.model.node().addresses.clone();
        // One that the node does not have, as a loopback address, says nothing about the Node's.
        let bound = self.config.node_ip.filter(|ip| addresses.contains_key(ip));
        node_ips.extend(bound.map(|ip| (IpFamily::of(ip), ip)));
        let mut facts = NodeFacts::new(&node_ips, addresses, &self.config.node_port_addresses);
        facts.own_ports = std::mem::take(&mut self.facts.own_ports);
        facts.own_ports.retain(|port| facts.addresses.contains_key(&port.addr));
        if facts.sources != self.facts.sources {
            dirty.extend(self.desired.vips().copied().map(Subject::Vip));
            // Whether a node lets its own processes in, where ranges say who may come, depends on its address.
            let is_restricted =
                |front: &&Front| self.desired.front(front).is_some_and(|want| want.allowed.is_some());
            dirty.extend(self.desired.fronts().filter(is_restricted).copied().map(Subject::Front));
        }
        let served: Vec<_> = facts.node_ports.symmetric_difference(&self.facts.node_ports).copied().collect();
        dirty.extend(served.iter().copied().map(Subject::Vip));
        let (new, old) = (&facts.addresses, &self.facts.addresses);
        let came = new.keys().filter(|addr| !old.contains_key(addr));
        let went = old.keys().filter(|addr| !new.contains_key(addr));
        let changed: Vec<_> = came.chain(went).copied().collect();
        self.facts = facts;
        if !served.is_empty() {
            let configured = self.config.node_port_servers;
            self.mark_dirty(|service| has_node_ports_by_address(service, configured));
        }
        if changed.is_empty() {
            return;
        }
        for addr in &changed {
            dirty.insert(Subject::Vip(*addr));
            dirty.extend(mirror.fronts_on(*addr).map(Subject::Front));
        }
        // An address changes the intent of those Services only that have it as a VIP.
        self.mark_dirty(|service| service.vips().any(|vip| changed.contains(&vip)));
    }

    /// Marks Services to be planned again.
    pub(crate) fn mark_dirty(&mut self, is_concerned: impl Fn(&Service) -> bool) {
        let concerned = self.model.services().filter(|service| is_concerned(service));
        let names: Vec<_> = concerned.map(|service| service.name.clone()).collect();
        for name in names {
            self.model.mark_dirty(name);
        }
    }

    /// Computes the intents of a portion of the dirty Services; returns how many those were.
    pub(crate) fn desire_some(
        &mut self,
        portion: Portion,
        kernel: &mut Kernel,
        now: Time,
        changes: &mut Changes,
    ) -> usize {
        self.backlog.extend(self.model.take_dirty());
        let is_critical = |name: &&ServiceName| {
            portion.critical_first && self.model.service(name).is_some_and(|service| service.critical)
        };
        let critical = self.backlog.iter().take_while(is_critical).count();
        let count = if critical > 0 { critical } else { self.backlog.len().min(portion.most) };
        let names: Vec<_> = self.backlog.drain(..count).collect();
        for name in &names {
            self.desire(name, kernel, now, changes);
        }
        names.len()
    }

    fn desire(&mut self, name: &ServiceName, kernel: &mut Kernel, now: Time, changes: &mut Changes) {
        if let Some(service) = self.model.service(name) {
            self.schedulers.find_named(service, &mut self.config, kernel, now);
        }
        self.listeners.look(self.model.service(name), name, &mut self.facts, kernel);
        let service = self.model.service(name);
        let desired = service.map(|service| desire_service(service, &self.model, self.context()));
        let (intent, problems) = desired.unzip();
        let families = &mut self.planned.families;
        families.extend(self.desired.fronts_of(name).map(|want| want.front.family()));
        families.extend(intent.iter().flat_map(|intent| &intent.fronts).map(|want| want.front.family()));
        let triggers = self.model.take_triggers(name).into_iter();
        self.planned.triggers.extend(triggers.map(|trigger| (name.clone(), trigger)));
        let rivals = self.desired.replace(name, intent, changes);
        self.problems.replace_own(name, problems.unwrap_or_default());
        if rivals.is_empty() && !self.problems.has_conflicts(name) {
            return;
        }
        for service in rivals.iter().chain([name]) {
            let conflicts = self.desired.conflicts(service);
            self.problems.replace_conflicts(service, conflicts);
        }
    }

    /// Finds out again, if that is due, which ports of VIPs that are addresses of the node belong to its
    /// programs.
    pub(crate) fn recheck_listeners(&mut self, kernel: &mut Kernel, now: Time) {
        for name in self.listeners.take_due(now) {
            if self.listeners.look(self.model.service(&name), &name, &mut self.facts, kernel) {
                self.model.mark_dirty(name);
            }
        }
    }
}
