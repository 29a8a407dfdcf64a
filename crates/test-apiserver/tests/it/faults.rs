//! Faults, which do what was requested and nothing else.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use serde_json::json;
use test_apiserver::{
    Faults, Hangup, Pick, Refusal, Reorder, Resource, Ruin, Snapshot, Spoil, TestApiServer, Trickle, Verb,
};

use crate::{
    client::{Next, brief, fetch, get, wait_until},
    objects::{node, service},
    watches::{WATCH, started},
};

const SHORT_WAIT: Duration = Duration::from_millis(100);

fn apply(server: &TestApiServer, name: &str, value: &str) {
    server.objects().apply(service(name, json!({"v": value}))).unwrap();
}

fn set(server: &TestApiServer, faults: Faults) {
    server.set_faults(Resource::Services, faults);
}

#[test]
fn an_outage_closes_everything_and_ends() {
    let server = started(&["a"]);
    let mut watch = get(server.address(), &format!("{WATCH}&resourceVersion=101"));
    server.stop().unwrap();
    assert_eq!(watch.next(), Next::Cut(0));
    assert!(TcpStream::connect(server.address()).is_err());
    assert_eq!(server.watches(Resource::Services), 0);
    apply(&server, "b", "1");
    server.restart().unwrap();
    let mut watch = get(server.address(), &format!("{WATCH}&resourceVersion=101"));
    assert_eq!(watch.brief().1, "b", "the client goes on where it was");
    server.restart().unwrap();
    server.stop().unwrap();
    server.stop().unwrap();
}

#[test]
fn a_restart_may_lose_data() {
    let server = started(&["a"]);
    let past = server.objects().snapshot();
    apply(&server, "b", "1");
    server.stop().unwrap();
    server.objects().restore(past);
    server.restart().unwrap();
    let (_, list) = fetch(server.address(), "/api/v1/services");
    assert_eq!(
        (&list["metadata"]["resourceVersion"], list["items"].as_array().unwrap().len()),
        (&json!("101"), 1)
    );
    let mut ahead = get(server.address(), &format!("{WATCH}&resourceVersion=102"));
    apply(&server, "c", "1");
    assert_eq!(ahead.next_within(SHORT_WAIT), Next::Silence, "the client believes that it knows version 102");
    apply(&server, "d", "1");
    assert_eq!(ahead.brief().1, "d");
    server.stop().unwrap();
    server.objects().restore(Snapshot::empty());
    server.restart().unwrap();
    assert_eq!(fetch(server.address(), "/api/v1/services").1["items"], json!([]));
}

#[test]
fn watches_are_dropped_in_three_ways() {
    let server = started(&[]);
    let mut nodes = get(server.address(), "/api/v1/nodes?watch=true");
    let open = || get(server.address(), WATCH);
    let mut ended = open();
    server.drop_watches(Resource::Services, Hangup::End);
    assert_eq!(ended.next(), Next::End(0));
    let mut cut = open();
    server.drop_watches(Resource::Services, Hangup::Cut);
    assert_eq!(cut.next(), Next::Cut(0));
    let mut mute = open();
    server.drop_watches(Resource::Services, Hangup::Mute);
    let mut fresh = open();
    apply(&server, "a", "1");
    assert_eq!(fresh.brief().1, "a", "a new watch works");
    assert_eq!(mute.next_within(SHORT_WAIT), Next::Silence, "a mute one is open, but says nothing");
    server.objects().apply(node("n")).unwrap();
    assert_eq!(nodes.brief().1, "n", "other resources are not concerned");
}

#[test]
fn silence_holds_everything_back() {
    let server = started(&[]);
    let mut watch = get(server.address(), WATCH);
    set(&server, Faults { silent: true, ..Faults::default() });
    apply(&server, "a", "1");
    assert_eq!(watch.next_within(SHORT_WAIT), Next::Silence);
    let address = server.address();
    let asked = thread::spawn(move || fetch(address, "/api/v1/services").0);
    wait_until("the request is there", || server.requests().count(Resource::Services, Verb::List) == 1);
    thread::sleep(SHORT_WAIT);
    assert!(!asked.is_finished(), "answered in silence");
    assert_eq!(fetch(address, "/api/v1/nodes").0, 200, "other resources are not concerned");
    server.clear_faults();
    assert_eq!(watch.brief().1, "a");
    assert_eq!(asked.join().unwrap(), 200);
}

