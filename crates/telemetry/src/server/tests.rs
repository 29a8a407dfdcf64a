use std::{
    io::{Read, Write},
    net::{IpAddr, TcpListener, TcpStream},
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
};

use super::*;
use crate::{Limits, SourceStatus, pages::tests::process};

/// Time after which a probe has failed: more than the second of the kubelet, because a busy machine and a build
/// without optimisation are slow, but less than an answer takes that waits until other connections end.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
const _: () = assert!(PROBE_TIMEOUT.as_secs() < HEAD_TIMEOUT.as_secs());

/// Connections of the clients around a prober, more than stay open.
const CROWD: usize = 400;
const _: () = assert!(CROWD > crate::connections::MAX_TOTAL);

fn try_get(addr: SocketAddr, request: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&addr, PROBE_TIMEOUT)?;
    stream.set_read_timeout(Some(PROBE_TIMEOUT))?;
    write!(stream, "{request} HTTP/1.1\r\nHost: x\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn get(addr: SocketAddr, request: &str) -> String {
    try_get(addr, request).unwrap()
}

fn start_on(addr: SocketAddr, site: Site) -> SocketAddr {
    let (sender, receiver) = mpsc::channel();
    let bound: Bound = Box::new(move |addr| sender.send(addr).unwrap());
    serve(addr, site, BindFailure::Fails, Some(bound)).unwrap();
    receiver.recv().unwrap()
}

fn start(site: Site) -> SocketAddr {
    start_on("127.0.0.1:0".parse().unwrap(), site)
}

fn health() -> Arc<Health> {
    Arc::new(Health::new(Limits::of(Duration::from_secs(30)), &["services"]))
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new(["drained"]).unwrap())
}

fn metrics_site(metrics: Arc<Metrics>) -> Site {
    Site::Metrics(metrics, process(Instant::now()).into())
}

/// Conformance: e2e/networking should check kube-proxy urls
#[test]
fn answers_over_http() {
    let health = health();
    let addr = start(Site::Health(Arc::clone(&health), metrics()));
    assert!(get(addr, "GET /healthz").starts_with("HTTP/1.1 200"));
    assert!(get(addr, "GET /livez?verbose").starts_with("HTTP/1.1 200"));
    let text = get(addr, "GET /readyz");
    assert!(text.starts_with("HTTP/1.1 503") && text.ends_with('}'), "{text}");
    assert!(get(addr, "GET /other").starts_with("HTTP/1.1 404"));
    assert!(get(addr, "POST /healthz").starts_with("HTTP/1.1 405"));
    health.set_programmed();
    health.set_source_status("services", SourceStatus::Following);
    assert!(get(addr, "GET /readyz").starts_with("HTTP/1.1 200"));
}

#[test]
fn each_page_has_its_own_question() {
    let (health, now) = (health(), Instant::now());
    let addr = start(Site::Health(Arc::clone(&health), metrics()));
    let status = |page: &str| get(addr, &format!("GET /{page}"))[9..12].to_owned();
    let long_ago = now.checked_sub(Duration::from_secs(61)).expect("a machine that is up for a minute");
    health.set_waiting(long_ago, "changes");
    assert_eq!(["livez", "healthz"].map(status), ["200", "503"]);
    health.begin_step(long_ago);
    assert_eq!(["livez", "healthz"].map(status), ["503", "503"]);
    health.end_step();
    health.set_caught_up();
    assert_eq!(["livez", "healthz"].map(status), ["200", "200"]);
}

/// Conformance: e2e/networking should check kube-proxy urls
#[test]
fn metrics_have_an_address_of_their_own() {
    let addr = start(metrics_site(metrics()));
    let text = get(addr, "GET /metrics");
    assert!(text.starts_with("HTTP/1.1 200") && text.contains("version=0.0.4"), "{text}");
    assert!(text.contains("\nkube_ipvs_draining_real_servers 0\n"), "{text}");
    assert!(get(addr, "GET /proxyMode").ends_with("\r\n\r\nipvs"));
    for path in ["/", "/livez", "/readyz", "/debug/pprof/", "/metrics/"] {
        assert!(get(addr, &format!("GET {path}")).starts_with("HTTP/1.1 404"), "{path}");
    }
}

