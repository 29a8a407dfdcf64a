//! Watches without faults.

use std::time::Duration;

use serde_json::json;
use test_apiserver::{GoneForm, Resource, StreamingLists, TestApiServer, Verb};

use crate::{
    client::{Next, brief, fetch, get, wait_until},
    objects::{node, service},
};

pub const WATCH: &str = "/api/v1/services?watch=true";
const STREAM: &str = "/api/v1/services?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                      &resourceVersion=0&allowWatchBookmarks=true";

pub fn started(names: &[&str]) -> TestApiServer {
    let server = TestApiServer::builder().start().unwrap();
    server.objects().apply_all(names.iter().map(|name| service(name, json!({})))).unwrap();
    server
}

fn expect(kind: &str, name: &str, revision: u64) -> (String, String, u64) {
    (kind.to_owned(), name.to_owned(), revision)
}

#[test]
fn events_follow_a_version() {
    let server = started(&["a", "b"]);
    let mut watch = get(server.address(), &format!("{WATCH}&resourceVersion=101"));
    assert_eq!((watch.status, watch.header("content-type")), (200, Some("application/json")));
    assert_eq!(watch.brief(), expect("ADDED", "b", 102));
    server.objects().apply(node("n")).unwrap();
    server.objects().apply(service("a", json!({"x": "y"}))).unwrap();
    assert_eq!(watch.brief(), expect("MODIFIED", "a", 104));
    server.objects().delete(Resource::Services, "shop", "a").unwrap();
    let deleted = watch.event();
    assert_eq!(brief(&deleted), expect("DELETED", "a", 105));
    assert_eq!(deleted["object"]["metadata"]["labels"], json!({"x": "y"}), "the last state");
    assert_eq!(watch.next_within(Duration::from_millis(100)), Next::Silence);
    assert_eq!(server.requests().count(Resource::Services, Verb::Watch), 1);
}

#[test]
fn without_a_version_everything_is_added_first() {
    let server = started(&["a", "b"]);
    for version in ["", "&resourceVersion=0"] {
        let mut watch = get(server.address(), &format!("{WATCH}{version}"));
        assert_eq!(watch.brief(), expect("ADDED", "a", 101));
        assert_eq!(watch.brief(), expect("ADDED", "b", 102));
        assert_eq!(watch.next_within(Duration::from_millis(50)), Next::Silence);
    }
}

#[test]
fn a_streaming_list_says_where_it_ends() {
    let server = started(&["a", "b"]);
    let mut watch = get(server.address(), STREAM);
    assert_eq!(watch.brief(), expect("ADDED", "a", 101));
    assert_eq!(watch.brief(), expect("ADDED", "b", 102));
    let bookmark = watch.event();
    assert_eq!(
        bookmark,
        json!({"type": "BOOKMARK", "object": {
            "kind": "Service",
            "apiVersion": "v1",
            "metadata": {
                "resourceVersion": "102",
                "creationTimestamp": null,
                "annotations": {"k8s.io/initial-events-end": "true"},
            },
            "spec": {},
            "status": {"loadBalancer": {}},
        }})
    );
    server.objects().apply(service("c", json!({}))).unwrap();
    assert_eq!(watch.brief(), expect("ADDED", "c", 103));
}

#[test]
fn servers_without_streaming_lists() {
    let server = started(&["a"]);
    server.set_streaming_lists(StreamingLists::Refused);
    let (status, error) = fetch(server.address(), STREAM);
    assert_eq!((status, &error["reason"]), (422, &json!("Invalid")));
    assert_eq!(error["details"]["causes"][0]["field"], "sendInitialEvents");
    server.set_streaming_lists(StreamingLists::RefusedByMatch);
    let (status, error) = fetch(server.address(), STREAM);
    assert_eq!((status, &error["details"]["causes"][0]["field"]), (422, &json!("resourceVersionMatch")));
    server.set_streaming_lists(StreamingLists::Ignored);
    let mut watch = get(server.address(), STREAM);
    assert_eq!(watch.brief(), expect("ADDED", "a", 101));
    assert_eq!(watch.next_within(Duration::from_millis(100)), Next::Silence, "no bookmark ends the list");
}

#[test]
fn a_selector_follows_the_labels() {
    let server = started(&["a"]);
    let mut watch = get(server.address(), &format!("{WATCH}&labelSelector=x%3D1"));
    for labels in [json!({"x": "1"}), json!({"x": "1", "y": "1"}), json!({"x": "2"}), json!({"x": "3"})] {
        server.objects().apply(service("a", labels)).unwrap();
    }
    assert_eq!(watch.brief(), expect("ADDED", "a", 102));
    assert_eq!(watch.brief(), expect("MODIFIED", "a", 103));
    let left = watch.event();
    assert_eq!(brief(&left), expect("DELETED", "a", 104));
    assert_eq!(left["object"]["metadata"]["labels"]["x"], "1", "as it was when it was selected");
    assert_eq!(watch.next_within(Duration::from_millis(50)), Next::Silence);
    let mut one =
        get(server.address(), &format!("{WATCH}&fieldSelector=metadata.name%3Db&resourceVersion=105"));
    server.objects().apply_all(["c", "b"].map(|name| service(name, json!({})))).unwrap();
    assert_eq!(one.brief(), expect("ADDED", "b", 107));
}

