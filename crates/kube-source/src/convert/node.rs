//! The own Node (pkg/proxy/node.go).

use std::{collections::BTreeMap, net::IpAddr};

use ipnetwork::IpNetwork;
use lb_types::IpFamily;
use service_model::Node;

use super::{address, nameless, object_name, optional_text};
use crate::{
    problem::{Converted, Report},
    wire::{self, List, NodeAddress, Object, Scalar, Spec},
};

const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// Taint of a node that the autoscaler is about to remove (pkg/proxy/healthcheck/proxy_health.go).
const LEAVING_TAINT: &str = "ToBeDeletedByClusterAutoscaler";
/// Types of addresses, in the order of preference (`GetNodeHostIPs` in pkg/util/node/node.go).
const ADDRESS_TYPES: [&str; 2] = ["InternalIP", "ExternalIP"];

/// Converts a Node.
pub fn node(wire: &wire::Node) -> Converted<Node> {
    let Some((_, name)) = object_name(&wire.metadata) else {
        return nameless("Node", &wire.metadata).finish(None);
    };
    let mut report = Report::new(format!("Node {name}"));
    let labels = &wire.metadata.value.labels;
    report.expect("metadata.labels", "an object", labels.wrong);
    report.expect("spec", "an object", wire.spec.wrong);
    report.expect("status", "an object", wire.status.wrong);
    let zone =
        optional_text(format_args!("metadata.labels[{ZONE_LABEL}]"), labels.get(ZONE_LABEL), &mut report);
    let addresses = addresses(&wire.status.value.addresses, &mut report);
    let pod_cidrs = pod_cidrs(&wire.spec.value, &mut report);
    let taints = &wire.spec.value.taints.items;
    let is_tainted = taints.iter().any(|taint| taint.value.key.str() == Some(LEAVING_TAINT));
    let leaves = is_tainted || !wire.metadata.value.deletion_timestamp.is_empty();
    report.finish(Some(Node { name, zone, addresses, pod_cidrs, leaves }))
}

/// Addresses of a Node; host names and DNS names among them are ignored.
fn addresses(list: &List<Object<NodeAddress>>, report: &mut Report) -> BTreeMap<IpFamily, IpAddr> {
    report.expect("status.addresses", "a list", list.wrong);
    let mut addresses = BTreeMap::new();
    for kind in ADDRESS_TYPES {
        for (i, entry) in list.items.iter().enumerate().filter(|(_, e)| e.value.kind.str() == Some(kind)) {
            let field = format!("status.addresses[{i}].address");
            if let Some(ip) = node_address(&field, &entry.value.address, report) {
                addresses.entry(IpFamily::of(ip)).or_insert(ip);
            }
        }
    }
    addresses
}

fn node_address(field: &str, value: &Scalar, report: &mut Report) -> Option<IpAddr> {
    let ip = value.str().and_then(address::parse_ip);
    if ip.is_none() {
        let message = format!("an IP address is expected, found {value}; ignored");
        report.add(field, message, "write an address of the node");
    }
    ip
}

/// Pod CIDRs of a Node. `podCIDR` is the older field; the API keeps it equal to `podCIDRs[0]`.
fn pod_cidrs(spec: &Spec, report: &mut Report) -> Vec<IpNetwork> {
    report.expect("spec.podCIDRs", "a list", spec.pod_cidrs.wrong);
    let listed =
        spec.pod_cidrs.items.iter().enumerate().map(|(i, value)| (format!("spec.podCIDRs[{i}]"), value));
    let mut written: Vec<_> = listed.collect();
    if written.is_empty() && !spec.pod_cidr.is_empty() {
        written.push(("spec.podCIDR".to_owned(), &spec.pod_cidr));
    }
    let mut cidrs = Vec::with_capacity(written.len());
    for (field, value) in written {
        match value.str().and_then(address::parse_cidr) {
            Some(cidr) => cidrs.push(cidr),
            None => {
                let message = format!("a prefix is expected, found {value}; ignored");
                report.add(field, message, "write an address, a slash and a prefix length");
            }
        }
    }
    cidrs
}
