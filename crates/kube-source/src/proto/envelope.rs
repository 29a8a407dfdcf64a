//! Messages around objects: their kind, lists and events of watches.

use bytes::Bytes;
use prost::{Message, decode_length_delimiter};

use super::ListMeta;
use crate::api::PROTOBUF;

/// First bytes of every object and of every list (`protoEncodingPrefix` in
/// staging/src/k8s.io/apimachinery/pkg/runtime/serializer/protobuf/protobuf.go).
const MAGIC: &[u8] = b"k8s\0";

/// Reason for which bytes are no object, list or event.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProtoError {
    #[error("no protobuf of Kubernetes, but bytes that begin with \"{0}\"")]
    Magic(String),
    #[error(transparent)]
    Decode(#[from] prost::DecodeError),
    #[error("protobuf of kind {found:?} instead of {expected}")]
    Kind { expected: String, found: String },
    #[error("protobuf without an object in it")]
    Empty,
    #[error("protobuf with content as {0:?}")]
    Content(String),
    #[error("protobuf that ends too early")]
    Short,
    #[error("protobuf with a field without a number")]
    FieldNumber,
    #[error("protobuf with a field of the unknown type {0}")]
    FieldType(usize),
    #[error("a list without metadata")]
    NoMetadata,
    #[error("unknown type of watch event {0:?}")]
    EventType(String),
}

/// `runtime.TypeMeta` (staging/src/k8s.io/apimachinery/pkg/runtime/generated.proto)
#[derive(Clone, PartialEq, Message)]
struct TypeMeta {
    #[prost(string, tag = "2")]
    kind: String,
}

/// `runtime.Unknown` (staging/src/k8s.io/apimachinery/pkg/runtime/generated.proto)
#[derive(Clone, PartialEq, Message)]
struct Unknown {
    #[prost(message, optional, tag = "1")]
    type_meta: Option<TypeMeta>,
    #[prost(bytes = "bytes", optional, tag = "2")]
    raw: Option<Bytes>,
    #[prost(string, tag = "3")]
    content_encoding: String,
    #[prost(string, tag = "4")]
    content_type: String,
}

/// Takes the message of an object or list out of what surrounds it, without a copy.
pub(crate) fn unwrap(mut bytes: Bytes, kind: &str) -> Result<Bytes, ProtoError> {
    if !bytes.starts_with(MAGIC) {
        let first = bytes.slice(..bytes.len().min(MAGIC.len()));
        return Err(ProtoError::Magic(first.escape_ascii().to_string()));
    }
    let Unknown { type_meta, raw, content_encoding, content_type } =
        Unknown::decode(bytes.split_off(MAGIC.len()))?;
    // The numbers of fields mean something else in every kind.
    let found = type_meta.unwrap_or_default().kind;
    if found != kind {
        return Err(ProtoError::Kind { expected: kind.to_owned(), found });
    }
    if !content_encoding.is_empty() {
        return Err(ProtoError::Content(content_encoding));
    }
    if !content_type.is_empty() && content_type != PROTOBUF {
        return Err(ProtoError::Content(content_type));
    }
    raw.ok_or(ProtoError::Empty)
}

/// Number of the metadata in a list of any kind, as in `ServiceList` (staging/src/k8s.io/api/core/v1/generated.proto).
const METADATA: usize = 1;
/// Number of the objects in it.
const ITEMS: usize = 2;

/// Hands each object of a list to `take` as soon as it is found; none of them is decoded or copied here.
pub(crate) fn read_list(mut list: Bytes, mut take: impl FnMut(Bytes)) -> Result<ListMeta, ProtoError> {
    let mut metadata = None;
    while !list.is_empty() {
        let (number, content) = split_field(&mut list)?;
        match (number, content) {
            (METADATA, Some(content)) => metadata = Some(ListMeta::decode(content)?),
            (ITEMS, Some(content)) => take(content),
            _ => {}
        }
    }
    metadata.ok_or(ProtoError::NoMetadata)
}

/// Takes the first field off a message: its number, and its content if that is one of a certain length
/// (protobuf.dev/programming-guides/encoding).
fn split_field(message: &mut Bytes) -> Result<(usize, Option<Bytes>), ProtoError> {
    let key = decode_length_delimiter(&mut *message)?;
    if key >> 3 == 0 {
        return Err(ProtoError::FieldNumber);
    }
    let (length, has_content) = match key & 0b111 {
        0 => {
            // A number, of which only the end matters.
            decode_length_delimiter(&mut *message)?;
            (0, false)
        }
        1 => (size_of::<u64>(), false),
        2 => (decode_length_delimiter(&mut *message)?, true),
        5 => (size_of::<u32>(), false),
        other => return Err(ProtoError::FieldType(other)),
    };
    if length > message.len() {
        return Err(ProtoError::Short);
    }
    let content = message.split_to(length);
    Ok((key >> 3, has_content.then_some(content)))
}

/// `runtime.RawExtension` (staging/src/k8s.io/apimachinery/pkg/runtime/generated.proto)
#[derive(Clone, PartialEq, Message)]
struct RawExtension {
    #[prost(bytes = "bytes", tag = "1")]
    raw: Bytes,
}

/// `meta.WatchEvent` (staging/src/k8s.io/apimachinery/pkg/apis/meta/v1/generated.proto)
#[derive(Clone, PartialEq, Message)]
pub(crate) struct WatchEvent {
    #[prost(string, tag = "1")]
    pub(crate) kind: String,
    #[prost(message, optional, tag = "2")]
    object: Option<RawExtension>,
}

impl WatchEvent {
    /// Message of its object, which must be of this kind.
    pub(crate) fn object(self, kind: &str) -> Result<Bytes, ProtoError> {
        unwrap(self.object.ok_or(ProtoError::Empty)?.raw, kind)
    }
}
