//! EndpointSlices (pkg/proxy/endpointslicecache.go).

use std::{borrow::Cow, net::IpAddr, sync::Arc, time::SystemTime};

use jiff::Timestamp;
use lb_types::{IpFamily, ServiceName};
use service_model::{EndpointSlice, SliceEndpoint, SliceName, SlicePort};

use super::{address, nameless, object_name, optional_text, port_number, protocol};
use crate::{
    problem::{Converted, Report},
    wire::{self, Hint, List, Object, Scalar, TargetRef},
};

/// Annotation with the time of what triggered the last change (`getLastChangeTriggerTime` in
/// pkg/proxy/endpointschangetracker.go).
const TRIGGER_ANNOTATION: &str = "endpoints.kubernetes.io/last-change-trigger-time";
const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";
/// Label on slices of headless Services, which need no proxy (`newInformerFactory` in
/// cmd/kube-proxy/app/server.go).
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// Converts a slice of IP addresses that belongs to a Service. FQDN slices and those of headless Services are
/// not served.
pub fn slice(wire: &wire::EndpointSlice) -> Converted<EndpointSlice> {
    let Some((namespace, name)) = object_name(&wire.metadata) else {
        return nameless("EndpointSlice", &wire.metadata).finish(None);
    };
    let name = SliceName { namespace, name };
    let mut report = Report::new(format!("EndpointSlice {}/{}", name.namespace, name.name));
    let labels = &wire.metadata.value.labels;
    if labels.has(HEADLESS_LABEL) || wire.address_type.str() == Some("FQDN") {
        return report.finish(None);
    }
    report.expect("metadata.labels", "an object", labels.wrong);
    let family = family(&wire.address_type, &mut report);
    let service = service_of(labels.get(SERVICE_NAME_LABEL), &name, &mut report);
    let (Some(family), Some(service)) = (family, service) else {
        return report.finish(None);
    };
    let triggered = triggered(wire.metadata.value.annotations.get(TRIGGER_ANNOTATION));
    let ports = ports(&wire.ports, &mut report);
    let endpoints = endpoints(&wire.endpoints, family, &name.namespace, &mut report);
    report.finish(Some(EndpointSlice { name, service, family, ports, endpoints, triggered }))
}

fn family(value: &Scalar, report: &mut Report) -> Option<IpFamily> {
    match value.str() {
        Some("IPv4") => Some(IpFamily::V4),
        Some("IPv6") => Some(IpFamily::V6),
        _ => {
            let message = format!("an address type is expected, found {value}; the slice is not served");
            report.add("addressType", message, "write IPv4 or IPv6");
            None
        }
    }
}

/// Reads the time of the trigger. It only serves a metric, so that another text is no fault worth a word.
fn triggered(value: &Scalar) -> Option<SystemTime> {
    value.str()?.parse::<Timestamp>().ok().map(SystemTime::from)
}

fn service_of(label: &Scalar, slice: &SliceName, report: &mut Report) -> Option<ServiceName> {
    let name = label.text().filter(|name| !name.is_empty());
    if name.is_none() {
        let field = format_args!("metadata.labels[{SERVICE_NAME_LABEL}]");
        let message = format!("the name of a Service is expected, found {label}; the slice is not served");
        report.add(field, message, "set the label to the name of the Service");
    }
    name.map(|name| ServiceName { namespace: Arc::clone(&slice.namespace), name: name.into() })
}

/// Reads the ports. Without a number a port means "all ports" in the API, which no proxy can serve.
fn ports(list: &List<Object<wire::SlicePort>>, report: &mut Report) -> Vec<SlicePort> {
    report.expect("ports", "a list", list.wrong);
    let mut ports = Vec::with_capacity(list.items.len());
    for (i, wire) in list.items.iter().enumerate() {
        let field = format_args!("ports[{i}]");
        report.expect(field, "an object", wire.wrong);
        let wire = &wire.value;
        let protocol = protocol(format_args!("{field}.protocol"), &wire.protocol, report);
        let port = port_number(format_args!("{field}.port"), &wire.port, "port not served", report);
        let name = optional_text(format_args!("{field}.name"), &wire.name, report).unwrap_or_default();
        if let (Some(protocol), Some(port)) = (protocol, port) {
            ports.push(SlicePort { name, protocol, port });
        }
    }
    ports
}

