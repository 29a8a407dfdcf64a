//! Bodies of the API server's answers: lists, lines of a watch, and Status objects.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::value::RawValue;

/// Annotation of the bookmark that says that everything has been sent that existed when the watch began
/// (`InitialEventsAnnotationKey` in staging/src/k8s.io/apimachinery/pkg/apis/meta/v1/types.go).
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// One line of a watch.
#[derive(Debug)]
pub(super) enum WatchLine<'a> {
    /// An object was added or changed.
    Applied(&'a str),
    /// An object is gone, or no longer matches the selector.
    Deleted(&'a str),
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

/// `CauseTypeResourceVersionTooLarge` in staging/src/k8s.io/apimachinery/pkg/apis/meta/v1/types.go
fn too_large<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    let details: StatusDetails = or_default(deserializer)?;
    Ok(details.causes.iter().any(|cause| cause.reason == "ResourceVersionTooLarge"))
}

impl Status {
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

impl<'a> WatchLine<'a> {
    /// Reads a line; fails if it is not the JSON of a watch event.
    pub(super) fn parse(line: &'a str) -> Result<Self, serde_json::Error> {
        let raw: RawLine<'a> = serde_json::from_str(line)?;
        let object = raw.object.get();
        match &*raw.kind {
            "ADDED" | "MODIFIED" => Ok(WatchLine::Applied(object)),
            "DELETED" => Ok(WatchLine::Deleted(object)),
            "BOOKMARK" => {
                let BookmarkObject { metadata } = serde_json::from_str(object)?;
                let initial_end = metadata.annotations.get(INITIAL_EVENTS_END).is_some_and(|v| v == "true");
                Ok(WatchLine::Bookmark { version: metadata.resource_version, initial_end })
            }
            "ERROR" => Ok(WatchLine::Error(serde_json::from_str(object)?)),
            other => Err(serde_json::Error::custom(format!("unknown type of watch event {other:?}"))),
        }
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

/// Hands each object of a list to `take` as soon as it is found, so that nothing but the text is in memory.
pub(super) fn read_list(json: &str, take: impl FnMut(&str)) -> Result<ListMeta, serde_json::Error> {
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

/// Buffer that takes bytes as they arrive and gives them back line by line.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buffer: Vec<u8>,
    /// Start of the line that is not complete yet.
    start: usize,
    /// Position up to which there is no end of a line.
    searched: usize,
}

impl Lines {
    pub(super) fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete line that is not blank.
    pub(super) fn next(&mut self) -> Option<&[u8]> {
        loop {
            let length = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            let Some(length) = length else {
                self.searched = self.buffer.len();
                return None;
            };
            let (start, end) = (self.start, self.searched + length);
            self.start = end + 1;
            self.searched = self.start;
            if !self.buffer[start..end].trim_ascii().is_empty() {
                return Some(&self.buffer[start..end]);
            }
        }
    }

    /// Length of the line that is not complete yet.
    pub(super) const fn pending(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Frees the memory of a large burst.
    pub(super) fn release(&mut self) {
        if self.start == self.buffer.len() {
            *self = Lines::default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_wherever_they_are_cut() {
        let text = b"one\n\ntwo\r\n  \nthree and more\nlast";
        for size in 1..text.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for part in text.chunks(size) {
                lines.push(part);
                while let Some(line) = lines.next() {
                    found.push(String::from_utf8(line.to_vec()).unwrap());
                }
                lines.release();
            }
            assert_eq!(found, ["one", "two\r", "three and more"], "size {size}");
        }
    }

    #[test]
    fn watch_lines() {
        let parse = |line: &str| format!("{:?}", WatchLine::parse(line).map_err(|_| ()));
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
            let meta = read_list(json, |item| items.push(item.to_owned())).ok()?;
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
