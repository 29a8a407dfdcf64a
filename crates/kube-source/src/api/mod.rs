//! Objects from the API server: listed once, then watched.
//!
//! Reading order: [`ApiOptions`], [`ApiSource`], [`Delivery`]; then `course` (what is asked next, pure), `body` (what
//! the server sends), `kinds` (what an object means), `known` (what was passed on), `follow` (requests and their ends),
//! `answer` (their limits), `version` (of the server) and `sink` (where the kinds meet). The way to the server: `access`
//! (configuration), `proxy`, `plugin` (credentials that a program prints) and `connect` (connections).
//!
//! An object goes straight from its line of JSON into an event; nothing of it is kept here but its name and version.

mod access;
mod answer;
mod body;
mod chance;
mod connect;
mod course;
mod follow;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod kinds;
mod known;
mod limits;
mod plugin;
mod proxy;
mod sink;
mod version;

use std::{cell::RefCell, error::Error, fmt, net::IpAddr, path::PathBuf, rc::Rc, sync::Arc};

use futures_util::future::join_all;

use tokio::runtime::Runtime;

use crate::Batch;
use connect::Connector;
use follow::Follower;
use kinds::Kind;
use sink::Sink;

pub use access::ConnectError;
pub use limits::Limits;
pub use plugin::PluginError;
pub use proxy::ProxyVariables;

/// How the API server is reached and what is asked of it.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// Credentials and address; the Pod's service account if there is none.
    pub kubeconfig: Option<PathBuf>,
    /// Address that overrides the one found there.
    pub master: Option<String>,
    /// Only the Node of this name is read.
    pub node_name: Arc<str>,
    /// Proxies of the environment.
    pub proxies: ProxyVariables,
    /// How long and how much is waited for.
    pub limits: Limits,
}

/// What is passed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Objects changed.
    Objects(Batch),
    /// It became known, or changed, whether a kind of objects is up to date.
    Status(&'static str, ApiStatus),
}

/// Whether a kind of objects is up to date.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiStatus {
    /// Changes arrive.
    Following,
    /// They do not; the last objects stay. Everybody may read this code, such as `unreachable`: what the server or the
    /// system said is in the log alone.
    Failing(&'static str),
}

impl fmt::Display for ApiStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ApiStatus::Following => f.write_str("following"),
            ApiStatus::Failing(code) => f.write_str(code),
        }
    }
}

/// Whether anybody still listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// Go on.
    Listens,
    /// The source can end.
    Gone,
}

/// Services, EndpointSlices, the own Node and ServiceCIDRs of a cluster.
pub struct ApiSource {
    options: ApiOptions,
    connector: Connector,
    runtime: Runtime,
}

impl ApiSource {
    /// Kinds of objects without which nothing can be done, as a [`Delivery::Status`] names them.
    pub const VITAL: [&str; 2] = [Kind::Service.resource(), Kind::EndpointSlice.resource()];

    /// Reads the configuration; does not connect yet, and runs no credential plugin.
    pub fn open(options: ApiOptions) -> Result<Self, ConnectError> {
        let connector = Connector::open(&options)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(ConnectError::Runtime)?;
        Ok(ApiSource { options, connector, runtime })
    }

    /// Address of the server.
    pub fn url(&self) -> String {
        self.connector.url().to_owned()
    }

    /// Address of the server, unless it is a name.
    pub fn server(&self) -> Option<IpAddr> {
        self.connector.server()
    }

    /// Follows until the listener is gone. Blocks the thread.
    ///
    /// The first [`Delivery::Objects`] batches end with one that contains [`service_model::ModelEvent::Synced`], once
    /// all kinds have been listed.
    pub fn run(self, mut listener: impl FnMut(Delivery) -> Listener) {
        let ApiSource { options, connector, runtime } = self;
        runtime.block_on(follow_all(&options, connector, &mut listener));
        // A thread that waits for a name server or a file system is not waited for.
        runtime.shutdown_background();
    }
}

async fn follow_all(
    options: &ApiOptions,
    connector: Connector,
    listener: &mut dyn FnMut(Delivery) -> Listener,
) {
    let sink = Rc::new(RefCell::new(Sink::new(listener)));
    let end = sink.borrow().end();
    let connector = Rc::new(connector);
    let follow = |kind: Kind| Follower::new(kind, options, Rc::clone(&connector), Rc::clone(&sink)).run();
    tokio::select! {
        _ = join_all(Kind::ALL.map(follow)) => {}
        () = version::follow(&connector) => {}
        () = end.notified() => {}
    }
}

/// An error with its whole chain of causes on one line.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
