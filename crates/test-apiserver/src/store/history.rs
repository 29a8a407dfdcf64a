//! Events of the recent past.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use crate::{object::Object, resource::Resource, selector::Filter};

/// Change of an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Deleted,
}

impl Change {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) resource: Resource,
    pub(crate) change: Change,
    /// Version after the event, whose revision is that of the event.
    pub(crate) object: Arc<Object>,
    /// Version before the event, on which depends what a watch with a selector sees.
    pub(crate) previous: Option<Arc<Object>>,
    /// Time of the event, by `CLOCK_MONOTONIC`.
    pub(crate) committed: Duration,
}

impl Event {
    /// Change that a watch with `filter` sees: an object that begins to match is added, one that ceases to is
    /// deleted (pkg/storage/cacher/cache_watcher.go in apiserver).
    pub(crate) fn seen_by(&self, filter: &Filter) -> Option<Change> {
        let before = self.previous.as_ref().is_some_and(|previous| filter.matches(previous));
        let after = self.change != Change::Deleted && filter.matches(&self.object);
        match (before, after) {
            (false, false) => None,
            (false, true) => Some(Change::Added),
            (true, true) => Some(Change::Modified),
            (true, false) => Some(Change::Deleted),
        }
    }
}

/// Error for a version after which not all events are known any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gone {
    pub(crate) oldest: u64,
}

/// Limits of the history.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Retention {
    pub(crate) events: usize,
    /// Size of the versions that only the history holds.
    pub(crate) bytes: usize,
}

impl Default for Retention {
    fn default() -> Self {
        Self { events: 32_768, bytes: 32 << 20 }
    }
}

#[derive(Debug)]
pub(super) struct History {
    events: VecDeque<Arc<Event>>,
    /// Version up to which events are gone.
    compacted: u64,
    held: usize,
    retention: Retention,
}

impl History {
    pub(super) const fn new(revision: u64, retention: Retention) -> Self {
        Self { events: VecDeque::new(), compacted: revision, held: 0, retention }
    }

    pub(super) const fn compacted(&self) -> u64 {
        self.compacted
    }

    pub(super) fn clear(&mut self, revision: u64) {
        *self = Self::new(revision, self.retention);
    }

    pub(super) fn push(&mut self, event: Event) {
        self.held += weight(&event);
        self.events.push_back(Arc::new(event));
        while self.events.len() > self.retention.events || self.held > self.retention.bytes {
            let Some(event) = self.events.pop_front() else { break };
            self.held -= weight(&event);
            self.compacted = event.object.revision;
        }
    }

    pub(super) fn after(
        &self,
        resource: Resource,
        revision: u64,
        at_most: usize,
    ) -> Result<Vec<Arc<Event>>, Gone> {
        if revision < self.compacted {
            return Err(Gone { oldest: self.compacted });
        }
        let start = self.events.partition_point(|event| event.object.revision <= revision);
        let events = self.events.range(start..).filter(|event| event.resource == resource);
        Ok(events.take(at_most).cloned().collect())
    }
}

/// Size of the version that an event superseded. Its own version is either current, or counted for a later
/// event.
fn weight(event: &Event) -> usize {
    event.previous.as_ref().map_or(0, |previous| previous.json.len())
}
