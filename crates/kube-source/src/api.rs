//! Objects from the API server: listed once, then watched.
//!
//! Reading order: [`ApiOptions`], [`ApiSource`], [`Delivery`]; then `watch_state` (the next request, pure), `media` (its
//! encoding), `body` (the server's answers), `kinds` (the meaning of an object), `object_tracker` (names and versions of
//! objects), `reflector` (requests and their ends), `answer` (their limits), `version` (of the server) and `sink` (where the
//! kinds meet). `events` writes what others should see of a problem. The connection to the server: `access`
//! (configuration), `proxy`, `plugin` (credentials that a program prints) and `connect`.
//!
//! An object goes straight from its JSON or protobuf into an event; only its name and version are kept here.

mod access;
mod answer;
mod body;
mod chance;
mod connect;
mod counts;
mod events;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod kinds;
mod limits;
mod media;
mod object_tracker;
mod plugin;
mod proxy;
mod reflector;
mod sink;
mod version;
mod watch_state;

use std::{cell::RefCell, error::Error, fmt, net::IpAddr, path::PathBuf, rc::Rc, sync::Arc};

use futures_util::future::join_all;
use tokio::runtime::Runtime;

use crate::Batch;
use connect::Connector;
use events::{Queue, Writer};
use kinds::Kind;
use reflector::Reflector;
use sink::Sink;

pub use access::ConnectError;
pub use counts::{Counted, RequestCounts};
pub use events::{EventCounts, Notice, Reason, Recorder, Regarding, ServiceRef};
pub use limits::{EventLimits, Limits};
pub use media::MediaType;
pub(crate) use media::PROTOBUF;
pub use plugin::PluginError;
pub use proxy::ProxyVariables;

/// Options for the connection to the API server and for the requests over it.
#[derive(Clone, Debug)]
pub struct ApiOptions {
    /// File with credentials and address; without one, the Pod's service account counts.
    pub kubeconfig: Option<PathBuf>,
    /// Address that overrides the configured one.
    pub master: Option<String>,
    /// Name of the only Node that is read.
    pub node_name: Arc<str>,
    /// Proxies in the environment.
    pub proxies: ProxyVariables,
    /// Media type to ask for.
    pub media: MediaType,
    /// Limits of time and size for requests.
    pub limits: Limits,
}

/// News for the listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Objects changed.
    Objects(Batch),
    /// The status of a kind of objects became known or changed.
    Status(&'static str, ApiStatus),
}

/// Status of a kind of objects: up to date, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiStatus {
    /// Changes arrive.
    Following,
    /// Changes do not arrive; the last objects stay. Everybody may read this code, such as `unreachable`;
    /// only the log has the words of the server or the system.
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

/// Answer of the listener to a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// The source continues.
    Listens,
    /// Nobody listens any more, so the source ends.
    Gone,
}

/// Source of the Services, EndpointSlices and ServiceCIDRs of a cluster and of the own Node.
pub struct ApiSource {
    options: ApiOptions,
    connector: Connector,
    runtime: Runtime,
    recorder: Recorder,
    queue: Queue,
}

impl ApiSource {
    /// Kinds of objects without which nothing can be programmed, as a [`Delivery::Status`] names them.
    pub const VITAL: [&str; 2] = [Kind::Service.resource(), Kind::EndpointSlice.resource()];

    /// Reads the configuration; does not connect yet, and runs no credential plugin.
    pub fn open(options: ApiOptions) -> Result<Self, ConnectError> {
        let connector = Connector::open(&options)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .map_err(ConnectError::Runtime)?;
        let (recorder, queue) = events::channel();
        Ok(ApiSource { options, connector, runtime, recorder, queue })
    }

    /// URL of the server.
    pub fn url(&self) -> String {
        self.connector.url().to_owned()
    }

    /// Address of the server, unless the URL has a name.
    pub fn server(&self) -> Option<IpAddr> {
        self.connector.server()
    }

    /// Host and port of the server.
    pub fn host(&self) -> String {
        self.connector.host()
    }

    /// Handle of the counts of requests.
    pub fn counts(&self) -> RequestCounts {
        self.connector.counts.clone()
    }

    /// Handle for events, which are written while the source runs.
    pub fn recorder(&self) -> Recorder {
        self.recorder.clone()
    }

    /// Lists and watches until the listener is gone. Blocks the thread.
    ///
    /// The first [`Delivery::Objects`] batches end with one that contains
    /// [`service_model::ModelEvent::Synced`], once all kinds have been listed.
    pub fn run(self, mut listener: impl FnMut(Delivery) -> Listener) {
        let ApiSource { options, connector, runtime, recorder: _, queue } = self;
        runtime.block_on(follow_all(&options, connector, queue, &mut listener));
        // Some thread may hang in a name server or a file system; it must not delay the end.
        runtime.shutdown_background();
    }
}

async fn follow_all(
    options: &ApiOptions,
    connector: Connector,
    queue: Queue,
    listener: &mut dyn FnMut(Delivery) -> Listener,
) {
    let sink = Rc::new(RefCell::new(Sink::new(listener)));
    let end = sink.borrow().end();
    let connector = Rc::new(connector);
    let writer = Writer::new(Rc::clone(&connector), Arc::clone(&options.node_name), queue);
    let reflect = |kind: Kind| Reflector::new(kind, options, Rc::clone(&connector), Rc::clone(&sink)).run();
    tokio::select! {
        _ = join_all(Kind::ALL.map(reflect)) => {}
        () = version::follow(&connector) => {}
        () = writer.run() => {}
        () = end.notified() => {}
    }
}

/// Text of an error with its whole chain of causes, on one line.
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