#[test]
fn events_are_late() {
    let server = started(&[]);
    let mut watch = get(server.address(), WATCH);
    set(&server, Faults { delay_ms: 200, ..Faults::default() });
    let start = Instant::now();
    for n in 0..20 {
        apply(&server, "a", &n.to_string());
    }
    for _ in 0..20 {
        watch.event();
        assert!(start.elapsed() >= Duration::from_millis(200));
    }
    // Each is late by the same time: the delays do not add up.
    assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
}

#[test]
fn events_are_repeated() {
    let server = started(&[]);
    let mut watch = get(server.address(), WATCH);
    set(&server, Faults { repeat: true, ..Faults::default() });
    apply(&server, "a", "1");
    apply(&server, "a", "2");
    let revisions: Vec<u64> = (0..4).map(|_| watch.brief().2).collect();
    assert_eq!(revisions, [101, 101, 102, 102]);
}

#[test]
fn events_of_different_objects_swap_places() {
    let server = started(&[]);
    let mut watch = get(server.address(), WATCH);
    set(&server, Faults { reorder: Some(Reorder { window_ms: 50, seed: 3 }), ..Faults::default() });
    wait_until("the watch is open", || server.watches(Resource::Services) == 1);
    for n in 0..30 {
        apply(&server, &format!("s{}", n % 5), &n.to_string());
    }
    let mut last = BTreeMap::new();
    let mut revisions = Vec::new();
    for _ in 0..30 {
        let (_, name, revision) = watch.brief();
        assert!(last.insert(name.clone(), revision) < Some(revision), "{name} goes back to {revision}");
        revisions.push(revision);
    }
    assert!(!revisions.is_sorted(), "{revisions:?}");
    revisions.sort_unstable();
    assert!(revisions.into_iter().eq(101..131), "all of them, once");
}

#[test]
fn a_line_is_cut_in_the_middle() {
    let server = started(&[]);
    let mut watch = get(server.address(), WATCH);
    set(&server, Faults { truncate: 1, ..Faults::default() });
    apply(&server, "a", "1");
    match watch.next() {
        Next::Cut(bytes) => assert!(bytes > 100, "{bytes}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(server.faults(Resource::Services).truncate, 0);
    let mut watch = get(server.address(), &format!("{WATCH}&resourceVersion=100"));
    assert_eq!(watch.brief().1, "a", "only once");
}

#[test]
fn bytes_trickle() {
    let server = started(&[]);
    let mut watch = get(server.address(), WATCH);
    set(&server, Faults { trickle: Some(Trickle { bytes: 50, every_ms: 20 }), ..Faults::default() });
    let start = Instant::now();
    apply(&server, "a", "1");
    assert_eq!(watch.brief().1, "a");
    assert!(start.elapsed() >= Duration::from_millis(80), "{:?}", start.elapsed());
    let start = Instant::now();
    assert_eq!(fetch(server.address(), "/api/v1/services").0, 200);
    assert!(start.elapsed() >= Duration::from_millis(80), "lists, too: {:?}", start.elapsed());
}

#[test]
fn requests_are_refused() {
    let server = started(&["a"]);
    let refuse = |refusal: Refusal| set(&server, Faults { refuse: Some(refusal), ..Faults::default() });
    let list = || fetch(server.address(), "/api/v1/services");

    refuse(Refusal { retry_after_s: 3, ..Refusal::new(429, &[Verb::List]).times(1) });
    let answer = get(server.address(), "/api/v1/services");
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("3")));
    assert_eq!(answer.json().1["details"]["retryAfterSeconds"], 3);
    assert_eq!(list().0, 200, "only once");

    refuse(Refusal::new(410, &[Verb::Watch]));
    let (status, error) = fetch(server.address(), WATCH);
    assert_eq!((status, &error["reason"]), (410, &json!("Expired")));
    assert_eq!(list().0, 200, "only watches");

    refuse(Refusal::new(500, &[]));
    assert_eq!((list().0, list().1["reason"].clone()), (500, json!("InternalError")));
    refuse(Refusal::new(503, &[]));
    assert_eq!(list().0, 503);
    server.clear_faults();
    assert_eq!(list().0, 200);
    assert_eq!((server.requests().status(429), server.requests().status(500)), (1, 2));
}

