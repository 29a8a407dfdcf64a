//! Intent of one Service: what it asks of the kernel.
//!
//! [`desire_service`] turns one Service, its endpoints and the configuration into a [`ServiceIntent`], and
//! into the [`IntentProblem`]s of what cannot be programmed. It is pure and looks at this Service alone: who
//! wins a front that two Services claim is decided in [`crate::Desired`].
//!
//! Reading order: [`ServiceIntent`], [`FrontIntent`], [`ServerEndpoint`]; [`desire_service`];
//! [`IntentProblem`].

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use drain::Overrides;
use ipnetwork::IpNetwork;
use lb_types::{
    Front, IpFamily, PodUid, Protocol, RealServer, RealServerId, RuleElement, Scheduler, ServiceName,
    VipPort, VirtualServer,
};
use service_model::{
    EndpointPolicy, PortEndpoints, Service, ServiceModel, ServicePort, SliceName, SlicePort, TrafficPolicy,
    annotations,
};
use tally::Tallied;

use crate::{
    Context, NodeFacts, ServiceOverrides,
    settings::{desire_drain, desire_settings, settings_problems},
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

/// Way by which packets to a VIP come to IPVS, in the order of reach: where Services share a VIP, the last of
/// their bindings holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Binding {
    /// A local route leads there.
    Route,
    /// The VIP is an address of this node and stays the node's: packets arrive there anyway, and ports
    /// without a front are not ours.
    Node,
}

impl Binding {
    /// All bindings, in the order of their reach.
    pub const ALL: [Binding; 2] = [Binding::Route, Binding::Node];
}

/// Connections to a front whose source becomes the node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Masquerade {
    /// Connections of clients that are not pods of this node.
    NonLocal,
    /// Connections of clients that are not known as pods of this node.
    External,
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
    /// True if its VIP is a ClusterIP, which no external address of another Service may take.
    pub is_cluster_ip: bool,
    /// Way by which packets come to IPVS.
    pub binding: Binding,
    /// Settings of its virtual server.
    pub settings: VirtualServer,
    /// Settings of all its real servers while they serve.
    pub real_server: RealServer,
    /// Endpoints that the API lists for the port, one for each address and port, sorted by key.
    pub endpoints: Tallied<Arc<[ServerEndpoint]>>,
    /// Choice of the connections that are masqueraded.
    pub masquerade: Masquerade,
    /// True if new connections of clients outside of the node are dropped: only endpoints of other nodes are chosen,
    /// against a Local policy.
    pub drop_external: bool,
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
    /// Fronts of its ClusterIPs, one per family and port.
    pub fronts: Vec<FrontIntent>,
}

/// Reason why a part of a Service is not programmed as it asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IntentProblem {
    /// A VIP lies in a prefix that is left to others.
    VipIsExcluded {
        /// The Service.
        service: ServiceName,
        /// Field of the Service that has the VIP.
        field: &'static str,
        /// The VIP.
        vip: IpAddr,
    },
    /// An external address lies among the ClusterIPs, whose traffic it would take.
    ExternalIpIsClusterIp {
        /// The Service.
        service: ServiceName,
        /// Field of the Service that has the address.
        field: &'static str,
        /// The address.
        vip: IpAddr,
        /// Prefix of ClusterIPs.
        range: IpNetwork,
    },
    /// A port of a ClusterIP that is an address of this node too belongs to a program of the node.
    PortIsNodes {
        /// The Service.
        service: ServiceName,
        /// Address, protocol and port that the program has.
        port: VipPort,
        /// The interface that has the address.
        link: String,
    },
    /// A port of one of its EndpointSlices is no port of the Service.
    UnmatchedPort {
        /// The Service.
        service: ServiceName,
        /// The slice.
        slice: SliceName,
        /// Name of the port; often forgotten, which means the empty one.
        name: Arc<str>,
        /// Protocol of the port.
        protocol: Protocol,
    },
    /// An annotation is one of those that the configuration forbids.
    AnnotationForbidden {
        /// The Service.
        service: ServiceName,
        /// The annotation.
        annotation: &'static str,
        /// Annotations that the configuration allows.
        overrides: ServiceOverrides,
    },
    /// The scheduler that it names is not one of those that the configuration allows.
    SchedulerNotAllowed {
        /// The Service.
        service: ServiceName,
        /// Scheduler that the Service names.
        scheduler: Scheduler,
        /// Scheduler that is used instead.
        instead: Scheduler,
    },
    /// The timeout of its drains exceeds the longest one that the configuration allows.
    TimeoutTooLong {
        /// The Service.
        service: ServiceName,
        /// Timeout that the Service asks for; zero for no deadline.
        timeout: Duration,
        /// Timeout that is used instead.
        max: Duration,
    },
    /// Its scheduler refuses the clients of a real server that drains.
    RefusesWhileDraining {
        /// The Service.
        service: ServiceName,
        /// Scheduler that the Service names.
        scheduler: Scheduler,
    },
    /// Another Service has the same front.
    ClaimedByOther {
        /// Service that is not served there.
        service: ServiceName,
        /// The front.
        front: Front,
        /// Service that is served there.
        winner: ServiceName,
    },
}

