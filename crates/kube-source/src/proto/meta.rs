//! Metadata and Status (staging/src/k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto).

use bytes::Bytes;
use jiff::Timestamp;
use prost::Message;

use super::{Text, omitted, pointer, string};
use crate::wire::{self, Labels, Scalar};

/// `meta.ObjectMeta`
#[derive(Clone, PartialEq, Message)]
pub(super) struct ObjectMeta {
    #[prost(bytes = "vec", optional, tag = "1")]
    name: Option<Text>,
    #[prost(bytes = "vec", optional, tag = "3")]
    namespace: Option<Text>,
    #[prost(bytes = "vec", optional, tag = "5")]
    uid: Option<Text>,
    #[prost(bytes = "vec", optional, tag = "6")]
    pub(super) resource_version: Option<Text>,
    #[prost(message, optional, tag = "8")]
    creation_timestamp: Option<Time>,
    #[prost(message, optional, tag = "9")]
    deletion_timestamp: Option<Time>,
    #[prost(message, repeated, tag = "11")]
    labels: Vec<Entry>,
    #[prost(message, repeated, tag = "12")]
    annotations: Vec<Entry>,
}

/// `meta.Time`, which is a message without fields if it is zero (`Time.MarshalTo` in time_proto.go).
#[derive(Clone, PartialEq, Message)]
struct Time {
    #[prost(int64, optional, tag = "1")]
    seconds: Option<i64>,
}

/// An entry of a map from text to text. Most are not read and share the memory of their object.
#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

/// `meta.ListMeta`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ListMeta {
    #[prost(string, tag = "2")]
    pub(crate) resource_version: String,
    #[prost(string, tag = "3")]
    pub(crate) next: String,
}

/// The metadata of an object of any kind, without the rest: a bookmark has nothing else.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Bookmark {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ObjectMeta>,
}

impl Bookmark {
    /// Version up to which everything has been sent.
    pub(crate) fn version(&self) -> String {
        let metadata = self.metadata.as_ref();
        metadata.and_then(|metadata| metadata.resource_version.clone()).map(string).unwrap_or_default()
    }

    /// Tells whether it has this annotation.
    pub(crate) fn has_annotation(&self, key: &str, value: &str) -> bool {
        let annotations = self.metadata.iter().flat_map(|metadata| &metadata.annotations);
        annotations.into_iter().any(|entry| entry.key == key && entry.value == value)
    }
}

/// `meta.Status`
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Status {
    #[prost(string, tag = "3")]
    pub(crate) message: String,
    #[prost(string, tag = "4")]
    pub(crate) reason: String,
    #[prost(message, optional, tag = "5")]
    details: Option<StatusDetails>,
    #[prost(int32, tag = "6")]
    pub(crate) code: i32,
}

/// `meta.StatusDetails`
#[derive(Clone, PartialEq, Message)]
struct StatusDetails {
    #[prost(message, repeated, tag = "4")]
    causes: Vec<StatusCause>,
}

/// `meta.StatusCause`
#[derive(Clone, PartialEq, Message)]
struct StatusCause {
    #[prost(string, tag = "1")]
    reason: String,
}

impl Status {
    /// Tells whether one of its causes has this reason.
    pub(crate) fn has_cause(&self, reason: &str) -> bool {
        self.details.iter().flat_map(|details| &details.causes).any(|cause| cause.reason == reason)
    }
}

impl From<ObjectMeta> for wire::Metadata {
    fn from(message: ObjectMeta) -> Self {
        wire::Metadata {
            name: omitted(message.name),
            namespace: omitted(message.namespace),
            uid: omitted(message.uid),
            resource_version: omitted(message.resource_version),
            creation_timestamp: pointer(message.creation_timestamp),
            deletion_timestamp: pointer(message.deletion_timestamp),
            labels: labels(message.labels),
            annotations: labels(message.annotations),
        }
    }
}

impl From<Time> for Scalar {
    /// The text that JSON has, or `null` for zero (`Time.MarshalJSON` in time.go).
    fn from(time: Time) -> Self {
        let Some(seconds) = time.seconds else { return Scalar::Absent };
        let time = Timestamp::from_second(seconds);
        time.map_or(Scalar::Wrong("a time that no calendar has"), |time| Scalar::Text(time.to_string()))
    }
}

fn labels(entries: Vec<Entry>) -> Labels {
    let read = entries.into_iter().filter(|entry| Labels::is_read(&entry.key));
    let values =
        read.map(|entry| (string(entry.key.into()), Scalar::from(Text::from(entry.value)))).collect();
    Labels { values, wrong: None }
}
