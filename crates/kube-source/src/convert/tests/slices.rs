use std::sync::Arc;

use service_model::EndpointSlice;

use super::{check_problems, parse};
use crate::{convert::slice, wire};

/// Served part of a slice: its Service, ports and endpoints.
fn summary(slice: &EndpointSlice) -> String {
    let ports = slice.ports.iter().map(|p| format!("{}:{}/{}", p.name, p.port, p.protocol));
    let endpoints = slice.endpoints.iter().map(|e| {
        let letter = |yes: bool, letter: &'static str| if yes { letter } else { "" };
        let list = |sign: &str, names: &[Arc<str>]| match names {
            [] => String::new(),
            names => format!("{sign}{}", names.join("+")),
        };
        let conditions = [letter(e.ready, "R"), letter(e.serving, "S"), letter(e.terminating, "T")].concat();
        let node = e.node.as_deref().map(|node| format!("!{node}")).unwrap_or_default();
        let pod = e.pod.as_deref().map(|pod| format!("={pod}")).unwrap_or_default();
        let hints = list("@", &e.zone_hints) + &list("#", &e.node_hints);
        format!("{}~{conditions}{node}{hints}{pod}", e.addr)
    });
    let head = format!("{} {}", slice.service, slice.family);
    [head].into_iter().chain(ports).chain(endpoints).collect::<Vec<_>>().join(" ")
}

fn check_yaml(case: &str, yaml: &str, expect: &str, problems: &[&str]) {
    let converted = slice(&parse::<wire::EndpointSlice>(yaml));
    let served = converted.object.as_ref().map_or("-".to_owned(), summary);
    assert_eq!(served, expect, "{case}: {:?}", converted.problems);
    check_problems(case, "EndpointSlice ns/web-1", &converted.problems, problems);
}

/// Checks a slice `ns/web-1` of Service `ns/web` and family IPv4.
fn check(case: &str, ports: &str, endpoints: &str, expect: &str, problems: &[&str]) {
    let yaml = format!(
        "metadata: {{name: web-1, namespace: ns, labels: {{kubernetes.io/service-name: web}}}}\n\
         addressType: IPv4\nports: {ports}\nendpoints: {endpoints}\n"
    );
    check_yaml(case, &yaml, format!("ns/web IPv4 {expect}").trim(), problems);
}

fn check_endpoints(case: &str, endpoints: &str, expect: &str, problems: &[&str]) {
    check(case, "[{port: 80}]", endpoints, format!(":80/TCP {expect}").trim(), problems);
}

/// Conformance: endpointschangetracker TestEndpointSliceUpdate
/// Conformance: e2e/service should implement service.kubernetes.io/headless
#[test]
fn frames() {
    let check = |case, labels: &str, address_type: &str, expect: &str, problems: &[&str]| {
        let yaml = format!(
            "metadata: {{name: web-1, namespace: ns, labels: {labels}}}\naddressType: {address_type}\n\
             ports: null\nendpoints: null"
        );
        check_yaml(case, &yaml, expect, problems);
    };
    let web = "{kubernetes.io/service-name: web}";
    check("null lists", web, "IPv4", "ns/web IPv4", &[]);
    check("IPv6", web, "IPv6", "ns/web IPv6", &[]);
    check("TestEndpointSliceUpdate: FQDN is ignored", web, "FQDN", "-", &[]);
    check(
        "of a headless service",
        "{kubernetes.io/service-name: web, service.kubernetes.io/headless: ''}",
        "IPv4",
        "-",
        &[],
    );
    check(
        "other proxy: a label of Services",
        "{kubernetes.io/service-name: web, service.kubernetes.io/service-proxy-name: x}",
        "IPv4",
        "ns/web IPv4",
        &[],
    );
    let field = "metadata.labels[kubernetes.io/service-name]";
    check("no label", "{}", "IPv4", "-", &[&format!("{field}|found nothing")]);
    check("null labels", "null", "IPv4", "-", &[&format!("{field}|found nothing")]);
    check("empty label", "{kubernetes.io/service-name: ''}", "IPv4", "-", &[&format!("{field}|found \"\"")]);
    check("no address type", web, "null", "-", &["addressType|found nothing"]);
    check("unknown address type", web, "ipv4", "-", &["addressType|found \"ipv4\""]);
}

