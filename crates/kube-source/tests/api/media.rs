//! Lists and watches in protobuf and in JSON.

use std::time::Duration;

use kube_source::{ApiStatus, Limits, MediaType};
use test_apiserver::{Hangup, Protobuf, Requests, Resource, StreamingLists, TestApiServer, Verb};

use crate::cluster::{Cluster, filled, limits, service, slice};

const KINDS: [Resource; 4] =
    [Resource::Services, Resource::EndpointSlices, Resource::Nodes, Resource::ServiceCidrs];
const BOTH: &str = "application/vnd.kubernetes.protobuf, application/json;q=0.9";

/// Numbers of lists and watches, and of those among them that were answered in protobuf.
fn answers(requests: &Requests) -> (u64, u64) {
    let of = |resource| requests.count(resource, Verb::List) + requests.count(resource, Verb::Watch);
    (KINDS.into_iter().map(of).sum(), requests.protobuf())
}

/// Changes some objects, resumes the watches and changes more.
fn change(cluster: &mut Cluster) {
    cluster.apply(service(3, "b"));
    cluster.apply(slice(4, 5));
    cluster.delete_service(7);
    cluster.wait_same();
    for resource in [Resource::Services, Resource::EndpointSlices] {
        cluster.server.drop_watches(resource, Hangup::End);
    }
    cluster.apply(service(5, "b"));
    cluster.apply(slice(6, 3));
    cluster.wait_same();
}

#[test]
fn everything_is_in_protobuf_where_the_server_has_it() {
    for lists in [StreamingLists::Supported, StreamingLists::Refused] {
        let server = filled(TestApiServer::builder().streaming_lists(lists), 20);
        let mut cluster = Cluster::follow_within(server, Limits { page: 7, ..limits() });
        cluster.wait_same();
        change(&mut cluster);
        let requests = cluster.server.requests();
        let (all, protobuf) = answers(&requests);
        let refused = requests.status(422);
        assert_eq!(all - refused, protobuf, "{lists:?}");
        assert!(requests.log().all(|request| request.accept == BOTH || request.resource == Resource::Events));
        assert_eq!(cluster.history.iter().filter(|(_, status)| *status != ApiStatus::Following).count(), 0);
    }
}

#[test]
fn json_alone_is_asked_for_if_the_configuration_says_so() {
    let server = filled(TestApiServer::builder(), 20);
    let kubeconfig = server.kubeconfig();
    let mut cluster = Cluster::follow_by(server, &kubeconfig, |options| options.media = MediaType::Json);
    cluster.wait_same();
    change(&mut cluster);
    let requests = cluster.server.requests();
    assert_eq!(requests.protobuf(), 0);
    assert!(requests.log().all(|request| request.accept == "application/json"));
}

#[test]
fn a_server_without_protobuf_answers_in_json() {
    let mut cluster = Cluster::new(TestApiServer::builder().protobuf(Protobuf::Missing));
    cluster.wait_same();
    change(&mut cluster);
    assert_eq!(cluster.server.requests().protobuf(), 0);
    assert_eq!(cluster.log.text(), "");
}

#[test]
fn a_server_that_refuses_protobuf_is_asked_for_json_at_once() {
    let mut cluster = Cluster::new(TestApiServer::builder().protobuf(Protobuf::Refused));
    cluster.wait_same();
    change(&mut cluster);
    let requests = cluster.server.requests();
    assert_eq!(requests.status(406), 4, "once for each kind");
    assert!(cluster.history.iter().all(|(_, status)| *status == ApiStatus::Following));
    let log = cluster.log.text();
    assert_eq!(log.matches("the server refuses with 406").count(), 4, "{log}");
}

/// Nothing of what was served before is lost, and JSON brings the rest.
#[test]
fn protobuf_that_cannot_be_read_leads_to_json() {
    for lists in [StreamingLists::Supported, StreamingLists::Refused] {
        let builder = TestApiServer::builder().streaming_lists(lists).protobuf(Protobuf::Broken);
        let mut cluster = Cluster::new(builder);
        cluster.wait_same();
        change(&mut cluster);
        let requests = cluster.server.requests();
        assert_eq!(requests.protobuf(), 4, "{lists:?}: one answer for each kind");
        let log = cluster.log.text();
        assert_eq!(log.matches("cannot be used").count(), 4, "{log}");
        assert!(log.contains("asking for JSON for 600s"), "{log}");
        assert!(cluster.history.iter().all(|(_, status)| *status == ApiStatus::Following), "{log}");
    }
}

#[test]
fn protobuf_that_breaks_later_deletes_nothing() {
    let mut cluster = Cluster::new(TestApiServer::builder());
    cluster.wait_same();
    let before = cluster.events.len();
    cluster.server.set_protobuf(Protobuf::Broken);
    cluster.apply(service(3, "b"));
    cluster.apply(slice(4, 5));
    cluster.wait_same();
    let is_deletion = |event: &service_model::ModelEvent| format!("{event:?}").contains("Deleted");
    assert!(!cluster.events[before..].iter().any(is_deletion));
    // Another version of the server may do better.
    cluster.server.set_protobuf(Protobuf::Supported);
    cluster.server.set_minor(37);
    cluster.server.stop().expect("stop");
    cluster.server.restart().expect("restart");
    let asks =
        |cluster: &Cluster| cluster.server.requests().log().last().is_some_and(|last| last.accept == BOTH);
    cluster.wait("protobuf again", |cluster| {
        for resource in [Resource::Services, Resource::EndpointSlices] {
            cluster.server.drop_watches(resource, Hangup::End);
        }
        std::thread::sleep(Duration::from_millis(50));
        asks(cluster)
    });
    change(&mut cluster);
}

/// A test server sends what has no message in JSON, so that tests can spoil objects.
#[test]
fn objects_without_a_message_arrive_in_json() {
    let mut cluster = Cluster::new(TestApiServer::builder());
    cluster.wait_same();
    let mut spoilt = service(3, "b");
    spoilt["spec"]["externalIPs"] = 7.into();
    cluster.apply(spoilt);
    cluster.wait("the problem", |cluster| !cluster.problems.is_empty());
    cluster.wait_same();
    assert_eq!(&*cluster.problems[0].field, "spec.externalIPs");
    change(&mut cluster);
}

/// A version of the future is refused in protobuf, too.
#[test]
fn refusals_are_understood_in_protobuf() {
    let mut cluster = Cluster::new(TestApiServer::builder().streaming_lists(StreamingLists::Refused));
    cluster.wait_same();
    cluster.server.deny(Resource::Services, Verb::Watch, true);
    cluster.server.drop_watches(Resource::Services, Hangup::End);
    cluster.wait("the refusal", |cluster| cluster.is_failing("services"));
    let log = cluster.log.text();
    assert!(log.contains("403 Forbidden: services is forbidden: User"), "{log}");
    cluster.server.deny(Resource::Services, Verb::Watch, false);
    cluster.server.objects().compact();
    cluster.wait_following("services");
    change(&mut cluster);
}
