//! Every object is understood by the API of Kubernetes, and completely.

use k8s_openapi::api::{
    apps::v1::DaemonSet,
    core::v1::{ConfigMap, ServiceAccount},
    rbac::v1::ClusterRoleBinding,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use crate::yaml;

#[test]
fn every_rendered_object_has_known_fields_alone() {
    for (file, objects) in yaml::files("manifests/rendered") {
        for object in &objects {
            assert_eq!(unknown_fields(object), [""; 0], "{file}");
        }
    }
}

#[test]
fn a_misspelt_field_and_a_wrong_type_are_found() {
    let object = |spec: Value| json!({ "apiVersion": "apps/v1", "kind": "DaemonSet", "spec": spec });
    let template = json!({ "spec": { "containers": [{ "name": "a", "livenesProbe": {} }] } });
    let misspelt = object(json!({ "selector": {}, "template": template }));
    assert_eq!(unknown_fields(&misspelt), ["/spec/template/spec/containers/0/livenesProbe"]);
    let template = json!({ "spec": { "containers": [], "hostNetwork": "yes" } });
    let wrong = unknown_fields(&object(json!({ "selector": {}, "template": template })));
    assert!(wrong.len() == 1 && wrong[0].contains("expected a boolean"), "{wrong:?}");
}

#[test]
fn the_configuration_of_our_own_config_map_names_its_kinds() {
    for (file, objects) in yaml::files("manifests/rendered") {
        for object in objects.iter().filter(|object| yaml::text(object, "/kind") == "ConfigMap") {
            let documents = yaml::documents(yaml::text(object, "/data/config.yaml"));
            let kinds: Vec<_> = documents
                .iter()
                .map(|document| (yaml::text(document, "/apiVersion"), yaml::text(document, "/kind")))
                .collect();
            let expect = [
                ("kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration"),
                ("kube-ipvs.io/v1alpha1", "KubeIpvsConfiguration"),
            ];
            assert_eq!(kinds, expect, "{file}");
        }
    }
}

/// Lists the fields that the API does not have, or the reason why the object is none of it.
fn unknown_fields(object: &Value) -> Vec<String> {
    let kind = (yaml::text(object, "/apiVersion"), yaml::text(object, "/kind"));
    match kind {
        ("apps/v1", "DaemonSet") => lost::<DaemonSet>(object),
        ("v1", "ConfigMap") => lost::<ConfigMap>(object),
        ("v1", "ServiceAccount") => lost::<ServiceAccount>(object),
        ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => lost::<ClusterRoleBinding>(object),
        _ => vec![format!("{kind:?} is not known here")],
    }
}

/// Reads an object and writes it again: what is missing then has no place in its type.
fn lost<T: DeserializeOwned + Serialize>(object: &Value) -> Vec<String> {
    let mut lost = Vec::new();
    match serde_json::from_value::<T>(object.clone()) {
        Ok(typed) => compare(object, &serde_json::to_value(typed).unwrap(), "", &mut lost),
        Err(error) => lost.push(error.to_string()),
    }
    lost
}

fn compare(read: &Value, written: &Value, path: &str, lost: &mut Vec<String>) {
    let children: Vec<(String, &Value)> = match read {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(i, item)| (i.to_string(), item)).collect(),
        _ if read == written => return,
        _ => return lost.push(path.to_owned()),
    };
    for (name, child) in children {
        let path = format!("{path}/{name}");
        let other = match written {
            Value::Array(items) => name.parse().ok().and_then(|index: usize| items.get(index)),
            _ => written.get(&name),
        };
        match other {
            Some(other) => compare(child, other, &path, lost),
            None => lost.push(path),
        }
    }
}
