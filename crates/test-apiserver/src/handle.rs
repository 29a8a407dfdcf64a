//! Handle with which its owner uses a server.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::Value;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::{
    faults::{FaultTable, Faults, Hangup},
    kubeconfig,
    object::Key,
    policy::{DEFAULT_USER, GoneForm, Policy, Protobuf, StreamingLists},
    requests::{Delivery, Requests},
    resource::{Resource, Verb},
    selector::Filter,
    server::{Command, Server},
    shared::Shared,
    spoil::{Pick, Spoil},
    store::{Retention, Snapshot, Store, StoreError},
    tls::{HTTP1, HTTP2, Identity, TlsError, host},
};

/// Failure of a server to start, or to come back.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The certificates cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address is in use, or does not belong to this machine.
    #[error("listen on {address}")]
    Listen {
        /// Requested address.
        address: SocketAddr,
        /// Error of the kernel.
        #[source]
        source: io::Error,
    },
    /// Its thread did not start.
    #[error("start a thread")]
    Thread(#[source] io::Error),
    /// Its thread has ended; a panic of it says why.
    #[error("the thread of the server has ended")]
    Died,
}

/// Properties of a server. By default it is a plain HTTP server on a free port of 127.0.0.1 that requires no
/// token.
#[derive(Clone, Debug)]
pub struct Builder {
    address: SocketAddr,
    identity: Option<Identity>,
    tls: bool,
    http2: bool,
    names: Vec<String>,
    policy: Policy,
    token: Option<String>,
    retention: Retention,
    realistic: bool,
    bookmark_interval: Duration,
}

impl Default for Builder {
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            identity: None,
            tls: false,
            http2: true,
            names: Vec::new(),
            policy: Policy::default(),
            token: None,
            retention: Retention::default(),
            realistic: false,
            bookmark_interval: Duration::from_mins(1),
        }
    }
}

impl Builder {
    /// Listens on an address; port 0 stands for any free one.
    #[must_use]
    pub fn listen(self, address: SocketAddr) -> Self {
        Self { address, ..self }
    }

    /// Speaks TLS, with certificates made at start, and HTTP/2 with clients that know it.
    #[must_use]
    pub fn tls(self) -> Self {
        Self { tls: true, ..self }
    }

    /// Speaks HTTP/1.1 with everybody, as a proxy in front of a server may.
    #[must_use]
    pub fn without_http2(self) -> Self {
        Self { http2: false, ..self }
    }

    /// Adds a host name or address to the certificate.
    #[must_use]
    pub fn name(mut self, name: &str) -> Self {
        self.names.push(name.to_owned());
        self
    }

    /// Speaks TLS with these certificates, as a server does after a restart.
    #[must_use]
    pub fn identity(self, identity: Identity) -> Self {
        Self { identity: Some(identity), tls: true, ..self }
    }

    /// Requires a bearer token and accepts this one; the first one is in [`TestApiServer::kubeconfig`].
    #[must_use]
    pub fn token(mut self, token: &str) -> Self {
        self.policy.add_token(token, DEFAULT_USER);
        self.token.get_or_insert_with(|| token.to_owned());
        self
    }

    /// Sets the answer to watches that request initial events.
    #[must_use]
    pub fn streaming_lists(mut self, how: StreamingLists) -> Self {
        self.policy.streaming_lists = how;
        self
    }

    /// Sets the form of the error for versions that are too old.
    #[must_use]
    pub fn gone_form(mut self, form: GoneForm) -> Self {
        self.policy.gone_form = form;
        self
    }

    /// Sets the answer to requests for protobuf.
    #[must_use]
    pub fn protobuf(mut self, how: Protobuf) -> Self {
        self.policy.protobuf = how;
        self
    }

    /// Has the server lack this resource, as old servers lack ServiceCIDRs.
    #[must_use]
    pub fn without(mut self, resource: Resource) -> Self {
        self.policy.set_missing(resource, true);
        self
    }

    /// Sets the version to 1.`minor`.
    #[must_use]
    pub fn minor(mut self, minor: u32) -> Self {
        self.policy.minor = minor;
        self
    }

    /// Sets the number of events to remember, of all resources together.
    #[must_use]
    pub fn history(self, events: usize) -> Self {
        Self { retention: Retention { events, ..self.retention }, ..self }
    }

    /// Adds to Services and EndpointSlices what they have in a real cluster, such as `managedFields`, so that they
    /// have its size, too.
    #[must_use]
    pub fn realistic(self) -> Self {
        Self { realistic: true, ..self }
    }

    /// Sets the time between bookmarks.
    #[must_use]
    pub fn bookmark_interval(self, interval: Duration) -> Self {
        Self { bookmark_interval: interval, ..self }
    }

