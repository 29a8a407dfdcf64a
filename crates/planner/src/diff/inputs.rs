//! Values that a comparison reads, and the questions about them whose answers decide a write. No plan is made here.

use std::net::IpAddr;

use drain::{Cause, Key, Ledger, Outcome, State};
use ipnetwork::IpNetwork;
use lb_types::{Clients, Front, IpFamily, RealServerId, RuleElement};

use crate::{Binding, Context, Desired, FrontIntent, Masquerade, Mirror};

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
    pub(super) fn unwanted(&self, front: &Front) -> Unwanted {
        let Context { ownership, facts, .. } = self.context;
        let Some(vs) = self.mirror.key(front) else { return Unwanted::Absent };
        let Some(have) = self.mirror.servers.get(&vs) else { return Unwanted::Absent };
        let is_empty = have.real_servers.is_empty() && !(self.is_in_doubt)(front);
        if !ownership.owns(&vs, self.mirror) {
            Unwanted::NotOurs
        } else if is_empty
            || facts.own_ports.contains(&front.port)
            || front.vip().is_some_and(|vip| self.is_given_up(&vip))
        {
            Unwanted::Goes
        } else {
            Unwanted::Drains
        }
    }

    /// Way by which packets to a VIP must come to IPVS; `None` if they must not, because no Service has the
    /// VIP and no virtual server on it drains.
    pub(super) fn binding(&self, vip: &IpAddr) -> Option<Binding> {
        let is_draining =
            |front: &Front| self.desired.front(front).is_none() && self.unwanted(front) == Unwanted::Drains;
        let drains = || self.mirror.fronts_on(*vip).any(|front| is_draining(&front));
        self.desired.binding(vip).or_else(|| self.left_binding(vip).filter(|_| drains()))
    }

    /// The same, but for addresses of the node: one that no Service has any more is not bound either.
    pub(super) fn bound(&self, vip: &IpAddr) -> Option<Binding> {
        self.binding(vip).filter(|_| !self.context.facts.addresses.contains_key(vip))
    }

    /// Way by which packets to a VIP that no Service has any more come to IPVS while connections last. One that is to
    /// be bound to no node is left at once where that would take new connections, too.
    pub(super) fn left_binding(&self, vip: &IpAddr) -> Option<Binding> {
        let Mirror { elements, routes, steered, addresses, .. } = self.mirror;
        let has_route_of_steering = steered.contains(vip) && !routes.contains_key(vip);
        if elements.contains(&RuleElement::SteeredVip(*vip)) || has_route_of_steering {
            return Some(Binding::Steer);
        }
        let was_bound =
            elements.contains(&RuleElement::Vip(*vip)) || routes.contains_key(vip) || addresses.contains(vip);
        (was_bound && !self.desired.is_unbound(vip)).then_some(Binding::Route)
    }

    /// Tells whether the address of a front, which is no ClusterIP, leads to this node no more, as one that has moved to
    /// another with its node ports. Unless it comes back soon, its connections are there, too, and what is left here would
    /// keep processes of this node from it.
    pub(super) fn has_left(&self, front: &Front) -> bool {
        let Some(addr) = &front.vip() else { return false };
        let Inputs { desired, context: Context { facts, ownership, .. }, .. } = self;
        !facts.addresses.contains_key(addr)
            && ownership.cluster_range_of(*addr).is_none()
            && desired.binding(addr).is_none()
            && self.left_binding(addr).is_none()
    }

    /// Tells whether a VIP is to be bound to no node, and steering does not tell its connections from others, as it does
    /// not where the VIP is an address of the node.
    pub(super) fn is_given_up(&self, vip: &IpAddr) -> bool {
        let Inputs { desired, context: Context { facts, .. }, .. } = self;
        let is_steered = || !facts.addresses.contains_key(vip) && self.left_binding(vip).is_some();
        desired.is_unbound(vip) && desired.binding(vip).is_none() && !is_steered()
    }

    /// Tells whether node ports are served at an address. A ClusterIP may be an address of the node, too, as the one
    /// of a node-local DNS cache is.
    pub(super) fn serves_node_ports(&self, addr: IpAddr) -> bool {
        let Inputs { desired, context: Context { facts, ownership, .. }, .. } = self;
        facts.node_ports.contains(&addr)
            && ownership.cluster_range_of(addr).is_none()
            && !desired.has_cluster_ip(&addr)
    }

    /// Tells whether nothing depends on an address of `kube-ipvs0`: it is not a VIP, or its VIP comes to IPVS in another
    /// way, by this plan at the latest.
    pub(super) fn is_spare(&self, addr: &IpAddr, vips: &[IpAddr]) -> bool {
        let mirror = self.mirror;
        let is_planned = || vips.binary_search(addr).is_ok();
        match self.binding(addr) {
            None | Some(Binding::Node) => true,
            Some(Binding::Address) => false,
            Some(Binding::Route) => mirror.routes.contains_key(addr) || is_planned(),
            Some(Binding::Steer) => mirror.steered.contains(addr) || is_planned(),
        }
    }

    /// Choice of the connections to a front that are masqueraded. Where its VIP is an address, whichever Service has made
    /// it one, processes of the node have the VIP for their source, and answers to that do not come back here.
    pub(super) fn masquerade(&self, want: &FrontIntent) -> Masquerade {
        let binding = want.front.vip().and_then(|vip| self.desired.binding(&vip));
        match want.masquerade {
            Masquerade::Never if binding == Some(Binding::Address) => Masquerade::Vips,
            masquerade => masquerade,
        }
    }

    /// The VIP as a client: where a VIP is an address of this node, its own processes connect from there. `None` unless
    /// ranges of clients let the node in, but not the VIP.
    pub(super) fn this_node_as_vip(&self, vip: IpAddr, allowed: &[IpNetwork]) -> Option<IpNetwork> {
        let is_allowed = |addr: IpAddr| allowed.iter().any(|clients| clients.contains(addr));
        let source = self.context.facts.sources.get(&IpFamily::of(vip)).copied()?;
        let is_address = self.binding(&vip) == Some(Binding::Address);
        (is_address && is_allowed(source) && !is_allowed(vip)).then(|| IpNetwork::from(vip))
    }

    /// Tells whether clients of a front with a mark have a virtual server without that.
    pub(super) fn is_served_without(&self, front: &Front) -> bool {
        let any = front.for_any();
        let mut others = self.counterparts(&any);
        // What external clients have by themselves counts, too: it may be incomplete.
        others.extend([any, *front].into_iter().filter(|_| front.clients == Clients::External));
        others.iter().any(|front| self.mirror.server(front).is_some())
    }

    /// Fronts that serve the same clients as a front for any client by another key: a node port has a virtual server
    /// at each address, or one for all of them.
    pub(super) fn counterparts(&self, front: &Front) -> Vec<Front> {
        let facts = self.context.facts;
        match front.vip() {
            Some(vip) if facts.node_ports.contains(&vip) => vec![front.as_node_port()],
            Some(_) => vec![],
            None => facts.node_ports_of(front.family()).map(|addr| front.at(addr)).collect(),
        }
    }

    /// Intent that clients of a front for any client follow when nobody wants the front itself any more.
    pub(super) fn successor(&self, front: &Front) -> Option<&FrontIntent> {
        self.counterparts(front).iter().find_map(|front| self.desired.front(front))
    }

    /// Tells whether new connections must be refused once the kernel has executed the plan: no wanted real
    /// server is there and stays, and none may come now.
    pub(super) fn will_refuse(&self, want: &FrontIntent) -> bool {
        let Inputs { drains, mirror, .. } = self;
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
    pub(super) fn refuses(&self, front: &Front) -> bool {
        let have = self.mirror.server(front);
        let serves = |rs: RealServerId| {
            have.and_then(|have| have.real_server(&rs)).is_some_and(|present| !present.weight.is_quiesced())
        };
        self.desired.front(front).is_some_and(|want| !want.real_servers().any(serves))
    }

    /// Tells whether a real server must go because its address has changed hands.
    pub(super) fn is_evicted(&self, key: &Key) -> bool {
        self.drains.state(key) == State::Due(Outcome::AddressReused)
    }

    /// Tells whether a real server must not come back yet.
    pub(super) fn is_held_down(&self, key: &Key) -> bool {
        matches!(self.drains.state(key), State::HeldDown(_))
    }

    /// Reason for which a real server drains.
    pub(super) fn cause(&self, key: &Key) -> Cause {
        let desired = self.desired;
        // What is served in another place now, such as clients outside by all endpoints, has not lost its endpoints.
        let any = key.front.for_any();
        let elsewhere = || desired.front(&any).or_else(|| self.successor(&any));
        let want = desired.front(&key.front).or_else(elsewhere);
        let Some(want) = want else {
            let has_left = self.has_left(&key.front);
            return if has_left { Cause::AddressLeft } else { Cause::ServiceGone };
        };
        match want.endpoint(&key.rs) {
            None => Cause::LeftSlices,
            Some(endpoint) if endpoint.terminating => Cause::Terminating,
            Some(endpoint) if endpoint.ready => Cause::NotChosen,
            Some(_) => Cause::NotServing,
        }
    }
}

/// Fate of a virtual server that no Service wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwanted {
    /// The kernel does not have it.
    Absent,
    /// It is somebody else's.
    NotOurs,
    /// It refuses new connections until its real servers have drained.
    Drains,
    /// It is deleted: it has no real servers left, its port belongs to a program of the node, or its VIP is bound to no
    /// node any more.
    Goes,
}
