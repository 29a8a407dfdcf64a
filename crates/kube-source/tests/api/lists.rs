//! Lists of everything that exists.

use std::time::{Duration, Instant};

use kube_source::{ApiStatus, Limits};
use serde_json::json;
use service_model::ModelEvent;
use test_apiserver::{Faults, Hangup, Refusal, Resource, StreamingLists, TestApiServer, Verb};

use crate::cluster::{Cluster, cidr, node, service, slice};

fn requests(cluster: &Cluster, verb: Verb) -> [u64; 2] {
    [Resource::Services, Resource::EndpointSlices].map(|r| cluster.server.requests().count(r, verb))
}

#[test]
fn a_streaming_list_is_one_request_for_each_kind() {
    let mut cluster = Cluster::new(TestApiServer::builder());
    cluster.wait_same();
    assert_eq!((requests(&cluster, Verb::List), requests(&cluster, Verb::Watch)), ([0, 0], [1, 1]));
    assert_eq!(cluster.events.last(), Some(&ModelEvent::Synced), "completeness comes last");
    assert_eq!(&*cluster.model.node().name, "n1");
    assert_eq!(cluster.model.service_cidrs(), ["10.96.0.0/16".parse().unwrap()]);
    cluster.wait_following("services");
    assert!(cluster.statuses.values().all(|status| *status == ApiStatus::Following));
}

#[test]
fn servers_without_streaming_lists_are_listed_in_pages() {
    for how in [StreamingLists::Refused, StreamingLists::RefusedByMatch, StreamingLists::Ignored] {
        let server = TestApiServer::builder().streaming_lists(how).start().unwrap();
        let many = (0..1100).map(|i| service(i, "a")).chain((0..40).map(|i| slice(i, 3)));
        server.objects().apply_all(many.chain([node()])).unwrap();
        let mut cluster = Cluster::follow(server);
        cluster.wait_same();
        assert!(requests(&cluster, Verb::List)[1] >= 1, "{how:?}");
        assert_eq!(
            requests(&cluster, Verb::Watch)[0],
            2,
            "{how:?}: one refused or in vain, one that goes on"
        );
        cluster.delete_service(7);
        cluster.apply(slice(8, 5));
        cluster.wait_same();
        let failing = cluster.history.iter().find(|(_, status)| *status != ApiStatus::Following);
        assert_eq!(failing, None, "{how:?}: nothing to report");
    }
}

#[test]
fn a_list_that_expires_between_pages_begins_anew() {
    let server = TestApiServer::builder().streaming_lists(StreamingLists::Refused).start().unwrap();
    server.objects().apply_all((0..1100).map(|i| service(i, "a"))).unwrap();
    let gone = Refusal::new(410, &[Verb::List]).times(1);
    server.set_faults(Resource::Services, Faults { refuse: Some(gone), ..Faults::default() });
    let mut cluster = Cluster::follow(server);
    cluster.wait_same();
}

#[test]
fn nothing_is_complete_before_all_kinds_are() {
    let server = TestApiServer::builder().start().unwrap();
    server.objects().apply_all([service(1, "a"), slice(1, 2)]).unwrap();
    server.set_faults(Resource::EndpointSlices, Faults { silent: true, ..Faults::default() });
    let mut cluster = Cluster::follow(server);
    cluster.wait_following("services");
    cluster.wait("the other kinds are known", |c| c.model.services().count() == 1);
    assert!(!cluster.model.is_synced());
    cluster.server.clear_faults();
    cluster.wait_same();
}

/// Conformance: node TestNewNodeManager
#[test]
fn a_cluster_without_service_cidrs_and_a_proxy_that_may_not_read_nodes() {
    let builder = TestApiServer::builder().without(Resource::ServiceCidrs);
    let server = builder.start().unwrap();
    server.deny(Resource::Nodes, Verb::Watch, true);
    server.deny(Resource::Nodes, Verb::List, true);
    server.objects().apply_all([service(1, "a"), slice(1, 2)]).unwrap();
    let mut cluster = Cluster::follow(server);
    cluster.wait_same();
    cluster.wait("both are known to fail", |c| c.is_failing("nodes") && c.is_failing("servicecidrs"));
    let reason = cluster.statuses["nodes"].to_string();
    assert_eq!(reason, "forbidden");
    cluster.server.set_missing(Resource::ServiceCidrs, false);
    cluster.apply(cidr("kubernetes", &["10.96.0.0/16"]));
    cluster.wait("prefixes of the cluster after its upgrade", |c| c.model.service_cidrs().len() == 1);
}

