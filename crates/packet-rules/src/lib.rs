//! The nftables tables `inet kube-ipvs` and `arp kube-ipvs`: what they say (pure) and how that gets into the kernel
//! (transactions).
//!
//! A constant number of chains and sets, whatever the number of services; only elements of sets change. No
//! process is executed and nothing outside the tables is touched. Deliberately not here: which
//! elements there should be, any copy of them, and conntrack.
//!
//! Reading order: [`render_table`] and [`render_arp_table`] (which chains and rules, and why) gives a [`TableSpec`] whose `Display` is
//! nft text (`spec`, `text`); `expr` and `encode` turn it into messages; `observed` and `install` compare it
//! with what is there; `transaction` and `socket` execute operations; [`RulesClient`] is a
//! [`dataplane::RulesTable`] made of all that. [`RulesWatcher`] tells when somebody else touched the table;
//! `forward` judges chains of others.

mod client;
mod encode;
mod error;
mod expr;
mod filter;
mod forward;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod install;
mod key;
mod leftovers;
mod nft;
mod observed;
mod render;
mod socket;
mod spec;
mod text;
mod transaction;
mod watch;

pub use client::RulesClient;
pub use error::RulesError;
pub use leftovers::Leftovers;
pub use render::{render_arp_table, render_table};
pub use spec::{
    BaseChain, ChainKind, ChainSpec, Hook, Interface, RuleSpec, Selector, SetId, SetKind, SoftError,
    Statement, TABLE_NAME, TableFamily, TableSpec,
};
pub use watch::RulesWatcher;
