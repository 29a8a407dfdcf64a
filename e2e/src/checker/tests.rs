//! Tests of the checker on the output of the tools on a healthy node, and on the same output with something
//! wrong.

use serde_json::{Value, json};

use super::{Draining, Kernel, Wanted, differences};

const IPVS: &str = include_str!("fixtures/ipvsadm.txt");
const ROUTES: [&str; 2] =
    [include_str!("fixtures/ip-route-4.json"), include_str!("fixtures/ip-route-6.json")];
const ADDRESSES: &str = include_str!("fixtures/ip-address.json");
const TABLE: &str = include_str!("fixtures/nft.json");
const ARP: &str = r#"{"nftables": [{"set": {"family": "arp", "name": "unanswered-vips-v4", "table": "kube-ipvs", "type": "ipv4_addr", "handle": 1, "elem": ["10.96.0.80", "10.96.0.81"]}}]}"#;

/// Output of the tools, in which tests replace text.
#[derive(Clone)]
struct Printed {
    ipvs: String,
    routes: [String; 2],
    addresses: String,
    table: Option<String>,
    arp: Option<String>,
}

fn printed() -> Printed {
    Printed {
        ipvs: IPVS.to_owned(),
        routes: ROUTES.map(str::to_owned),
        addresses: ADDRESSES.to_owned(),
        table: Some(TABLE.to_owned()),
        arp: Some(ARP.to_owned()),
    }
}

impl Printed {
    fn kernel(&self) -> Kernel {
        let tables: Vec<_> = self.table.iter().chain(&self.arp).cloned().collect();
        Kernel::parse(&self.ipvs, &self.routes, &self.addresses, &tables).unwrap()
    }
}

fn service(name: &str, ips: &[&str], ports: Value) -> Value {
    json!({
        "kind": "Service",
        "metadata": {"namespace": "default", "name": name},
        "spec": {"clusterIP": ips[0], "clusterIPs": ips, "ports": ports},
    })
}

fn endpoint(address: &str, node: &str) -> Value {
    json!({"addresses": [address], "nodeName": node, "conditions": {"ready": true}})
}

fn slice(name: &str, family: &str, endpoints: Value) -> Value {
    json!({
        "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default", "name": name, "labels": {"kubernetes.io/service-name": "web"},
        },
        "addressType": family,
        "ports": [
            {"name": "tcp", "protocol": "TCP", "port": 8080},
            {"name": "udp", "protocol": "UDP", "port": 8053},
            {"name": "sctp", "protocol": "SCTP", "port": 9},
        ],
        "endpoints": endpoints,
    })
}

/// Objects of the node in the fixtures.
fn objects() -> Vec<Value> {
    let ports = json!([
        {"name": "tcp", "protocol": "TCP", "port": 80},
        {"name": "udp", "protocol": "UDP", "port": 53},
        {"name": "sctp", "protocol": "SCTP", "port": 9},
    ]);
    let mut web = service("web", &["10.96.0.80", "fd00:96::80"], ports);
    web["spec"]["sessionAffinity"] = "ClientIP".into();
    let mut empty = service("empty", &["10.96.0.81"], json!([{"name": "tcp", "port": 80}]));
    empty["metadata"]["annotations"]["kube-ipvs.io/scheduler"] = "mh".into();
    let v4 = json!([endpoint("10.244.0.11", "demo-node"), endpoint("10.244.1.12", "other")]);
    let v6 = json!([endpoint("fd00:244::11", "demo-node")]);
    let addresses = json!([
        {"type": "Hostname", "address": "demo-node"},
        {"type": "InternalIP", "address": "192.168.50.10"},
        {"type": "InternalIP", "address": "fd00:50::10"},
    ]);
    let node = json!({"kind": "Node", "metadata": {"name": "demo-node"}, "status": {"addresses": addresses}});
    vec![node, web, empty, slice("web-v4", "IPv4", v4), slice("web-v6", "IPv6", v6)]
}

fn wanted(objects: &[Value]) -> Wanted {
    Wanted::of(objects, "demo-node").unwrap()
}

fn compare(objects: &[Value], printed: &Printed, draining: Draining) -> Vec<String> {
    differences(&wanted(objects), &printed.kernel(), &super::tests::printed().kernel().rules, draining)
}

