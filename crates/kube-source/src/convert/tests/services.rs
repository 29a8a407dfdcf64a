use lb_types::IpFamily;
use service_model::{ExternalSource, Service, TrafficPolicy};

use super::{check_problems, parse};
use crate::{Problem, convert::service, wire};

/// Served part of a Service: its ClusterIPs, its ports, and everything that is not the default.
fn summary(service: &Service) -> String {
    let ips = service.cluster_ips.iter().map(ToString::to_string);
    let ports = service.ports.iter().map(|p| {
        let node_port = p.node_port.map(|n| format!("@{n}")).unwrap_or_default();
        format!("{}:{}/{}{node_port}", p.name, p.port, p.protocol)
    });
    let external = service.external_ips.iter().map(|ip| match ip.source {
        ExternalSource::ExternalIps => format!("external {}", ip.addr),
        ExternalSource::LoadBalancer => format!("balancer {}", ip.addr),
        ExternalSource::Proxy => format!("proxy {}", ip.addr),
    });
    let local = |policy, name: &str| (policy == TrafficPolicy::Local).then(|| name.to_owned());
    let settings = &service.settings;
    let rest = [
        service.affinity.map(|affinity| format!("sticky {}", affinity.timeout_seconds)),
        local(service.internal_traffic_policy, "internal-local"),
        local(service.external_traffic_policy, "external-local"),
        settings.scheduler.map(|scheduler| scheduler.to_string()),
        settings.scheduler_flags.map(|flags| format!("flags {}", flags.bits())),
        settings.no_fallback.then(|| "no fallback".to_owned()),
        settings.max_connections.map(|limit| format!("at most {limit}")),
        settings.one_packet.then(|| "one packet".to_owned()),
        settings.drain.as_deref().map(drain),
        service.created.map(|created| format!("created {created}")),
        service.critical.then(|| "critical".to_owned()),
    ];
    ips.chain(ports).chain(external).chain(rest.into_iter().flatten()).collect::<Vec<_>>().join(" ")
}

/// Checks a Service `ns/web` with more metadata and a spec; `-` is expected if it is not served at all.
fn check_with(case: &str, metadata: &str, spec: &str, expect: &str, problems: &[&str]) {
    let yaml = format!("metadata: {{name: web, namespace: ns, {metadata}}}\nspec: {{{spec}}}\n");
    let converted = service(&parse::<wire::Service>(&yaml));
    let served = converted.object.as_ref().map_or("-".to_owned(), summary);
    assert_eq!(served, expect, "{case}: {:?}", converted.problems);
    check_problems(case, "Service ns/web", &converted.problems, problems);
}

fn check(case: &str, spec: &str, expect: &str, problems: &[&str]) {
    check_with(case, "uid: 1", spec, expect, problems);
}

/// Checks a spec that is right except for the ports.
fn check_ports(case: &str, ports: &str, expect: &str, problems: &[&str]) {
    let expect = if expect == "-" { "-".to_owned() } else { format!("10.96.0.1 {expect}") };
    check(case, &format!("clusterIP: 10.96.0.1, ports: {ports}"), &expect, problems);
}

/// Checks a spec whose ClusterIP and ports are right.
fn check_rest(case: &str, rest: &str, expect: &str, problems: &[&str]) {
    let expect = format!("10.96.0.1 :80/TCP {expect}");
    check(case, &format!("clusterIP: 10.96.0.1, ports: [{{port: 80}}], {rest}"), expect.trim(), problems);
}

