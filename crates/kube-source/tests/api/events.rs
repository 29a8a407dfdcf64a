//! Events that the source writes.

use std::{thread::sleep, time::Duration};

use kube_source::{EventCounts, EventLimits, Limits, Notice, Reason, Regarding, ServiceRef};
use lb_types::ServiceName;
use serde_json::{Value, json};
use test_apiserver::{Faults, Refusal, Resource, TestApiServer, Verb};

use crate::cluster::{Cluster, NODE, filled, limits, service};

fn notice(name: &str, reason: Reason, note: &str) -> Notice {
    let service = ServiceRef { name: ServiceName::new("ns", name), uid: format!("uid-{name}").into() };
    Notice { regarding: Regarding::Service(service), reason, note: note.to_owned() }
}

fn start() -> Notice {
    Notice { regarding: Regarding::Node, reason: Reason::Starting, note: "starts".to_owned() }
}

fn events(cluster: &Cluster) -> Vec<Value> {
    cluster.server.objects().list(Resource::Events)
}

fn wait_counts(cluster: &mut Cluster, written: u64, known: u64, lost: u64) {
    let expect = EventCounts { written, known, lost };
    cluster.wait(&format!("{expect:?}"), |cluster| cluster.recorder.counts() == expect);
}

/// Requests that write an event.
fn writes(cluster: &Cluster) -> u64 {
    let requests = cluster.server.requests();
    [Verb::Create, Verb::Patch].iter().map(|verb| requests.count(Resource::Events, *verb)).sum()
}

/// Another process, on a node of this name, that follows the same server.
fn follow(server: TestApiServer, node: &str) -> Cluster {
    let kubeconfig = server.kubeconfig();
    Cluster::follow_by(server, &kubeconfig, |options| options.node_name = node.into())
}

#[test]
fn an_event_is_in_the_namespace_of_its_service_and_refers_to_it() {
    let mut cluster = Cluster::new(TestApiServer::builder());
    cluster.recorder.record(notice("s1", Reason::ClaimedByOther, "older"));
    wait_counts(&mut cluster, 1, 0, 0);
    let event = &events(&cluster)[0];
    assert_eq!(event["metadata"]["namespace"], "ns");
    let regarding =
        json!({"apiVersion": "v1", "kind": "Service", "namespace": "ns", "name": "s1", "uid": "uid-s1"});
    assert_eq!(event["regarding"], regarding);
    assert_eq!((&event["reason"], &event["note"]), (&json!("ClaimedByOther"), &json!("older")));
    assert_eq!(event["reportingInstance"], NODE);
}

#[test]
fn of_all_nodes_and_starts_one_writes_what_all_see() {
    let mut cluster = Cluster::new(TestApiServer::builder());
    let both =
        [notice("s1", Reason::InvalidAnnotation, "no number"), notice("s2", Reason::ClaimedByOther, "older")];
    let record = |cluster: &Cluster| both.iter().for_each(|notice| cluster.recorder.record(notice.clone()));
    record(&cluster);
    wait_counts(&mut cluster, 2, 0, 0);
    let before = events(&cluster);
    for node in [NODE, "n2"] {
        cluster = follow(cluster.server, node);
        record(&cluster);
        wait_counts(&mut cluster, 0, 2, 0);
        assert_eq!(events(&cluster), before);
    }
}

#[test]
fn what_a_node_sees_alone_is_counted() {
    let mut cluster = Cluster::new(TestApiServer::builder());
    for starts in 1..=3 {
        cluster.recorder.record(start());
        wait_counts(&mut cluster, 1, 0, 0);
        let events = events(&cluster);
        assert_eq!(events.len(), 1);
        let count = events[0]["series"]["count"].as_i64().unwrap_or(1);
        assert_eq!((count, &events[0]["metadata"]["namespace"]), (starts, &json!("default")));
        cluster = follow(cluster.server, NODE);
    }
    cluster = follow(cluster.server, "n2");
    cluster.recorder.record(start());
    wait_counts(&mut cluster, 1, 0, 0);
    assert_eq!(events(&cluster).len(), 2);
}

