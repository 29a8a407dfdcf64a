//! Lists: selectors, pages, versions.

use serde_json::{Value, json};
use test_apiserver::{Resource, TestApiServer, Verb};

use crate::{
    client::fetch,
    objects::{node, service},
};

fn filled(count: usize) -> TestApiServer {
    let server = TestApiServer::builder().start().unwrap();
    let even = |n: usize| if n.is_multiple_of(2) { json!({"even": "yes"}) } else { json!({}) };
    let services = (0..count).map(|n| service(&format!("s{n:03}"), even(n)));
    server.objects().apply_all(services).unwrap();
    server
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().unwrap();
    items.iter().map(|item| item["metadata"]["name"].as_str().unwrap()).collect()
}

fn list(server: &TestApiServer, query: &str) -> Value {
    let (status, list) = fetch(server.address(), &format!("/api/v1/services?{query}"));
    assert_eq!(status, 200, "{list}");
    list
}

#[test]
fn a_list_is_one_of_its_kind() {
    let server = filled(2);
    server.objects().apply(node("n")).unwrap();
    let list = list(&server, "");
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ServiceList"), &json!("v1")));
    assert_eq!(list["metadata"], json!({"resourceVersion": "103"}));
    assert_eq!(names(&list), ["s000", "s001"]);
    let (_, slices) = fetch(server.address(), "/apis/discovery.k8s.io/v1/endpointslices");
    assert_eq!((&slices["kind"], &slices["items"]), (&json!("EndpointSliceList"), &json!([])));
}

#[test]
fn selectors_and_namespaces() {
    let server = filled(4);
    assert_eq!(names(&list(&server, "labelSelector=even%3Dyes")), ["s000", "s002"]);
    assert_eq!(names(&list(&server, "labelSelector=%21even")), ["s001", "s003"]);
    assert_eq!(names(&list(&server, "fieldSelector=metadata.name%3Ds003")), ["s003"]);
    let (_, other) = fetch(server.address(), "/api/v1/namespaces/other/services");
    assert_eq!(other["items"], json!([]));
    let (_, shop) = fetch(server.address(), "/api/v1/namespaces/shop/services");
    assert_eq!(names(&shop).len(), 4);
    let (status, error) = fetch(server.address(), "/api/v1/services?labelSelector=a+b+c");
    assert_eq!((status, &error["reason"]), (400, &json!("BadRequest")));
}

#[test]
fn pages_are_of_one_version() {
    let server = filled(7);
    let first = list(&server, "limit=3");
    assert_eq!((&first["metadata"]["remainingItemCount"], names(&first).len()), (&json!(4), 3));
    // Changes between the pages do not show.
    server.objects().delete(Resource::Services, "shop", "s004").unwrap();
    server.objects().apply(service("s0045", json!({}))).unwrap();
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    let second = list(&server, &format!("limit=3&continue={token}"));
    assert_eq!(names(&second), ["s003", "s004", "s005"]);
    assert_eq!(second, list(&server, &format!("limit=3&continue={token}")), "a token can be used again");
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = list(&server, &format!("limit=3&continue={token}"));
    assert_eq!((names(&third), third["metadata"].get("continue")), (vec!["s006"], None));
    assert_eq!(first["metadata"]["resourceVersion"], third["metadata"]["resourceVersion"]);
    assert_eq!(server.requests().count(Resource::Services, Verb::List), 4);
}

#[test]
fn a_page_expires_with_its_version() {
    let server = filled(7);
    let first = list(&server, "limit=3");
    server.objects().apply(service("x", json!({}))).unwrap();
    server.objects().compact();
    let token = first["metadata"]["continue"].as_str().unwrap();
    let (status, error) = fetch(server.address(), &format!("/api/v1/services?limit=3&continue={token}"));
    assert_eq!((status, &error["reason"]), (410, &json!("Expired")));
    assert_eq!(fetch(server.address(), "/api/v1/services?continue=junk").0, 400);
}

#[test]
fn versions() {
    let server = filled(3);
    server.objects().delete(Resource::Services, "shop", "s000").unwrap();
    assert_eq!(names(&list(&server, "resourceVersion=0&limit=1")).len(), 2, "the cache knows no pages");
    assert_eq!(names(&list(&server, "resourceVersion=102")).len(), 2);
    assert_eq!(names(&list(&server, "resourceVersion=102&resourceVersionMatch=Exact")), ["s000", "s001"]);
    let (status, error) = fetch(server.address(), "/api/v1/services?resourceVersion=1000");
    assert_eq!((status, &error["reason"]), (504, &json!("Timeout")));
    assert_eq!(error["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
}

#[test]
fn a_large_list_arrives_whole() {
    let server = filled(3000);
    let list = list(&server, "");
    assert_eq!(names(&list).len(), 3000);
}
