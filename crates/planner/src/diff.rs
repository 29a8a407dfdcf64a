//! Desired state and mirror compared: the only place where a write is decided.

use std::{hash::BuildHasher, net::IpAddr};

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
        touch.vips.extend(mirror.routes.keys().filter(|vip| !desired.wants_vip(vip)));
        touch.addresses.extend(&mirror.addresses);
        for element in &mirror.elements {
            match element.key {
                ElementKey::Addr(vip) if !desired.wants_vip(&vip) => touch.vips.extend([vip]),
                ElementKey::Port(port) => touch.servers.extend(Some(port.into()).filter(unwanted)),
                ElementKey::Addr(_) => {}
            }
        }
        touch
    }

    /// Adds another touch.
    pub fn extend(&mut self, other: Touch) {
        self.servers.extend(other.servers);
        self.vips.extend(other.vips);
        self.addresses.extend(other.addresses);
    }

    /// Leaves out what nobody wants.
    pub fn keep_desired(&mut self, desired: &Desired) {
        self.servers.retain(|vs| desired.server(vs).is_some());
        self.vips.retain(|vip| desired.wants_vip(vip));
        self.addresses.clear();
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.servers.len() + self.vips.len() + self.addresses.len()
    }

    /// Whether nothing is touched.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty() && self.vips.is_empty() && self.addresses.is_empty()
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
    /// In which order real servers come: another one on each node, but the same from time to time.
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
        drains: &'a Ledger,
    ) -> Self {
        let node = FixedState::default().hash_one(&config.node_name);
        let order = FixedState::with_seed(node);
        Inputs { desired, mirror, ownership, facts, config, drains, order }
    }

    fn verdict(&self, want: &ServerIntent, rs: RealServerId) -> Verdict {
        self.drains.judge(&Key { vs: want.vs, rs }, want.drain_overrides())
    }

    pub(crate) fn desired(&self) -> &'a Desired {
        self.desired
    }

    pub(crate) fn mirror(&self) -> &'a Mirror {
        self.mirror
    }
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
    sorted(touch.vips.iter().copied()).into_iter().for_each(|vip| diff_vip(vip, inputs, &mut plan));
    sorted(touch.servers.iter().copied()).into_iter().for_each(|vs| diff_server(vs, inputs, &mut plan));
    let present = touch.addresses.union(&touch.vips).filter(|addr| inputs.mirror.addresses.contains(addr));
    let unwanted = sorted(present.filter(|addr| is_spare(addr, touch, inputs)).copied());
    plan.vips_remove.extend(unwanted.into_iter().map(|addr| VipOp::DeleteAddress { addr }));
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
fn is_spare(addr: &IpAddr, touch: &Touch, inputs: &Inputs<'_>) -> bool {
    let routed = inputs.mirror.routes.contains_key(addr) || touch.vips.contains(addr);
    routed || !inputs.desired.wants_vip(addr)
}

/// Removes everything that is ours and nothing else: VIPs first, so that nothing leads to what goes next.
pub fn cleanup(mirror: &Mirror, ownership: &Ownership) -> Plan {
    let mut plan = Plan::default();
    if mirror.link_ours {
        plan.vips_remove.push(VipOp::DeleteLink);
    }
    let ours = mirror.servers.keys().filter(|vs| ownership.owns(vs, mirror));
    plan.ipvs_remove.extend(ours.map(|vs| IpvsOp::DeleteVirtualServer { vs: *vs }));
    plan.rules_remove.push(RulesOp::DeleteTable);
    plan
}

fn diff_vip(vip: IpAddr, inputs: &Inputs<'_>, plan: &mut Plan) {
    let wanted = inputs.desired.wants_vip(&vip) && !inputs.facts.addresses.contains_key(&vip);
    let source = inputs.facts.sources.get(&lb_types::IpFamily::of(vip)).copied();
    match (wanted, inputs.mirror.routes.get(&vip)) {
        (true, Some(present)) if *present == source => {}
        (true, _) => plan.vips_add.push(VipOp::EnsureRoute { vip, source }),
        (false, Some(_)) => plan.vips_remove.push(VipOp::DeleteRoute { vip }),
        (false, None) => {}
    }
    diff_element(RuleElement::vip(vip), wanted, inputs, plan);
}

fn diff_element(element: RuleElement, wanted: bool, inputs: &Inputs<'_>, plan: &mut Plan) {
    match (wanted, inputs.mirror.elements.contains(&element)) {
        (true, false) => plan.rules_add.push(RulesOp::AddElement(element)),
        (false, true) => plan.rules_remove.push(RulesOp::DeleteElement(element)),
        (true, true) | (false, false) => {}
    }
}

