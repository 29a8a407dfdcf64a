//! Intent of one Service: what it asks of the kernel.
//!
//! [`desire_service`] turns one Service, its endpoints and the configuration into a [`ServiceIntent`], and
//! into the [`IntentProblem`]s of what cannot be programmed. It is pure and looks at this Service alone: who
//! wins a front that two Services claim is decided in [`crate::Desired`].
//!
//! Reading order: [`ServiceIntent`], [`FrontIntent`], [`ServerEndpoint`]; [`desire_service`].

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use drain::Overrides;
use ipnetwork::IpNetwork;
use lb_types::{
    Front, IpFamily, LocalDetection, PodUid, RealServer, RealServerId, RuleElement, VipBinding, VipPort,
    VirtualServer,
};
use service_model::{
    Endpoint, EndpointPolicy, ExternalSource, SelectedEndpoints, Service, ServiceModel, ServicePort,
    SliceName, SlicePort, TrafficPolicy,
};
use tally::Tallied;

use crate::{
    Binding, BindingReason, Bindings, Choice, Context, HealthCheck, IntentProblem, NoLocal, NodePortServers,
    ProblemKind,
    settings::{desire_drain, desire_real_server, desire_settings, settings_problems},
};

/// Endpoint of a front, whatever its condition: a real server that the kernel may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerEndpoint {
    /// Key of the real server.
    pub id: RealServerId,
    /// Pod that takes connections there, if the API names one.
    pub pod: Option<PodUid>,
    /// True if it takes new connections, because policy and topology choose it.
    pub chosen: bool,
    /// True if it is ready, so that it could be chosen.
    pub ready: bool,
    /// True if its pod is being deleted.
    pub terminating: bool,
}

/// Connections to a front whose source becomes the node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masquerade {
    /// Connections of clients that are not pods of this node.
    NonLocal,
    /// Connections of clients that are not known as pods of this node.
    External,
    /// Connections of clients that count as pods of this node, but may be pods of another.
    Pods,
    /// Connections that come from a VIP, as those of processes of the node do where a VIP is an address.
    Vips,
    /// No connections: clients outside keep their address.
    Never,
    /// All connections.
    All,
}

impl Masquerade {
    /// Element of our packet rules that makes it so, if it takes one.
    pub const fn element(self, port: VipPort) -> Option<RuleElement> {
        match self {
            Masquerade::NonLocal => Some(RuleElement::MasqueradeNonLocal(port)),
            Masquerade::External => Some(RuleElement::MasqueradeExternal(port)),
            Masquerade::Pods => Some(RuleElement::MasqueradePods(port)),
            Masquerade::Vips => Some(RuleElement::MasqueradeVips(port)),
            Masquerade::All => Some(RuleElement::Masquerade(port)),
            Masquerade::Never => None,
        }
    }
}

/// Front that a Service wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FrontIntent {
    /// Place where clients reach the port; the key of everything below.
    pub front: Front,
    /// Name of the Service's port; often empty.
    pub port_name: Arc<str>,
    /// True if its VIP is a ClusterIP, which no external address of another Service may take.
    pub is_cluster_ip: bool,
    /// Way by which packets come to IPVS.
    pub binding: Binding,
    /// Reason for that.
    pub binding_reason: BindingReason,
    /// Settings of its virtual server.
    pub settings: VirtualServer,
    /// Settings of all its real servers while they serve.
    pub real_server: RealServer,
    /// Endpoints that the API lists for the port, one for each address and port, sorted by key.
    pub endpoints: Tallied<Arc<[ServerEndpoint]>>,
    /// Clients that may connect, by prefixes that do not overlap; `None` for everybody.
    pub allowed: Option<Arc<[IpNetwork]>>,
    /// Choice of the connections that are masqueraded, of all clients of the port, but for what the binding of its VIP
    /// adds, which other Services decide, too ([`crate::diff`]).
    pub masquerade: Masquerade,
    /// Drain settings that differ from the configuration, if any.
    pub drain: Option<Arc<Overrides>>,
}

impl FrontIntent {
    /// Drain settings that differ from the configuration.
    pub fn drain_overrides(&self) -> &Overrides {
        self.drain.as_deref().unwrap_or(&Overrides::NONE)
    }

    /// Real servers that take new connections, sorted.
    pub fn real_servers(&self) -> impl Iterator<Item = RealServerId> {
        self.endpoints.iter().filter(|endpoint| endpoint.chosen).map(|endpoint| endpoint.id)
    }

