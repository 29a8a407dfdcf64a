//! Configuration, ownership and facts about the node: the planner's inputs besides the model.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    str::FromStr,
    time::Duration,
};

use ipnetwork::IpNetwork;
use lb_types::{IpFamily, RulesLayout, Scheduler, SysctlNeed, VipPort, VirtualServerId};

use crate::Mirror;
use service_model::{Service, ServicePort};

/// Configuration that shapes the desired state.
#[derive(Clone, Debug)]
pub struct PlannerConfig {
    /// Scheduler of Services that name none.
    pub scheduler: Scheduler,
    /// Schedulers that the kernel turned out to lack; Services that name one get the default.
    pub unavailable_schedulers: BTreeSet<Scheduler>,
    /// Annotations that count.
    pub service_overrides: ServiceOverrides,
    /// Schedulers that annotations may name.
    pub allowed_schedulers: BTreeSet<Scheduler>,
    /// Longest timeout of drains that an annotation can ask for; `None` for any.
    pub graceful_timeout_max: Option<Duration>,
    /// True if every connection to a ClusterIP is masqueraded.
    pub masquerade_all: bool,
    /// Configured part of the packet rules.
    pub layout: RulesLayout,
    /// Kernel parameters that must have a value, in the order in which they are written.
    pub sysctls: Vec<SysctlNeed>,
    /// Name of this node. It decides what is local, even if the Node cannot be read, and the order in which
    /// real servers are added, so that not every node's `rr` starts at the same one.
    pub node_name: String,
}

impl Default for PlannerConfig {
    fn default() -> Self {
        PlannerConfig {
            scheduler: Scheduler::RR,
            unavailable_schedulers: BTreeSet::new(),
            service_overrides: ServiceOverrides::default(),
            allowed_schedulers: Scheduler::known().collect(),
            graceful_timeout_max: None,
            masquerade_all: false,
            layout: RulesLayout::default(),
            sysctls: Vec::new(),
            node_name: String::new(),
        }
    }
}

/// Inputs of intents and plans besides the objects and the kernel.
#[derive(Clone, Copy, Debug)]
pub struct Context<'a> {
    /// Configuration.
    pub config: &'a PlannerConfig,
    /// Predicate for the virtual servers that are ours.
    pub ownership: &'a Ownership,
    /// Facts about the node.
    pub facts: &'a NodeFacts,
}

/// Annotations of Services that count: whoever may edit a Service need not be whoever runs the node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum ServiceOverrides {
    /// No annotation.
    None,
    /// Annotations about drains.
    Graceful,
    /// All annotations.
    #[default]
    All,
}

impl ServiceOverrides {
    /// Spelling in the value of the flag.
    pub const fn as_str(self) -> &'static str {
        match self {
            ServiceOverrides::None => "none",
            ServiceOverrides::Graceful => "graceful",
            ServiceOverrides::All => "all",
        }
    }
}

impl fmt::Display for ServiceOverrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Text that is no value of the flag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown value {0:?}: expected none, graceful or all")]
pub struct UnknownOverrides(pub String);

impl FromStr for ServiceOverrides {
    type Err = UnknownOverrides;

    fn from_str(s: &str) -> Result<Self, UnknownOverrides> {
        let all = [ServiceOverrides::None, ServiceOverrides::Graceful, ServiceOverrides::All];
        all.into_iter().find(|o| o.as_str() == s).ok_or_else(|| UnknownOverrides(s.to_owned()))
    }
}

/// Facts about this node; they change while the process runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Source of connections from this node to VIPs, per family; always one of `addresses`.
    pub sources: BTreeMap<IpFamily, IpAddr>,
    /// Addresses on real interfaces, with the interface's name. They are never bound as VIPs: packets to them
    /// arrive anyway.
    pub addresses: BTreeMap<IpAddr, String>,
    /// Ports of Services on those addresses that belong to programs of the node: a socket bound to that very
    /// address listens there.
    pub own_ports: BTreeSet<VipPort>,
}

