//! Intents of all Services together, with claims on the same front resolved.
//!
//! [`Desired`] owns the answer to two questions: which Service has a front, and which VIPs are in use.
//! Replacing the intent of one Service ([`Desired::replace`]) returns what follows from it: subjects to
//! compare, real servers that a pod has lost, drain settings that changed. It never looks at the kernel or
//! the mirror, and does not compute intents ([`crate::desire_service`] does).
//!
//! Reading order: [`Changes`] and [`Vacated`], [`Desired::replace`], then the queries behind it.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::Arc,
};

use drain::{Key, Overrides};
use lb_types::{Clients, FastMap, Front, IpFamily, PodUid, RuleElement, ServiceName, ServicePortName};
use service_model::ServiceIndex;
use tally::Tallied;

use crate::{
    Binding, BindingReason, Dirty, FrontIntent, HealthCheck, IntentProblem, ProblemKind, ServerEndpoint,
    ServiceIntent, Subject, Traffic, no_local::NoLocalCounts,
};

/// The desired state of the node.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    services: Tallied<FastMap<ServiceName, Arc<ServiceIntent>>>,
    /// Claims on a front, the winner first; more than one only where Services claim the same front.
    claims: Tallied<FastMap<Front, Vec<Claim>>>,
    /// Fronts that nobody claims any more, kept until their virtual servers are gone. They decide no write.
    former: Tallied<FastMap<Front, Former>>,
    /// Services with a health check, each with its own.
    health_checks: BTreeMap<ServiceName, HealthCheck>,
    /// Number of changes of those.
    health_version: u64,
    /// Elements that Services want apart from their fronts.
    elements: ServiceIndex<RuleElement>,
    /// Fronts on each VIP.
    vips: Tallied<FastMap<IpAddr, FrontCounts>>,
    /// Number of VIPs that are steered, by family.
    steered: BTreeMap<IpFamily, usize>,
    /// VIPs of Services that are no ClusterIPs of theirs.
    guests: ServiceIndex<IpAddr>,
    /// VIPs that Services have and that are bound to no node.
    unbound: ServiceIndex<IpAddr>,
    /// Numbers of Services that have endpoints, but none on this node for a Local policy.
    no_local: NoLocalCounts,
}

/// Number of fronts on a VIP.
#[derive(Clone, Copy, Debug, Default)]
struct FrontCounts {
    by_binding: [u32; Binding::ALL.len()],
    /// Those that have it as a ClusterIP.
    of_cluster_ip: u32,
}

/// Memory of the Service port that a front served last.
#[derive(Clone, Debug)]
struct Former {
    name: ServicePortName,
    /// Drain settings that differ from the configuration.
    drain: Option<Arc<Overrides>>,
}

#[derive(Clone, Debug)]
struct Claim {
    service: ServiceName,
    intent: Arc<ServiceIntent>,
    /// Position in `intent.fronts`.
    at: usize,
}

impl Claim {
    fn wanted(&self) -> &FrontIntent {
        &self.intent.fronts[self.at]
    }

    /// Name of the port in the API.
    fn name(&self) -> ServicePortName {
        ServicePortName { service: self.service.clone(), port: Arc::clone(&self.wanted().port_name) }
    }

    /// Compares claims on one front, the winner first: a ClusterIP before an external address, then the older
    /// Service; without a time stamp it is the youngest; the name decides between equals.
    fn rank(&self, other: &Claim) -> Ordering {
        let created = |claim: &Claim| claim.intent.created.unwrap_or(i64::MAX);
        let key = |claim: &Claim| (!claim.wanted().is_cluster_ip, created(claim));
        key(self).cmp(&key(other)).then_with(|| self.service.cmp(&other.service))
    }
}

/// Consequences of replaced intents.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// Subjects that must be compared with the kernel.
    pub dirty: Dirty,
    /// Real servers that took connections for a pod and no longer do.
    pub vacated: Vec<Vacated>,
    /// Fronts whose drains may follow other settings from now on.
    pub configured: Vec<Front>,
}

