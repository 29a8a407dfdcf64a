//! Contents that the kernel must have, computed a second time: from the objects as JSON and from the output
//! of `ipvsadm`, `ip` and `nft`, in the plainest way there is.
//!
//! [`Wanted`] reads the objects, [`Kernel`] the tools, [`differences`] compares the two; one line for each
//! difference. Nothing here is incremental, fast or shared with kube-ipvs, on purpose: a reader that keeps no
//! books cannot repeat an error of bookkeeping.
//!
//! It covers ClusterIPs only, without topology hints: [`Wanted::of`] refuses objects that ask for more than
//! it understands.

mod compare;
mod kernel;
mod wanted;

#[cfg(test)]
mod tests;

pub use compare::{Draining, differences};
pub use kernel::Kernel;
pub use wanted::{Server, Wanted};
