//! The loop: events to dirty Services, to a plan, to the kernel, to a report.
//!
//! The reconciler decides nothing about what is written (`planner` does) and knows no kernel interface
//! (`dataplane`'s traits hide them). It has no clock and no thread: whoever drives it hands in the time,
//! calls [`Reconciler::step`] when [`Reconciler::next_wakeup`] says so or an event came, and owns the tables
//! through it.
//!
//! Reading order: [`Config`], [`Event`], [`Reconciler`], [`Report`]. Inside: `reconciler` (the loop),
//! `intents` (the desired side), `kernel` (tables and mirror), `executor` (the writes), `work` (tasks for
//! later), `drains` (real servers on their way out), `audit`.

mod audit;
mod cleanup;
mod config;
mod conntrack;
mod drains;
mod executor;
mod full;
mod intents;
mod kernel;
mod listeners;
mod node_findings;
mod problems;
mod reconciler;
mod report;
mod schedulers;
mod standing;
mod syncer;
mod sysctls;
#[cfg(test)]
mod tests;
mod traffic;
mod work;

pub use audit::Part;
pub use cleanup::Cleanup;
pub use config::{Config, LocalMode};
pub use node_findings::NodeFinding;
pub use problems::{NewProblem, ServiceProblem};
pub use reconciler::{Event, Reconciler, State};
pub use report::{Drift, Ended, Report, Shortfalls, Step, TableName, Totals};
pub use standing::{Standing, Wait};
