//! Comparison of desired state and mirror: the only place where a write is decided.
//!
//! [`diff`] is pure: it reads its [`Inputs`] and returns a [`Plan`]. It looks only at what is dirty, asks the
//! drain ledger what becomes of a real server that nobody wants, and never writes, waits or remembers
//! anything.
//!
//! Reading order: [`Inputs`], [`diff`], then `Differ` from the base (link, chains, kernel parameters) by way
//! of VIPs and fronts to single real servers. Deletions of tracked connections follow from the finished plan
//! (`conntrack`).

use std::{hash::BuildHasher, net::IpAddr};

use drain::{Cause, Key, Ledger, Outcome, State, Verdict};
use foldhash::quality::FixedState;
use lb_types::{
    Front, IpFamily, IpvsOp, RealServer, RealServerId, RuleElement, RuleSet, RulesOp, VipOp, Weight,
};

use crate::{
    Binding, Context, Desired, Dirty, FrontIntent, Mirror, MirrorServer, NewDrain, Plan, Stage, Subject,
    conntrack, sysctls,
};

/// Values that a comparison reads.
#[derive(Clone, Copy)]
pub struct Inputs<'a> {
    /// Intents of all Services.
    pub desired: &'a Desired,
    /// Copy of what the kernel holds.
    pub mirror: &'a Mirror,
    /// Configuration, ownership and facts about the node.
    pub context: Context<'a>,
    /// Real servers on their way out.
    pub drains: &'a Ledger,
    /// Predicate: the mirror may have the real servers of a front's virtual server wrong. They are dumped
    /// soon.
    pub is_in_doubt: &'a dyn Fn(&Front) -> bool,
}

impl Inputs<'_> {
    /// Fate of the virtual server of a front that no Service wants.
    fn unwanted(&self, front: &Front) -> Unwanted {
        let Context { ownership, facts, .. } = self.context;
        let vs = self.mirror.key(front);
        let Some(have) = self.mirror.servers.get(&vs) else { return Unwanted::Absent };
        let is_empty = have.real_servers.is_empty() && !(self.is_in_doubt)(front);
        if !ownership.owns(&vs, self.mirror) {
            Unwanted::NotOurs
        } else if is_empty || facts.own_ports.contains(&front.port) {
            Unwanted::Goes
        } else {
            Unwanted::Drains
        }
    }

    /// Way by which packets to a VIP must come to IPVS; `None` if they must not, because no Service has the
    /// VIP and no virtual server on it drains.
    fn binding(&self, vip: &IpAddr) -> Option<Binding> {
        let is_draining =
            |front: &Front| self.desired.front(front).is_none() && self.unwanted(front) == Unwanted::Drains;
        self.desired.binding(vip).or_else(|| {
            self.mirror.fronts_on(*vip).any(|front| is_draining(&front)).then_some(Binding::Route)
        })
    }
}

/// Fate of a virtual server that no Service wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unwanted {
    /// The kernel does not have it.
    Absent,
    /// It is somebody else's.
    NotOurs,
    /// It refuses new connections until its real servers have drained.
    Drains,
    /// It is deleted: it has no real servers left, or its port belongs to a program of the node.
    Goes,
}