impl NodeFacts {
    /// Chooses the source of each family: the Node object's address if it is really on an interface here (the
    /// kernel refuses any other), else one by which other nodes are likely to reach this one
    /// ([`internal_link`]), else the lowest address of the family.
    pub fn new(node_ips: &BTreeMap<IpFamily, IpAddr>, addresses: BTreeMap<IpAddr, String>) -> Self {
        let source = |family: IpFamily| {
            let of_node = node_ips.get(&family).filter(|ip| addresses.contains_key(ip));
            let of_family = addresses.iter().filter(|(ip, _)| IpFamily::of(**ip) == family);
            let best = of_family.min_by_key(|(ip, link)| (internal_link(link), **ip));
            of_node.or(best.map(|(ip, _)| ip)).copied()
        };
        let sources = IpFamily::ALL.into_iter().filter_map(|f| Some((f, source(f)?))).collect();
        NodeFacts { sources, addresses, own_ports: BTreeSet::new() }
    }

    /// Ports of a Service on those of its VIPs that are addresses of the node.
    pub fn shared_ports(&self, service: &Service) -> Vec<VipPort> {
        let shared = service.vips().filter(|vip| self.addresses.contains_key(vip));
        let port =
            |addr: IpAddr, port: &ServicePort| VipPort { addr, protocol: port.protocol, port: port.port };
        shared.flat_map(|addr| service.ports.iter().map(move |p| port(addr, p))).collect()
    }
}

/// Tells whether a link, by its usual name, leads only to this node's own pods, containers and daemons: a
/// bridge of a container runtime, a link of a network plugin, the dummy of node-local DNS (which has the
/// ClusterIP of the cluster DNS), a tunnel. Replies from other nodes may not find their way back to its
/// addresses.
fn internal_link(name: &str) -> bool {
    const PREFIXES: [&str; 20] = [
        "lo",
        "dummy",
        "nodelocaldns",
        "kube-",
        "docker",
        "br-",
        "virbr",
        "cni",
        "flannel",
        "cali",
        "tunl",
        "vxlan",
        "cilium",
        "lxc",
        "weave",
        "veth",
        "antrea",
        "genev",
        "tun",
        "wg",
    ];
    PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Ownership of virtual servers. IPVS entries carry no tag, so this predicate is all there is.
#[derive(Clone, Debug, Default)]
pub struct Ownership {
    /// Prefixes of ClusterIPs as configured: everything in them is ours.
    pub service_cidrs: Vec<IpNetwork>,
    /// Prefixes of ClusterIPs that the cluster announces: everything in them is ours, too.
    pub announced_cidrs: Vec<IpNetwork>,
    /// Prefixes in which nothing is ours, whatever else says so.
    pub exclude_cidrs: Vec<IpNetwork>,
}

impl Ownership {
    /// Tells whether we may change or delete a virtual server: its VIP is in a prefix of ClusterIPs, our
    /// packet rules name it ([`Mirror::names`]), or its VIP is an address on `kube-ipvs0`, where only
    /// kube-proxy can have put it.
    pub fn owns(&self, vs: &VirtualServerId, mirror: &Mirror) -> bool {
        if self.excludes(vs) {
            return false;
        }
        let has = |vip: IpAddr| mirror.addresses.contains(&vip) || self.cluster_range_of(vip).is_some();
        mirror.names(vs) || vs.vip_port().is_some_and(|vip| has(vip.addr))
    }

    /// Prefix of ClusterIPs that an address lies in.
    pub fn cluster_range_of(&self, addr: IpAddr) -> Option<IpNetwork> {
        let mut cidrs = self.service_cidrs.iter().chain(&self.announced_cidrs);
        cidrs.find(|net| net.contains(addr)).copied()
    }

    /// Tells whether a virtual server lies in an excluded prefix.
    pub fn excludes(&self, vs: &VirtualServerId) -> bool {
        vs.vip_port().is_some_and(|vip| self.excludes_vip(vip.addr))
    }

    /// Tells whether a VIP lies in an excluded prefix.
    pub fn excludes_vip(&self, vip: IpAddr) -> bool {
        self.exclude_cidrs.iter().any(|net| net.contains(vip))
    }
}
