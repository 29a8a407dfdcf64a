//! Services (pkg/proxy/serviceport.go, pkg/proxy/util/utils.go).

use std::{
    fmt::Arguments,
    net::IpAddr,
    num::{NonZeroU16, NonZeroU32},
    sync::Arc,
};

use ipnetwork::IpNetwork;
use jiff::Timestamp;
use lb_types::{IpFamily, ServiceName};
use service_model::{
    Affinity, ExternalIp, ExternalSource, Service, ServicePort, SourceRanges, TrafficPolicy,
};

use super::{address, nameless, object_name, optional_text, port_number, protocol, settings};
use crate::{
    problem::{Converted, Report},
    wire::{self, Ingress, Labels, Scalar, Spec},
};

/// A Service with this label belongs to another proxy (pkg/proxy/apis/well_known_labels.go).
const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// `DefaultClientIPServiceAffinitySeconds` in pkg/apis/core/types.go.
const DEFAULT_AFFINITY_SECONDS: u32 = 10_800;
/// `MaxClientIPServiceAffinitySeconds` in pkg/apis/core/types.go.
const MAX_AFFINITY_SECONDS: u32 = 86_400;

/// Converts a Service that has at least one ClusterIP and one port. Headless and ExternalName Services and
/// those of other proxies are not served.
pub fn service(wire: &wire::Service) -> Converted<Service> {
    let Some((namespace, name)) = object_name(&wire.metadata) else {
        return nameless("Service", &wire.metadata).finish(None);
    };
    let name = ServiceName { namespace, name };
    let metadata = &wire.metadata.value;
    let mut report = Report::of_service(&name, &metadata.uid.text().unwrap_or_default());
    let spec = &wire.spec.value;
    if metadata.labels.has(PROXY_NAME_LABEL) || is_skipped(spec) {
        if !metadata.labels.has(PROXY_NAME_LABEL) && is_headless(spec) && !spec.external_ips.items.is_empty()
        {
            let message = "no proxy serves the addresses of a headless Service";
            report.add("spec.externalIPs", message, "remove them, or give the Service a ClusterIP");
        }
        return report.finish(None);
    }
    report.expect("metadata.labels", "an object", metadata.labels.wrong);
    report.expect("spec", "an object", wire.spec.wrong);
    let cluster_ips = cluster_ips(spec, &mut report);
    let ports = ports(spec, &mut report);
    if cluster_ips.is_empty() || ports.is_empty() {
        return report.finish(None);
    }
    let external_ips = external_ips(wire, &cluster_ips, &mut report);
    let internal_traffic_policy = policy("internalTrafficPolicy", &spec.internal_traffic_policy, &mut report);
    let external_traffic_policy = policy("externalTrafficPolicy", &spec.external_traffic_policy, &mut report);
    let has_balancer = spec.kind.str() == Some("LoadBalancer");
    let addresses = settings::ExternalIps { known: &external_ips, has_balancer };
    let settings = settings::settings(&metadata.annotations, &addresses, &mut report);
    let service = Service {
        critical: is_critical(&name, &metadata.labels),
        name,
        uid: optional_text(format_args!("metadata.uid"), &metadata.uid, &mut report).unwrap_or_default(),
        created: created(&metadata.creation_timestamp, &mut report),
        cluster_ips,
        external_ips,
        source_ranges: source_ranges(spec, &mut report),
        ports,
        affinity: affinity(spec, &mut report),
        internal_traffic_policy,
        external_traffic_policy,
        health_check_port: health_check_port(spec, external_traffic_policy, &mut report),
        settings,
    };
    report.finish(Some(service))
}

/// Tells whether a Service is not meant for a proxy (`ShouldSkipService` in pkg/proxy/util/utils.go). Unlike
/// there, a missing ClusterIP is reported: the API server fills it in, so only a hand-written Service lacks
/// it.
fn is_skipped(spec: &Spec) -> bool {
    spec.kind.str() == Some("ExternalName") || is_headless(spec)
}

fn is_headless(spec: &Spec) -> bool {
    let first =
        if spec.cluster_ip.is_empty() { spec.cluster_ips.items.first() } else { Some(&spec.cluster_ip) };
    first.and_then(Scalar::str) == Some("None")
}

/// Tells whether a Service is `default/kubernetes` or cluster DNS, without which nothing else starts.
fn is_critical(name: &ServiceName, labels: &Labels) -> bool {
    let (namespace, name) = (&*name.namespace, &*name.name);
    (namespace, name) == ("default", "kubernetes")
        || labels.get("k8s-app").str() == Some("kube-dns")
        || (namespace == "kube-system" && ["kube-dns", "coredns"].contains(&name))
}

