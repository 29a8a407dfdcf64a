//! The objects, their versions and the events that led to them: etcd and watch cache in one.

mod history;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;

use history::History;
pub(crate) use history::Retention;
pub(crate) use history::{Change, Event, Gone};

use crate::clock::{creation_time, monotonic};
use crate::object::{Key, Object, set, text};
use crate::resource::Resource;
use crate::selector::Filter;

/// A new etcd is not at zero either, which means "any version" in requests.
const FIRST: u64 = 100;

type Objects = BTreeMap<Arc<Key>, Arc<Object>>;

/// Why a write was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Its apiVersion and kind are those of no resource here, or it has no name.
    #[error("not an object of this server: {0}")]
    NotAnObject(String),
    /// Created twice.
    #[error("{0:?} {1} already exists")]
    AlreadyExists(Resource, String),
    /// To be changed, but not there.
    #[error("{0:?} {1} not found")]
    NotFound(Resource, String),
    /// Replaced by someone who did not see the newest version.
    #[error("{0:?} {1} has been modified")]
    Conflict(Resource, String),
}

/// All objects as they were at one time; cheap, as versions are shared.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) revision: u64,
    objects: [Objects; Resource::ALL.len()],
}

impl Snapshot {
    /// Of a server that was never written to.
    #[must_use]
    pub fn empty() -> Self {
        Self { revision: FIRST, objects: Default::default() }
    }

    /// The resourceVersion of the moment.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn select(&self, resource: Resource, filter: &Filter) -> Vec<Arc<Object>> {
        select(&self.objects[resource.index()], filter)
    }
}

/// What a write needs to know of an object that came over the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Create,
    Replace,
    /// Either.
    Apply,
}

#[derive(Debug)]
pub(crate) struct Store {
    /// As in etcd: one counter for all resources.
    revision: u64,
    objects: [Objects; Resource::ALL.len()],
    history: History,
    created: u64,
}

impl Store {
    pub(crate) fn new(retention: Retention) -> Self {
        let history = History::new(FIRST, retention);
        Self { revision: FIRST, objects: Default::default(), history, created: 0 }
    }

    pub(crate) const fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn len(&self, resource: Resource) -> usize {
        self.objects[resource.index()].len()
    }

    pub(crate) fn get(&self, resource: Resource, key: &Key) -> Option<&Arc<Object>> {
        self.objects[resource.index()].get(key)
    }

    pub(crate) fn select(&self, resource: Resource, filter: &Filter) -> Vec<Arc<Object>> {
        select(&self.objects[resource.index()], filter)
    }

    /// What `select` gave when `revision` was the newest: the events since then are undone.
    pub(crate) fn select_at(
        &self,
        resource: Resource,
        filter: &Filter,
        revision: u64,
    ) -> Result<Vec<Arc<Object>>, Gone> {
        let events = self.history.after(resource, revision, usize::MAX)?;
        if events.is_empty() {
            return Ok(self.select(resource, filter));
        }
        let mut objects = self.objects[resource.index()].clone();
        for event in events.iter().rev() {
            match &event.previous {
                Some(previous) => objects.insert(Arc::clone(&previous.key), Arc::clone(previous)),
                None => objects.remove(&event.object.key),
            };
        }
        Ok(select(&objects, filter))
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        Snapshot { revision: self.revision, objects: self.objects.clone() }
    }

    /// Goes back to `snapshot` as a restored etcd does: the counter, too, and there is no history.
    pub(crate) fn restore(&mut self, snapshot: Snapshot) {
        self.revision = snapshot.revision;
        self.objects = snapshot.objects;
        self.history.clear(self.revision);
    }

    /// Forgets all events.
    pub(crate) fn compact(&mut self) {
        self.history.clear(self.revision);
    }

    /// The oldest version from which a watch can start.
    pub(crate) const fn oldest(&self) -> u64 {
        self.history.compacted()
    }

    /// Events of `resource` after `revision`, some at a time, and the version up to which they reach.
    pub(crate) fn events_after(
        &self,
        resource: Resource,
        revision: u64,
        at_most: usize,
    ) -> Result<(Vec<Arc<Event>>, u64), Gone> {
        let events = self.history.after(resource, revision, at_most)?;
        let reached = if events.len() < at_most {
            // A client may know more than a server that was restored; then it hears nothing until that is made up.
            self.revision.max(revision)
        } else {
            events.last().map_or(revision, |event| event.object.revision)
        };
        Ok((events, reached))
    }

