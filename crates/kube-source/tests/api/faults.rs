//! Watches of a server with faults.

use std::{thread::sleep, time::Duration};

use kube_source::{ApiStatus, Counted};
use service_model::ModelEvent;
use test_apiserver::{
    Faults, GoneForm, Hangup, Protobuf, Refusal, Reorder, Resource, StreamingLists, TestApiServer, Trickle,
    Verb,
};

use crate::cluster::{Cluster, SILENCE, filled, random, service, slice};

const BOTH: [Resource; 2] = [Resource::Services, Resource::EndpointSlices];

/// Makes changes of all sorts, always the same for the same seed.
fn stir(cluster: &Cluster, seed: u64, changes: u32) {
    let mut random = random(seed);
    for _ in 0..changes {
        let i = random(25);
        let exists = cluster.server.objects().get(Resource::Services, "ns", &format!("s{i}")).is_some();
        match random(5) {
            0 if exists => cluster.delete_service(i),
            1 => cluster.apply(service(i, if random(2) == 0 { "a" } else { "b" })),
            _ => {
                cluster.apply(service(i, "a"));
                cluster.apply(slice(i, random(6)));
            }
        }
    }
}

fn set_all(cluster: &Cluster, faults: &Faults) {
    for resource in BOTH {
        cluster.server.set_faults(resource, faults.clone());
    }
}

pub fn drop_all_watches(cluster: &Cluster, how: Hangup) {
    for resource in BOTH {
        cluster.server.drop_watches(resource, how);
    }
}

/// Both encodings of events.
const ENCODINGS: [Protobuf; 2] = [Protobuf::Supported, Protobuf::Missing];

#[test]
fn events_that_are_late_repeated_shuffled_or_trickle() {
    ENCODINGS.into_iter().for_each(check_events);
}

fn check_events(protobuf: Protobuf) {
    let builder = TestApiServer::builder().bookmark_interval(SILENCE / 4).protobuf(protobuf);
    let mut cluster = Cluster::new(builder);
    cluster.wait_same();
    let reorder = Reorder { window_ms: 50, seed: 7 };
    let trickle = Trickle { bytes: 7, every_ms: 1 };
    for (seed, faults) in [
        Faults { delay_ms: 100, ..Faults::default() },
        Faults { repeat: true, ..Faults::default() },
        Faults { reorder: Some(reorder), ..Faults::default() },
        Faults { repeat: true, reorder: Some(reorder), delay_ms: 20, ..Faults::default() },
        Faults { trickle: Some(trickle), ..Faults::default() },
    ]
    .into_iter()
    .enumerate()
    {
        set_all(&cluster, &faults);
        stir(&cluster, seed as u64 + 11, 60);
        cluster.wait_same();
    }
    let syncs = cluster.events.iter().filter(|event| **event == ModelEvent::Synced).count();
    assert_eq!(syncs, 1);
    for resource in BOTH {
        assert_eq!(cluster.server.requests().count(resource, Verb::Watch), 1, "nobody had to begin anew");
    }
}

#[test]
fn connections_that_end_in_order_or_not_and_events_cut_in_the_middle() {
    ENCODINGS.into_iter().for_each(check_connections);
}

fn check_connections(protobuf: Protobuf) {
    let mut cluster = Cluster::new(TestApiServer::builder().protobuf(protobuf));
    cluster.wait_same();
    for (seed, how) in [Hangup::End, Hangup::Cut, Hangup::End, Hangup::Cut].into_iter().enumerate() {
        drop_all_watches(&cluster, how);
        stir(&cluster, seed as u64 + 31, 30);
        set_all(&cluster, &Faults { truncate: 2, ..Faults::default() });
        stir(&cluster, seed as u64 + 41, 30);
        cluster.wait_same();
    }
    assert_eq!(cluster.server.requests().count(Resource::Services, Verb::List), 0, "resumed, not listed");
}

