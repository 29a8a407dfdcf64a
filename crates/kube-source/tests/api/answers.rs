//! Answers that never come, break off, or make no sense.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread::{scope, sleep},
    time::{Duration, Instant},
};

use kube_source::Limits;
use test_apiserver::{Builder, Hangup, Pick, Resource, Ruin, Spoil, StreamingLists, TestApiServer};
use testkit::wait_until;

use crate::cluster::{Cluster, filled, limits, service, slice};

/// Cases that run at the same time: they spend nearly all of it waiting.
const PARALLEL_CASES: usize = 12;

/// Limits ten to a hundred times shorter than those of production.
fn short() -> Limits {
    Limits {
        response: Duration::from_millis(1000),
        list: Duration::from_millis(1500),
        silence: Duration::from_millis(1200),
        first_silence: Duration::from_millis(700),
        patience: Duration::from_millis(1200),
        absence: Duration::from_millis(700),
        renewal: Duration::from_millis(100),
        page: 8,
        ..Limits::default()
    }
}

/// Faults at the beginning of an answer, in its head and in its body.
fn spoils() -> Vec<Spoil> {
    let drip = Ruin::Drip(Duration::from_millis(20));
    [
        (0, Ruin::Silence),
        (60, Ruin::Silence),
        (300, Ruin::Silence),
        (60, Ruin::Close),
        (300, Ruin::Close),
        (0, Ruin::Reset),
        (0, Ruin::Garbage),
        (300, Ruin::Garbage),
        (0, drip),
        (300, drip),
    ]
    .map(|(after, then)| Spoil { after, then })
    .to_vec()
}

#[derive(Clone, Copy, Debug)]
struct Case {
    lists: StreamingLists,
    request: u64,
    spoil: Spoil,
}

impl Case {
    /// Spoils the answer to one request, and checks that all objects and their changes arrive anyway. Returns
    /// whether that request was made.
    fn run(self) -> bool {
        let server = filled(TestApiServer::builder().streaming_lists(self.lists), 12);
        server.spoil(Pick::Nth(self.request), self.spoil);
        let mut cluster = Cluster::follow_within(server, short());
        let same = |cluster: &mut Cluster, what: &str| {
            wait_until(Duration::from_secs(40), &format!("{what}: {self:?}"), || {
                cluster.take();
                cluster.is_same()
            });
        };
        same(&mut cluster, "first lists");
        for resource in [Resource::Services, Resource::EndpointSlices] {
            cluster.server.drop_watches(resource, Hangup::End);
        }
        cluster.apply(service(3, "b"));
        cluster.apply(slice(4, 5));
        same(&mut cluster, "changes");
        if cluster.server.spoilt() == 0 {
            // Silence leads to requests that ask whether the server knows a version.
            sleep(short().silence * 2);
            cluster.apply(slice(5, 5));
            same(&mut cluster, "changes after silence");
        }
        cluster.server.spoilt() == 1
    }
}

#[test]
fn no_single_answer_keeps_the_rest_from_making_progress() {
    // Every spoil of every request, with both ways of listing.
    let cases: Vec<_> = [(StreamingLists::Supported, 11), (StreamingLists::Refused, 16)]
        .into_iter()
        .flat_map(|(lists, requests)| (0..requests).map(move |request| (lists, request)))
        .flat_map(|(lists, request)| spoils().into_iter().map(move |spoil| Case { lists, request, spoil }))
        .collect();
    let (left, spoilt) = (Mutex::new(cases.iter()), AtomicUsize::new(0));
    let next = || left.lock().expect("the cases").next().copied();
    scope(|scope| {
        for _ in 0..PARALLEL_CASES {
            scope.spawn(|| {
                while let Some(case) = next() {
                    spoilt.fetch_add(usize::from(case.run()), Ordering::Relaxed);
                }
            });
        }
    });
    let spoilt = spoilt.into_inner();
    assert!(spoilt * 10 > cases.len() * 9, "{spoilt} of {} requests were made", cases.len());
}

const SILENCE: Spoil = Spoil { after: 0, then: Ruin::Silence };
const KINDS: [(&str, &str); 4] = [
    ("nodes", "/api/v1/nodes"),
    ("servicecidrs", "/apis/networking.k8s.io/v1/servicecidrs"),
    ("services", "/api/v1/services"),
    ("endpointslices", "/apis/discovery.k8s.io/v1/endpointslices"),
];

fn within(limit: Duration, what: &str, cluster: &mut Cluster, met: impl Fn(&Cluster) -> bool) {
    let begun = Instant::now();
    cluster.wait(what, |cluster| met(cluster));
    assert!(begun.elapsed() < limit, "{what}: after {:?}", begun.elapsed());
}

/// One path stays silent for ever, and the limits are those of production.
#[test]
fn a_path_without_answers_concerns_nothing_else() {
    let others =
        |silent: &str| KINDS.map(|(kind, _)| kind).into_iter().filter(|kind| *kind != silent).collect();
    for (silent, path) in KINDS.into_iter().chain([("", "/version")]) {
        let server = filled(TestApiServer::builder(), 5);
        server.spoil(Pick::Path(path.to_owned()), SILENCE);
        let patience = Duration::from_secs(2);
        let mut cluster = Cluster::follow_within(server, Limits { patience, ..limits() });
        let others: Vec<&str> = others(silent);
        let following = |cluster: &Cluster| {
            others.iter().all(|kind| cluster.statuses.get(kind) == Some(&kube_source::ApiStatus::Following))
        };
        within(Duration::from_secs(10), &format!("all but {path}"), &mut cluster, following);
        if !["services", "endpointslices"].contains(&silent) {
            within(
                Duration::from_secs(10),
                &format!("complete without {path}"),
                &mut cluster,
                Cluster::is_same,
            );
        }
    }
}

#[test]
fn a_request_without_an_answer_is_reported() {
    let server = filled(TestApiServer::builder(), 5);
    for (_, path) in KINDS {
        server.spoil(Pick::Path(path.to_owned()), SILENCE);
    }
    server.spoil(Pick::Path("/version".to_owned()), SILENCE);
    let response = Duration::from_secs(7);
    let mut cluster = Cluster::follow_within(server, Limits { response, ..limits() });
    cluster.wait("the first line", |c| c.log.text().contains("no answer from http://127.0.0.1"));
    assert!(cluster.statuses.is_empty(), "still waiting");
    cluster.wait("reports of all kinds", |c| KINDS.iter().all(|(kind, _)| c.is_failing(kind)));
    let log = cluster.log.text();
    assert!(log.contains("watching services: the server does not answer"), "{log}");
    cluster.wait("the version", |c| c.log.text().contains("version of the API server is unknown: no answer"));
    cluster.server.clear_faults();
    cluster.wait_same();
    assert_eq!(cluster.log.text().matches("watching services: no answer").count(), 1, "once");
}

fn builder() -> Builder {
    TestApiServer::builder().tls()
}

/// Dripping bytes never complete a line, neither of a list nor of a watch.
#[test]
fn dripping_is_no_progress() {
    let drip = |after| Spoil { after, then: Ruin::Drip(Duration::from_millis(50)) };
    for after in [0, 1500, 4000] {
        let server = filled(builder(), 12);
        server.spoil(Pick::Nth(3), drip(after));
        let mut cluster = Cluster::follow_within(server, short());
        cluster.wait_same();
    }
}
