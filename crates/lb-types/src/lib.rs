//! Vocabulary of kube-ipvs: the words that all crates share, and nothing else.
//!
//! This crate deliberately holds no behaviour beyond parsing, ordering and printing: no I/O, no clock, no
//! environment, and no opinion on what should be programmed.
//!
//! Reading order: [`IpFamily`], [`Protocol`] and [`VipPort`]; the Kubernetes side ([`ServiceName`],
//! [`ServicePortName`]) and what it offers ([`Front`]); the IPVS side ([`VirtualServerId`],
//! [`VirtualServer`], [`RealServerId`], [`RealServer`]); tracked connections ([`ConntrackFilter`]); the packet
//! rules ([`RuleElement`], [`RulesLayout`]) and their marks ([`MarkRange`]); bindings ([`VipBinding`]); and the typed kernel writes
//! ([`Operation`]) of which every plan consists.

mod binding;
mod conntrack;
mod duration;
mod fast;
mod front;
mod ipvs;
mod marks;
mod names;
mod net;
mod op;
mod parse;
mod rules;
mod sysctls;
mod words;

pub use binding::{UnknownBinding, VipBinding};
pub use conntrack::{ConntrackFilter, ConntrackTarget};
pub use duration::{InvalidDuration, parse_duration, render_duration};
pub use fast::{FastMap, FastSet};
pub use front::{Clients, Front};
pub use ipvs::{
    ConnectionCounters, ForwardingMethod, Persistence, RealServer, RealServerId, Scheduler, SchedulerFlags,
    TrafficCounters, UnknownScheduler, VirtualServer, VirtualServerId, Weight,
};
pub use marks::{InvalidMarkRange, MarkRange, MarkRule};
pub use names::{PodUid, ServiceName, ServicePortName};
pub use net::{IpFamily, Protocol, UnknownProtocol, VipPort, canonical_prefix};
pub use op::{ConntrackOp, IpvsOp, Operation, RouteTable, RulesOp, SysctlOp, VipOp};
pub use parse::InvalidId;
pub use rules::{LocalDetection, RuleElement, RuleSet, RulesLayout};
pub use sysctls::{Leaves, SysctlNeed, SysctlWhen};
