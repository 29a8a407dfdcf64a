//! Bodies of the API server's answers: lists, events of a watch, and Status objects; here in JSON, in `protobuf`
//! in protobuf.

mod protobuf;
mod stream;

use std::{borrow::Cow, collections::BTreeMap, fmt, str::Utf8Error};

use bytes::Bytes;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

use super::{
    MediaType,
    kinds::{Item, Kind},
};
use crate::proto::ProtoError;

pub(super) use stream::EventStream;

/// Annotation of the bookmark that says that everything has been sent that existed when the watch began
/// (`InitialEventsAnnotationKey` in staging/src/k8s.io/apimachinery/pkg/apis/meta/v1/types.go).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// `CauseTypeResourceVersionTooLarge` in staging/src/k8s.io/apimachinery/pkg/apis/meta/v1/types.go
const TOO_LARGE: &str = "ResourceVersionTooLarge";

/// Reason for which a body cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error(transparent)]
    Text(#[from] Utf8Error),
    #[error(transparent)]
    Protobuf(#[from] ProtoError),
}

impl From<prost::DecodeError> for ReadError {
    fn from(error: prost::DecodeError) -> Self {
        ReadError::Protobuf(error.into())
    }
}

/// One event of a watch, with its object as it was written or as it was read.
#[derive(Debug, PartialEq)]
pub(super) enum WatchEvent<T> {
    /// An object was added or changed.
    Applied(T),
    /// An object is gone, or no longer matches the selector.
    Deleted(T),
    /// Everything up to a version has been sent.
    Bookmark { version: String, initial_end: bool },
    /// The watch cannot continue.
    Error(Status),
}

/// `metav1.Status`
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    #[serde(deserialize_with = "or_default")]
    pub(super) code: u16,
    #[serde(deserialize_with = "or_default")]
    pub(super) reason: String,
    #[serde(deserialize_with = "or_default")]
    pub(super) message: String,
    #[serde(rename = "details", deserialize_with = "too_large")]
    pub(super) too_large: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StatusDetails {
    #[serde(deserialize_with = "or_default")]
    causes: Vec<StatusCause>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StatusCause {
    #[serde(deserialize_with = "or_default")]
    reason: String,
}

fn too_large<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let details: StatusDetails = or_default(deserializer)?;
    Ok(details.causes.iter().any(|cause| cause.reason == TOO_LARGE))
}

impl Status {
    /// Reads the body of a refusal; anything else says nothing.
    pub(super) fn parse(body: Bytes, media: MediaType) -> Self {
        match media {
            MediaType::Json => serde_json::from_slice(&body).unwrap_or_default(),
            MediaType::Protobuf => protobuf::parse_status(body).unwrap_or_default(),
        }
    }

    /// Tells whether the requested version lies in the future of this server. Kubernetes 1.17 to 1.18.5 says
    /// so only in the message (`isTooLargeResourceVersionError` in client-go's reflector.go).
    pub(super) fn is_too_large(&self) -> bool {
        self.too_large || self.message.contains("Too large resource version")
    }
}

#[derive(Deserialize)]
struct RawLine<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct BookmarkObject {
    metadata: BookmarkMetadata,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct BookmarkMetadata {
    #[serde(deserialize_with = "or_default")]
    resource_version: String,
    #[serde(deserialize_with = "or_default")]
    annotations: BTreeMap<String, String>,
}

/// Reads `null` as the default, as Go does.
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl<'a> WatchEvent<&'a str> {
    /// Reads a line; fails if it is not the JSON of a watch event.
    fn parse(line: &'a str) -> Result<Self, serde_json::Error> {
        let raw: RawLine<'a> = serde_json::from_str(line)?;
        let object = raw.object.get();
        match &*raw.kind {
            "ADDED" | "MODIFIED" => Ok(WatchEvent::Applied(object)),
            "DELETED" => Ok(WatchEvent::Deleted(object)),
            "BOOKMARK" => {
                let BookmarkObject { metadata } = serde_json::from_str(object)?;
                let initial_end = metadata.annotations.get(INITIAL_EVENTS_END).is_some_and(|v| v == "true");
                Ok(WatchEvent::Bookmark { version: metadata.resource_version, initial_end })
            }
            "ERROR" => Ok(WatchEvent::Error(serde_json::from_str(object)?)),
            other => Err(serde_json::Error::custom(format!("unknown type of watch event {other:?}"))),
        }
    }
}

impl<T> WatchEvent<T> {
    /// Reads the object of an event.
    fn read<E>(self, read: impl FnOnce(T) -> Result<Item, E>) -> Result<WatchEvent<Item>, ReadError>
    where
        ReadError: From<E>,
    {
        Ok(match self {
            WatchEvent::Applied(object) => WatchEvent::Applied(read(object)?),
            WatchEvent::Deleted(object) => WatchEvent::Deleted(read(object)?),
            WatchEvent::Bookmark { version, initial_end } => WatchEvent::Bookmark { version, initial_end },
            WatchEvent::Error(status) => WatchEvent::Error(status),
        })
    }
}

/// `metadata` of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub(super) struct ListMeta {
    #[serde(deserialize_with = "or_default")]
    pub(super) resource_version: String,
    /// Token for the next page; empty on the last one.
    #[serde(rename = "continue", deserialize_with = "or_default")]
    pub(super) next: String,
}

/// Hands each object of a list to `take` as soon as it is read, so that nothing but the body and that object is in
/// memory.
pub(super) fn read_list(
    body: &Bytes,
    media: MediaType,
    kind: Kind,
    mut take: impl FnMut(Result<Item, ReadError>),
) -> Result<ListMeta, ReadError> {
    match media {
        MediaType::Json => {
            let json = std::str::from_utf8(body)?;
            Ok(read_json_list(json, |json| take(kind.read_json(json).map_err(ReadError::from)))?)
        }
        MediaType::Protobuf => protobuf::read_list(body, kind, take),
    }
}

fn read_json_list(json: &str, take: impl FnMut(&str)) -> Result<ListMeta, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let meta = ListSeed(take).deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(meta)
}

