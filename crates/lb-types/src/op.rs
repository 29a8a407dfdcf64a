//! Every write to the kernel, as a value. A plan is an ordered list of these; each prints as one line.

use std::{borrow::Cow, fmt, net::IpAddr};

use crate::{
    ConntrackFilter, IpFamily, RealServer, RealServerId, RuleElement, RulesLayout, VirtualServer,
    VirtualServerId,
};

/// A write to the IPVS tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum IpvsOp {
    /// NEW_SERVICE
    AddVirtualServer {
        /// Key of the virtual server.
        vs: VirtualServerId,
        /// Settings of the virtual server.
        settings: VirtualServer,
    },
    /// SET_SERVICE
    SetVirtualServer {
        /// Key of the virtual server.
        vs: VirtualServerId,
        /// Settings of the virtual server.
        settings: VirtualServer,
    },
    /// DEL_SERVICE; its real servers go with it.
    DeleteVirtualServer {
        /// Key of the virtual server.
        vs: VirtualServerId,
    },
    /// NEW_DEST
    AddRealServer {
        /// Virtual server that it belongs to.
        vs: VirtualServerId,
        /// Key of the real server.
        rs: RealServerId,
        /// Settings of the real server.
        settings: RealServer,
    },
    /// SET_DEST
    SetRealServer {
        /// Virtual server that it belongs to.
        vs: VirtualServerId,
        /// Key of the real server.
        rs: RealServerId,
        /// Settings of the real server.
        settings: RealServer,
    },
    /// DEL_DEST
    DeleteRealServer {
        /// Virtual server that it belongs to.
        vs: VirtualServerId,
        /// Key of the real server.
        rs: RealServerId,
    },
}

impl IpvsOp {
    /// The virtual server that the write concerns.
    pub const fn virtual_server(&self) -> VirtualServerId {
        match self {
            IpvsOp::AddVirtualServer { vs, .. }
            | IpvsOp::SetVirtualServer { vs, .. }
            | IpvsOp::DeleteVirtualServer { vs }
            | IpvsOp::AddRealServer { vs, .. }
            | IpvsOp::SetRealServer { vs, .. }
            | IpvsOp::DeleteRealServer { vs, .. } => *vs,
        }
    }
}

impl fmt::Display for IpvsOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            IpvsOp::AddVirtualServer { vs, settings } => write!(f, "add virtual server {vs} {settings}"),
            IpvsOp::SetVirtualServer { vs, settings } => write!(f, "set virtual server {vs} {settings}"),
            IpvsOp::DeleteVirtualServer { vs } => write!(f, "delete virtual server {vs}"),
            IpvsOp::AddRealServer { vs, rs, settings } => {
                write!(f, "add real server {rs} to {vs} {settings}")
            }
            IpvsOp::SetRealServer { vs, rs, settings } => {
                write!(f, "set real server {rs} of {vs} {settings}")
            }
            IpvsOp::DeleteRealServer { vs, rs } => write!(f, "delete real server {rs} of {vs}"),
        }
    }
}

/// Table of the local route of a VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteTable {
    /// Table `local`: every packet to the VIP is for this node.
    Local,
    /// The table of steered packets, those with a bit in their mark; for all others the VIP is wherever routing leads.
    Steering,
}

impl fmt::Display for RouteTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RouteTable::Local => "local",
            RouteTable::Steering => "steering",
        })
    }
}

/// A write to links, addresses, routes or rules of the routing policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum VipOp {
    /// Creates `kube-ipvs0` (type dummy) if it is missing, and sets it up.
    EnsureLink,
    /// `local VIP dev kube-ipvs0 table TABLE src SOURCE`, replacing one of ours with another source.
    EnsureRoute {
        /// The VIP.
        vip: IpAddr,
        /// Table of the route.
        table: RouteTable,
        /// Source of connections from this node to the VIP; `None` lets the kernel choose.
        source: Option<IpAddr>,
    },
    /// Removes our route of a VIP.
    DeleteRoute {
        /// The VIP.
        vip: IpAddr,
        /// Table of the route.
        table: RouteTable,
    },
    /// `fwmark BIT/BIT lookup STEERING`: looks for the route of packets with a bit in their mark in the table of steered
    /// ones first.
    EnsureRule {
        /// Family of the packets.
        family: IpFamily,
        /// The bit (0..=31).
        bit: u8,
    },
    /// Removes such a rule of ours.
    DeleteRule {
        /// Family of the packets.
        family: IpFamily,
        /// The bit.
        bit: u8,
    },
    /// Adds an address to `kube-ipvs0`.
    EnsureAddress {
        /// The address.
        addr: IpAddr,
    },
    /// Removes an address that was found on `kube-ipvs0` and is not wanted there.
    DeleteAddress {
        /// The address.
        addr: IpAddr,
    },
    /// Removes `kube-ipvs0` with all that is on it; only cleanup uses it.
    DeleteLink,
}

