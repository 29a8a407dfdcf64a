//! Where Services, EndpointSlices and the own Node come from.
//!
//! [`wire`] reads API objects leniently, [`convert`] turns them into the valid types of `service-model` and says what
//! is wrong with the rest ([`Problem`]), [`ApiSource`] delivers them from a cluster's API server, and [`ManifestSource`]
//! from a directory of YAML or JSON files; both follow changes.
//!
//! Deliberately not here: any decision on what is programmed, and any memory of endpoints beyond what a source needs to
//! tell changes.

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
pub mod wire;

pub use api::{
    ApiOptions, ApiSource, ApiStatus, ConnectError, Delivery, Limits, Listener, PluginError, ProxyVariables,
};
pub use manifests::{Batch, ManifestError, ManifestSource};
pub use problem::{Converted, Problem};
