//! Choice of the way by which packets to a VIP come to IPVS.
//!
//! [`Bindings::choose`] is pure, and the only place where a binding is chosen. Where several Services share a VIP,
//! [`crate::Desired::binding`] takes the one that reaches furthest.

use std::{fmt, net::IpAddr};

use ipnetwork::IpNetwork;
use lb_types::{VipBinding, words};
use service_model::{ExternalSource, Service, annotations};

use crate::{NodeFacts, PlannerConfig};

/// Configuration of bindings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bindings {
    /// Of ClusterIPs.
    pub cluster_ip: VipBinding,
    /// Of external IPs.
    pub external_ip: VipBinding,
    /// Of ingress IPs of load balancers.
    pub load_balancer: VipBinding,
    /// Prefixes of external and load-balancer IPs that are bound to no node.
    pub excluded: Vec<IpNetwork>,
    /// Prefixes that external IPs must lie in; empty for any.
    pub external_cidrs: Vec<IpNetwork>,
}

impl Default for Bindings {
    fn default() -> Self {
        Bindings {
            cluster_ip: VipBinding::Route,
            external_ip: VipBinding::Steer,
            load_balancer: VipBinding::Steer,
            excluded: Vec::new(),
            external_cidrs: Vec::new(),
        }
    }
}

words! {
    /// Way by which packets to a VIP come to IPVS, in the order of reach: where Services share a VIP, the last of
    /// their bindings holds. Words are those of [`VipBinding`].
    Binding {
        /// Packets to ports of Services are steered here.
        Steer = "steer",
        /// A local route leads there.
        Route = "route",
        /// It is an address of `kube-ipvs0`.
        Address = "address",
        /// The VIP is an address of this node and stays the node's, or the port is a node port: packets arrive there
        /// anyway, and ports without a front are not ours.
        Node = "node",
    }
}

impl Binding {
    /// Tells whether a VIP is bound with all its ports, so that those without a Service are refused.
    pub const fn is_whole(self) -> bool {
        matches!(self, Binding::Route | Binding::Address)
    }
}

/// Reason for a binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum BindingReason {
    /// The load balancer that has the address is a proxy.
    Proxy,
    /// The VIP is an address of this node.
    OfNode,
    /// The Service asks for it.
    Annotation,
    /// The configuration excludes the address.
    Excluded,
    /// The configuration says so of all VIPs of the kind; the flag is named.
    Configured(&'static str),
}

impl fmt::Display for BindingReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindingReason::Proxy => f.write_str("ipMode: Proxy"),
            BindingReason::OfNode => f.write_str("an address of this node"),
            BindingReason::Annotation => write!(f, "annotation {}", annotations::EXTERNAL_IP_BINDING),
            BindingReason::Excluded => f.write_str("--exclude-external-ips"),
            BindingReason::Configured(flag) => f.write_str(flag),
        }
    }
}

/// A chosen binding; `None` binds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The binding.
    pub binding: Option<Binding>,
    /// Reason for it.
    pub reason: BindingReason,
    /// Binding that the Service asks for and does not get.
    pub refused: Option<VipBinding>,
}

impl Bindings {
    /// Chooses the binding of a VIP of a Service; `source` is where the address is written, unless it is a ClusterIP.
    ///
    /// The address of a load balancer that is a proxy is bound to no node, because clients are to pass that. Nor is an
    /// excluded address, whatever the Service asks for: the operator of the node has the last word. Then the Service's
    /// own wish counts, if its annotations do, and at last the flag for its kind of VIP. What is to be bound by any of
    /// them and is on an interface of the node stays the node's, while an address that is to be bound to no node has no
    /// virtual server there either.
    ///
    /// An external IP may be any address, that of another machine, too. So a Service may ask for a wider reach than the
    /// flag's only where the operator has listed the address.
    pub fn choose(
        service: &Service,
        vip: IpAddr,
        source: Option<ExternalSource>,
        config: &PlannerConfig,
        facts: &NodeFacts,
    ) -> Choice {
        let bindings = &config.bindings;
        let is_excluded = || bindings.excluded.iter().any(|net| net.contains(vip));
        let wish = service.settings.external_ip_binding.as_ref();
        let wish = wish.filter(|_| config.hears_all());
        let mut refused = None;
        let (binding, reason) = match source {
            Some(ExternalSource::Proxy) => (VipBinding::None, BindingReason::Proxy),
            Some(_) if is_excluded() => (VipBinding::None, BindingReason::Excluded),
            Some(source) => {
                let (configured, reason) = bindings.configured(source);
                match wish.and_then(|wish| wish.of(vip)) {
                    Some(wider) if wider > configured && !bindings.may_widen(vip, source) => {
                        refused = Some(wider);
                        (configured, reason)
                    }
                    Some(binding) => (binding, BindingReason::Annotation),
                    None => (configured, reason),
                }
            }
            None => (bindings.cluster_ip, BindingReason::Configured("--cluster-ip-binding")),
        };
        let binding = match binding {
            VipBinding::None => None,
            _ if facts.addresses.contains_key(&vip) => {
                return Choice { binding: Some(Binding::Node), reason: BindingReason::OfNode, refused: None };
            }
            VipBinding::Steer => Some(Binding::Steer),
            VipBinding::Route => Some(Binding::Route),
            VipBinding::Address => Some(Binding::Address),
        };
        Choice { binding, reason, refused }
    }

    /// Tells whether the annotation of a Service may give an address a wider reach than the flag does.
    fn may_widen(&self, addr: IpAddr, source: ExternalSource) -> bool {
        let is_listed = self.external_cidrs.iter().any(|net| net.contains(addr));
        source == ExternalSource::LoadBalancer || is_listed
    }

    fn configured(&self, source: ExternalSource) -> (VipBinding, BindingReason) {
        match source {
            ExternalSource::ExternalIps => {
                (self.external_ip, BindingReason::Configured("--external-ip-binding"))
            }
            ExternalSource::LoadBalancer | ExternalSource::Proxy => {
                (self.load_balancer, BindingReason::Configured("--load-balancer-ip-binding"))
            }
        }
    }

    /// Tells whether an external IP may be served.
    pub(crate) fn allows_external(&self, addr: IpAddr) -> bool {
        self.external_cidrs.is_empty() || self.external_cidrs.iter().any(|net| net.contains(addr))
    }
}