/// Programming waits for a Node that is about to be registered, but not for ever; a node that the cluster does not know
/// takes no traffic of load balancers.
/// Conformance: node TestNewNodeManager
#[test]
fn a_node_that_is_registered_late_or_never() {
    let server = || {
        let server = TestApiServer::builder().start().unwrap();
        server.objects().apply_all([service(1, "a"), slice(1, 2)]).unwrap();
        server
    };
    let mut cluster = Cluster::follow_within(server(), Limits::default());
    cluster.wait("the other kinds are known", |c| c.model.services().count() == 1 && c.model.node().leaves);
    cluster.wait_following("nodes");
    assert!(!cluster.model.is_synced());
    cluster.apply(node());
    cluster.wait("the Node", |c| c.model.is_synced() && !c.model.node().leaves);

    let mut cluster = Cluster::follow(server());
    cluster.wait("patience to end", |c| c.model.is_synced());
    assert!(cluster.model.node().leaves);
    cluster.apply(node());
    cluster.wait("the Node", |c| !c.model.node().leaves);
}

/// Patience may end while nothing is asked, and the watch that follows takes minutes.
#[test]
fn patience_ends_between_two_watches_as_well() {
    let server = TestApiServer::builder().start().unwrap();
    server.objects().apply_all([service(1, "a"), slice(1, 2)]).unwrap();
    let patience = Duration::from_millis(1500);
    let mut cluster = Cluster::follow_within(server, Limits { patience, ..Limits::default() });
    let begun = Instant::now();
    cluster.wait("the Node to be listed", |c| c.model.node().leaves);
    while begun.elapsed() < patience {
        cluster.server.drop_watches(Resource::Nodes, Hangup::Cut);
        std::thread::sleep(Duration::from_millis(50));
    }
    cluster.wait("patience to end", |c| c.model.is_synced());
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
}

#[test]
fn a_node_that_is_deleted_and_registered_again() {
    let mut cluster = Cluster::new(TestApiServer::builder());
    cluster.wait_same();
    cluster.server.objects().delete(Resource::Nodes, "", "n1").expect("delete the Node");
    cluster.wait("the Node is gone", |c| c.model.node().leaves);
    cluster.apply(node());
    cluster.wait("the Node is back", |c| !c.model.node().leaves);
}

#[test]
fn one_object_that_does_not_parse_never_blocks_the_others() {
    for how in [StreamingLists::Supported, StreamingLists::Refused] {
        let server = TestApiServer::builder().streaming_lists(how).start().unwrap();
        let mut bad = service(3, "a");
        bad["spec"] = json!("nonsense");
        let mut odd = slice(4, 2);
        odd["endpoints"] =
            json!([7, {"addresses": {"a": 1}}, {"addresses": ["10.244.4.9"], "conditions": null}]);
        let objects = [service(1, "a"), slice(1, 2), bad, service(4, "a"), odd, service(5, "a"), slice(5, 1)];
        server.objects().apply_all(objects).unwrap();
        let mut cluster = Cluster::follow(server);
        cluster.wait_same();
        assert_eq!(cluster.model.services().count(), 3, "{how:?}");
        let named = |text: &str| cluster.problems.iter().any(|problem| problem.to_string().contains(text));
        assert!(named("Service ns/s3: spec") && named("EndpointSlice ns/s4-a: endpoints[0]"), "{how:?}");
        let mut bad = slice(5, 1);
        bad["ports"] = json!({"a": 1});
        cluster.apply(bad);
        cluster.apply(slice(1, 7));
        cluster.wait_same();
    }
}

#[test]
fn a_streaming_list_that_breaks_off_loses_nothing() {
    let server = TestApiServer::builder().start().unwrap();
    server.objects().apply_all((0..60).flat_map(|i| [service(i, "a"), slice(i, 2)])).unwrap();
    server.set_faults(Resource::Services, Faults { truncate: 2, ..Faults::default() });
    let mut cluster = Cluster::follow(server);
    cluster.wait_same();
    cluster.server.drop_watches(Resource::EndpointSlices, Hangup::Cut);
    cluster.apply(slice(2, 9));
    cluster.wait_same();
}
