//! State that requests, watches and the owner of the server share.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    faults::FaultTable,
    policy::Policy,
    requests::{Deliveries, Requests},
    resource::Resource,
    spoil::Spoils,
    store::{Snapshot, Store},
};

#[derive(Debug)]
pub(crate) struct Shared {
    store: Mutex<Store>,
    /// Revision of the store; watches wait for its changes.
    pub(crate) changes: watch::Sender<u64>,
    pub(crate) faults: watch::Sender<FaultTable>,
    /// Number of times that clients were asked to make new connections.
    pub(crate) farewells: watch::Sender<u64>,
    policy: Mutex<Policy>,
    requests: Mutex<Requests>,
    deliveries: Mutex<Deliveries>,
    spoils: Mutex<Spoils>,
    /// Snapshot that answers requests for "any version" while a replica is stale.
    stale: Mutex<Option<Arc<Snapshot>>>,
    watches: [AtomicUsize; Resource::ALL.len()],
    watch_ids: AtomicU64,
    connections: AtomicU64,
    pub(crate) bookmark_interval: Duration,
}

impl Shared {
    pub(crate) fn new(store: Store, policy: Policy, bookmark_interval: Duration) -> Self {
        Self {
            changes: watch::Sender::new(store.revision()),
            store: Mutex::new(store),
            faults: watch::Sender::default(),
            farewells: watch::Sender::default(),
            policy: Mutex::new(policy),
            requests: Mutex::default(),
            deliveries: Mutex::default(),
            spoils: Mutex::default(),
            stale: Mutex::default(),
            watches: Default::default(),
            watch_ids: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            bookmark_interval,
        }
    }

    /// Reads the store.
    pub(crate) fn store(&self) -> MutexGuard<'_, Store> {
        lock(&self.store)
    }

    /// Changes the store, and wakes the watches once for all changes.
    pub(crate) fn write<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let mut store = self.store();
        let result = change(&mut store);
        let revision = store.revision();
        drop(store);
        self.changes.send_replace(revision);
        result
    }

    pub(crate) fn policy(&self) -> MutexGuard<'_, Policy> {
        lock(&self.policy)
    }

    pub(crate) fn requests(&self) -> MutexGuard<'_, Requests> {
        lock(&self.requests)
    }

    pub(crate) fn deliveries(&self) -> MutexGuard<'_, Deliveries> {
        lock(&self.deliveries)
    }

    pub(crate) fn spoils(&self) -> MutexGuard<'_, Spoils> {
        lock(&self.spoils)
    }

    /// Number of a new connection.
    pub(crate) fn next_connection(&self) -> u64 {
        self.connections.fetch_add(1, Ordering::SeqCst)
    }

    pub(crate) fn stale(&self) -> Option<Arc<Snapshot>> {
        lock(&self.stale).clone()
    }

    pub(crate) fn set_stale(&self, snapshot: Option<Snapshot>) {
        *lock(&self.stale) = snapshot.map(Arc::new);
    }

    pub(crate) fn watches(&self, resource: Resource) -> usize {
        self.watches[resource.index()].load(Ordering::SeqCst)
    }

    /// Waits until no fault holds answers back.
    pub(crate) async fn wait_unless_silent(&self, resource: Resource) {
        let mut faults = self.faults.subscribe();
        // The sender lives as long as `self`.
        let _ = faults.wait_for(|table| !table.of(resource).silent).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic of one test thread must not disturb the others.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Guard of an open watch, which counts as open while this lives.
#[derive(Debug)]
pub(crate) struct OpenWatch {
    shared: Arc<Shared>,
    resource: Resource,
    pub(crate) id: u64,
}

impl OpenWatch {
    pub(crate) fn new(shared: &Arc<Shared>, resource: Resource) -> Self {
        shared.watches[resource.index()].fetch_add(1, Ordering::SeqCst);
        let id = shared.watch_ids.fetch_add(1, Ordering::SeqCst);
        Self { shared: Arc::clone(shared), resource, id }
    }
}

impl Drop for OpenWatch {
    fn drop(&mut self) {
        self.shared.watches[self.resource.index()].fetch_sub(1, Ordering::SeqCst);
    }
}
