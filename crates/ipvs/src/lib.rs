//! IPVS over generic netlink: a pure codec and a thin client.
//!
//! Reading order: [`IpvsClient`], which implements [`dataplane::IpvsTable`]; [`Error`]; [`codec`], the
//! kernel's interface (include/uapi/linux/ip_vs.h) in the kernel's own words.
//!
//! Deliberately not here: any opinion on what should be in the tables, any copy of them, and the FLUSH
//! command as a client call, because flushing cuts running connections and fills the kernel's trash list.

mod autoload;
mod client;
pub mod codec;
mod convert;
mod error;

pub use autoload::load_scheduler;
pub use client::IpvsClient;
pub use error::{Call, Error};