    /// Tells whether any real server takes new connections.
    pub fn has_real_servers(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.chosen)
    }

    /// Endpoint behind a real server, whatever its condition.
    pub fn endpoint(&self, rs: &RealServerId) -> Option<&ServerEndpoint> {
        let at = self.endpoints.binary_search_by(|endpoint| endpoint.id.cmp(rs)).ok()?;
        self.endpoints.get(at)
    }
}

/// Everything that one Service wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceIntent {
    /// `metadata.creationTimestamp`; the older Service wins a front claimed twice.
    pub created: Option<i64>,
    /// Fronts of its ports: of its ClusterIPs, its external addresses and its node ports.
    pub fronts: Vec<FrontIntent>,
    /// VIPs that it has and that are bound to no node, with the reason.
    pub unbound: Vec<(IpAddr, BindingReason)>,
    /// Health check that its load balancer may ask for.
    pub health_check: Option<HealthCheck>,
    /// Endpoints of this node, where packet rules must know them ([`Masquerade::Pods`]), sorted.
    pub local_endpoints: Vec<VipPort>,
    /// Traffic that a Local policy leaves without an endpoint on this node.
    pub no_local: NoLocal,
}

impl ServiceIntent {
    /// Elements that it wants apart from its fronts.
    pub(crate) fn elements(&self) -> BTreeSet<RuleElement> {
        let checks = self.health_check.iter().flat_map(HealthCheck::vip_ports).map(RuleElement::HealthCheck);
        checks.chain(self.local_endpoints.iter().copied().map(RuleElement::LocalEndpoint)).collect()
    }

    /// VIPs that it has and that are bound to no node.
    pub(crate) fn unbound_vips(&self) -> BTreeSet<IpAddr> {
        self.unbound.iter().map(|(vip, _)| *vip).collect()
    }

    /// VIPs that it has and that are no ClusterIPs of its own.
    pub(crate) fn guest_vips(&self) -> BTreeSet<IpAddr> {
        let guests = self.fronts.iter().filter(|want| !want.is_cluster_ip);
        guests.filter_map(|want| want.front.vip()).chain(self.unbound_vips()).collect()
    }
}

/// Computes the intent of one Service, and what of it cannot be: its fronts, each with the endpoints that policy
/// selects for it.
pub fn desire_service(
    service: &Service,
    model: &ServiceModel,
    context: Context<'_>,
) -> (ServiceIntent, Vec<IntentProblem>) {
    let mut intent = ServiceIntent { created: service.created, ..ServiceIntent::default() };
    let mut problems = unmatched_ports(service, model);
    problems.extend(settings_problems(service, context.config));
    let mut wanted = Wanted { service, model, context, unbound: Vec::new(), balancers: Vec::new(), problems };
    for family in IpFamily::ALL {
        let offers = wanted.offers(family);
        wanted.balancers.extend(offers.iter().filter_map(|offer| offer.balancer()));
        intent.fronts.reserve_exact(offers.len() * service.ports.len());
        for port in service.ports.iter().filter(|_| !offers.is_empty()) {
            // Selected once for all fronts of the port.
            let selection = Selection::new(service, port, family, model, context);
            intent.no_local.note(family, EndpointPolicy::of(service, port), &selection.selected);
            if offers.iter().any(|offer| offer.keeps_pods(service)) {
                intent.local_endpoints.extend(selection.local_endpoints(family));
            }
            for offer in &offers {
                let Some(front) = offer.front(port, family) else { continue };
                match wanted.taken(front, *offer) {
                    Some(problem) => wanted.problems.push(problem),
                    None => intent.fronts.extend(selection.desire_fronts(front, *offer)),
                }
            }
        }
    }
    drop_repeated(&mut intent.fronts);
    intent.local_endpoints.sort_unstable();
    intent.local_endpoints.dedup();
    intent.unbound = wanted.unbound;
    intent.health_check = HealthCheck::of(service, model, wanted.balancers);
    let problem = |kind| IntentProblem { service: service.name.clone(), kind };
    (intent, wanted.problems.into_iter().map(problem).collect())
}

/// Leaves one of several fronts with one key: an external address of the Service may be an address of the node, where
/// the port has the number of a node port of the Service. The first one wins.
fn drop_repeated(fronts: &mut Vec<FrontIntent>) {
    if fronts.iter().any(|want| want.binding == Binding::Node && want.front.vip().is_some()) {
        let mut seen = BTreeSet::new();
        fronts.retain(|want| seen.insert(want.front));
    }
}