/// Real server that a pod has lost: it takes no new connections, or another pod takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vacated {
    /// The real server.
    pub key: Key,
    /// The Service that it served.
    pub service: ServiceName,
    /// The pod, if the API named one.
    pub pod: Option<PodUid>,
}

/// Consequences of one replaced intent.
struct Change<'a> {
    changes: &'a mut Changes,
    /// Services that may win a front which this one gave up, or lose one to it.
    rivals: BTreeSet<ServiceName>,
}

impl Change<'_> {
    /// Marks a front and what depends on it, given its claims after the change by one Service.
    fn mark(&mut self, front: &Front, claims: &[Claim], by: &ServiceName) {
        self.rivals.extend(claims.iter().map(|claim| claim.service.clone()).filter(|name| name != by));
        self.changes.dirty.insert(Subject::Front(*front));
        self.changes.dirty.extend(front.vip().map(Subject::Vip));
    }

    /// Marks the front for other clients of the same place, which goes to the same Service.
    fn mark_sibling(&mut self, front: &Front, claims: Option<&Vec<Claim>>) {
        self.changes.dirty.extend(claims.map(|_| Subject::Front(front.sibling())));
    }
}

impl Desired {
    /// Replaces the intent of a Service (`None` when the Service is gone) and adds the consequences to
    /// `changes`. Returns the other Services whose [`Desired::conflicts`] may have changed.
    pub fn replace(
        &mut self,
        name: &ServiceName,
        intent: Option<ServiceIntent>,
        changes: &mut Changes,
    ) -> BTreeSet<ServiceName> {
        let mut change = Change { changes, rivals: BTreeSet::new() };
        if self.services.get(name).map(Arc::as_ref) == intent.as_ref() {
            return change.rivals;
        }
        let new = intent.map(Arc::new);
        self.replace_health_check(name, new.as_ref().and_then(|new| new.health_check.clone()));
        let old = match &new {
            Some(new) => self.services.insert(name.clone(), new.clone()),
            None => self.services.remove(name),
        };
        // The winners before the change are noted first: `succeed` compares them with those after it.
        let fronts = old.iter().chain(&new).flat_map(|intent| &intent.fronts).map(|want| want.front);
        // Who has a place for external clients may follow from a claim on it for any.
        let fronts = fronts.flat_map(|front| [front, front.for_external()]);
        let mut fronts: Vec<_> = fronts.collect();
        fronts.sort_unstable();
        fronts.dedup();
        let intents = [old.as_deref(), new.as_deref()];
        self.guests.replace(name, intents, ServiceIntent::guest_vips);
        let elements = self.elements.replace(name, intents, ServiceIntent::elements);
        change.changes.dirty.extend(elements.into_iter().map(Subject::Element));
        for vip in self.unbound.replace(name, intents, ServiceIntent::unbound_vips) {
            change.changes.dirty.insert(Subject::Vip(vip));
            // Whether the others share the binding of a VIP with this Service is a finding about them.
            if self.binding(&vip).is_some() {
                change.rivals.extend(self.guests.at(vip).filter(|service| *service != name).cloned());
            }
        }
        self.no_local.replace(old.as_ref().map(|old| old.no_local), new.as_ref().map(|new| new.no_local));
        let before: Vec<_> = fronts.iter().filter_map(|front| self.claim_on(front).cloned()).collect();
        if let Some(old) = &old {
            for want in &old.fronts {
                self.unclaim(name, want, &mut change);
            }
        }
        if let Some(new) = &new {
            for at in 0..new.fronts.len() {
                self.claim(name, new, at, &mut change);
            }
        }
        for claim in before {
            self.succeed(&claim, change.changes);
        }
        change.rivals
    }

