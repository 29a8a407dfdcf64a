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
//! This crate deliberately binds nothing by itself, keeps no copy of what it wrote, and touches only links,
//! routes and addresses that are ours: the link of that name if it is of type dummy, what is on it, and
//! routes with our protocol number on it.
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