struct ListSeed<F>(F);

impl<'de, F: FnMut(&str)> DeserializeSeed<'de> for ListSeed<F> {
    type Value = ListMeta;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<ListMeta, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de, F: FnMut(&str)> Visitor<'de> for ListSeed<F> {
    type Value = ListMeta;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of API objects")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<ListMeta, A::Error> {
        let mut meta = None;
        while let Some(key) = map.next_key::<Cow<'de, str>>()? {
            match &*key {
                "metadata" => meta = Some(map.next_value()?),
                "items" => map.next_value_seed(ItemsSeed(&mut self.0))?,
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        meta.ok_or_else(|| A::Error::missing_field("metadata"))
    }
}

struct ItemsSeed<'a, F>(&'a mut F);

impl<'de, F: FnMut(&str)> DeserializeSeed<'de> for ItemsSeed<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de, F: FnMut(&str)> Visitor<'de> for ItemsSeed<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while let Some(item) = seq.next_element::<&'de RawValue>()? {
            (self.0)(item.get());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn watch_lines() {
        let parse = |line: &str| format!("{:?}", WatchEvent::parse(line).map_err(|_| ()));
        for (line, expect) in [
            (r#"{"type":"ADDED","object":{"a":1}}"#, r#"Ok(Applied("{\"a\":1}"))"#),
            (r#"{"object":{"a":1},"type":"MODIFIED"}"#, r#"Ok(Applied("{\"a\":1}"))"#),
            (r#"{"type":"DELETED","object":{}}"#, r#"Ok(Deleted("{}"))"#),
            (
                r#"{"type":"BOOKMARK","object":{"kind":"Service","metadata":{"resourceVersion":"7","annotations":null}}}"#,
                r#"Ok(Bookmark { version: "7", initial_end: false })"#,
            ),
            (
                r#"{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"7","annotations":{"k8s.io/initial-events-end":"true"}}}}"#,
                r#"Ok(Bookmark { version: "7", initial_end: true })"#,
            ),
            (
                r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#,
                r#"Ok(Error(Status { code: 410, reason: "Expired", message: "too old", too_large: false }))"#,
            ),
            (
                r#"{"type":"ERROR","object":{"details":null}}"#,
                r#"Ok(Error(Status { code: 0, reason: "", message: "", too_large: false }))"#,
            ),
            (
                r#"{"type":"ERROR","object":{"details":{"causes":[{"reason":"ResourceVersionTooLarge"}]}}}"#,
                r#"Ok(Error(Status { code: 0, reason: "", message: "", too_large: true }))"#,
            ),
            (r#"{"type":"SURPRISE","object":{}}"#, "Err(())"),
            (r#"{"type":"ADDED","object":{"a":1"#, "Err(())"),
            (r#"{"type":"ADDED"}"#, "Err(())"),
            ("<html>", "Err(())"),
        ] {
            assert_eq!(parse(line), expect, "{line}");
        }
    }

    #[test]
    fn versions_of_the_future() {
        let is_too_large = |json: &str| serde_json::from_str::<Status>(json).unwrap().is_too_large();
        for (json, expect) in [
            (r#"{"code":504,"details":{"causes":[{"reason":"ResourceVersionTooLarge"}]}}"#, true),
            (r#"{"code":504,"message":"Timeout: Too large resource version: 9, current: 5"}"#, true),
            (r#"{"code":504,"message":"request timed out","details":{"causes":[{}],"uid":""}}"#, false),
            (r#"{"code":504,"details":{"causes":null}}"#, false),
        ] {
            assert_eq!(is_too_large(json), expect, "{json}");
        }
    }

    #[test]
    fn lists() {
        let read = |json: &str| {
            let mut items = Vec::new();
            let meta = read_json_list(json, |item| items.push(item.to_owned())).ok()?;
            Some((meta.resource_version, meta.next, items.join(" ")))
        };
        let found =
            |version: &str, next: &str, items: &str| Some((version.into(), next.into(), items.into()));
        for (json, expect) in [
            (
                r#"{"kind":"L","items":[{"a":1},2],"metadata":{"resourceVersion":"5","continue":"c"}}"#,
                found("5", "c", r#"{"a":1} 2"#),
            ),
            (r#"{"metadata":{"resourceVersion":"5"},"items":null}"#, found("5", "", "")),
            (r#"{"metadata":{"resourceVersion":"5","continue":null}}"#, found("5", "", "")),
            (r#"{"items":[]}"#, None),
            (r#"{"metadata":{},"items":[1"#, None),
            (r#"{"metadata":{},"items":[1]} trailing"#, None),
            ("<html>", None),
        ] {
            assert_eq!(read(json), expect, "{json}");
        }
    }
}
