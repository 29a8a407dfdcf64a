//! The intents of all Services together, with what they share resolved.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU16,
    sync::Arc,
};

use drain::Overrides;
use lb_types::{
    FastMap, Protocol, RealServer, RealServerId, RuleSet, ServiceName, VipPort, VirtualServer,
    VirtualServerId,
};
use tally::Tallied;

use crate::{IntentProblem, ServerIntent, ServiceIntent, diff::Touch};

/// The desired state of the node.
///
/// A virtual server that no Service wants any more but that still has real servers is kept as *retiring*: it refuses
/// new connections while the old ones drain, and counts as desired until [`Desired::retired`].
#[derive(Clone, Debug, Default)]
pub struct Desired {
    services: Tallied<FastMap<ServiceName, Arc<ServiceIntent>>>,
    /// Who wants a key, the winner first; more than one only where two Services claim the same VIP port.
    claims: Tallied<FastMap<VirtualServerId, Vec<Claim>>>,
    retiring: Tallied<BTreeMap<VirtualServerId, Retiring>>,
    /// Those that were retiring and may be deleted: only what was desired, or taken over as retiring, ever is.
    released: Tallied<BTreeSet<VirtualServerId>>,
    /// How many keys (claimed or retiring) use a VIP.
    vips: Tallied<FastMap<IpAddr, u32>>,
}

/// A virtual server that goes once it has drained.
#[derive(Clone, Debug)]
struct Retiring {
    intent: ServerIntent,
    /// Whose it was; not known of leftovers.
    service: Option<ServiceName>,
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

/// What replacing an intent changes.
struct Change<'a> {
    /// What must be compared with the kernel.
    touch: &'a mut Touch,
    /// Services that may win a key which this one gave up, or lose one to it.
    rivals: BTreeSet<ServiceName>,
}

impl Desired {
    /// Replaces the intent of a Service; `None` when it is gone. What must be compared because of that is added to
    /// `touch`; returned are the other Services whose [`Desired::conflicts`] may have changed.
    pub fn replace(
        &mut self,
        name: &ServiceName,
        intent: Option<ServiceIntent>,
        touch: &mut Touch,
    ) -> BTreeSet<ServiceName> {
        let mut change = Change { touch, rivals: BTreeSet::new() };
        if self.services.get(name).map(Arc::as_ref) == intent.as_ref() {
            return change.rivals;
        }
        let new = intent.map(Arc::new);
        let old = match &new {
            Some(new) => self.services.insert(name.clone(), new.clone()),
            None => self.services.remove(name),
        };
        if let Some(old) = &old {
            old.servers.iter().for_each(|server| self.unclaim(name, server, &mut change));
        }
        if let Some(new) = &new {
            (0..new.servers.len()).for_each(|at| self.claim(name, new, at, &mut change));
        }
        change.rivals
    }

    fn claim(&mut self, name: &ServiceName, intent: &Arc<ServiceIntent>, at: usize, change: &mut Change<'_>) {
        let claim = Claim { service: name.clone(), intent: intent.clone(), at };
        let vs = claim.server().vs;
        if self.retiring.remove(&vs).is_some() {
            self.unuse_vip(&vs, change.touch);
        }
        self.released.remove(&vs);
        let claims = self.claims.entry(vs).or_default();
        let position = claims.partition_point(|other| other.rank(&claim).is_lt());
        claims.insert(position, claim);
        change.rivals.extend(claims.iter().map(|c| c.service.clone()).filter(|s| s != name));
        change.touch.servers.insert(vs);
        self.use_vip(&vs, change.touch);
    }

    /// Gives a key up. What nobody claims any more becomes retiring; [`crate::diff`] tells when it has no real server.
    fn unclaim(&mut self, name: &ServiceName, server: &ServerIntent, change: &mut Change<'_>) {
        let Some(claims) = self.claims.get_mut(&server.vs) else { return };
        claims.retain(|claim| claim.service != *name);
        change.rivals.extend(claims.iter().map(|c| c.service.clone()));
        change.touch.servers.insert(server.vs);
        if claims.is_empty() {
            self.claims.remove(&server.vs);
            let intent = retiring((server.vs, server.settings), server.masquerade, server.drain.clone());
            self.retiring.insert(server.vs, Retiring { intent, service: Some(name.clone()) });
        } else {
            self.unuse_vip(&server.vs, change.touch);
        }
    }

