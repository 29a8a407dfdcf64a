//! A test double of the Kubernetes API server: lists, watches and faults.
//!
//! It answers as the real server does where a client of Services, EndpointSlices, Nodes and ServiceCIDRs can tell the
//! difference: versions, pages, selectors, bookmarks, streaming lists, expired versions, refusals and their wording.
//! And it breaks on request: outages, dropped and mute watches, late, repeated, shuffled and truncated events, errors,
//! stale replicas, lost data.
//!
//! It is deliberately not a Kubernetes: objects are opaque but for their metadata, nothing is validated, defaulted,
//! allocated or derived, and no controller acts on them.
//!
//! [`TestApiServer`] runs on a thread of its own, and all its methods are synchronous: tests need no runtime.
//! [`Builder`] says what kind of server it is, [`Objects`] is what it holds, [`Faults`] is what goes wrong,
//! [`Requests`] and [`Delivery`] are what clients did and saw.

mod body;
mod clock;
mod faults;
mod handle;
mod kubeconfig;
mod list;
mod object;
mod policy;
mod query;
mod requests;
mod resource;
mod selector;
mod server;
mod service;
mod shared;
mod status;
mod store;
mod target;
mod tls;
mod watch;

pub use clock::monotonic;
pub use faults::{Faults, Hangup, Refusal, Reorder, Trickle};
pub use handle::{Builder, Objects, StartError, TestApiServer};
pub use policy::{DEFAULT_USER, GoneForm, StreamingLists};
pub use requests::{Delivery, Request, Requests};
pub use resource::{Resource, Verb};
pub use store::{Snapshot, StoreError};
pub use tls::{Identity, TlsError};
