//! Graceful-termination bookkeeping: which real servers are on their way out, why, since when, until when.
//!
//! A state machine without clock or I/O: time is an argument ([`Time`], since boot), counters are handed in, and what
//! comes out are verdicts that the planner turns into operations. It never decides that an endpoint should serve, and
//! knows nothing of Kubernetes objects.
//!
//! Reading order: [`Settings`] and [`Policy`], [`Cause`] and [`Outcome`], [`Drain`], [`Ledger`].

mod drain;
mod ledger;
mod pace;
mod polls;
mod reason;
mod settings;
mod silence;
#[cfg(test)]
mod tests;

pub use drain::{Drain, Reading};
pub use ledger::{Key, Ledger, Record, Verdict};
pub use pace::{Backoff, Share};
pub use reason::{Cause, Outcome, UnknownCause};
pub use settings::{
    EndpointGone, LEAST_SILENCE, Overrides, Policy, Settings, UnknownAction, UnknownPolicy, limit,
    silence_limit,
};

/// Time since boot, suspended time included (CLOCK_BOOTTIME): deadlines survive a restart of the process.
pub type Time = std::time::Duration;
