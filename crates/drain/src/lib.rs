//! Graceful-termination bookkeeping: which real servers are on their way out, why, since when, until when.
//!
//! A state machine without clock or I/O: time is an argument ([`Time`], since boot), counters are handed in,
//! and what comes out are verdicts that the planner turns into operations. It never decides that an endpoint
//! should serve, and knows nothing of Kubernetes objects.
//!
//! Reading order: [`Settings`] and [`Policy`], [`Cause`] and [`Outcome`], [`Drain`], [`Ledger`],
//! [`WaitsFor`].
//!
//! With the feature `serde`, what outlives the process is spelled as in `drain.json`.

mod drain;
mod ledger;
mod pace;
mod polls;
mod reason;
mod settings;
mod silence;
#[cfg(feature = "serde")]
pub mod spelling;
#[cfg(test)]
mod tests;
mod waits;
mod words;

pub use drain::{Drain, Reading};
pub use ledger::{Key, Ledger, Record, State, Verdict};
pub use pace::{Backoff, Share};
pub use reason::{Cause, Outcome, UnknownCause, UnknownOutcome};
pub use settings::{
    EndpointGone, LEAST_SILENCE, Overrides, Policy, Settings, UnknownAction, UnknownPolicy, limit,
    silence_limit,
};
pub use waits::WaitsFor;

/// Time since boot, suspended time included (CLOCK_BOOTTIME): deadlines survive a restart of the process.
pub type Time = std::time::Duration;
