use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use testkit::{wait_for, wait_until};

use super::*;
use crate::Limits;

const LIMIT: Duration = Duration::from_secs(20);

fn health() -> Arc<Health> {
    Arc::new(Health::new(Limits::of(Duration::from_secs(30)), &[]))
}

fn ignore() -> OnFailure {
    Box::new(|_| {})
}

fn check(port: u16, local_endpoints: usize) -> HealthCheck {
    HealthCheck {
        namespace: "shop".to_owned(),
        name: "web".to_owned(),
        uid: format!("uid-{port}").into(),
        port: port.try_into().unwrap(),
        ipv6: false,
        balancers: Vec::new(),
        local_endpoints,
    }
}

/// A port that nobody has at the moment, and that no other test gets: below those that the kernel gives out.
fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let first = 10_000 + u16::try_from(std::process::id() % 400).unwrap() * 50;
    let mut candidates = std::iter::repeat_with(|| first + NEXT.fetch_add(1, Ordering::Relaxed) % 50);
    candidates.find(|port| std::net::TcpListener::bind(("0.0.0.0", *port)).is_ok()).unwrap()
}

fn get(addr: &str, port: u16, request: &str) -> Option<String> {
    let mut stream = TcpStream::connect((addr, port)).ok()?;
    write!(stream, "{request} HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    Some(text)
}

#[track_caller]
fn wait_for_answer(port: u16, start: &str) -> String {
    let answer = || get("127.0.0.1", port, "GET /").unwrap_or_default();
    wait_until(LIMIT, start, || answer().starts_with(start));
    answer()
}

/// Conformance: healthcheck TestServer
#[test]
fn answers_are_those_of_kube_proxy_whatever_is_asked() {
    let (health, port) = (health(), free_port());
    let checks = HealthChecks::start(Arc::clone(&health), ignore()).unwrap();
    checks.set(vec![check(port, 2)], Listen::Everywhere);
    let answer = wait_for_answer(port, "HTTP/1.1 200");
    let body = "{\n\t\"service\": {\n\t\t\"namespace\": \"shop\",\n\t\t\"name\": \"web\"\n\t},\n\t\"localEndpoints\": 2,\n\t\
                \"serviceProxyHealthy\": true\n}";
    assert!(answer.ends_with(body), "{answer}");
    for header in [
        "content-type: application/json",
        "x-content-type-options: nosniff",
        "x-load-balancing-endpoint-weight: 2",
    ] {
        assert!(answer.contains(header), "{header} is not in {answer}");
    }
    assert!(get("127.0.0.1", port, "POST /any/path").unwrap().starts_with("HTTP/1.1 200"));
    checks.set(vec![check(port, 0)], Listen::Everywhere);
    assert!(wait_for_answer(port, "HTTP/1.1 503").contains("\"localEndpoints\": 0"));
}

/// Conformance: healthcheck TestServer
#[test]
fn a_proxy_that_does_not_follow_changes_is_not_healthy_but_one_of_a_leaving_node_is() {
    let (health, port) = (health(), free_port());
    let checks = HealthChecks::start(Arc::clone(&health), ignore()).unwrap();
    checks.set(vec![check(port, 1)], Listen::Everywhere);
    health.set_node_eligible(false);
    wait_for_answer(port, "HTTP/1.1 200");
    let long_ago = Instant::now().checked_sub(Duration::from_secs(3600)).unwrap();
    health.set_waiting(long_ago, "changes-wait");
    let answer = wait_for_answer(port, "HTTP/1.1 503");
    assert!(
        answer.contains("\"localEndpoints\": 1") && answer.contains("\"serviceProxyHealthy\": false"),
        "{answer}"
    );
}

/// Conformance: healthcheck TestServer
/// Conformance: healthcheck TestServerWithSelectiveListeningAddress
#[test]
fn ports_follow_services_and_addresses() {
    let (first, second) = (free_port(), free_port());
    let checks = HealthChecks::start(health(), ignore()).unwrap();
    let at = |addr: &str| Listen::At(BTreeSet::from([addr.parse().unwrap()]));
    checks.set(vec![check(first, 1)], at("127.0.0.1"));
    wait_for_answer(first, "HTTP/1.1 200");
    assert_eq!(get("127.0.0.2", first, "GET /"), None, "not everywhere");
    checks.set(vec![check(second, 1)], at("127.0.0.1"));
    wait_for_answer(second, "HTTP/1.1 200");
    wait_until(LIMIT, "the first port is closed", || get("127.0.0.1", first, "GET /").is_none());
    checks.set(
        vec![HealthCheck { balancers: vec!["127.0.0.3".parse().unwrap()], ..check(second, 1) }],
        at("127.0.0.2"),
    );
    for addr in ["127.0.0.2", "127.0.0.3"] {
        wait_until(LIMIT, addr, || get(addr, second, "GET /").is_some());
    }
    wait_until(LIMIT, "the first address is closed", || get("127.0.0.1", second, "GET /").is_none());
    checks.set(Vec::new(), Listen::Everywhere);
    wait_until(LIMIT, "all are closed", || get("127.0.0.2", second, "GET /").is_none());
}

#[test]
fn a_taken_port_is_tried_again_and_costs_no_other() {
    let (port, other) = (free_port(), free_port());
    let taken = std::net::TcpListener::bind(("0.0.0.0", port)).unwrap();
    let checks = HealthChecks::start(health(), ignore()).unwrap();
    checks.set(vec![check(port, 1), check(other, 1)], Listen::Everywhere);
    wait_for_answer(other, "HTTP/1.1 200");
    drop(taken);
    wait_for_answer(port, "HTTP/1.1 200");
}

#[test]
fn a_taken_port_is_reported_once_for_all_addresses_and_again_after_it_was_free() {
    let (port, other) = (free_port(), free_port());
    let take = || wait_for(LIMIT, "the port to be free", || std::net::TcpListener::bind(("0.0.0.0", port)));
    let taken = take();
    let (sender, failures) = std::sync::mpsc::channel();
    let on_failure: OnFailure = Box::new(move |failure| sender.send(failure.check.port.get()).unwrap());
    let checks = HealthChecks::start(health(), on_failure).unwrap();
    let at = |addrs: [&str; 2]| Listen::At(addrs.map(|addr| addr.parse().unwrap()).into());
    let wait = || failures.recv_timeout(LIMIT).unwrap();
    checks.set(vec![check(port, 1), check(other, 1)], at(["127.0.0.1", "127.0.0.2"]));
    assert_eq!(wait(), port);
    // Other endpoints and further tries are no news.
    checks.set(vec![check(port, 2), check(other, 1)], at(["127.0.0.1", "127.0.0.2"]));
    wait_for_answer(other, "HTTP/1.1 200");
    drop(taken);
    wait_for_answer(port, "HTTP/1.1 200");
    checks.set(vec![check(other, 1)], at(["127.0.0.1", "127.0.0.2"]));
    wait_until(LIMIT, "the port is closed", || get("127.0.0.2", port, "GET /").is_none());
    assert_eq!(failures.try_recv().ok(), None);
    let _taken = take();
    checks.set(vec![check(port, 1), check(other, 1)], at(["127.0.0.1", "127.0.0.2"]));
    assert_eq!(wait(), port);
}

#[test]
fn the_first_of_two_services_with_a_port_has_it_and_families_are_apart() {
    let port = free_port();
    let other = HealthCheck { name: "other".to_owned(), ..check(port, 7) };
    let six = HealthCheck { ipv6: true, ..check(port, 3) };
    let wanted = by_address(&(vec![check(port, 1), other, six], Listen::Everywhere));
    let counts: Vec<_> =
        wanted.checks.iter().map(|(addr, check)| (addr.is_ipv6(), check.local_endpoints)).collect();
    assert_eq!(counts, [(false, 1), (true, 3)]);
}

#[test]
fn a_service_whose_port_another_one_has_is_reported_once() {
    let (sender, failures) = std::sync::mpsc::channel();
    let report =
        Box::new(move |failure: ListenFailure| drop(sender.send((failure.check.name, failure.reason))));
    let checks = HealthChecks::start(health(), report).unwrap();
    let port = free_port();
    let other = || HealthCheck { name: "other".to_owned(), ..check(port, 0) };
    for endpoints in [2, 3] {
        checks.set(vec![check(port, endpoints), other()], Listen::Everywhere);
        wait_until(LIMIT, "the number of endpoints", || {
            get("127.0.0.1", port, "GET /")
                .is_some_and(|text| text.contains(&format!("\"localEndpoints\": {endpoints}")))
        });
    }
    let reported: Vec<_> = failures.try_iter().collect();
    assert_eq!(reported, [("other".to_owned(), ListenFault::OfService("shop/web".to_owned()))]);
    checks.set(vec![other()], Listen::Everywhere);
    wait_for_answer(port, "HTTP/1.1 503");
}
