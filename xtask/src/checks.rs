//! Checks of the architecture that no compiler makes.

pub mod edges;
pub mod purity;

/// Packages without async, clock, environment and I/O.
pub const PURE: &[&str] = &["drain", "lb-types", "planner", "service-model"];
