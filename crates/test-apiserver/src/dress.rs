//! Fields that objects have in a real cluster besides those that their authors write: defaults, and those of Helm and the
//! controllers. A proxy reads none of them, but all are sent.

use serde_json::{Value, json};

use crate::{object::text, resource::Resource};

const TIME: &str = "2026-01-01T00:00:00Z";
const ZONES: usize = 3;

/// Adds what is missing to a Service or an EndpointSlice; other objects stay as they are.
pub(crate) fn dress(object: &mut Value) {
    let defaults = match Resource::of(object) {
        Some(Resource::Services) => service(object),
        Some(Resource::EndpointSlices) => {
            dress_endpoints(object);
            slice(object)
        }
        _ => return,
    };
    add_missing(object, defaults);
}

/// Adds the fields of `more` that `object` lacks.
fn add_missing(object: &mut Value, more: Value) {
    let (Some(fields), Value::Object(more)) = (object.as_object_mut(), more) else { return };
    for (name, value) in more {
        match fields.get_mut(&name) {
            Some(found) => add_missing(found, value),
            None => drop(fields.insert(name, value)),
        }
    }
}

fn service(object: &Value) -> Value {
    let (name, namespace) =
        (text(object, "name").unwrap_or_default(), text(object, "namespace").unwrap_or_default());
    json!({
        "metadata": {
            "labels": {"app": name, "app.kubernetes.io/managed-by": "Helm", "app.kubernetes.io/name": name},
            "annotations": {"meta.helm.sh/release-name": name, "meta.helm.sh/release-namespace": namespace},
            "managedFields": [managed("helm", json!({
                "f:metadata": {
                    "f:annotations": {".": {}, "f:meta.helm.sh/release-name": {}, "f:meta.helm.sh/release-namespace": {}},
                    "f:labels": {".": {}, "f:app": {}, "f:app.kubernetes.io/managed-by": {}, "f:app.kubernetes.io/name": {}},
                },
                "f:spec": {
                    "f:internalTrafficPolicy": {},
                    "f:ports": {".": {}, "k:{\"port\":80,\"protocol\":\"TCP\"}": {
                        ".": {}, "f:name": {}, "f:port": {}, "f:protocol": {}, "f:targetPort": {},
                    }},
                    "f:selector": {}, "f:sessionAffinity": {}, "f:type": {},
                },
            }), "v1")],
        },
        "spec": {
            "ipFamilyPolicy": "SingleStack",
            "internalTrafficPolicy": "Cluster",
            "sessionAffinity": "None",
            "selector": {"app": name},
        },
        "status": {"loadBalancer": {}},
    })
}

fn slice(object: &Value) -> Value {
    let of_label = object.pointer("/metadata/labels/kubernetes.io~1service-name").and_then(Value::as_str);
    let service = of_label.unwrap_or_default();
    let uid = uid(1, service.bytes().fold(7, |sum, byte| (sum * 31 + usize::from(byte)) % 0xffff_ffff));
    json!({
        "metadata": {
            "generateName": format!("{service}-"),
            "generation": 1,
            "labels": {
                "app": service,
                "app.kubernetes.io/instance": service,
                "app.kubernetes.io/managed-by": "Helm",
                "app.kubernetes.io/name": service,
                "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            },
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": TIME},
            "ownerReferences": [{
                "apiVersion": "v1", "blockOwnerDeletion": true, "controller": true, "kind": "Service",
                "name": service, "uid": uid,
            }],
            "managedFields": [managed("kube-controller-manager", json!({
                "f:addressType": {},
                "f:endpoints": {},
                "f:metadata": {
                    "f:annotations": {".": {}, "f:endpoints.kubernetes.io/last-change-trigger-time": {}},
                    "f:generateName": {},
                    "f:labels": {
                        ".": {}, "f:app": {}, "f:app.kubernetes.io/instance": {},
                        "f:app.kubernetes.io/managed-by": {}, "f:app.kubernetes.io/name": {},
                        "f:endpointslice.kubernetes.io/managed-by": {}, "f:kubernetes.io/service-name": {},
                    },
                    "f:ownerReferences": {".": {}, format!("k:{{\"uid\":\"{uid}\"}}"): {}},
                },
                "f:ports": {},
            }), "discovery.k8s.io/v1")],
        },
    })
}

fn dress_endpoints(slice: &mut Value) {
    let endpoints = slice.get_mut("endpoints").and_then(Value::as_array_mut);
    for (number, endpoint) in endpoints.into_iter().flatten().enumerate() {
        add_missing(endpoint, json!({"zone": format!("region-one-{}", number % ZONES)}));
    }
}

/// A UID of some kind of objects.
pub(crate) fn uid(kind: usize, number: usize) -> String {
    format!("{kind:08x}-0000-4000-8000-{number:012x}")
}

fn managed(manager: &str, fields: Value, api_version: &str) -> Value {
    json!({
        "manager": manager,
        "operation": "Update",
        "apiVersion": api_version,
        "time": TIME,
        "fieldsType": "FieldsV1",
        "fieldsV1": fields,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;
    use crate::{proto, sample};

    #[test]
    fn what_an_author_writes_stays_and_a_second_time_adds_nothing() {
        for mut object in [sample::service("shop", "cart"), sample::endpoint_slice("shop", "cart-1", "cart")]
        {
            let before = object.clone();
            dress(&mut object);
            assert!(object.to_string().len() > 3 * before.to_string().len(), "{object}");
            for (field, value) in before["spec"].as_object().unwrap_or(&Map::new()) {
                assert_eq!(object["spec"][field], *value);
            }
            assert_eq!(object["metadata"]["name"], before["metadata"]["name"]);
            let once = object.clone();
            dress(&mut object);
            assert_eq!(object, once);
            assert!(proto::message(Resource::of(&object).unwrap(), object).is_some());
        }
        let mut node = sample::node("n1");
        dress(&mut node);
        assert_eq!(node, sample::node("n1"));
    }
}
