//! Objects and workflows, checked without a cluster or a build: `manifests/rendered`, which `cargo xtask manifests` keeps
//! equal to the overlays and the chart, and the workflows of the repository.

#![expect(clippy::unwrap_used, reason = "helpers of tests")]

mod objects;
mod policy;
mod versions;
mod workflows;
mod yaml;