/// Compares what is dirty and returns the writes that make the kernel as desired.
pub fn diff(dirty: &Dirty, inputs: &Inputs<'_>) -> Plan {
    let mut differ = Differ { inputs, plan: Plan::default(), order: order(&inputs.context.config.node_name) };
    differ.base(dirty);
    // A front that nobody wants may have kept its VIP bound, so that VIP is compared too.
    let unwanted = dirty.fronts().filter(|front| inputs.desired.front(front).is_none());
    let vips = dirty.iter().filter_map(|subject| match subject {
        Subject::Vip(vip) => Some(*vip),
        _ => None,
    });
    let mut vips = sorted(vips.chain(unwanted.filter_map(Front::vip)));
    vips.dedup();
    for vip in &vips {
        differ.vip(*vip);
    }
    for front in sorted(dirty.fronts().copied()) {
        differ.front(front);
    }
    // A front that is compared as a whole gets its refusal from `will_refuse`, by what the plan will have
    // done.
    let refusals = dirty.iter().filter_map(|subject| match subject {
        Subject::Refusal(front) if !dirty.contains(&Subject::Front(*front)) => Some(*front),
        _ => None,
    });
    for front in sorted(refusals) {
        differ.element(RuleElement::Refuse(front.port), differ.refuses(&front));
    }
    // An address is dirty by itself, or because the plan may bring the route of its VIP.
    let found = dirty.iter().filter_map(|subject| match subject {
        Subject::Address(addr) => Some(*addr),
        _ => None,
    });
    let mut addresses = sorted(found.chain(vips.iter().copied()));
    addresses.dedup();
    addresses.retain(|addr| inputs.mirror.addresses.contains(addr) && differ.is_spare(addr, &vips));
    differ.plan.extend(Stage::VipsRemove, addresses.into_iter().map(|addr| VipOp::DeleteAddress { addr }));
    let Differ { mut plan, .. } = differ;
    let deletions = conntrack::follow(&plan, inputs);
    plan.extend(Stage::Conntrack, deletions);
    plan
}

/// Order in which real servers are added: different on each node, the same in every sync.
///
/// The kernel's `rr` begins at the head of the list. With the same order everywhere, every node of the
/// cluster would send its first connection to the same endpoint.
fn order(node_name: &str) -> FixedState {
    FixedState::with_seed(FixedState::default().hash_one(node_name))
}

/// Sorts keys, so that neither plans nor intents depend on the order in which changes came.
pub(crate) fn sorted<K: Ord>(keys: impl Iterator<Item = K>) -> Vec<K> {
    let mut keys: Vec<_> = keys.collect();
    keys.sort_unstable();
    keys
}

/// Comparison in progress.
struct Differ<'a> {
    inputs: &'a Inputs<'a>,
    plan: Plan,
    order: FixedState,
}

