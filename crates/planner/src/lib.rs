//! Desired state of the kernel, and the writes that lead there.
//!
//! Pure: the planner reads the model, facts about the node and the configuration, and returns values. It
//! never asks the kernel, has no clock, and leaves whoever executes a [`Plan`] no choices.
//!
//! Reading order: [`PlannerConfig`] and [`NodeFacts`]; [`desire_service`] (one Service to its
//! [`ServiceIntent`]; [`Bindings::choose`]); [`Desired`] (all intents, with claims on shared fronts resolved); [`Mirror`] (what the
//! kernel holds); [`Dirty`] (what must be compared); [`diff`] (both compared) and the resulting [`Plan`].

mod binding;
mod cleanup;
mod config;
mod conntrack;
mod desired;
mod diff;
mod dirty;
mod health_check;
mod intent;
mod marks;
mod mirror;
mod no_local;
mod plan;
mod problem;
mod settings;
mod succession;
mod sysctls;
#[cfg(test)]
mod tests;

pub use binding::{Binding, BindingReason, Bindings, Choice};
pub use cleanup::{cleanup, cleanup_rules};
pub use config::{
    Context, NodeFacts, NodePortAddresses, NodePortServers, Ownership, PlannerConfig, ServiceOverrides,
    UnknownOverrides, UnknownServers,
};
pub use conntrack::untranslated;
pub use desired::{Changes, Desired, Vacated};
pub use diff::{Inputs, diff};
pub use dirty::{Dirty, Subject};
pub use health_check::HealthCheck;
pub use intent::{
    FrontIntent, Masquerade, ServerEndpoint, ServiceIntent, desire_service, has_node_ports_by_address,
};
pub use marks::Marks;
pub use mirror::{Mirror, MirrorServer};
pub use no_local::{NoLocal, Traffic};
pub use plan::{NewDrain, Plan, Stage};
pub use problem::{IntentProblem, ProblemKind};
pub use settings::{default_scheduler, default_schedulers, hashing_schedulers, refuses_while_draining};
pub use succession::{Fate, Situation, Successor};
pub use sysctls::{MirrorSysctls, accept_ra, enables_forwarding, is_of_link, keeps_routes};