/// Checks that damage in the output of the tools gives exactly these differences.
#[track_caller]
fn check(damage: impl FnOnce(&mut Printed), expected: &[&str]) {
    let mut damaged = printed();
    damage(&mut damaged);
    assert_eq!(compare(&objects(), &damaged, Draining::Over), expected);
}

/// Replaces text that occurs exactly once.
#[track_caller]
fn replace(text: &mut String, from: &str, to: &str) {
    assert_eq!(text.matches(from).count(), 1, "{from:?} in {text}");
    *text = text.replace(from, to);
}

#[test]
fn a_node_that_is_right_has_no_differences() {
    check(|_| {}, &[]);
}

#[test]
fn wrong_virtual_and_real_servers_are_found() {
    check(
        |printed| replace(&mut printed.ipvs, "-a -t 10.96.0.80:80 -r 10.244.1.12:8080 -m -w 1\n", ""),
        &["virtual server TCP 10.96.0.80:80 of default/web: real server 10.244.1.12:8080 is missing"],
    );
    check(
        |printed| {
            replace(
                &mut printed.ipvs,
                "10.96.0.80:80 -r 10.244.1.12:8080 -m -w 1",
                "10.96.0.80:80 -r 10.244.1.12:8080 -m -w 0",
            );
        },
        &["virtual server TCP 10.96.0.80:80 of default/web: real server 10.244.1.12:8080 has weight 0"],
    );
    check(
        |printed| printed.ipvs.push_str("-a -t 10.96.0.80:80 -r 10.244.0.99:8080 -m -w 1\n"),
        &[
            "virtual server TCP 10.96.0.80:80 of default/web: real server 10.244.0.99:8080 with weight 1 is not wanted",
        ],
    );
    check(
        |printed| replace(&mut printed.ipvs, "-A -t 10.96.0.81:80 -s mh -b mh-fallback,mh-port\n", ""),
        &["virtual server TCP 10.96.0.81:80 of default/empty: is missing, with 0 real servers"],
    );
    check(
        |printed| {
            replace(
                &mut printed.ipvs,
                "-A -u [fd00:96::80]:53 -s rr -p 10800",
                "-A -u [fd00:96::80]:53 -s wlc -p 60 -o",
            )
        },
        &[
            "virtual server UDP [fd00:96::80]:53 of default/web: scheduler must be \"rr\", is \"wlc\"",
            "virtual server UDP [fd00:96::80]:53 of default/web: persistence must be \"Some(10800)\", is \"Some(60)\"",
            "virtual server UDP [fd00:96::80]:53 of default/web: options must be \"\", is \"-o\"",
        ],
    );
    check(
        |printed| printed.ipvs.push_str("-A -f 7 -s rr\n"),
        &["IPVS has what nobody wants: mark 0x7, which no element names"],
    );
    let mut damaged = printed();
    damaged.ipvs.push_str("-A -t 10.96.0.200:80 -s rr\n");
    let found = compare(&objects(), &damaged, Draining::MayRun);
    assert!(found.len() == 1 && found[0].contains("10.96.0.200:80 is not wanted"), "{found:?}");
}

#[test]
fn wrong_routes_and_links_are_found() {
    check(
        |printed| replace(&mut printed.routes[1], "fd00:96::80", "fd00:96::81"),
        &["route fd00:96::80 src fd00:50::10 is missing", "route fd00:96::81 src fd00:50::10 is not wanted"],
    );
    check(
        |printed| printed.routes[0] = printed.routes[0].replace("192.168.50.10", "192.168.50.11"),
        &[
            "route 10.96.0.80 src 192.168.50.10 is missing",
            "route 10.96.0.81 src 192.168.50.10 is missing",
            "route 10.96.0.80 src 192.168.50.11 is not wanted",
            "route 10.96.0.81 src 192.168.50.11 is not wanted",
        ],
    );
    check(
        |printed| replace(&mut printed.routes[0], "10.96.0.81", "10.96.0.80"),
        &["route 10.96.0.81 src 192.168.50.10 is missing", "route: 1 are there twice"],
    );
    check(|printed| replace(&mut printed.addresses, "\"UP\",", ""), &["the link kube-ipvs0 is down"]);
    check(
        |printed| replace(&mut printed.addresses, "kube-ipvs0", "kube-ipvs1"),
        &["the link kube-ipvs0 is missing"],
    );
    check(
        |printed| replace(&mut printed.addresses, "\"dummy\"", "\"bridge\""),
        &["the link kube-ipvs0 is of type \"bridge\", not dummy"],
    );
    check(
        |printed| {
            let address = r#""addr_info":[{"family":"inet","local":"10.96.0.80","scope":"global"}]"#;
            replace(&mut printed.addresses, "\"addr_info\":[]", address);
        },
        &["the link kube-ipvs0 has the address 10.96.0.80"],
    );
    check(
        |printed| {
            let address = r#""addr_info":[{"family":"inet","local":"127.177.177.177","scope":"host"}]"#;
            replace(&mut printed.addresses, "\"addr_info\":[]", address);
        },
        &[],
    );
}