impl fmt::Display for IntentProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IntentProblem::VipIsExcluded { service, field, vip } => write!(
                f,
                "Service {service}: {field}: {vip} lies in an excluded prefix (--ipvs-exclude-cidrs, \
                 ipvs.excludeCIDRs) and is not programmed; remove the prefix if kube-ipvs is to serve it"
            ),
            IntentProblem::ExternalIpIsClusterIp { service, field, vip, range } => write!(
                f,
                "Service {service}: {field}: {vip} lies in the range of ClusterIPs {range}, where it would take the \
                 traffic of another Service; it is not served; use an address outside of that range"
            ),
            IntentProblem::PortIsNodes { service, port, link } => write!(
                f,
                "Service {service}: {port} is left to a program of this node, which listens on that very address \
                 (interface {link}), as a node-local DNS cache does; it is served again when the program or the \
                 address goes, and other ports of the Service are served meanwhile"
            ),
            IntentProblem::UnmatchedPort { service, slice, name, protocol } => write!(
                f,
                "EndpointSlice {}/{}: ports[].name: Service {service} has no {protocol} port named {name:?}; \
                 endpoints are not served there; name it as the Service names its port",
                slice.namespace, slice.name
            ),
            IntentProblem::AnnotationForbidden { .. }
            | IntentProblem::SchedulerNotAllowed { .. }
            | IntentProblem::TimeoutTooLong { .. }
            | IntentProblem::RefusesWhileDraining { .. } => self.fmt_annotation(f),
            IntentProblem::ClaimedByOther { service, front, winner } => {
                write!(f, "Service {service}: {front} is already served for Service {winner}, which is older")
            }
        }
    }
}

impl IntentProblem {
    /// Prints the problem of an annotation.
    fn fmt_annotation(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut field = |service: &ServiceName, annotation: &str| {
            write!(f, "Service {service}: metadata.annotations[{annotation}]: ")
        };
        match self {
            IntentProblem::AnnotationForbidden { service, annotation, overrides } => {
                field(service, annotation)?;
                write!(
                    f,
                    "not allowed by --service-overrides={overrides}; the configuration is followed instead; remove \
                     the annotation, or have the operator of the node allow it"
                )
            }
            IntentProblem::SchedulerNotAllowed { service, scheduler, instead } => {
                field(service, annotations::SCHEDULER)?;
                write!(
                    f,
                    "{scheduler} is not one of --allowed-schedulers; {instead} is used instead; name one of them, or \
                     have the operator of the node add it"
                )
            }
            IntentProblem::TimeoutTooLong { service, timeout, max } => {
                field(service, annotations::GRACEFUL_TIMEOUT)?;
                let asked = if timeout.is_zero() { "no deadline".to_owned() } else { format!("{timeout:?}") };
                write!(
                    f,
                    "{asked} exceeds --graceful-timeout-max; {max:?} is used instead; ask for no more, or have the \
                     operator of the node raise it"
                )
            }
            IntentProblem::RefusesWhileDraining { service, scheduler } => {
                field(service, annotations::SCHEDULER)?;
                write!(
                    f,
                    "{scheduler} gives all connections to a VIP to one endpoint, and refuses them while that one \
                     drains; name another scheduler if clients must not be refused"
                )
            }
            _ => Ok(()),
        }
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
    for family in IpFamily::ALL {
        let offers = offers(service, family, context, &mut problems);
        intent.fronts.reserve_exact(offers.len() * service.ports.len());
        for port in service.ports.iter().filter(|_| !offers.is_empty()) {
            // Selected once for all fronts of the port.
            let selection = Selection::new(service, port, family, model);
            for (vip, reach) in &offers {
                let at = VipPort { addr: *vip, protocol: port.protocol, port: port.port };
                match port_of_the_node(service, &at, context.facts) {
                    Some(problem) => problems.push(problem),
                    None => intent.fronts.push(selection.desire_front(at.into(), *reach, context)),
                }
            }
        }
    }
    (intent, problems)
}

/// Clients that a VIP is meant for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Those of the cluster.
    Cluster,
    /// Those outside of it, too.
    External,
}

