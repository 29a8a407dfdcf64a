use std::{collections::BTreeSet, net::IpAddr};

use lb_types::{IpFamily, ServiceName};

use crate::{
    ExternalIp, ExternalSource,
    ModelEvent::{self, NodeApplied, ServiceApplied, ServiceDeleted, SliceApplied, SliceDeleted, Synced},
    Node, Service, ServiceModel,
    testing::{addr, endpoint, endpoints, model, node, service, slice, slice_name, slice_of},
};

const V4: IpFamily = IpFamily::V4;

fn name(service: &str) -> ServiceName {
    ServiceName::new("ns", service)
}

/// Takes the dirty set and returns the names in it.
fn dirty(model: &mut ServiceModel) -> String {
    let names: Vec<_> = model.take_dirty().iter().map(|name| name.name.to_string()).collect();
    assert!(!model.has_dirty());
    names.join(" ")
}

/// Checks the endpoints of the ports `http` and `admin` in a model with Service `web` and some slices.
fn check_merged(case: &str, slices: &[(&str, &str)], http: &str, admin: &str) {
    let applied = |slices: &[(&str, &str)], reverse: bool| {
        let mut events: Vec<_> = slices
            .iter()
            .enumerate()
            .map(|(i, (ports, text))| SliceApplied(slice(&format!("s{i}"), "web", ports, text)))
            .collect();
        events.push(ServiceApplied(service("web", "http:80/TCP admin:443/TCP")));
        if reverse {
            events.reverse();
        }
        model(events)
    };
    for reverse in [false, true] {
        let model = applied(slices, reverse);
        assert_eq!(endpoints(&model, "web", "http", V4), http, "{case}");
        assert_eq!(endpoints(&model, "web", "admin", V4), admin, "{case}");
    }
}

/// Conformance: endpointslicecache TestEndpointsMapFromESC
#[test]
fn endpoints_map_from_esc() {
    for (case, slices, http, admin) in [
        (
            "1 slice, 2 hosts, ports 80,443",
            &[("http:80/TCP admin:443/TCP", "1RSL 2RS 3RSL")][..],
            "1:80RSL 2:80RS 3:80RSL",
            "1:443RSL 2:443RS 3:443RSL",
        ),
        (
            "2 slices, same port",
            &[("http:80/TCP", "1RS 2RS"), ("http:80/TCP", "3RS 4RS")],
            "1:80RS 2:80RS 3:80RS 4:80RS",
            "",
        ),
        (
            "2 overlapping slices, same port",
            &[("http:80/TCP", "1RS 2RS"), ("http:80/TCP", "2RS 3RS")],
            "1:80RS 2:80RS 3:80RS",
            "",
        ),
        (
            "2 slices, overlapping endpoints, some endpoints unready in 1 or both",
            &[("http:80/TCP", "1RS 2 3RS 4"), ("http:80/TCP", "1 2RS 3RS 4")],
            "1:80RS 2:80RS 3:80RS 4:80",
            "",
        ),
        (
            "2 slices, overlapping endpoints, some endpoints unready and some terminating",
            &[("http:80/TCP", "1RS 2ST 3T"), ("http:80/TCP", "2RS 3ST 4T")],
            "1:80RS 2:80RS 3:80ST 4:80T",
            "",
        ),
        // `addEndpoints` favoured the copy that is local, and leaves it to chance now.
        (
            "a copy without a node",
            &[("http:80/TCP", "1RSL 2RS"), ("http:80/TCP", "1RS")],
            "1:80RSL 2:80RS",
            "",
        ),
        ("the same in one slice", &[("http:80/TCP", "1RS 1RSL 2RS")], "1:80RSL 2:80RS", ""),
        ("1 slice, all unready", &[("http:80/TCP", "1 2")], "1:80 2:80", ""),
        (
            "different endpoints with duplicate IPs and different ports",
            &[("http:80/TCP", "1RS 2RS"), ("http:8080/TCP", "1RS 2RS")],
            "1:80RS 1:8080RS 2:80RS 2:8080RS",
            "",
        ),
    ] {
        check_merged(case, slices, http, admin);
    }
}