#[test]
fn wrong_elements_and_rules_are_found() {
    let table = |from: &'static str, to: &'static str| {
        move |printed: &mut Printed| replace(printed.table.as_mut().unwrap(), from, to)
    };
    check(table(", \"10.96.0.81\"]", "]"), &["set vips-v4: element 10.96.0.81 is missing"]);
    check(
        table("\"elem\": [\"fd00:96::80\"]", "\"elem\": [\"fd00:96::80\", \"fd00:96::99\"]"),
        &["set vips-v6: element fd00:96::99 is not wanted"],
    );
    check(
        table("\"handle\": 5, \"elem\": [{\"concat\": [\"10.96.0.81\", \"tcp\", 80]}]", "\"handle\": 5"),
        &["set no-endpoints-v4: element 10.96.0.81 . tcp . 80 is missing"],
    );
    // Traffic fills these sets.
    check(table("\"10.244.0.11\", \"udp\", 8053", "\"10.244.0.99\", \"tcp\", 80"), &[]);
    check(
        table("\"name\": \"masquerade-v4\"", "\"elem\": [\"10.0.0.1\"], \"name\": \"mystery\""),
        &["set mystery: element 10.0.0.1 is not wanted"],
    );
    check(
        table("\"right\": \"sctp\"", "\"right\": \"udp\""),
        &[&rule_line("sctp", "is missing"), &rule_line("udp", "is not wanted")],
    );
    let nothing = |printed: &mut Printed| (printed.table, printed.arp) = (None, None);
    check(nothing, &["the tables of kube-ipvs are missing"]);
    check(
        |printed| printed.arp = None,
        &[
            "set unanswered-vips-v4: element 10.96.0.80 is missing",
            "set unanswered-vips-v4: element 10.96.0.81 is missing",
        ],
    );
    // A table that was made again is as good.
    check(|printed| *printed.table.as_mut().unwrap() = TABLE.replace("\"handle\": ", "\"handle\": 10"), &[]);
}

fn rule_line(protocol: &str, what: &str) -> String {
    let mut line = printed().kernel().rules.lines().find(|line| line.contains("sctp")).unwrap().to_owned();
    line = line.replace("\"right\":\"sctp\"", &format!("\"right\":\"{protocol}\""));
    format!("rule {line} {what}")
}

/// The objects with these conditions for the first endpoint of IPv4.
fn with_conditions(conditions: Value) -> Vec<Value> {
    let mut objects = objects();
    objects[3]["endpoints"][0]["conditions"] = conditions;
    objects
}

fn real_servers(objects: &[Value]) -> Vec<String> {
    let key = (crate::probe::Proto::Tcp, "10.96.0.80:80".parse().unwrap());
    wanted(objects).servers[&key].real.iter().map(ToString::to_string).collect()
}

#[test]
fn endpoints_are_chosen_as_the_api_says() {
    let (one, other) = ("10.244.0.11:8080", "10.244.1.12:8080");
    assert_eq!(real_servers(&objects()), [one, other]);
    assert_eq!(real_servers(&with_conditions(json!({}))), [one, other], "ready unless it says otherwise");
    let terminating = json!({"ready": false, "serving": true, "terminating": true});
    let mut objects = with_conditions(terminating.clone());
    assert_eq!(real_servers(&objects), [other]);
    objects[3]["endpoints"][1]["conditions"] = json!({"ready": false, "serving": true});
    assert_eq!(real_servers(&objects), [one], "nothing is ready, but one serves while it terminates");
    objects[3]["endpoints"][0]["conditions"]["serving"] = false.into();
    assert!(real_servers(&objects).is_empty());
    // Another slice says that the endpoint is ready: that copy does not terminate.
    objects.push(slice("web-2", "IPv4", json!([endpoint("10.244.0.11", "demo-node")])));
    assert_eq!(real_servers(&objects), [one]);
    let mut local = super::tests::objects();
    local[1]["spec"]["internalTrafficPolicy"] = "Local".into();
    assert_eq!(real_servers(&local), [one]);
    local[3]["metadata"]["labels"] = json!({"kubernetes.io/service-name": "other"});
    assert!(real_servers(&local).is_empty());
}

