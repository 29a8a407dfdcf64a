//! What one Service wants of the kernel.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use drain::Overrides;
use lb_types::{
    IpFamily, PodUid, Protocol, RealServer, RealServerId, RuleElement, RuleSet, Scheduler, ServiceName,
    VipPort, VirtualServer, VirtualServerId,
};
use service_model::{
    PortEndpoints, Service, ServiceModel, ServicePort, SliceName, SlicePort, annotations,
    cluster_ip_endpoints,
};
use tally::Tallied;

use crate::{
    NodeFacts, Ownership, PlannerConfig, ServiceOverrides,
    settings::{desire_drain, desire_settings, settings_problems},
};

/// An endpoint of a virtual server, whatever its condition: a real server that the kernel may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerEndpoint {
    /// Key of the real server.
    pub id: RealServerId,
    /// Pod that takes connections there, if the API names one.
    pub pod: Option<PodUid>,
    /// Takes new connections: policy and topology choose it.
    pub chosen: bool,
    /// Is ready, so that it could.
    pub ready: bool,
    /// Its pod is being deleted.
    pub terminating: bool,
}

/// A virtual server that a Service wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerIntent {
    /// Key.
    pub vs: VirtualServerId,
    /// Settings.
    pub settings: VirtualServer,
    /// Settings of all its real servers while they serve.
    pub real_server: RealServer,
    /// Endpoints that the API lists for the port, one for each address and port, sorted by key.
    pub endpoints: Tallied<Arc<[ServerEndpoint]>>,
    /// Which masquerade set the VIP port belongs to.
    pub masquerade: RuleSet,
    /// What the Service wants of drains otherwise than the configuration, if anything.
    pub drain: Option<Arc<Overrides>>,
}

impl ServerIntent {
    /// What the Service wants of drains otherwise than the configuration.
    pub fn drain_overrides(&self) -> &Overrides {
        self.drain.as_deref().unwrap_or(&Overrides::NONE)
    }

    /// Real servers that take new connections, sorted.
    pub fn real_servers(&self) -> impl Iterator<Item = RealServerId> {
        self.endpoints.iter().filter(|endpoint| endpoint.chosen).map(|endpoint| endpoint.id)
    }

    /// Whether there is any.
    pub fn has_real_servers(&self) -> bool {
        self.endpoints.iter().any(|endpoint| endpoint.chosen)
    }

    /// The endpoint behind a real server, whatever its condition.
    pub fn endpoint(&self, rs: &RealServerId) -> Option<&ServerEndpoint> {
        let at = self.endpoints.binary_search_by(|endpoint| endpoint.id.cmp(rs)).ok()?;
        self.endpoints.get(at)
    }

    /// Set elements that the virtual server has whatever the kernel holds of it.
    pub fn elements(&self) -> impl Iterator<Item = RuleElement> {
        let port = self.vs.vip_port();
        let sets = [RuleSet::Services, self.masquerade];
        sets.into_iter().filter_map(move |set| Some(RuleElement::port(set, port?)))
    }
}

/// All that one Service wants.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceIntent {
    /// `metadata.creationTimestamp`; the older Service wins a key claimed twice.
    pub created: Option<i64>,
    /// Virtual servers.
    pub servers: Vec<ServerIntent>,
}

