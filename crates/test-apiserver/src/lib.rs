//! A test double of the Kubernetes API server: lists, watches and faults.
//!
//! It answers like the real server wherever a client of Services, EndpointSlices, Nodes and ServiceCIDRs can
//! notice the difference: versions, pages, selectors, bookmarks, streaming lists, expired versions, refusals
//! and their wording. And it breaks on request: outages, dropped and mute watches, late, repeated, shuffled
//! and truncated events, errors, stale replicas, lost data, and answers that stall, break off or turn into
//! nonsense at any byte.
//!
//! It is deliberately not a Kubernetes: it looks only at the metadata of objects, validates, defaults,
//! allocates and derives nothing, and runs no controller.
//!
//! [`TestApiServer`] runs on a thread of its own, and all its methods are synchronous: tests need no runtime.
//! [`Builder`] determines its properties, [`Objects`] are its contents, [`Faults`] concern objects and
//! events, [`Spoil`] concerns bytes, and [`Requests`] and [`Delivery`] record what clients requested and
//! received. [`sample`] has small objects for tests, and [`proto`] encodes objects as the real server does: lists and
//! watches are in protobuf for clients that prefer it, unless [`Protobuf`] says otherwise or an object that a test
//! spoilt has nothing but JSON. [`Control`] offers the methods to other processes; the
//! program `test-apiserver` is a server with it.
//!
//! [`RealApiServer`] is the real server, for machines on which its programs are installed; [`ApiServer`] is
//! either one.

mod body;
mod clock;
mod control;
mod dress;
mod event;
mod faults;
mod generate;
mod handle;
mod kubeconfig;
mod list;
mod load;
mod media;
mod object;
mod policy;
pub mod proto;
mod query;
mod real;
mod requests;
mod resource;
pub mod sample;
mod selector;
mod server;
mod service;
mod shared;
mod spoil;
mod status;
mod store;
mod target;
mod tls;
mod watch;

pub use clock::monotonic;
pub use control::Control;
pub use faults::{Faults, Hangup, Refusal, Reorder, Trickle};
pub use generate::{Load, NAMESPACE, service_name};
pub use handle::{Builder, Objects, StartError, TestApiServer};
pub use load::{LoadError, parse_objects};
pub use policy::{DEFAULT_USER, GoneForm, Protobuf, StreamingLists};
pub use real::{ASSETS, RealApiServer, RealBuilder, RealError, User};
pub use requests::{Delivery, Request, Requests};
pub use resource::{Resource, Verb};
pub use spoil::{Pick, Ruin, Spoil};
pub use store::{Snapshot, StoreError};
pub use tls::{Identity, TlsError};

/// A server of either kind, for tests that need no faults.
#[derive(Debug)]
pub enum ApiServer {
    /// The double.
    Test(TestApiServer),
    /// The real one.
    Real(Box<RealApiServer>),
}

impl ApiServer {
    /// Its URL, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        match self {
            Self::Test(server) => server.url(),
            Self::Real(server) => server.url(),
        }
    }

    /// The certificate of its authority, if it speaks TLS.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        match self {
            Self::Test(server) => server.ca_pem(),
            Self::Real(server) => Some(server.ca_pem()),
        }
    }

    /// A kubeconfig for it.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        match self {
            Self::Test(server) => server.kubeconfig(),
            Self::Real(server) => server.kubeconfig(),
        }
    }
}
