//! Log lines of the process, and its health and metrics over HTTP.
//!
//! Reading order: [`init_logging`], [`Health`] and [`Metrics`] (the content of the pages), [`serve`] (the
//! pages; [`Process`] is what some of them show), [`HealthChecks`] (the servers of Services).
//!
//! Deliberately not here: the decision what to log, and when the process is healthy.

mod condition;
mod connections;
mod health;
mod logging;
mod metrics;
mod pages;
mod server;
mod service_health;

pub use condition::Effect;
pub use health::{Answer, Health, Limits, SourceStatus};
pub use logging::{LogFormat, UnknownLogFormat, init_logging};
pub use metrics::{
    ChangeCount, Family, HealthPage, Metrics, ProxyMetrics, SourceMetrics, Stage, SyncMetrics, Traffic,
    TrafficMetrics,
};
pub use pages::Process;
pub use server::{BindFailure, Bound, Site, serve};
pub use service_health::{HealthCheck, HealthChecks, Listen, ListenFailure, ListenFault, OnFailure};
