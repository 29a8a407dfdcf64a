//! Entrance that reads any text as a file of manifests.

use std::sync::Arc;

use service_model::ModelEvent;

use super::objects::load;

/// Events for the objects of a file; its name tells whether it is YAML or JSON.
pub fn manifest(name: &str, text: &str) -> Vec<ModelEvent> {
    let loaded = load(&[(Arc::from(name), text.to_owned())], "demo-node");
    for file in &loaded {
        // A file of which nothing can be read must say so.
        assert!(file.complete || !file.problems.is_empty(), "{file:?}");
        // A problem that cannot be printed is a finding, too.
        for problem in file.problems.iter().chain(file.copies.iter().flat_map(|(_, copy)| &copy.problems)) {
            drop(problem.to_string());
        }
    }
    let copies = loaded.into_iter().flat_map(|file| file.copies);
    copies.filter_map(|(_, copy)| copy.event.map(Arc::unwrap_or_clone)).collect()
}