#[test]
fn versions_that_are_too_old_by_event_and_by_status() {
    for form in [GoneForm::Event, GoneForm::Status] {
        for how in [StreamingLists::Supported, StreamingLists::Refused] {
            let mut cluster = Cluster::new(TestApiServer::builder().gone_form(form).streaming_lists(how));
            cluster.wait_same();
            cluster.server.stop().unwrap();
            cluster.delete_service(3);
            stir(&cluster, 5, 30);
            cluster.server.objects().compact();
            cluster.server.restart().unwrap();
            cluster.wait_same();
            let expired = cluster.server.requests().log().count();
            assert!(expired > 4, "{form:?} {how:?}: {expired} requests");
        }
    }
}

#[test]
fn an_outage_is_reported_and_changes_nothing() {
    let mut cluster = Cluster::new(TestApiServer::builder().tls());
    cluster.wait_same();
    cluster.wait_following("endpointslices");
    let events = cluster.events.len();
    cluster.server.stop().unwrap();
    cluster.wait("a report of the outage", |c| c.is_failing("services") && c.is_failing("endpointslices"));
    let reason = cluster.statuses["services"].to_string();
    assert_eq!(reason, "unreachable");
    cluster.take();
    assert_eq!(cluster.events.len(), events, "nothing changed");
    let Counted { lists, errors, requests } = cluster.counts.get();
    assert_eq!(lists.get("services"), Some(&1), "{lists:?}");
    assert!(errors.get(&("services", "unreachable")) >= Some(&1), "{errors:?}");
    let of = |status| requests.get(&("GET".to_owned(), status)).copied().unwrap_or_default();
    assert!(of(Some(200)) >= 2 && of(None) >= 1, "{requests:?}");
    stir(&cluster, 17, 40);
    cluster.server.restart().unwrap();
    cluster.wait_same();
    cluster.wait_following("services");
    cluster.wait_following("endpointslices");
}

#[test]
fn a_server_that_hangs_up_once_is_not_reported() {
    let mut cluster = Cluster::new(TestApiServer::builder());
    cluster.wait_same();
    cluster.wait_following("services");
    cluster.history.clear();
    drop_all_watches(&cluster, Hangup::Cut);
    cluster.apply(slice(1, 9));
    cluster.apply(service(1, "b"));
    cluster.wait_same();
    assert_eq!(cluster.history, []);
}

#[test]
fn a_server_that_falls_silent_is_asked_again() {
    let mut cluster = Cluster::new(TestApiServer::builder());
    cluster.wait_same();
    set_all(&cluster, &Faults { silent: true, ..Faults::default() });
    stir(&cluster, 3, 20);
    sleep(SILENCE * 2);
    cluster.server.clear_faults();
    cluster.wait_same();
    drop_all_watches(&cluster, Hangup::Mute);
    stir(&cluster, 4, 20);
    cluster.wait_same();
}

/// While nothing changes, a server does not even send bookmarks.
#[test]
fn an_idle_server_is_not_listed_anew() {
    let mut cluster = Cluster::new(TestApiServer::builder().bookmark_interval(SILENCE / 4));
    cluster.wait_same();
    let events = cluster.events.len();
    sleep(SILENCE * 4);
    cluster.take();
    assert_eq!(cluster.events.len(), events);
    assert!(!BOTH.iter().any(|resource| cluster.is_failing(resource.plural())), "nothing to report");
    let requests = cluster.server.requests();
    for resource in BOTH {
        let of_resource = || requests.log().filter(|request| request.resource == resource);
        assert!(of_resource().any(|request| request.uri.contains("limit=1&")), "a request for its version");
        assert_eq!(of_resource().filter(|request| request.uri.contains("sendInitialEvents")).count(), 1);
    }
    cluster.apply(slice(1, 9));
    cluster.wait_same();
}

#[test]
fn a_server_that_lost_its_data_is_believed() {
    let mut cluster = Cluster::new(TestApiServer::builder());
    cluster.wait_same();
    let backup = cluster.server.objects().snapshot();
    stir(&cluster, 23, 50);
    cluster.apply(service(900, "a"));
    cluster.wait_same();
    cluster.server.stop().unwrap();
    cluster.server.objects().restore(backup);
    cluster.server.restart().unwrap();
    cluster.wait_same();
    assert!(cluster.model.services().all(|service| &*service.name.name != "s900"));
}