    fn replace_health_check(&mut self, name: &ServiceName, check: Option<HealthCheck>) {
        if self.health_checks.get(name) == check.as_ref() {
            return;
        }
        self.health_version += 1;
        match check {
            Some(check) => self.health_checks.insert(name.clone(), check),
            None => self.health_checks.remove(name),
        };
    }

    /// Numbers of Services that a Local policy leaves without an endpoint on this node, though they have endpoints.
    pub fn no_local_endpoints(&self) -> impl Iterator<Item = (Traffic, IpFamily, usize)> {
        self.no_local.all()
    }

    /// All health checks, with their Services.
    pub fn health_checks(&self) -> impl Iterator<Item = (&ServiceName, &HealthCheck)> {
        self.health_checks.iter()
    }

    /// Number that grows whenever a health check changes.
    pub fn health_version(&self) -> u64 {
        self.health_version
    }

    /// Elements that Services want apart from their fronts.
    pub fn elements(&self) -> &ServiceIndex<RuleElement> {
        &self.elements
    }

    fn claim(&mut self, name: &ServiceName, intent: &Arc<ServiceIntent>, at: usize, change: &mut Change<'_>) {
        let claim = Claim { service: name.clone(), intent: intent.clone(), at };
        let front = claim.wanted().front;
        if !self.former.is_empty() && self.former.remove(&front).is_some() {
            change.changes.configured.push(front);
        }
        let claims = self.claims.entry(front).or_default();
        let position = claims.partition_point(|other| other.rank(&claim).is_lt());
        claims.insert(position, claim);
        change.mark(&front, claims, name);
        change.mark_sibling(&front, self.claims.get(&front.sibling()));
        self.recount(&intent.fronts[at], |count| *count += 1, name, change);
    }

    /// Gives a front up. A front that nobody claims any more drains, and then goes ([`crate::diff`]).
    fn unclaim(&mut self, name: &ServiceName, want: &FrontIntent, change: &mut Change<'_>) {
        let Some(claims) = self.claims.get_mut(&want.front) else { return };
        claims.retain(|claim| claim.service != *name);
        change.mark(&want.front, claims, name);
        if claims.is_empty() {
            self.claims.remove(&want.front);
        }
        change.mark_sibling(&want.front, self.claims.get(&want.front.sibling()));
        self.recount(want, |count| *count -= 1, name, change);
    }

    /// Fronts of a Service on a VIP.
    fn fronts_on(&self, service: &ServiceName, vip: &IpAddr) -> impl Iterator<Item = &Front> {
        let fronts = self.services.get(service).into_iter().flat_map(|intent| &intent.fronts);
        fronts.map(|want| &want.front).filter(move |front| front.vip() == Some(*vip))
    }

    /// Counts a front that a Service has claimed, or given up, among those on its VIP, and follows the binding of that.
    fn recount(&mut self, want: &FrontIntent, step: fn(&mut u32), by: &ServiceName, change: &mut Change<'_>) {
        let Some(vip) = &want.front.vip() else { return };
        let before = self.binding(vip);
        let counts = self.vips.entry(*vip).or_default();
        step(&mut counts.by_binding[want.binding as usize]);
        if want.is_cluster_ip {
            step(&mut counts.of_cluster_ip);
        }
        let bindings = counts.by_binding.iter().filter(|count| **count > 0).count();
        if bindings == 0 {
            self.vips.remove(vip);
        }
        let now = self.binding(vip);
        if before != now || bindings > 1 {
            change.rivals.extend(self.guests.at(*vip).filter(|service| *service != by).cloned());
        }
        // Who is masqueraded depends on that.
        if before != now && [before, now].contains(&Some(Binding::Address)) {
            let others = self.guests.at(*vip).filter(|service| *service != by);
            let fronts = others.flat_map(|service| self.fronts_on(service, vip));
            change.changes.dirty.extend(fronts.copied().map(Subject::Front));
        }
        let is_steered = |binding: Option<Binding>| usize::from(binding == Some(Binding::Steer));
        let (was, is) = (is_steered(before), is_steered(now));
        if was != is {
            let family = IpFamily::of(*vip);
            let count = self.steered.entry(family).or_default();
            *count = *count + is - was;
            change.changes.dirty.insert(Subject::Steering(family));
        }
    }

