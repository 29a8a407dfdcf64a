//! ServiceCIDRs (pkg/apis/networking/types.go).

use ipnetwork::IpNetwork;

use super::{address, nameless, object_name};
use crate::{
    problem::{Converted, Report},
    wire,
};

/// Converts a ServiceCIDR into its prefixes.
pub fn service_cidr(wire: &wire::ServiceCidr) -> Converted<Vec<IpNetwork>> {
    let Some((_, name)) = object_name(&wire.metadata) else {
        return nameless("ServiceCIDR", &wire.metadata).finish(None);
    };
    let mut report = Report::new(format!("ServiceCIDR {name}"));
    report.expect("spec", "an object", wire.spec.wrong);
    let list = &wire.spec.value.cidrs;
    report.expect("spec.cidrs", "a list", list.wrong);
    let mut cidrs = Vec::with_capacity(list.items.len());
    for (i, value) in list.items.iter().enumerate() {
        match value.str().and_then(address::parse_cidr) {
            Some(cidr) => cidrs.push(cidr),
            None => report.add(
                format!("spec.cidrs[{i}]"),
                format!("a prefix is expected, found {value}; ignored"),
                "write an address, a slash and a prefix length",
            ),
        }
    }
    report.finish(Some(cidrs))
}
