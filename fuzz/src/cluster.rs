//! What an API server or an operator says. What was understood goes on into the model and the plan.

use kube_source::fuzzing;
use planner::{Context, NodeFacts, Ownership, PlannerConfig, desire_service};
use service_model::{ModelEvent, ServiceModel};

/// A watch: which kind of objects, where the answer is cut in two, and the answer.
pub(crate) fn watch(input: &[u8]) -> bool {
    let [kind, cut, body @ ..] = input else { return false };
    fuzzing::watch(digit(*kind), usize::from(*cut), body).is_some_and(plan)
}

/// A list: which kind of objects, and the answer.
pub(crate) fn list(input: &[u8]) -> bool {
    let [kind, body @ ..] = input else { return false };
    let body = std::str::from_utf8(body);
    body.ok().and_then(|body| fuzzing::list(digit(*kind), body)).is_some_and(plan)
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

/// `'0'` is 0, so that seeds can be read.
fn digit(byte: u8) -> usize {
    usize::from(byte.wrapping_sub(b'0'))
}

/// Events lead to intents, in whatever order they come. Whether there were any.
fn plan(events: Vec<ModelEvent>) -> bool {
    let understood = !events.is_empty();
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
    understood
}
