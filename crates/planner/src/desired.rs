//! The intents of all Services together, with what they share resolved.

use std::{cmp::Ordering, collections::BTreeSet, net::IpAddr, sync::Arc};

use drain::{Key, Overrides};
use lb_types::{FastMap, PodUid, ServiceName, VirtualServerId};
use tally::Tallied;

use crate::{IntentProblem, ServerEndpoint, ServerIntent, ServiceIntent, diff::Touch};

/// The desired state of the node.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    services: Tallied<FastMap<ServiceName, Arc<ServiceIntent>>>,
    /// Who wants a key, the winner first; more than one only where two Services claim the same VIP port.
    claims: Tallied<FastMap<VirtualServerId, Vec<Claim>>>,
    /// Drain settings of virtual servers that nobody claims any more, until they are gone. No write is decided by it.
    former: Tallied<FastMap<VirtualServerId, Option<Arc<Overrides>>>>,
    /// How many keys use a VIP.
    vips: Tallied<FastMap<IpAddr, u32>>,
}

#[derive(Clone, Debug)]
struct Claim {
    service: ServiceName,
    intent: Arc<ServiceIntent>,
    /// Position in `intent.servers`.
    at: usize,
}

impl Claim {
    fn server(&self) -> &ServerIntent {
        &self.intent.servers[self.at]
    }

    /// The older Service first; without a time stamp it is the youngest; the name decides between equals.
    fn rank(&self, other: &Claim) -> Ordering {
        let created = |claim: &Claim| claim.intent.created.unwrap_or(i64::MAX);
        created(self).cmp(&created(other)).then_with(|| self.service.cmp(&other.service))
    }
}

/// What replacing intents changes.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    /// What must be compared with the kernel.
    pub touch: Touch,
    /// Real servers that took connections for a pod, and do not any more.
    pub vacated: Vec<Vacated>,
    /// Virtual servers whose drains may follow other settings from now on.
    pub configured: Vec<VirtualServerId>,
}

/// A real server that a pod has lost: it takes no new connections, or another pod takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vacated {
    /// The real server.
    pub key: Key,
    /// The Service that it served.
    pub service: ServiceName,
    /// The pod, if the API named one.
    pub pod: Option<PodUid>,
}

/// What replacing one intent changes.
struct Change<'a> {
    changes: &'a mut Changes,
    /// Services that may win a key which this one gave up, or lose one to it.
    rivals: BTreeSet<ServiceName>,
}

