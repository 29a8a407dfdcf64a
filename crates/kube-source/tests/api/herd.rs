//! Requests that thousands of nodes send at the same time when the control plane restarts.

use std::{collections::BTreeSet, thread::sleep, time::Duration};

use kube_source::Limits;
use test_apiserver::{Faults, GoneForm, Hangup, Refusal, Resource, StreamingLists, TestApiServer, Verb};

use crate::cluster::{Cluster, cidr, filled, limits, service, slice};

const BOTH: [Resource; 2] = [Resource::Services, Resource::EndpointSlices];
const HOUR: Duration = Duration::from_secs(3600);

/// Path and query of each request for Services and EndpointSlices after the first `since`.
fn asked(cluster: &Cluster, since: usize) -> Vec<String> {
    let requests = cluster.server.requests();
    let of_both = requests.log().filter(|request| BOTH.contains(&request.resource));
    of_both.skip(since).map(|request| request.uri.clone()).collect()
}

fn connections(cluster: &Cluster, since: usize) -> BTreeSet<u64> {
    let requests = cluster.server.requests();
    let of_both = requests.log().filter(|request| BOTH.contains(&request.resource));
    of_both.skip(since).map(|request| request.connection).collect()
}

#[test]
fn expired_versions_lead_to_lists_from_the_cache() {
    for (how, form) in [
        (StreamingLists::Supported, GoneForm::Event),
        (StreamingLists::Supported, GoneForm::Status),
        (StreamingLists::Refused, GoneForm::Event),
    ] {
        let mut cluster = Cluster::new(TestApiServer::builder().streaming_lists(how).gone_form(form));
        cluster.wait_same();
        let before = asked(&cluster, 0).len();
        cluster.server.stop().unwrap();
        cluster.delete_service(3);
        cluster.apply(slice(4, 7));
        cluster.server.objects().compact();
        let refuse = Some(Refusal::new(503, &[Verb::Watch, Verb::List]).times(4));
        for resource in BOTH {
            cluster.server.set_faults(resource, Faults { refuse: refuse.clone(), ..Faults::default() });
        }
        cluster.server.restart().unwrap();
        cluster.wait_same();
        let after = asked(&cluster, before);
        assert!(after.iter().any(|uri| uri.contains("NotOlderThan")), "{how:?}: {after:?}");
        // A limit of one object only asks whether a version is known.
        for uri in after.into_iter().filter(|uri| !uri.contains("limit=1&")) {
            let expensive = ["resourceVersion=&", "resourceVersion=0&", "limit="];
            let newest = !uri.contains("resourceVersion=") || expensive.iter().any(|text| uri.contains(text));
            assert!(!newest, "{how:?} {form:?}: {uri}");
        }
    }
}

#[test]
fn a_version_that_the_server_has_lost_ends_with_the_newest_state() {
    for how in [StreamingLists::Supported, StreamingLists::Refused] {
        let mut cluster = Cluster::new(TestApiServer::builder().streaming_lists(how));
        cluster.wait_same();
        let backup = cluster.server.objects().snapshot();
        for i in 0..15 {
            cluster.apply(service(i, "b"));
        }
        cluster.wait_same();
        let before = asked(&cluster, 0).len();
        cluster.server.stop().unwrap();
        cluster.server.objects().restore(backup);
        cluster.server.restart().unwrap();
        cluster.wait_same();
        let after = asked(&cluster, before);
        let refused = after.iter().filter(|uri| uri.contains("NotOlderThan") && !uri.contains("Version=&"));
        let refused = refused.filter(|uri| uri.contains("/services")).count();
        assert!((3..=5).contains(&refused), "{how:?}: counted by itself: {after:?}");
    }
}

#[test]
fn connections_are_used_again_and_replaced_when_they_are_old() {
    let again = |connection: Duration| {
        let server = filled(TestApiServer::builder().tls(), 5);
        let mut cluster = Cluster::follow_within(server, Limits { connection, ..limits() });
        cluster.wait_same();
        let (requests, old) = (asked(&cluster, 0).len(), connections(&cluster, 0));
        sleep(Duration::from_millis(800));
        for resource in BOTH {
            cluster.server.drop_watches(resource, Hangup::End);
        }
        cluster.apply(service(1, "b"));
        cluster.apply(slice(1, 5));
        cluster.wait_same();
        let new = connections(&cluster, requests);
        (new.is_subset(&old), new.is_disjoint(&old))
    };
    assert_eq!(again(HOUR), (true, false), "a connection is not made for each request");
    assert_eq!(
        again(Duration::from_millis(200)),
        (false, true),
        "an API server that was upgraded is found again"
    );
}

#[test]
fn an_upgraded_server_is_known_by_its_version() {
    let builder = TestApiServer::builder().minor(31).streaming_lists(StreamingLists::Refused);
    let server = filled(builder.without(Resource::ServiceCidrs), 5);
    let mut cluster = Cluster::follow_within(server, Limits { absence: HOUR, ..limits() });
    cluster.wait_same();
    cluster.wait("ServiceCIDRs are given up", |c| {
        c.server.requests().count(Resource::ServiceCidrs, Verb::Watch)
            + c.server.requests().count(Resource::ServiceCidrs, Verb::List)
            >= 6
    });
    cluster.server.stop().unwrap();
    cluster.server.set_minor(36);
    cluster.server.set_missing(Resource::ServiceCidrs, false);
    cluster.server.set_streaming_lists(StreamingLists::Supported);
    cluster.apply(cidr("kubernetes", &["10.96.0.0/16"]));
    let versions = cluster.server.requests().versions();
    cluster.server.restart().unwrap();
    cluster.wait("its version is asked for", |c| c.server.requests().versions() > versions);
    cluster.wait("prefixes of the cluster after its upgrade", |c| c.model.service_cidrs().len() == 1);
    let before = asked(&cluster, 0).len();
    cluster.server.stop().unwrap();
    cluster.apply(slice(1, 7));
    cluster.server.objects().compact();
    cluster.server.restart().unwrap();
    cluster.wait_same();
    let after = asked(&cluster, before);
    assert!(after.iter().any(|uri| uri.contains("sendInitialEvents")), "{after:?}");
}
