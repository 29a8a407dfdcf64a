//! What the planner decides by, besides the model.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnetwork::IpNetwork;
use lb_types::{IpFamily, RulesLayout, Scheduler, VirtualServerId};

/// Configuration that shapes the desired state.
#[derive(Clone, Debug)]
pub struct PlannerConfig {
    /// Scheduler of Services that name none.
    pub scheduler: Scheduler,
    /// Schedulers that the kernel turned out not to have; Services that name one get the default.
    pub unavailable_schedulers: BTreeSet<Scheduler>,
    /// Masquerade every connection to a ClusterIP.
    pub masquerade_all: bool,
    /// The configured part of the packet rules.
    pub layout: RulesLayout,
    /// Decides the order in which real servers are added, so that not every node's `rr` starts at the same one.
    pub node_name: String,
}

impl Default for PlannerConfig {
    fn default() -> Self {
        PlannerConfig {
            scheduler: Scheduler::RR,
            unavailable_schedulers: BTreeSet::new(),
            masquerade_all: false,
            layout: RulesLayout::default(),
            node_name: String::new(),
        }
    }
}

/// Facts about this node; they change while it runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Source of connections from this node to VIPs, per family; always one of `addresses`.
    pub sources: BTreeMap<IpFamily, IpAddr>,
    /// Addresses on real interfaces: never treated as VIPs.
    pub addresses: BTreeSet<IpAddr>,
}

impl NodeFacts {
    /// Chooses the source of each family: the Node object's address if it is really on an interface here (the kernel
    /// refuses any other), else the lowest address of the family.
    pub fn new(node_ips: &BTreeMap<IpFamily, IpAddr>, addresses: BTreeSet<IpAddr>) -> Self {
        let source = |family: IpFamily| {
            let of_node = node_ips.get(&family).filter(|ip| addresses.contains(ip));
            of_node.or_else(|| addresses.iter().find(|ip| IpFamily::of(**ip) == family)).copied()
        };
        let sources = IpFamily::ALL.into_iter().filter_map(|f| Some((f, source(f)?))).collect();
        NodeFacts { sources, addresses }
    }
}

/// Which virtual servers are ours. IPVS entries carry no tag, so this predicate is all there is.
#[derive(Clone, Debug, Default)]
pub struct Ownership {
    /// Prefixes of ClusterIPs as configured: everything in them is ours.
    pub service_cidrs: Vec<IpNetwork>,
    /// Prefixes of ClusterIPs that the cluster tells; the same holds.
    pub announced_cidrs: Vec<IpNetwork>,
    /// Never ours, whatever else says so.
    pub exclude_cidrs: Vec<IpNetwork>,
    /// Keys that we wrote: those that our packet rules name ([`crate::Mirror::tagged`]), and those added since.
    pub written: BTreeSet<VirtualServerId>,
}

impl Ownership {
    /// Whether we may change or delete a virtual server.
    pub fn owns(&self, vs: &VirtualServerId) -> bool {
        if self.excludes(vs) {
            return false;
        }
        let mut cidrs = self.service_cidrs.iter().chain(&self.announced_cidrs);
        let mut in_cidrs = |vip: IpAddr| cidrs.any(|net| net.contains(vip));
        self.written.contains(vs) || vs.vip_port().is_some_and(|vip| in_cidrs(vip.addr))
    }

    /// Whether a virtual server lies in an excluded prefix.
    pub fn excludes(&self, vs: &VirtualServerId) -> bool {
        vs.vip_port().is_some_and(|vip| self.exclude_cidrs.iter().any(|net| net.contains(vip.addr)))
    }
}