fn endpoints(
    list: &List<Object<wire::Endpoint>>,
    family: IpFamily,
    namespace: &str,
    report: &mut Report,
) -> Vec<SliceEndpoint> {
    report.expect("endpoints", "a list", list.wrong);
    let mut endpoints = Vec::with_capacity(list.items.len());
    for (i, wire) in list.items.iter().enumerate() {
        let mut place = Place { index: i, report: &mut *report };
        place.expect("", "an object", wire.wrong);
        endpoints.extend(endpoint(&wire.value, family, namespace, &mut place));
    }
    endpoints
}

/// Place of one endpoint in reports.
struct Place<'a> {
    index: usize,
    report: &'a mut Report,
}

impl Place<'_> {
    fn add(&mut self, field: &str, message: String, remedy: impl Into<String>) {
        self.report.add(format_args!("endpoints[{}]{field}", self.index), message, remedy);
    }

    fn expect(&mut self, field: &str, expected: &str, wrong: Option<&'static str>) {
        self.report.expect(format_args!("endpoints[{}]{field}", self.index), expected, wrong);
    }
}

fn endpoint(
    wire: &wire::Endpoint,
    family: IpFamily,
    namespace: &str,
    place: &mut Place<'_>,
) -> Option<SliceEndpoint> {
    let addr = address(wire, family, place)?;
    place.expect(".conditions", "an object", wire.conditions.wrong);
    place.expect(".hints", "an object", wire.hints.wrong);
    let (conditions, hints) = (&wire.conditions.value, &wire.hints.value);
    Some(SliceEndpoint {
        addr,
        ready: condition(&conditions.ready, true, ".conditions.ready", place),
        serving: condition(&conditions.serving, true, ".conditions.serving", place),
        terminating: condition(&conditions.terminating, false, ".conditions.terminating", place),
        node: wire.node_name.text().filter(|name| !name.is_empty()).map(Arc::from),
        zone_hints: hint_names(&hints.for_zones, ".hints.forZones", place),
        node_hints: hint_names(&hints.for_nodes, ".hints.forNodes", place),
        pod: pod(&wire.target_ref.value, namespace),
    })
}

/// Reads the address; only the first one counts (`addEndpoints` in pkg/proxy/endpointslicecache.go).
fn address(wire: &wire::Endpoint, family: IpFamily, place: &mut Place<'_>) -> Option<IpAddr> {
    place.expect(".addresses", "a list", wire.addresses.wrong);
    let remedy = || format!("write an {family} address of a pod");
    let value = wire.addresses.items.first().unwrap_or(&Scalar::Absent);
    let Some(ip) = value.str().and_then(address::parse_ip) else {
        let message = format!("an IP address is expected, found {value}; endpoint not served");
        place.add(".addresses[0]", message, remedy());
        return None;
    };
    let wrong = match address::special(ip) {
        Some(special) => format!("{ip} is {special}, which cannot be an endpoint; not served"),
        None if IpFamily::of(ip) != family => {
            format!("{ip} is not {family}, which is the slice's addressType; endpoint not served")
        }
        None => return Some(ip),
    };
    place.add(".addresses[0]", wrong, remedy());
    None
}

fn condition(value: &Scalar, default: bool, field: &str, place: &mut Place<'_>) -> bool {
    match value {
        Scalar::Bool(value) => *value,
        Scalar::Absent => default,
        other => {
            let message = format!("true or false is expected, found {other}; {default} is used");
            place.add(field, message, "write true or false");
            default
        }
    }
}

fn hint_names(list: &List<Object<Hint>>, field: &str, place: &mut Place<'_>) -> Vec<Arc<str>> {
    place.expect(field, "a list", list.wrong);
    let names = list.items.iter().filter_map(|hint| hint.value.name.text());
    names.filter(|name| !name.is_empty()).map(Arc::from).collect()
}

/// `NAMESPACE/NAME/UID` of the pod, if name or UID is known.
fn pod(target: &TargetRef, namespace: &str) -> Option<Arc<str>> {
    let texts = [&target.namespace, &target.name, &target.uid].map(Scalar::text);
    let [target_namespace, name, uid] = texts.map(|text| text.filter(|text| !text.is_empty()));
    if name.is_none() && uid.is_none() {
        return None;
    }
    let namespace = target_namespace.unwrap_or(Cow::Borrowed(namespace));
    Some([&*namespace, "/", &name.unwrap_or_default(), "/", &uid.unwrap_or_default()].concat().into())
}