    /// Compares the Service that has a front now with the one that had it before.
    fn succeed(&mut self, before: &Claim, changes: &mut Changes) {
        let old = before.wanted();
        let front = old.front;
        let new = self.claim_on(&front).map(Claim::wanted);
        if new.is_none_or(|new| new.endpoints != old.endpoints) {
            let serves_as_before = |endpoint: &ServerEndpoint| {
                let now = new.and_then(|new| new.endpoint(&endpoint.id));
                now.is_some_and(|now| now.chosen && now.pod == endpoint.pod)
            };
            let vacated =
                old.endpoints.iter().filter(|endpoint| endpoint.chosen && !serves_as_before(endpoint));
            changes.vacated.extend(vacated.map(|endpoint| Vacated {
                key: Key { front, rs: endpoint.id },
                service: before.service.clone(),
                pod: endpoint.pod,
            }));
        }
        match new {
            Some(new) if new.drain != old.drain => changes.configured.push(front),
            Some(_) => {}
            None => {
                let former = Former { name: before.name(), drain: old.drain.clone() };
                self.former.insert(front, former);
            }
        }
    }

    /// Forgets a front whose virtual server does not exist any more.
    pub fn forget(&mut self, front: &Front) {
        if !self.former.is_empty() {
            self.former.remove(front);
        }
    }

    /// Fronts that a Service has won.
    pub fn fronts_of(&self, name: &ServiceName) -> impl Iterator<Item = &FrontIntent> {
        let fronts = self.services.get(name).into_iter().flat_map(|intent| &intent.fronts);
        fronts.filter(move |want| self.service_of(&want.front) == Some(name))
    }

    /// Problems of a Service with fronts that it wants and another one has.
    pub fn conflicts(&self, name: &ServiceName) -> Vec<IntentProblem> {
        let fronts = self.services.get(name).into_iter().flat_map(|intent| &intent.fronts);
        // The front for external clients goes to the same Service, and is not reported once more.
        let fronts = fronts.map(|want| want.front).filter(|front| front.clients == Clients::Any);
        let lost = fronts.filter_map(|front| {
            let winner = self.service_of(&front).filter(|winner| *winner != name)?.clone();
            Some(ProblemKind::ClaimedByOther { front, winner })
        });
        let problem = |kind| IntentProblem { service: name.clone(), kind };
        lost.chain(self.bound_further(name)).map(problem).collect()
    }

    /// Problems of a Service with addresses that another one has bound in a way that reaches further.
    fn bound_further(&self, name: &ServiceName) -> impl Iterator<Item = ProblemKind> {
        let won = self.fronts_of(name).filter(|want| !want.is_cluster_ip);
        let won = won.filter_map(|want| Some((want.front.vip()?, Some(want.binding))));
        let unbound = self.services.get(name).into_iter().flat_map(|intent| &intent.unbound);
        // A Service does not ask for what its load balancer does.
        let unbound =
            unbound.filter(|(vip, reason)| *reason != BindingReason::Proxy && !self.has_cluster_ip(vip));
        let mut own = BTreeMap::new();
        for (vip, binding) in won.chain(unbound.map(|(vip, _)| (*vip, None))) {
            let widest = own.entry(vip).or_insert(binding);
            *widest = binding.max(*widest);
        }
        own.into_iter().filter_map(|(vip, own)| {
            let binding = self.binding(&vip).filter(|binding| Some(*binding) > own)?;
            Some(ProblemKind::BoundFurther { vip, own, binding })
        })
    }

    /// Intent for a front, if a Service has it.
    pub fn front(&self, front: &Front) -> Option<&FrontIntent> {
        self.claim_on(front).map(Claim::wanted)
    }