/// ClusterIPs, at most one per family. The API requires `clusterIP == clusterIPs[0]` and one entry of
/// `ipFamilies` for each; old and hand-written objects have less (`GetClusterIPByFamily` in
/// pkg/proxy/util/utils.go).
fn cluster_ips(spec: &Spec, report: &mut Report) -> Vec<IpAddr> {
    report.expect("spec.clusterIPs", "a list", spec.cluster_ips.wrong);
    report.expect("spec.ipFamilies", "a list", spec.ip_families.wrong);
    let single = [spec.cluster_ip.clone()];
    let (name, written) = match spec.cluster_ips.items.first() {
        None => ("spec.clusterIP", &single[..]),
        Some(_) => ("spec.clusterIPs", &spec.cluster_ips.items[..]),
    };
    if !spec.cluster_ip.is_empty() && written.first() != Some(&spec.cluster_ip) {
        let message = format!("{} differs from spec.clusterIPs[0], which is used", spec.cluster_ip);
        report.add("spec.clusterIP", message, "write the same address in both");
    }
    let mut ips: Vec<IpAddr> = Vec::new();
    for (i, value) in written.iter().enumerate() {
        let whole = name == "spec.clusterIP";
        let field = if whole { format_args!("{name}") } else { format_args!("{name}[{i}]") };
        let remedy = "write an address of the cluster's Service range";
        let Some(ip) = vip(field, value, "a ClusterIP", remedy, report) else { continue };
        let family = IpFamily::of(ip);
        if ips.iter().any(|known| IpFamily::of(*known) == family) {
            let message = format!("{ip} is a second {family} address; ignored");
            report.add(field, message, "a Service has at most one ClusterIP per family");
        } else if is_family_at(spec, i, family, field, report) {
            ips.push(ip);
        }
    }
    ips
}

/// Parses an address that is to be `what`, with the remedy for one that cannot be.
fn vip(
    field: Arguments<'_>,
    value: &Scalar,
    what: &str,
    remedy: &str,
    report: &mut Report,
) -> Option<IpAddr> {
    let Some(ip) = value.str().and_then(address::parse_ip) else {
        report.add(field, format!("an IP address is expected, found {value}; not served"), remedy);
        return None;
    };
    if let Some(special) = address::special(ip) {
        report.add(field, format!("{ip} is {special}, which cannot be {what}; not served"), remedy);
        return None;
    }
    Some(ip)
}

/// Tells whether `ipFamilies`, if written at all, agrees with the address at a position.
fn is_family_at(spec: &Spec, i: usize, family: IpFamily, field: Arguments<'_>, report: &mut Report) -> bool {
    let families = &spec.ip_families.items;
    let agrees = families.is_empty() || families.get(i).is_some_and(|f| f.str() == Some(&family.to_string()));
    if !agrees {
        let entry = families.get(i).unwrap_or(&Scalar::Absent);
        let message = format!("the address is {family}, but spec.ipFamilies[{i}] says {entry}; not served");
        report.add(
            field,
            message,
            "list the family of each of spec.clusterIPs in spec.ipFamilies, in the same order",
        );
    }
    agrees
}

/// `spec.externalIPs` and the addresses of `status.loadBalancer.ingress`; an entry that has a host name alone is none.
fn external_ips(wire: &wire::Service, cluster_ips: &[IpAddr], report: &mut Report) -> Vec<ExternalIp> {
    let (spec, balancer) = (&wire.spec.value, &wire.status.value.load_balancer);
    report.expect("spec.externalIPs", "a list", spec.external_ips.wrong);
    report.expect("status.loadBalancer", "an object", balancer.wrong);
    report.expect("status.loadBalancer.ingress", "a list", balancer.value.ingress.wrong);
    let mut ips: Vec<ExternalIp> = Vec::new();
    let mut add = |field: Arguments<'_>, value: &Scalar, source: ExternalSource| {
        let remedy = "write an address that clients can reach";
        let Some(addr) = vip(field, value, "a VIP", remedy, report) else { return };
        let is_served = cluster_ips.iter().any(|ip| IpFamily::of(*ip) == IpFamily::of(addr));
        if !is_served {
            let message = format!("the Service has no {} ClusterIP; not served", IpFamily::of(addr));
            report.add(field, message, "add the family to spec.ipFamilies, or remove the address");
        } else if let Some(known) = ips.iter_mut().find(|known| known.addr == addr) {
            // What restricts the clients of a load balancer holds for its address, wherever else that is named.
            known.source = source;
        } else if !cluster_ips.contains(&addr) {
            ips.push(ExternalIp { addr, source });
        }
    };
    for (i, value) in spec.external_ips.items.iter().enumerate() {
        add(format_args!("spec.externalIPs[{i}]"), value, ExternalSource::ExternalIps);
    }
    for (i, Ingress { ip, .. }) in ingress_points(wire).enumerate().filter(|(_, at)| !is_proxy(at)) {
        if !ip.is_empty() {
            add(format_args!("status.loadBalancer.ingress[{i}].ip"), ip, ExternalSource::LoadBalancer);
        }
    }
    add_proxies(wire, cluster_ips, &mut ips);
    ips
}

