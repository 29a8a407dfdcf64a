//! The table together with IPVS, by traffic. Needs root and ip_vs; every test has network namespaces of its own.

#[path = "../support/mod.rs"]
mod support;

mod drain;
mod early;
mod errors;
mod invalid;
mod ipvs;
mod masquerade;
mod mtu;
mod refusals;
mod shared;
