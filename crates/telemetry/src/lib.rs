//! What the process tells about itself: log lines, and health and metrics over HTTP.
//!
//! Reading order: [`init_logging`], [`Health`] and [`Metrics`] (what is told), [`serve`] (how).
//!
//! Deliberately not here: what is logged, and what makes the process healthy.

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
