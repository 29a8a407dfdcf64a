//! The benchmark: kube-ipvs on a real kernel against `ipvsadm` and against the bytes alone.
//!
//! One run on one machine measures everything, so that its figures can be compared with each other; those of
//! an emulated guest cannot be compared with those of anything else. `cargo xtask bench` runs it.
//!
//! In reading order: [`objects`] is the cluster; [`node`] a node for each measurement; [`product`] the
//! process under test; [`programming`] fills an empty kernel in every way; [`running`] changes a full one,
//! fed by [`cluster`]; [`report`] shows the results. [`kinds`] is a run of its own, about Services of all kinds.
//!
//! [`exact`] is another one, which counts instructions.
//!
//! No test here has a clock: the report prints whether a target is met, and that decides nothing.

pub mod alone;
pub mod cluster;
pub mod exact;
pub mod kinds;
pub mod node;
pub mod noise;
pub mod objects;
pub mod process;
pub mod product;
pub mod programming;
pub mod replay;
pub mod report;
pub mod running;
pub mod tap;
pub mod vips;
