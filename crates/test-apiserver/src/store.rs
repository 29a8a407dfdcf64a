//! Objects, their versions and the events that led to them: etcd and watch cache in one.

mod history;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;

use history::History;
pub(crate) use history::{Change, Event, Gone, Retention};

use crate::{
    clock::{creation_time, monotonic},
    dress::dress,
    object::{Key, Object, set, text},
    resource::Resource,
    selector::Filter,
};

/// Revision of an empty store. It is not zero, which means "any version" in requests; that of a new etcd is
/// not either.
const FIRST_REVISION: u64 = 100;

type Objects = BTreeMap<Arc<Key>, Arc<Object>>;

/// Refusal of a write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The server has no resource for the apiVersion and kind of the object, or the object has no name.
    #[error("not an object of this server: {0}")]
    NotAnObject(String),
    /// The object to create exists already.
    #[error("{0:?} {1} already exists")]
    AlreadyExists(Resource, String),
    /// The object to change does not exist.
    #[error("{0:?} {1} not found")]
    NotFound(Resource, String),
    /// The client did not know the newest version of the object to replace.
    #[error("{0:?} {1} has been modified")]
    Conflict(Resource, String),
}

/// All objects at one time. It is cheap, because it shares the versions of objects.
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) revision: u64,
    objects: [Objects; Resource::ALL.len()],
}

impl Snapshot {
    /// Snapshot of a server without any write.
    #[must_use]
    pub fn empty() -> Self {
        Self { revision: FIRST_REVISION, objects: Default::default() }
    }

    /// resourceVersion of the snapshot.
    #[must_use]
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    pub(crate) fn select(&self, resource: Resource, filter: &Filter) -> Vec<Arc<Object>> {
        select(&self.objects[resource.index()], filter)
    }
}

/// Kind of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Create,
    Replace,
    /// Creates or replaces.
    Apply,
}

#[derive(Debug)]
pub(crate) struct Store {
    /// Counter of all writes to all resources, as in etcd.
    revision: u64,
    objects: [Objects; Resource::ALL.len()],
    history: History,
    /// True if objects get what they have in a real cluster.
    realistic: bool,
    created: u64,
}

impl Store {
    pub(crate) fn new(retention: Retention, realistic: bool) -> Self {
        let history = History::new(FIRST_REVISION, retention);
        Self { revision: FIRST_REVISION, objects: Default::default(), history, realistic, created: 0 }
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

    /// Objects that [`Self::select`] returned when `revision` was the newest; it undoes the events since
    /// then.
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

    /// Returns to `snapshot` like a restored etcd: so does the counter, and the history is empty.
    pub(crate) fn restore(&mut self, snapshot: Snapshot) {
        self.revision = snapshot.revision;
        self.objects = snapshot.objects;
        self.history.clear(self.revision);
    }

    /// Forgets all events.
    pub(crate) fn compact(&mut self) {
        self.history.clear(self.revision);
    }

    /// Oldest version from which a watch can start.
    pub(crate) const fn oldest(&self) -> u64 {
        self.history.compacted()
    }

    /// Some events of `resource` after `revision`, and the version up to which they reach.
    pub(crate) fn events_after(
        &self,
        resource: Resource,
        revision: u64,
        at_most: usize,
    ) -> Result<(Vec<Arc<Event>>, u64), Gone> {
        let events = self.history.after(resource, revision, at_most)?;
        let reached = if events.len() < at_most {
            // A client may know a later version than a restored server; it gets nothing until the server has
            // caught up.
            self.revision.max(revision)
        } else {
            events.last().map_or(revision, |event| event.object.revision)
        };
        Ok((events, reached))
    }

    /// Creates or replaces an object; its kind determines the resource.
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
        if self.realistic {
            dress(&mut object);
        }
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

    /// Replaces an object. An unchanged one keeps its version and makes no event, as in the real server.
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
        // The event of a deletion has the last state, but the version of the deletion.
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