    /// Keeps a leftover virtual server, one of ours that no Service wants, until it has drained.
    pub fn retire(&mut self, vs: VirtualServerId, settings: VirtualServer, touch: &mut Touch) {
        if !self.claims.contains_key(&vs) && !self.retiring.contains_key(&vs) {
            self.released.remove(&vs);
            let intent = retiring((vs, settings), RuleSet::MasqueradeNonLocal, None);
            self.retiring.insert(vs, Retiring { intent, service: None });
            touch.servers.insert(vs);
            self.use_vip(&vs, touch);
        }
    }

    /// A retiring virtual server is not desired any more: it has no real server left, or must go at once.
    pub fn retired(&mut self, vs: &VirtualServerId, touch: &mut Touch) {
        if self.retiring.remove(vs).is_some() {
            self.released.insert(*vs);
            touch.servers.insert(*vs);
            self.unuse_vip(vs, touch);
        }
    }

    /// Whether a virtual server is only kept until it has drained.
    pub fn is_retiring(&self, vs: &VirtualServerId) -> bool {
        self.retiring.contains_key(vs)
    }

    /// Whether a virtual server was retiring and is to be deleted.
    pub fn is_released(&self, vs: &VirtualServerId) -> bool {
        self.released.contains(vs)
    }

    /// A released virtual server does not exist any more.
    pub fn forget(&mut self, vs: &VirtualServerId) {
        self.released.remove(vs);
    }

    /// The retiring virtual servers of a VIP.
    pub fn retiring_on(&self, vip: IpAddr) -> impl Iterator<Item = VirtualServerId> {
        let lowest = VipPort { addr: vip, protocol: Protocol::Tcp, port: NonZeroU16::MIN };
        let of_vip = move |vs: &VirtualServerId| vs.vip_port().is_some_and(|port| port.addr == vip);
        let from = self.retiring.range(VirtualServerId::from(lowest)..).map(|(vs, _)| *vs);
        from.take_while(of_vip)
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

    /// What a virtual server must be, if it must be.
    pub fn server(&self, vs: &VirtualServerId) -> Option<&ServerIntent> {
        let claimed = self.claims.get(vs).and_then(|claims| claims.first()).map(Claim::server);
        claimed.or_else(|| self.retiring.get(vs).map(|retiring| &retiring.intent))
    }

    /// The Service that a virtual server serves.
    pub fn service_of(&self, vs: &VirtualServerId) -> Option<&ServiceName> {
        self.claims.get(vs)?.first().map(|claim| &claim.service)
    }

    /// The Service that a virtual server serves, or served before it was given up.
    pub fn last_service_of(&self, vs: &VirtualServerId) -> Option<&ServiceName> {
        self.service_of(vs).or_else(|| self.retiring.get(vs)?.service.as_ref())
    }

    /// Whether packets to a VIP must reach IPVS.
    pub fn wants_vip(&self, vip: &IpAddr) -> bool {
        self.vips.contains_key(vip)
    }

    /// Keys of all virtual servers, retiring ones included.
    pub fn virtual_servers(&self) -> impl Iterator<Item = &VirtualServerId> {
        self.claims.keys().chain(self.retiring.keys())
    }

    /// All VIPs.
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

fn retiring(
    (vs, settings): (VirtualServerId, VirtualServer),
    masquerade: RuleSet,
    drain: Option<Arc<Overrides>>,
) -> ServerIntent {
    let nobody: Arc<[RealServerId]> = Arc::new([]);
    let real_server = RealServer::SERVING;
    let (real_servers, terminating, known) = (nobody.clone(), nobody.clone(), nobody);
    ServerIntent { vs, settings, real_server, real_servers, terminating, known, masquerade, drain }
}