#[test]
fn drains_are_allowed_only_as_long_as_they_may_run() {
    let unready = with_conditions(json!({"ready": false}));
    let mut printed = printed();
    printed.ipvs = printed.ipvs.replace("-r 10.244.0.11:8080 -m -w 1", "-r 10.244.0.11:8080 -m -w 0");
    printed.ipvs = printed.ipvs.replace("-r 10.244.0.11:9 -m -w 1", "-r 10.244.0.11:9 -m -w 0");
    let found = compare(&unready, &printed, Draining::MayRun);
    // UDP has no connections that could drain.
    let udp = "virtual server UDP 10.96.0.80:53 of default/web: real server 10.244.0.11:8053 with weight 1 is not wanted";
    assert_eq!(found, [udp]);
    replace(&mut printed.ipvs, "-a -u 10.96.0.80:53 -r 10.244.0.11:8053 -m -w 1\n", "");
    assert!(compare(&unready, &printed, Draining::MayRun).is_empty());
    assert_eq!(compare(&unready, &printed, Draining::Over).len(), 2);
}

#[test]
fn a_retiring_virtual_server_keeps_its_vip_and_refuses() {
    let mut objects = objects();
    let gone = objects.remove(1);
    assert_eq!(gone["metadata"]["name"], "web");
    let mut printed = printed();
    printed.ipvs = printed.ipvs.replace("-w 1", "-w 0");
    // No real server of UDP stays.
    printed.ipvs =
        printed.ipvs.lines().filter(|line| !line.contains("-u ")).map(|line| format!("{line}\n")).collect();
    let table = printed.table.as_mut().unwrap();
    for part in ["10.96.0.80", "fd00:96::80"] {
        *table = table.replace(&format!("{{\"concat\": [\"{part}\", \"udp\", 53]}}, "), "");
    }
    let found = compare(&objects, &printed, Draining::MayRun);
    let is_refusal = |line: &String| line.contains("no-endpoints") && line.ends_with("is missing");
    assert!(found.len() == 4 && found.iter().all(is_refusal), "{found:#?}");
    assert!(compare(&objects, &printed, Draining::Over).len() > found.len());
}

#[test]
fn the_older_service_has_what_two_claim() {
    let mut objects = objects();
    let mut rival = service("a-rival", &["10.96.0.80"], json!([{"name": "tcp", "port": 80}]));
    rival["metadata"]["creationTimestamp"] = "2026-01-02T03:04:05Z".into();
    objects.push(rival);
    assert!(real_servers(&objects).is_empty(), "the other one has no time stamp");
    objects[1]["metadata"]["creationTimestamp"] = "2026-01-01T03:04:05Z".into();
    assert_eq!(real_servers(&objects).len(), 2);
}

#[test]
fn what_is_not_understood_is_refused() {
    for (pointer, value) in [
        ("/3/endpoints/0/hints", json!({"forZones": [{"name": "a"}]})),
        ("/3/endpoints/0/addresses/0", json!("web.example")),
        ("/1/spec/ports/0/port", json!("http")),
        ("/1/spec/ports/0/protocol", json!("DCCP")),
        ("/1/spec/clusterIPs/0", json!("somewhere")),
        ("/0/metadata/name", json!("another-node")),
    ] {
        let mut objects = Value::Array(objects());
        let (parent, field) = pointer.rsplit_once('/').unwrap();
        match objects.pointer_mut(parent).unwrap() {
            Value::Array(list) => list[field.parse::<usize>().unwrap()] = value,
            object => object[field] = value,
        }
        assert!(Wanted::of(objects.as_array().unwrap(), "demo-node").is_err(), "{pointer}");
    }
    let mut others = objects();
    others[1]["spec"]["clusterIP"] = "None".into();
    others[2]["metadata"]["labels"] = json!({"service.kubernetes.io/service-proxy-name": "x"});
    assert!(wanted(&others).servers.is_empty());
}

