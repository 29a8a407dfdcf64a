//! How packets to a VIP reach IPVS: the link `kube-ipvs0` and one local route per VIP.
//!
//! ```text
//! local VIP dev kube-ipvs0 table local proto 177 scope host src NODE_IP
//! ```
//!
//! A local route makes the kernel deliver what is addressed to the VIP, so that the input hook of IPVS sees it;
//! `src` makes connections from this node start at the node's own address instead of at the VIP. Unlike an address
//! on the link it costs the same however many there are, and no tool takes it for an address of the node.
//!
//! This crate deliberately binds nothing by itself, keeps no copy of what it wrote, and touches no link, route or
//! address that is not ours: ours is the link of that name if it is of type dummy, what is on it, and routes with our
//! protocol number on it.
//!
//! Reading order: [`VipClient`] reads and writes; [`VipWatcher`] tells when somebody else wrote; [`VipError`].
//!
//! Links are handled through rtnetlink, which is made for a handful of requests. Routes and addresses go through the
//! batch engine of the `netlink` crate, because rtnetlink cannot send thousands of them without losing answers.

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
/// Unassigned in include/uapi/linux/rtnetlink.h and in iproute2's rt_protos; routing daemons use 8 to 18, 42, 84, 99
/// and 186 to 199, Calico uses 80.
pub const ROUTE_PROTOCOL: u8 = 177;