/// Conformance: endpointslicecache TestEndpointsMapFromESC: nil port
#[test]
fn ports() {
    for (case, ports, expect, problems) in [
        ("named", "[{name: http, port: 80, protocol: TCP}]", "http:80/TCP", &[][..]),
        ("defaults of the API server", "[{port: 80}]", ":80/TCP", &[]),
        ("null name and protocol", "[{name: null, protocol: null, port: 80}]", ":80/TCP", &[]),
        ("quotes", "[{name: 'http', port: '80'}]", "http:80/TCP", &[]),
        ("nil port", "[{name: a}, {name: b, port: 81}]", "b:81/TCP", &["ports[0].port|found nothing"]),
        ("port 0", "[{name: a, port: 0}, {name: b, port: 81}]", "b:81/TCP", &["ports[0].port|found 0"]),
        ("port too high", "[{name: a, port: 65536}]", "", &["ports[0].port|found 65536"]),
        ("protocol", "[{name: a, port: 80, protocol: ICMP}]", "", &["ports[0].protocol|\"ICMP\""]),
        ("no list", "80", "", &["ports|found a number"]),
    ] {
        check(case, ports, "null", expect, problems);
    }
}

#[test]
fn conditions() {
    let with = |conditions: &str| format!("[{{addresses: [10.0.0.1], conditions: {conditions}}}]");
    for (case, conditions, expect) in [
        ("none", "null", "RS"),
        ("empty", "{}", "RS"),
        ("nulls", "{ready: null, serving: null, terminating: null}", "RS"),
        ("ready", "{ready: true, serving: true, terminating: false}", "RS"),
        ("unready", "{ready: false, serving: false}", ""),
        ("serving-terminating", "{ready: false, serving: true, terminating: true}", "ST"),
        ("terminating", "{ready: false, serving: false, terminating: true}", "T"),
    ] {
        check_endpoints(case, &with(conditions), &format!("10.0.0.1~{expect}"), &[]);
    }
    check_endpoints(
        "no boolean",
        &with("{ready: 'no', terminating: 1}"),
        "10.0.0.1~RS",
        &["endpoints[0].conditions.ready|found \"no\"", "endpoints[0].conditions.terminating|found 1"],
    );
    check_endpoints("no object", &with("ready"), "10.0.0.1~RS", &["endpoints[0].conditions|found text"]);
}

#[test]
fn addresses() {
    let with = |first: &str| format!("[{{addresses: [{first}]}}, {{addresses: [10.0.0.2]}}]");
    check_endpoints("several", &with("10.0.0.1, 10.0.0.9"), "10.0.0.1~RS 10.0.0.2~RS", &[]);
    check_endpoints("leading zeros", &with("010.000.000.001"), "10.0.0.1~RS 10.0.0.2~RS", &[]);
    check_endpoints("mapped", &with("'::ffff:10.0.0.1'"), "10.0.0.1~RS 10.0.0.2~RS", &[]);
    check_endpoints("twice", &with("10.0.0.2"), "10.0.0.2~RS 10.0.0.2~RS", &[]);
    for (first, problem) in [
        ("", "found nothing"),
        ("pod-1", "found \"pod-1\""),
        ("10.0.0", "found"),
        ("1", "found 1"),
        ("'fd00::1'", "fd00::1 is not IPv4"),
        ("127.0.0.1", "a loopback address"),
        ("0.0.0.0", "the unspecified address"),
        ("169.254.169.254", "a link-local address"),
        ("224.0.0.5", "a multicast address"),
    ] {
        let problem = format!("endpoints[0].addresses[0]|{problem}");
        check_endpoints(first, &with(first), "10.0.0.2~RS", &[&problem]);
    }
    check_endpoints(
        "no list",
        "[{addresses: 10.0.0.1}]",
        "",
        &["endpoints[0].addresses|found text", "endpoints[0].addresses[0]|found nothing"],
    );
    check_endpoints(
        "no object",
        "[x, {addresses: [10.0.0.2]}]",
        "10.0.0.2~RS",
        &["endpoints[0]|found text", "endpoints[0].addresses[0]|found nothing"],
    );
    check_endpoints("endpoints no list", "{}", "", &["endpoints|found an object"]);
}

#[test]
fn placement() {
    let with = |rest: &str| format!("[{{addresses: [10.0.0.1], {rest}}}]");
    for (case, rest, expect) in [
        ("node", "nodeName: n1, zone: a", "!n1"),
        ("no node", "nodeName: null", ""),
        ("empty node", "nodeName: ''", ""),
        ("hints", "hints: {forZones: [{name: a}, {name: b}], forNodes: [{name: n1}]}", "@a+b#n1"),
        ("null hints", "hints: {forZones: null, forNodes: [null, {name: ''}]}", ""),
        ("pod", "targetRef: {kind: Pod, namespace: x, name: web-1, uid: u1}", "=x/web-1/u1"),
        ("pod without namespace and uid", "targetRef: {name: web-1}", "=ns/web-1/"),
        ("no pod", "targetRef: {kind: Pod}", ""),
        ("odd pod", "targetRef: pod", ""),
    ] {
        check_endpoints(case, &with(rest), &format!("10.0.0.1~RS{expect}"), &[]);
    }
    check_endpoints("odd hints", &with("hints: [a]"), "10.0.0.1~RS", &["endpoints[0].hints|found a list"]);
}