/// Why a part of a Service is not programmed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum IntentProblem {
    /// A ClusterIP lies in a prefix that is left to others.
    VipIsExcluded {
        /// The Service.
        service: ServiceName,
        /// The ClusterIP.
        vip: IpAddr,
    },
    /// A port of a ClusterIP that is an address of this node too belongs to a program of the node.
    PortIsNodes {
        /// The Service.
        service: ServiceName,
        /// Address and port.
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
        /// Its protocol.
        protocol: Protocol,
    },
    /// An annotation is one of those that the configuration forbids.
    AnnotationForbidden {
        /// The Service.
        service: ServiceName,
        /// The annotation.
        annotation: &'static str,
        /// Those that count.
        overrides: ServiceOverrides,
    },
    /// The scheduler that it names is not one of those that the configuration allows.
    SchedulerNotAllowed {
        /// The Service.
        service: ServiceName,
        /// What it names.
        scheduler: Scheduler,
        /// The configured one.
        instead: Scheduler,
    },
    /// The timeout of its drains exceeds the longest one that the configuration allows.
    TimeoutTooLong {
        /// The Service.
        service: ServiceName,
        /// What it asks for; zero for no deadline.
        timeout: Duration,
        /// What it gets.
        max: Duration,
    },
    /// Its scheduler refuses the clients of a real server that drains.
    RefusesWhileDraining {
        /// The Service.
        service: ServiceName,
        /// What it names.
        scheduler: Scheduler,
    },
    /// Another Service has the same VIP, protocol and port.
    ClaimedByOther {
        /// The Service that is not served there.
        service: ServiceName,
        /// The key.
        vs: VirtualServerId,
        /// The Service that is.
        winner: ServiceName,
    },
}

impl fmt::Display for IntentProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IntentProblem::VipIsExcluded { service, vip } => write!(
                f,
                "Service {service}: spec.clusterIPs: {vip} lies in an excluded prefix (--ipvs-exclude-cidrs, \
                 ipvs.excludeCIDRs) and is not programmed; remove the prefix if kube-ipvs is to serve it"
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
            IntentProblem::ClaimedByOther { service, vs, winner } => {
                write!(f, "Service {service}: {vs} is already served for Service {winner}, which is older")
            }
        }
    }
}

impl IntentProblem {
    /// What is wrong with an annotation.
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

/// Intent of one Service, and what of it cannot be.
pub fn desire_service(
    service: &Service,
    model: &ServiceModel,
    (ownership, facts): (&Ownership, &NodeFacts),
    config: &PlannerConfig,
) -> (ServiceIntent, Vec<IntentProblem>) {
    let mut intent = ServiceIntent { created: service.created, ..ServiceIntent::default() };
    let mut problems = unmatched_ports(service, model);
    problems.extend(settings_problems(service, config));
    intent.servers.reserve_exact(service.cluster_ips.len() * service.ports.len());
    for family in IpFamily::ALL {
        let Some(vip) = service.cluster_ip(family) else { continue };
        if ownership.excludes_vip(vip) {
            problems.push(IntentProblem::VipIsExcluded { service: service.name.clone(), vip });
            continue;
        }
        for port in &service.ports {
            if let Some(problem) = port_of_the_node(service, (vip, port), facts) {
                problems.push(problem);
                continue;
            }
            let endpoints = model.endpoints(service, port, family);
            let chosen = cluster_ip_endpoints(service, &endpoints, model.node());
            let endpoints = mark_chosen(&endpoints, &chosen);
            intent.servers.push(desire_server(service, (vip, port), endpoints, config));
        }
    }
    (intent, problems)
}

fn port_of_the_node(
    service: &Service,
    (addr, port): (IpAddr, &ServicePort),
    facts: &NodeFacts,
) -> Option<IntentProblem> {
    let link = facts.addresses.get(&addr)?.clone();
    let port = VipPort { addr, protocol: port.protocol, port: port.port };
    let is_own = facts.own_ports.contains(&port);
    is_own.then(|| IntentProblem::PortIsNodes { service: service.name.clone(), port, link })
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

/// All endpoints with the choice among them, which is in the same order.
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

fn desire_server(
    service: &Service,
    (vip, port): (IpAddr, &ServicePort),
    endpoints: Arc<[ServerEndpoint]>,
    config: &PlannerConfig,
) -> ServerIntent {
    ServerIntent {
        vs: VipPort { addr: vip, protocol: port.protocol, port: port.port }.into(),
        settings: desire_settings(service, IpFamily::of(vip), config),
        real_server: RealServer::SERVING,
        endpoints: endpoints.into(),
        drain: desire_drain(service, config),
        masquerade: if config.masquerade_all { RuleSet::Masquerade } else { RuleSet::MasqueradeNonLocal },
    }
}
