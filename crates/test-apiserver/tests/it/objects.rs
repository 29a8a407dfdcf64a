//! Reads and writes of single objects, and objects for all tests.

use serde_json::{Value, json};
use test_apiserver::{Resource, StoreError, TestApiServer, sample};

use crate::client::{Answer, fetch, get, request};

pub use test_apiserver::sample::node;

/// A Service in namespace `shop`.
pub fn service(name: &str, labels: Value) -> Value {
    let mut service = sample::service("shop", name);
    service["metadata"]["labels"] = labels;
    service
}

fn send(server: &TestApiServer, method: &str, target: &str, body: &Value) -> (u16, Value) {
    let kind = if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let headers = format!("Content-Type: {kind}\r\n");
    request(server.address(), method, target, &headers, &body.to_string()).json()
}

const SERVICES: &str = "/api/v1/namespaces/shop/services";
const CART: &str = "/api/v1/namespaces/shop/services/cart";

#[test]
fn an_object_lives_and_dies() {
    let server = TestApiServer::builder().start().unwrap();
    let (status, created) =
        send(&server, "POST", SERVICES, &json!({"metadata": {"name": "cart"}, "spec": {"a": 1}}));
    assert_eq!(status, 201, "{created}");
    assert_eq!(created["metadata"]["namespace"], "shop");
    assert_eq!(created["metadata"]["resourceVersion"], "101");
    assert_eq!((&created["kind"], &created["apiVersion"]), (&json!("Service"), &json!("v1")));
    assert_eq!(fetch(server.address(), CART), (200, created.clone()));

    let mut replacement = created.clone();
    replacement["spec"] = json!({"a": 2});
    let (status, replaced) = send(&server, "PUT", CART, &replacement);
    assert_eq!((status, &replaced["metadata"]["resourceVersion"]), (200, &json!("102")));
    assert_eq!(replaced["metadata"]["uid"], created["metadata"]["uid"]);

    let patch = json!({"spec": {"a": null, "b": 3}, "metadata": {"labels": {"x": "y"}}});
    let (status, patched) = send(&server, "PATCH", CART, &patch);
    assert_eq!((status, &patched["spec"]), (200, &json!({"b": 3})));
    let (status, patched) =
        send(&server, "PATCH", &format!("{CART}/status"), &json!({"status": {"ok": true}}));
    assert_eq!((status, &patched["status"]["ok"]), (200, &json!(true)));

    let (status, gone) = send(&server, "DELETE", CART, &json!({}));
    assert_eq!((status, &gone["status"], &gone["details"]["name"]), (200, &json!("Success"), &json!("cart")));
    let (status, missing) = fetch(server.address(), CART);
    assert_eq!((status, &missing["reason"]), (404, &json!("NotFound")));
    assert_eq!(missing["message"], "services \"cart\" not found");
}

#[test]
fn writes_that_are_refused() {
    let server = TestApiServer::builder().start().unwrap();
    server.objects().apply(service("cart", json!({}))).unwrap();
    let check = |method: &str, target: &str, body: Value, status: u16, reason: &str| {
        let (found, answer) = send(&server, method, target, &body);
        assert_eq!((found, answer["reason"].as_str()), (status, Some(reason)), "{method} {target}: {answer}");
        assert_eq!((&answer["kind"], &answer["code"]), (&json!("Status"), &json!(status)));
    };
    let stale = json!({"metadata": {"name": "cart", "resourceVersion": "99"}});
    check("POST", SERVICES, json!({"metadata": {"name": "cart"}}), 409, "AlreadyExists");
    check("POST", SERVICES, json!({}), 400, "BadRequest");
    check("POST", "/api/v1/services", json!({"metadata": {"name": "x"}}), 405, "MethodNotAllowed");
    check("PUT", CART, stale.clone(), 409, "Conflict");
    check("PATCH", CART, stale, 409, "Conflict");
    check("PUT", CART, json!({"metadata": {"name": "other"}}), 400, "BadRequest");
    check("PUT", &CART.replace("cart", "x"), json!({}), 404, "NotFound");
    check("DELETE", &CART.replace("cart", "x"), json!({}), 404, "NotFound");
    check("GET", "/api/v1/pods", json!({}), 404, "NotFound");
    let patch =
        request(server.address(), "PATCH", CART, "Content-Type: application/json-patch+json\r\n", "[]");
    assert_eq!(patch.status, 415);
}

