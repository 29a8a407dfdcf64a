//! Desired state and mirror compared: the only place where a write is decided.

use std::{collections::BTreeSet, hash::BuildHasher, net::IpAddr};

use drain::{Cause, Key, Ledger, Outcome, Verdict};
use foldhash::quality::FixedState;
use lb_types::{
    ElementKey, FastSet, IpvsOp, RealServer, RealServerId, RuleElement, RuleSet, RulesOp, VipOp,
    VirtualServerId, Weight,
};

use crate::{
    Desired, Mirror, MirrorServer, NewDrain, NodeFacts, Ownership, Plan, PlannerConfig, ServerIntent, flows,
};

/// What must be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touch {
    /// Virtual servers with their real servers and elements.
    pub servers: FastSet<VirtualServerId>,
    /// Virtual servers of which only the refusal of new connections is in question.
    pub refusals: FastSet<VirtualServerId>,
    /// VIPs with their routes and elements.
    pub vips: FastSet<IpAddr>,
    /// Addresses found on `kube-ipvs0`: none is wanted there, but each must stay until its VIP has a route.
    pub addresses: FastSet<IpAddr>,
}

impl Touch {
    /// Everything desired and everything in the mirror: both sides are walked, so that leftovers are seen.
    pub fn all(desired: &Desired, mirror: &Mirror) -> Self {
        let mut touch = Touch::leftovers(desired, mirror);
        touch.servers.extend(desired.virtual_servers());
        touch.vips.extend(desired.vips());
        touch
    }

    /// Everything in the mirror that nobody wants, and all addresses.
    pub fn leftovers(desired: &Desired, mirror: &Mirror) -> Self {
        let mut touch = Touch::default();
        let unwanted = |vs: &VirtualServerId| desired.server(vs).is_none();
        touch.servers.extend(mirror.servers.keys().filter(|vs| unwanted(vs)));
        touch.vips.extend(mirror.routes.keys().filter(|vip| !desired.claims_vip(vip)));
        touch.addresses.extend(&mirror.addresses);
        for element in &mirror.elements {
            match element.key {
                ElementKey::Addr(vip) if !desired.claims_vip(&vip) => touch.vips.extend([vip]),
                ElementKey::Port(port) => touch.servers.extend(Some(port.into()).filter(unwanted)),
                ElementKey::Addr(_) => {}
            }
        }
        touch
    }

    /// Adds another touch.
    pub fn extend(&mut self, other: Touch) {
        self.servers.extend(other.servers);
        self.refusals.extend(other.refusals);
        self.vips.extend(other.vips);
        self.addresses.extend(other.addresses);
    }

    /// Leaves out what nobody wants.
    pub fn keep_desired(&mut self, desired: &Desired) {
        self.servers.retain(|vs| desired.server(vs).is_some());
        self.refusals.retain(|vs| desired.server(vs).is_some());
        self.vips.retain(|vip| desired.claims_vip(vip));
        self.addresses.clear();
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.servers.len() + self.refusals.len() + self.vips.len() + self.addresses.len()
    }

    /// Whether nothing is touched.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Everything that a comparison reads.
pub struct Inputs<'a> {
    desired: &'a Desired,
    mirror: &'a Mirror,
    ownership: &'a Ownership,
    facts: &'a NodeFacts,
    config: &'a PlannerConfig,
    drains: &'a Ledger,
    /// Virtual servers whose real servers the mirror may have wrong; they are dumped soon.
    in_doubt: &'a BTreeSet<VirtualServerId>,
    /// Order in which real servers are added: differs between nodes, stable across syncs.
    ///
    /// The kernel's `rr` begins at the head of the list, and with the same order everywhere every node of the cluster
    /// would send its first connection to the same endpoint.
    order: FixedState,
}

