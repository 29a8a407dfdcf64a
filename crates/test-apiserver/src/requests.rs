//! Requests of clients and deliveries to them, recorded for the assertions of tests.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use serde::Serialize;
use serde_json::{Value, json};

use crate::{
    object::Key,
    resource::{Resource, Verb},
};

/// Most requests in the log.
const MAX_LOGGED_REQUESTS: usize = 4096;

/// Most deliveries in the log.
const MAX_LOGGED_DELIVERIES: usize = 32_768;

/// A request that arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Request {
    /// Requested action.
    pub verb: Verb,
    /// Resource of the action.
    pub resource: Resource,
    /// Path and query.
    pub uri: String,
    /// Header `User-Agent`.
    pub agent: String,
    /// Header `Accept`.
    pub accept: String,
    /// Number of the connection over which it came.
    pub connection: u64,
    /// Time of its arrival, by `CLOCK_MONOTONIC`.
    #[serde(skip)]
    pub at: Duration,
}

/// Requests so far.
#[derive(Clone, Debug, Default)]
pub struct Requests {
    counts: BTreeMap<(Resource, Verb), u64>,
    statuses: BTreeMap<u16, u64>,
    log: VecDeque<Request>,
    versions: u64,
    protobuf: u64,
}

impl Requests {
    /// Number of requests of one verb for a resource, refused and unanswered ones included. Each page of a
    /// list counts as one.
    #[must_use]
    pub fn count(&self, resource: Resource, verb: Verb) -> u64 {
        self.counts.get(&(resource, verb)).copied().unwrap_or_default()
    }

    /// Number of answers with this HTTP status.
    #[must_use]
    pub fn status(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or_default()
    }

    /// Last few thousand requests, the oldest first.
    pub fn log(&self) -> impl Iterator<Item = &Request> {
        self.log.iter()
    }

    /// Number of requests for the version of the server.
    #[must_use]
    pub const fn versions(&self) -> u64 {
        self.versions
    }

    pub(crate) const fn count_version_request(&mut self) {
        self.versions += 1;
    }

    /// Number of lists and watches that were answered in protobuf.
    #[must_use]
    pub const fn protobuf(&self) -> u64 {
        self.protobuf
    }

    pub(crate) const fn count_protobuf(&mut self) {
        self.protobuf += 1;
    }

    pub(crate) fn record(&mut self, request: Request) {
        *self.counts.entry((request.resource, request.verb)).or_default() += 1;
        if self.log.len() == MAX_LOGGED_REQUESTS {
            self.log.pop_front();
        }
        self.log.push_back(request);
    }

    pub(crate) fn json(&self) -> Value {
        let mut counts = json!({});
        for ((resource, verb), count) in &self.counts {
            counts[resource.plural()][verb.as_str()] = (*count).into();
        }
        let statuses: BTreeMap<String, u64> =
            self.statuses.iter().map(|(status, count)| (status.to_string(), *count)).collect();
        json!({"counts": counts, "statuses": statuses, "protobuf": self.protobuf})
    }

    pub(crate) fn count_status(&mut self, status: u16) {
        *self.statuses.entry(status).or_default() += 1;
    }
}

/// A watch event that was handed to the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Number of the watch, counted from the start of the server.
    pub watch: u64,
    /// Type of the event: ADDED, MODIFIED or DELETED.
    pub change: &'static str,
    /// resourceVersion of the object.
    pub revision: u64,
    /// Time of the delivery, by `CLOCK_MONOTONIC`.
    pub at: Duration,
    pub(crate) resource: Resource,
    pub(crate) key: Arc<Key>,
}

#[derive(Debug, Default)]
pub(crate) struct Deliveries(VecDeque<Delivery>);

impl Deliveries {
    pub(crate) fn push(&mut self, delivery: Delivery) {
        if self.0.len() == MAX_LOGGED_DELIVERIES {
            self.0.pop_front();
        }
        self.0.push_back(delivery);
    }

    pub(crate) fn of(&self, resource: Resource, key: &Key) -> Vec<Delivery> {
        self.0
            .iter()
            .filter(|delivery| delivery.resource == resource && *delivery.key == *key)
            .cloned()
            .collect()
    }
}
