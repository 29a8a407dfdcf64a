//! Sources of Services, EndpointSlices and the own Node.
//!
//! [`wire`] reads API objects leniently (`proto` those in protobuf), and [`convert`] turns them into the valid types of `service-model`
//! and reports what cannot be used ([`Problem`]). [`ApiSource`] delivers objects from the API server of a
//! cluster, [`ManifestSource`] from a directory of YAML or JSON files; both follow changes.
//!
//! Deliberately not here: any decision on what is programmed, and any memory of endpoints beyond what a
//! source needs to notice changes.

mod api;
pub mod convert;
/// Entrances for the fuzz targets.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing {
    pub use crate::{api::fuzzing::*, manifests::fuzzing::*};
}
mod manifests;
mod problem;
mod proto;
pub mod wire;

pub use api::{
    ApiOptions, ApiSource, ApiStatus, ConnectError, Counted, Delivery, EventCounts, EventLimits, Limits,
    Listener, MediaType, Notice, PluginError, ProxyVariables, Reason, Recorder, Regarding, RequestCounts,
    ServiceRef,
};
pub use manifests::{Batch, ManifestError, ManifestSource};
pub use problem::{Converted, Problem};
