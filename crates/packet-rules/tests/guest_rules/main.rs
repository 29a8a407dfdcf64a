//! The table on a real kernel, seen by the nft tool and by traffic.
//!
//! Every test has network namespaces of its own. Needs root.

mod contract;
mod cost;
mod interference;
mod refusals;
#[path = "../support/mod.rs"]
mod support;
mod tool;
mod watcher;