/// Conformance: endpointslicecache TestEndpointInfoByServicePort
#[test]
fn endpoint_info_by_service_port() {
    for (case, slices, http) in [
        ("simple use case with 3 endpoints", &[("http:80/TCP", "1RS 2RS 3RS")][..], "1:80RS 2:80RS 3:80RS"),
        (
            "4 slices with duplicate IPs",
            &[
                ("http:80/TCP", "1RS 2RS"),
                ("http:80/TCP", "1RS 3RS"),
                ("http:80/TCP", "2RS"),
                ("http:80/TCP", "1RS"),
            ],
            "1:80RS 2:80RS 3:80RS",
        ),
        (
            "duplicate endpoints, prefer non-terminating",
            &[("http:80/TCP", "1RS 2ST"), ("http:80/TCP", "1ST 2RS")],
            "1:80RS 2:80RS",
        ),
    ] {
        check_merged(case, slices, http, "");
    }
}

#[test]
fn of_several_copies_the_most_usable_is_believed() {
    // In this order; a later copy wins over none of the earlier ones.
    let order = ["1RS", "1R", "1S", "1", "1RST", "1RT", "1ST", "1T"];
    for (i, better) in order.iter().enumerate() {
        for worse in &order[i..] {
            let expect = better.replacen('1', "1:80", 1);
            check_merged("two slices", &[("http:80/TCP", better), ("http:80/TCP", worse)], &expect, "");
            check_merged("one slice", &[("http:80/TCP", &format!("{better} {worse}"))], &expect, "");
            check_merged("one slice", &[("http:80/TCP", &format!("{worse} {better}"))], &expect, "");
        }
    }
}

#[test]
fn the_copy_that_is_believed_brings_its_pod() {
    for slices in [["1ST=ns/old/1", "1RS=ns/new/2"], ["1RS=ns/new/2", "1ST=ns/old/1"]] {
        let web = service("web", "http:80/TCP");
        let slices = slices.iter().enumerate();
        let events =
            slices.map(|(i, text)| SliceApplied(slice(&format!("s{i}"), "web", "http:80/TCP", text)));
        let model = model(events.chain([ServiceApplied(web.clone())]));
        let endpoints = model.endpoints(&web, &web.ports[0], V4);
        let pods = endpoints.iter().map(|e| model.pod_name(&web.name, e.id.addr, e.pod.unwrap()));
        assert_eq!(pods.collect::<Vec<_>>(), [Some("ns/new/2".into())]);
    }
}

/// Conformance: e2e/service should support named targetPorts...
#[test]
fn ports_are_matched_by_name_and_protocol() {
    let model = model([
        ServiceApplied(service("dns", "dns:53/UDP dns-tcp:53/TCP :54/UDP")),
        SliceApplied(slice(
            "s1",
            "dns",
            "dns:5353/UDP dns-tcp:5354/TCP dns:1/TCP :55/UDP other:99/UDP",
            "1RS",
        )),
        SliceApplied(slice("s2", "dns", "dns:6353/UDP", "2RS")),
    ]);
    assert_eq!(endpoints(&model, "dns", "dns", V4), "1:5353RS 2:6353RS");
    assert_eq!(endpoints(&model, "dns", "dns-tcp", V4), "1:5354RS");
    assert_eq!(endpoints(&model, "dns", "", V4), "1:55RS");
}

