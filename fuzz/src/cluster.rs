//! Input from API servers and operators. Accepted objects continue into the model and the planner.

use kube_source::fuzzing;
use planner::{Context, NodeFacts, Ownership, PlannerConfig, desire_service};
use service_model::{ModelEvent, ServiceModel};

/// Answer to a watch in JSON, after one byte for the kind of objects and one for the place where the answer is cut in
/// two.
pub(crate) fn watch(input: &[u8]) -> bool {
    let [kind, cut, body @ ..] = input else { return false };
    fuzzing::watch(digit(*kind), usize::from(*cut), body).is_some_and(plan)
}

/// Answer to a list in JSON, after one byte for the kind of objects.
pub(crate) fn list(input: &[u8]) -> bool {
    let [kind, body @ ..] = input else { return false };
    fuzzing::list(digit(*kind), body).is_some_and(plan)
}

/// The same answers in protobuf.
pub(crate) fn protobuf_watch(input: &[u8]) -> bool {
    let [kind, cut, body @ ..] = input else { return false };
    fuzzing::protobuf_watch(digit(*kind), usize::from(*cut), body).is_some_and(plan)
}

pub(crate) fn protobuf_list(input: &[u8]) -> bool {
    let [kind, body @ ..] = input else { return false };
    fuzzing::protobuf_list(digit(*kind), body).is_some_and(plan)
}

/// A file of manifests, read as YAML and as JSON.
pub(crate) fn manifest(input: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(input) else { return false };
    let yaml = plan(fuzzing::manifest("a.yaml", text));
    let json = plan(fuzzing::manifest("a.json", text));
    yaml | json
}

/// A kubeconfig.
pub(crate) fn kubeconfig(input: &[u8]) -> bool {
    std::str::from_utf8(input).is_ok_and(fuzzing::kubeconfig)
}

/// Number of a byte; `'0'` is 0, so that seeds are readable.
fn digit(byte: u8) -> usize {
    usize::from(byte.wrapping_sub(b'0'))
}

/// Plans the events, which may come in any order; returns whether there were any.
fn plan(events: Vec<ModelEvent>) -> bool {
    let accepted = !events.is_empty();
    let mut model = ServiceModel::default();
    let (ownership, facts, config) = (Ownership::default(), NodeFacts::default(), PlannerConfig::default());
    let context = Context { config: &config, ownership: &ownership, facts: &facts };
    for event in events {
        model.apply(event);
        for name in model.take_dirty() {
            if let Some(service) = model.service(&name) {
                drop(desire_service(service, &model, context));
            }
        }
    }
    accepted
}
