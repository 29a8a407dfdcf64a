//! Deletes connections from the kernel's connection tracking: those of one service port and one real server.
//!
//! A client that sends UDP from one port for ever keeps its entry alive for ever; whatever was decided about its first
//! packet, a masquerading included, holds until the entry is gone.
//!
//! Deliberately not here: flushing, by whatever filter. The kernel's filter for deletions exists from Linux 6.11 on
//! only, and its comparison of IPv6 addresses is inverted (`ctnetlink_filter_match_tuple` in
//! net/netfilter/nf_conntrack_netlink.c; seen on 5.10, 6.1 and 7.2, mended in 6.12.117), so that the deletion of one
//! service's connections would delete all others.
//! Instead the table is dumped, narrowed by the kernel where that is safe, compared here, and every connection is
//! deleted by its whole tuple and its id.
//!
//! Reading order: [`ConntrackClient`], which implements [`dataplane::FlowTable`]; [`Error`]; `codec`, the bytes.

mod client;
mod codec;
mod error;

pub use client::ConntrackClient;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use codec::fuzzing;
pub use error::Error;
