//! What all files say together: which file has the say on an object, and what was delivered of it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt, io,
    sync::Arc,
};

use lb_types::ServiceName;
use service_model::{EndpointSlice, ModelEvent, Node, Service, SliceName};

use super::documents;
use crate::{
    Problem, convert,
    wire::{self, AnyObject},
};

/// An object's key; the order of kinds is that of delivery.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Key {
    Node(Arc<str>),
    Service(ServiceName),
    Slice(SliceName),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Object {
    Node(Node),
    Service(Service),
    Slice(EndpointSlice),
}

/// An object as one file has it; `None` if nothing of it can be served.
#[derive(Clone, Debug)]
struct Copy {
    object: Option<Object>,
    problems: Vec<Problem>,
}

pub(super) struct Store {
    node_name: Arc<str>,
    /// All copies of an object by file; the first file by name has the say.
    copies: BTreeMap<Key, BTreeMap<Arc<str>, Copy>>,
    /// Keys of a file, for its replacement.
    keys: HashMap<Arc<str>, BTreeSet<Key>>,
    /// What is wrong with a file as such.
    broken: BTreeMap<Arc<str>, Vec<Problem>>,
    delivered: HashMap<Key, Object>,
    changed: BTreeSet<Key>,
}

impl Store {
    pub(super) fn new(node_name: &str) -> Self {
        Store {
            node_name: node_name.into(),
            copies: BTreeMap::new(),
            keys: HashMap::new(),
            broken: BTreeMap::new(),
            delivered: HashMap::new(),
            changed: BTreeSet::new(),
        }
    }

    /// The file is gone.
    pub(super) fn remove(&mut self, file: &Arc<str>) {
        self.broken.remove(file);
        for key in self.keys.remove(file).unwrap_or_default() {
            if let Some(copies) = self.copies.get_mut(&key) {
                copies.remove(file);
                if copies.is_empty() {
                    self.copies.remove(&key);
                }
            }
            self.changed.insert(key);
        }
    }

    /// The file has new content.
    pub(super) fn replace(&mut self, file: &Arc<str>, text: &str) {
        match documents::parse(file, text) {
            Ok(objects) => {
                self.remove(file);
                objects.iter().for_each(|object| self.add(file, object));
            }
            Err(problem) => drop(self.broken.insert(file.clone(), vec![problem])),
        }
    }

    /// The file is there and cannot be read; its objects stay.
    pub(super) fn unreadable(&mut self, file: &Arc<str>, error: &io::Error) {
        let problem = Problem {
            file: Some(file.clone()),
            object: String::new(),
            field: String::new(),
            message: format!("cannot be read: {error}; the file keeps the objects that it had"),
            remedy: "make it readable".into(),
        };
        self.broken.insert(file.clone(), vec![problem]);
    }

    fn add(&mut self, file: &Arc<str>, object: &AnyObject) {
        let Some((key, copy)) = self.convert(file, object) else { return };
        self.changed.insert(key.clone());
        self.keys.entry(file.clone()).or_default().insert(key.clone());
        let object = key.to_string();
        if self.copies.entry(key).or_default().insert(file.clone(), copy).is_some() {
            let problem = Problem {
                file: Some(file.clone()),
                object,
                field: String::new(),
                message: "stands twice in the file; the last one counts".into(),
                remedy: "remove one".into(),
            };
            self.broken.entry(file.clone()).or_default().push(problem);
        }
    }

    /// An object of a kind that we read, with its problems; one without a name is a problem of the file.
    fn convert(&mut self, file: &Arc<str>, any: &AnyObject) -> Option<(Key, Copy)> {
        let name = convert::object_name(&any.metadata);
        let (object, problems) = match any.kind.str()? {
            "Service" => {
                let wire = wire::Service { metadata: any.metadata.clone(), spec: any.spec.clone() };
                let converted = convert::service(&wire);
                (converted.object.map(Object::Service), converted.problems)
            }
            "EndpointSlice" => {
                let wire = wire::EndpointSlice {
                    metadata: any.metadata.clone(),
                    address_type: any.address_type.clone(),
                    ports: any.ports.clone(),
                    endpoints: any.endpoints.clone(),
                };
                let converted = convert::slice(&wire);
                (converted.object.map(Object::Slice), converted.problems)
            }
            "Node" => {
                if name.as_ref().is_some_and(|(_, name)| *name != self.node_name) {
                    return None;
                }
                let metadata = any.metadata.clone();
                let wire = wire::Node { metadata, spec: any.spec.clone(), status: any.status.clone() };
                let converted = convert::node(&wire);
                (converted.object.map(Object::Node), converted.problems)
            }
            _ => return None,
        };
        let located = problems.into_iter().map(|problem| Problem { file: Some(file.clone()), ..problem });
        let problems: Vec<_> = located.collect();
        let Some((namespace, name)) = name else {
            self.broken.entry(file.clone()).or_default().extend(problems);
            return None;
        };
        let key = match any.kind.str()? {
            "Service" => Key::Service(ServiceName { namespace, name }),
            "Node" => Key::Node(name),
            _ => Key::Slice(SliceName { namespace, name }),
        };
        Some((key, Copy { object, problems }))
    }

    /// Events for what changed since the last call: objects that come or change, then those that go.
    pub(super) fn drain(&mut self, events: &mut Vec<ModelEvent>) {
        let mut gone = Vec::new();
        for key in std::mem::take(&mut self.changed) {
            let winner = self.copies.get(&key).and_then(|copies| copies.values().next());
            match winner.and_then(|copy| copy.object.clone()) {
                Some(object) if self.delivered.get(&key) == Some(&object) => {}
                Some(object) => {
                    self.delivered.insert(key, object.clone());
                    events.push(applied(object));
                }
                None if self.delivered.remove(&key).is_some() => gone.extend(deleted(key)),
                None => {}
            }
        }
        events.append(&mut gone);
    }

    /// Everything that is wrong now.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        let broken = self.broken.values().flatten().cloned();
        let served = self.copies.values().flat_map(|copies| copies.values().take(1));
        broken
            .chain(served.flat_map(|copy| copy.problems.clone()))
            .chain(self.copies.iter().flat_map(outvoted))
    }
}

/// Copies of an object in other files than the first.
fn outvoted((key, copies): (&Key, &BTreeMap<Arc<str>, Copy>)) -> Vec<Problem> {
    let Some(first) = copies.keys().next() else { return Vec::new() };
    let problem = |file: &Arc<str>| Problem {
        file: Some(file.clone()),
        object: key.to_string(),
        field: String::new(),
        message: format!("stands in {first} too, which comes first and counts"),
        remedy: "remove one".into(),
    };
    copies.keys().skip(1).map(problem).collect()
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Key::Node(name) => write!(f, "Node {name}"),
            Key::Service(name) => write!(f, "Service {name}"),
            Key::Slice(name) => write!(f, "EndpointSlice {}/{}", name.namespace, name.name),
        }
    }
}

fn applied(object: Object) -> ModelEvent {
    match object {
        Object::Node(node) => ModelEvent::NodeApplied(node),
        Object::Service(service) => ModelEvent::ServiceApplied(service),
        Object::Slice(slice) => ModelEvent::SliceApplied(slice),
    }
}

/// A Node that is gone changes nothing, as in kube-proxy (`NodeManager.OnNodeDelete`).
fn deleted(key: Key) -> Option<ModelEvent> {
    match key {
        Key::Node(_) => None,
        Key::Service(name) => Some(ModelEvent::ServiceDeleted(name)),
        Key::Slice(name) => Some(ModelEvent::SliceDeleted(name)),
    }
}
