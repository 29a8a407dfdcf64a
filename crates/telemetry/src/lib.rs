//! What the process tells about itself: log lines, and health over HTTP.
//!
//! Reading order: [`init_logging`], [`Health`] (what is told), [`serve`] (how).
//!
//! Deliberately not here: what is logged, and what makes the process healthy.

mod health;
mod logging;
mod server;

pub use health::{Health, SourceStatus};
pub use logging::{LogFormat, UnknownLogFormat, init_logging};
pub use server::{Bound, serve};
