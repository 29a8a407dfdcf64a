//! Intents of all Services together, with claims on the same front resolved.
//!
//! [`Desired`] owns the answer to two questions: which Service has a front, and which VIPs are in use.
//! Replacing the intent of one Service ([`Desired::replace`]) returns what follows from it: subjects to
//! compare, real servers that a pod has lost, drain settings that changed. It never looks at the kernel or
//! the mirror, and does not compute intents ([`crate::desire_service`] does).
//!
//! Reading order: [`Changes`] and [`Vacated`], [`Desired::replace`], then the queries behind it.

use std::{cmp::Ordering, collections::BTreeSet, net::IpAddr, sync::Arc};

use drain::{Key, Overrides};
use lb_types::{FastMap, Front, PodUid, ServiceName};
use tally::Tallied;

use crate::{Binding, Dirty, FrontIntent, IntentProblem, ServerEndpoint, ServiceIntent, Subject};

/// The desired state of the node.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    services: Tallied<FastMap<ServiceName, Arc<ServiceIntent>>>,
    /// Claims on a front, the winner first; more than one only where Services claim the same front.
    claims: Tallied<FastMap<Front, Vec<Claim>>>,
    /// Drain settings of fronts that nobody claims any more, kept until their virtual servers are gone. They
    /// decide no write.
    former: Tallied<FastMap<Front, Option<Arc<Overrides>>>>,
    /// Number of fronts on each VIP, by binding.
    vips: Tallied<FastMap<IpAddr, [u32; Binding::ALL.len()]>>,
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
        let old = match &new {
            Some(new) => self.services.insert(name.clone(), new.clone()),
            None => self.services.remove(name),
        };
        // The winners before the change are noted first: `succeed` compares them with those after it.
        let fronts = old.iter().chain(&new).flat_map(|intent| &intent.fronts);
        let mut before: Vec<_> = fronts.filter_map(|want| self.claim_on(&want.front).cloned()).collect();
        before.dedup_by_key(|claim| claim.wanted().front);
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

    fn claim(&mut self, name: &ServiceName, intent: &Arc<ServiceIntent>, at: usize, change: &mut Change<'_>) {
        let claim = Claim { service: name.clone(), intent: intent.clone(), at };
        let (front, binding) = (claim.wanted().front, claim.wanted().binding);
        if !self.former.is_empty() && self.former.remove(&front).is_some() {
            change.changes.configured.push(front);
        }
        let claims = self.claims.entry(front).or_default();
        let position = claims.partition_point(|other| other.rank(&claim).is_lt());
        claims.insert(position, claim);
        change.mark(&front, claims, name);
        if let Some(vip) = front.vip() {
            self.vips.entry(vip).or_default()[binding as usize] += 1;
        }
    }

    /// Gives a front up. A front that nobody claims any more drains, and then goes ([`crate::diff`]).
    fn unclaim(&mut self, name: &ServiceName, want: &FrontIntent, change: &mut Change<'_>) {
        let Some(claims) = self.claims.get_mut(&want.front) else { return };
        claims.retain(|claim| claim.service != *name);
        change.mark(&want.front, claims, name);
        if claims.is_empty() {
            self.claims.remove(&want.front);
        }
        let Some(vip) = want.front.vip() else { return };
        if let Some(counts) = self.vips.get_mut(&vip) {
            counts[want.binding as usize] -= 1;
            if counts.iter().all(|count| *count == 0) {
                self.vips.remove(&vip);
            }
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
            None => _ = self.former.insert(front, old.drain.clone()),
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
        let lost = fronts.filter_map(|want| {
            let winner = self.service_of(&want.front).filter(|winner| *winner != name)?;
            let (service, front, winner) = (name.clone(), want.front, winner.clone());
            Some(IntentProblem::ClaimedByOther { service, front, winner })
        });
        lost.collect()
    }

    /// Intent for a front, if a Service has it.
    pub fn front(&self, front: &Front) -> Option<&FrontIntent> {
        self.claim_on(front).map(Claim::wanted)
    }

    /// Service that a front serves.
    pub fn service_of(&self, front: &Front) -> Option<&ServiceName> {
        self.claim_on(front).map(|claim| &claim.service)
    }

    /// Drain settings that differ from the configuration, of the Service that a front serves or served last.
    pub fn drain_overrides(&self, front: &Front) -> &Overrides {
        let former = || self.former.get(front).and_then(|drain| drain.as_deref());
        match self.front(front) {
            Some(want) => want.drain_overrides(),
            None => former().unwrap_or(&Overrides::NONE),
        }
    }

    fn claim_on(&self, front: &Front) -> Option<&Claim> {
        self.claims.get(front)?.first()
    }

    /// Tells whether a Service has a VIP. A VIP that none has is still needed while a virtual server on it
    /// drains.
    pub fn claims_vip(&self, vip: &IpAddr) -> bool {
        self.vips.contains_key(vip)
    }

    /// Way by which packets to a VIP come to IPVS: of the bindings of its fronts, the one that reaches
    /// furthest.
    pub fn binding(&self, vip: &IpAddr) -> Option<Binding> {
        let counts = self.vips.get(vip)?;
        Binding::ALL.into_iter().rev().find(|binding| counts[*binding as usize] > 0)
    }

    /// All fronts that Services claim.
    pub fn fronts(&self) -> impl Iterator<Item = &Front> {
        self.claims.keys()
    }

    /// All VIPs on which Services claim a front.
    pub fn vips(&self) -> impl Iterator<Item = &IpAddr> {
        self.vips.keys()
    }

    /// Names of all Services that have an intent.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }
}
