//! Identity, settings and counters of virtual servers and real servers.
//!
//! Identity, settings and statistics are separate types: statistics never take part in comparisons, and
//! settings never decide which object is meant.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    net::{IpAddr, SocketAddr},
    num::{NonZeroU16, NonZeroU32},
    str::FromStr,
};

use crate::{
    IpFamily, Protocol, VipPort,
    net::{cmp_addr, hash_with_addr},
};

/// Key of a virtual server in the kernel (`ip_vs_service_find` in net/netfilter/ipvs/ip_vs_ctl.c).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VirtualServerId {
    /// Selected by destination address, protocol and port.
    Address(VipPort),
    /// Selected by the packet mark.
    FwMark {
        /// Family of the packets.
        family: IpFamily,
        /// Mark, which is compared as a whole; 0 means "no mark" to the kernel and cannot be a key.
        mark: NonZeroU32,
    },
}

impl VirtualServerId {
    /// Family of the packets that it takes.
    pub const fn family(&self) -> IpFamily {
        match self {
            VirtualServerId::Address(vip) => IpFamily::of(vip.addr),
            VirtualServerId::FwMark { family, .. } => *family,
        }
    }

    /// VIP and port, unless selected by mark.
    pub const fn vip_port(&self) -> Option<VipPort> {
        match self {
            VirtualServerId::Address(vip) => Some(*vip),
            VirtualServerId::FwMark { .. } => None,
        }
    }

    /// Protocol, unless selected by mark (a mark takes every protocol).
    pub const fn protocol(&self) -> Option<Protocol> {
        match self {
            VirtualServerId::Address(vip) => Some(vip.protocol),
            VirtualServerId::FwMark { .. } => None,
        }
    }
}

impl From<VipPort> for VirtualServerId {
    fn from(vip: VipPort) -> Self {
        VirtualServerId::Address(vip)
    }
}

impl fmt::Display for VirtualServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VirtualServerId::Address(vip) => vip.fmt(f),
            VirtualServerId::FwMark { family, mark } => write!(f, "fwmark {:#x} {family}", mark.get()),
        }
    }
}

/// Names of the schedulers in the kernel tree (net/netfilter/ipvs/ip_vs_*.c).
const KNOWN_SCHEDULERS: [&str; 14] =
    ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos"];

/// Name of an IPVS scheduler: 1 to 15 bytes without NUL (`IP_VS_SCHEDNAME_MAXLEN`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Scheduler([u8; 16]);

/// A scheduler name that no kernel has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown IPVS scheduler {0:?}: expected one of {list}", list = KNOWN_SCHEDULERS.join(", "))]
pub struct UnknownScheduler(pub String);

impl Scheduler {
    /// All schedulers in the kernel tree.
    pub fn known() -> impl Iterator<Item = Scheduler> {
        KNOWN_SCHEDULERS.into_iter().map(Scheduler::from_static)
    }

    /// Round robin, the default of kube-proxy.
    pub const RR: Scheduler = Scheduler::from_static("rr");
    /// Weighted round robin.
    pub const WRR: Scheduler = Scheduler::from_static("wrr");
    /// Least connections.
    pub const LC: Scheduler = Scheduler::from_static("lc");
    /// Weighted least connections.
    pub const WLC: Scheduler = Scheduler::from_static("wlc");
    /// Maglev hashing.
    pub const MH: Scheduler = Scheduler::from_static("mh");
    /// Source hashing.
    pub const SH: Scheduler = Scheduler::from_static("sh");
    /// Destination hashing.
    pub const DH: Scheduler = Scheduler::from_static("dh");

    const fn from_static(name: &str) -> Self {
        let (bytes, mut out, mut i) = (name.as_bytes(), [0; 16], 0);
        while i < bytes.len() {
            out[i] = bytes[i];
            i += 1;
        }
        Scheduler(out)
    }

    /// A name as the kernel reports it, known to us or not; `None` if empty, too long or not UTF-8.
    pub fn from_kernel(name: &[u8]) -> Option<Self> {
        let name = name.split(|b| *b == 0).next().unwrap_or_default();
        if name.is_empty() || name.len() > 15 || std::str::from_utf8(name).is_err() {
            return None;
        }
        let mut out = [0; 16];
        out[..name.len()].copy_from_slice(name);
        Some(Scheduler(out))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|b| *b == 0).unwrap_or(self.0.len());
        std::str::from_utf8(&self.0[..len]).unwrap_or_default()
    }
}

impl FromStr for Scheduler {
    type Err = UnknownScheduler;

    fn from_str(name: &str) -> Result<Self, UnknownScheduler> {
        if KNOWN_SCHEDULERS.contains(&name) {
            Ok(Scheduler::from_static(name))
        } else {
            Err(UnknownScheduler(name.to_owned()))
        }
    }
}

impl fmt::Display for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Scheduler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The three flag bits that a scheduler interprets (`IP_VS_SVC_F_SCHED1..3`), as bits 0 to 2.
///
/// For `sh` and `mh`, bit 0 is "fallback" and bit 1 is "hash the source port too".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SchedulerFlags(u8);

impl SchedulerFlags {
    /// No flag.
    pub const NONE: SchedulerFlags = SchedulerFlags(0);
    /// `sh-fallback`, `mh-fallback`: skip a server of weight 0 instead of refusing.
    pub const FALLBACK: SchedulerFlags = SchedulerFlags(1);
    /// `sh-port`, `mh-port`: the source port is part of the hash.
    pub const PORT: SchedulerFlags = SchedulerFlags(2);