fn ingress_points(wire: &wire::Service) -> impl Iterator<Item = &Ingress> {
    wire.status.value.load_balancer.value.ingress.items.iter().map(|ingress| &ingress.value)
}

/// Adds the addresses of load balancers that are proxies, unless they are served all the same. They are of no use to a
/// node, so that nothing is wrong with them either.
fn add_proxies(wire: &wire::Service, cluster_ips: &[IpAddr], ips: &mut Vec<ExternalIp>) {
    let proxies = ingress_points(wire).filter(|at| is_proxy(at));
    for addr in proxies.filter_map(|at| address::parse_ip(at.ip.str()?)) {
        let has_family = cluster_ips.iter().any(|ip| IpFamily::of(*ip) == IpFamily::of(addr));
        let is_known = cluster_ips.contains(&addr) || ips.iter().any(|known| known.addr == addr);
        if has_family && !is_known && address::special(addr).is_none() {
            ips.push(ExternalIp { addr, source: ExternalSource::Proxy });
        }
    }
}

/// Tells whether clients are to pass the load balancer: only where `ipMode` is VIP or missing do nodes serve its address.
fn is_proxy(ingress: &Ingress) -> bool {
    !ingress.ip_mode.is_empty() && ingress.ip_mode.str() != Some("VIP")
}

/// `spec.healthCheckNodePort`, which counts for load balancers with the policy Local only.
fn health_check_port(spec: &Spec, policy: TrafficPolicy, report: &mut Report) -> Option<NonZeroU16> {
    let counts = spec.kind.str() == Some("LoadBalancer") && policy == TrafficPolicy::Local;
    let value = &spec.health_check_node_port;
    if !counts || value.is_empty() || value.int() == Some(0) {
        return None;
    }
    port_number(
        format_args!("spec.healthCheckNodePort"),
        value,
        "load balancers cannot find the nodes with endpoints",
        report,
    )
}

/// `spec.loadBalancerSourceRanges`, each family by itself as in kube-proxy (pkg/proxy/serviceport.go): without a prefix
/// of a family, or with one that has all of its addresses, everybody may connect. A prefix that cannot be read lets
/// nobody in, whatever the family.
fn source_ranges(spec: &Spec, report: &mut Report) -> Option<Arc<SourceRanges>> {
    let list = &spec.load_balancer_source_ranges;
    report.expect("spec.loadBalancerSourceRanges", "a list of prefixes", list.wrong);
    let mut any_wrong = list.wrong.is_some();
    let mut prefixes: Vec<IpNetwork> = Vec::new();
    for (i, value) in list.items.iter().enumerate() {
        let prefix = value.str().map(str::trim).and_then(address::parse_cidr);
        let prefix = prefix.and_then(|net| IpNetwork::new(net.network(), net.prefix()).ok());
        if prefix.is_none() {
            let message = format!("a prefix is expected, found {value}; nobody is let in by it");
            report.add(
                format_args!("spec.loadBalancerSourceRanges[{i}]"),
                message,
                "write an address and a length, such as 203.0.113.0/24",
            );
        }
        any_wrong |= prefix.is_none();
        prefixes.extend(prefix);
    }
    // Wide ones first: what lies within another one follows it.
    prefixes.sort_unstable_by_key(|net| (net.network(), net.prefix()));
    let of_family = |family: IpFamily| -> Option<Arc<[IpNetwork]>> {
        let mut widest: Vec<IpNetwork> = Vec::new();
        for net in prefixes.iter().filter(|net| IpFamily::of(net.network()) == family) {
            if !widest.last().is_some_and(|last| last.contains(net.network())) {
                widest.push(*net);
            }
        }
        let restricts = if widest.is_empty() { any_wrong } else { widest.iter().all(|net| net.prefix() > 0) };
        restricts.then(|| widest.into())
    };
    let ranges = SourceRanges { v4: of_family(IpFamily::V4), v6: of_family(IpFamily::V6) };
    (ranges != SourceRanges::default()).then(|| ranges.into())
}

