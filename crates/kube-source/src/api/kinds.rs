//! The kinds of objects that are watched, and the meaning of a single object.

use std::sync::Arc;

use bytes::Bytes;
use ipnetwork::IpNetwork;
use lb_types::ServiceName;
use prost::Message;
use serde::{Deserialize, de::DeserializeOwned};
use service_model::{ModelEvent, SliceName};

use crate::{
    Converted, Problem, convert, proto,
    wire::{self, Metadata, Object},
};

/// Namespace and name; the namespace of a Node or ServiceCIDR means nothing.
pub(super) type Name = (Arc<str>, Arc<str>);

/// Minor version of the first Kubernetes whose proxies serve Services with the label of headless ones, which is meant for
/// slices (kubernetes#134623).
const HEADLESS_SERVICES_SERVED_SINCE_MINOR: u32 = 35;

/// Kind of objects that is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Kind {
    Node,
    ServiceCidr,
    Service,
    EndpointSlice,
}

/// Content of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Event that is passed on as it is.
    Event(ModelEvent),
    /// Part of a [`ModelEvent::ServiceCidrsApplied`].
    Cidrs(Vec<IpNetwork>),
}

/// An object that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Item {
    /// `None` if the object cannot even be named.
    pub(super) name: Option<Name>,
    /// `metadata.resourceVersion`
    pub(super) version: Option<Arc<str>>,
    /// `None` if nothing of it is served.
    pub(super) content: Option<Content>,
    pub(super) problems: Vec<Problem>,
}

impl Kind {
    pub(super) const ALL: [Kind; 4] = [Kind::Node, Kind::ServiceCidr, Kind::Service, Kind::EndpointSlice];

    /// Name in `kubectl api-resources`.
    pub(super) const fn resource(self) -> &'static str {
        match self {
            Kind::Node => "nodes",
            Kind::ServiceCidr => "servicecidrs",
            Kind::Service => "services",
            Kind::EndpointSlice => "endpointslices",
        }
    }

    /// Path of its lists.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Kind::Node => "/api/v1/nodes",
            Kind::ServiceCidr => "/apis/networking.k8s.io/v1/servicecidrs",
            Kind::Service => "/api/v1/services",
            Kind::EndpointSlice => "/apis/discovery.k8s.io/v1/endpointslices",
        }
    }

    /// Tells whether nothing may be programmed before the first list. The other kinds are dispensable:
    /// ServiceCIDRs exist only since Kubernetes 1.33, and a proxy that may not read its Node only lacks the
    /// facts in it.
    pub(super) const fn is_vital(self) -> bool {
        matches!(self, Kind::Service | Kind::EndpointSlice)
    }

    /// Tells whether its selector depends on the server's version.
    pub(super) const fn depends_on_version(self) -> bool {
        matches!(self, Kind::Service)
    }

    /// Name and value of the selector parameter, as in `newInformerFactory` (cmd/kube-proxy/app/server.go) of the
    /// server's version; of the newest where that is not known.
    pub(super) fn selector(self, node_name: &str, minor: Option<u32>) -> Option<(&'static str, String)> {
        let label = |text: &str| Some(("labelSelector", text.to_owned()));
        match self {
            Kind::Node => Some(("fieldSelector", format!("metadata.name={node_name}"))),
            Kind::ServiceCidr => None,
            Kind::Service if minor.is_some_and(|minor| minor < HEADLESS_SERVICES_SERVED_SINCE_MINOR) => {
                label("!service.kubernetes.io/service-proxy-name,!service.kubernetes.io/headless")
            }
            Kind::Service => label("!service.kubernetes.io/service-proxy-name"),
            Kind::EndpointSlice => label("!service.kubernetes.io/headless"),
        }
    }

    /// Kind of its objects, as they name it.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Kind::Node => "Node",
            Kind::ServiceCidr => "ServiceCIDR",
            Kind::Service => "Service",
            Kind::EndpointSlice => "EndpointSlice",
        }
    }

    /// Reads one object. Fails only if the text is not JSON; everything else is a problem of that object.
    pub(super) fn read_json(self, json: &str) -> Result<Item, serde_json::Error> {
        Ok(match self {
            Kind::Node => node(&parse(json)?),
            Kind::ServiceCidr => service_cidr(&parse(json)?),
            Kind::Service => service(&parse(json)?),
            Kind::EndpointSlice => slice(&parse(json)?),
        })
    }

    /// Reads the message of one object. Fails only if the bytes are no such message.
    pub(super) fn read_protobuf(self, message: Bytes) -> Result<Item, prost::DecodeError> {
        Ok(match self {
            Kind::Node => node(&proto::Node::decode(message)?.into()),
            Kind::ServiceCidr => service_cidr(&proto::ServiceCidr::decode(message)?.into()),
            Kind::Service => service(&proto::Service::decode(message)?.into()),
            Kind::EndpointSlice => slice(&proto::EndpointSlice::decode(message)?.into()),
        })
    }

    /// Event for the disappearance of an object.
    pub(super) fn deletion(self, (namespace, name): Name) -> Option<ModelEvent> {
        match self {
            Kind::Node => Some(ModelEvent::NodeDeleted),
            Kind::ServiceCidr => None,
            Kind::Service => Some(ModelEvent::ServiceDeleted(ServiceName { namespace, name })),
            Kind::EndpointSlice => Some(ModelEvent::SliceDeleted(SliceName { namespace, name })),
        }
    }
}

fn node(wire: &wire::Node) -> Item {
    item(wire, |wire| converted(convert::node(wire), |node| Content::Event(ModelEvent::NodeApplied(node))))
}

fn service_cidr(wire: &wire::ServiceCidr) -> Item {
    item(wire, |wire| converted(convert::service_cidr(wire), Content::Cidrs))
}

fn service(wire: &wire::Service) -> Item {
    item(wire, |wire| {
        converted(convert::service(wire), |service| Content::Event(ModelEvent::ServiceApplied(service)))
    })
}

fn slice(wire: &wire::EndpointSlice) -> Item {
    item(wire, |wire| {
        converted(convert::slice(wire), |slice| Content::Event(ModelEvent::SliceApplied(slice)))
    })
}

trait HasMetadata: DeserializeOwned + Default {
    fn metadata(&self) -> &Object<Metadata>;
}

macro_rules! has_metadata {
    ($($kind:ident)*) => {
        $(impl HasMetadata for wire::$kind {
            fn metadata(&self) -> &Object<Metadata> {
                &self.metadata
            }
        })*
    };
}

has_metadata!(Node ServiceCidr Service EndpointSlice);

fn parse<T: DeserializeOwned + Default>(json: &str) -> Result<T, serde_json::Error> {
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let object = Object::<T>::deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok(object.value)
}

fn item<T: HasMetadata>(wire: &T, convert: impl FnOnce(&T) -> (Option<Content>, Vec<Problem>)) -> Item {
    let metadata = wire.metadata();
    let (content, problems) = convert(wire);
    Item {
        name: convert::object_name(metadata),
        version: metadata.value.resource_version.text().map(Arc::from),
        content,
        problems,
    }
}

fn converted<T>(
    converted: Converted<T>,
    content: impl FnOnce(T) -> Content,
) -> (Option<Content>, Vec<Problem>) {
    (converted.object.map(content), converted.problems)
}

#[cfg(test)]
mod tests;
