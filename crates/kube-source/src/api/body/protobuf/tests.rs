//! Bodies as the API server for tests encodes them, whose messages are generated from the proto files of Kubernetes.

use proptest::{collection::vec, prelude::*};
use serde_json::{Value, json};
use test_apiserver::{Resource, proto, sample};

use super::*;
use crate::api::{MediaType, body::EventStream};

fn service(name: &str, version: &str) -> Value {
    let mut service = sample::service("ns", name);
    service["metadata"]["resourceVersion"] = version.into();
    service
}

fn message(object: Value) -> Bytes {
    proto::message(Resource::Services, object).unwrap().into()
}

fn list(metadata: &Value, names: &[&str]) -> Vec<u8> {
    let items = names.iter().map(|name| message(service(name, "1")));
    proto::list_body(Resource::Services, metadata, items.collect())
}

/// Version, token of the next page and names of the objects in a list.
fn read(body: Vec<u8>, kind: Kind) -> Result<(String, String, String), String> {
    let mut names = Vec::new();
    let meta = read_list(&body.into(), kind, |item| match item {
        Ok(item) => names.push(item.name.map_or_else(|| "-".to_owned(), |(_, name)| name.to_string())),
        Err(_) => names.push("!".to_owned()),
    });
    let meta = meta.map_err(|error| error.to_string())?;
    Ok((meta.resource_version, meta.next, names.join(" ")))
}

#[test]
fn lists() {
    let found = |version: &str, next: &str, names: &str| Ok((version.into(), next.into(), names.into()));
    let whole = list(&json!({"resourceVersion": "5", "continue": "c", "remainingItemCount": 2}), &["a", "b"]);
    assert_eq!(read(whole.clone(), Kind::Service), found("5", "c", "a b"));
    assert_eq!(read(list(&json!({"resourceVersion": "5"}), &[]), Kind::Service), found("5", "", ""));
    assert_eq!(read(list(&json!({}), &[""]), Kind::Service), found("", "", "-"));
    // An object that cannot be read costs none of the others.
    let items = vec![message(service("a", "1")), Bytes::from_static(b"\x0a\xff"), message(service("b", "1"))];
    let body = proto::list_body(Resource::Services, &json!({"resourceVersion": "5"}), items);
    assert_eq!(read(body, Kind::Service), found("5", "", "a ! b"));
    for (body, kind, expect) in [
        (whole.clone(), Kind::Node, "protobuf of kind \"ServiceList\" instead of NodeList"),
        (b"{\"kind\":\"ServiceList\"}".to_vec(), Kind::Service, "bytes that begin with \"{\\\"ki\""),
        (Vec::new(), Kind::Service, "bytes that begin with \"\""),
        (b"k8s\0".to_vec(), Kind::Service, "of kind \"\" instead of ServiceList"),
        (b"k8s\0\x0a\x0d\x12\x0bServiceList".to_vec(), Kind::Service, "without an object in it"),
        (b"k8s\0\x0a\x0d\x12\x0bServiceList\x12\x00".to_vec(), Kind::Service, "a list without metadata"),
        (
            b"k8s\0\x0a\x0d\x12\x0bServiceList\x12\x00\x1a\x04gzip".to_vec(),
            Kind::Service,
            "content as \"gzip\"",
        ),
        (
            b"k8s\0\x0a\x0d\x12\x0bServiceList\x12\x00\x22\x09text/yaml".to_vec(),
            Kind::Service,
            "content as \"text/yaml\"",
        ),
        (proto::broken(whole), Kind::Service, ""),
    ] {
        let error = read(body, kind).unwrap_err();
        assert!(error.contains(expect), "{error}: {expect}");
    }
}

/// Fields of every type that later versions may add to lists, and fields that are none.
#[test]
fn unknown_fields_of_a_list_are_skipped() {
    let list = |more: &[u8]| {
        let known = b"\x0a\x03\x12\x017\x12\x00";
        let raw = [more, known, more].concat();
        let length = u8::try_from(raw.len()).unwrap();
        let body = [b"k8s\0\x0a\x0d\x12\x0bServiceList\x12", &[length][..], &raw].concat();
        read(body, Kind::Service)
    };
    let minus_one = b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01";
    for more in [&b""[..], b"\x18\x07", minus_one, b"\x2112345678", b"\x2d1234", b"\x32\x02ab", b"\x32\x00"] {
        assert_eq!(list(more), Ok(("7".into(), String::new(), "-".into())), "{more:?}");
    }
    for more in
        [&b"\x1b\x1c"[..], b"\x1e", b"\x00\x00", b"\x32\x7f", b"\x18\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"]
    {
        assert!(list(more).is_err(), "{more:?}");
    }
}

#[test]
fn a_list_that_is_cut_anywhere_is_no_list() {
    let whole = list(&json!({"resourceVersion": "5"}), &["a", "b"]);
    // The last field says that there is no other type of content, as the one before it.
    for length in 0..whole.len() - 4 {
        assert!(read(whole[..length].to_vec(), Kind::Service).is_err(), "{length} of {}", whole.len());
    }
}

fn frame(change: &str, object: Value) -> Bytes {
    proto::frame(change, proto::object_body(Resource::Services, &message(object)))
}

fn status(details: &Value) -> Vec<u8> {
    proto::status_body(&json!({"code": 410, "reason": "Expired", "message": "too old", "details": details}))
}