#[test]
fn events_are_accepted_and_kept() {
    let server = TestApiServer::builder().start().unwrap();
    let target = "/apis/events.k8s.io/v1/namespaces/default/events";
    let event = json!({
        "metadata": {"generateName": "kube-ipvs-"},
        "eventTime": "2026-01-02T03:04:05.000000Z",
        "type": "Warning",
        "reason": "Conflict",
        "action": "Bind",
        "reportingController": "kube-ipvs",
        "reportingInstance": "n1",
        "regarding": {"kind": "Service", "namespace": "default", "name": "web"},
        "note": "said why",
    });
    let (status, created) = send(&server, "POST", target, &event);
    assert_eq!(status, 201, "{created}");
    assert!(created["metadata"]["name"].as_str().unwrap().starts_with("kube-ipvs-"));
    assert_eq!(server.objects().list(Resource::Events)[0]["note"], "said why");

    let without = |field: &str| {
        let mut event = event.clone();
        event.as_object_mut().unwrap().remove(field);
        event
    };
    let with = |field: &str, value: Value| {
        let mut event = event.clone();
        event[field] = value;
        event
    };
    let check = |method: &str, target: &str, body: Value, message: &str| {
        let (status, answer) = send(&server, method, target, &body);
        let found = answer["message"].as_str().unwrap_or_default();
        assert!(status == 422 && found.contains(message), "{body}: {status} {found}");
    };
    check("POST", target, without("eventTime"), "eventTime: Required");
    check("POST", target, without("action"), "action: Required");
    check("POST", target, without("type"), "type: has invalid value");
    check("POST", target, with("note", "x".repeat(1025).into()), "note: can have at most");
    check("POST", target, with("deprecatedCount", 1.into()), "deprecatedCount: needs to be unset");
    check("POST", target, with("metadata", json!({"name": "a..b"})), "metadata.name");
    check("POST", &target.replace("default", "shop"), without("regarding"), "does not match");
    let one = format!("{target}/{}", created["metadata"]["name"].as_str().unwrap());
    check("PATCH", &one, json!({"note": "other"}), "note: field is immutable");
    check("PATCH", &one, json!({"series": {"count": 1}}), "series.count: should be at least 2");
    let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-02T03:04:06.000000Z"}});
    assert_eq!(send(&server, "PATCH", &one, &series).0, 200);
}

#[test]
fn the_owner_writes_directly() {
    let server = TestApiServer::builder().start().unwrap();
    let objects = server.objects();
    assert_eq!(objects.apply_all([service("a", json!({})), node("n")]), Ok(102));
    assert_eq!(objects.apply(service("a", json!({}))), Ok(101), "unchanged");
    assert_eq!(objects.get(Resource::Nodes, "", "n").unwrap()["metadata"]["resourceVersion"], "102");
    assert_eq!(objects.delete(Resource::Services, "shop", "a"), Ok(103));
    assert_eq!((objects.len(Resource::Services), objects.revision()), (0, 103));
    assert!(matches!(objects.apply(json!({"kind": "Pod"})), Err(StoreError::NotAnObject(_))));
}

#[test]
fn health_and_version() {
    let server = TestApiServer::builder().start().unwrap();
    let answer: Answer = get(server.address(), "/readyz");
    assert_eq!((answer.status, answer.body()), (200, b"ok".to_vec()));
    assert_eq!(fetch(server.address(), "/version").1["major"], "1");
}
