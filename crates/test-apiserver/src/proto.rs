//! Objects, lists and events in protobuf, as the API server writes them.
//!
//! The messages are those of the crate `k8s-pb`, which are generated from the proto files of Kubernetes. As in Go, a
//! field that is no pointer is written even if it is empty. An object with fields or values that its type does not
//! have, which no real server stores, has no protobuf.

mod core;
mod fields;
mod meta;

use bytes::{BufMut, Bytes, BytesMut};
use k8s_pb::{
    api::networking::v1 as networking,
    apimachinery::pkg::{
        apis::meta::v1::{ListMeta, WatchEvent},
        runtime::{RawExtension, TypeMeta, Unknown},
    },
};
use prost::Message;
use serde_json::Value;

use self::{
    fields::{Fields, Untyped},
    meta::object_meta,
};
use crate::resource::Resource;

/// First bytes of every object and list (`protoEncodingPrefix` in
/// staging/src/k8s.io/apimachinery/pkg/runtime/serializer/protobuf/protobuf.go).
const MAGIC: &[u8] = b"k8s\0";

/// Message of an object, without anything around it; `None` if it has none.
#[must_use]
pub fn message(resource: Resource, object: Value) -> Option<Vec<u8>> {
    let fields = Fields::of_object(object, resource).ok()?;
    let encoded = match resource {
        Resource::Services => core::service(fields).map(|message| message.encode_to_vec()),
        Resource::Nodes => core::node(fields).map(|message| message.encode_to_vec()),
        Resource::EndpointSlices => core::endpoint_slice(fields).map(|message| message.encode_to_vec()),
        Resource::ServiceCidrs => service_cidr(fields).map(|message| message.encode_to_vec()),
        Resource::Events => Err(Untyped),
    };
    encoded.ok()
}

fn service_cidr(mut fields: Fields) -> Result<networking::ServiceCIDR, Untyped> {
    let message = networking::ServiceCIDR {
        metadata: Some(fields.message("metadata", object_meta)?),
        spec: Some(
            fields.message("spec", |spec| Ok(networking::ServiceCIDRSpec { cidrs: spec.texts("cidrs")? }))?,
        ),
        status: Some(fields.message("status", |status| {
            Ok(networking::ServiceCIDRStatus { conditions: status.messages("conditions", meta::condition)? })
        })?),
    };
    fields.finish(message)
}

/// A message of some kind as a whole body.
fn body(api_version: &str, kind: &str, message: Vec<u8>) -> Vec<u8> {
    let type_meta = TypeMeta { api_version: Some(api_version.to_owned()), kind: Some(kind.to_owned()) };
    let unknown = Unknown {
        type_meta: Some(type_meta),
        raw: Some(message),
        content_encoding: Some(String::new()),
        content_type: Some(String::new()),
    };
    let mut body = MAGIC.to_vec();
    body.append(&mut unknown.encode_to_vec());
    body
}

/// An object as a whole body.
#[must_use]
pub fn object_body(resource: Resource, message: &[u8]) -> Vec<u8> {
    body(resource.api_version(), resource.kind(), message.to_vec())
}

/// A list of any kind: a message within another one looks like so many bytes.
#[derive(Clone, PartialEq, Message)]
struct List {
    #[prost(message, optional, tag = "1")]
    metadata: Option<ListMeta>,
    #[prost(bytes = "bytes", repeated, tag = "2")]
    items: Vec<Bytes>,
}

/// A list of objects as a whole body, from its metadata in JSON.
#[must_use]
pub fn list_body(resource: Resource, metadata: &Value, items: Vec<Bytes>) -> Vec<u8> {
    let text = |field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let metadata = ListMeta {
        self_link: Some(String::new()),
        resource_version: Some(text("resourceVersion")),
        r#continue: Some(text("continue")),
        remaining_item_count: metadata.get("remainingItemCount").and_then(Value::as_i64),
    };
    let list = List { metadata: Some(metadata), items };
    body(resource.api_version(), &format!("{}List", resource.kind()), list.encode_to_vec())
}

