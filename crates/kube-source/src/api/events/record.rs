//! Events as the API server takes them (`ValidateEventCreate` in pkg/apis/core/validation/events.go).

use jiff::Timestamp;
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};

use super::{Notice, Regarding, Scope};

/// `reportingController`
const CONTROLLER: &str = "kube-ipvs";
/// Namespace of events about objects of the cluster.
const CLUSTER_NAMESPACE: &str = "default";
/// Longest note, in bytes.
const LONGEST_NOTE: usize = 1024;
/// Longest `reportingInstance`, in bytes.
const LONGEST_INSTANCE: usize = 128;
/// Longest name of an object that becomes part of the name of its event, which may have 253 bytes.
const LONGEST_PREFIX: usize = 253 - 17;
/// Mark of a note that was cut off.
const ELLIPSIS: &str = "...";

/// The event that a node writes.
pub(super) fn event(notice: &Notice, at: Timestamp, node: &str) -> Event {
    let Notice { regarding, reason, note } = notice;
    let reference = |kind: &str, name: &str, uid: &str| ObjectReference {
        api_version: Some("v1".to_owned()),
        kind: Some(kind.to_owned()),
        name: Some(name.to_owned()),
        uid: Some(uid.to_owned()),
        ..ObjectReference::default()
    };
    let (regarding, namespace) = match regarding {
        // The name stands for the UID, as in events of kube-proxy and kubelet.
        Regarding::Node => (reference("Node", node, node), CLUSTER_NAMESPACE),
        Regarding::Service(service) => {
            let namespace = &*service.name.namespace;
            let reference = reference("Service", &service.name.name, &service.uid);
            (ObjectReference { namespace: Some(namespace.to_owned()), ..reference }, namespace)
        }
    };
    Event {
        metadata: ObjectMeta {
            name: Some(name(notice, node)),
            namespace: Some(namespace.to_owned()),
            ..ObjectMeta::default()
        },
        event_time: Some(MicroTime(at)),
        action: Some(reason.action().to_owned()),
        reason: Some(reason.as_str().to_owned()),
        note: Some(cut_note(note)),
        type_: Some(reason.kind().to_owned()),
        regarding: Some(regarding),
        reporting_controller: Some(CONTROLLER.to_owned()),
        reporting_instance: Some(cut(node, LONGEST_INSTANCE).to_owned()),
        ..Event::default()
    }
}

/// Name of the event: the object's, and a hash of all that makes the event another one. It is the same on all nodes
/// unless the reason is one of this node.
pub(super) fn name(notice: &Notice, node: &str) -> String {
    let (object, uid) = match &notice.regarding {
        Regarding::Node => (node, node),
        Regarding::Service(service) => (&*service.name.name, &*service.uid),
    };
    let place = match notice.reason.scope() {
        Scope::Cluster => "",
        Scope::Node => node,
    };
    let hash = hash([uid, notice.reason.as_str(), &notice.note, place]);
    let prefix = cut(object, LONGEST_PREFIX).trim_end_matches(['-', '.']);
    format!("{prefix}.{hash:016x}")
}

/// FNV-1a: the same on every machine and in every version.
fn hash(parts: [&str; 4]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

fn cut_note(note: &str) -> String {
    if note.len() <= LONGEST_NOTE {
        return note.to_owned();
    }
    format!("{}{ELLIPSIS}", cut(note, LONGEST_NOTE - ELLIPSIS.len()))
}

/// The beginning of a text, no longer than a number of bytes.
fn cut(text: &str, bytes: usize) -> &str {
    &text[..text.floor_char_boundary(bytes)]
}

#[cfg(test)]
mod tests {
    use lb_types::ServiceName;

    use super::*;
    use crate::api::events::{Reason, ServiceRef};

    fn notice(uid: &str, reason: Reason, note: &str) -> Notice {
        let service = ServiceRef { name: ServiceName::new("shop", "web"), uid: uid.into() };
        Notice { regarding: Regarding::Service(service), reason, note: note.to_owned() }
    }

    #[test]
    fn the_whole_event() {
        let at: Timestamp = "2026-02-03T04:05:06.789012Z".parse().unwrap();
        let event = event(&notice("u1", Reason::ClaimedByOther, "10.96.0.1:80/TCP"), at, "n1");
        let name = event.metadata.name.clone().unwrap();
        assert_eq!(
            serde_json::to_value(&event).unwrap(),
            serde_json::json!({
                "apiVersion": "events.k8s.io/v1",
                "kind": "Event",
                "metadata": {"name": name, "namespace": "shop"},
                "eventTime": "2026-02-03T04:05:06.789012Z",
                "action": "Program",
                "reason": "ClaimedByOther",
                "note": "10.96.0.1:80/TCP",
                "type": "Warning",
                "regarding": {
                    "apiVersion": "v1", "kind": "Service", "namespace": "shop", "name": "web", "uid": "u1",
                },
                "reportingController": "kube-ipvs",
                "reportingInstance": "n1",
            })
        );
        assert!(name.starts_with("web.") && name.len() == "web.".len() + 16, "{name}");
    }

    #[test]
    fn an_event_of_the_node_is_in_the_namespace_of_the_cluster() {
        let notice = Notice { regarding: Regarding::Node, reason: Reason::Starting, note: String::new() };
        let event = event(&notice, Timestamp::UNIX_EPOCH, "n1");
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        let regarding = event.regarding.unwrap();
        assert_eq!((regarding.uid.as_deref(), regarding.namespace), (Some("n1"), None));
        assert_eq!(event.type_.as_deref(), Some("Normal"));
    }

    #[test]
    fn names_are_the_same_for_the_same_and_on_all_nodes_where_all_see_it() {
        let known = |reason, node| name(&notice("u1", reason, "text"), node);
        // Whoever changes this makes every node of a cluster repeat its events during an upgrade.
        assert_eq!(known(Reason::ClaimedByOther, "n1"), "web.a329b159e8377746");
        for reason in Reason::ALL {
            assert_eq!(known(reason, "n1"), known(reason, "n1"));
            let of_node = reason.scope() == Scope::Node;
            assert_eq!(known(reason, "n1") != known(reason, "n2"), of_node, "{reason:?}");
        }
        let one = known(Reason::ClaimedByOther, "n1");
        for other in [
            notice("u2", Reason::ClaimedByOther, "text"),
            notice("u1", Reason::InvalidField, "text"),
            notice("u1", Reason::ClaimedByOther, "texts"),
        ] {
            assert_ne!(name(&other, "n1"), one, "{other:?}");
        }
    }

    #[test]
    fn what_is_too_long_is_cut_off() {
        let long = "ä".repeat(1000);
        let event =
            event(&notice("u1", Reason::InvalidField, &long), Timestamp::UNIX_EPOCH, &"n".repeat(253));
        let note = event.note.unwrap();
        assert!(note.len() <= 1024 && note.len() > 1020 && note.ends_with("ä..."), "{}", note.len());
        assert_eq!(event.reporting_instance.map(|instance| instance.len()), Some(128));
        let node = format!("{}-{}", "n".repeat(LONGEST_PREFIX - 1), "n".repeat(253 - LONGEST_PREFIX));
        let notice = Notice { regarding: Regarding::Node, reason: Reason::Starting, note: String::new() };
        let name = name(&notice, &node);
        assert!(name.len() <= 253 && name.contains("n.") && !name.contains("-."), "{name}");
    }
}