/// A Service, and what comes of its places.
struct Wanted<'a> {
    service: &'a Service,
    model: &'a ServiceModel,
    context: Context<'a>,
    /// VIPs that are bound to no node.
    unbound: Vec<(IpAddr, BindingReason)>,
    /// Addresses of its load balancer that are bound here.
    balancers: Vec<IpAddr>,
    problems: Vec<ProblemKind>,
}

/// Place where a Service offers all its ports in a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offer {
    /// Its ClusterIP, for clients of the cluster.
    ClusterIp(IpAddr, Bound),
    /// An external IP, or an ingress IP of its load balancer, for clients outside too.
    External(IpAddr, ExternalSource, Bound),
    /// All addresses of this node, where a port has a number of its own, for clients outside too.
    Node,
    /// One of them.
    NodeAddress(IpAddr),
}

/// Way by which packets to an offered address come to IPVS, and the reason.
type Bound = (Binding, BindingReason);

impl Offer {
    /// Tells whether pods of other nodes come here, and are to keep their address where they can ([`Masquerade::Pods`]).
    fn keeps_pods(self, service: &Service) -> bool {
        let is_local = service.external_traffic_policy == TrafficPolicy::Local;
        is_local && !matches!(self, Offer::ClusterIp(..)) && self.bound().0 == Binding::Node
    }

    /// Way by which packets come to IPVS.
    const fn bound(self) -> Bound {
        match self {
            Offer::ClusterIp(_, bound) | Offer::External(.., bound) => bound,
            Offer::Node | Offer::NodeAddress(_) => (Binding::Node, BindingReason::OfNode),
        }
    }

    /// Address of the Service's load balancer, if it is one.
    const fn balancer(self) -> Option<IpAddr> {
        match self {
            Offer::External(addr, ExternalSource::LoadBalancer, _) => Some(addr),
            _ => None,
        }
    }

    /// Front of a port there; `None` for one that has no node port.
    fn front(self, port: &ServicePort, family: IpFamily) -> Option<Front> {
        match self {
            Offer::ClusterIp(addr, _) | Offer::External(addr, ..) => {
                Some(VipPort { addr, protocol: port.protocol, port: port.port }.into())
            }
            Offer::Node => Some(Front::node(family, port.protocol, port.node_port?)),
            Offer::NodeAddress(addr) => {
                Some(VipPort { addr, protocol: port.protocol, port: port.node_port? }.into())
            }
        }
    }
}