#[test]
fn refusals_are_waited_out() {
    let mut cluster = Cluster::new(TestApiServer::builder());
    cluster.wait_same();
    for status in [429, 500, 503, 504, 410, 401, 403] {
        let refuse = Some(Refusal::new(status, &[Verb::Watch, Verb::List]).times(3));
        set_all(&cluster, &Faults { refuse, ..Faults::default() });
        drop_all_watches(&cluster, Hangup::End);
        stir(&cluster, u64::from(status), 10);
        cluster.wait_same();
    }
    cluster.wait("all is well", |c| c.statuses.values().all(|status| *status == ApiStatus::Following));
}

/// Conformance: e2e/service should implement service.kubernetes.io/service-proxy-name
/// Conformance: e2e/service should implement service.kubernetes.io/headless
#[test]
fn objects_that_leave_the_selector_are_gone() {
    let mut cluster = Cluster::new(TestApiServer::builder());
    cluster.wait_same();
    let (mut other, mut headless) = (service(1, "a"), slice(2, 2));
    other["metadata"]["labels"] = serde_json::json!({"service.kubernetes.io/service-proxy-name": "other"});
    headless["metadata"]["labels"]["service.kubernetes.io/headless"] = "".into();
    cluster.apply(other);
    cluster.apply(headless);
    cluster.wait_same();
    cluster.wait("the Service is another proxy's", |c| c.model.services().count() == 19);
    cluster.apply(service(1, "a"));
    cluster.apply(slice(2, 2));
    cluster.wait_same();
    assert_eq!(cluster.model.services().count(), 20);
}

/// Before 1.35, the label of headless Services took a Service from every proxy.
///
/// Conformance: e2e/service should implement service.kubernetes.io/headless
#[test]
fn the_label_of_headless_services_counts_by_the_servers_version() {
    let mut labelled = service(1, "a");
    labelled["metadata"]["labels"] = serde_json::json!({"service.kubernetes.io/headless": ""});
    // So long that no watch ends by silence.
    let server = filled(TestApiServer::builder().minor(34), 20);
    let mut cluster = Cluster::follow_with(server, Duration::from_secs(60));
    cluster.wait("all are served", |c| c.model.services().count() == 20);
    cluster.apply(labelled.clone());
    cluster.wait("the Service is no proxy's", |c| c.model.services().count() == 19);
    cluster.apply(service(1, "a"));
    cluster.wait("the label is gone", |c| c.model.services().count() == 20);
    cluster.apply(labelled);
    cluster.wait("the Service is no proxy's again", |c| c.model.services().count() == 19);
    // The version is asked for again when connections were lost.
    cluster.server.stop().unwrap();
    cluster.server.set_minor(35);
    cluster.server.restart().unwrap();
    cluster.wait("the new proxies serve it", |c| c.model.services().count() == 20);
}

/// Everything at once, at random.
#[test]
fn any_fault_at_any_time() {
    let mut cluster = Cluster::new(TestApiServer::builder().history(40));
    for round in 0..12u64 {
        let faults = Faults {
            delay_ms: (round % 3) * 5,
            repeat: round % 2 == 0,
            reorder: (round % 3 == 0).then_some(Reorder { window_ms: 10, seed: round }),
            truncate: u32::try_from(round % 4).unwrap(),
            ..Faults::default()
        };
        set_all(&cluster, &faults);
        stir(&cluster, round + 101, 15);
        match round % 4 {
            0 => drop_all_watches(&cluster, Hangup::Cut),
            1 => cluster.server.objects().compact(),
            2 => {
                cluster.server.stop().unwrap();
                stir(&cluster, round + 201, 15);
                cluster.server.restart().unwrap();
            }
            _ => sleep(Duration::from_millis(50)),
        }
        stir(&cluster, round + 301, 15);
        if round % 3 == 2 {
            cluster.server.clear_faults();
            cluster.wait_same();
        }
    }
}