impl<'a> Inputs<'a> {
    /// The two sides that are compared, and by what rules.
    pub fn new(
        (desired, mirror): (&'a Desired, &'a Mirror),
        (ownership, facts): (&'a Ownership, &'a NodeFacts),
        config: &'a PlannerConfig,
        (drains, in_doubt): (&'a Ledger, &'a BTreeSet<VirtualServerId>),
    ) -> Self {
        let node = FixedState::default().hash_one(&config.node_name);
        let order = FixedState::with_seed(node);
        Inputs { desired, mirror, ownership, facts, config, drains, in_doubt, order }
    }

    /// What becomes of a virtual server that no Service wants.
    fn unwanted(&self, vs: &VirtualServerId) -> Unwanted {
        let Some(have) = self.mirror.servers.get(vs) else { return Unwanted::Absent };
        let is_empty = have.real_servers.is_empty() && !self.in_doubt.contains(vs);
        if !self.ownership.owns(vs, self.mirror) {
            Unwanted::NotOurs
        } else if is_empty || self.facts.has_address_of(vs) {
            Unwanted::Goes
        } else {
            Unwanted::Drains
        }
    }

    /// Whether packets to a VIP must reach IPVS: a Service has it, or a virtual server on it drains.
    fn wants_vip(&self, vip: &IpAddr) -> bool {
        let drains =
            |vs: &VirtualServerId| self.desired.server(vs).is_none() && self.unwanted(vs) == Unwanted::Drains;
        self.desired.claims_vip(vip) || self.mirror.servers_on(*vip).any(drains)
    }

    pub(crate) fn desired(&self) -> &'a Desired {
        self.desired
    }

    pub(crate) fn mirror(&self) -> &'a Mirror {
        self.mirror
    }
}

/// What becomes of a virtual server that no Service wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unwanted {
    /// The kernel does not have it.
    Absent,
    /// It is somebody else's.
    NotOurs,
    /// It refuses new connections until its real servers have drained.
    Drains,
    /// It has none left, or its VIP is an address of the node, which is none of ours: it is deleted.
    Goes,
}

/// Compares what is touched and returns the writes that make the kernel as desired.
pub fn diff(touch: &Touch, inputs: &Inputs<'_>) -> Plan {
    let mut plan = Plan::default();
    if !inputs.mirror.link_ready {
        plan.link.push(VipOp::EnsureLink);
    }
    if !inputs.mirror.layout_current {
        plan.rules_add.push(RulesOp::InstallLayout(inputs.config.layout.clone()));
    }
    // With a virtual server that nobody wants its VIP may go.
    let unwanted = touch.servers.iter().filter(|vs| inputs.desired.server(vs).is_none());
    let unwanted = unwanted.filter_map(|vs| vs.vip_port().map(|port| port.addr));
    let mut vips = sorted(touch.vips.iter().copied().chain(unwanted));
    vips.dedup();
    vips.iter().for_each(|vip| diff_vip(*vip, inputs, &mut plan));
    sorted(touch.servers.iter().copied()).into_iter().for_each(|vs| diff_server(vs, inputs, &mut plan));
    // What is compared as a whole is decided there, by what the plan will have done.
    let refusals = touch.refusals.difference(&touch.servers).filter_map(VirtualServerId::vip_port);
    for port in sorted(refusals) {
        let element = RuleElement::Refuse(port);
        diff_element(element, refuses(port.into(), inputs), inputs, &mut plan);
    }
    let mut addresses = sorted(touch.addresses.iter().chain(&vips).copied());
    addresses.dedup();
    addresses.retain(|addr| inputs.mirror.addresses.contains(addr) && is_spare(addr, &vips, inputs));
    plan.vips_remove.extend(addresses.into_iter().map(|addr| VipOp::DeleteAddress { addr }));
    plan.flows = flows::follow(&plan, inputs);
    plan
}

/// So that neither plans nor intents depend on the order in which changes came.
pub(crate) fn sorted<K: Ord>(keys: impl Iterator<Item = K>) -> Vec<K> {
    let mut keys: Vec<_> = keys.collect();
    keys.sort_unstable();
    keys
}

