//! The kernel tables as traits, so that the loop runs unchanged over the kernel and over fakes.
//!
//! The traits are deliberately thin: they dump what exists and apply typed operations. They take no decision,
//! keep no copy of the state and never repair anything by themselves.
//!
//! Reading order: [`IpvsTable`], [`VipTable`], [`RulesTable`], [`Sysctls`], [`ConntrackTable`], bundled by
//! [`Tables`]; the results of their calls ([`BatchReport`], [`TableError`]); [`fake`] holds in-memory tables
//! with the kernel's rules, and [`contract`] the tests that fakes and kernel must both pass.

pub mod contract;
mod errno;
mod error;
mod explain_rules;
mod explain_vip;
pub mod fake;
mod unopened;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

pub use errno::{errno_name, explain_ipvs};
pub use error::{ErrorKind, TableError};
pub use explain_rules::explain_rules;
pub use explain_vip::explain_vip;
use lb_types::{
    ConnectionCounters, ConntrackFilter, FastMap, FastSet, IpFamily, IpvsOp, MarkRule, RealServer,
    RealServerId, RuleElement, RulesLayout, RulesOp, Scheduler, SysctlOp, TrafficCounters, VipOp, VipPort,
    VirtualServer, VirtualServerId,
};
pub use unopened::Unopened;

/// An operation that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedOp {
    /// Position in the slice given to `apply`.
    pub index: usize,
    /// Error number of the kernel.
    pub errno: i32,
    /// Meaning of the error number for this operation, with the remedy where there is one.
    pub reason: String,
}

/// Result of a batch of operations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BatchReport {
    /// Refused operations, in order; all others were executed, unless the table is transactional.
    pub failed: Vec<FailedOp>,
    /// True if the kernel's answers were lost (ENOBUFS): more may have failed, and the table must be dumped
    /// again.
    pub replies_lost: bool,
}

impl BatchReport {
    /// Tells whether everything was executed, as far as known.
    pub fn is_clean(&self) -> bool {
        self.failed.is_empty() && !self.replies_lost
    }
}

/// A whole dump of the virtual servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VirtualServerDump {
    /// Virtual servers that our vocabulary can express, ours or not.
    pub virtual_servers: Vec<(VirtualServerId, VirtualServer)>,
    /// Number of those that it cannot express (port 0, other protocols): certainly not ours.
    pub unsupported: usize,
}

/// A real server as the kernel reports it.
#[derive(Clone, Copy, Debug)]
pub struct ObservedRealServer {
    /// Address and port within the virtual server.
    pub id: RealServerId,
    /// Weight, forwarding method and thresholds.
    pub settings: RealServer,
    /// Live connection counters.
    pub connections: ConnectionCounters,
    /// Traffic, at most 2 s old.
    pub traffic: TrafficCounters,
}

/// The IPVS tables of one network namespace.
pub trait IpvsTable {
    /// Dumps so far that changes of the table interrupted, each repetition by itself.
    fn dumps_interrupted(&self) -> u64 {
        0
    }

    /// Dumps all virtual servers.
    fn dump_virtual_servers(&mut self) -> Result<VirtualServerDump, TableError>;

    /// Dumps the traffic of all virtual servers, each since it was made.
    fn dump_traffic(&mut self) -> Result<Vec<(VirtualServerId, TrafficCounters)>, TableError> {
        Ok(Vec::new())
    }

    /// Dumps the real servers of a virtual server; none if that does not exist.
    fn dump_real_servers(&mut self, vs: VirtualServerId) -> Result<Vec<ObservedRealServer>, TableError>;

    /// Tells whether the kernel has a scheduler, whose module it loads if need be; changes nothing in the
    /// tables.
    fn has_scheduler(&mut self, scheduler: Scheduler) -> Result<bool, TableError>;

    /// Executes operations in order; a refused one does not stop the others.
    fn apply(&mut self, ops: &[IpvsOp]) -> Result<BatchReport, TableError>;
}

/// State of the link `kube-ipvs0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObservedLink {
    /// True if it is of type dummy; otherwise it is somebody else's.
    pub dummy: bool,
    /// True if it is administratively up; routes need that.
    pub up: bool,
}

/// All that concerns VIPs in the routing subsystem.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedVips {
    /// The link, if there is one of that name.
    pub link: Option<ObservedLink>,
    /// Our local routes (our route protocol, on our link) with their preferred source.
    pub routes: FastMap<IpAddr, Option<IpAddr>>,
    /// VIPs with a route of ours in the table of steered packets.
    pub steered: FastSet<IpAddr>,
    /// Our rules of the routing policy that lead there: family and bit of the packet mark.
    pub rules: BTreeSet<(IpFamily, u8)>,
    /// Addresses on `kube-ipvs0`; IPv6 link-local ones excluded.
    pub addresses: BTreeSet<IpAddr>,
    /// Addresses of this node: on every other link, loopback and IPv6 link-local excluded, with the link's
    /// name.
    pub node_addresses: BTreeMap<IpAddr, String>,
    /// Other links that are on a network of IPv4 which they share with others (an address of at most 30 bits).
    pub shared_links: BTreeSet<String>,
    /// Bridges by name.
    pub bridges: BTreeMap<String, BridgeFilters>,
}