/// The objects and the output of the tools with a node port 30080 whose clients outside reach local endpoints only.
fn with_node_port() -> (Vec<Value>, Printed) {
    let mut objects = objects();
    objects[1]["spec"]["externalTrafficPolicy"] = "Local".into();
    objects[1]["spec"]["ports"][0]["nodePort"] = 30080.into();
    objects[1]["spec"]["clusterIPs"] = json!(["10.96.0.80"]);
    let mut printed = printed();
    let is_v6 = |line: &&str| line.contains("fd00:96::80");
    printed.ipvs = IPVS.lines().filter(|line| !is_v6(line)).map(|line| format!("{line}\n")).collect();
    for (mark, real) in [(5, &["10.244.0.11", "10.244.1.12"][..]), (6, &["10.244.0.11"])] {
        printed.ipvs += &format!("-A -f {mark} -s mh -b mh-fallback\n");
        for addr in real {
            printed.ipvs += &format!("-a -f {mark} -r {addr}:8080 -m -w 1\n");
        }
    }
    printed.routes[1] = String::new();
    let mut table: Value = serde_json::from_str(TABLE).unwrap();
    let parts = table["nftables"].as_array_mut().unwrap();
    for part in parts.iter_mut() {
        let Some(set) = part.get_mut("set").and_then(Value::as_object_mut) else { continue };
        if set["name"] != "node-addresses-v6" && set["name"].as_str().unwrap().ends_with("-v6") {
            set.remove("elem");
        }
    }
    let key = json!({"concat": ["tcp", 30080]});
    for (map, mark) in [("node-marks-v4", 5), ("node-marks-external-v4", 6)] {
        parts.push(json!({"map": {"name": map, "elem": [[key, mark]]}}));
    }
    for set in ["node-services-v4", "node-masquerade-pods-v4"] {
        parts.push(json!({"set": {"name": set, "elem": [key]}}));
    }
    let endpoint = json!({"concat": ["10.244.0.11", "tcp", 8080]});
    parts.push(json!({"set": {"name": "local-endpoints-v4", "elem": [endpoint]}}));
    printed.table = Some(table.to_string());
    (objects, printed)
}

#[test]
fn node_ports_are_compared_by_what_their_marks_lead_to() {
    let (objects, healthy) = with_node_port();
    assert_eq!(compare(&objects, &healthy, Draining::Over), [""; 0]);
    let check = |damage: &dyn Fn(&mut Printed), expected: &[&str]| {
        let mut damaged = healthy.clone();
        damage(&mut damaged);
        assert_eq!(compare(&objects, &damaged, Draining::Over), expected);
    };
    check(
        &|printed| printed.ipvs += "-a -f 6 -r 10.244.1.12:8080 -m -w 1\n",
        &[
            "virtual server TCP 0.0.0.0:30080 (external clients) of default/web: real server 10.244.1.12:8080 with weight 1 is not wanted",
        ],
    );
    check(
        &|printed| replace(&mut printed.ipvs, "-a -f 5 -r 10.244.1.12:8080 -m -w 1\n", ""),
        &["virtual server TCP 0.0.0.0:30080 of default/web: real server 10.244.1.12:8080 is missing"],
    );
    check(
        &|printed| replace(printed.table.as_mut().unwrap(), r#""tcp",8080]}"#, r#""tcp",8081]}"#),
        &[
            "set local-endpoints-v4: element 10.244.0.11 . tcp . 8080 is missing",
            "set local-endpoints-v4: element 10.244.0.11 . tcp . 8081 is not wanted",
        ],
    );
    check(
        &|printed| replace(printed.table.as_mut().unwrap(), r#""tcp",30080]},6"#, r#""tcp",30080]},7"#),
        &[
            "IPVS has what nobody wants: mark 0x6, which no element names",
            "virtual server TCP 0.0.0.0:30080 (external clients) of default/web: is missing, with 1 real servers",
        ],
    );
    check(
        &|printed| replace(printed.table.as_mut().unwrap(), "node-services-v4", "node-masquerade-v4"),
        &[
            "set node-masquerade-v4: element tcp . 30080 is not wanted",
            "set node-services-v4: element tcp . 30080 is missing",
        ],
    );
}