#[test]
fn five_thousand_problems_are_a_few_requests_and_delay_nothing() {
    let mut cluster = Cluster::follow(filled(TestApiServer::builder(), 20));
    cluster.wait_same();
    for i in 0..5000 {
        cluster.recorder.record(notice(&format!("s{i}"), Reason::ClaimedByOther, "older"));
    }
    let burst = u64::from(EventLimits::default().burst);
    cluster.wait("the burst is written", |cluster| writes(cluster) >= burst);
    // Objects go on being followed.
    cluster.apply(service(21, "a"));
    cluster.wait_same();
    let in_a_minute = 12;
    assert!(writes(&cluster) <= burst + in_a_minute, "{} requests", writes(&cluster));
    let counts = cluster.recorder.counts();
    assert!(counts.lost >= 5000 - 1024 - counts.written - 1, "{counts:?}");
}

#[test]
fn a_server_that_does_not_answer_delays_no_recorder() {
    let mut cluster = Cluster::new(TestApiServer::builder());
    cluster.wait_same();
    cluster.server.set_faults(Resource::Events, Faults { silent: true, ..Faults::default() });
    for i in 0..5000 {
        cluster.recorder.record(notice(&format!("s{i}"), Reason::ClaimedByOther, "older"));
    }
    cluster.apply(service(21, "a"));
    cluster.wait_same();
    let counts = cluster.recorder.counts();
    assert_eq!(counts.written + counts.known, 0, "{counts:?}");
    // Those that wait, and the one that is being written.
    assert!(counts.lost >= 5000 - 1024 - 1 && counts.lost <= 5000 - 1024, "{counts:?}");
}

#[test]
fn refusals_cost_one_warning_and_nothing_else() {
    let mut cluster = Cluster::new(TestApiServer::builder());
    cluster.wait_same();
    cluster.server.deny(Resource::Events, Verb::Create, true);
    for i in 0..3 {
        cluster.recorder.record(notice(&format!("s{i}"), Reason::ClaimedByOther, "older"));
    }
    wait_counts(&mut cluster, 0, 0, 3);
    assert_eq!(writes(&cluster), 3, "none is tried again");
    let log = cluster.log.text();
    assert_eq!(log.matches("WARN").count(), 1, "{log}");
    assert!(log.contains("403 Forbidden") && log.contains("system:node-proxier"), "{log}");
    cluster.apply(service(21, "a"));
    cluster.wait_same();
    for kind in ["services", "endpointslices"] {
        cluster.wait_following(kind);
    }
    // Servers without the resource are no different.
    cluster.server.set_missing(Resource::Events, true);
    cluster.server.deny(Resource::Events, Verb::Create, false);
    cluster.recorder.record(start());
    wait_counts(&mut cluster, 0, 0, 4);
    assert_eq!(cluster.log.text().matches("WARN").count(), 2, "{}", cluster.log.text());
    // What is allowed later is written.
    cluster.server.set_missing(Resource::Events, false);
    cluster.recorder.record(start());
    wait_counts(&mut cluster, 1, 0, 4);
}

#[test]
fn what_may_pass_is_tried_again() {
    let mut cluster = Cluster::new(TestApiServer::builder());
    cluster.wait_same();
    for (i, status) in (1..).zip([429, 500, 503]) {
        let refuse = Refusal { retry_after_s: 0, ..Refusal::new(status, &[]) }.times(2);
        cluster.server.set_faults(Resource::Events, Faults { refuse: Some(refuse), ..Faults::default() });
        cluster.recorder.record(notice(&format!("s{i}"), Reason::ClaimedByOther, "older"));
        wait_counts(&mut cluster, i, 0, 0);
    }
    assert_eq!(writes(&cluster), 9);
    cluster.server.stop().unwrap();
    cluster.recorder.record(notice("s9", Reason::ClaimedByOther, "older"));
    sleep(Duration::from_millis(100));
    cluster.server.restart().unwrap();
    wait_counts(&mut cluster, 4, 0, 0);
    assert_eq!(cluster.log.text().matches("an event could not").count(), 0);
}

#[test]
fn many_nodes_spread_what_all_of_them_see() {
    let spread = EventLimits { spread: Duration::from_secs(3600), ..EventLimits::default() };
    let limits = Limits { events: spread, ..limits() };
    let mut cluster = Cluster::follow_within(filled(TestApiServer::builder(), 1), limits);
    cluster.recorder.record(start());
    wait_counts(&mut cluster, 1, 0, 0);
    cluster.recorder.record(notice("s1", Reason::ClaimedByOther, "older"));
    for i in 2..5 {
        cluster.apply(service(i, "a"));
        cluster.wait_same();
    }
    assert_eq!(writes(&cluster), 1, "its time comes within an hour");
}