    /// Makes flags from bits 0 to 2; drops higher bits.
    pub const fn from_bits(bits: u8) -> Self {
        SchedulerFlags(bits & 7)
    }

    /// Bits 0 to 2.
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// These flags and others.
    #[must_use]
    pub const fn with(self, others: SchedulerFlags) -> Self {
        SchedulerFlags(self.0 | others.0)
    }

    /// Tells whether all of some flags are set.
    pub const fn contains(self, others: SchedulerFlags) -> bool {
        self.0 & others.0 == others.0
    }
}

/// Session affinity of a virtual server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Persistence {
    /// Seconds without a connection after which a client is forgotten.
    pub timeout_seconds: NonZeroU32,
    /// Clients of one prefix of this length share a real server; 32 or 128 for single clients.
    pub prefix_length: u8,
}

/// Settings of a virtual server: everything about it that SET can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualServer {
    /// Chooses the real server of a new connection.
    pub scheduler: Scheduler,
    /// Flags that the scheduler interprets.
    pub scheduler_flags: SchedulerFlags,
    /// Session affinity, if any.
    pub persistence: Option<Persistence>,
    /// True if every datagram is scheduled anew; UDP only.
    pub one_packet: bool,
}

impl VirtualServer {
    /// Settings with a scheduler and nothing else.
    pub const fn new(scheduler: Scheduler) -> Self {
        VirtualServer {
            scheduler,
            scheduler_flags: SchedulerFlags::NONE,
            persistence: None,
            one_packet: false,
        }
    }
}

impl fmt::Display for VirtualServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.scheduler)?;
        if self.scheduler_flags != SchedulerFlags::NONE {
            write!(f, " flags {:#x}", self.scheduler_flags.bits())?;
        }
        if let Some(p) = self.persistence {
            write!(f, " persistent {}s/{}", p.timeout_seconds, p.prefix_length)?;
        }
        if self.one_packet {
            f.write_str(" one-packet")?;
        }
        Ok(())
    }
}

/// Key of a real server within its virtual server (`ip_vs_lookup_dest`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RealServerId {
    /// Address of the endpoint.
    pub addr: IpAddr,
    /// Port of the endpoint; never 0.
    pub port: NonZeroU16,
}

impl Hash for RealServerId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        hash_with_addr(&self.addr, u32::from(self.port.get()), state);
    }
}

impl PartialOrd for RealServerId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for RealServerId {
    /// Compares address, then port.
    fn cmp(&self, other: &Self) -> Ordering {
        cmp_addr(&self.addr, &other.addr).then_with(|| self.port.cmp(&other.port))
    }
}

impl fmt::Display for RealServerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        SocketAddr::new(self.addr, self.port.get()).fmt(f)
    }
}

/// Method by which IPVS sends packets to a real server (`IP_VS_CONN_F_*`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ForwardingMethod {
    /// Destination NAT: what Services need, because the ports differ.
    #[default]
    Masquerade,
    /// The real server is this node.
    Local,
    /// IP-in-IP, GUE or GRE.
    Tunnel,
    /// Rewrites the link-layer address only.
    DirectRoute,
}

impl ForwardingMethod {
    /// Spelling of ipvsadm's listings.
    pub const fn as_str(self) -> &'static str {
        match self {
            ForwardingMethod::Masquerade => "Masq",
            ForwardingMethod::Local => "Local",
            ForwardingMethod::Tunnel => "Tunnel",
            ForwardingMethod::DirectRoute => "Route",
        }
    }
}

/// Share of new connections; 0 means none (quiesced), which only draining uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(pub u32);

impl Weight {
    /// Takes no new connection.
    pub const QUIESCED: Weight = Weight(0);
    /// Weight of every serving endpoint.
    pub const SERVING: Weight = Weight(1);

    /// Tells whether the weight keeps new connections away.
    pub const fn is_quiesced(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Settings of a real server: everything about it that SET can change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealServer {
    /// Share of new connections.
    pub weight: Weight,
    /// Method by which packets reach it.
    pub forwarding: ForwardingMethod,
    /// No new connections at or above this many; 0 for no limit.
    pub upper_threshold: u32,
    /// New connections again below this many; 0 for three quarters of the upper one.
    pub lower_threshold: u32,
}

impl RealServer {
    /// A serving real server behind NAT.
    pub const SERVING: RealServer = RealServer {
        weight: Weight::SERVING,
        forwarding: ForwardingMethod::Masquerade,
        upper_threshold: 0,
        lower_threshold: 0,
    };

    /// The same settings at another weight.
    pub const fn with_weight(self, weight: Weight) -> Self {
        RealServer { weight, ..self }
    }
}

impl fmt::Display for RealServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} weight {}", self.forwarding.as_str(), self.weight)?;
        if self.upper_threshold != 0 || self.lower_threshold != 0 {
            write!(f, " thresholds {}..{}", self.lower_threshold, self.upper_threshold)?;
        }
        Ok(())
    }
}

/// Live connection counters of a real server.
#[derive(Clone, Copy, Debug, Default)]
pub struct ConnectionCounters {
    /// TCP and SCTP connections before the first FIN or RST; never counts UDP.
    pub active: u32,
    /// All other connections, TIME_WAIT included.
    pub inactive: u32,
    /// Persistence templates.
    pub persistent: u32,
}

/// Traffic counters, refreshed by the kernel every 2 s (frozen while `run_estimation` is 0).
#[derive(Clone, Copy, Debug, Default)]
pub struct TrafficCounters {
    /// Connections scheduled.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets to clients.
    pub packets_out: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients.
    pub bytes_out: u64,
}
