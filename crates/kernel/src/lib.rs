//! The kernel as a whole: its version, the values that its parameters must have, and its modules.
//!
//! This crate deliberately speaks no netlink and decides nothing about services. Its decisions (about
//! parameters, about `conn_reuse_mode`, about the words for a missing module) are pure and take facts as
//! arguments; the code that reads those facts is thin and takes its root directory as an argument.
//!
//! Reading order: [`KernelRelease`] and [`KernelVersion`]; [`decide_conn_reuse_mode`]; [`required_sysctls`],
//! written by [`ProcSysctls`]; [`KernelModule`], [`ModuleFinder`] and [`MissingModule`].

mod conn_reuse;
mod memory;
mod modules;
mod node;
mod privileges;
mod proc_sysctls;
mod required;
mod version;

pub use conn_reuse::{
    ConnReuseDecision, ConnReuseFacts, ConnReuseFlag, ConnReuseMode, ConnReuseReason, ProbeOutcome,
    UnknownConnReuseFlag, VENDOR_FILE, decide_conn_reuse_mode, needs_probe,
};
pub use memory::{give_memory_back, keep_heap, share_one_arena};
pub use modules::{KernelModule, MissingModule, ModuleFinder, ModulePresence};
pub use node::{EmptyHostname, boot_id, cores, hostname, set_oom_score_adj};
pub use privileges::drop_privileges;
pub use proc_sysctls::{ProcSysctls, SysctlError};
pub use required::{
    ARP_ANNOUNCE, ARP_IGNORE, CONN_REUSE_MODE, CONNTRACK, CONNTRACK_BE_LIBERAL, CONNTRACK_BUCKETS,
    CONNTRACK_CLOSE_WAIT, CONNTRACK_ESTABLISHED, CONNTRACK_MAX, CONNTRACK_UDP, CONNTRACK_UDP_STREAM,
    ConnectionTracking, EXPIRE_NODEST_CONN, EXPIRE_QUIESCENT_TEMPLATE, IPV4_FORWARDING, IPV6_FORWARDING,
    LINK_DISABLE_IPV6, RUN_ESTIMATION, RequiredSysctl, SysctlNeeds, required_sysctls, without_estimation,
};
pub use version::{InvalidRelease, KernelRelease, KernelVersion};
