//! Random work for kube-ipvs, reproducible by a seed.
//!
//! In reading order: [`Random`] is the source of chance; [`Cluster`] holds objects as JSON and changes them
//! the way users and controllers do ([`Cluster::change`]); [`damage`] is what others do to the kernel behind
//! our back; [`Objects`] is a store that kube-ipvs follows: an [`Api`] server that breaks, or a
//! [`Directory`]; [`History`] remembers the actions.
//!
//! Nothing here knows what the kernel must hold: that is up to `checker`.

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