/// Conformance: endpointslicecache TestEndpointsMapFromESC: 3 slices with different services and namespaces
#[test]
fn families_and_services_do_not_mix() {
    let mut wrong_family = slice("s4", "web", "http:80/TCP", "4RS");
    wrong_family.endpoints.push(endpoint(IpFamily::V6, "5RS"));
    let mut elsewhere = slice("s1", "web", "http:80/TCP", "6RS");
    (elsewhere.name.namespace, elsewhere.service) = ("other".into(), ServiceName::new("other", "web"));
    let model = model([
        ServiceApplied(service("web", "http:80/TCP")),
        ServiceApplied(service("api", "http:80/TCP")),
        SliceApplied(slice("s1", "web", "http:80/TCP", "1RS")),
        SliceApplied(slice_of(IpFamily::V6, "s2", "web", "http:80/TCP", "2RS")),
        SliceApplied(slice("s3", "api", "http:80/TCP", "3RS")),
        SliceApplied(wrong_family),
        SliceApplied(elsewhere),
    ]);
    assert_eq!(endpoints(&model, "web", "http", V4), "1:80RS 4:80RS");
    assert_eq!(endpoints(&model, "web", "http", IpFamily::V6), "2:80RS");
    assert_eq!(endpoints(&model, "api", "http", V4), "3:80RS");
}

/// Applies a change to a model with Service `web`; checks the endpoints of `http` after it, and whether `web`
/// is dirty.
fn check_change(case: &str, before: &[(&str, &str)], after: &[(&str, &str)], http: &str, is_dirty: bool) {
    let named = |i: usize, ports: &str, text: &str| slice(&format!("s{i}"), "web", ports, text);
    let mut model = model([ServiceApplied(service("web", "http:80/TCP admin:443/TCP"))]);
    for (i, (ports, text)) in before.iter().enumerate() {
        model.apply(SliceApplied(named(i, ports, text)));
    }
    dirty(&mut model);
    for i in after.len()..before.len() {
        model.apply(SliceDeleted(slice_name(&format!("s{i}"))));
    }
    for (i, (ports, text)) in after.iter().enumerate() {
        model.apply(SliceApplied(named(i, ports, text)));
    }
    assert_eq!(endpoints(&model, "web", "http", V4), http, "{case}");
    assert_eq!(dirty(&mut model), if is_dirty { "web" } else { "" }, "{case}");
}