/// Conformance: app TestConfigz
#[test]
fn pages_about_the_process_have_the_headers_of_kube_proxy() {
    let addr = start(metrics_site(metrics()));
    let page = |path: &str| {
        let text = get(addr, &format!("GET {path}"));
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let header = |name: &str| {
            let value = head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            value.unwrap_or_default().to_owned()
        };
        assert_eq!(header("x-content-type-options"), "nosniff", "{path}");
        (head[9..12].to_owned(), header("content-type"), body.to_owned())
    };
    let ok = |kind: &str, body: &str| ("200".to_owned(), kind.to_owned(), body.to_owned());
    assert_eq!(page("/configz"), ok("application/json", r#"{"kubeproxy.config.k8s.io":{"mode":"ipvs"}}"#));
    assert_eq!(page("/healthz"), ok(TEXT_TYPE, "ok"));
    assert_eq!(page("/healthz/ping"), ok(TEXT_TYPE, "ok"));
    assert_eq!(page("/healthz?verbose"), ok(TEXT_TYPE, "[+]ping ok\nhealthz check passed\n"));
    assert_eq!(page("/proxyMode"), ok(TEXT_TYPE, "ipvs"));
    let (status, kind, body) = page("/statusz");
    assert_eq!((status.as_str(), kind.as_str()), ("200", TEXT_TYPE));
    assert!(
        body.starts_with("\nkube-ipvs statusz\nWarning: ") && body.contains("\nUp: 0 hr 00 min "),
        "{body}"
    );
    for path in pages::PATHS {
        assert!(body.contains(path), "{path} in {body}");
        assert_eq!(page(path).0, "200", "{path}");
    }
    let (status, kind, body) = page("/flagz");
    assert_eq!((status.as_str(), kind.as_str()), ("200", TEXT_TYPE));
    assert!(body.ends_with("\nproxy-mode=ipvs\nv=2\n"), "{body}");
}

#[test]
fn the_form_of_pages_about_the_process_is_negotiated() {
    let addr = start(metrics_site(metrics()));
    let page = |path: &str, accept: &str| {
        let mut stream = TcpStream::connect(addr).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\nAccept: {accept}\r\n\r\n").unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        text
    };
    let structured = "application/json;v=v1beta1;g=config.k8s.io;as=";
    for (path, kind) in [("/flagz", "Flagz"), ("/statusz", "Statusz")] {
        let text = page(path, &format!("{structured}{kind}"));
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 200") && head.contains("content-type: application/json"),
            "{head}"
        );
        assert!(!head.contains("warning:"), "{head}");
        let object: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(object["kind"], kind);
        let old = page(path, &format!("{structured}{kind}").replace("v1beta1", "v1alpha1"));
        assert!(old.contains("\r\nwarning: 299 - "), "{old}");
        assert!(page(path, "*/*").starts_with("HTTP/1.1 200"));
        assert!(page(path, "application/json").starts_with("HTTP/1.1 406"));
    }
}

#[test]
fn answers_of_health_pages_are_counted() {
    let (health, metrics) = (health(), metrics());
    let addr = start(Site::Health(Arc::clone(&health), Arc::clone(&metrics)));
    let long_ago =
        Instant::now().checked_sub(Duration::from_secs(61)).expect("a machine that is up for a minute");
    get(addr, "GET /healthz");
    health.set_waiting(long_ago, "changes");
    for page in ["healthz", "livez", "livez", "readyz", "other"] {
        get(addr, &format!("GET /{page}"));
    }
    let text = metrics.render(Instant::now()).unwrap();
    let counted: Vec<_> = text.lines().filter(|line| line.starts_with("kubeproxy_proxy_")).collect();
    assert_eq!(
        counted,
        [
            "kubeproxy_proxy_healthz_total{code=\"200\"} 1",
            "kubeproxy_proxy_healthz_total{code=\"503\"} 1",
            "kubeproxy_proxy_livez_total{code=\"200\"} 2",
        ]
    );
}

#[test]
fn a_long_page_is_complete() {
    let outcome = |n| -> &'static str { format!("outcome-{n}").leak() };
    let metrics = Metrics::new((0..5000).map(outcome)).unwrap();
    let expect = metrics.render(Instant::now()).unwrap();
    assert!(expect.len() > MAX_HEAD_BYTES * 4);
    let text = get(start(metrics_site(metrics.into())), "GET /metrics");
    assert_eq!(text.matches("outcome-").count(), 5000);
}

#[test]
fn an_address_in_use_is_waited_for() {
    // Clients of other tests use no port of this address.
    let busy = TcpListener::bind("127.77.77.77:0").unwrap();
    let addr = busy.local_addr().unwrap();
    let (sender, receiver) = mpsc::channel();
    let bound: Bound = Box::new(move |addr| sender.send(addr).unwrap());
    assert!(
        serve(addr, Site::Health(health(), metrics()), BindFailure::Fails, None).is_err(),
        "where it is to fail"
    );
    serve(addr, Site::Health(health(), metrics()), BindFailure::Retries, Some(bound)).unwrap();
    assert!(receiver.recv_timeout(Duration::from_millis(200)).is_err());
    drop(busy);
    assert_eq!(receiver.recv_timeout(BIND_RETRY_PAUSE * 2), Ok(addr));
}

/// Connects clients that never send a whole request, but at most its `head`.
fn hold(addr: SocketAddr, from: impl Fn(usize) -> IpAddr, count: usize, head: &str) -> Vec<TcpStream> {
    let connect = |n| {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::from((from(n), 0)).into()).unwrap();
        socket.connect(&addr.into()).unwrap();
        let mut stream = TcpStream::from(socket);
        // Other connections may have pushed it out already.
        let _pushed_out = stream.write_all(head.as_bytes());
        stream
    };
    (0..count).map(connect).collect()
}