/// Whether nothing depends on an address: it is no VIP, or its VIP has a route (this plan brings it at the latest).
fn is_spare(addr: &IpAddr, vips: &[IpAddr], inputs: &Inputs<'_>) -> bool {
    let routed = inputs.mirror.routes.contains_key(addr) || vips.binary_search(addr).is_ok();
    routed || !inputs.wants_vip(addr)
}

/// Removes everything that is ours and nothing else, but for the packet rules ([`cleanup_rules`]): VIPs first, so that
/// nothing leads to what goes next.
pub fn cleanup(mirror: &Mirror, ownership: &Ownership) -> Plan {
    let mut plan = Plan::default();
    if mirror.link_ours {
        plan.vips_remove.push(VipOp::DeleteLink);
    }
    let ours = mirror.servers.keys().filter(|vs| ownership.owns(vs, mirror));
    plan.ipvs_remove.extend(ours.map(|vs| IpvsOp::DeleteVirtualServer { vs: *vs }));
    plan
}

/// Removes the packet rules. If virtual servers of ours are still there, because the kernel refused to delete them, the
/// elements that name them ours stay, so that the next clean-up finds them.
pub fn cleanup_rules(mirror: &Mirror, ownership: &Ownership) -> Plan {
    let mut plan = Plan::default();
    let left = mirror.servers.keys().filter(|vs| ownership.owns(vs, mirror));
    let tags: BTreeSet<_> =
        left.filter_map(|vs| Some(RuleElement::Service(vs.vip_port()?))).collect();
    if tags.is_empty() {
        plan.rules_remove.push(RulesOp::DeleteTable);
    } else {
        let others = sorted(mirror.elements.iter().filter(|element| !tags.contains(element)).copied());
        plan.rules_remove.extend(others.into_iter().map(RulesOp::DeleteElement));
    }
    plan
}

fn diff_vip(vip: IpAddr, inputs: &Inputs<'_>, plan: &mut Plan) {
    let wanted = inputs.wants_vip(&vip) && !inputs.facts.addresses.contains_key(&vip);
    let source = inputs.facts.sources.get(&lb_types::IpFamily::of(vip)).copied();
    match (wanted, inputs.mirror.routes.get(&vip)) {
        (true, Some(present)) if *present == source => {}
        (true, _) => plan.vips_add.push(VipOp::EnsureRoute { vip, source }),
        (false, Some(_)) => plan.vips_remove.push(VipOp::DeleteRoute { vip }),
        (false, None) => {}
    }
    diff_element(RuleElement::Vip(vip), wanted, inputs, plan);
}

fn diff_element(element: RuleElement, wanted: bool, inputs: &Inputs<'_>, plan: &mut Plan) {
    match (wanted, inputs.mirror.elements.contains(&element)) {
        (true, false) => plan.rules_add.push(RulesOp::AddElement(element)),
        (false, true) => plan.rules_remove.push(RulesOp::DeleteElement(element)),
        (true, true) | (false, false) => {}
    }
}

fn diff_server(vs: VirtualServerId, inputs: &Inputs<'_>, plan: &mut Plan) {
    let Some(want) = inputs.desired.server(&vs) else { return diff_unwanted(vs, inputs, plan) };
    let wanted = |element: RuleElement| match element.set {
        RuleSet::NoEndpoints => will_refuse(want, inputs),
        _ => want.elements().any(|wanted| wanted == element),
    };
    diff_server_elements(vs, wanted, inputs, plan);
    match inputs.mirror.servers.get(&vs) {
        None => add_server(want, inputs, plan),
        Some(have) => change_server(want, have, inputs, plan),
    }
}

