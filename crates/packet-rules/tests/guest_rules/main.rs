//! The table on a real kernel, seen by the nft tool and by traffic.
//!
//! Every test has a network namespace of its own. Needs root; those that say so need ip_vs, too.
#![cfg(target_os = "linux")]

mod contract;
