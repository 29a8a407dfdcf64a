//! Stored objects: encoded once, with the few fields that the server looks at.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{proto, resource::Resource};

/// Key of an object within its resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Key {
    /// Empty for objects of the cluster.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Key {
    pub(crate) fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.to_owned(), name: name.to_owned() }
    }

    /// Key in the metadata of an object, if it has a name.
    pub(crate) fn of(object: &Value) -> Option<Self> {
        let name = text(object, "name").filter(|name| !name.is_empty())?;
        Some(Self::new(text(object, "namespace").unwrap_or_default(), name))
    }
}

/// One version of an object.
///
/// It is kept as bytes: a parsed tree takes several times the memory, and the same bytes go into lists and
/// events.
#[derive(Debug)]
pub(crate) struct Object {
    /// Shared with the log of deliveries, which outlives the object.
    pub(crate) key: Arc<Key>,
    pub(crate) revision: u64,
    pub(crate) labels: Vec<(String, String)>,
    pub(crate) json: Bytes,
    /// Its message, once somebody has asked for it; `None` if it has none.
    message: OnceLock<Option<Bytes>>,
}

impl Object {
    /// Writes `revision` into the metadata of `value` and encodes it.
    pub(crate) fn encode(key: Arc<Key>, mut value: Value, revision: u64) -> Self {
        set(&mut value, "resourceVersion", revision.to_string().into());
        // A boxed slice has no spare room; that of a growing text takes as much memory again.
        let json = Bytes::from(value.to_string().into_bytes().into_boxed_slice());
        Self { key, revision, labels: labels(&value), json, message: OnceLock::new() }
    }

    pub(crate) fn value(&self) -> Value {
        serde_json::from_slice(&self.json).unwrap_or_default()
    }

    /// The object as a message of protobuf, without anything around it.
    pub(crate) fn message(&self, resource: Resource) -> Option<&Bytes> {
        self.message.get_or_init(|| proto::message(resource, self.value()).map(Bytes::from)).as_ref()
    }

    pub(crate) fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

fn labels(value: &Value) -> Vec<(String, String)> {
    let labels = value.pointer("/metadata/labels").and_then(Value::as_object);
    labels
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect()
}

/// Text in a field of the object's metadata.
pub(crate) fn text<'v>(object: &'v Value, field: &str) -> Option<&'v str> {
    object.get("metadata")?.get(field)?.as_str()
}

/// Sets a field of the object's metadata, which is created if absent.
pub(crate) fn set(object: &mut Value, field: &str, value: Value) {
    let Some(object) = object.as_object_mut() else { return };
    let metadata = object.entry("metadata").or_insert_with(|| Map::new().into());
    if !metadata.is_object() {
        *metadata = Map::new().into();
    }
    if let Some(metadata) = metadata.as_object_mut() {
        metadata.insert(field.to_owned(), value);
    }
}