fn diff_unwanted(vs: VirtualServerId, inputs: &Inputs<'_>, plan: &mut Plan) {
    let unwanted = inputs.unwanted(&vs);
    let drains = unwanted == Unwanted::Drains;
    diff_server_elements(vs, |element| drains && is_of_draining(&element, inputs), inputs, plan);
    match unwanted {
        Unwanted::Drains => {
            let have = inputs.mirror.servers.get(&vs);
            for (rs, present) in have.into_iter().flat_map(|have| &have.real_servers) {
                drop_real_server(Key { vs, rs: *rs }, present, inputs, plan);
            }
        }
        Unwanted::Goes => plan.ipvs_remove.push(IpvsOp::DeleteVirtualServer { vs }),
        Unwanted::Absent | Unwanted::NotOurs => {}
    }
}

/// Whether an element of a virtual server stays while that drains: it is named ours and refuses new connections, and
/// its connections are masqueraded as they were.
fn is_of_draining(element: &RuleElement, inputs: &Inputs<'_>) -> bool {
    let has = |set| inputs.mirror.elements.contains(&RuleElement { set, ..*element });
    match element.set {
        RuleSet::Services | RuleSet::NoEndpoints => true,
        RuleSet::Masquerade => has(RuleSet::Masquerade),
        RuleSet::MasqueradeNonLocal => !has(RuleSet::Masquerade),
        RuleSet::Vips => false,
    }
}

fn diff_server_elements(
    vs: VirtualServerId,
    wanted: impl Fn(RuleElement) -> bool,
    inputs: &Inputs<'_>,
    plan: &mut Plan,
) {
    let Some(port) = vs.vip_port() else { return };
    for set in [RuleSet::Services, RuleSet::NoEndpoints, RuleSet::Masquerade, RuleSet::MasqueradeNonLocal] {
        let element = RuleElement::port(set, port);
        diff_element(element, wanted(element), inputs, plan);
    }
}

/// Whether new connections must be refused once the kernel has executed the plan: none of the real servers that are
/// wanted is there and stays, or may come now.
fn will_refuse(want: &ServerIntent, inputs: &Inputs<'_>) -> bool {
    if inputs.drains.is_idle() {
        return !want.has_real_servers();
    }
    let have = inputs.mirror.servers.get(&want.vs);
    let comes = |rs: RealServerId| {
        let key = Key { vs: want.vs, rs };
        match have.and_then(|have| have.real_server(&rs)) {
            Some(_) => !is_evicted(&key, inputs),
            None => !inputs.drains.is_resting(&key),
        }
    };
    !want.real_servers().any(comes)
}

/// Whether they must be refused as things are: the kernel has none of the real servers that are wanted, or only
/// quiesced ones, which happens where it has refused writes.
fn refuses(vs: VirtualServerId, inputs: &Inputs<'_>) -> bool {
    let have = inputs.mirror.servers.get(&vs);
    let serves = |rs: RealServerId| {
        have.and_then(|have| have.real_server(&rs)).is_some_and(|present| !present.weight.is_quiesced())
    };
    inputs.desired.server(&vs).is_some_and(|want| !want.real_servers().any(serves))
}

fn is_evicted(key: &Key, inputs: &Inputs<'_>) -> bool {
    inputs.drains.get(key).is_some_and(|drain| drain.due == Some(Outcome::AddressReused))
}

fn add_server(want: &ServerIntent, inputs: &Inputs<'_>, plan: &mut Plan) {
    plan.ipvs_add.push(IpvsOp::AddVirtualServer { vs: want.vs, settings: want.settings });
    add_real_servers(want, want.real_servers(), inputs, plan);
}

fn change_server(want: &ServerIntent, have: &MirrorServer, inputs: &Inputs<'_>, plan: &mut Plan) {
    if want.settings != have.settings {
        plan.ipvs_add.push(IpvsOp::SetVirtualServer { vs: want.vs, settings: want.settings });
    }
    let missing = want.real_servers().filter(|rs| have.real_server(rs).is_none());
    add_real_servers(want, missing, inputs, plan);
    for (rs, present) in &have.real_servers {
        if want.endpoint(rs).is_some_and(|endpoint| endpoint.chosen) {
            keep_real_server(want, (*rs, present), inputs, plan);
        } else {
            drop_real_server(Key { vs: want.vs, rs: *rs }, present, inputs, plan);
        }
    }
}

