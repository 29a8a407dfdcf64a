//! Demands on every implementation of a table. Each suite is a list of named cases that panic on violation;
//! it runs against the fake in this crate's tests and against the kernel in the guest tests of the adapters.

pub mod conntrack;
pub mod ipvs;
pub mod rules;
pub mod vips;
