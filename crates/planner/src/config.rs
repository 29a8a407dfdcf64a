//! Configuration, ownership and facts about the node: the planner's inputs besides the model.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use ipnetwork::IpNetwork;
use lb_types::{IpFamily, RuleElement, RulesLayout, Scheduler, SysctlNeed, VipPort, VirtualServerId, words};

use crate::{Bindings, Mirror};
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
    /// Prefixes of the cluster's pods, as far as they are configured.
    pub pod_cidrs: Vec<IpNetwork>,
    /// Ways by which packets to VIPs come to IPVS.
    pub bindings: Bindings,
    /// Configured part of the packet rules.
    pub layout: RulesLayout,
    /// Addresses of this node at which node ports are served.
    pub node_port_addresses: NodePortAddresses,
    /// Keys of the virtual servers of node ports.
    pub node_port_servers: NodePortServers,
    /// Address of this node that counts instead of the one that its Node names in that family.
    pub node_ip: Option<IpAddr>,
    /// False if `spec.externalIPs` of Services count for nothing.
    pub serve_external_ips: bool,
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
            pod_cidrs: Vec::new(),
            bindings: Bindings::default(),
            layout: RulesLayout::default(),
            sysctls: Vec::new(),
            node_port_addresses: NodePortAddresses::All,
            node_port_servers: NodePortServers::Mark,
            node_ip: None,
            serve_external_ips: true,
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

/// Addresses of this node at which node ports are served. Loopback and link-local addresses are never among them,
/// nor are ClusterIPs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NodePortAddresses {
    /// All of them.
    #[default]
    All,
    /// Those that the Node object names first for each family.
    Primary,
    /// Those in some prefixes. A family without a prefix has all of its addresses, as in kube-proxy
    /// (`NewNodePortAddresses` in pkg/proxy/util/nodeport_addresses.go).
    Prefixes(Vec<IpNetwork>),
}

impl NodePortAddresses {
    fn contains(&self, addr: IpAddr, node_ips: &BTreeMap<IpFamily, IpAddr>) -> bool {
        let is_internal = match addr {
            IpAddr::V4(addr) => addr.is_loopback() || addr.is_link_local() || addr.is_unspecified(),
            IpAddr::V6(addr) => addr.is_loopback() || addr.is_unicast_link_local() || addr.is_unspecified(),
        };
        let is_meant = || match self {
            NodePortAddresses::All => true,
            NodePortAddresses::Primary => node_ips.get(&IpFamily::of(addr)) == Some(&addr),
            NodePortAddresses::Prefixes(prefixes) => {
                let mut of_family = prefixes.iter().filter(|net| net.is_ipv4() == addr.is_ipv4()).peekable();
                of_family.peek().is_none() || of_family.any(|net| net.contains(addr))
            }
        };
        !is_internal && is_meant()
    }
}

words! {
    /// Keys of the virtual servers of node ports.
    #[derive(Default)]
    NodePortServers {
        /// A packet mark: one virtual server for all addresses of the node.
        #[default]
        Mark = "mark",
        /// The address: one virtual server for each, as in kube-proxy. Packets keep the marks of others.
        Address = "address",
    }
    /// Text that is no value of the flag.
    UnknownServers = "unknown value {0:?}: expected mark or address"
}

words! {
    /// Annotations of Services that count: whoever may edit a Service need not be whoever runs the node.
    #[derive(Default)]
    ServiceOverrides {
        /// No annotation.
        None = "none",
        /// Annotations about drains.
        Graceful = "graceful",
        /// All annotations.
        #[default]
        All = "all",
    }
    /// Text that is no value of the flag.
    UnknownOverrides = "unknown value {0:?}: expected none, graceful or all"
}

/// Facts about this node; they change while the process runs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeFacts {
    /// Source of connections from this node to VIPs, per family; always one of `addresses`.
    pub sources: BTreeMap<IpFamily, IpAddr>,
    /// Addresses on real interfaces, with the interface's name. They are never bound as VIPs: packets to them
    /// arrive anyway.
    pub addresses: BTreeMap<IpAddr, String>,
    /// Those of them at which node ports are served.
    pub node_ports: BTreeSet<IpAddr>,
    /// Ports of Services on those addresses that belong to programs of the node: a socket bound to that very
    /// address listens there.
    pub own_ports: BTreeSet<VipPort>,
}

impl NodeFacts {
    /// Chooses the source of each family: the Node object's address if it is really on an interface here (the
    /// kernel refuses any other), else one by which other nodes are likely to reach this one
    /// ([`internal_link`]), else the lowest address of the family.
    pub fn new(
        node_ips: &BTreeMap<IpFamily, IpAddr>,
        addresses: BTreeMap<IpAddr, String>,
        node_ports: &NodePortAddresses,
    ) -> Self {
        let source = |family: IpFamily| {
            let of_node = node_ips.get(&family).filter(|ip| addresses.contains_key(ip));
            let of_family = addresses.iter().filter(|(ip, _)| IpFamily::of(**ip) == family);
            let best = of_family.min_by_key(|(ip, link)| (internal_link(link), **ip));
            of_node.or(best.map(|(ip, _)| ip)).copied()
        };
        let sources = IpFamily::ALL.into_iter().filter_map(|f| Some((f, source(f)?))).collect();
        let node_ports =
            addresses.keys().filter(|addr| node_ports.contains(**addr, node_ips)).copied().collect();
        NodeFacts { sources, addresses, node_ports, own_ports: BTreeSet::new() }
    }

    /// Addresses of a family at which node ports are served.
    pub fn node_ports_of(&self, family: IpFamily) -> impl Iterator<Item = IpAddr> {
        self.node_ports.iter().copied().filter(move |addr| IpFamily::of(*addr) == family)
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
    /// Prefixes in which only those virtual servers are ours that our packet rules name: those of Services.
    pub exclude_cidrs: Vec<IpNetwork>,
}

impl Ownership {
    /// Tells whether we may change or delete a virtual server: its VIP is in a prefix of ClusterIPs, our
    /// packet rules name it ([`Mirror::names`]), its VIP is an address on `kube-ipvs0`, where only
    /// kube-proxy can have put it, or it was there at the start for a node port at one address, as kube-proxy has
    /// them, and there is one for all addresses now.
    pub fn owns(&self, vs: &VirtualServerId, mirror: &Mirror) -> bool {
        let is_excluded = |vip: IpAddr| self.exclude_cidrs.iter().any(|net| net.contains(vip));
        // What we have bound ourselves says nothing about other ports.
        let is_kube_proxys = |vip: IpAddr| {
            let of_ours = [RuleElement::Vip(vip), RuleElement::SteeredVip(vip)];
            mirror.addresses.contains(&vip)
                && !of_ours.iter().any(|element| mirror.elements.contains(element))
        };
        let has = |vip: IpAddr| is_kube_proxys(vip) || self.cluster_range_of(vip).is_some();
        let is_ours = |vip: VipPort| has(vip.addr) || mirror.is_superseded(vs);
        mirror.names(vs) || vs.vip_port().is_some_and(|vip| is_ours(vip) && !is_excluded(vip.addr))
    }

    /// Prefix of ClusterIPs that an address lies in.
    pub fn cluster_range_of(&self, addr: IpAddr) -> Option<IpNetwork> {
        let mut cidrs = self.service_cidrs.iter().chain(&self.announced_cidrs);
        cidrs.find(|net| net.contains(addr)).copied()
    }
}