fn parse(frame: &Bytes) -> String {
    let event = parse_event(frame.slice(4..), Kind::Service);
    match event {
        Ok(event) => format!("{:?}", event.read(|message| Kind::Service.read_protobuf(message)).map(names)),
        Err(error) => error.to_string(),
    }
}

/// The same event with the name of its object in place of it.
fn names(event: WatchEvent<Item>) -> WatchEvent<String> {
    let name = |item: Item| item.name.map(|(_, name)| name.to_string()).unwrap_or_default();
    match event {
        WatchEvent::Applied(item) => WatchEvent::Applied(name(item)),
        WatchEvent::Deleted(item) => WatchEvent::Deleted(name(item)),
        WatchEvent::Bookmark { version, initial_end } => WatchEvent::Bookmark { version, initial_end },
        WatchEvent::Error(status) => WatchEvent::Error(status),
    }
}

#[test]
fn events() {
    let bookmark = |annotations: Value| {
        frame("BOOKMARK", json!({"metadata": {"resourceVersion": "7", "annotations": annotations}}))
    };
    let error = |details: &Value| proto::frame("ERROR", status(details));
    let too_large = json!({"causes": [{"reason": "ResourceVersionTooLarge"}]});
    for (frame, expect) in [
        (frame("ADDED", service("a", "1")), r#"Ok(Applied("a"))"#),
        (frame("MODIFIED", service("a", "1")), r#"Ok(Applied("a"))"#),
        (frame("DELETED", service("a", "1")), r#"Ok(Deleted("a"))"#),
        (bookmark(Value::Null), r#"Ok(Bookmark { version: "7", initial_end: false })"#),
        (bookmark(json!({"a": "b"})), r#"Ok(Bookmark { version: "7", initial_end: false })"#),
        (
            bookmark(json!({"k8s.io/initial-events-end": "true"})),
            r#"Ok(Bookmark { version: "7", initial_end: true })"#,
        ),
        (
            error(&Value::Null),
            r#"Ok(Error(Status { code: 410, reason: "Expired", message: "too old", too_large: false }))"#,
        ),
        (
            error(&too_large),
            r#"Ok(Error(Status { code: 410, reason: "Expired", message: "too old", too_large: true }))"#,
        ),
        (frame("SURPRISE", service("a", "1")), "unknown type of watch event \"SURPRISE\""),
        (proto::frame("ADDED", status(&Value::Null)), "protobuf of kind \"Status\" instead of Service"),
        (frame("ERROR", service("a", "1")), "protobuf of kind \"Service\" instead of Status"),
        (proto::frame("ADDED", Vec::new()), "no protobuf of Kubernetes, but bytes that begin with \"\""),
        (Bytes::from_static(b"\0\0\0\x07\x0a\x05ADDED"), "protobuf without an object in it"),
        (Bytes::from_static(b"\0\0\0\0"), "unknown type of watch event \"\""),
    ] {
        assert_eq!(parse(&frame), expect, "{frame:?}");
    }
}

#[test]
fn a_refusal_in_protobuf() {
    let status = |body: Vec<u8>| Status::parse(body.into(), MediaType::Protobuf);
    let found = status(self::status(&json!({"causes": [{"reason": "ResourceVersionTooLarge"}]})));
    assert_eq!((found.code, &*found.reason, &*found.message), (410, "Expired", "too old"));
    assert!(found.is_too_large());
    assert_eq!(status(b"<html>".to_vec()), Status::default());
}

/// The events of a watch, cut into two pieces at each of its bytes, and into pieces of one byte.
#[test]
fn events_are_found_wherever_the_watch_is_cut() {
    let frames = [
        frame("ADDED", service("a", "1")),
        frame("BOOKMARK", service("", "7")),
        frame("DELETED", service("a", "9")),
        proto::frame("ERROR", status(&Value::Null)),
    ];
    let bytes = frames.concat();
    let events = |pieces: &[&[u8]]| {
        let (mut stream, mut found) = (EventStream::new(Kind::Service, MediaType::Protobuf), Vec::new());
        for piece in pieces {
            stream.push(piece);
            found.extend(std::iter::from_fn(|| stream.next()).map(Result::unwrap));
            stream.release();
        }
        assert_eq!(stream.pending(), 0);
        found
    };
    let whole = events(&[&bytes]);
    assert_eq!(whole.len(), 4);
    for at in 0..bytes.len() {
        assert_eq!(events(&[&bytes[..at], &bytes[at..]]), whole, "cut at {at}");
    }
    assert_eq!(events(&bytes.chunks(1).collect::<Vec<_>>()), whole);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Any bytes, alone and behind what makes them look like an answer.
    #[test]
    fn reading_any_bytes_is_total(bytes in vec(any::<u8>(), 0..80), at in any::<prop::sample::Index>()) {
        let mut changed = list(&json!({"resourceVersion": "5"}), &["a", "b"]);
        let at = at.index(changed.len());
        changed.splice(at..(at + bytes.len()).min(changed.len()), bytes.iter().copied());
        let with_magic = [b"k8s\0", &bytes[..]].concat();
        for body in [bytes.clone(), with_magic, changed] {
            drop(read(body.clone(), Kind::Service));
            drop(Status::parse(body.clone().into(), MediaType::Protobuf));
            let mut stream = EventStream::new(Kind::Service, MediaType::Protobuf);
            stream.push(&body);
            while let Some(Ok(_)) = stream.next() {}
            drop(parse(&proto::frame("ADDED", body.clone())));
            drop(parse_event(body.into(), Kind::Service));
        }
    }
}