fn diff_server(vs: VirtualServerId, inputs: &Inputs<'_>, plan: &mut Plan) {
    let desired = inputs.desired.server(&vs);
    diff_server_elements(vs, desired, inputs, plan);
    match (desired, inputs.mirror.servers.get(&vs)) {
        // Nothing to drain: a retiring virtual server that is not there is not created for that.
        (Some(_), None) if inputs.desired.is_retiring(&vs) => {}
        (Some(want), None) => add_server(want, inputs, plan),
        (Some(want), Some(have)) => change_server(want, have, inputs, plan),
        (None, Some(_)) if inputs.desired.is_released(&vs) && !inputs.ownership.excludes(&vs) => {
            plan.ipvs_remove.push(IpvsOp::DeleteVirtualServer { vs });
        }
        (None, _) => {}
    }
}

fn diff_server_elements(
    vs: VirtualServerId,
    desired: Option<&ServerIntent>,
    inputs: &Inputs<'_>,
    plan: &mut Plan,
) {
    let Some(port) = vs.vip_port() else { return };
    let wanted = |element| desired.is_some_and(|desired| desired.elements().any(|e| e == element));
    for set in [RuleSet::Services, RuleSet::NoEndpoints, RuleSet::Masquerade, RuleSet::MasqueradeNonLocal] {
        let element = RuleElement::port(set, port);
        diff_element(element, wanted(element), inputs, plan);
    }
}

fn add_server(want: &ServerIntent, inputs: &Inputs<'_>, plan: &mut Plan) {
    plan.ipvs_add.push(IpvsOp::AddVirtualServer { vs: want.vs, settings: want.settings });
    add_real_servers(want, want.real_servers.iter(), inputs, plan);
}

fn change_server(want: &ServerIntent, have: &MirrorServer, inputs: &Inputs<'_>, plan: &mut Plan) {
    if want.settings != have.settings {
        plan.ipvs_add.push(IpvsOp::SetVirtualServer { vs: want.vs, settings: want.settings });
    }
    let missing = want.real_servers.iter().filter(|rs| have.real_server(rs).is_none());
    add_real_servers(want, missing, inputs, plan);
    for (rs, present) in &have.real_servers {
        match want.real_servers.binary_search(rs).is_ok() {
            true => keep_real_server(want, (*rs, present), inputs, plan),
            false => drop_real_server(want, (*rs, present), inputs, plan),
        }
    }
}

fn add_real_servers<'a>(
    want: &ServerIntent,
    missing: impl Iterator<Item = &'a RealServerId>,
    inputs: &Inputs<'_>,
    plan: &mut Plan,
) {
    let (vs, settings) = (want.vs, want.real_server);
    let may_come = |rs: &&RealServerId| !inputs.drains.is_resting(&Key { vs, rs: **rs });
    let mut added: Vec<_> = missing.filter(may_come).map(|rs| (inputs.order.hash_one(rs), *rs)).collect();
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

fn drop_real_server(
    want: &ServerIntent,
    (rs, present): (RealServerId, &RealServer),
    inputs: &Inputs<'_>,
    plan: &mut Plan,
) {
    let key = Key { vs: want.vs, rs };
    if let Verdict::Remove(outcome) = inputs.verdict(want, rs) {
        let stage = match outcome {
            Outcome::AddressReused => &mut plan.ipvs_evict,
            _ => &mut plan.ipvs_remove,
        };
        match outcome {
            Outcome::Immediate => stage.push(IpvsOp::DeleteRealServer { vs: want.vs, rs }),
            _ => remove_real_server(key, present, stage),
        }
        return;
    }
    if !present.weight.is_quiesced() {
        let settings = present.with_weight(Weight::QUIESCED);
        plan.ipvs_remove.push(IpvsOp::SetRealServer { vs: want.vs, rs, settings });
    }
    let cause = cause(want, rs, inputs);
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

fn cause(want: &ServerIntent, rs: RealServerId, inputs: &Inputs<'_>) -> Cause {
    if inputs.desired.is_retiring(&want.vs) {
        Cause::ServiceGone
    } else if want.terminating.contains(&rs) {
        Cause::Terminating
    } else if want.known.binary_search(&rs).is_ok() {
        Cause::NotServing
    } else {
        Cause::LeftSlices
    }
}
