//! What clients did, counted for tests to assert.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

use crate::object::Key;
use crate::resource::{Resource, Verb};

/// Requests that are remembered one by one.
const LOG: usize = 4096;

/// Deliveries that are remembered.
const DELIVERIES: usize = 32_768;

/// A request, as it arrived.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Request {
    /// What it asked for.
    pub verb: Verb,
    /// Of which resource.
    pub resource: Resource,
    /// Path and query.
    pub uri: String,
    /// `User-Agent`.
    pub agent: String,
    /// Number of the connection that it came over.
    pub connection: u64,
    /// `CLOCK_MONOTONIC`.
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
}

impl Requests {
    /// Requests of one kind, refused and unanswered ones included. Each page of a list is one.
    #[must_use]
    pub fn count(&self, resource: Resource, verb: Verb) -> u64 {
        self.counts.get(&(resource, verb)).copied().unwrap_or_default()
    }

    /// Answers with this HTTP status.
    #[must_use]
    pub fn status(&self, status: u16) -> u64 {
        self.statuses.get(&status).copied().unwrap_or_default()
    }

    /// The last few thousand requests, the oldest first.
    pub fn log(&self) -> impl Iterator<Item = &Request> {
        self.log.iter()
    }

    /// How often the version of the server was asked for, and told.
    #[must_use]
    pub const fn versions(&self) -> u64 {
        self.versions
    }

    pub(crate) const fn version_asked(&mut self) {
        self.versions += 1;
    }

    pub(crate) fn arrived(&mut self, request: Request) {
        *self.counts.entry((request.resource, request.verb)).or_default() += 1;
        if self.log.len() == LOG {
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
        json!({"counts": counts, "statuses": statuses})
    }

    pub(crate) fn answered(&mut self, status: u16) {
        *self.statuses.entry(status).or_default() += 1;
    }
}

/// A watch event that was handed to the socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Which watch, counted from the start of the server.
    pub watch: u64,
    /// ADDED, MODIFIED or DELETED.
    pub change: &'static str,
    /// Of the object.
    pub revision: u64,
    /// When, by `CLOCK_MONOTONIC`.
    pub at: Duration,
    pub(crate) resource: Resource,
    pub(crate) key: Arc<Key>,
}

#[derive(Debug, Default)]
pub(crate) struct Deliveries(VecDeque<Delivery>);

impl Deliveries {
    pub(crate) fn push(&mut self, delivery: Delivery) {
        if self.0.len() == DELIVERIES {
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
