//! From API objects as written ([`crate::wire`]) to the valid types of `service-model`.
//!
//! What is wrong is reported with its field and dropped as narrowly as makes sense: one bad port or endpoint does not
//! take the others with it. Defaults are those that the API server would have filled in (pkg/apis/core/v1/defaults.go,
//! pkg/apis/discovery/v1/defaults.go), so that hand-written objects mean what they would mean in a cluster.

mod address;
mod node;
mod service;
mod service_cidr;
mod settings;
mod slice;
#[cfg(test)]
mod tests;

use std::{num::NonZeroU16, sync::Arc};

use lb_types::Protocol;

use crate::{
    problem::Report,
    wire::{Metadata, Object, Scalar},
};

pub use node::node;
pub use service::service;
pub use service_cidr::service_cidr;
pub use slice::slice;

/// Namespace and name of an object; `kubectl` too takes `default` where no namespace is written. `None` without a name.
pub fn object_name(metadata: &Object<Metadata>) -> Option<(Arc<str>, Arc<str>)> {
    let metadata = &metadata.value;
    let name = metadata.name.text().filter(|name| !name.is_empty())?;
    let namespace = metadata.namespace.text().filter(|namespace| !namespace.is_empty());
    Some((namespace.as_deref().unwrap_or("default").into(), name.into()))
}

/// A report about an object without a name: nothing of it can be used.
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

/// A protocol; absent means TCP.
fn protocol(field: &str, value: &Scalar, report: &mut Report) -> Option<Protocol> {
    if value.is_empty() {
        return Some(Protocol::Tcp);
    }
    let known = value.str().and_then(|text| text.parse().ok());
    if known.is_none() {
        report.add(field, format!("unknown protocol {value}; port not served"), "write TCP, UDP or SCTP");
    }
    known
}

/// A port number; `what` happens without it.
fn port_number(field: &str, value: &Scalar, what: &str, report: &mut Report) -> Option<NonZeroU16> {
    let number = value.int().and_then(|n| u16::try_from(n).ok()).and_then(NonZeroU16::new);
    if number.is_none() {
        let message = format!("a port is expected, found {value}; {what}");
        report.add(field, message, "write a number from 1 to 65535");
    }
    number
}

/// Text that may be absent; anything else is reported and treated as absent.
fn optional_text(field: &str, value: &Scalar, report: &mut Report) -> Option<Arc<str>> {
    if value.is_empty() {
        return None;
    }
    let text = value.text();
    if text.is_none() {
        report.add(field, format!("text is expected, found {value}; ignored"), "write text, in quotes");
    }
    text.map(Arc::from)
}
