//! Stores of objects that kube-ipvs follows.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    cluster::{Id, Step},
    random::Random,
};
use crate::manifest::{Manifests, NODE_FILE};

/// A store of objects that kube-ipvs follows.
pub trait Objects {
    /// Makes one write.
    fn write(&mut self, step: &Step);

    /// Lists the present objects, which are the truth: the store may have lost or refused something.
    fn list(&mut self) -> Vec<Value>;

    /// Breaks something until [`Objects::heal`]; `None` where nothing can break.
    fn disturb(&mut self, _random: &mut Random) -> Option<Disturbance> {
        None
    }

    /// Ends everything that [`Objects::disturb`] did.
    ///
    /// Returns true if a client may hear nothing for minutes all the same, because it waits for what comes
    /// after a version that the server has lost.
    fn heal(&mut self) -> bool {
        false
    }
}

/// A fault that was injected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disturbance {
    /// Description for people.
    pub what: String,
    /// True if writes were lost, so that [`Objects::list`] differs from what was written.
    pub lost: bool,
}

/// A directory of manifests: one JSON file for each object, replaced in one step.
#[derive(Debug)]
pub struct Directory {
    manifests: Manifests,
    objects: BTreeMap<Id, Value>,
}

impl Directory {
    /// Takes a directory that, besides the Node, must not hold anything that is not written through this
    /// value.
    pub fn new(manifests: Manifests) -> Directory {
        Directory { manifests, objects: BTreeMap::new() }
    }
}

impl Objects for Directory {
    fn write(&mut self, step: &Step) {
        let file = |id: &Id| match id.kind.as_str() {
            "Node" => NODE_FILE.to_owned(),
            kind => format!("{}-{}.json", kind.to_lowercase(), id.name),
        };
        match step {
            Step::Apply(object) => {
                let id = Id::of(object);
                self.manifests.write(&file(&id), &object.to_string());
                self.objects.insert(id, object.clone());
            }
            Step::Delete(id) => {
                if self.objects.remove(id).is_some() {
                    self.manifests.remove(&file(id));
                }
            }
        }
    }

    fn list(&mut self) -> Vec<Value> {
        self.objects.values().cloned().collect()
    }
}