/// Conformance: ipvs/proxier Test_updateEndpointsMap
/// Conformance: endpointschangetracker TestUpdateEndpointsMap
/// Conformance: endpointschangetracker TestEndpointSliceUpdate
/// Conformance: endpointschangetracker TestCheckoutChanges
#[test]
fn update_endpoints_map() {
    let http = "http:80/TCP";
    let admin = "admin:443/TCP";
    let both = "http:80/TCP admin:443/TCP";
    type Slices<'a> = &'a [(&'a str, &'a str)];
    let unchanged: [(&str, Slices<'_>, &str); 5] = [
        ("nothing", &[], ""),
        ("no change, named port, local", &[(http, "1RSL")], "1:80RSL"),
        ("no change, multiple subsets", &[(http, "1RS"), (admin, "2RS")], "1:80RS"),
        (
            "no change, multiple subsets, multiple ports, local",
            &[(both, "1RSL"), ("http:8080/TCP", "3RS")],
            "1:80RSL 3:8080RS",
        ),
        (
            "no change, multiple endpoints, subsets, IPs, and ports",
            &[(both, "1RS 2RSL"), ("http:8080/TCP admin:8443/TCP", "3RS 4RSL")],
            "1:80RS 2:80RSL 3:8080RS 4:8080RSL",
        ),
    ];
    for (case, slices, expect) in unchanged {
        check_change(case, slices, slices, expect, false);
    }
    let changed: [(&str, Slices<'_>, Slices<'_>, &str); 13] = [
        ("add an Endpoints", &[], &[(http, "1RSL")], "1:80RSL"),
        ("remove an Endpoints", &[(http, "1RSL")], &[], ""),
        ("add an IP and port", &[(http, "1RS")], &[(both, "1RS 2RS")], "1:80RS 2:80RS"),
        ("remove an IP and port", &[(both, "1RS 2RS")], &[(http, "1RS")], "1:80RS"),
        ("add a subset", &[(http, "1RS")], &[(http, "1RS"), (admin, "2RS")], "1:80RS"),
        ("remove a subset", &[(http, "1RS"), (admin, "2RS")], &[(http, "1RS")], "1:80RS"),
        ("rename a port", &[(http, "1RS")], &[("web:80/TCP", "1RS")], ""),
        ("renumber a port", &[(http, "1RS")], &[("http:8080/TCP", "1RS")], "1:8080RS"),
        (
            "complex add and remove",
            &[(http, "1RSL 2RS"), (both, "3RS"), (admin, "4RS")],
            &[(admin, "1RS"), (http, "9RS 3RS")],
            "3:80RS 9:80RS",
        ),
        ("change from 0 endpoint address to 1 named port", &[(http, "")], &[(http, "1RS")], "1:80RS"),
        ("change from ready to terminating pod", &[(http, "1RS")], &[(http, "1ST")], "1:80ST"),
        ("change from terminating to empty pod", &[(http, "1ST")], &[(http, "")], ""),
        ("another order", &[(http, "1RS"), (both, "2RS")], &[(both, "2RS")], "2:80RS"),
    ];
    for (case, before, after, expect) in changed {
        check_change(case, before, after, expect, true);
    }
}

/// Conformance: endpointslicecache TestEsDataChanged
#[test]
fn es_data_changed() {
    let both = "http:80/TCP admin:443/TCP";
    for (case, before, after, expect, is_dirty) in [
        ("identical ports", (both, "1RS"), (both, "1RS"), "1:80RS", false),
        ("identical endpoints", (both, "1RS 2RS"), (both, "1RS 2RS"), "1:80RS 2:80RS", false),
        // Upstream calls these two changed; nothing that anyone could see is.
        ("ports out of order", (both, "1RS"), ("admin:443/TCP http:80/TCP", "1RS"), "1:80RS", false),
        ("endpoints out of order", (both, "1RS 2RS"), (both, "2RS 1RS"), "1:80RS 2:80RS", false),
        ("an endpoint written twice", (both, "1RS 2RS"), (both, "2RS 1RS 2RS"), "1:80RS 2:80RS", false),
        ("port removed", (both, "1RS"), ("http:80/TCP", "1RS"), "1:80RS", true),
        ("port added", ("http:80/TCP", "1RS"), (both, "1RS"), "1:80RS", true),
        ("endpoint added", (both, "1RS"), (both, "1RS 2RS"), "1:80RS 2:80RS", true),
        ("another pod behind an address", (both, "1RS=a"), (both, "1RS=b"), "1:80RS", true),
        ("another node", (both, "1RS"), (both, "1RSL"), "1:80RSL", true),
        ("another hint", (both, "1RS@a"), (both, "1RS@b"), "1:80RS", true),
    ] {
        check_change(case, &[before], &[after], expect, is_dirty);
    }
}

/// Conformance: endpointslicecache TestEndpointSliceCacheClearedCorrectly
/// Conformance: endpointslicecache TestSameServiceEndpointSliceCacheClearedCorrectly
#[test]
fn endpoint_slice_cache_cleared_correctly() {
    for (case, slices) in [
        ("one slice", &[("ns", "s1", "web")][..]),
        ("two slices, same namespace", &[("ns", "s1", "web"), ("ns", "s2", "api")]),
        ("two slices, same service", &[("ns", "s1", "web"), ("ns", "s2", "web")]),
        ("two slices, different namespace", &[("ns", "s1", "web"), ("other", "s1", "web")]),
    ] {
        let mut model = ServiceModel::default();
        let named = |namespace: &str, name: &str, service: &str| {
            let mut slice = slice(name, service, "http:80/TCP", "1RSL@a#n1=ns/p/u 2ST");
            (slice.name.namespace, slice.service) = (namespace.into(), ServiceName::new(namespace, service));
            slice
        };
        for (namespace, name, service) in slices {
            model.apply(SliceApplied(named(namespace, name, service)));
        }
        for (namespace, name, service) in slices {
            assert!(!model.is_pristine(), "{case}");
            model.apply(SliceDeleted(named(namespace, name, service).name));
        }
        assert!(model.is_pristine(), "{case}");
        assert!(!model.has_dirty(), "no Service was known");
    }
}

/// Conformance: servicechangetracker TestServiceCacheLeaks
#[test]
fn service_cache_leaks() {
    let mut model = ServiceModel::default();
    model.apply(ServiceApplied(service("web", "http:80/TCP")));
    model.apply(ServiceDeleted(name("web")));
    assert_eq!(dirty(&mut model), "web", "its virtual servers have to go");
    assert!(model.is_pristine());
    model.apply(ServiceDeleted(name("web")));
    assert_eq!(dirty(&mut model), "");
}

/// Conformance: ipvs/proxier TestBuildServiceMapAddRemove
/// Conformance: servicechangetracker TestBuildServiceMapAddRemove
#[test]
fn build_service_map_add_remove() {
    let mut model =
        model([ServiceApplied(service("web", "http:80/TCP")), ServiceApplied(service("api", ":1/UDP"))]);
    assert_eq!(dirty(&mut model), "api web");
    let names: BTreeSet<_> = model.services().map(|s| s.name.name.to_string()).collect();
    assert!(names.iter().eq(["api", "web"]), "{names:?}");
    let mut changed = service("web", "http:81/TCP");
    model.apply(ServiceApplied(changed.clone()));
    assert_eq!(dirty(&mut model), "web");
    model.apply(ServiceApplied(changed.clone()));
    assert_eq!(dirty(&mut model), "", "the same again");
    changed.uid = "recreated".into();
    model.apply(ServiceApplied(changed.clone()));
    assert_eq!(dirty(&mut model), "web");
    assert_eq!(model.service(&name("web")), Some(&changed));
    model.apply(ServiceDeleted(name("web")));
    assert_eq!((dirty(&mut model).as_str(), model.service(&name("web"))), ("web", None));
}

#[test]
fn a_slice_may_come_before_its_service_and_outlive_it() {
    let web = || ServiceApplied(service("web", "http:80/TCP"));
    let mut model = model([SliceApplied(slice("s1", "web", "http:80/TCP", "1RS"))]);
    assert_eq!(dirty(&mut model), "", "nobody asked for it yet");
    model.apply(web());
    assert_eq!(
        (dirty(&mut model).as_str(), endpoints(&model, "web", "http", V4).as_str()),
        ("web", "1:80RS")
    );
    model.apply(ServiceDeleted(name("web")));
    assert_eq!(dirty(&mut model), "web");
    model.apply(SliceApplied(slice("s1", "web", "http:80/TCP", "2RS")));
    assert_eq!(dirty(&mut model), "");
    model.apply(web());
    assert_eq!(
        (dirty(&mut model).as_str(), endpoints(&model, "web", "http", V4).as_str()),
        ("web", "2:80RS")
    );
}

#[test]
fn a_slice_may_move_to_another_service() {
    let mut model = model([
        ServiceApplied(service("web", "http:80/TCP")),
        ServiceApplied(service("api", "http:80/TCP")),
        SliceApplied(slice("s1", "web", "http:80/TCP", "1RS")),
    ]);
    dirty(&mut model);
    model.apply(SliceApplied(slice("s1", "api", "http:80/TCP", "1RS")));
    assert_eq!(dirty(&mut model), "api web");
    assert_eq!(endpoints(&model, "web", "http", V4), "");
    assert_eq!(endpoints(&model, "api", "http", V4), "1:80RS");
    model.apply(SliceApplied(slice("s1", "unknown", "http:80/TCP", "1RS")));
    assert_eq!(dirty(&mut model), "api");
    model.apply(SliceDeleted(slice_name("s1")));
    model.apply(SliceDeleted(slice_name("s1")));
    assert_eq!(dirty(&mut model), "");
}

#[test]
fn critical_services_come_first() {
    let named = |namespace: &str, name: &str, critical| {
        let mut service = service(name, ":1/TCP");
        service.name = ServiceName::new(namespace, name);
        service.critical = critical;
        ServiceApplied(service)
    };
    let mut model = model([
        named("a", "first", false),
        named("kube-system", "kube-dns", true),
        named("default", "kubernetes", true),
        named("kube-system", "extra-dns", true),
        named("z", "last", false),
    ]);
    assert_eq!(dirty(&mut model), "kubernetes extra-dns kube-dns first last");
    let known: Vec<_> = model.services().map(|service| service.name.clone()).collect();
    for name in known {
        model.mark_dirty(name);
    }
    model.mark_dirty(ServiceName::new("a", "gone"));
    assert_eq!(dirty(&mut model), "kubernetes extra-dns kube-dns first gone last");
}

/// Checks which Services a change of the Node marks: `near` has an endpoint on n1, `hinted` a hint for zone
/// a, `pinned` one for node n1, and `far` none of these.
fn check_node_change(case: &str, to: &Node, expect: &str) {
    let with = |name: &str, text: &str| {
        [ServiceApplied(service(name, "http:80/TCP")), SliceApplied(slice(name, name, "http:80/TCP", text))]
    };
    let services =
        [("near", "1RSL"), ("hinted", "1RS@a"), ("pinned", "1RS#n1"), ("far", "1RS"), ("none", "1RS-")];
    let mut model = model(services.into_iter().flat_map(|(name, text)| with(name, text)));
    model.apply(SliceApplied(slice("orphan", "unknown", "http:80/TCP", "1RSL")));
    dirty(&mut model);
    assert!(model.take_node_changed());
    model.apply(NodeApplied(to.clone()));
    assert_eq!(dirty(&mut model), expect, "{case}");
    assert_eq!(model.node(), to);
    assert_eq!(model.take_node_changed(), *to != node("n1", "a"), "{case}");
    assert!(!model.take_node_changed());
}

#[test]
fn a_change_of_the_node_marks_the_services_that_it_touches() {
    check_node_change("the same", &node("n1", "a"), "");
    check_node_change("another zone", &node("n1", "b"), "hinted");
    check_node_change("no zone", &node("n1", ""), "hinted");
    check_node_change("another name", &node("n3", "a"), "near pinned");
    check_node_change("both", &node("n3", "z"), "hinted near pinned");
    check_node_change("a name that others have", &node("n2", "a"), "far hinted near pinned");
    let mut moved = node("n1", "a");
    moved.addresses.insert(V4, [192, 168, 0, 1].into());
    check_node_change("an address", &moved, "");
    moved.pod_cidrs.push("10.244.0.0/24".parse().unwrap());
    check_node_change("a pod CIDR", &moved, "");
}

/// Conformance: healthcheck TestHealthzServer
/// Conformance: node TestNodeManagerOnNodeDelete
#[test]
fn a_node_that_is_gone_leaves_and_stays_what_it_was() {
    let mut model = model([]);
    let before = model.node().clone();
    model.apply(ModelEvent::NodeDeleted);
    assert_eq!(*model.node(), Node { leaves: true, ..before.clone() });
    assert!(model.take_node_changed());
    model.apply(NodeApplied(before.clone()));
    assert_eq!(*model.node(), before, "it is registered again");
}

#[test]
fn locality_follows_the_node() {
    let mut model = ServiceModel::default();
    model.apply(ServiceApplied(service("web", "http:80/TCP")));
    model.apply(SliceApplied(slice("s1", "web", "http:80/TCP", "1RSL 2RS 3RS-")));
    assert_eq!(endpoints(&model, "web", "http", V4), "1:80RS 2:80RS 3:80RS", "the Node is not known yet");
    model.apply(NodeApplied(node("n1", "")));
    assert_eq!(endpoints(&model, "web", "http", V4), "1:80RSL 2:80RS 3:80RS");
    model.apply(NodeApplied(node("n2", "")));
    assert_eq!(endpoints(&model, "web", "http", V4), "1:80RS 2:80RSL 3:80RS");
}

#[test]
fn what_is_local_follows_the_configured_name_until_the_node_is_known() {
    let mut model = ServiceModel::on_node("n1");
    model.apply(ServiceApplied(service("web", "http:80/TCP")));
    model.apply(SliceApplied(slice("s1", "web", "http:80/TCP", "1RSL 2RS 3RS-")));
    assert_eq!(endpoints(&model, "web", "http", V4), "1:80RSL 2:80RS 3:80RS");
    model.take_dirty();
    model.apply(NodeApplied(node("n1", "a")));
    assert!(model.take_node_changed() && !model.has_dirty(), "its name is no news");
    assert_eq!(endpoints(&model, "web", "http", V4), "1:80RSL 2:80RS 3:80RS");
}

#[test]
fn synced_is_remembered() {
    let mut model = ServiceModel::default();
    assert!(!model.is_synced());
    model.apply(ModelEvent::Synced);
    assert!(model.is_synced());
    model.apply(Synced);
    assert!(model.is_synced() && !model.has_dirty());
}

#[test]
fn unused_strings_and_placements_do_not_pile_up() {
    let mut model = model([ServiceApplied(service("web", "http:80/TCP"))]);
    for generation in 0..10_000 {
        let mut slice = slice("s1", "web", "http:80/TCP", "1RS");
        slice.endpoints[0].node = Some(format!("node-{generation}").into());
        model.apply(SliceApplied(slice));
    }
    assert!(model.interner.len() < 300, "{}", model.interner.len());
}

#[test]
fn services_with_ipv6_are_counted() {
    let mut model = model([]);
    let mut six = service("six", "http:80/TCP");
    six.cluster_ips.push("fd00:96::1".parse().unwrap());
    let four = service("six", "http:80/TCP");
    let name = six.name.clone();
    for (event, expect) in [
        (ServiceApplied(six.clone()), true),
        (ServiceApplied(six.clone()), true),
        (ServiceApplied(four), false),
        (ServiceApplied(six), true),
        (ModelEvent::ServiceDeleted(name.clone()), false),
        (ModelEvent::ServiceDeleted(name), false),
    ] {
        model.apply(event);
        assert_eq!(model.addresses().has_ipv6(), expect);
    }
}

/// A model after the first complete delivery, with Service `web` and some slices.
fn synced(slices: impl IntoIterator<Item = ModelEvent>) -> ServiceModel {
    let mut model = model([ServiceApplied(service("web", ":80/TCP"))]);
    for event in slices {
        model.apply(event);
    }
    model.apply(Synced);
    model
}

fn web_slice(name: &str, endpoints: &str) -> ModelEvent {
    SliceApplied(slice(name, "web", ":8080/TCP", endpoints))
}

#[test]
fn a_pod_has_ended_when_it_leaves_a_slice_while_it_terminates() {
    let check = |events: &[ModelEvent], expect: &[u8]| {
        let mut model = synced([]);
        for event in events {
            model.apply(event.clone());
        }
        let ended: Vec<_> =
            model.listings().departed().filter(|(_, how)| how.ended).map(|((addr, _), _)| *addr).collect();
        let expect: Vec<_> = expect.iter().map(|number| addr(V4, *number)).collect();
        assert_eq!(ended, expect);
        model.forget_changes();
        assert_eq!(
            (model.listings().departed().count(), model.listings().arrived().count()),
            (0, 0),
            "only once"
        );
    };
    let a = |endpoints: &str| web_slice("a", endpoints);
    let gone = || SliceDeleted(slice_name("a"));
    check(&[a("1RS 2ST"), a("1RS")], &[2]);
    check(&[a("1RS 2RS"), a("1RS 2ST"), a("1RS 3RS"), a("1RS")], &[2]);
    check(&[a("1RS"), a("")], &[]);
    let b = |endpoints: &str| web_slice("b", endpoints);
    check(&[b("3RS"), a("1ST 2T"), gone()], &[1, 2]);
    // The last slice goes together with the Service, or is about to be replaced.
    check(&[a("1ST 2T"), gone()], &[]);
    check(&[a("1RS 2ST"), a("1RS 2RS")], &[]);
    // Another entry of the same slice says that the address is alive.
    check(&[a("1RS 1ST"), gone()], &[]);
    check(&[b("3RS"), ServiceDeleted(name("web")), a("1ST"), gone()], &[]);
}

#[test]
fn pods_are_listed_until_the_last_slice_of_any_service_has_lost_them() {
    let pod = |number: u8| lb_types::PodUid::new(&number.to_string());
    let rs = |number| lb_types::RealServerId { addr: addr(V4, number), port: 8080.try_into().unwrap() };
    let tcp = lb_types::Protocol::Tcp;
    let lists = |model: &ServiceModel, number| model.listings().lists(&rs(1), tcp, pod(number));
    let mut model = synced([web_slice("a", "1ST=ns/p/1 1RS=ns/q/2"), web_slice("b", "1RS=ns/p/1")]);
    let other = |endpoints: &str| SliceApplied(slice("c", "unknown", "http:9090/TCP", endpoints));
    model.apply(other("1RS=ns/p/1 2RS"));
    assert!(lists(&model, 1) && lists(&model, 2) && !lists(&model, 3));
    assert_eq!(
        model.listings().arrived().filter(|listing| listing.pod == pod(1)).count(),
        1,
        "on another port"
    );
    model.apply(web_slice("a", "1RS=ns/q/2"));
    model.apply(SliceDeleted(slice_name("b")));
    assert!(lists(&model, 1), "in a slice of a Service that is not known");
    model.apply(other("2RS"));
    assert!(!lists(&model, 1) && lists(&model, 2));
    let others: Vec<_> = model.listings().others(addr(V4, 1), pod(1).unwrap()).copied().collect();
    let port = Some((lb_types::Protocol::Tcp, 8080.try_into().unwrap()));
    assert_eq!(others, [crate::Listing { addr: addr(V4, 1), pod: pod(2), port }]);
    assert!(model.listings().lists(&rs(1), tcp, None) && !model.listings().lists(&rs(3), tcp, None));
    model.apply(other("1RS 2RS"));
    assert!(!lists(&model, 1), "an endpoint without a pod on another port");
    model.apply(web_slice("a", "1RS"));
    assert!(lists(&model, 1), "an endpoint without a pod may be any");
}

#[test]
fn another_port_is_neither_an_end_nor_a_new_pod() {
    let mut model = synced([web_slice("a", "1RS=ns/p/1")]);
    model.apply(SliceApplied(slice("a", "web", ":9090/TCP", "1RS=ns/p/1")));
    assert_eq!(model.listings().departed().count(), 0);
    let rs = lb_types::RealServerId { addr: addr(V4, 1), port: 8080.try_into().unwrap() };
    assert!(model.listings().lists(&rs, lb_types::Protocol::Tcp, lb_types::PodUid::new("1")));
}

/// Services with an external address that becomes a ClusterIP, or is none any more, are planned again.
#[test]
fn services_with_an_external_address_follow_the_cluster_ips_there() {
    let shared = addr(V4, 9);
    let with_ip = |name: &str, ip| Service { cluster_ips: vec![ip], ..service(name, ":80/TCP") };
    let guest = |name: &str, external: &[IpAddr]| {
        let at = |addr: &IpAddr| ExternalIp { addr: *addr, source: ExternalSource::ExternalIps };
        let external_ips = external.iter().map(at).collect();
        ServiceApplied(Service { external_ips, ..service(name, ":81/TCP") })
    };
    let mut model = ServiceModel::default();
    let mut send = |event| {
        model.apply(event);
        (dirty(&mut model), model.addresses().is_cluster_ip(shared))
    };
    let mut check = |event, marked: &str, is_cluster_ip| {
        assert_eq!(send(event), (marked.to_owned(), is_cluster_ip));
    };
    check(guest("one", &[shared]), "one", false);
    check(guest("two", &[shared]), "two", false);
    check(guest("else", &[addr(V4, 8)]), "else", false);
    check(ServiceApplied(with_ip("web", shared)), "one two web", true);
    check(ServiceApplied(with_ip("double", shared)), "double", true);
    check(ServiceDeleted(name("web")), "web", true);
    check(guest("two", &[]), "two", true);
    check(ServiceApplied(with_ip("double", addr(V4, 7))), "double one", false);
    check(ServiceDeleted(name("one")), "one", false);
    check(ServiceApplied(with_ip("double", shared)), "double", true);
}
