//! The way of packets from a VIP to IPVS: the link `kube-ipvs0` and one local route per VIP.
//!
//! ```text
//! local VIP dev kube-ipvs0 table local proto 177 scope host src NODE_IP
//! ```
//!
//! A local route makes the kernel deliver packets to the VIP on this node, so that the input hook of IPVS
//! sees them; `src` gives connections from this node its own address instead of the VIP. Unlike addresses on
//! the link, routes cost the same however many there are, and no tool takes them for addresses of the node.
//!
//! A steered VIP has its route in a table of its own, and a rule of the routing policy leads packets there that have a
//! bit in their mark. To all others the VIP is wherever routing leads.
//!
//! ```text
//! 1: from all fwmark 0x1000/0x1000 lookup 177 proto 177
//! local VIP dev kube-ipvs0 table 177 proto 177 scope host
//! ```
//!
//! This crate deliberately binds nothing by itself, keeps no copy of what it wrote, and touches only links,
//! routes and addresses that are ours: the link of that name if it is of type dummy, what is on it, and
//! routes and rules with our protocol number.
//!
//! Reading order: [`VipClient`] reads and writes; [`VipWatcher`] reports changes by others; [`VipError`].
//!
//! Links are handled through rtnetlink, which is made for a handful of requests. Routes and addresses go
//! through the batch engine of the `netlink` crate, because rtnetlink cannot send thousands of them without
//! losing answers.

mod client;
mod conflict;
mod dump;
mod encode;
mod error;
mod filter;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod interest;
mod link;
mod sockets;
mod watcher;

pub use client::VipClient;
pub use error::VipError;
pub use watcher::VipWatcher;

/// Name of our link; the same as kube-proxy's, so that a takeover finds what is on it.
pub const LINK_NAME: &str = "kube-ipvs0";

/// Protocol number of our routes (`proto` of ip-route).
///
/// It is unassigned in include/uapi/linux/rtnetlink.h and in iproute2's rt_protos; routing daemons use 8 to
/// 18, 42, 84, 99 and 186 to 199, Calico uses 80.
pub const ROUTE_PROTOCOL: u8 = 177;

/// Number of the table with the routes of steered packets. iproute2 names 253 to 255 only; Cilium has 100 and 2004 to
/// 2006, strongSwan 220, Tailscale 52, Calico 1 to 250 where it is told to use some.
pub const STEERING_TABLE: u8 = 177;

/// Place of the rule that leads there, behind table `local` (0) and before those of others: network plugins have rules
/// about the sources of packets from 9 on.
pub const RULE_PRIORITY: u32 = 1;