impl fmt::Display for VipOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VipOp::EnsureLink => f.write_str("ensure link kube-ipvs0"),
            VipOp::EnsureRoute { vip, table, source } => {
                write!(f, "ensure route local {vip}")?;
                fmt_table(*table, f)?;
                source.map_or(Ok(()), |source| write!(f, " src {source}"))
            }
            VipOp::DeleteRoute { vip, table } => {
                write!(f, "delete route local {vip}")?;
                fmt_table(*table, f)
            }
            VipOp::EnsureRule { family, bit } => {
                write!(f, "ensure rule {family} fwmark {0:#x}/{0:#x} lookup steering", 1_u32 << bit)
            }
            VipOp::DeleteRule { family, bit } => {
                write!(f, "delete rule {family} fwmark {0:#x}/{0:#x} lookup steering", 1_u32 << bit)
            }
            VipOp::EnsureAddress { addr } => write!(f, "ensure address {addr} of kube-ipvs0"),
            VipOp::DeleteAddress { addr } => write!(f, "delete address {addr} of kube-ipvs0"),
            VipOp::DeleteLink => f.write_str("delete link kube-ipvs0"),
        }
    }
}

fn fmt_table(table: RouteTable, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match table {
        RouteTable::Local => Ok(()),
        RouteTable::Steering => write!(f, " table {table}"),
    }
}

/// A write to the nftables tables of the name `kube-ipvs`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RulesOp {
    /// Creates the tables or rewrites their chains; elements of existing sets stay.
    InstallLayout(RulesLayout),
    /// Adds an element.
    AddElement(RuleElement),
    /// Deletes an element.
    DeleteElement(RuleElement),
    /// Removes the tables; only cleanup uses it.
    DeleteTable,
}

impl fmt::Display for RulesOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RulesOp::InstallLayout(_) => f.write_str("install chains of tables inet and arp kube-ipvs"),
            RulesOp::AddElement(e) => write!(f, "add element {e}"),
            RulesOp::DeleteElement(e) => write!(f, "delete element {e}"),
            RulesOp::DeleteTable => f.write_str("delete tables inet and arp kube-ipvs"),
        }
    }
}

/// A write below `/proc/sys`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SysctlOp {
    /// Path below `/proc/sys`, such as `net/ipv4/vs/conntrack`.
    pub name: Cow<'static, str>,
    /// Value to write.
    pub value: u32,
}

impl SysctlOp {
    /// A write to a parameter whose name is known beforehand.
    pub const fn new(name: &'static str, value: u32) -> Self {
        SysctlOp { name: Cow::Borrowed(name), value }
    }
}

impl fmt::Display for SysctlOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "set sysctl {} = {}", self.name, self.value)
    }
}

/// A write to the connection tracking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConntrackOp {
    /// Makes the kernel forget tracked connections.
    Delete(ConntrackFilter),
}

impl fmt::Display for ConntrackOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConntrackOp::Delete(filter) => write!(f, "delete {filter}"),
        }
    }
}

/// Any write to the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// IPVS tables.
    Ipvs(IpvsOp),
    /// Links, addresses, routes.
    Vip(VipOp),
    /// nftables.
    Rules(RulesOp),
    /// `/proc/sys`.
    Sysctl(SysctlOp),
    /// Connection tracking.
    Conntrack(ConntrackOp),
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Operation::Ipvs(op) => op.fmt(f),
            Operation::Vip(op) => op.fmt(f),
            Operation::Rules(op) => op.fmt(f),
            Operation::Sysctl(op) => op.fmt(f),
            Operation::Conntrack(op) => op.fmt(f),
        }
    }
}

impl From<IpvsOp> for Operation {
    fn from(op: IpvsOp) -> Self {
        Operation::Ipvs(op)
    }
}

impl From<VipOp> for Operation {
    fn from(op: VipOp) -> Self {
        Operation::Vip(op)
    }
}

impl From<RulesOp> for Operation {
    fn from(op: RulesOp) -> Self {
        Operation::Rules(op)
    }
}

impl From<SysctlOp> for Operation {
    fn from(op: SysctlOp) -> Self {
        Operation::Sysctl(op)
    }
}

impl From<ConntrackOp> for Operation {
    fn from(op: ConntrackOp) -> Self {
        Operation::Conntrack(op)
    }
}