fn add_real_servers(
    want: &ServerIntent,
    missing: impl Iterator<Item = RealServerId>,
    inputs: &Inputs<'_>,
    plan: &mut Plan,
) {
    let (vs, settings) = (want.vs, want.real_server);
    let may_come = |rs: &RealServerId| !inputs.drains.is_resting(&Key { vs, rs: *rs });
    let mut added: Vec<_> = missing.filter(may_come).map(|rs| (inputs.order.hash_one(rs), rs)).collect();
    added.sort_unstable();
    if !inputs.drains.is_empty() {
        let keys = added.iter().map(|(_, rs)| Key { vs, rs: *rs });
        plan.returned.extend(keys.filter(|key| inputs.drains.get(key).is_some()));
    }
    plan.ipvs_add.extend(added.into_iter().map(|(_, rs)| IpvsOp::AddRealServer { vs, rs, settings }));
}

fn keep_real_server(
    want: &ServerIntent,
    (rs, present): (RealServerId, &RealServer),
    inputs: &Inputs<'_>,
    plan: &mut Plan,
) {
    let key = Key { vs: want.vs, rs };
    let drain = inputs.drains.get(&key);
    if drain.is_some_and(|drain| drain.due == Some(Outcome::AddressReused)) {
        remove_real_server(key, present, &mut plan.ipvs_evict);
        return;
    }
    if *present != want.real_server {
        plan.ipvs_add.push(IpvsOp::SetRealServer { vs: want.vs, rs, settings: want.real_server });
    }
    if drain.is_some() {
        plan.returned.push(key);
    }
}

fn drop_real_server(key: Key, present: &RealServer, inputs: &Inputs<'_>, plan: &mut Plan) {
    let Key { vs, rs } = key;
    if let Verdict::Remove(outcome) = inputs.drains.judge(&key, inputs.desired.drain_overrides(&vs)) {
        let stage = match outcome {
            Outcome::AddressReused => &mut plan.ipvs_evict,
            _ => &mut plan.ipvs_remove,
        };
        match outcome {
            Outcome::Immediate => stage.push(IpvsOp::DeleteRealServer { vs, rs }),
            _ => remove_real_server(key, present, stage),
        }
        return;
    }
    if !present.weight.is_quiesced() {
        let settings = present.with_weight(Weight::QUIESCED);
        plan.ipvs_remove.push(IpvsOp::SetRealServer { vs, rs, settings });
    }
    let cause = cause(&key, inputs);
    if inputs.drains.get(&key).is_none_or(|drain| cause.supersedes(drain.cause)) {
        plan.drains.push(NewDrain { key, cause });
    }
}

/// If the kernel refuses to remove it, at least nobody new is sent there.
fn remove_real_server(key: Key, present: &RealServer, stage: &mut Vec<IpvsOp>) {
    let Key { vs, rs } = key;
    if !present.weight.is_quiesced() {
        stage.push(IpvsOp::SetRealServer { vs, rs, settings: present.with_weight(Weight::QUIESCED) });
    }
    stage.push(IpvsOp::DeleteRealServer { vs, rs });
}

fn cause(key: &Key, inputs: &Inputs<'_>) -> Cause {
    let Some(want) = inputs.desired.server(&key.vs) else { return Cause::ServiceGone };
    match want.endpoint(&key.rs) {
        None => Cause::LeftSlices,
        Some(endpoint) if endpoint.terminating => Cause::Terminating,
        Some(endpoint) if endpoint.ready => Cause::NotChosen,
        Some(_) => Cause::NotServing,
    }
}