#[test]
fn bookmarks_come_regularly_and_before_the_end() {
    let server = TestApiServer::builder().bookmark_interval(Duration::from_millis(50)).start().unwrap();
    let mut watch = get(server.address(), &format!("{WATCH}&allowWatchBookmarks=true"));
    server.objects().apply(node("n")).unwrap();
    // A bookmark has the version of any resource.
    while watch.brief() != expect("BOOKMARK", "-", 101) {}
    let mut without = get(server.address(), WATCH);
    assert_eq!(without.next_within(Duration::from_millis(200)), Next::Silence, "only who asks gets them");

    let server = TestApiServer::builder().start().unwrap();
    let mut watch = get(server.address(), &format!("{WATCH}&allowWatchBookmarks=true&timeoutSeconds=3"));
    server.objects().apply(node("n")).unwrap();
    assert_eq!(watch.brief().0, "BOOKMARK");
    assert_eq!(watch.next(), Next::End(0));
}

/// The answer to a watch from the future is the same.
#[test]
fn no_bookmark_says_what_the_client_has_said() {
    let server = TestApiServer::builder().bookmark_interval(Duration::from_millis(20)).start().unwrap();
    for version in ["", "&resourceVersion=100", "&resourceVersion=900"] {
        let mut watch = get(server.address(), &format!("{WATCH}&allowWatchBookmarks=true{version}"));
        assert_eq!(watch.next_within(Duration::from_millis(200)), Next::Silence, "{version}");
    }
}

#[test]
fn a_watch_has_its_time() {
    let server = started(&[]);
    let mut watch = get(server.address(), &format!("{WATCH}&timeoutSeconds=1"));
    assert_eq!(server.watches(Resource::Services), 1);
    assert_eq!(watch.next(), Next::End(0));
    wait_until("the watch is closed", || server.watches(Resource::Services) == 0);
}

#[test]
fn a_client_that_leaves_ends_its_watch() {
    let server = started(&[]);
    let watch = get(server.address(), WATCH);
    assert_eq!(server.watches(Resource::Services), 1);
    drop(watch);
    wait_until("the watch is closed", || server.watches(Resource::Services) == 0);
}

#[test]
fn an_expired_version_is_an_event_or_a_status() {
    let server = started(&["a", "b"]);
    server.objects().compact();
    let target = format!("{WATCH}&resourceVersion=101");
    let mut watch = get(server.address(), &target);
    assert_eq!(watch.status, 200);
    let error = watch.event();
    assert_eq!((&error["type"], &error["object"]["kind"]), (&json!("ERROR"), &json!("Status")));
    assert_eq!((&error["object"]["code"], &error["object"]["reason"]), (&json!(410), &json!("Expired")));
    assert_eq!(error["object"]["message"], "too old resource version: 101 (102)");
    assert_eq!(watch.next(), Next::End(0));
    server.set_gone_form(GoneForm::Status);
    assert_eq!(fetch(server.address(), &target).0, 410);
    assert_eq!(get(server.address(), &format!("{WATCH}&resourceVersion=102")).status, 200);
}

#[test]
fn a_watch_that_falls_behind_is_told() {
    let server = TestApiServer::builder().history(2).start().unwrap();
    let mut watch = get(server.address(), WATCH);
    wait_until("it is open", || server.watches(Resource::Services) == 1);
    server.objects().apply_all(["a", "b", "c", "d"].map(|name| service(name, json!({})))).unwrap();
    assert_eq!(watch.event()["object"]["code"], 410);
}

#[test]
fn many_events_at_once_arrive_in_order() {
    let server = started(&[]);
    let mut watches: Vec<_> = (0..3).map(|_| get(server.address(), WATCH)).collect();
    server.objects().apply_all((0..1000).map(|n| service(&n.to_string(), json!({})))).unwrap();
    for watch in &mut watches {
        for n in 0..1000 {
            assert_eq!(watch.brief(), expect("ADDED", &n.to_string(), 101 + n));
        }
    }
}

#[test]
fn deliveries_are_timed() {
    let server = started(&[]);
    let mut watch = get(server.address(), WATCH);
    let before = test_apiserver::monotonic();
    let revision = server.objects().apply(service("a", json!({}))).unwrap();
    watch.event();
    let after = test_apiserver::monotonic();
    let deliveries = server.deliveries(Resource::Services, "shop", "a");
    assert_eq!(deliveries.len(), 1);
    let delivery = &deliveries[0];
    assert_eq!((delivery.change, delivery.revision), ("ADDED", revision));
    assert!(before < delivery.at && delivery.at < after, "{before:?} {delivery:?} {after:?}");
}
