//! Deletion of tracked connections: those of one service port and one real server.
//!
//! A client that sends UDP from one port for ever keeps its tracked connection alive for ever; whatever the
//! kernel decided about its first packet, a masquerading included, holds until the tracked connection is
//! gone.
//!
//! Deliberately not here: flushing, by whatever filter. The kernel's filter for deletions exists from Linux
//! 6.11 on only, and its comparison of IPv6 addresses is inverted (`ctnetlink_filter_match_tuple` in
//! net/netfilter/nf_conntrack_netlink.c; seen on 5.10, 6.1 and 7.2, mended in 6.12.117), so that the deletion
//! of one service's tracked connections would delete all others. Instead the client dumps the table, narrowed
//! by the kernel where that is safe, compares here, and deletes every tracked connection by its whole tuple
//! and its id.
//!
//! Reading order: [`ConntrackClient`], which implements [`dataplane::ConntrackTable`]; [`Error`]; `codec`, the
//! bytes.

mod client;
mod codec;
mod error;

pub use client::ConntrackClient;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use codec::fuzzing;
pub use error::Error;
