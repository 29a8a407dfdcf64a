//! Objects in protobuf mean what they mean in JSON. The encoder is that of the API server for tests, whose messages
//! are generated from the proto files of Kubernetes.

use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Map, Value, json};
use test_apiserver::{Load, Resource, proto, sample};

use super::*;

const fn resource(kind: Kind) -> Resource {
    match kind {
        Kind::Node => Resource::Nodes,
        Kind::ServiceCidr => Resource::ServiceCidrs,
        Kind::Service => Resource::Services,
        Kind::EndpointSlice => Resource::EndpointSlices,
    }
}

/// Checks that both encodings of an object are the same item.
fn check(kind: Kind, object: &Value) -> Item {
    let message = proto::message(resource(kind), object.clone());
    let message = message.unwrap_or_else(|| panic!("no message: {object}"));
    let item = kind.read_protobuf(message.into()).unwrap();
    assert_eq!(item, kind.read_json(&object.to_string()).unwrap(), "{object}");
    item
}

/// An object of some fields, of which those without a value are missing.
fn object(fields: impl IntoIterator<Item = (&'static str, Option<Value>)>) -> Value {
    let present = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    Value::Object(present.collect::<Map<_, _>>())
}

/// Text that some field understands, or none.
fn text() -> impl Strategy<Value = String> {
    let known = vec![
        "web",
        "",
        "TCP",
        "UDP",
        "SCTP",
        "tcp",
        "IPv4",
        "IPv6",
        "FQDN",
        "10.96.0.1",
        "10.244.1.7",
        "fd00::1",
        "::",
        "127.0.0.1",
        "010.1.2.3",
        "None",
        "ClusterIP",
        "LoadBalancer",
        "ExternalName",
        "ClientIP",
        "Local",
        "Cluster",
        "10.96.0.0/16",
        "fd00::/112",
        "1/2",
        "VIP",
        "Proxy",
        "InternalIP",
        "Hostname",
        "true",
        "ToBeDeletedByClusterAutoscaler",
    ];
    prop_oneof![4 => select(known).prop_map(str::to_owned), 1 => any::<String>()]
}

fn number() -> impl Strategy<Value = i32> {
    prop_oneof![select(vec![0, 1, 80, 8080, 30_000, 65_535, 65_536, -1, 10_800, i32::MAX]), any::<i32>()]
}

/// A value of a field that JSON leaves out if it is empty.
fn omitted<T: Into<Value>>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Option<Value>> {
    pointer(value).prop_map(|value| value.filter(|value| *value != "" && *value != 0))
}

/// A value that a pointer points at: JSON leaves it out only if there is none.
fn pointer<T: Into<Value>>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Option<Value>> {
    option::of(value.prop_map(Into::into))
}

/// A value of a field that JSON never leaves out.
fn always<T: Into<Value>>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Option<Value>> {
    value.prop_map(|value| Some(value.into()))
}

fn list<T: Into<Value>>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Option<Value>> {
    let values = vec(value.prop_map(Into::into), 0..4);
    option::of(
        values.prop_map(|values: Vec<Value>| if values.is_empty() { Value::Null } else { values.into() }),
    )
}

fn labels() -> impl Strategy<Value = Option<Value>> {
    let key = select(vec![
        "kubernetes.io/service-name",
        "service.kubernetes.io/headless",
        "service.kubernetes.io/service-proxy-name",
        "topology.kubernetes.io/zone",
        "k8s-app",
        "kube-ipvs.io/scheduler",
        "kube-ipvs.io/max-connections",
        "endpoints.kubernetes.io/last-change-trigger-time",
        "app",
    ]);
    let value = prop_oneof![
        text(),
        select(vec!["rr", "mh", "5", "kube-dns", "2026-01-01T00:00:00Z"]).prop_map(str::to_owned),
    ];
    let labels = vec((key, value), 0..4);
    option::of(
        labels.prop_map(|labels| labels.into_iter().map(|(key, value)| (key, Value::from(value))).collect()),
    )
}

fn time() -> impl Strategy<Value = Option<Value>> {
    let text = |seconds| jiff::Timestamp::from_second(seconds).unwrap().to_string().into();
    let seconds = prop_oneof![Just(0), Just(1_767_225_600), -62_135_596_799_i64..253_402_207_200];
    prop_oneof![Just(None), Just(Some(Value::Null)), seconds.prop_map(move |seconds| Some(text(seconds)))]
}

fn metadata() -> impl Strategy<Value = Option<Value>> {
    let named = prop_oneof![4 => Just(Some(Value::from("web"))), 1 => omitted(text())];
    let fields =
        (named, omitted(text()), omitted(text()), omitted("[0-9x]{0,4}"), time(), time(), labels(), labels());
    fields.prop_map(|(name, namespace, uid, version, created, deleted, labels, annotations)| {
        Some(object([
            ("name", name),
            ("namespace", namespace),
            ("uid", uid),
            ("resourceVersion", version),
            ("creationTimestamp", created),
            ("deletionTimestamp", deleted),
            ("labels", labels),
            ("annotations", annotations),
            ("generateName", Some("unread".into())),
            ("finalizers", Some(json!(["unread"]))),
        ]))
    })
}

fn service_port() -> impl Strategy<Value = Value> {
    (omitted(text()), omitted(text()), always(number()), omitted(number()), omitted(text())).prop_map(
        |(name, protocol, port, node_port, target_port)| {
            object([
                ("name", name),
                ("protocol", protocol),
                ("port", port),
                ("nodePort", node_port),
                ("targetPort", target_port),
            ])
        },
    )
}

fn service_spec() -> impl Strategy<Value = Value> {
    let affinity = option::of(
        pointer(number()).prop_map(|seconds| json!({"clientIP": object([("timeoutSeconds", seconds)])})),
    );
    let addresses = (omitted(text()), list(text()), list(text()), list(text()), list(text()));
    let policies =
        (omitted(text()), omitted(text()), pointer(text()), omitted(text()), omitted(number()), affinity);
    (addresses, policies, list(service_port())).prop_map(|(addresses, policies, ports)| {
        let (cluster_ip, cluster_ips, families, external_ips, ranges) = addresses;
        let (kind, affinity, internal, external, health_port, config) = policies;
        object([
            ("type", kind),
            ("clusterIP", cluster_ip),
            ("clusterIPs", cluster_ips),
            ("ipFamilies", families),
            ("externalIPs", external_ips),
            ("loadBalancerSourceRanges", ranges),
            ("sessionAffinity", affinity),
            ("sessionAffinityConfig", config),
            ("internalTrafficPolicy", internal),
            ("externalTrafficPolicy", external),
            ("healthCheckNodePort", health_port),
            ("ports", ports),
            ("selector", Some(json!({"app": "unread"}))),
        ])
    })
}

fn service() -> impl Strategy<Value = Value> {
    let ingress =
        (omitted(text()), pointer(text())).prop_map(|(ip, mode)| object([("ip", ip), ("ipMode", mode)]));
    (metadata(), omitted(service_spec()), list(ingress)).prop_map(|(metadata, spec, ingress)| {
        let balancer = object([("ingress", ingress)]);
        object([("metadata", metadata), ("spec", spec), ("status", Some(json!({"loadBalancer": balancer})))])
    })
}

fn endpoint() -> impl Strategy<Value = Value> {
    let flag = || pointer(any::<bool>());
    let conditions = (flag(), flag(), flag()).prop_map(|(ready, serving, terminating)| {
        object([("ready", ready), ("serving", serving), ("terminating", terminating)])
    });
    let hint = || always(text()).prop_map(|name| object([("name", name)]));
    let hints = (list(hint()), list(hint()))
        .prop_map(|(zones, nodes)| object([("forZones", zones), ("forNodes", nodes)]));
    let target = (omitted(text()), omitted(text()), omitted(text()))
        .prop_map(|(namespace, name, uid)| object([("namespace", namespace), ("name", name), ("uid", uid)]));
    let fields = (
        list(text()),
        pointer(conditions),
        pointer(text()),
        pointer(hints),
        pointer(target),
        pointer(text()),
    );
    fields.prop_map(|(addresses, conditions, node, hints, target, zone)| {
        object([
            ("addresses", addresses),
            ("conditions", conditions),
            ("nodeName", node),
            ("hints", hints),
            ("targetRef", target),
            ("zone", zone),
        ])
    })
}

fn slice() -> impl Strategy<Value = Value> {
    let port = (pointer(text()), pointer(text()), pointer(number()))
        .prop_map(|(name, protocol, port)| object([("name", name), ("protocol", protocol), ("port", port)]));
    (metadata(), always(text()), list(endpoint()), list(port)).prop_map(
        |(metadata, family, endpoints, ports)| {
            object([
                ("metadata", metadata),
                ("addressType", family),
                ("endpoints", endpoints),
                ("ports", ports),
            ])
        },
    )
}

fn node() -> impl Strategy<Value = Value> {
    let taint = always(text()).prop_map(|key| object([("key", key), ("effect", Some("NoSchedule".into()))]));
    let address =
        (always(text()), always(text())).prop_map(|(kind, at)| object([("type", kind), ("address", at)]));
    let spec = (omitted(text()), list(text()), list(taint)).prop_map(|(cidr, cidrs, taints)| {
        object([("podCIDR", cidr), ("podCIDRs", cidrs), ("taints", taints)])
    });
    (metadata(), omitted(spec), list(address)).prop_map(|(metadata, spec, addresses)| {
        let status = object([("addresses", addresses), ("capacity", Some(json!({"cpu": "4"})))]);
        object([("metadata", metadata), ("spec", spec), ("status", Some(status))])
    })
}

fn service_cidr() -> impl Strategy<Value = Value> {
    (metadata(), list(text())).prop_map(|(metadata, cidrs)| {
        object([("metadata", metadata), ("spec", Some(object([("cidrs", cidrs)])))])
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Valid objects and those with faults: the same content, problems, name and version.
    #[test]
    fn services_are_the_same_in_both_encodings(object in service()) {
        check(Kind::Service, &object);
    }

    #[test]
    fn slices_are_the_same_in_both_encodings(object in slice()) {
        check(Kind::EndpointSlice, &object);
    }

    #[test]
    fn nodes_are_the_same_in_both_encodings(object in node()) {
        check(Kind::Node, &object);
    }

    #[test]
    fn service_cidrs_are_the_same_in_both_encodings(object in service_cidr()) {
        check(Kind::ServiceCidr, &object);
    }

    /// Any bytes, and messages of which some bytes are others.
    #[test]
    fn reading_protobuf_is_total(
        bytes in vec(any::<u8>(), 0..200),
        object in slice(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        let mut message = proto::message(Resource::EndpointSlices, object).unwrap();
        for (at, byte) in changes {
            let at = at.index(message.len());
            message[at] = byte;
        }
        for kind in Kind::ALL {
            drop(kind.read_protobuf(bytes.clone().into()));
            drop(kind.read_protobuf(message.clone().into()));
        }
    }
}

#[test]
fn objects_of_every_kind_are_served() {
    let served = |kind, object: &Value| {
        let item = check(kind, object);
        assert!(item.content.is_some() && item.problems.is_empty(), "{item:?}");
        assert!(item.name.is_some(), "{item:?}");
    };
    for object in (Load { services: 2, endpoints: 120 }).objects() {
        let kind = if object["kind"] == "Service" { Kind::Service } else { Kind::EndpointSlice };
        served(kind, &object);
    }
    let mut node = sample::node("n1");
    node["metadata"]["labels"] = json!({"topology.kubernetes.io/zone": "a", "k8s-app-not-read": "b"});
    node["spec"] = json!({"podCIDR": "10.244.0.0/24", "podCIDRs": ["10.244.0.0/24"]});
    node["status"] = json!({"addresses": [{"type": "InternalIP", "address": "192.0.2.1"}]});
    served(Kind::Node, &node);
    served(Kind::ServiceCidr, &sample::service_cidr("kubernetes", &["10.96.0.0/16", "fd00::/112"]));
}

/// Text that is no UTF-8 is replaced, as in Go's JSON. The API server checks neither names of pods nor everything else.
#[test]
fn text_that_is_not_utf_8() {
    let mut slice = sample::endpoint_slice("ns", "web-1", "web");
    slice["metadata"]["labels"]["kubernetes.io/service-name"] = "XYZ".into();
    slice["endpoints"] =
        json!([{"addresses": ["10.244.0.1"], "targetRef": {"namespace": "ns", "name": "pod-UVW"}}]);
    let message = proto::message(Resource::EndpointSlices, slice).unwrap();
    let replaced = |from: &[u8], to: &[u8]| {
        let at = message.windows(from.len()).position(|found| found == from).unwrap();
        let mut changed = message.clone();
        changed[at..at + to.len()].copy_from_slice(to);
        let item = Kind::EndpointSlice.read_protobuf(changed.into()).unwrap();
        let Some(Content::Event(ModelEvent::SliceApplied(slice))) = item.content else { panic!("{item:?}") };
        slice
    };
    assert_eq!(&*replaced(b"XYZ", b"X\xffZ").service.name, "X\u{fffd}Z");
    assert_eq!(replaced(b"UVW", b"U\xffW").endpoints[0].pod.as_deref(), Some("ns/pod-U\u{fffd}W/"));
}