    /// Starts the server; when this returns, clients can connect.
    ///
    /// # Errors
    ///
    /// If it cannot listen on the address, or a name is malformed.
    pub fn start(self) -> Result<TestApiServer, StartError> {
        let identity = match self.identity {
            None if self.tls => Some(Identity::make(&self.names)?),
            identity => identity,
        };
        let protocols: &[&[u8]] = if self.http2 { &[HTTP2, HTTP1] } else { &[HTTP1] };
        let tls = identity.as_ref().map(|identity| identity.acceptor(protocols)).transpose()?;
        let listener =
            bind(self.address).map_err(|source| StartError::Listen { address: self.address, source })?;
        let address = listener.local_addr().map_err(StartError::Thread)?;
        let shared = Arc::new(Shared::new(
            Store::new(self.retention, self.realistic),
            self.policy,
            self.bookmark_interval,
        ));
        let (commands, receiver) = unbounded_channel();
        let server = Server { shared: Arc::clone(&shared), address, tls, commands: receiver };
        let thread = thread::Builder::new().name("test-apiserver".to_owned());
        let thread = thread
            .spawn(move || {
                if let Err(error) = server.run(listener) {
                    tracing::error!(%error, "the test API server ended");
                }
            })
            .map_err(StartError::Thread)?;
        Ok(TestApiServer {
            shared,
            address,
            identity,
            token: self.token,
            commands: Some(commands),
            thread: Some(thread),
        })
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// A running server; it ends with this value.
#[derive(Debug)]
pub struct TestApiServer {
    shared: Arc<Shared>,
    address: SocketAddr,
    identity: Option<Identity>,
    token: Option<String>,
    /// Channel to the thread, which ends when it is dropped.
    commands: Option<UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl TestApiServer {
    /// Starts the description of a server.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Address on which it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL, without a path.
    #[must_use]
    pub fn url(&self) -> String {
        let scheme = if self.identity.is_some() { "https" } else { "http" };
        // A server can listen on an unspecified address, but a client cannot connect to it.
        let ip = self.address.ip();
        let host = if ip.is_unspecified() { "127.0.0.1".to_owned() } else { host(ip) };
        format!("{scheme}://{host}:{}", self.address.port())
    }

    /// The certificate of the authority that signed the server's.
    #[must_use]
    pub fn ca_pem(&self) -> Option<&str> {
        self.identity.as_ref().map(|identity| identity.ca_pem.as_str())
    }

    /// Its certificates.
    #[must_use]
    pub const fn identity(&self) -> Option<&Identity> {
        self.identity.as_ref()
    }

    /// A kubeconfig with the first token.
    #[must_use]
    pub fn kubeconfig(&self) -> String {
        kubeconfig::render(&self.url(), self.ca_pem(), self.token.as_deref())
    }

    /// A kubeconfig with any token.
    #[must_use]
    pub fn kubeconfig_with(&self, token: &str) -> String {
        kubeconfig::render(&self.url(), self.ca_pem(), Some(token))
    }

    /// Its objects.
    #[must_use]
    pub fn objects(&self) -> Objects<'_> {
        Objects(&self.shared)
    }

    /// Replaces the faults of one resource.
    pub fn set_faults(&self, resource: Resource, faults: Faults) {
        self.shared.faults.send_modify(|table| table.set(resource, faults));
    }

    /// Faults of one resource; those that count down show the rest.
    #[must_use]
    pub fn faults(&self, resource: Resource) -> Faults {
        self.shared.faults.borrow().of(resource).clone()
    }

    /// Ends all faults, but does not undo hangups of watches and connections.
    pub fn clear_faults(&self) {
        self.shared.faults.send_modify(FaultTable::clear);
        self.shared.set_stale(None);
        self.shared.spoils().clear();
    }

    /// Spoils answers below HTTP.
    pub fn spoil(&self, pick: Pick, spoil: Spoil) {
        self.shared.spoils().add(pick, spoil);
    }

    /// Number of spoilt answers so far.
    #[must_use]
    pub fn spoilt(&self) -> u64 {
        self.shared.spoils().spoilt()
    }

    /// Ends the open watches of a resource.
    pub fn drop_watches(&self, resource: Resource, how: Hangup) {
        self.shared.faults.send_modify(|table| table.drop_watches(resource, how));
    }

    /// Answers requests for "any version" (`resourceVersion=0`) from a snapshot, like a replica that lags
    /// behind.
    pub fn set_stale(&self, snapshot: Option<Snapshot>) {
        self.shared.set_stale(snapshot);
    }

    /// Accepts one more token, of the default user.
    pub fn add_token(&self, token: &str) {
        self.shared.policy().add_token(token, DEFAULT_USER);
    }

    /// Stops accepting a token; requests with it get 401. Open watches stay, as in the real server.
    pub fn revoke_token(&self, token: &str) {
        self.shared.policy().revoke_token(token);
    }

    /// Forbids requests of one verb for a resource (403), or allows them again.
    pub fn deny(&self, resource: Resource, verb: Verb, denied: bool) {
        self.shared.policy().deny(resource, verb, denied);
    }

    /// Removes a resource (404), or adds it, as an upgrade does.
    pub fn set_missing(&self, resource: Resource, missing: bool) {
        self.shared.policy().set_missing(resource, missing);
    }

    /// Changes the version to 1.`minor`, as an upgrade does.
    pub fn set_minor(&self, minor: u32) {
        self.shared.policy().minor = minor;
    }

    /// Changes the answer to watches that request initial events.
    pub fn set_streaming_lists(&self, how: StreamingLists) {
        self.shared.policy().streaming_lists = how;
    }

    /// Changes the form of the error for versions that are too old.
    pub fn set_gone_form(&self, form: GoneForm) {
        self.shared.policy().gone_form = form;
    }

    /// Changes the answer to requests for protobuf.
    pub fn set_protobuf(&self, how: Protobuf) {
        self.shared.policy().protobuf = how;
    }

    /// Requests so far.
    #[must_use]
    pub fn requests(&self) -> Requests {
        self.shared.requests().clone()
    }

    /// Number of open watches.
    #[must_use]
    pub fn watches(&self, resource: Resource) -> usize {
        self.shared.watches(resource)
    }

    /// Watch events of an object that were handed to the socket, among the last thousands of all.
    #[must_use]
    pub fn deliveries(&self, resource: Resource, namespace: &str, name: &str) -> Vec<Delivery> {
        self.shared.deliveries().of(resource, &Key::new(namespace, name))
    }

    /// Refuses new connections and ends open ones. Returns when the port is closed.
    ///
    /// # Errors
    ///
    /// If the thread of the server has ended.
    pub fn stop(&self) -> Result<(), StartError> {
        self.command(Command::Close)
    }

    /// Asks clients to make new connections for further requests (GOAWAY), while those under way go on. Only HTTP/2 has
    /// that.
    pub fn send_go_away(&self) {
        self.shared.farewells.send_modify(|count| *count += 1);
    }

    /// Serves again after [`Self::stop`], on the same port.
    ///
    /// # Errors
    ///
    /// If another program has taken the port.
    pub fn restart(&self) -> Result<(), StartError> {
        self.command(Command::Open)
    }

    fn command(
        &self,
        command: impl FnOnce(std::sync::mpsc::Sender<io::Result<()>>) -> Command,
    ) -> Result<(), StartError> {
        let (done, answer) = std::sync::mpsc::channel();
        let commands = self.commands.as_ref().ok_or(StartError::Died)?;
        commands.send(command(done)).map_err(|_| StartError::Died)?;
        let answer = answer.recv().map_err(|_| StartError::Died)?;
        answer.map_err(|source| StartError::Listen { address: self.address, source })
    }
}

impl Drop for TestApiServer {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Objects of a server.
#[derive(Clone, Copy, Debug)]
pub struct Objects<'a>(&'a Shared);

impl Objects<'_> {
    /// Creates or replaces an object; returns its resourceVersion, which stays the same if nothing changed.
    ///
    /// # Errors
    ///
    /// If the server has no such resource, or the object has no name.
    pub fn apply(&self, object: Value) -> Result<u64, StoreError> {
        self.0.write(|store| store.apply(object)).map(|object| object.revision)
    }

    /// Writes many objects before any client sees one of them; returns the newest resourceVersion.
    ///
    /// # Errors
    ///
    /// As [`Self::apply`], for the first such object; those before it have been written.
    pub fn apply_all(&self, objects: impl IntoIterator<Item = Value>) -> Result<u64, StoreError> {
        self.0.write(|store| {
            for object in objects {
                store.apply(object)?;
            }
            Ok(store.revision())
        })
    }

    /// Deletes an object; returns the resourceVersion of the deletion. Objects of the cluster have the
    /// namespace "".
    ///
    /// # Errors
    ///
    /// If it does not exist.
    pub fn delete(&self, resource: Resource, namespace: &str, name: &str) -> Result<u64, StoreError> {
        let key = Key::new(namespace, name);
        self.0.write(|store| store.delete(resource, &key)).map(|object| object.revision)
    }

    /// The object as it is now.
    #[must_use]
    pub fn get(&self, resource: Resource, namespace: &str, name: &str) -> Option<Value> {
        self.0.store().get(resource, &Key::new(namespace, name)).map(|object| object.value())
    }

    /// All objects of a resource.
    #[must_use]
    pub fn list(&self, resource: Resource) -> Vec<Value> {
        let objects = self.0.store().select(resource, &Filter::default());
        objects.iter().map(|object| object.value()).collect()
    }

    /// Number of objects of a resource.
    #[must_use]
    pub fn len(&self, resource: Resource) -> usize {
        self.0.store().len(resource)
    }

    /// The newest resourceVersion.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.0.store().revision()
    }

    /// Everything as it is now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.0.store().snapshot()
    }

    /// Returns to a snapshot and to its resourceVersion. With real servers this happens while they are down,
    /// so stop the server before.
    pub fn restore(&self, snapshot: Snapshot) {
        self.0.write(|store| store.restore(snapshot));
    }

    /// Forgets all events: every version but the newest is gone.
    pub fn compact(&self) {
        self.0.write(Store::compact);
    }
}