/// VIPs that a Service has and may have.
fn offers(
    service: &Service,
    family: IpFamily,
    context: Context<'_>,
    problems: &mut Vec<IntentProblem>,
) -> Vec<(IpAddr, Reach)> {
    let mut offers = Vec::new();
    let mut offer = |vip: IpAddr, reach: Reach, field: &'static str| {
        let service = service.name.clone();
        let range = context.ownership.cluster_range_of(vip).filter(|_| reach == Reach::External);
        if context.ownership.excludes_vip(vip) {
            problems.push(IntentProblem::VipIsExcluded { service, field, vip });
        } else if let Some(range) = range {
            problems.push(IntentProblem::ExternalIpIsClusterIp { service, field, vip, range });
        } else {
            offers.push((vip, reach));
        }
    };
    if let Some(vip) = service.cluster_ip(family) {
        offer(vip, Reach::Cluster, "spec.clusterIPs");
    }
    for ip in service.external_ips_of(family) {
        offer(ip.addr, Reach::External, ip.source.field());
    }
    offers
}

fn port_of_the_node(service: &Service, port: &VipPort, facts: &NodeFacts) -> Option<IntentProblem> {
    let link = facts.addresses.get(&port.addr)?.clone();
    let is_own = facts.own_ports.contains(port);
    is_own.then(|| IntentProblem::PortIsNodes { service: service.name.clone(), port: *port, link })
}

fn unmatched_ports(service: &Service, model: &ServiceModel) -> Vec<IntentProblem> {
    let problem = |(slice, port): (&SliceName, &SlicePort)| IntentProblem::UnmatchedPort {
        service: service.name.clone(),
        slice: slice.clone(),
        name: port.name.clone(),
        protocol: port.protocol,
    };
    model.unmatched_ports(service).map(problem).collect()
}

/// Endpoints of one port in one family, by policy.
struct Selection<'a> {
    service: &'a Service,
    /// For traffic that may leave the node.
    cluster: Arc<[ServerEndpoint]>,
    /// For traffic that stays on the node.
    local: Arc<[ServerEndpoint]>,
}

impl<'a> Selection<'a> {
    fn new(service: &'a Service, port: &ServicePort, family: IpFamily, model: &ServiceModel) -> Self {
        let policy = EndpointPolicy::of(service, port);
        let endpoints = model.endpoints(service, port, family);
        let selected = endpoints.select(policy, model.node());
        // Nearly all Services have one of the lists only.
        let none: Arc<[ServerEndpoint]> = Arc::default();
        let list = |is_used: bool, chosen: &[RealServerId]| {
            if is_used { mark_chosen(&endpoints, chosen) } else { Arc::clone(&none) }
        };
        Selection {
            service,
            cluster: list(policy.uses_cluster(), &selected.cluster),
            local: list(policy.uses_local(), &selected.local),
        }
    }

    fn desire_front(&self, front: Front, reach: Reach, context: Context<'_>) -> FrontIntent {
        let Context { config, facts, .. } = context;
        let has_chosen = |list: &[ServerEndpoint]| list.iter().any(|endpoint| endpoint.chosen);
        let Service { internal_traffic_policy: internal, external_traffic_policy: external, .. } =
            self.service;
        let (endpoints, masquerade, drop_external) = match (reach, internal, external) {
            (Reach::Cluster, TrafficPolicy::Cluster, _) => (&self.cluster, Masquerade::NonLocal, false),
            (Reach::Cluster, TrafficPolicy::Local, _) => (&self.local, Masquerade::NonLocal, false),
            (Reach::External, _, TrafficPolicy::Cluster) => (&self.cluster, Masquerade::External, false),
            (Reach::External, _, TrafficPolicy::Local) if has_chosen(&self.local) => {
                (&self.local, Masquerade::Never, false)
            }
            // For pods and processes of this node alone; a process has the node's address, which an endpoint of another
            // node may not be able to answer.
            (Reach::External, _, TrafficPolicy::Local) => {
                (&self.cluster, Masquerade::NonLocal, has_chosen(&self.cluster))
            }
        };
        let is_of_node = front.vip().is_some_and(|vip| facts.addresses.contains_key(&vip));
        let masquerades_all = reach == Reach::Cluster && config.masquerade_all;
        FrontIntent {
            front,
            is_cluster_ip: reach == Reach::Cluster,
            binding: if is_of_node { Binding::Node } else { Binding::Route },
            settings: desire_settings(self.service, front.family(), config),
            real_server: RealServer::SERVING,
            endpoints: Arc::clone(endpoints).into(),
            drain: desire_drain(self.service, config),
            masquerade: if masquerades_all { Masquerade::All } else { masquerade },
            drop_external,
        }
    }
}

/// Marks the chosen endpoints. Both lists have the same order, so that one pass suffices.
fn mark_chosen(endpoints: &PortEndpoints, chosen: &[RealServerId]) -> Arc<[ServerEndpoint]> {
    let mut chosen = chosen.iter().peekable();
    let mark = |endpoint: &service_model::Endpoint| ServerEndpoint {
        id: endpoint.id,
        pod: endpoint.pod,
        chosen: chosen.next_if_eq(&&endpoint.id).is_some(),
        ready: endpoint.ready,
        terminating: endpoint.terminating,
    };
    endpoints.all.iter().map(mark).collect()
}