fn ports(spec: &Spec, report: &mut Report) -> Vec<ServicePort> {
    report.expect("spec.ports", "a list", spec.ports.wrong);
    if spec.ports.items.is_empty() && spec.ports.wrong.is_none() {
        report.add("spec.ports", "no port; the Service is not served", "add a port");
    }
    let mut ports: Vec<ServicePort> = Vec::new();
    for (i, wire) in spec.ports.items.iter().enumerate() {
        let field = format_args!("spec.ports[{i}]");
        report.expect(field, "an object", wire.wrong);
        let Some(mut port) = port(field, &wire.value, report) else { continue };
        if port.name.is_empty() && spec.ports.items.len() > 1 {
            let message = "a port without a name among several";
            report.add(
                format_args!("{field}.name"),
                message,
                "name every port of a Service with several ports",
            );
        }
        if let Some((part, message)) = ports.iter().find_map(|known| clash(known, &port)) {
            report.add(
                format_args!("{field}{part}"),
                format!("{message}; port not served"),
                "change or remove one of them",
            );
        } else {
            let is_taken =
                |known: &ServicePort| known.protocol == port.protocol && known.node_port == port.node_port;
            if let Some(number) = port.node_port.filter(|_| ports.iter().any(is_taken)) {
                let message = format!("{number}/{} is used twice; served without a node port", port.protocol);
                report.add(format_args!("{field}.nodePort"), message, "change or remove one of them");
                port.node_port = None;
            }
            ports.push(port);
        }
    }
    ports
}

fn port(field: Arguments<'_>, wire: &wire::ServicePort, report: &mut Report) -> Option<ServicePort> {
    let protocol = protocol(format_args!("{field}.protocol"), &wire.protocol, report);
    let port = port_number(format_args!("{field}.port"), &wire.port, "port not served", report);
    let name = optional_text(format_args!("{field}.name"), &wire.name, report);
    let node_port = node_port(format_args!("{field}.nodePort"), &wire.node_port, report);
    Some(ServicePort { name: name.unwrap_or_default(), protocol: protocol?, port: port?, node_port })
}

/// Reads a node port; Go writes 0 for none.
fn node_port(field: Arguments<'_>, value: &Scalar, report: &mut Report) -> Option<NonZeroU16> {
    if value.is_empty() || value.int() == Some(0) {
        return None;
    }
    port_number(field, value, "served without a node port", report)
}

/// Field and reason that keep two ports of one Service from both being served, if any. Endpoints are found by
/// (name, protocol), and clients connect to (port, protocol).
fn clash(known: &ServicePort, new: &ServicePort) -> Option<(&'static str, String)> {
    if known.protocol != new.protocol {
        None
    } else if known.name == new.name {
        Some((".name", format!("the name {:?} is used twice for {}", &*new.name, new.protocol)))
    } else if known.port == new.port {
        Some((".port", format!("{}/{} is used twice", new.port, new.protocol)))
    } else {
        None
    }
}

fn affinity(spec: &Spec, report: &mut Report) -> Option<Affinity> {
    let value = &spec.session_affinity;
    if value.is_empty() || value.str() == Some("None") {
        return None;
    }
    if value.str() != Some("ClientIP") {
        let message = format!("unknown affinity {value}; served without");
        report.add("spec.sessionAffinity", message, "write ClientIP or None");
        return None;
    }
    let config = &spec.session_affinity_config;
    report.expect("spec.sessionAffinityConfig", "an object", config.wrong);
    report.expect("spec.sessionAffinityConfig.clientIP", "an object", config.value.client_ip.wrong);
    let seconds = affinity_seconds(&config.value.client_ip.value.timeout_seconds, report);
    NonZeroU32::new(seconds).map(|timeout_seconds| Affinity { timeout_seconds })
}

fn affinity_seconds(value: &Scalar, report: &mut Report) -> u32 {
    if value.is_empty() {
        return DEFAULT_AFFINITY_SECONDS;
    }
    let seconds = value.int().and_then(|n| u32::try_from(n).ok());
    seconds.filter(|n| (1..=MAX_AFFINITY_SECONDS).contains(n)).unwrap_or_else(|| {
        let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
        let message = format!("a timeout is expected, found {value}; {DEFAULT_AFFINITY_SECONDS} is used");
        report.add(field, message, format!("write a number from 1 to {MAX_AFFINITY_SECONDS}"));
        DEFAULT_AFFINITY_SECONDS
    })
}

fn policy(name: &str, value: &Scalar, report: &mut Report) -> TrafficPolicy {
    match value.str().unwrap_or_default() {
        "Local" => return TrafficPolicy::Local,
        "Cluster" => {}
        _ if value.is_empty() => {}
        _ => {
            let message = format!("unknown policy {value}; Cluster is used");
            report.add(format_args!("spec.{name}"), message, "write Cluster or Local");
        }
    }
    TrafficPolicy::Cluster
}

fn created(value: &Scalar, report: &mut Report) -> Option<i64> {
    if value.is_empty() {
        return None;
    }
    let seconds = value.str().and_then(|text| text.parse().ok()).map(Timestamp::as_second);
    if seconds.is_none() {
        let message = format!("a timestamp is expected, found {value}; ignored");
        report.add("metadata.creationTimestamp", message, "write it as 2006-01-02T15:04:05Z or leave it out");
    }
    seconds
}