/// A Status as a whole body, from its JSON.
#[must_use]
pub fn status_body(status: &Value) -> Vec<u8> {
    body("v1", "Status", meta::status(status).encode_to_vec())
}

/// A frame of a watch: four bytes of length, and the event.
#[must_use]
pub fn frame(change: &str, object: Vec<u8>) -> Bytes {
    let object = Some(RawExtension { raw: Some(object) });
    let event = WatchEvent { r#type: Some(change.to_owned()), object };
    let length = event.encoded_len();
    let mut frame = BytesMut::with_capacity(length + size_of::<u32>());
    frame.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    frame.extend_from_slice(&event.encode_to_vec());
    frame.freeze()
}

/// The same number of bytes, which are no protobuf any more.
#[must_use]
pub fn broken(mut body: Vec<u8>) -> Vec<u8> {
    for byte in body.iter_mut().skip(MAGIC.len()) {
        *byte ^= 0x55;
    }
    body
}

#[cfg(test)]
mod tests {
    use k8s_pb::api::{core::v1::ServiceList, discovery::v1::EndpointSlice};
    use serde_json::json;

    use super::*;
    use crate::{Load, sample};

    /// Message in a body.
    fn unwrap(body: &[u8]) -> (String, Vec<u8>) {
        let unknown = Unknown::decode(body.strip_prefix(MAGIC).unwrap()).unwrap();
        (unknown.type_meta.unwrap().kind.unwrap(), unknown.raw.unwrap())
    }

    #[test]
    fn a_list_is_what_its_own_type_decodes() {
        let service = message(Resource::Services, sample::service("shop", "cart")).unwrap();
        let metadata = json!({"resourceVersion": "7", "continue": "c", "remainingItemCount": 3});
        let body = list_body(Resource::Services, &metadata, vec![service.into()]);
        let (kind, raw) = unwrap(&body);
        let list = ServiceList::decode(&*raw).unwrap();
        let metadata = list.metadata.unwrap();
        assert_eq!((&*kind, metadata.resource_version.as_deref()), ("ServiceList", Some("7")));
        assert_eq!((metadata.r#continue.as_deref(), metadata.remaining_item_count), (Some("c"), Some(3)));
        let [service] = &list.items[..] else { panic!("{:?}", list.items) };
        assert_eq!(service.metadata.as_ref().unwrap().name.as_deref(), Some("cart"));
        assert_eq!(service.spec.as_ref().unwrap().ports[0].port, Some(80));
    }

    #[test]
    fn all_generated_objects_have_a_message() {
        for object in (Load { services: 2, endpoints: 150 }).objects() {
            let resource = Resource::of(&object).unwrap();
            assert!(message(resource, object.clone()).is_some(), "{object}");
        }
        let slice = Load { services: 1, endpoints: 2 }.objects().nth(1).unwrap();
        let message = message(Resource::EndpointSlices, slice).unwrap();
        let slice = EndpointSlice::decode(&*message).unwrap();
        assert_eq!(slice.endpoints[1].conditions.unwrap().terminating, Some(false));
        let time = &slice.metadata.unwrap().managed_fields[0].time.unwrap();
        assert_eq!(time.seconds, Some(1_767_225_600));
    }

    #[test]
    fn what_no_server_stores_has_no_message() {
        let mut service = sample::service("shop", "cart");
        for (field, value) in [
            ("clusterIP", json!(7)),
            ("ports", json!("80")),
            ("ports", json!([{"port": "80"}])),
            ("ports", json!([{"port": 1.5}])),
            ("ports", json!([{"port": 1_u64 << 40}])),
            ("surprise", json!(1)),
        ] {
            service["spec"] = json!({ field: value });
            assert_eq!(message(Resource::Services, service.clone()), None, "{service}");
        }
    }
}
