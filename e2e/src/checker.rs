//! What the kernel must hold, computed a second time: from the objects as JSON and from what `ipvsadm`, `ip` and
//! `nft` print, in the plainest way there is.
//!
//! [`Wanted`] reads the objects, [`Kernel`] the tools, [`differences`] compares the two; one line for each difference.
//! Nothing here is incremental, fast or shared with kube-ipvs, which is the point: an error in its bookkeeping cannot
//! be repeated by something that keeps no books.
//!
//! ClusterIPs only, without topology hints: [`Wanted::of`] refuses objects that ask for more than it understands.

mod compare;
mod kernel;
mod wanted;

#[cfg(test)]
mod tests;

pub use compare::{Draining, differences};
pub use kernel::Kernel;
pub use wanted::{Server, Wanted};