impl Wanted<'_> {
    /// Places that the Service has and may have in a family.
    fn offers(&mut self, family: IpFamily) -> Vec<Offer> {
        let service = self.service;
        let cluster_ip = service.cluster_ip(family);
        let mut offers: Vec<_> = cluster_ip.and_then(|vip| self.offer(vip, None)).into_iter().collect();
        for ip in service.external_ips_of(family) {
            offers.extend(self.offer(ip.addr, Some(ip.source)));
        }
        // A Service is in a family by having a ClusterIP of it.
        if cluster_ip.is_some() && service.ports.iter().any(|port| port.node_port.is_some()) {
            match node_addresses(service, family, self.context) {
                Some(addresses) => offers.extend(addresses.into_iter().map(Offer::NodeAddress)),
                None => offers.push(Offer::Node),
            }
        }
        offers
    }

    /// Address of the Service, if it may have it and it is bound to this node.
    fn offer(&mut self, vip: IpAddr, source: Option<ExternalSource>) -> Option<Offer> {
        if let Some(problem) = self.refusal(vip, source) {
            // Nobody asks for the address of a proxy.
            self.problems.extend(Some(problem).filter(|_| source != Some(ExternalSource::Proxy)));
            return None;
        }
        let Context { config, facts, .. } = self.context;
        let Choice { binding, reason, refused } = Bindings::choose(self.service, vip, source, config, facts);
        let instead = binding.map_or(VipBinding::None.as_str(), Binding::as_str);
        self.problems.extend(refused.map(|asked| ProblemKind::BindingNotAllowed { vip, asked, instead }));
        let Some(binding) = binding else {
            self.unbound.push((vip, reason));
            return None;
        };
        Some(match source {
            None => Offer::ClusterIp(vip, (binding, reason)),
            Some(source) => Offer::External(vip, source, (binding, reason)),
        })
    }

    /// Problem of a front at an address of the node whose port a program or another Service has.
    fn taken(&self, front: Front, offer: Offer) -> Option<ProblemKind> {
        let (facts, port) = (self.context.facts, front.port);
        // Node ports are the cluster's, and come before both.
        let link = facts.addresses.get(&port.addr).filter(|_| !matches!(offer, Offer::NodeAddress(_)))?;
        if facts.own_ports.contains(&port) {
            return Some(ProblemKind::PortIsNodes { port, link: link.clone() });
        }
        let serves_node_ports = facts.node_ports.contains(&port.addr)
            && matches!(offer, Offer::External(..))
            && offer.bound().0 == Binding::Node;
        let of_another_port = |other: &&ServicePort| {
            other.protocol == port.protocol && other.node_port == Some(port.port) && other.port != port.port
        };
        let winner = match self.service.ports.iter().find(of_another_port) {
            Some(_) => &self.service.name,
            None => self.model.addresses().node_port_of_other(front.as_node_port(), &self.service.name)?,
        };
        let winner = winner.clone();
        serves_node_ports.then_some(ProblemKind::PortIsNodePort { port, winner })
    }

    /// Problem for which an address is served nowhere: who may create Services must not take the traffic of ClusterIPs,
    /// of pods or of addresses that are none of the cluster's (CVE-2020-8554). Load balancers give addresses of their
    /// own, which in a flat network lie in the range of pods.
    fn refusal(&self, vip: IpAddr, source: Option<ExternalSource>) -> Option<ProblemKind> {
        let source = source?;
        let Context { config, ownership, facts } = self.context;
        let field = source.field();
        if let Some(range) = ownership.cluster_range_of(vip) {
            return Some(ProblemKind::ExternalIpIsClusterIp { field, vip, range });
        }
        if self.model.addresses().is_cluster_ip(vip) {
            return Some(ProblemKind::ExternalIpIsOfService { field, vip });
        }
        if source != ExternalSource::ExternalIps {
            return None;
        }
        let mut pods = config.pod_cidrs.iter().chain(&self.model.node().pod_cidrs).copied();
        // An address of the node is no pod's, as where nodes and pods share a network.
        let is_of_node = facts.addresses.contains_key(&vip);
        if let Some(range) = pods.find(|net| !is_of_node && net.contains(vip)) {
            return Some(ProblemKind::ExternalIpIsPodIp { vip, range });
        }
        let is_allowed = config.bindings.allows_external(vip);
        (!is_allowed).then_some(ProblemKind::ExternalIpNotAllowed { vip })
    }
}

/// Tells whether the node ports of a Service have a virtual server at each address of this node.
///
/// Session affinity takes that, because a virtual server with a mark is never persistent (`settings.rs`). A Local
/// policy tells clients apart by marks.
pub fn has_node_ports_by_address(service: &Service, configured: NodePortServers) -> bool {
    let is_meant = service.affinity.is_some() || configured == NodePortServers::Address;
    is_meant
        && service.external_traffic_policy == TrafficPolicy::Cluster
        && service.ports.iter().any(|port| port.node_port.is_some())
}

/// Addresses of this node, where each has a virtual server for each node port of a Service; `None` where one with a
/// mark is for all.
fn node_addresses(service: &Service, family: IpFamily, context: Context<'_>) -> Option<Vec<IpAddr>> {
    let Context { config, ownership, facts } = context;
    if !has_node_ports_by_address(service, config.node_port_servers) {
        return None;
    }
    let served = facts.node_ports_of(family).filter(|addr| ownership.cluster_range_of(*addr).is_none());
    Some(served.collect())
}

fn unmatched_ports(service: &Service, model: &ServiceModel) -> Vec<ProblemKind> {
    let problem = |(slice, port): (&SliceName, &SlicePort)| ProblemKind::UnmatchedPort {
        slice: slice.clone(),
        name: port.name.clone(),
        protocol: port.protocol,
    };
    model.unmatched_ports(service).map(problem).collect()
}

/// Endpoints of one port in one family, by policy.
struct Selection<'a> {
    service: &'a Service,
    port: &'a ServicePort,
    context: Context<'a>,
    /// For traffic that may leave the node.
    cluster: Arc<[ServerEndpoint]>,
    /// For traffic that stays on the node.
    local: Arc<[ServerEndpoint]>,
    endpoints: Vec<Endpoint>,
    selected: SelectedEndpoints,
}

