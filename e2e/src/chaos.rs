//! Random work for kube-ipvs, reproducible by a seed.
//!
//! In reading order: [`Random`] is where chance comes from; [`Cluster`] holds objects as JSON and changes them the way
//! users and controllers do ([`Cluster::change`]); [`damage`] is what somebody does to the kernel behind our back;
//! [`Objects`] is where objects are written for kube-ipvs to see: an [`Api`] server that breaks, or a [`Directory`]; [`History`] remembers what was done.
//!
//! Nothing here knows what the kernel must hold: that is `checker`'s.

mod api;
mod cluster;
mod damage;
mod history;
mod objects;
mod random;
mod services;
mod slices;

#[cfg(test)]
mod tests;

pub use api::Api;
pub use cluster::{Change, Cluster, Id, Step};
pub use damage::damage;
pub use history::History;
pub use objects::{Directory, Disturbance, Objects};
pub use random::Random;
