//! Objects of all files together: the file that determines each object, and the events that were delivered.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use service_model::ModelEvent;

use super::objects::{Key, Loaded, ObjectCopy};
use crate::Problem;

/// Objects of all files.
#[derive(Default)]
pub(super) struct Store {
    /// All copies of an object, by file; the first file by name determines the object.
    copies: BTreeMap<Key, BTreeMap<Arc<str>, ObjectCopy>>,
    /// Keys of the objects in a file, for its replacement.
    keys: HashMap<Arc<str>, BTreeSet<Key>>,
    /// Problems of the text of each file.
    texts: BTreeMap<Arc<str>, Vec<Problem>>,
    /// Objects as the receiver knows them.
    delivered: HashMap<Key, Arc<ModelEvent>>,
    /// Keys of the objects whose copies changed since the last delivery.
    changed: BTreeSet<Key>,
}

impl Store {
    /// Removes a file that is gone.
    pub(super) fn remove(&mut self, file: &Arc<str>) {
        self.replace(file, Loaded::new());
        self.texts.remove(file);
    }

    /// Replaces the content of a file. If not all of it could be read, objects that it had before stay.
    pub(super) fn replace(&mut self, file: &Arc<str>, loaded: Loaded) {
        let mut keys = self.keys.remove(file).unwrap_or_default();
        if loaded.complete {
            for key in &keys {
                self.drop_copy(key, file);
            }
            self.changed.append(&mut keys);
        }
        let mut problems = loaded.problems;
        let mut seen = BTreeSet::new();
        for (key, copy) in loaded.copies {
            if !seen.insert(key.clone()) {
                problems.push(claim(file, &key, "stands twice in this file; the last one is used".into()));
            }
            self.changed.insert(key.clone());
            self.copies.entry(key).or_default().insert(Arc::clone(file), copy);
        }
        keys.append(&mut seen);
        if !keys.is_empty() {
            self.keys.insert(Arc::clone(file), keys);
        }
        self.texts.insert(Arc::clone(file), problems);
    }

    fn drop_copy(&mut self, key: &Key, file: &Arc<str>) {
        let Some(copies) = self.copies.get_mut(key) else { return };
        copies.remove(file);
        if copies.is_empty() {
            self.copies.remove(key);
        }
    }

    /// Events for all changes since the last call: first objects that appear or change, then those that
    /// disappear.
    pub(super) fn deliver(&mut self) -> Vec<ModelEvent> {
        let (mut events, mut gone) = (Vec::new(), Vec::new());
        for key in std::mem::take(&mut self.changed) {
            // The copy in the first file by name determines the object. Without an event it is not served.
            let winner = self.copies.get(&key).and_then(|copies| copies.values().next());
            match winner.and_then(|copy| copy.event.clone()) {
                Some(event) if self.delivered.get(&key) == Some(&event) => {}
                Some(event) => {
                    events.push((*event).clone());
                    self.delivered.insert(key, event);
                }
                None if self.delivered.remove(&key).is_some() => gone.push(deletion(key)),
                None => {}
            }
        }
        events.append(&mut gone);
        events
    }

    /// All current problems: of texts, of the objects that are used, and of copies that are not.
    pub(super) fn problems(&self) -> impl Iterator<Item = Problem> {
        let texts = self.texts.values().flatten().cloned();
        let winners = self.copies.values().filter_map(|copies| copies.values().next());
        let objects = winners.flat_map(|copy| copy.problems.iter().cloned());
        texts.chain(objects).chain(self.copies.iter().flat_map(|(key, copies)| unused_copies(key, copies)))
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        let texts = self.texts.values().all(Vec::is_empty);
        self.copies.is_empty() && self.keys.is_empty() && self.delivered.is_empty() && texts
    }
}

/// Problems for the copies of an object in other files than the first.
fn unused_copies(key: &Key, copies: &BTreeMap<Arc<str>, ObjectCopy>) -> impl Iterator<Item = Problem> {
    let first = copies.keys().next().cloned().unwrap_or_default();
    let message = format!("also stands in {first}, which comes first by name and is used");
    copies.keys().skip(1).map(move |file| claim(file, key, message.clone()))
}

fn claim(file: &Arc<str>, key: &Key, message: String) -> Problem {
    let (file, object) = (Some(Arc::clone(file)), key.to_string());
    let (field, remedy) = (String::new(), "remove one".to_owned());
    Problem { file, object, service: None, field, message, remedy }
}

/// Event for the disappearance of an object.
fn deletion(key: Key) -> ModelEvent {
    match key {
        Key::Node => ModelEvent::NodeDeleted,
        Key::Service(name) => ModelEvent::ServiceDeleted(name),
        Key::Slice(name) => ModelEvent::SliceDeleted(name),
    }
}
