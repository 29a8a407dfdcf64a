//! Comparison of desired state and mirror: the only place where a write is decided.
//!
//! [`diff`] is pure: it reads its [`Inputs`] and returns a [`Plan`]. It looks only at what is dirty, asks the
//! drain ledger what becomes of a real server that nobody wants, and never writes, waits or remembers
//! anything.
//!
//! Reading order: [`Inputs`], [`diff`], then `Differ` from the base (link, chains, kernel parameters) by way
//! of VIPs and fronts to single real servers. Deletions of tracked connections follow from the finished plan
//! (`conntrack`).

mod inputs;

use std::{collections::BTreeSet, hash::BuildHasher, net::IpAddr};

use drain::{Key, Outcome, Verdict};
use foldhash::quality::FixedState;
use ipnetwork::IpNetwork;
use lb_types::{
    Clients, Front, IpFamily, IpvsOp, RealServer, RealServerId, RouteTable, RuleElement, RuleSet, RulesOp,
    VipOp, VipPort, VirtualServerId, Weight,
};

pub use self::inputs::Inputs;
use self::inputs::Unwanted;
use crate::{
    Binding, Context, Dirty, FrontIntent, MirrorServer, NewDrain, Plan, Stage, Subject, conntrack, sysctls,
};

/// Compares what is dirty and returns the writes that make the kernel as desired.
pub fn diff(dirty: &Dirty, inputs: &Inputs<'_>) -> Plan {
    let mut differ = Differ { inputs, plan: Plan::default(), order: order(&inputs.context.config.node_name) };
    differ.base(dirty);
    let (mut vips, mut families, mut elements) = (vec![], vec![], vec![]);
    let (mut refusals, mut addresses) = (vec![], vec![]);
    for subject in dirty.iter() {
        match subject {
            Subject::Vip(vip) => vips.push(*vip),
            // A front that nobody wants may have kept its VIP bound, so that VIP is compared too.
            Subject::Front(front) if inputs.desired.front(front).is_none() => vips.extend(front.vip()),
            Subject::Steering(family) => families.push(*family),
            Subject::Element(element) => elements.push(*element),
            // A front that is compared as a whole gets its refusal from `will_refuse`, by what the plan will have done.
            Subject::Refusal(front) if !dirty.contains(&Subject::Front(*front)) => refusals.push(*front),
            Subject::Address(addr) => addresses.push(*addr),
            Subject::Base | Subject::Sysctls | Subject::Front(_) | Subject::Refusal(_) => {}
        }
    }
    let vips = sorted(vips.into_iter());
    for vip in &vips {
        differ.vip(*vip);
    }
    for family in sorted(families.into_iter()) {
        differ.rule(family);
    }
    for element in sorted(elements.into_iter()) {
        match element {
            // It has been compared along with its VIP.
            RuleElement::UnansweredVip(vip) if vips.binary_search(&vip).is_ok() => {}
            RuleElement::UnansweredVip(vip) => differ.unanswered(vip),
            _ => differ.element(element, inputs.desired.elements().has(element)),
        }
    }
    for front in differ.fronts(dirty) {
        differ.front(front);
    }
    for front in sorted(refusals.into_iter()) {
        differ.element(refusal(&front), inputs.refuses(&front));
    }
    // An address is dirty by itself, or because the plan may bring the route of its VIP.
    let mut addresses = sorted(addresses.into_iter().chain(vips.iter().copied()));
    addresses.retain(|addr| inputs.mirror.addresses.contains(addr) && inputs.is_spare(addr, &vips));
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

/// Sorts keys, each once, so that neither plans nor intents depend on the order in which changes came.
pub(crate) fn sorted<K: Ord>(keys: impl Iterator<Item = K>) -> Vec<K> {
    let mut keys: Vec<_> = keys.collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Comparison in progress.
struct Differ<'a> {
    inputs: &'a Inputs<'a>,
    plan: Plan,
    order: FixedState,
}

impl Differ<'_> {
    /// Fronts to compare: those that are dirty, and those whose comparison depends on them.
    fn fronts(&self, dirty: &Dirty) -> Vec<Front> {
        let Inputs { desired, mirror, .. } = self.inputs;
        let is_unwanted = |front: &Front| desired.front(front).is_none();
        let is_left = |front: &Front| is_unwanted(front) && mirror.server(front).is_some();
        // How the real servers of external clients drain whom nobody wants any more, depends on the endpoints of all.
        let external = dirty.fronts().map(|front| front.for_external()).filter(is_left);
        // What all have of a front may wait for the drains of those.
        let any = dirty.fronts().filter(|front| front.clients == Clients::External);
        let any = any.map(|front| front.for_any()).filter(is_unwanted);
        // The other key of a node port says whether its clients are served.
        let counterparts = dirty.fronts().filter(|front| front.clients == Clients::Any);
        let counterparts = counterparts.flat_map(|front| self.inputs.counterparts(front)).filter(is_left);
        sorted(dirty.fronts().copied().chain(external).chain(any).chain(counterparts))
    }

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
            // Packets that are steered already get another bit with the chains.
            let bit = context.config.layout.steer_bit;
            let missing = mirror.rules.iter().map(|(family, _)| *family).collect::<BTreeSet<_>>();
            let missing = missing.into_iter().filter(|family| !mirror.rules.contains(&(*family, bit)));
            self.plan.extend(Stage::RoutingRules, missing.map(|family| VipOp::EnsureRule { family, bit }));
            self.plan.push(Stage::RulesAdd, RulesOp::InstallLayout(context.config.layout.clone()));
            // A set that is made anew has no elements: what is steered already goes on in the same transaction.
            let steered = mirror.steered.iter().map(|vip| RuleElement::SteeredVip(*vip));
            let missing = steered.filter(|element| {
                !mirror.elements.contains(element) && !dirty.contains(&Subject::Vip(element.addr()))
            });
            self.plan.extend(Stage::RulesAdd, sorted(missing).into_iter().map(RulesOp::AddElement));
        }
    }

    /// Compares the rule of the routing policy for steered packets. Once there, it stays until a clean-up: without a
    /// route in its table it has no effect.
    fn rule(&mut self, family: IpFamily) {
        let Inputs { desired, mirror, context, .. } = self.inputs;
        let bit = context.config.layout.steer_bit;
        if desired.steers(family) && !mirror.rules.contains(&(family, bit)) {
            self.plan.push(Stage::RoutingRules, VipOp::EnsureRule { family, bit });
        }
        let others = mirror.rules.iter().filter(|(of, other)| *of == family && *other != bit);
        let deletions = others.map(|(family, bit)| VipOp::DeleteRule { family: *family, bit: *bit });
        self.plan.extend(Stage::VipsRemove, deletions);
    }

    fn vip(&mut self, vip: IpAddr) {
        let Inputs { mirror, context: Context { facts, .. }, .. } = self.inputs;
        let binding = self.inputs.bound(&vip);
        let source = facts.sources.get(&IpFamily::of(vip)).copied();
        let present = mirror.routes.get(&vip).copied();
        self.route(vip, RouteTable::Local, binding == Some(Binding::Route), (source, present));
        let present = mirror.steered.contains(&vip).then_some(None);
        self.route(vip, RouteTable::Steering, binding == Some(Binding::Steer), (None, present));
        if binding == Some(Binding::Address) && !mirror.addresses.contains(&vip) {
            self.plan.push(Stage::VipsAdd, VipOp::EnsureAddress { addr: vip });
        }
        self.element(RuleElement::Vip(vip), binding.is_some_and(Binding::is_whole));
        self.element(RuleElement::SteeredVip(vip), binding == Some(Binding::Steer));
        self.unanswered(vip);
        self.element(RuleElement::NodeAddress(vip), self.inputs.serves_node_ports(vip));
    }

    /// Compares the element by which a VIP is not answered for by ARP; where the kernel has no place for it, nothing.
    fn unanswered(&mut self, vip: IpAddr) {
        if vip.is_ipv4() && self.inputs.context.config.layout.arp.is_some() {
            self.element(RuleElement::UnansweredVip(vip), self.inputs.bound(&vip) == Some(Binding::Route));
        }
    }

    /// Compares the route of a VIP in a table with the source that it has, and the one that it must have.
    fn route(
        &mut self,
        vip: IpAddr,
        table: RouteTable,
        is_wanted: bool,
        (source, present): (Option<IpAddr>, Option<Option<IpAddr>>),
    ) {
        match (is_wanted, present) {
            (true, Some(present)) if present == source => {}
            (true, _) => self.plan.push(Stage::VipsAdd, VipOp::EnsureRoute { vip, table, source }),
            (false, Some(_)) => self.plan.push(Stage::VipsRemove, VipOp::DeleteRoute { vip, table }),
            (false, None) => {}
        }
    }

    fn element(&mut self, element: RuleElement, is_wanted: bool) {
        match (is_wanted, self.inputs.mirror.elements.contains(&element)) {
            (true, false) => self.plan.push(Stage::RulesAdd, RulesOp::AddElement(element)),
            (false, true) => self.plan.push(Stage::RulesRemove, RulesOp::DeleteElement(element)),
            (true, true) | (false, false) => {}
        }
    }

    fn front(&mut self, front: Front) {
        let Inputs { desired, mirror, .. } = self.inputs;
        let Some(want) = desired.front(&front) else { return self.unwanted(front) };
        let Some(vs) = mirror.key(&front) else {
            // Without a mark it has no virtual server, and none can come. Clients outside must not get endpoints of
            // other nodes instead, whose answers would not come through here.
            if front.clients == Clients::External {
                self.element(RuleElement::DropExternal(front.port), true);
            }
            return;
        };
        let will_refuse = self.inputs.will_refuse(want);
        match front.clients {
            Clients::Any => {
                let masquerade = self.inputs.masquerade(want).element(front.port);
                for set in PORT_SETS {
                    let Some(element) = set.of_port(front.port) else { continue };
                    let is_wanted = match element {
                        RuleElement::Service(_) => true,
                        RuleElement::Refuse(_) => will_refuse,
                        _ => masquerade == Some(element),
                    };
                    self.element(element, is_wanted);
                }
                self.restrict(front.port, want.allowed.as_deref());
                self.steer(front.port, want.binding == Binding::Steer);
            }
            Clients::External => self.element(RuleElement::DropExternal(front.port), will_refuse),
        }
        self.lead_clients(front);
        match mirror.servers.get(&vs) {
            None => {
                self.plan.push(Stage::ServersAdd, IpvsOp::AddVirtualServer { vs, settings: want.settings });
                self.add_real_servers(want, vs, want.real_servers());
            }
            Some(have) => self.change_server(want, vs, have),
        }
    }

    /// Steers the packets to a port here, once their route exists, or leaves them to routing.
    fn steer(&mut self, port: VipPort, is_steered: bool) {
        let (all, known) = (RuleElement::Steer(port), RuleElement::SteerKnown(port));
        if is_steered && !self.inputs.mirror.elements.contains(&all) {
            self.plan.push(Stage::RulesLead, RulesOp::AddElement(all));
        } else {
            self.element(all, is_steered);
        }
        self.element(known, false);
    }

    /// Lets certain clients connect to a port, or everybody. One transaction replaces prefixes: those that go are
    /// deleted first, because they may overlap with those that come, and nobody else is let in meanwhile.
    fn restrict(&mut self, port: VipPort, allowed: Option<&[IpNetwork]>) {
        let present = self.inputs.mirror.allowed.get(&port);
        let is_present = |clients: &IpNetwork| present.is_some_and(|present| present.contains(clients));
        let mut wanted = allowed.unwrap_or_default().to_vec();
        wanted.extend(self.inputs.this_node_as_vip(port.addr, &wanted));
        let stage = if allowed.is_some() { Stage::RulesAdd } else { Stage::RulesRemove };
        self.element(RuleElement::Restrict(port), allowed.is_some());
        let stale = present.into_iter().flatten().filter(|clients| !wanted.contains(clients));
        self.plan
            .extend(stage, stale.map(|clients| RulesOp::DeleteElement(RuleElement::Allow(port, *clients))));
        let missing = wanted.iter().filter(|clients| !is_present(clients));
        self.plan
            .extend(stage, missing.map(|clients| RulesOp::AddElement(RuleElement::Allow(port, *clients))));
    }

    /// Gives the packets of clients the mark of their front, if it has one, once its virtual server is complete:
    /// until then, they go where they went before. The element without effect is the tag meanwhile. Where nobody is
    /// served yet, they have their mark from the beginning: external ones must not come to endpoints of other nodes.
    fn lead_clients(&mut self, front: Front) {
        let Inputs { mirror, .. } = self.inputs;
        let Some([leads, tags]) = mirror.mark_elements(&front) else { return };
        if mirror.elements.contains(&leads) || !self.inputs.is_served_without(&front) {
            self.element(leads, true);
            self.element(tags, false);
            return;
        }
        self.element(tags, true);
        self.plan.extend(Stage::RulesLead, [RulesOp::AddElement(leads), RulesOp::DeleteElement(tags)]);
    }

    fn unwanted(&mut self, front: Front) {
        let mirror = self.inputs.mirror;
        let fate = self.inputs.unwanted(&front);
        let drains = fate == Unwanted::Drains;
        match front.clients {
            Clients::Any => {
                let has_moved = self.inputs.successor(&front).is_some();
                let has_left = self.inputs.has_left(&front);
                // Routing takes new connections to a steered address, while known ones are steered as before.
                let is_steered = self.inputs.binding(&front.port.addr) == Some(Binding::Steer);
                for element in PORT_SETS.into_iter().filter_map(|set| set.of_port(front.port)) {
                    // While it drains, it stays tagged as ours. New connections are refused, and those that it has are
                    // masqueraded as before; but where new ones go elsewhere now, they are masqueraded as is meant
                    // there, and those that it has by what is tracked of them.
                    let stays = match element {
                        RuleElement::Service(_) => true,
                        RuleElement::Refuse(_) => !has_moved && !has_left && !is_steered,
                        _ => !has_moved && mirror.elements.contains(&element),
                    };
                    self.element(element, stays && drains);
                }
                if has_moved {
                    self.release_clients(front, drains);
                } else if let Some([leads, tags]) = mirror.mark_elements(&front) {
                    self.element(leads, drains);
                    self.element(tags, false);
                }
                // New connections that go elsewhere are not for this front to restrict.
                if !drains || is_steered || has_moved {
                    self.restrict(front.port, None);
                }
                let has_connections =
                    drains || self.inputs.unwanted(&front.for_external()) == Unwanted::Drains;
                self.element(RuleElement::SteerKnown(front.port), has_connections && is_steered);
                self.element(RuleElement::Steer(front.port), false);
            }
            Clients::External => {
                self.element(RuleElement::DropExternal(front.port), false);
                self.release_clients(front, drains);
            }
        }
        let Some(vs) = mirror.key(&front) else { return };
        match fate {
            Unwanted::Drains => {
                let have = mirror.server(&front);
                for (rs, present) in have.into_iter().flat_map(|have| &have.real_servers) {
                    self.drop_real_server(Key { front, rs: *rs }, vs, present);
                }
            }
            Unwanted::Goes => self.plan.push(Stage::IpvsRemove, IpvsOp::DeleteVirtualServer { vs }),
            Unwanted::Absent | Unwanted::NotOurs => {}
        }
    }

    /// Lets clients of a mark go where those without it go, before their real servers are quiesced. While those drain,
    /// the element without effect tags the virtual server as ours.
    fn release_clients(&mut self, front: Front, drains: bool) {
        let Inputs { mirror, .. } = self.inputs;
        let Some([leads, tags]) = mirror.mark_elements(&front) else { return };
        self.element(tags, drains);
        if mirror.elements.contains(&leads) {
            let stage = if drains { Stage::RulesLead } else { Stage::RulesRemove };
            self.plan.push(stage, RulesOp::DeleteElement(leads));
        }
    }

    fn change_server(&mut self, want: &FrontIntent, vs: VirtualServerId, have: &MirrorServer) {
        if want.settings != have.settings {
            self.plan.push(Stage::IpvsAdd, IpvsOp::SetVirtualServer { vs, settings: want.settings });
        }
        self.add_real_servers(want, vs, want.real_servers().filter(|rs| have.real_server(rs).is_none()));
        for (rs, present) in &have.real_servers {
            let key = Key { front: want.front, rs: *rs };
            match want.endpoint(rs) {
                Some(endpoint) if endpoint.chosen => self.keep_real_server(want, key, vs, present),
                _ => self.drop_real_server(key, vs, present),
            }
        }
    }

    fn add_real_servers(
        &mut self,
        want: &FrontIntent,
        vs: VirtualServerId,
        missing: impl Iterator<Item = RealServerId>,
    ) {
        let Inputs { drains, .. } = self.inputs;
        let key = |rs: RealServerId| Key { front: want.front, rs };
        // Real servers that come in one sync stand in this node's order, not in the API's.
        let may_come = missing.filter(|rs| !self.inputs.is_held_down(&key(*rs)));
        let added = sorted(may_come.map(|rs| (self.order.hash_one(rs), rs)));
        // One that drains, but that somebody else has removed, serves again by being added.
        if !drains.is_empty() {
            let keys = added.iter().map(|(_, rs)| key(*rs));
            self.plan.returned.extend(keys.filter(|key| drains.get(key).is_some()));
        }
        let settings = want.real_server;
        let ops = added.into_iter().map(|(_, rs)| IpvsOp::AddRealServer { vs, rs, settings });
        self.plan.extend(Stage::IpvsAdd, ops);
    }

    fn keep_real_server(&mut self, want: &FrontIntent, key: Key, vs: VirtualServerId, present: &RealServer) {
        if self.inputs.is_evicted(&key) {
            return self.remove_real_server(key.rs, vs, present, Stage::Evict);
        }
        if *present != want.real_server {
            let op = IpvsOp::SetRealServer { vs, rs: key.rs, settings: want.real_server };
            self.plan.push(Stage::IpvsAdd, op);
        }
        if self.inputs.drains.get(&key).is_some() {
            self.plan.returned.push(key);
        }
    }

    fn drop_real_server(&mut self, key: Key, vs: VirtualServerId, present: &RealServer) {
        let Inputs { desired, drains, .. } = self.inputs;
        let rs = key.rs;
        match drains.judge(&key, desired.drain_overrides(&key.front)) {
            Verdict::Remove(Outcome::Immediate) => {
                self.plan.push(Stage::IpvsRemove, IpvsOp::DeleteRealServer { vs, rs });
            }
            Verdict::Remove(Outcome::AddressReused) => self.remove_real_server(rs, vs, present, Stage::Evict),
            Verdict::Remove(_) => self.remove_real_server(rs, vs, present, Stage::IpvsRemove),
            Verdict::Quiesce => {
                self.quiesce(rs, vs, present, Stage::IpvsRemove);
                let cause = self.inputs.cause(&key);
                if drains.get(&key).is_none_or(|drain| cause.supersedes(drain.cause)) {
                    self.plan.drains.push(NewDrain { key, cause });
                }
            }
        }
    }

    /// Quiesces a real server, then removes it: if the kernel refuses the removal, at least no new client is
    /// sent there.
    fn remove_real_server(
        &mut self,
        rs: RealServerId,
        vs: VirtualServerId,
        present: &RealServer,
        stage: Stage,
    ) {
        self.quiesce(rs, vs, present, stage);
        self.plan.push(stage, IpvsOp::DeleteRealServer { vs, rs });
    }

    fn quiesce(&mut self, rs: RealServerId, vs: VirtualServerId, present: &RealServer, stage: Stage) {
        if !present.weight.is_quiesced() {
            let settings = present.with_weight(Weight::QUIESCED);
            self.plan.push(stage, IpvsOp::SetRealServer { vs, rs, settings });
        }
    }
}

/// Element that keeps new connections from a front without real servers.
const fn refusal(front: &Front) -> RuleElement {
    match front.clients {
        Clients::Any => RuleElement::Refuse(front.port),
        Clients::External => RuleElement::DropExternal(front.port),
    }
}

/// Sets that may have an element for the port of a front for any client.
const PORT_SETS: [RuleSet; 7] = [
    RuleSet::Services,
    RuleSet::NoEndpoints,
    RuleSet::Masquerade,
    RuleSet::MasqueradeNonLocal,
    RuleSet::MasqueradeExternal,
    RuleSet::MasqueradePods,
    RuleSet::MasqueradeVips,
];