impl Desired {
    /// Replaces the intent of a Service; `None` when it is gone. What follows is added to `changes`; returned are the
    /// other Services whose [`Desired::conflicts`] may have changed.
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
        let servers = old.iter().chain(&new).flat_map(|intent| &intent.servers);
        let mut before: Vec<_> = servers.filter_map(|server| self.claim_on(&server.vs).cloned()).collect();
        before.dedup_by_key(|claim| claim.server().vs);
        if let Some(old) = &old {
            old.servers.iter().for_each(|server| self.unclaim(name, server, &mut change));
        }
        if let Some(new) = &new {
            (0..new.servers.len()).for_each(|at| self.claim(name, new, at, &mut change));
        }
        for claim in before {
            self.succeed(&claim, change.changes);
        }
        change.rivals
    }

    fn claim(&mut self, name: &ServiceName, intent: &Arc<ServiceIntent>, at: usize, change: &mut Change<'_>) {
        let claim = Claim { service: name.clone(), intent: intent.clone(), at };
        let vs = claim.server().vs;
        if !self.former.is_empty() && self.former.remove(&vs).is_some() {
            change.changes.configured.push(vs);
        }
        let claims = self.claims.entry(vs).or_default();
        let position = claims.partition_point(|other| other.rank(&claim).is_lt());
        claims.insert(position, claim);
        change.rivals.extend(claims.iter().map(|c| c.service.clone()).filter(|s| s != name));
        change.changes.touch.servers.insert(vs);
        self.use_vip(&vs, &mut change.changes.touch);
    }

    /// Gives a key up. What nobody claims any more drains, and then goes ([`crate::diff`]).
    fn unclaim(&mut self, name: &ServiceName, server: &ServerIntent, change: &mut Change<'_>) {
        let Some(claims) = self.claims.get_mut(&server.vs) else { return };
        claims.retain(|claim| claim.service != *name);
        change.rivals.extend(claims.iter().map(|c| c.service.clone()));
        if claims.is_empty() {
            self.claims.remove(&server.vs);
        }
        change.changes.touch.servers.insert(server.vs);
        self.unuse_vip(&server.vs, &mut change.changes.touch);
    }

    /// Compares who has a virtual server now with who had it before.
    fn succeed(&mut self, before: &Claim, changes: &mut Changes) {
        let old = before.server();
        let vs = old.vs;
        let new = self.claim_on(&vs).map(Claim::server);
        if new.is_none_or(|new| new.endpoints != old.endpoints) {
            let serves_as_before = |endpoint: &ServerEndpoint| {
                let now = new.and_then(|new| new.endpoint(&endpoint.id));
                now.is_some_and(|now| now.chosen && now.pod == endpoint.pod)
            };
            let vacated =
                old.endpoints.iter().filter(|endpoint| endpoint.chosen && !serves_as_before(endpoint));
            changes.vacated.extend(vacated.map(|endpoint| Vacated {
                key: Key { vs, rs: endpoint.id },
                service: before.service.clone(),
                pod: endpoint.pod,
            }));
        }
        match new {
            Some(new) if new.drain != old.drain => changes.configured.push(vs),
            Some(_) => {}
            None => _ = self.former.insert(vs, old.drain.clone()),
        }
    }

    /// Forgets a virtual server that does not exist any more.
    pub fn forget(&mut self, vs: &VirtualServerId) {
        if !self.former.is_empty() {
            self.former.remove(vs);
        }
    }

    /// The virtual servers that a Service has.
    pub fn servers_of(&self, name: &ServiceName) -> impl Iterator<Item = &ServerIntent> {
        let servers = self.services.get(name).into_iter().flat_map(|intent| &intent.servers);
        servers.filter(move |server| self.service_of(&server.vs) == Some(name))
    }

    /// Keys that a Service wants and another one has.
    pub fn conflicts(&self, name: &ServiceName) -> Vec<IntentProblem> {
        let servers = self.services.get(name).into_iter().flat_map(|intent| &intent.servers);
        let lost = servers.filter_map(|server| {
            let winner = self.service_of(&server.vs).filter(|winner| *winner != name)?;
            let (service, vs, winner) = (name.clone(), server.vs, winner.clone());
            Some(IntentProblem::ClaimedByOther { service, vs, winner })
        });
        lost.collect()
    }

    /// What a virtual server must be, if a Service has it.
    pub fn server(&self, vs: &VirtualServerId) -> Option<&ServerIntent> {
        self.claim_on(vs).map(Claim::server)
    }

    /// The Service that a virtual server serves.
    pub fn service_of(&self, vs: &VirtualServerId) -> Option<&ServiceName> {
        self.claim_on(vs).map(|claim| &claim.service)
    }

    /// What the Service that a virtual server serves, or served last, wants of drains otherwise than the configuration.
    pub fn drain_overrides(&self, vs: &VirtualServerId) -> &Overrides {
        let former = || self.former.get(vs).and_then(|drain| drain.as_deref());
        match self.server(vs) {
            Some(server) => server.drain_overrides(),
            None => former().unwrap_or(&Overrides::NONE),
        }
    }

    fn claim_on(&self, vs: &VirtualServerId) -> Option<&Claim> {
        self.claims.get(vs)?.first()
    }

    /// Whether a Service has a VIP. One that none has is still needed while a virtual server on it drains.
    pub fn claims_vip(&self, vip: &IpAddr) -> bool {
        self.vips.contains_key(vip)
    }

    /// Keys of all virtual servers.
    pub fn virtual_servers(&self) -> impl Iterator<Item = &VirtualServerId> {
        self.claims.keys()
    }

    /// All VIPs that Services have.
    pub fn vips(&self) -> impl Iterator<Item = &IpAddr> {
        self.vips.keys()
    }

    /// Names of all Services that have an intent.
    pub fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.services.keys()
    }

    fn use_vip(&mut self, vs: &VirtualServerId, touch: &mut Touch) {
        if let Some(vip) = vs.vip_port() {
            *self.vips.entry(vip.addr).or_default() += 1;
            touch.vips.insert(vip.addr);
        }
    }

    fn unuse_vip(&mut self, vs: &VirtualServerId, touch: &mut Touch) {
        if let Some(vip) = vs.vip_port() {
            release(&mut self.vips, &vip.addr);
            touch.vips.insert(vip.addr);
        }
    }
}

fn release<K: std::hash::Hash + Eq>(counts: &mut FastMap<K, u32>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
