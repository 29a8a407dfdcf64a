//! Log lines of the process, and its health and metrics over HTTP.
//!
//! Reading order: [`init_logging`], [`Health`] and [`Metrics`] (the content of the pages), [`serve`] (the
//! pages).
//!
//! Deliberately not here: the decision what to log, and when the process is healthy.

mod condition;
mod connections;
mod health;
mod logging;
mod metrics;
mod server;

pub use condition::Effect;
pub use health::{Answer, Health, Limits, SourceStatus};
pub use logging::{LogFormat, UnknownLogFormat, init_logging};
pub use metrics::{Family, Metrics};
pub use server::{Bound, Site, serve};