impl<'a> Selection<'a> {
    fn new(
        service: &'a Service,
        port: &'a ServicePort,
        family: IpFamily,
        model: &ServiceModel,
        context: Context<'a>,
    ) -> Self {
        let policy = EndpointPolicy::of(service, port);
        let endpoints = model.endpoints(service, port, family);
        let selected = SelectedEndpoints::of(&endpoints, policy, model.node());
        // Nearly all Services have one of the lists only.
        let none: Arc<[ServerEndpoint]> = Arc::default();
        let list = |is_used: bool, chosen: &[RealServerId]| {
            if is_used { mark_chosen(&endpoints, chosen) } else { Arc::clone(&none) }
        };
        Selection {
            service,
            port,
            context,
            cluster: list(policy.uses_cluster(), &selected.cluster),
            local: list(policy.uses_local(), &selected.local),
            endpoints,
            selected,
        }
    }

    /// Endpoints of this node, where packet rules do not tell its pods from those of other nodes.
    fn local_endpoints(&self, family: IpFamily) -> impl Iterator<Item = VipPort> {
        let is_needed = matches!(self.context.config.layout.local(family), LocalDetection::ClusterCidr(_));
        let local = self.endpoints.iter().filter(move |endpoint| is_needed && endpoint.local);
        local.map(|Endpoint { id, .. }| VipPort {
            addr: id.addr,
            protocol: self.port.protocol,
            port: id.port,
        })
    }

    /// Fronts of a place: under a Local policy, clients outside have one of their own, with endpoints of this node
    /// alone, while pods and processes of this node are served by all.
    fn desire_fronts(&self, front: Front, offer: Offer) -> impl Iterator<Item = FrontIntent> {
        let Service { internal_traffic_policy: internal, external_traffic_policy: external, .. } =
            self.service;
        let masquerade_all = self.context.config.masquerade_all;
        let is_at_node = offer.bound().0 == Binding::Node;
        let (endpoints, masquerade) = match (offer, internal, external) {
            (Offer::ClusterIp(..), TrafficPolicy::Cluster, _) => (&self.cluster, Masquerade::NonLocal),
            (Offer::ClusterIp(..), TrafficPolicy::Local, _) => (&self.local, Masquerade::NonLocal),
            // Pods of other nodes come to an address of this node, too, and must get their answers from here.
            (_, _, TrafficPolicy::Cluster) if is_at_node => (&self.cluster, Masquerade::All),
            (_, _, TrafficPolicy::Cluster) => (&self.cluster, Masquerade::External),
            _ if offer.keeps_pods(self.service) => (&self.cluster, Masquerade::Pods),
            // Clients outside keep their address. Pods and processes of this node need no masquerading: answers come
            // back here.
            (_, _, TrafficPolicy::Local) => (&self.cluster, Masquerade::Never),
        };
        let is_cluster_ip = matches!(offer, Offer::ClusterIp(..));
        let masquerade = if is_cluster_ip && masquerade_all { Masquerade::All } else { masquerade };
        let splits = !is_cluster_ip && *external == TrafficPolicy::Local;
        let external =
            splits.then(|| self.desire_front(front.for_external(), offer, &self.local, Masquerade::Never));
        let ranges = self.service.source_ranges_of(front.family());
        let any = FrontIntent {
            allowed: ranges.filter(|_| offer.balancer().is_some()).cloned(),
            ..self.desire_front(front, offer, endpoints, masquerade)
        };
        std::iter::once(any).chain(external)
    }

    fn desire_front(
        &self,
        front: Front,
        offer: Offer,
        endpoints: &Arc<[ServerEndpoint]>,
        masquerade: Masquerade,
    ) -> FrontIntent {
        let config = self.context.config;
        let (binding, binding_reason) = offer.bound();
        FrontIntent {
            front,
            port_name: Arc::clone(&self.port.name),
            is_cluster_ip: matches!(offer, Offer::ClusterIp(..)),
            binding,
            binding_reason,
            settings: desire_settings(self.service, &front, binding, config),
            real_server: desire_real_server(self.service, config),
            endpoints: Arc::clone(endpoints).into(),
            drain: desire_drain(self.service, config),
            masquerade,
            allowed: None,
        }
    }
}

/// Marks the chosen endpoints. Both lists have the same order, so that one pass suffices.
fn mark_chosen(endpoints: &[Endpoint], chosen: &[RealServerId]) -> Arc<[ServerEndpoint]> {
    let mut chosen = chosen.iter().peekable();
    let mark = |endpoint: &Endpoint| ServerEndpoint {
        id: endpoint.id,
        pod: endpoint.pod,
        chosen: chosen.next_if_eq(&&endpoint.id).is_some(),
        ready: endpoint.ready,
        terminating: endpoint.terminating,
    };
    endpoints.iter().map(mark).collect()
}