#[test]
fn a_stale_replica_answers_from_the_past() {
    let server = started(&["a"]);
    server.set_stale(Some(server.objects().snapshot()));
    apply(&server, "b", "1");
    let (_, stale) = fetch(server.address(), "/api/v1/services?resourceVersion=0");
    assert_eq!(
        (&stale["metadata"]["resourceVersion"], stale["items"].as_array().unwrap().len()),
        (&json!("101"), 1)
    );
    let (_, newest) = fetch(server.address(), "/api/v1/services");
    assert_eq!(newest["items"].as_array().unwrap().len(), 2);
    let mut watch = get(
        server.address(),
        &format!(
            "{WATCH}&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=0&allowWatchBookmarks=1"
        ),
    );
    let seen: Vec<_> = (0..3).map(|_| brief(&watch.event())).map(|(kind, name, _)| kind + &name).collect();
    assert_eq!(seen, ["ADDEDa", "BOOKMARK-", "ADDEDb"], "it catches up");
}

#[test]
fn access_is_refused() {
    let server = TestApiServer::builder().token("secret").without(Resource::ServiceCidrs).start().unwrap();
    let with = |token: &str, target: &str| {
        let header = format!("Authorization: Bearer {token}\r\n");
        crate::client::request(server.address(), "GET", target, &header, "").json()
    };
    assert_eq!(fetch(server.address(), "/api/v1/services").0, 401);
    assert_eq!(with("wrong", "/api/v1/services").1["reason"], "Unauthorized");
    assert_eq!(with("secret", "/api/v1/services").0, 200);
    let (status, error) = with("secret", "/apis/networking.k8s.io/v1/servicecidrs");
    assert_eq!(
        (status, &error["message"]),
        (404, &json!("the server could not find the requested resource"))
    );
    server.set_missing(Resource::ServiceCidrs, false);
    assert_eq!(with("secret", "/apis/networking.k8s.io/v1/servicecidrs").0, 200);

    server.deny(Resource::Nodes, Verb::Watch, true);
    assert_eq!(with("secret", "/api/v1/nodes").0, 200);
    let (status, error) = with("secret", "/api/v1/nodes?watch=true");
    assert_eq!(status, 403);
    assert_eq!(
        error["message"],
        "nodes is forbidden: User \"system:serviceaccount:kube-system:kube-ipvs\" cannot watch resource \"nodes\" \
         in API group \"\" at the cluster scope"
    );
    server.deny(Resource::Nodes, Verb::Watch, false);
    let header = "Authorization: Bearer secret\r\n";
    assert_eq!(
        crate::client::request(server.address(), "GET", "/api/v1/nodes?watch=true", header, "").status,
        200
    );
}

#[test]
fn answers_are_spoilt_byte_by_byte() {
    let server = started(&["a"]);
    let raw = |then: Ruin, after: usize| {
        server.spoil(Pick::Nth(0), Spoil { after, then });
        let mut stream = TcpStream::connect(server.address()).unwrap();
        stream.set_read_timeout(Some(SHORT_WAIT)).unwrap();
        stream.write_all(b"GET /version HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
        let mut bytes = Vec::new();
        let end = stream.read_to_end(&mut bytes).map(drop).map_err(|error| error.kind());
        (bytes, end)
    };
    let (whole, end) = raw(Ruin::Close, 1 << 20);
    assert_eq!((&whole[..12], end), (&b"HTTP/1.1 200"[..], Ok(())));
    assert_eq!(raw(Ruin::Silence, 20), (whole[..20].to_vec(), Err(ErrorKind::WouldBlock)));
    assert_eq!(raw(Ruin::Close, 20), (whole[..20].to_vec(), Ok(())));
    assert_eq!(raw(Ruin::Reset, 0), (Vec::new(), Err(ErrorKind::ConnectionReset)));
    let (garbage, end) = raw(Ruin::Garbage, 20);
    assert_eq!((&garbage[..20], garbage.len(), end), (&whole[..20], whole.len(), Ok(())));
    assert!(garbage[20..].iter().zip(&whole[20..]).all(|(garbage, byte)| garbage != byte));
    let (dripped, end) = raw(Ruin::Drip(SHORT_WAIT * 2), 20);
    assert_eq!((dripped, end), (whole[..21].to_vec(), Err(ErrorKind::WouldBlock)));
    assert_eq!((server.spoilt(), server.requests().versions()), (6, 6));
    server.spoil(Pick::Path("/version".into()), Spoil { after: 0, then: Ruin::Silence });
    assert_eq!(fetch(server.address(), "/healthz").0, 200);
    server.clear_faults();
    assert_eq!(fetch(server.address(), "/version").0, 200);
}