    /// Writes an object, whose kind says where it belongs.
    pub(crate) fn apply(&mut self, object: Value) -> Result<Arc<Object>, StoreError> {
        let resource = Resource::of(&object).ok_or_else(|| not_an_object(&object))?;
        self.write(resource, object, Write::Apply)
    }

    pub(crate) fn write(
        &mut self,
        resource: Resource,
        mut object: Value,
        write: Write,
    ) -> Result<Arc<Object>, StoreError> {
        let key = Key::of(&object).ok_or_else(|| not_an_object(&object))?;
        let name = key.name.clone();
        let Some(previous) = self.get(resource, &key).cloned() else {
            if write == Write::Replace {
                return Err(StoreError::NotFound(resource, name));
            }
            self.fill_in(&mut object);
            return Ok(self.put(resource, Arc::new(key), object));
        };
        if write == Write::Create {
            return Err(StoreError::AlreadyExists(resource, name));
        }
        let seen = text(&object, "resourceVersion").filter(|version| !version.is_empty());
        if write == Write::Replace && seen.is_some_and(|seen| seen != previous.revision.to_string()) {
            return Err(StoreError::Conflict(resource, name));
        }
        Ok(self.update(resource, &previous, object))
    }

    /// An unchanged object keeps its version and makes no event, as in the real server.
    fn update(&mut self, resource: Resource, previous: &Arc<Object>, mut object: Value) -> Arc<Object> {
        let before = previous.value();
        for field in ["uid", "creationTimestamp", "resourceVersion"] {
            let value = before.pointer(&format!("/metadata/{field}")).cloned().unwrap_or_default();
            set(&mut object, field, value);
        }
        if object == before {
            return Arc::clone(previous);
        }
        self.put(resource, Arc::clone(&previous.key), object)
    }

    pub(crate) fn delete(&mut self, resource: Resource, key: &Key) -> Result<Arc<Object>, StoreError> {
        let removed = self.objects[resource.index()].remove(key);
        let previous = removed.ok_or_else(|| StoreError::NotFound(resource, key.name.clone()))?;
        self.revision += 1;
        // The last state, but with the version of the deletion.
        let object = Arc::new(Object::encode(Arc::clone(&previous.key), previous.value(), self.revision));
        self.record(resource, Change::Deleted, Arc::clone(&object), Some(previous));
        Ok(object)
    }

    fn put(&mut self, resource: Resource, key: Arc<Key>, value: Value) -> Arc<Object> {
        self.revision += 1;
        let object = Arc::new(Object::encode(Arc::clone(&key), value, self.revision));
        let previous = self.objects[resource.index()].insert(key, Arc::clone(&object));
        let change = if previous.is_some() { Change::Modified } else { Change::Added };
        self.record(resource, change, Arc::clone(&object), previous);
        object
    }

    fn record(
        &mut self,
        resource: Resource,
        change: Change,
        object: Arc<Object>,
        previous: Option<Arc<Object>>,
    ) {
        self.history.push(Event { resource, change, object, previous, committed: monotonic() });
    }

    fn fill_in(&mut self, object: &mut Value) {
        self.created += 1;
        if text(object, "uid").is_none() {
            set(object, "uid", format!("00000000-0000-4000-8000-{:012x}", self.created).into());
        }
        if text(object, "creationTimestamp").is_none() {
            set(object, "creationTimestamp", creation_time().into());
        }
    }
}

fn select(objects: &Objects, filter: &Filter) -> Vec<Arc<Object>> {
    objects.values().filter(|object| filter.matches(object)).cloned().collect()
}

fn not_an_object(object: &Value) -> StoreError {
    let field = |path| object.pointer(path).and_then(Value::as_str).unwrap_or("-").to_owned();
    let (api_version, kind, name) = (field("/apiVersion"), field("/kind"), field("/metadata/name"));
    StoreError::NotAnObject(format!("apiVersion {api_version}, kind {kind}, name {name}"))
}