impl Differ<'_> {
    /// Compares link, chains and kernel parameters.
    fn base(&mut self, dirty: &Dirty) {
        let Inputs { mirror, context, .. } = self.inputs;
        if dirty.contains(&Subject::Sysctls) {
            sysctls::diff(&context.config.sysctls, &mirror.sysctls, &mut self.plan);
        }
        if !mirror.link_ready {
            self.plan.push(Stage::Link, VipOp::EnsureLink);
        }
        if !mirror.layout_current {
            self.plan.push(Stage::RulesAdd, RulesOp::InstallLayout(context.config.layout.clone()));
        }
    }

    fn vip(&mut self, vip: IpAddr) {
        let Context { facts, .. } = self.inputs.context;
        // An address of the node that no Service has any more is not bound either.
        let is_bound =
            self.inputs.binding(&vip) == Some(Binding::Route) && !facts.addresses.contains_key(&vip);
        let source = facts.sources.get(&IpFamily::of(vip)).copied();
        match (is_bound, self.inputs.mirror.routes.get(&vip)) {
            (true, Some(present)) if *present == source => {}
            (true, _) => self.plan.push(Stage::VipsAdd, VipOp::EnsureRoute { vip, source }),
            (false, Some(_)) => self.plan.push(Stage::VipsRemove, VipOp::DeleteRoute { vip }),
            (false, None) => {}
        }
        self.element(RuleElement::Vip(vip), is_bound);
    }

    /// Tells whether nothing depends on an address: it is not a VIP, or its VIP has a route, by this plan at
    /// the latest.
    fn is_spare(&self, addr: &IpAddr, vips: &[IpAddr]) -> bool {
        let is_routed = self.inputs.mirror.routes.contains_key(addr) || vips.binary_search(addr).is_ok();
        is_routed || self.inputs.binding(addr).is_none()
    }

    fn element(&mut self, element: RuleElement, is_wanted: bool) {
        match (is_wanted, self.inputs.mirror.elements.contains(&element)) {
            (true, false) => self.plan.push(Stage::RulesAdd, RulesOp::AddElement(element)),
            (false, true) => self.plan.push(Stage::RulesRemove, RulesOp::DeleteElement(element)),
            (true, true) | (false, false) => {}
        }
    }

    fn front(&mut self, front: Front) {
        let Some(want) = self.inputs.desired.front(&front) else { return self.unwanted(front) };
        for set in FRONT_SETS {
            let element = set.element(front.port);
            let is_wanted = match set {
                RuleSet::Services => true,
                RuleSet::NoEndpoints => self.will_refuse(want),
                RuleSet::NoLocalEndpoints => want.drop_external,
                _ => want.masquerade.element(front.port) == Some(element),
            };
            self.element(element, is_wanted);
        }
        match self.inputs.mirror.server(&front) {
            None => {
                let vs = self.inputs.mirror.key(&front);
                self.plan.push(Stage::ServersAdd, IpvsOp::AddVirtualServer { vs, settings: want.settings });
                self.add_real_servers(want, want.real_servers());
            }
            Some(have) => self.change_server(want, have),
        }
    }

    fn unwanted(&mut self, front: Front) {
        let unwanted = self.inputs.unwanted(&front);
        for set in FRONT_SETS {
            // While it drains, it stays tagged as ours and refuses new connections, and its connections are
            // masqueraded as before.
            let element = set.element(front.port);
            let stays = match set {
                RuleSet::Services | RuleSet::NoEndpoints => true,
                RuleSet::NoLocalEndpoints => false,
                _ => self.inputs.mirror.elements.contains(&element),
            };
            self.element(element, stays && unwanted == Unwanted::Drains);
        }
        match unwanted {
            Unwanted::Drains => {
                let have = self.inputs.mirror.server(&front);
                for (rs, present) in have.into_iter().flat_map(|have| &have.real_servers) {
                    self.drop_real_server(Key { front, rs: *rs }, present);
                }
            }
            Unwanted::Goes => {
                let vs = self.inputs.mirror.key(&front);
                self.plan.push(Stage::IpvsRemove, IpvsOp::DeleteVirtualServer { vs });
            }
            Unwanted::Absent | Unwanted::NotOurs => {}
        }
    }

    /// Tells whether new connections must be refused once the kernel has executed the plan: no wanted real
    /// server is there and stays, and none may come now.
    fn will_refuse(&self, want: &FrontIntent) -> bool {
        let Inputs { drains, mirror, .. } = self.inputs;
        if drains.is_idle() {
            return !want.has_real_servers();
        }
        let have = mirror.server(&want.front);
        let comes = |rs: RealServerId| {
            let key = Key { front: want.front, rs };
            match have.and_then(|have| have.real_server(&rs)) {
                Some(_) => !self.is_evicted(&key),
                None => !self.is_held_down(&key),
            }
        };
        !want.real_servers().any(comes)
    }

    /// Tells whether new connections must be refused as things are: of the wanted real servers the kernel has
    /// none, or only quiesced ones. That happens where it has refused writes.
    fn refuses(&self, front: &Front) -> bool {
        let have = self.inputs.mirror.server(front);
        let serves = |rs: RealServerId| {
            have.and_then(|have| have.real_server(&rs)).is_some_and(|present| !present.weight.is_quiesced())
        };
        self.inputs.desired.front(front).is_some_and(|want| !want.real_servers().any(serves))
    }

    fn is_evicted(&self, key: &Key) -> bool {
        self.inputs.drains.state(key) == State::Due(Outcome::AddressReused)
    }

    fn is_held_down(&self, key: &Key) -> bool {
        matches!(self.inputs.drains.state(key), State::HeldDown(_))
    }

    fn change_server(&mut self, want: &FrontIntent, have: &MirrorServer) {
        if want.settings != have.settings {
            let vs = self.inputs.mirror.key(&want.front);
            self.plan.push(Stage::IpvsAdd, IpvsOp::SetVirtualServer { vs, settings: want.settings });
        }
        self.add_real_servers(want, want.real_servers().filter(|rs| have.real_server(rs).is_none()));
        for (rs, present) in &have.real_servers {
            let key = Key { front: want.front, rs: *rs };
            match want.endpoint(rs) {
                Some(endpoint) if endpoint.chosen => self.keep_real_server(want, key, present),
                _ => self.drop_real_server(key, present),
            }
        }
    }

    fn add_real_servers(&mut self, want: &FrontIntent, missing: impl Iterator<Item = RealServerId>) {
        let Inputs { drains, mirror, .. } = self.inputs;
        let key = |rs: RealServerId| Key { front: want.front, rs };
        // Real servers that come in one sync stand in this node's order, not in the API's.
        let may_come = missing.filter(|rs| !self.is_held_down(&key(*rs)));
        let added = sorted(may_come.map(|rs| (self.order.hash_one(rs), rs)));
        // One that drains, but that somebody else has removed, serves again by being added.
        if !drains.is_empty() {
            let keys = added.iter().map(|(_, rs)| key(*rs));
            self.plan.returned.extend(keys.filter(|key| drains.get(key).is_some()));
        }
        let (vs, settings) = (mirror.key(&want.front), want.real_server);
        let ops = added.into_iter().map(|(_, rs)| IpvsOp::AddRealServer { vs, rs, settings });
        self.plan.extend(Stage::IpvsAdd, ops);
    }

    fn keep_real_server(&mut self, want: &FrontIntent, key: Key, present: &RealServer) {
        if self.is_evicted(&key) {
            return self.remove_real_server(key, present, Stage::Evict);
        }
        if *present != want.real_server {
            let vs = self.inputs.mirror.key(&key.front);
            let op = IpvsOp::SetRealServer { vs, rs: key.rs, settings: want.real_server };
            self.plan.push(Stage::IpvsAdd, op);
        }
        if self.inputs.drains.get(&key).is_some() {
            self.plan.returned.push(key);
        }
    }

    fn drop_real_server(&mut self, key: Key, present: &RealServer) {
        let Inputs { desired, drains, mirror, .. } = self.inputs;
        let (vs, rs) = (mirror.key(&key.front), key.rs);
        match drains.judge(&key, desired.drain_overrides(&key.front)) {
            Verdict::Remove(Outcome::Immediate) => {
                self.plan.push(Stage::IpvsRemove, IpvsOp::DeleteRealServer { vs, rs });
            }
            Verdict::Remove(Outcome::AddressReused) => self.remove_real_server(key, present, Stage::Evict),
            Verdict::Remove(_) => self.remove_real_server(key, present, Stage::IpvsRemove),
            Verdict::Quiesce => {
                self.quiesce(key, present, Stage::IpvsRemove);
                let cause = self.cause(&key);
                if drains.get(&key).is_none_or(|drain| cause.supersedes(drain.cause)) {
                    self.plan.drains.push(NewDrain { key, cause });
                }
            }
        }
    }

    /// Quiesces a real server, then removes it: if the kernel refuses the removal, at least no new client is
    /// sent there.
    fn remove_real_server(&mut self, key: Key, present: &RealServer, stage: Stage) {
        self.quiesce(key, present, stage);
        let vs = self.inputs.mirror.key(&key.front);
        self.plan.push(stage, IpvsOp::DeleteRealServer { vs, rs: key.rs });
    }

    fn quiesce(&mut self, key: Key, present: &RealServer, stage: Stage) {
        if !present.weight.is_quiesced() {
            let (vs, rs) = (self.inputs.mirror.key(&key.front), key.rs);
            let settings = present.with_weight(Weight::QUIESCED);
            self.plan.push(stage, IpvsOp::SetRealServer { vs, rs, settings });
        }
    }

    fn cause(&self, key: &Key) -> Cause {
        let Some(want) = self.inputs.desired.front(&key.front) else { return Cause::ServiceGone };
        match want.endpoint(&key.rs) {
            None => Cause::LeftSlices,
            Some(endpoint) if endpoint.terminating => Cause::Terminating,
            Some(endpoint) if endpoint.ready => Cause::NotChosen,
            Some(_) => Cause::NotServing,
        }
    }
}

/// Sets that may have an element for a front.
const FRONT_SETS: [RuleSet; 6] = [
    RuleSet::Services,
    RuleSet::NoEndpoints,
    RuleSet::NoLocalEndpoints,
    RuleSet::Masquerade,
    RuleSet::MasqueradeNonLocal,
    RuleSet::MasqueradeExternal,
];
