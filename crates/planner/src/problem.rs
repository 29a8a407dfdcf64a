//! Problems of single Services with what they ask for.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use ipnetwork::IpNetwork;
use lb_types::{Front, Protocol, Scheduler, ServiceName, VipBinding, VipPort};
use service_model::{SliceName, annotations};

use crate::{Binding, ServiceOverrides};

/// Problem of a Service: a part of it is not programmed as it asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct IntentProblem {
    /// The Service.
    pub service: ServiceName,
    /// Kind of problem.
    pub kind: ProblemKind,
}

impl fmt::Display for IntentProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let IntentProblem { service, kind } = self;
        match kind {
            // What must be mended comes first.
            ProblemKind::UnmatchedPort { slice: SliceName { namespace, name }, .. } => {
                write!(f, "EndpointSlice {namespace}/{name}: ports[].name: Service {service} {kind}")
            }
            _ => write!(f, "Service {service}: {kind}"),
        }
    }
}

/// Reason why a part of a Service is not programmed as it asks.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProblemKind {
    /// An external address lies among the ClusterIPs, whose traffic it would take.
    ExternalIpIsClusterIp {
        /// Field of the Service that has the address.
        field: &'static str,
        /// The address.
        vip: IpAddr,
        /// Prefix of ClusterIPs.
        range: IpNetwork,
    },
    /// An external address is the ClusterIP of another Service, whose traffic it would take.
    ExternalIpIsOfService {
        /// Field of the Service that has the address.
        field: &'static str,
        /// The address.
        vip: IpAddr,
    },
    /// An external IP lies among the pods of the cluster.
    ExternalIpIsPodIp {
        /// The address.
        vip: IpAddr,
        /// Prefix of pods.
        range: IpNetwork,
    },
    /// An external IP lies in none of the prefixes that the configuration allows.
    ExternalIpNotAllowed {
        /// The address.
        vip: IpAddr,
    },
    /// A port of a VIP that is an address of this node too belongs to a program of the node.
    PortIsNodes {
        /// Address, protocol and port that the program has.
        port: VipPort,
        /// The interface that has the address.
        link: String,
    },
    /// A port of one of its EndpointSlices is no port of the Service.
    UnmatchedPort {
        /// The slice.
        slice: SliceName,
        /// Name of the port; often forgotten, which means the empty one.
        name: Arc<str>,
        /// Protocol of the port.
        protocol: Protocol,
    },
    /// An annotation is one of those that the configuration forbids.
    AnnotationForbidden {
        /// The annotation.
        annotation: &'static str,
        /// Annotations that the configuration allows.
        overrides: ServiceOverrides,
    },
    /// The scheduler that it names is not one of those that the configuration allows.
    SchedulerNotAllowed {
        /// Scheduler that the Service names.
        scheduler: Scheduler,
        /// Scheduler that is used instead.
        instead: Scheduler,
    },
    /// The binding that it asks for reaches further than it may.
    BindingNotAllowed {
        /// The external IP.
        vip: IpAddr,
        /// Binding that the Service asks for.
        asked: VipBinding,
        /// Binding that is used instead.
        instead: &'static str,
    },
    /// The timeout of its drains exceeds the longest one that the configuration allows.
    TimeoutTooLong {
        /// Timeout that the Service asks for; zero for no deadline.
        timeout: Duration,
        /// Timeout that is used instead.
        max: Duration,
    },
    /// Its scheduler refuses the clients of a real server that drains.
    RefusesWhileDraining {
        /// Scheduler that the Service names.
        scheduler: Scheduler,
    },
    /// Another Service has the same address, and its binding reaches further.
    BoundFurther {
        /// The address.
        vip: IpAddr,
        /// Binding that the Service would have by itself; `None` for no node.
        own: Option<Binding>,
        /// Binding that holds.
        binding: Binding,
    },
    /// Another Service has the same front.
    ClaimedByOther {
        /// The front.
        front: Front,
        /// Service that is served there.
        winner: ServiceName,
    },
    /// A port at an external address that is the node's is a node port of another Service, which has its packets.
    PortIsNodePort {
        /// Address, protocol and port.
        port: VipPort,
        /// Service that has the node port.
        winner: ServiceName,
    },
}