    /// Service that a front serves.
    pub fn service_of(&self, front: &Front) -> Option<&ServiceName> {
        self.claim_on(front).map(|claim| &claim.service)
    }

    /// Name of the Service port that a front serves, or served last.
    pub fn name_of(&self, front: &Front) -> Option<ServicePortName> {
        let former = || self.former.get(front).map(|former| former.name.clone());
        self.claim_on(front).map(Claim::name).or_else(former)
    }

    /// Drain settings that differ from the configuration, of the Service that a front serves or served last.
    pub fn drain_overrides(&self, front: &Front) -> &Overrides {
        let former = || self.former.get(front).and_then(|former| former.drain.as_deref());
        match self.front(front) {
            Some(want) => want.drain_overrides(),
            None => former().unwrap_or(&Overrides::NONE),
        }
    }

    /// The claim that wins. What a place has for external clients belongs to the Service that has it for any.
    fn claim_on(&self, front: &Front) -> Option<&Claim> {
        let claims = self.claims.get(front)?;
        match front.clients {
            Clients::Any => claims.first(),
            Clients::External => {
                let owner = &self.claims.get(&front.sibling())?.first()?.service;
                claims.iter().find(|claim| claim.service == *owner)
            }
        }
    }

    /// Tells whether a Service has a VIP. A VIP that none has is still needed while a virtual server on it
    /// drains.
    pub fn claims_vip(&self, vip: &IpAddr) -> bool {
        self.vips.contains_key(vip)
    }

    /// Tells whether a Service has an address as a ClusterIP.
    pub fn has_cluster_ip(&self, addr: &IpAddr) -> bool {
        self.vips.get(addr).is_some_and(|counts| counts.of_cluster_ip > 0)
    }

    /// Way by which packets to a VIP come to IPVS: of the bindings of its fronts, the one that reaches
    /// furthest.
    pub fn binding(&self, vip: &IpAddr) -> Option<Binding> {
        let counts = self.vips.get(vip)?;
        Binding::ALL.into_iter().rev().find(|binding| counts.by_binding[*binding as usize] > 0)
    }

    /// Tells whether VIPs of a family are steered.
    pub fn steers(&self, family: IpFamily) -> bool {
        self.steered.get(&family).is_some_and(|count| *count > 0)
    }

    /// Tells whether a Service has a VIP that is bound to no node.
    pub fn is_unbound(&self, vip: &IpAddr) -> bool {
        self.unbound.has(*vip)
    }

    /// External and load-balancer IPs of Services, with their bindings (`None` for no node) and the reasons.
    pub fn external_bindings(&self) -> BTreeMap<IpAddr, (Option<Binding>, BindingReason)> {
        let unbound = self.services.values().flat_map(|intent| &intent.unbound);
        let unbound = unbound.map(|(vip, reason)| (*vip, None, *reason));
        let bound = self.services.values().flat_map(|intent| &intent.fronts).filter_map(|want| {
            let vip = want.front.vip()?;
            Some((vip, Some(want.binding), want.binding_reason))
        });
        let mut bindings = BTreeMap::new();
        for (vip, binding, reason) in unbound.chain(bound) {
            // Where several Services have a VIP, the reason of the binding that holds, and the first one of several.
            if binding == self.binding(&vip) && !self.has_cluster_ip(&vip) {
                let known = bindings.entry(vip).or_insert((binding, reason));
                known.1 = reason.min(known.1);
            }
        }
        bindings
    }

    /// All fronts that Services claim.
    pub fn fronts(&self) -> impl Iterator<Item = &Front> {
        self.claims.keys()
    }

    /// All VIPs on which Services claim a front.
    pub fn vips(&self) -> impl Iterator<Item = &IpAddr> {
        self.vips.keys()
    }

    /// Tells whether a Service has an intent.
    pub fn has_service(&self, name: &ServiceName) -> bool {
        self.services.contains_key(name)
    }

    /// Names of all Services that have an intent.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }
}
