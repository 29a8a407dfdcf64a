//! Conversion of API objects as they are written ([`crate::wire`]) into the valid types of `service-model`.
//!
//! Each fault is reported with its field, and as little as possible is dropped: one bad port or endpoint does
//! not take the others with it. Defaults are those that the API server would have filled in
//! (pkg/apis/core/v1/defaults.go, pkg/apis/discovery/v1/defaults.go), so that hand-written objects mean what
//! they would mean in a cluster.

mod address;
mod node;
mod service;
mod service_cidr;
mod settings;
mod slice;
#[cfg(test)]
mod tests;

use std::{fmt::Arguments, num::NonZeroU16, sync::Arc};

use lb_types::Protocol;

use crate::{
    problem::Report,
    wire::{Metadata, Object, Scalar},
};

pub use node::node;
pub use service::service;
pub use service_cidr::service_cidr;
pub use slice::slice;

/// Namespace and name of an object; `None` without a name. Without a namespace it is `default`, as for
/// `kubectl`.
pub fn object_name(metadata: &Object<Metadata>) -> Option<(Arc<str>, Arc<str>)> {
    let metadata = &metadata.value;
    let name = metadata.name.text().filter(|name| !name.is_empty())?;
    let namespace = metadata.namespace.text().filter(|namespace| !namespace.is_empty());
    Some((namespace.as_deref().unwrap_or("default").into(), name.into()))
}

/// Report about an object without a name, of which nothing can be used.
fn nameless(kind: &str, metadata: &Object<Metadata>) -> Report {
    let mut report = Report::new(kind.to_owned());
    match metadata.wrong {
        Some(_) => report.expect("metadata", "an object", metadata.wrong),
        None => report.add(
            "metadata.name",
            format!("a name is expected, found {}", metadata.value.name),
            "give the object a name",
        ),
    }
    report
}

/// Reads a protocol; absent means TCP.
fn protocol(field: Arguments<'_>, value: &Scalar, report: &mut Report) -> Option<Protocol> {
    if value.is_empty() {
        return Some(Protocol::Tcp);
    }
    let known = value.str().and_then(|text| text.parse().ok());
    if known.is_none() {
        report.add(field, format!("unknown protocol {value}; port not served"), "write TCP, UDP or SCTP");
    }
    known
}

/// Reads a port number; `consequence` says in the report what happens without it.
fn port_number(
    field: Arguments<'_>,
    value: &Scalar,
    consequence: &str,
    report: &mut Report,
) -> Option<NonZeroU16> {
    let number = value.int().and_then(|n| u16::try_from(n).ok()).and_then(NonZeroU16::new);
    if number.is_none() {
        let message = format!("a port is expected, found {value}; {consequence}");
        report.add(field, message, "write a number from 1 to 65535");
    }
    number
}

/// Reads text that may be absent; anything else is reported and treated as absent.
fn optional_text(field: Arguments<'_>, value: &Scalar, report: &mut Report) -> Option<Arc<str>> {
    if value.is_empty() {
        return None;
    }
    let text = value.text();
    if text.is_none() {
        report.add(field, format!("text is expected, found {value}; ignored"), "write text, in quotes");
    }
    text.map(Arc::from)
}
