//! Checks of the architecture and the documents that no compiler makes.

pub mod edges;
pub mod links;
pub mod purity;

/// Packages without async, clock, environment and I/O.
pub const PURE: &[&str] = &["drain", "lb-types", "planner", "proxy-config", "service-model"];
