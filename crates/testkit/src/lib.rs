//! What tests of several crates need, and nothing a product crate may depend on (dev-dependency only).
//!
//! In reading order: [`NetNs`] and [`in_new_netns`] give a test its private network; [`run`] and
//! [`NetNs::run`] execute tools that are not ours and complain well; [`wait_until`] and [`wait_for`] are the
//! only ways to wait; [`assert_golden!`] compares text with a file in the repository; [`TempDir`] is a
//! directory that goes away.
//!
//! Deliberately not here: anything about services, IPVS or Kubernetes, and the topology of the traffic tests
//! (that is `e2e`).
//! Helpers panic with a full explanation instead of returning errors unless their name starts with `try_`:
//! in a test the first failure is the result.

mod command;
pub mod golden;
mod netns;
mod temp;
mod wait;

pub use command::{CommandError, die_with_thread, run, try_output, try_output_with_input, try_run};
pub use netns::{NetNs, in_new_netns};
pub use temp::{TempDir, write_atomic};
pub use wait::{TimedOut, try_wait_for, wait_for, wait_until};