impl fmt::Display for ProblemKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProblemKind::ExternalIpIsClusterIp { field, vip, range } => write!(
                f,
                "{field}: {vip} lies in the range of ClusterIPs {range}, where it would take the \
                 traffic of another Service; it is not served; use an address outside of that range"
            ),
            ProblemKind::ExternalIpIsOfService { field, vip } => write!(
                f,
                "{field}: {vip} is the ClusterIP of another Service, whose traffic it would take; it is \
                 not served; use another address"
            ),
            ProblemKind::ExternalIpIsPodIp { vip, range } => write!(
                f,
                "spec.externalIPs: {vip} lies in the range of pods {range}, where it would take the traffic of \
                 a pod; it is not served; use an address outside of that range"
            ),
            ProblemKind::ExternalIpNotAllowed { vip } => write!(
                f,
                "spec.externalIPs: {vip} lies in none of the ranges of --external-ip-cidrs and is not \
                 served; use an address in one of them, or have the operator of the node add its range"
            ),
            ProblemKind::PortIsNodes { port, link } => write!(
                f,
                "{port} is left to a program of this node, which listens on that very address \
                 (interface {link}), as a node-local DNS cache does; it is served again when the program or the \
                 address goes, and other ports of the Service are served meanwhile"
            ),
            ProblemKind::UnmatchedPort { name, protocol, .. } => write!(
                f,
                "has no {protocol} port named {name:?}; endpoints are not served there; name it as the Service names \
                 its port"
            ),
            ProblemKind::AnnotationForbidden { .. }
            | ProblemKind::SchedulerNotAllowed { .. }
            | ProblemKind::BindingNotAllowed { .. }
            | ProblemKind::TimeoutTooLong { .. }
            | ProblemKind::RefusesWhileDraining { .. } => self.fmt_annotation(f),
            ProblemKind::BoundFurther { vip, own, binding } => write!(
                f,
                "the binding of {vip} is {binding}, for another Service with that address, not {}: the \
                 one that reaches furthest holds{}; have all Services with the address ask for the same one",
                own.map_or(VipBinding::None.as_str(), Binding::as_str),
                match own {
                    None if binding.is_whole() =>
                        ", and this node refuses ports that only this Service has there",
                    _ => "",
                }
            ),
            ProblemKind::ClaimedByOther { front, winner } => {
                write!(f, "{front} is already served for Service {winner}, which is older")
            }
            ProblemKind::PortIsNodePort { port, winner } => write!(
                f,
                "{port} is an address of this node and a node port of Service {winner}, which is \
                 served there; use another port or another address"
            ),
        }
    }
}

impl ProblemKind {
    /// Prints the problem of an annotation.
    fn fmt_annotation(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProblemKind::AnnotationForbidden { annotation, overrides } => write!(
                f,
                "metadata.annotations[{annotation}]: not allowed by --service-overrides={overrides}; the configuration \
                 is followed instead; remove the annotation, or have the operator of the node allow it"
            ),
            ProblemKind::SchedulerNotAllowed { scheduler, instead } => write!(
                f,
                "metadata.annotations[{}]: {scheduler} is not one of --allowed-schedulers; {instead} is used instead; \
                 name one of them, or have the operator of the node add it",
                annotations::SCHEDULER
            ),
            ProblemKind::BindingNotAllowed { vip, asked, instead } => write!(
                f,
                "metadata.annotations[{}]: {asked} would take all traffic to {vip}, whosever address that is; {instead} \
                 is used instead; have the operator of the node list the address in --external-ip-cidrs",
                annotations::EXTERNAL_IP_BINDING
            ),
            ProblemKind::TimeoutTooLong { timeout, max } => {
                let asked = if timeout.is_zero() { "no deadline".to_owned() } else { format!("{timeout:?}") };
                write!(
                    f,
                    "metadata.annotations[{}]: {asked} exceeds --graceful-timeout-max; {max:?} is used instead; ask for \
                     no more, or have the operator of the node raise it",
                    annotations::GRACEFUL_TIMEOUT
                )
            }
            ProblemKind::RefusesWhileDraining { scheduler } => write!(
                f,
                "metadata.annotations[{}]: {scheduler} gives all connections to a VIP to one endpoint, and refuses them \
                 while that one drains; name another scheduler if clients must not be refused",
                annotations::SCHEDULER
            ),
            _ => Ok(()),
        }
    }
}
