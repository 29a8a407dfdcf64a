use serde_json::json;

use super::*;
use crate::sample;

/// A Service in namespace `shop`.
fn service(name: &str, labels: Value) -> Value {
    let mut service = sample::service("shop", name);
    service["metadata"]["labels"] = labels;
    service
}

fn key(name: &str) -> Key {
    Key::new("shop", name)
}

fn filled() -> Store {
    let mut store = Store::new(Retention { events: 100, ..Retention::default() }, false);
    for name in ["a", "b", "c"] {
        store.apply(service(name, json!({}))).unwrap();
    }
    store
}

/// Change, name and revision of each event that a watch with a label selector sees from the beginning.
fn seen(store: &Store, labels: &str) -> Vec<(Change, String, u64)> {
    let filter = Filter::parse(None, labels, "").unwrap();
    let (events, _) = store.events_after(Resource::Services, 100, 1000).unwrap();
    let seen = |event: &Arc<Event>| {
        Some((event.seen_by(&filter)?, event.object.key.name.clone(), event.object.revision))
    };
    events.iter().filter_map(seen).collect()
}

#[test]
fn versions_identities_and_times_are_filled_in() {
    let store = filled();
    let object = store.get(Resource::Services, &key("b")).unwrap().value();
    assert_eq!(object["metadata"]["resourceVersion"], "102");
    assert_eq!(object["metadata"]["uid"], "00000000-0000-4000-8000-000000000002");
    assert!(object["metadata"]["creationTimestamp"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn an_unchanged_object_makes_no_event() {
    let mut store = filled();
    store.apply(service("b", json!({}))).unwrap();
    assert_eq!(store.revision(), 103);
    store.apply(service("b", json!({"app": "web"}))).unwrap();
    let object = store.get(Resource::Services, &key("b")).unwrap();
    assert_eq!((store.revision(), object.revision), (104, 104));
    assert_eq!(object.value()["metadata"]["uid"], "00000000-0000-4000-8000-000000000002");
}

#[test]
fn refusals() {
    let mut store = filled();
    let stale = |version: &str| {
        let mut object = service("a", json!({"app": "web"}));
        set(&mut object, "resourceVersion", version.into());
        object
    };
    let mut write =
        |object, write| store.write(Resource::Services, object, write).map(|object| object.revision);
    let name = || "a".to_owned();
    assert_eq!(
        write(stale("101"), Write::Create),
        Err(StoreError::AlreadyExists(Resource::Services, name()))
    );
    assert_eq!(write(stale("100"), Write::Replace), Err(StoreError::Conflict(Resource::Services, name())));
    assert_eq!(write(stale("101"), Write::Replace), Ok(104));
    let missing = service("x", json!({}));
    let error = StoreError::NotFound(Resource::Services, "x".to_owned());
    assert_eq!(write(missing, Write::Replace), Err(error.clone()));
    assert_eq!(store.delete(Resource::Services, &key("x")).unwrap_err(), error);
    assert!(matches!(store.apply(json!({"kind": "Pod"})), Err(StoreError::NotAnObject(_))));
}

#[test]
fn a_selector_turns_changes_of_labels_into_additions_and_deletions() {
    let mut store = Store::new(Retention { events: 100, ..Retention::default() }, false);
    for labels in [json!({}), json!({"x": "1"}), json!({"x": "2"}), json!({"y": "1"})] {
        store.apply(service("a", labels)).unwrap();
    }
    store.apply(service("a", json!({"x": "3"}))).unwrap();
    store.delete(Resource::Services, &key("a")).unwrap();
    let a = || "a".to_owned();
    let expect = [
        (Change::Added, a(), 102),
        (Change::Modified, a(), 103),
        (Change::Deleted, a(), 104),
        (Change::Added, a(), 105),
        (Change::Deleted, a(), 106),
    ];
    assert_eq!(seen(&store, "x"), expect);
    assert_eq!(seen(&store, "").len(), 6);
}

#[test]
fn history_is_bounded_by_count() {
    let mut store = Store::new(Retention { events: 3, ..Retention::default() }, false);
    for n in 0..10 {
        store.apply(service("a", json!({"n": n.to_string()}))).unwrap();
    }
    assert_eq!(store.oldest(), 107);
    assert_eq!(store.events_after(Resource::Services, 106, 10).unwrap_err(), Gone { oldest: 107 });
    assert_eq!(store.events_after(Resource::Services, 107, 10).unwrap().0.len(), 3);
}

#[test]
fn history_is_bounded_by_memory() {
    let mut store = Store::new(Retention { events: 1_000_000, bytes: 32 << 10 }, false);
    let padding = "x".repeat(1 << 10);
    for n in 0..40 {
        store.apply(service("a", json!({"n": format!("{n}{padding}")}))).unwrap();
    }
    let kept = store.events_after(Resource::Services, store.oldest(), 100).unwrap().0.len();
    assert!((24..=32).contains(&kept), "{kept}");
    let mut store = Store::new(Retention { events: 1_000_000, bytes: 32 << 10 }, false);
    for n in 0..40 {
        store.apply(service(&n.to_string(), json!({"n": padding}))).unwrap();
    }
    assert_eq!(store.oldest(), 100, "versions that are current cost the history nothing");
}

#[test]
fn events_come_in_portions() {
    let mut store = filled();
    store.apply(json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n"}})).unwrap();
    let mut from = 100;
    let mut names = Vec::new();
    for _ in 0..3 {
        let (events, reached) = store.events_after(Resource::Services, from, 2).unwrap();
        names.extend(events.iter().map(|event| event.object.key.name.clone()));
        from = reached;
    }
    assert_eq!((names.join(""), from), ("abc".to_owned(), 104));
}

#[test]
fn a_restored_snapshot_is_the_past() {
    let mut store = filled();
    let snapshot = store.snapshot();
    store.delete(Resource::Services, &key("a")).unwrap();
    store.apply(service("d", json!({}))).unwrap();
    store.restore(snapshot);
    assert_eq!((store.revision(), store.len(Resource::Services)), (103, 3));
    assert!(store.events_after(Resource::Services, 102, 10).is_err());
    let (events, reached) = store.events_after(Resource::Services, 105, 10).unwrap();
    assert_eq!((events.len(), reached), (0, 105), "a client that knows more hears nothing");
}

#[test]
fn the_past_can_be_read() {
    let mut store = filled();
    let names = |store: &Store, revision| {
        let objects = store.select_at(Resource::Services, &Filter::default(), revision).unwrap();
        objects.iter().map(|object| format!("{}{}", object.key.name, object.revision)).collect::<Vec<_>>()
    };
    store.apply(service("b", json!({"app": "web"}))).unwrap();
    store.delete(Resource::Services, &key("a")).unwrap();
    store.apply(service("d", json!({}))).unwrap();
    assert_eq!(names(&store, 106), ["b104", "c103", "d106"]);
    assert_eq!(names(&store, 104), ["a101", "b104", "c103"]);
    assert_eq!(names(&store, 103), ["a101", "b102", "c103"]);
    assert_eq!(names(&store, 101), ["a101"]);
    store.compact();
    assert!(store.select_at(Resource::Services, &Filter::default(), 105).is_err());
}