/// Settings by which a bridge hands the packets between its ports to netfilter, whatever
/// `net.bridge.bridge-nf-call-*` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BridgeFilters {
    /// True if it hands on IPv4 packets.
    pub ipv4: bool,
    /// True if it hands on IPv6 packets.
    pub ipv6: bool,
}

/// Links, addresses and routes of one network namespace.
pub trait VipTable {
    /// Dumps so far that changes of the table interrupted, each repetition by itself.
    fn dumps_interrupted(&self) -> u64 {
        0
    }

    /// Dumps everything that concerns VIPs.
    fn observe(&mut self) -> Result<ObservedVips, TableError>;

    /// Finds the rules of the routing policy that look at packet marks, inverted ones and ours excluded.
    fn mark_rules(&mut self) -> Result<Vec<MarkRule>, TableError>;

    /// Finds the interfaces with an IPv6 default route that came by router advertisement.
    fn advertised_links(&mut self) -> Result<BTreeSet<String>, TableError>;

    /// Executes operations in order; a refused one does not stop the others. Deleting something absent
    /// succeeds.
    fn apply(&mut self, ops: &[VipOp]) -> Result<BatchReport, TableError>;

    /// Finds those of some ports on which a socket of the node listens that is bound to exactly that address.
    ///
    /// It costs a request for each port. Sockets that are bound to no address do not count.
    fn listeners(&mut self, ports: &[VipPort]) -> Result<BTreeSet<VipPort>, TableError>;
}

/// State of our nftables tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ObservedRules {
    /// True if the table exists.
    pub table: bool,
    /// True if its chains, rules and sets are those of the desired layout.
    pub layout_current: bool,
    /// All elements of all known sets.
    pub elements: FastSet<RuleElement>,
}

/// A chain of somebody else's that drops packets which this node forwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardDrop {
    /// Family of the packets that it drops; `None` for both families.
    pub family: Option<IpFamily>,
    /// Family and name of its table, such as `ip filter`.
    pub table: String,
    /// Its name.
    pub chain: String,
}

impl fmt::Display for ForwardDrop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.table, self.chain)
    }
}

/// The nftables table of one network namespace.
pub trait RulesTable {
    /// Dumps so far that changes of the table interrupted, each repetition by itself.
    fn dumps_interrupted(&self) -> u64 {
        0
    }

    /// Tells whether the kernel has tables of family arp; changes nothing.
    fn has_arp(&mut self) -> Result<bool, TableError> {
        Ok(true)
    }

    /// Dumps the table and compares its chains with a layout.
    fn observe(&mut self, wanted: &RulesLayout) -> Result<ObservedRules, TableError>;

    /// Finds chains of other tables that drop the answers of pods on their way through this node, as far as a
    /// look at their rules can tell.
    fn forward_drops(&mut self) -> Result<Vec<ForwardDrop>, TableError>;

    /// Executes all operations in one transaction: if any is in `failed`, none was executed.
    ///
    /// Adding a present element succeeds, unless a map has another mark for its front, which fails with EEXIST;
    /// deleting an absent one fails with ENOENT, and so does any element operation while the table is missing.
    fn apply(&mut self, ops: &[RulesOp]) -> Result<BatchReport, TableError>;
}

/// Kernel parameters below `/proc/sys`.
pub trait Sysctls {
    /// Value of a parameter, `None` if the kernel does not have it.
    fn read(&mut self, name: &str) -> Result<Option<u32>, TableError>;

    /// Tells whether anybody can write a parameter in this network namespace. Some belong to the node's first
    /// one alone.
    fn is_writable(&mut self, _name: &str) -> bool {
        true
    }

    /// Writes a parameter.
    fn write(&mut self, op: &SysctlOp) -> Result<(), TableError>;
}

/// The connection tracking of one network namespace.
pub trait ConntrackTable {
    /// Dumps so far that changes of the table interrupted, each repetition by itself.
    fn dumps_interrupted(&self) -> u64 {
        0
    }

    /// Deletes every tracked connection that one of the filters names, and no other; returns their number. Every filter
    /// has an address.
    ///
    /// One call for many filters costs one walk over the table for each family and protocol among them. It
    /// may miss tracked connections that appear meanwhile: make the change that they must not outlive first.
    fn delete_flows(&mut self, filters: &[ConntrackFilter]) -> Result<usize, TableError>;
}

/// Table that somebody else has written to, according to a netlink notification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Touched {
    /// Our link, our routes, or addresses of the node.
    Vips,
    /// Our nftables table.
    Rules,
}

/// All tables of one network namespace; one thread owns them.
pub struct Tables {
    /// Virtual servers and real servers.
    pub ipvs: Box<dyn IpvsTable>,
    /// Link, routes, addresses.
    pub vips: Box<dyn VipTable>,
    /// Sets and rules of nftables.
    pub rules: Box<dyn RulesTable>,
    /// Kernel parameters.
    pub sysctls: Box<dyn Sysctls>,
    /// Connection tracking.
    pub conntrack: Box<dyn ConntrackTable>,
}