/// Probes like a kubelet, which takes three failures in a row for one. A prober that the scheduler of a busy
/// machine stops between its connection and its request may be pushed out by the crowd meanwhile.
fn probe(addr: SocketAddr) -> io::Result<String> {
    let attempt = || try_get(addr, "GET /livez");
    attempt().or_else(|_| attempt()).or_else(|_| attempt())
}

/// Connects a crowd of clients again and again, while another one probes.
fn probe_among(from: impl Fn(usize) -> IpAddr + Send + Sync + Copy, head: &str) {
    let addr = start(Site::Health(health(), metrics()));
    let (begun, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let crowd = scope.spawn(|| {
            let mut held = Vec::new();
            while !over.load(Ordering::Relaxed) {
                held = hold(addr, from, CROWD, head);
                begun.fetch_add(1, Ordering::Relaxed);
            }
            drop(held);
        });
        let mut probes = 0;
        while begun.load(Ordering::Relaxed) < 3 || probes < 100 {
            assert!(!crowd.is_finished(), "the crowd could not connect");
            let result = probe(addr);
            over.store(result.is_err(), Ordering::Relaxed);
            assert!(result.unwrap().starts_with("HTTP/1.1 200"), "after {probes} probes");
            probes += 1;
        }
        // The same while they only stay connected.
        over.store(true, Ordering::Relaxed);
        for _ in 0..100 {
            assert!(get(addr, "GET /livez").starts_with("HTTP/1.1 200"));
        }
    });
    let held = hold(addr, from, CROWD, head);
    let begun = Instant::now();
    while held.iter().filter(|stream| is_open(stream)).count() > crate::connections::MAX_TOTAL {
        assert!(begun.elapsed() < PROBE_TIMEOUT, "all connections are kept");
        thread::yield_now();
    }
}

fn is_open(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    matches!(stream.peek(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

#[test]
fn a_prober_is_answered_among_hundreds_of_idle_connections_of_one_address() {
    probe_among(|_| [127, 0, 0, 2].into(), "");
    probe_among(|_| [127, 0, 0, 1].into(), "");
}

#[test]
fn a_prober_is_answered_among_hundreds_of_idle_connections_of_many_addresses() {
    let many = |n: usize| [127, 0, u8::try_from(n / 250).unwrap() + 1, u8::try_from(n % 250).unwrap() + 1];
    probe_among(|n| many(n).into(), "GET /livez HTTP/1.1\r\nHost:");
}

#[test]
fn a_client_without_a_request_is_disconnected() {
    let addr = start(Site::Health(health(), metrics()));
    let mut idle = TcpStream::connect(addr).unwrap();
    let mut slow = TcpStream::connect(addr).unwrap();
    slow.write_all(b"GET /livez HTTP/1.1\r\n").unwrap();
    for stream in [&mut idle, &mut slow] {
        stream.set_read_timeout(Some(HEAD_TIMEOUT * 2)).unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        assert!(!text.contains("200"), "{text}");
    }
    let mut large = TcpStream::connect(addr).unwrap();
    let head = format!("GET /livez HTTP/1.1\r\nX: {}", "x".repeat(MAX_HEAD_BYTES));
    large.write_all(head.as_bytes()).unwrap();
    large.set_read_timeout(Some(PROBE_TIMEOUT)).unwrap();
    let mut text = [0; 12];
    large.read_exact(&mut text).unwrap();
    assert_eq!(&text, b"HTTP/1.1 431");
}

#[test]
fn the_unspecified_address_answers_over_both_families() {
    let addr = start_on("[::]:0".parse().unwrap(), Site::Health(health(), metrics()));
    for client in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        assert!(get((client, addr.port()).into(), "GET /livez").starts_with("HTTP/1.1 200"), "{client}");
    }
}

#[test]
fn a_kernel_without_ipv6_answers_over_ipv4() {
    let error = |errno| io::Error::from_raw_os_error(errno);
    let (both, ipv4): (SocketAddr, SocketAddr) = ("[::]:1".parse().unwrap(), "0.0.0.0:1".parse().unwrap());
    let only_ipv4 = |addr: SocketAddr| if addr.is_ipv4() { Ok(addr) } else { Err(error(libc::EAFNOSUPPORT)) };
    assert_eq!(try_bind(both, only_ipv4).unwrap(), ipv4);
    assert!(try_bind("[::1]:1".parse().unwrap(), only_ipv4).is_err(), "an address that somebody asked for");
    let in_use = |_| Err::<SocketAddr, _>(error(libc::EADDRINUSE));
    assert_eq!(try_bind(both, in_use).unwrap_err().raw_os_error(), Some(libc::EADDRINUSE));
}

#[test]
fn a_node_whose_ipv6_is_switched_off_is_answered_over_ipv4() {
    testkit::in_new_netns(|| {
        testkit::run(&["sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6"]);
        let addr = start_on("[::]:0".parse().unwrap(), Site::Health(health(), metrics()));
        let text = get((Ipv4Addr::LOCALHOST, addr.port()).into(), "GET /livez");
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
    });
}
