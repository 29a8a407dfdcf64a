//! Helpers for the tests of several crates. A product crate may only have it as a dev-dependency.
//!
//! In reading order: [`NetNs`] and [`in_new_netns`] give a test a private network; [`run`] and [`NetNs::run`]
//! run tools of others and report failures in full; [`wait_until`] and [`wait_for`] are the only ways to
//! wait; [`assert_golden!`] compares text with a file in the repository; [`TempDir`] is a directory that
//! exists as long as the value.
//!
//! Helpers panic with a full explanation instead of returning errors, unless their name starts with `try_`:
//! the first failure is the result of a test.
//!
//! Deliberately not here: anything about Services, IPVS or Kubernetes (`test-apiserver` has sample objects),
//! and the topology of the traffic tests (`e2e`).

mod command;
pub mod golden;
mod netns;
mod temp;
mod wait;

pub use command::{CommandError, die_with_thread, run, try_output, try_output_with_input, try_run};
pub use netns::{NetNs, in_new_netns};
pub use temp::{TempDir, write_atomic};
pub use wait::{TimedOut, try_wait_for, wait_for, wait_until};
