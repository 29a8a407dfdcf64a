//! Model of the API objects: Services, EndpointSlices and the own Node, merged into service ports and
//! endpoints, with the set of Services that changed.
//!
//! Deliberately not here: the wire format of objects (`kube-source` parses and validates), IPVS, and the
//! decision what to program (`planner`). This crate has no clock and does no I/O.
//!
//! Reading order: the inputs ([`Service`], [`EndpointSlice`], [`Node`], carried by [`ModelEvent`]),
//! [`ServiceModel`] with its dirty set, and [`ServiceModel::endpoints`] with [`SelectedEndpoints`], the
//! choice of endpoints by readiness, traffic policy and topology.

mod addresses;
pub mod annotations;
mod changes;
mod endpoints;
mod index;
mod input;
mod intern;
mod listings;
mod model;
mod pods;
mod select;
mod slice;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use addresses::Addresses;
pub use changes::{ChangeCounts, Changes, Trigger};
pub use endpoints::{Endpoint, Placement};
pub use index::ServiceIndex;
pub use input::{
    Affinity, EndpointSlice, ExternalIp, ExternalIpBinding, ExternalSource, ModelEvent, Node, Service,
    ServicePort, ServiceSettings, SliceEndpoint, SliceName, SlicePort, SourceRanges, TrafficPolicy,
};
pub use listings::{Departure, Listing, Listings};
pub use model::ServiceModel;
pub use select::{EndpointPolicy, SelectedEndpoints};
