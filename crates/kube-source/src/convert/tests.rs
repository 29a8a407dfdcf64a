mod nodes;
mod services;
mod slices;

use std::fmt;

use proptest::{collection::vec, prelude::*, sample::select};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::{Problem, wire::AnyObject};

/// Parses an object in YAML, and again by way of JSON: both must be equal.
fn parse<T: DeserializeOwned + PartialEq + fmt::Debug>(yaml: &str) -> T {
    let object: T = serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{yaml}\n{error}"));
    let value: serde_json::Value = serde_saphyr::from_str(yaml).unwrap();
    assert_eq!(serde_json::from_value::<T>(value).unwrap(), object, "{yaml}");
    object
}

/// Checks that each problem is one of the object, at the field before the `|`, with a message that contains
/// the text behind it.
fn check_problems(case: &str, object: &str, problems: &[Problem], expect: &[&str]) {
    let text: Vec<_> = problems.iter().map(ToString::to_string).collect();
    assert_eq!(problems.len(), expect.len(), "{case}: {text:#?}");
    for (problem, expect) in problems.iter().zip(expect) {
        let (field, message) = expect.split_once('|').unwrap();
        assert_eq!((&*problem.object, &*problem.field), (object, field), "{case}: {problem}");
        assert!(problem.message.contains(message), "{case}: {problem}");
        assert!(!problem.remedy.is_empty(), "{case}: {problem}");
    }
}

/// Names that the API uses, so that random objects resemble real ones.
const FIELDS: [&str; 25] = [
    "metadata",
    "name",
    "labels",
    "kubernetes.io/service-name",
    "annotations",
    "kube-ipvs.io/scheduler",
    "kube-ipvs.io/scheduler-flags",
    "spec",
    "clusterIP",
    "clusterIPs",
    "ipFamilies",
    "ports",
    "port",
    "protocol",
    "addressType",
    "endpoints",
    "addresses",
    "conditions",
    "ready",
    "status",
    "externalIPs",
    "loadBalancer",
    "ingress",
    "ip",
    "ipMode",
];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        select(vec!["web", "IPv4", "TCP", "10.0.0.1", "None", "", "::", "1/2", "2024-02-30T00:00:00Z"])
            .prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 60, 6, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((select(&FIELDS[..]), inner), 0..6).prop_map(|fields| fields.into_iter().collect()),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// An object of the API may contain anything: it is read without a failure.
    #[test]
    fn reading_and_converting_is_total(metadata in any_json(), spec in any_json(), rest in any_json()) {
        let text = json!({
            "metadata": metadata, "spec": spec, "status": rest, "addressType": "IPv4", "endpoints": rest,
            "ports": rest, "items": spec,
        });
        let object: AnyObject = serde_json::from_value(text).unwrap();
        super::service(&object.clone().into_service());
        super::slice(&object.clone().into_slice());
        super::node(&object.into_node());
    }
}