fn drain(overrides: &drain::Overrides) -> String {
    let parts = [
        overrides.policy.map(|policy| format!("policy {policy}")),
        overrides.linger.map(|linger| format!("linger {linger:?}")),
        overrides.timeout.map(|timeout| format!("timeout {timeout:?}")),
        overrides.silence.map(|silence| format!("silence {silence:?}")),
        overrides.endpoint_gone.map(|action| format!("gone {action}")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
}

fn check_metadata(case: &str, metadata: &str, expect: &str, problems: &[&str]) {
    let expect = if expect == "-" { "-".to_owned() } else { format!("10.96.0.1 :80/TCP {expect}") };
    check_with(case, metadata, "clusterIP: 10.96.0.1, ports: [{port: 80}]", expect.trim(), problems);
}

/// `TestServiceToServiceMap`, `TestServiceMapUpdateHeadless` and `TestUpdateServiceTypeExternalName` in
/// pkg/proxy/servicechangetracker_test.go, `TestShouldSkipService` in pkg/proxy/util/utils_test.go.
/// Conformance: ipvs/proxier TestBuildServiceMapServiceHeadless
/// Conformance: ipvs/proxier TestBuildServiceMapServiceTypeExternalName
/// Conformance: servicechangetracker TestServiceToServiceMap
/// Conformance: servicechangetracker TestServiceMapUpdateHeadless
/// Conformance: servicechangetracker TestUpdateServiceTypeExternalName
/// Conformance: util TestShouldSkipService
#[test]
fn service_to_service_map() {
    check("headless service", "clusterIP: None, ports: [{name: rpc, port: 1234, protocol: UDP}]", "-", &[]);
    check("headless sctp service", "clusterIP: None, ports: [{name: s, port: 1, protocol: SCTP}]", "-", &[]);
    check("headless service without port", "clusterIP: None", "-", &[]);
    let served_nowhere = "spec.externalIPs|no proxy serves the addresses of a headless Service";
    check("headless with addresses", "clusterIP: None, externalIPs: [192.0.2.7]", "-", &[served_nowhere]);
    check("headless by clusterIPs only", "clusterIPs: [None], ports: [{port: 80}]", "-", &[]);
    check("external name", "type: ExternalName, externalName: a.b, clusterIP: 10.96.0.1", "-", &[]);
    check("external name without IP", "type: ExternalName, externalName: a.b, ports: [{port: 8}]", "-", &[]);
    check(
        "cluster ip service",
        "type: ClusterIP, clusterIP: 172.16.55.4, ports: [{name: p1, port: 1234, protocol: UDP}, {name: p2, port: 1235, protocol: UDP}]",
        "172.16.55.4 p1:1234/UDP p2:1235/UDP",
        &[],
    );
    check(
        "nodeport service",
        "type: NodePort, clusterIP: 172.16.55.10, ports: [{name: p1, port: 345, nodePort: 30345, protocol: UDP}, {name: p2, port: 344, protocol: UDP}]",
        "172.16.55.10 p1:345/UDP@30345 p2:344/UDP",
        &[],
    );
    check(
        "load balancer service with only local policy",
        "type: LoadBalancer, clusterIP: 172.16.55.12, externalTrafficPolicy: Local, ports: [{name: p, port: 6502, nodePort: 0}]",
        "172.16.55.12 p:6502/TCP external-local",
        &[],
    );
    check(
        "sctp",
        "clusterIP: fd00:96::1, ports: [{name: s1ap, port: 36412, protocol: SCTP}]",
        "fd00:96::1 s1ap:36412/SCTP",
        &[],
    );
}

/// Conformance: servicechangetracker TestServiceToServiceMap
/// Conformance: util TestMapIPsByIPFamily
/// Conformance: util TestMapCIDRsByIPFamily
#[test]
fn service_to_service_map_of_load_balancers() {
    /// A row: what differs from a Service with port 80, and what is served.
    #[track_caller]
    fn check(case: &str, spec: &str, status: &str, expect: &str, problems: &[&str]) {
        let yaml = format!(
            "metadata: {{name: web, namespace: ns}}\n\
             spec: {{type: LoadBalancer, ports: [{{port: 80, nodePort: 30080}}], {spec}}}\n\
             status: {{loadBalancer: {{ingress: [{status}]}}}}\n"
        );
        let converted = service(&parse::<wire::Service>(&yaml));
        let object = converted.object.unwrap();
        let ranges = IpFamily::ALL.into_iter().filter_map(|family| object.source_ranges_of(family).cloned());
        let ranges =
            ranges.flat_map(|nets| nets.iter().map(|net| format!(" from {net}")).collect::<Vec<_>>());
        let port = object.health_check_port.map(|port| format!(" health check {port}"));
        let served = summary(&object) + &ranges.chain(port).collect::<String>();
        assert_eq!(served.replace(" :80/TCP@30080", ""), expect, "{case}");
        check_problems(case, "Service ns/web", &converted.problems, problems);
    }
    let v4 = "clusterIP: 172.16.55.11";
    check("load balancer service", v4, "{ip: 10.1.2.4}", "172.16.55.11 balancer 10.1.2.4", &[]);
    let vip = "{ip: 10.1.2.4, ipMode: VIP}, {ip: 10.1.2.5, ipMode: VIP}";
    let vips = "172.16.55.11 balancer 10.1.2.4 balancer 10.1.2.5";
    check("load balancer service ipMode VIP", v4, vip, vips, &[]);
    let proxy = "{ip: 10.1.2.4, ipMode: Proxy}, {ip: 10.1.2.5, ipMode: Proxy}";
    let proxies = "172.16.55.11 proxy 10.1.2.4 proxy 10.1.2.5";
    check("load balancer service ipMode Proxy", v4, proxy, proxies, &[]);
    let local = format!("{v4}, externalTrafficPolicy: Local, healthCheckNodePort: 345");
    let expect = "172.16.55.11 balancer 10.1.2.3 external-local health check 345";
    check("load balancer service with only local traffic policy", &local, "{ip: 10.1.2.3}", expect, &[]);
    let policy = local.replace("Local", "Cluster");
    check("a policy without health checks", &policy, "{ip: 10.1.2.3}", "172.16.55.11 balancer 10.1.2.3", &[]);
    let both =
        "externalIPs: [1.2.3.4, '2001:db8::4'], loadBalancerSourceRanges: [1.2.3.0/24, '2001:db8:85a3::/48']";
    let ingress = "{ip: 8.8.8.8}, {ip: '2001:db8::8'}";
    let other =
        |field: &str, family: &str| format!("{field}|the Service has no {family} ClusterIP; not served");
    let (external, balancer) = ("spec.externalIPs", "status.loadBalancer.ingress");
    check(
        "service with both ipv4 and ipv6 configurations under ipv4 mode, ipv6 fields should be filtered",
        &format!("{v4}, {both}"),
        ingress,
        "172.16.55.11 external 1.2.3.4 balancer 8.8.8.8 from 1.2.3.0/24 from 2001:db8:85a3::/48",
        &[&other(&format!("{external}[1]"), "IPv6"), &other(&format!("{balancer}[1].ip"), "IPv6")],
    );
    check(
        "service with both ipv4 and ipv6 configurations under ipv6 mode, ipv4 fields should be filtered",
        &format!("clusterIP: 'fd00:96::11', {both}"),
        ingress,
        "fd00:96::11 external 2001:db8::4 balancer 2001:db8::8 from 1.2.3.0/24 from 2001:db8:85a3::/48",
        &[&other(&format!("{external}[0]"), "IPv4"), &other(&format!("{balancer}[0].ip"), "IPv4")],
    );
    check(
        "service with extra space in LoadBalancerSourceRanges",
        &format!("{v4}, loadBalancerSourceRanges: [' 10.1.2.0/28']"),
        "{ip: 10.1.2.4}",
        "172.16.55.11 balancer 10.1.2.4 from 10.1.2.0/28",
        &[],
    );
}

/// `TestGetClusterIPByFamily` in pkg/proxy/util/utils_test.go, for both families at once.
/// Conformance: util TestGetClusterIPByFamily
/// Conformance: servicechangetracker TestServiceToServiceMap: service with ipv6 clusterIP...
/// Conformance: servicechangetracker TestServiceToServiceMap: service with ipv4 clusterIP...
#[test]
fn get_cluster_ip_by_family() {
    let with = |ips: &str| format!("{ips}, ports: [{{port: 80}}]");
    for (case, ips, expect) in [
        ("old style v4", "clusterIP: 10.0.0.10", "10.0.0.10"),
        ("old style v6", "clusterIP: '2000::1'", "2000::1"),
        ("v4 single stack", "ipFamilies: [IPv4], clusterIP: 10.0.0.10, clusterIPs: [10.0.0.10]", "10.0.0.10"),
        ("v6 single stack", "ipFamilies: [IPv6], clusterIP: '2000::1', clusterIPs: ['2000::1']", "2000::1"),
        (
            "v4v6 dual stack",
            "ipFamilies: [IPv4, IPv6], clusterIP: 10.0.0.10, clusterIPs: [10.0.0.10, '2000::1']",
            "10.0.0.10 2000::1",
        ),
        (
            "v6v4 dual stack",
            "ipFamilies: [IPv6, IPv4], clusterIP: '2000::1', clusterIPs: ['2000::1', 10.0.0.10]",
            "2000::1 10.0.0.10",
        ),
        ("by hand: no families", "clusterIPs: [10.0.0.10, '2000::1']", "10.0.0.10 2000::1"),
        ("by hand: no list", "ipFamilies: [IPv4], clusterIP: 10.0.0.10", "10.0.0.10"),
        ("more families than IPs", "ipFamilies: [IPv4, IPv6], clusterIPs: [10.0.0.10]", "10.0.0.10"),
        ("leading zeros", "clusterIP: 010.000.000.010", "10.0.0.10"),
        ("null lists", "clusterIP: 10.0.0.10, clusterIPs: null, ipFamilies: null", "10.0.0.10"),
    ] {
        check(case, &with(ips), &format!("{expect} :80/TCP"), &[]);
    }
}

#[test]
fn cluster_ips_that_cannot_be() {
    let check = |case, ips: &str, expect: &str, problems: &[&str]| {
        let expect = if expect.is_empty() { "-".to_owned() } else { format!("{expect} :80/TCP") };
        check(case, &format!("{ips}, ports: [{{port: 80}}]"), &expect, problems);
    };
    check("none at all", "type: ClusterIP", "", &["spec.clusterIP|found nothing"]);
    check("no address", "clusterIP: web", "", &["spec.clusterIP|found \"web\""]);
    check("a number", "clusterIP: 10", "", &["spec.clusterIP|found 10"]);
    check("a list", "clusterIP: [10.0.0.1]", "", &["spec.clusterIP|found a list"]);
    check(
        "no list",
        "clusterIP: 10.0.0.1, clusterIPs: 10.0.0.1",
        "10.0.0.1",
        &["spec.clusterIPs|found text"],
    );
    for (ip, what) in [
        ("127.0.0.1", "a loopback"),
        ("'::1'", "a loopback"),
        ("0.0.0.0", "the unspecified"),
        ("'::'", "the unspecified"),
        ("224.0.0.1", "a multicast"),
        ("'ff02::1'", "a multicast"),
        ("169.254.1.1", "a link-local"),
        ("'fe80::1'", "a link-local"),
    ] {
        check("special", &format!("clusterIP: {ip}"), "", &[&format!("spec.clusterIP|is {what} address")]);
    }
    check(
        "one of two is bad",
        "clusterIPs: [10.0.0.10, '::1']",
        "10.0.0.10",
        &["spec.clusterIPs[1]|::1 is a loopback address"],
    );
    check(
        "two of one family",
        "clusterIPs: [10.0.0.10, 10.0.0.11]",
        "10.0.0.10",
        &["spec.clusterIPs[1]|second IPv4 address"],
    );
    check(
        "families in the other order",
        "clusterIPs: [10.0.0.10, '2000::1'], ipFamilies: [IPv6, IPv4]",
        "",
        &["spec.clusterIPs[0]|says \"IPv6\"", "spec.clusterIPs[1]|says \"IPv4\""],
    );
    check(
        "a family too few",
        "clusterIPs: [10.0.0.10, '2000::1'], ipFamilies: [IPv4]",
        "10.0.0.10",
        &["spec.clusterIPs[1]|says nothing"],
    );
    check(
        "clusterIP and clusterIPs differ",
        "clusterIP: 10.0.0.9, clusterIPs: [10.0.0.10]",
        "10.0.0.10",
        &["spec.clusterIP|\"10.0.0.9\" differs"],
    );
}

#[test]
fn ports() {
    check_ports("protocol by default", "[{port: 80}]", ":80/TCP", &[]);
    check_ports("a number in quotes", "[{port: '80', nodePort: '30080'}]", ":80/TCP@30080", &[]);
    check_ports("a name that is a number", "[{name: 8080, port: 80}]", "8080:80/TCP", &[]);
    check_ports(
        "the ends of the range",
        "[{name: a, port: 1}, {name: b, port: 65535}]",
        "a:1/TCP b:65535/TCP",
        &[],
    );
    check_ports(
        "one port, two protocols",
        "[{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]",
        "dns:53/UDP dns-tcp:53/TCP",
        &[],
    );
    check_ports(
        "one name, two protocols",
        "[{name: dns, port: 53, protocol: UDP}, {name: dns, port: 53}]",
        "dns:53/UDP dns:53/TCP",
        &[],
    );
    check_ports("none", "[]", "-", &["spec.ports|no port"]);
    check_ports("null", "null", "-", &["spec.ports|no port"]);
    check_ports("no list", "80", "-", &["spec.ports|found a number"]);
    check_ports(
        "not an object",
        "[80, {name: a, port: 81}]",
        "a:81/TCP",
        &["spec.ports[0]|found a number", "spec.ports[0].port|found nothing"],
    );
}

#[test]
fn bad_ports_do_not_take_the_others_with_them() {
    for bad in ["0", "65536", "-1", "eighty", "8.5", "[80]", "true", "99999999999999999999"] {
        let ports = format!("[{{name: a, port: {bad}}}, {{name: b, port: 81}}]");
        check_ports(bad, &ports, "b:81/TCP", &["spec.ports[0].port|a port is expected"]);
    }
    check_ports("all bad", "[{port: 0}]", "-", &["spec.ports[0].port|found 0"]);
    check_ports(
        "unknown protocol",
        "[{name: a, port: 80, protocol: tcp}, {name: b, port: 81, protocol: DCCP}, {name: c, port: 82}]",
        "c:82/TCP",
        &["spec.ports[0].protocol|\"tcp\"", "spec.ports[1].protocol|\"DCCP\""],
    );
    check_ports(
        "bad node port",
        "[{port: 80, nodePort: 70000}]",
        ":80/TCP",
        &["spec.ports[0].nodePort|without a node port"],
    );
    check_ports(
        "missing names",
        "[{port: 80}, {port: 81}, {name: c, port: 82}]",
        ":80/TCP c:82/TCP",
        &[
            "spec.ports[0].name|without a name",
            "spec.ports[1].name|without a name",
            "spec.ports[1].name|used twice for TCP",
        ],
    );
    check_ports(
        "duplicate name",
        "[{name: a, port: 80}, {name: a, port: 81}, {name: b, port: 82}]",
        "a:80/TCP b:82/TCP",
        &["spec.ports[1].name|\"a\" is used twice"],
    );
    check_ports(
        "duplicate port",
        "[{name: a, port: 80}, {name: b, port: 80}, {name: c, port: 80, protocol: UDP}]",
        "a:80/TCP c:80/UDP",
        &["spec.ports[1].port|80/TCP is used twice"],
    );
    check_ports(
        "duplicate node port",
        "[{name: a, port: 80, nodePort: 30080}, {name: b, port: 81, nodePort: 30080}, \
          {name: c, port: 82, nodePort: 30080, protocol: UDP}]",
        "a:80/TCP@30080 b:81/TCP c:82/UDP@30080",
        &["spec.ports[1].nodePort|30080/TCP is used twice; served without a node port"],
    );
    check_ports("odd name", "[{name: [x], port: 80}]", ":80/TCP", &["spec.ports[0].name|found a list"]);
}

/// `TestSessionAffinity` in pkg/proxy/ipvs/proxier_test.go, with the defaults of the API server.
/// Conformance: ipvs/proxier TestSessionAffinity
#[test]
fn session_affinity() {
    let config = |seconds: &str| {
        format!(
            "sessionAffinity: ClientIP, sessionAffinityConfig: {{clientIP: {{timeoutSeconds: {seconds}}}}}"
        )
    };
    let field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds";
    check_rest("none", "sessionAffinity: None", "", &[]);
    check_rest("empty", "sessionAffinity: ''", "", &[]);
    check_rest("default", "sessionAffinity: ClientIP", "sticky 10800", &[]);
    check_rest("null config", "sessionAffinity: ClientIP, sessionAffinityConfig: null", "sticky 10800", &[]);
    check_rest("least", &config("1"), "sticky 1", &[]);
    check_rest("most", &config("86400"), "sticky 86400", &[]);
    for bad in ["0", "86401", "-5", "long"] {
        check_rest(bad, &config(bad), "sticky 10800", &[&format!("{field}|10800 is used")]);
    }
    check_rest(
        "without affinity the config is void",
        "sessionAffinityConfig: {clientIP: {timeoutSeconds: 0}}",
        "",
        &[],
    );
    check_rest("unknown", "sessionAffinity: Cookie", "", &["spec.sessionAffinity|\"Cookie\""]);
    check_rest("no text", "sessionAffinity: 1", "", &["spec.sessionAffinity|unknown affinity 1"]);
}

#[test]
fn traffic_policies() {
    check_rest(
        "both",
        "internalTrafficPolicy: Local, externalTrafficPolicy: Local",
        "internal-local external-local",
        &[],
    );
    check_rest("explicit", "internalTrafficPolicy: Cluster, externalTrafficPolicy: Cluster", "", &[]);
    check_rest("empty", "internalTrafficPolicy: '', externalTrafficPolicy: null", "", &[]);
    check_rest(
        "unknown",
        "internalTrafficPolicy: local, externalTrafficPolicy: 3",
        "",
        &["spec.internalTrafficPolicy|\"local\"", "spec.externalTrafficPolicy|policy 3"],
    );
}

#[test]
fn annotations() {
    let annotation = |name: &str, value: &str| format!("annotations: {{kube-ipvs.io/{name}: {value}}}");
    let scheduler = "metadata.annotations[kube-ipvs.io/scheduler]";
    let flags = "metadata.annotations[kube-ipvs.io/scheduler-flags]";
    let check_flags = |value: &str, expect: &str, problems: &[&str]| {
        check_metadata(value, &annotation("scheduler-flags", value), expect, problems);
    };
    check_metadata("scheduler", &annotation("scheduler", "mh"), "mh", &[]);
    check_metadata("spaces", &annotation("scheduler", "' wlc '"), "wlc", &[]);
    check_metadata("empty", &annotation("scheduler", "''"), "", &[]);
    for bad in ["fastest", "5"] {
        let problem = format!("{scheduler}|expected one of rr, wrr,");
        check_metadata(bad, &annotation("scheduler", bad), "", &[&problem]);
    }
    let problem = format!("{scheduler}|text is expected, found a list; ignored");
    check_metadata("a list", &annotation("scheduler", "[rr]"), "", &[&problem]);
    check_flags("sh-port", "flags 2", &[]);
    check_flags("[sh-port]", "", &[&format!("{flags}|text is expected, found a list; ignored")]);
    check_flags("'mh-fallback, mh-port'", "flags 3", &[]);
    check_flags("'flag-1,flag-2,flag-3'", "flags 7", &[]);
    check_flags("sh-fallback", "flags 1", &[]);
    check_flags("''", "flags 0", &[]);
    check_flags("'flag-3,,'", "flags 4", &[]);
    check_flags("'mh-port,turbo'", "flags 2", &[&format!("{flags}|unknown scheduler flag \"turbo\"")]);
    check_flags("turbo", "", &[&format!("{flags}|flag-3, sh-fallback")]);
    check_flags("no-fallback", "flags 0 no fallback", &[]);
    check_flags("'sh-port, no-fallback'", "flags 2 no fallback", &[]);
    let contradiction = format!("{flags}|no-fallback contradicts");
    check_flags("'no-fallback,mh-fallback'", "flags 1", &[&contradiction]);
    check_flags("'flag-1,no-fallback'", "flags 1", &[&contradiction]);
    let check_drain = |name: &str, value: &str, expect: &str| {
        check_metadata(name, &annotation(name, value), expect, &[]);
    };
    check_drain("graceful-policy", "all-connections", "policy all-connections");
    check_drain("graceful-linger", "1m30s", "linger 90s");
    check_drain("graceful-timeout", "' 2h '", "timeout 7200s");
    check_drain("graceful-timeout", "'0'", "timeout 0ns");
    check_drain("graceful-silence", "2500ms", "silence 2.5s");
    check_drain("graceful-silence", "'0'", "silence 0ns");
    let raised = "metadata.annotations[kube-ipvs.io/graceful-silence]|500ms is shorter than";
    check_metadata("too short", &annotation("graceful-silence", "500ms"), "silence 2.5s", &[raised]);
    check_drain("graceful-endpoint-gone", "drain", "gone drain");
    check_drain("graceful-policy", "''", "");
    for (name, bad, why) in [
        ("graceful-policy", "never", "unknown graceful policy \"never\": expected active-only,"),
        ("graceful-linger", "fast", "invalid duration \"fast\": expected a form like 30s"),
        ("graceful-timeout", "-1s", "invalid duration \"-1s\""),
        ("graceful-silence", "[5s]", "text is expected, found a list"),
        ("graceful-endpoint-gone", "keep", "expected remove or drain"),
    ] {
        let problem = format!("metadata.annotations[kube-ipvs.io/{name}]|{why}");
        check_metadata(bad, &annotation(name, bad), "", &[&problem]);
    }
    check_metadata("others", "annotations: {example.com/x: [1]}", "", &[]);
    check_metadata("no object", "annotations: text", "", &["metadata.annotations|found text"]);
}

/// Conformance: util TestShouldSkipService
/// Conformance: e2e/service should implement service.kubernetes.io/service-proxy-name
#[test]
fn metadata() {
    check_metadata("other proxy", "labels: {service.kubernetes.io/service-proxy-name: cilium}", "-", &[]);
    check_metadata(
        "other proxy, empty value",
        "labels: {service.kubernetes.io/service-proxy-name: ''}",
        "-",
        &[],
    );
    check_metadata("headless is a label of slices", "labels: {service.kubernetes.io/headless: ''}", "", &[]);
    check_metadata("critical", "labels: {k8s-app: kube-dns}", "critical", &[]);
    check_metadata("created", "creationTimestamp: '2024-02-29T12:34:56Z'", "created 1709210096", &[]);
    check_metadata(
        "created, no quotes",
        "creationTimestamp: 2024-02-29T12:34:56Z",
        "created 1709210096",
        &[],
    );
    check_metadata(
        "created elsewhere, with a fraction",
        "creationTimestamp: '2024-02-29T14:34:56.789+02:00'",
        "created 1709210096",
        &[],
    );
    check_metadata(
        "created on no day",
        "creationTimestamp: '2023-02-29T00:00:00Z'",
        "",
        &["metadata.creationTimestamp|\"2023-02-29T00:00:00Z\""],
    );
    check_metadata("not created", "creationTimestamp: null", "", &[]);
    check_metadata(
        "badly created",
        "creationTimestamp: today",
        "",
        &["metadata.creationTimestamp|\"today\""],
    );
    check_metadata("labels", "labels: [a]", "", &["metadata.labels|found a list"]);
}

#[test]
fn critical_services() {
    for (namespace, name, expect) in [
        ("default", "kubernetes", true),
        ("kube-system", "kube-dns", true),
        ("kube-system", "coredns", true),
        ("other", "kubernetes", false),
        ("default", "kube-dns", false),
    ] {
        let yaml = format!(
            "metadata: {{name: {name}, namespace: {namespace}}}\nspec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}"
        );
        let object = service(&parse::<wire::Service>(&yaml)).object.unwrap();
        assert_eq!(object.critical, expect, "{namespace}/{name}");
        assert_eq!(object.name.to_string(), format!("{namespace}/{name}"));
    }
}

#[test]
fn objects_without_a_usable_frame() {
    let check = |yaml: &str, object: &str, problems: &[&str]| {
        let converted = service(&parse::<wire::Service>(yaml));
        assert_eq!(converted.object, None, "{yaml}");
        check_problems(yaml, object, &converted.problems, problems);
    };
    check("{}", "Service", &["metadata.name|found nothing"]);
    check("metadata: {name: ''}", "Service", &["metadata.name|found \"\""]);
    check("metadata: {name: [x]}", "Service", &["metadata.name|found a list"]);
    check("metadata: x", "Service", &["metadata|found text"]);
    check(
        "metadata: {name: a}\nspec: [x]",
        "Service default/a",
        &["spec|found a list", "spec.clusterIP|found nothing", "spec.ports|no port"],
    );
}

/// Checks external addresses: the rest of a spec, and the ingress points of `status`.
fn check_external(case: &str, spec: &str, ingress: &str, expect: &str, problems: &[&str]) {
    let yaml = format!(
        "metadata: {{name: web, namespace: ns, uid: 1}}\n\
         spec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}], {spec}}}\n\
         status: {{loadBalancer: {{ingress: {ingress}}}}}\n"
    );
    let converted = service(&parse::<wire::Service>(&yaml));
    let served = converted.object.as_ref().map_or("-".to_owned(), summary);
    assert_eq!(served, format!("10.96.0.1 :80/TCP {expect}").trim(), "{case}: {:?}", converted.problems);
    check_problems(case, "Service ns/web", &converted.problems, problems);
}

/// Conformance: ipvs/proxier TestLoadBalancerIngressRouteTypeProxy
/// Conformance: ipvs/proxier TestExternalIPs
#[test]
fn external_addresses() {
    let v4 = "externalIPs: [192.0.2.7]";
    check_external("none", "externalIPs: null", "null", "", &[]);
    check_external("one of each", v4, "[{ip: 192.0.2.8}]", "external 192.0.2.7 balancer 192.0.2.8", &[]);
    check_external("VIP", "type: LoadBalancer", "[{ip: 192.0.2.8, ipMode: VIP}]", "balancer 192.0.2.8", &[]);
    let proxy = "[{ip: 192.0.2.8, ipMode: Proxy}]";
    check_external("a proxy is known", "type: LoadBalancer", proxy, "proxy 192.0.2.8", &[]);
    check_external("a proxy, too", "externalIPs: [192.0.2.8]", proxy, "external 192.0.2.8", &[]);
    let both = "[{ip: 192.0.2.8, ipMode: Proxy}, {ip: 192.0.2.8, ipMode: VIP}]";
    check_external("both modes", "type: LoadBalancer", both, "balancer 192.0.2.8", &[]);
    let wrong = "[x, 127.0.0.1, '2001:db8::8', 10.96.0.1]".replace(", ", ", ipMode: Proxy}, {ip: ");
    let wrong = wrong.replace('[', "[{ip: ").replace(']', ", ipMode: Proxy}]");
    check_external("nobody asks for a proxy's", "type: LoadBalancer", &wrong, "", &[]);
    check_external(
        "a host name is no address",
        "type: LoadBalancer",
        "[{hostname: lb.example.com}]",
        "",
        &[],
    );
    check_external("twice", "externalIPs: [192.0.2.7, 192.0.2.7]", "[]", "external 192.0.2.7", &[]);
    check_external("the same in both", v4, "[{ip: 192.0.2.7}]", "balancer 192.0.2.7", &[]);
    check_external("the ClusterIP itself", "externalIPs: [10.96.0.1]", "[]", "", &[]);
    let no_family = "spec.externalIPs[0]|the Service has no IPv6 ClusterIP; not served";
    check_external("another family", "externalIPs: ['2001:db8::7']", "[]", "", &[no_family]);
    let not_an_ip = "spec.externalIPs[0]|an IP address is expected, found \"x\"; not served";
    let both = "externalIPs: [x, 192.0.2.7]";
    check_external("one is wrong", both, "[]", "external 192.0.2.7", &[not_an_ip]);
    let loopback = "status.loadBalancer.ingress[0].ip|127.0.0.1 is a loopback address, which cannot be a VIP";
    check_external("loopback", "type: LoadBalancer", "[{ip: 127.0.0.1}]", "", &[loopback]);
    let list = "spec.externalIPs|a list";
    check_external("no list", "externalIPs: 192.0.2.7", "[]", "", &[list]);
}

/// Checks the source ranges of a Service of both families: `*` for everybody.
#[track_caller]
fn check_ranges(ranges: &str, v4: &str, v6: &str, problems: &[&str]) {
    let spec = format!(
        "clusterIPs: [10.96.0.1, 'fd00:96::1'], ipFamilies: [IPv4, IPv6], clusterIP: 10.96.0.1, \
                        ports: [{{port: 80}}], loadBalancerSourceRanges: {ranges}"
    );
    let yaml = format!("metadata: {{namespace: ns, name: web}}\nspec: {{{spec}}}");
    let converted = service(&parse::<wire::Service>(&yaml));
    let service = converted.object.unwrap();
    let text = |family| match service.source_ranges_of(family) {
        None => "*".to_owned(),
        Some(nets) => nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
    };
    assert_eq!((text(IpFamily::V4).as_str(), text(IpFamily::V6).as_str()), (v4, v6));
    check_problems(&spec, "Service ns/web", &converted.problems, problems);
}

/// Conformance: util TestIsZeroCIDR
/// Conformance: util TestMapCIDRsByIPFamily
#[test]
fn source_ranges_are_those_of_each_family_and_nobody_is_let_in_by_mistake() {
    check_ranges("null", "*", "*", &[]);
    check_ranges("[]", "*", "*", &[]);
    check_ranges("[203.0.113.7/24, ' 198.51.100.0/24 ']", "198.51.100.0/24 203.0.113.0/24", "*", &[]);
    check_ranges("[010.001.0.0/16]", "10.1.0.0/16", "*", &[]);
    check_ranges("['2001:db8::/32']", "*", "2001:db8::/32", &[]);
    check_ranges(
        "[10.1.0.0/16, 10.0.0.0/8, 10.0.0.0/8, 10.255.255.255/32, 11.0.0.0/8]",
        "10.0.0.0/8 11.0.0.0/8",
        "*",
        &[],
    );
    check_ranges("[0.0.0.0/0, 10.0.0.0/8, '2001:db8::/32']", "*", "2001:db8::/32", &[]);
    check_ranges(
        "[10.0.0.0/8, x]",
        "10.0.0.0/8",
        "",
        &["spec.loadBalancerSourceRanges[1]|a prefix is expected, found \"x\""],
    );
    check_ranges(
        "[10.0.0.1]",
        "",
        "",
        &["spec.loadBalancerSourceRanges[0]|a prefix is expected, found \"10.0.0.1\""],
    );
    check_ranges("10.0.0.0/8", "", "", &["spec.loadBalancerSourceRanges|a list of prefixes"]);
}

#[test]
fn annotations_about_connections() {
    let limit = "metadata.annotations[kube-ipvs.io/max-connections]";
    let one_packet = "metadata.annotations[kube-ipvs.io/one-packet]";
    let check = |annotations: &str, expect: &str, problems: &[&str]| {
        check_metadata(annotations, &format!("annotations: {{{annotations}}}"), expect, problems);
    };
    check("kube-ipvs.io/max-connections: '100'", "at most 100", &[]);
    check("kube-ipvs.io/max-connections: '0'", "", &[]);
    check(
        "kube-ipvs.io/max-connections: many",
        "",
        &[&format!("{limit}|a number of connections is expected")],
    );
    check(
        "kube-ipvs.io/max-connections: '-1'",
        "",
        &[&format!("{limit}|a number of connections is expected")],
    );
    check("kube-ipvs.io/one-packet: 'true'", "one packet", &[]);
    check("kube-ipvs.io/one-packet: 'false'", "", &[]);
    check("kube-ipvs.io/one-packet: 'yes'", "", &[&format!("{one_packet}|true or false is expected")]);
    check("kube-ipvs.io/one-packet: true", "", &[&format!("{one_packet}|text is expected, found true")]);
}

#[test]
fn a_misspelt_annotation_is_reported() {
    let place = "metadata.annotations[kube-ipvs.io/gracefull-timeout]";
    let annotations = "annotations: {kube-ipvs.io/gracefull-timeout: '0', example.com/whatever: x}";
    check_metadata(annotations, annotations, "", &[&format!("{place}|unknown annotation; ignored")]);
}

#[test]
fn one_object_makes_few_problems_and_short_ones() {
    let flags = (0..10_000).map(|i| format!("{i:x}")).collect::<Vec<_>>().join(",");
    let long = "a".repeat(100_000);
    let yaml = format!(
        "metadata: {{name: a, annotations: {{kube-ipvs.io/scheduler-flags: '{flags}'}}}}\n\
         spec: {{clusterIP: 10.96.0.1, sessionAffinity: {long}, ports: [{{port: 80}}]}}"
    );
    let problems = service(&parse::<wire::Service>(&yaml)).problems;
    assert_eq!(problems.len(), 17);
    assert!(problems[16].message.contains("more problems"), "{}", problems[16]);
    assert!(problems.iter().all(|problem| problem.to_string().len() < 1_000));
}

/// Bindings that a Service of two families asks for: all others, then single addresses.
fn bindings(annotation: &str, spec: &str, ingress: &str) -> (String, Vec<Problem>) {
    let yaml = format!(
        "metadata: {{namespace: ns, name: web, annotations: {{kube-ipvs.io/external-ip-binding: '{annotation}'}}}}\n\
         spec: {{clusterIPs: [10.96.0.1, 'fd00:96::1'], clusterIP: 10.96.0.1, ipFamilies: [IPv4, IPv6], \
                ports: [{{port: 80}}], {spec}}}\n\
         status: {{loadBalancer: {{ingress: {ingress}}}}}\n"
    );
    let converted = service(&parse::<wire::Service>(&yaml));
    let Some(wanted) = converted.object.unwrap().settings.external_ip_binding else {
        return ("-".to_owned(), converted.problems);
    };
    let of = wanted.of.iter().map(|(addr, binding)| format!("{addr}={binding}"));
    let all = wanted.others.iter().map(ToString::to_string).chain(of);
    (all.collect::<Vec<_>>().join(" "), converted.problems)
}

const EXTERNAL_IPS: &str = "externalIPs: [192.0.2.80, 192.0.2.81, '2001:db8::80']";

#[test]
fn entries_of_the_annotation_of_bindings_count_each_by_itself() {
    let place = "metadata.annotations[kube-ipvs.io/external-ip-binding]";
    for (annotation, expect, faults) in [
        ("", "-", &[][..]),
        (" , ", "-", &[]),
        ("steer", "steer", &[]),
        (" none ", "none", &[]),
        ("192.0.2.80=route", "192.0.2.80=route", &[]),
        (" 192.0.2.80 = route , none ", "none 192.0.2.80=route", &[]),
        ("::ffff:192.0.2.80=none", "192.0.2.80=none", &[]),
        ("2001:0db8::80=none,192.0.2.81=address", "2001:db8::80=none 192.0.2.81=address", &[]),
        ("192.0.2.8=steer,none", "none 192.0.2.8=steer", &[]),
        (
            "192.0.2.80=none,192.0.2.81=rout",
            "192.0.2.80=none",
            &["entry \"192.0.2.81=rout\": unknown binding \"rout\": expected steer"],
        ),
        (
            "[2001:db8::80]=none,steer",
            "steer",
            &["\"[2001:db8::80]\" is no IP address; the entry is ignored"],
        ),
        ("None,192.0.2.80=route", "192.0.2.80=route", &["entry \"None\": unknown binding \"None\""]),
        ("192.0.2.80=Steer", "-", &["unknown binding \"Steer\""]),
        ("=none", "-", &["\"\" is no IP address"]),
        ("192.0.2.80=", "-", &["unknown binding \"\""]),
        (
            "192.0.2.80=route,192.0.2.80=none",
            "192.0.2.80=route",
            &["entry \"192.0.2.80=none\": an entry before it is for 192.0.2.80, too"],
        ),
        ("192.0.2.80=rout,192.0.2.80=none", "192.0.2.80=none", &["unknown binding \"rout\""]),
        ("steer,none", "steer", &["entry \"none\": an entry before it is for all addresses, too"]),
        ("192.0.2.82=none,steer", "steer", &["192.0.2.82 is no external or load-balancer IP"]),
        ("10.96.0.1=none", "-", &["10.96.0.1 is no external or load-balancer IP"]),
        ("rout,192.0.2.82=none", "-", &["unknown binding \"rout\"", "192.0.2.82 is no external"]),
    ] {
        let (wanted, problems) =
            bindings(annotation, EXTERNAL_IPS, "[{ip: 192.0.2.8}, {ip: 192.0.2.9, ipMode: Proxy}]");
        assert_eq!(wanted, expect, "{annotation}: {problems:?}");
        let faults: Vec<_> = faults.iter().map(|fault| format!("{place}|{fault}")).collect();
        let faults: Vec<_> = faults.iter().map(String::as_str).collect();
        check_problems(annotation, "Service ns/web", &problems, &faults);
        assert!(
            problems.iter().all(|problem| problem.remedy == "correct or remove the entry"),
            "{problems:?}"
        );
    }
}

/// Until a load balancer has an address of a family, any may be the one.
#[test]
fn entries_of_addresses_that_a_load_balancer_may_yet_have_count() {
    let balancer = format!("type: LoadBalancer, {EXTERNAL_IPS}");
    let (wanted, problems) = bindings("192.0.2.90=route", &balancer, "[]");
    assert_eq!((wanted.as_str(), problems.len()), ("192.0.2.90=route", 0));
    let (wanted, problems) = bindings("192.0.2.90=route", &balancer, "[{ip: 192.0.2.8}]");
    assert_eq!((wanted.as_str(), problems.len()), ("-", 1));
    let (wanted, problems) = bindings("2001:db8::9=route", &balancer, "[{ip: 192.0.2.8}]");
    assert_eq!(
        (wanted.as_str(), problems.len()),
        ("2001:db8::9=route", 0),
        "the other family is yet to come"
    );
    let (wanted, problems) = bindings("192.0.2.9=route", &balancer, "[{ip: 192.0.2.9, ipMode: Proxy}]");
    assert_eq!((wanted.as_str(), problems.len()), ("192.0.2.9=route", 0), "the mode may change");
}
