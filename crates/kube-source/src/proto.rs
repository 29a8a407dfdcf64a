//! Messages of the API in protobuf: only the fields that we read, with the numbers that they have in the files
//! `generated.proto` of Kubernetes (staging/src/k8s.io/api and staging/src/k8s.io/apimachinery). Everything else is
//! skipped.
//!
//! Each message turns into the type of [`crate::wire`] that the JSON of the same object would become, so that
//! `convert` finds the same objects and the same problems whatever the encoding. The two differ in what is
//! empty: in protobuf, Go writes every field that is no pointer; JSON leaves it out if the field is tagged `omitempty`.

mod envelope;
mod meta;
mod node;
mod service;
mod slice;

use crate::wire::{List, Object, Scalar};

pub(crate) use envelope::{ProtoError, WatchEvent, read_list, unwrap};
pub(crate) use meta::{Bookmark, ListMeta, Status};
pub(crate) use node::{Node, ServiceCidr};
pub(crate) use service::Service;
pub(crate) use slice::EndpointSlice;

/// A field that JSON leaves out if it is empty: `omitempty`, and no pointer.
fn omitted<T: Into<Scalar> + Default + PartialEq>(value: Option<T>) -> Scalar {
    pointer(value.filter(|value| *value != T::default()))
}

/// A field that JSON always has: no `omitempty`, and no pointer.
fn always<T: Into<Scalar> + Default>(value: Option<T>) -> Scalar {
    value.unwrap_or_default().into()
}

/// A pointer: whatever it points at is in JSON, too.
fn pointer<T: Into<Scalar>>(value: Option<T>) -> Scalar {
    value.map_or(Scalar::Absent, Into::into)
}

fn object<M, T: From<M> + Default>(message: Option<M>) -> Object<T> {
    Object { value: message.map(T::from).unwrap_or_default(), wrong: None }
}

fn objects<M, T: From<M> + Default>(messages: Vec<M>) -> List<Object<T>> {
    List { items: messages.into_iter().map(|message| object(Some(message))).collect(), wrong: None }
}

fn texts(texts: Vec<Text>) -> List<Scalar> {
    List { items: texts.into_iter().map(Scalar::from).collect(), wrong: None }
}

/// A string. The API server does not check all of them, and what is no UTF-8 must not cost the object, nor the others.
type Text = Vec<u8>;

/// Replaces what is no UTF-8, as Go's JSON does.
fn string(text: Text) -> String {
    String::from_utf8(text).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

impl From<Text> for Scalar {
    fn from(text: Text) -> Self {
        Scalar::Text(string(text))
    }
}

impl From<i32> for Scalar {
    fn from(number: i32) -> Self {
        Scalar::Int(number.into())
    }
}

impl From<bool> for Scalar {
    fn from(value: bool) -> Self {
        Scalar::Bool(value)
    }
}
