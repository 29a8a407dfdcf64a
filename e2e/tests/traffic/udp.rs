//! UDP clients that keep their port: they must notice neither the end of a pod nor that they were there
//! first.
//!
//! A UDP flow never ends, so the decision of connection tracking about a client's first packet holds for as
//! long as the client sends.

use std::{
    collections::BTreeSet,
    fmt,
    net::{SocketAddr, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use e2e::{
    manifest::{Endpoint, Port, Service},
    net::{Client, NODE, OUTSIDE, Pod, PodNetwork, cluster_ip},
    probe::{Answer, Proto, socket},
};
use testkit::{NetNs, wait_for, wait_until};

use crate::testbed::{POD_PORTS, Testbed, WAIT_LIMIT};

/// Time within which a client has to have answers, from the moment at which the API has the endpoint.
const RECOVERY: Duration = Duration::from_secs(2);

/// Behaviour of a client.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// Number of datagrams sent at once.
    burst: usize,
    /// Pause after their answers.
    every: Duration,
    /// Bound on the wait for them.
    timeout: Duration,
}

impl Pace {
    /// A client that sends whether or not there are answers.
    pub const STUBBORN: Pace =
        Pace { burst: 1, every: Duration::from_millis(50), timeout: Duration::from_millis(100) };
    /// A client that sends one at a time, and has answers even in a busy guest.
    pub const STEADY: Pace =
        Pace { burst: 1, every: Duration::from_millis(50), timeout: Duration::from_secs(1) };
    /// A client that is only there to be left alone.
    const QUIET: Pace = Pace { burst: 1, every: Duration::from_millis(500), timeout: Duration::from_secs(1) };
    /// A client like a resolver that asks for A and AAAA.
    const RESOLVER: Pace =
        Pace { burst: 2, every: Duration::from_millis(100), timeout: Duration::from_secs(1) };
}

/// Experience of a client.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    pub asked: usize,
    answered: usize,
    /// Pods in the order in which they answered, each once for every time that it took over.
    pub pods: Vec<String>,
    first: Option<Instant>,
    last: Option<Instant>,
    /// Longest time between two answers.
    gap: Duration,
}

impl Seen {
    fn answer(&mut self, pod: String) {
        let now = Instant::now();
        self.answered += 1;
        self.gap = self.gap.max(self.last.map_or(Duration::ZERO, |last| now - last));
        self.first.get_or_insert(now);
        self.last = Some(now);
        if self.pods.last() != Some(&pod) {
            self.pods.push(pod);
        }
    }

    pub fn lost(&self) -> usize {
        self.asked - self.answered
    }
}

/// A client with one connected socket, on a thread of its own until it is dropped.
pub struct Talker {
    place: String,
    to: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Display for Talker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = self.seen();
        let (place, to, gap) = (&self.place, self.to, seen.gap.as_millis());
        write!(f, "{place} -> {to}: {} lost of {}, ", seen.lost(), seen.asked)?;
        write!(f, "longest gap {gap} ms, {:?}", seen.pods)
    }
}

impl Talker {
    pub fn start(client: &Client, port: u16, to: SocketAddr, pace: Pace) -> Talker {
        let from = SocketAddr::new(client.own.like(to.ip()), port);
        let open = || {
            let socket = socket::bound(Proto::Udp, from, pace.timeout)?;
            socket::connect_datagram(socket, to)
        };
        let socket = client.namespace.enter(open).unwrap_or_else(|error| panic!("{from} -> {to}: {error}"));
        let (seen, stop) = <(Arc<Mutex<Seen>>, Arc<AtomicBool>)>::default();
        let place = client.place.clone();
        let thread = {
            let (seen, stop) = (Arc::clone(&seen), Arc::clone(&stop));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    exchange(&socket, pace, &seen);
                    thread::sleep(pace.every);
                }
            })
        };
        Talker { place, to, seen, stop, thread: Some(thread) }
    }

    pub fn seen(&self) -> Seen {
        self.seen.lock().expect("no thread panics with it").clone()
    }

    /// Waits until it has had `count` more answers.
    #[track_caller]
    pub fn let_pass(&self, count: usize) {
        let goal = self.seen().answered + count;
        wait_until(WAIT_LIMIT, &format!("{count} more answers, {self}"), || self.seen().answered >= goal);
    }

    /// Ends it; everything that it asked has been answered or given up.
    pub fn stop(&mut self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(Err(panic)) = self.thread.take().map(JoinHandle::join) {
            std::panic::resume_unwind(panic);
        }
        self.seen()
    }
}

impl Drop for Talker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Runs one round; passes over what comes late, or as an error of an earlier round.
fn exchange(socket: &UdpSocket, pace: Pace, seen: &Mutex<Seen>) {
    let mut buffer = [0; 512];
    socket.set_nonblocking(true).expect("a socket can be told");
    while socket
        .recv(&mut buffer)
        .map_or_else(|error| error.kind() != std::io::ErrorKind::WouldBlock, |_| true)
    {}
    socket.set_nonblocking(false).expect("a socket can be told");
    for _ in 0..pace.burst {
        // An answer to an earlier one may refuse it: then it is lost like any other.
        let _refused = socket.send(b"who?");
    }
    for _ in 0..pace.burst {
        let answer = socket.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]));
        let answer = answer.and_then(|text| text.parse::<Answer>().ok());
        let mut seen = seen.lock().expect("no thread panics with it");
        seen.asked += 1;
        if let Some(answer) = answer {
            seen.answer(answer.pod);
        }
    }
}

/// A tracked connection of UDP.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct TrackedConnection {
    pub client: SocketAddr,
    to: SocketAddr,
    /// Sender of the answers.
    pub server: SocketAddr,
    /// Number that no later one of the same ends has.
    id: String,
}

impl TrackedConnection {
    fn is_untranslated(&self) -> bool {
        self.to == self.server
    }
}

/// Tracked connections of UDP on a node.
pub fn dump_tracked(node: &NetNs) -> BTreeSet<TrackedConnection> {
    let listed = ["ipv4", "ipv6"].map(|family| node.sh(&format!("conntrack -L -p udp -f {family} -o id")));
    listed.iter().flat_map(|text| text.lines()).filter_map(parse_tracked).collect()
}

/// Parses a line of conntrack(8):
/// `udp 17 29 src=.. dst=.. sport=.. dport=.. [UNREPLIED] src=.. dst=.. sport=.. dport=.. mark=0 use=1 id=..`
fn parse_tracked(line: &str) -> Option<TrackedConnection> {
    let field = |name: &str, nth| line.split_whitespace().filter_map(|word| word.strip_prefix(name)).nth(nth);
    let end = |addr, port, nth| {
        Some(SocketAddr::new(field(addr, nth)?.parse().ok()?, field(port, nth)?.parse().ok()?))
    };
    Some(TrackedConnection {
        client: end("src=", "sport=", 0)?,
        to: end("dst=", "dport=", 0)?,
        server: end("src=", "sport=", 1)?,
        id: field("id=", 0)?.to_owned(),
    })
}

/// A port of a Service: UDP port 53 to the pods' 8080.
fn dns_port() -> Port {
    Port { name: "dns".to_owned(), port: 53, ..Port::web(Proto::Udp) }
}

fn service(name: &str, number: u8) -> Service {
    Service::new(name, cluster_ip(number), &[Proto::Udp]).with_ports(&[dns_port()])
}

/// Clients outside, in a pod and on the node, each with a port of its own, to both families.
fn talkers(testbed: &Testbed, service: &Service, port: u16, pace: Pace) -> Vec<Talker> {
    let [node, pod, _, outside] = testbed.clients();
    let clients = [outside, pod, node];
    let to = service.ips.iter().map(|ip| SocketAddr::new(*ip, 53)).collect::<Vec<_>>();
    clients.iter().flat_map(|client| to.iter().map(|to| Talker::start(client, port, *to, pace))).collect()
}

/// A client and a server with no Service between them: they show how fast the guest is at the moment.
struct Control(Talker);

impl Control {
    /// Longest time between two answers from which on the guest itself is too slow to judge how long
    /// something took.
    const SLOW_GUEST: Duration = Duration::from_millis(350);

    fn start(testbed: &Testbed) -> Control {
        let last = testbed.pods.last().expect("a pod that stays");
        let to = SocketAddr::new(last.address.v4.into(), POD_PORTS[0]);
        Control(Talker::start(&testbed.net.node_client(), 7001, to, Pace::STEADY))
    }

    fn is_slow(&self) -> bool {
        let slow = self.0.seen().gap > Control::SLOW_GUEST || self.0.seen().lost() > 0;
        if slow {
            println!("the guest was too slow to judge how long it took: {}", self.0);
        }
        slow
    }
}

/// Checks that all of them have answers within the time, and go on having them.
#[track_caller]
fn assert_recovered(talkers: &[Talker], since: Instant, what: &str, control: &Control) {
    for talker in talkers {
        wait_until(WAIT_LIMIT, &format!("answers for {talker}"), || talker.seen().first.is_some());
    }
    for talker in talkers {
        let first = talker.seen().first.expect("waited for") - since;
        println!("{what}: {} -> {}: first answer after {} ms", talker.place, talker.to, first.as_millis());
        assert!(first <= RECOVERY || control.is_slow(), "{what}: {talker}: after {first:?}");
        talker.let_pass(3);
    }
}

/// Conformance: e2e/conntrack should be able to preserve UDP traffic when initial unready endpoints get ready
#[test]
fn clients_that_send_before_there_is_an_endpoint_have_answers_within_2_s() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let (absent, empty) = (service("absent", 81), service("empty", 82));
    testbed.manifests.serve(&empty, &[]);
    testbed.start(&[]);
    testbed.wait_served(&empty, &[]);
    let control = Control::start(&testbed);
    let (to_absent, to_empty) =
        (talkers(&testbed, &absent, 5001, Pace::STUBBORN), talkers(&testbed, &empty, 5002, Pace::STUBBORN));
    let of = |service: &Service| {
        let all = dump_tracked(&testbed.net.node);
        all.into_iter().filter(|tracked| service.ips.contains(&tracked.to.ip())).collect::<Vec<_>>()
    };
    // Without these tracked connections the test would prove nothing.
    wait_for(WAIT_LIMIT, "every early client to be tracked", || {
        let tracked = of(&absent);
        let untranslated = tracked.iter().filter(|one| one.is_untranslated()).count();
        if untranslated == to_absent.len() { Ok(()) } else { Err(format!("{tracked:#?}")) }
    });
    println!("tracked before: {} to no Service, {} to no endpoint", of(&absent).len(), of(&empty).len());

    let since = Instant::now();
    testbed.manifests.serve(&absent, &testbed.ready(1..=1));
    assert_recovered(&to_absent, since, "no Service before", &control);
    let since = Instant::now();
    testbed.manifests.endpoints(&empty, &testbed.ready(1..=1));
    assert_recovered(&to_empty, since, "no endpoint before", &control);
    let left: Vec<_> = of(&absent).into_iter().filter(TrackedConnection::is_untranslated).collect();
    assert!(left.is_empty(), "{left:#?}");
}

/// A process that dies between the first endpoint and the deletion leaves such clients.
#[test]
fn a_start_frees_clients_that_nobody_translates() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let service = service("dns", 10);
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    testbed.start(&[]);
    testbed.wait_served(&service, &testbed.ready(1..=1));
    let remote = testbed.net.outside_client();
    for (from, to) in OUTSIDE.port(5001).into_iter().zip(cluster_ip(10).port(53)) {
        let ends = format!("-s {} -d {} --sport 5001 --dport 53", from.ip(), to.ip());
        testbed.net.node.sh(&format!("conntrack -I -p udp {ends} --timeout 120"));
    }
    let stuck = cluster_ip(10).port(53).map(|to| Talker::start(&remote, 5001, to, Pace::STUBBORN));
    wait_until(WAIT_LIMIT, "ten questions each", || stuck.iter().all(|talker| talker.seen().asked >= 10));
    for talker in &stuck {
        println!("before: {talker}");
        assert_eq!(talker.seen().answered, 0, "this kernel needs no help: {talker}");
    }
    testbed.proxy().kill();
    let since = Instant::now();
    testbed.proxy().start_again();
    for talker in &stuck {
        wait_until(WAIT_LIMIT, &format!("answers for {talker}"), || talker.seen().answered > 3);
        println!("after: {talker}, {} ms after the start", since.elapsed().as_millis());
    }
    let node = &testbed.net.node;
    let translated = |tracked: &TrackedConnection| tracked.to.port() != 53 || !tracked.is_untranslated();
    assert!(dump_tracked(node).iter().all(translated), "{:#?}", dump_tracked(node));
}

/// Others, who have to keep their tracked connections.
struct Others {
    talkers: Vec<Talker>,
    /// Their tracked connections at the start.
    before: BTreeSet<TrackedConnection>,
}

impl Others {
    /// Starts them: another Service's port on the same VIP; the number of the Service's port and of its
    /// target elsewhere; a pod of the Service by its own address. `client` and `server` are pods that stay.
    fn start(testbed: &Testbed, client: &Pod, server: &Service, direct: &Pod) -> Others {
        let numbers = [(NODE, 53), (NODE, POD_PORTS[0]), (direct.address, POD_PORTS[0])];
        let other = server.ips.iter().map(|ip| SocketAddr::new(*ip, server.ports[0].port));
        let to = other.chain(numbers.into_iter().flat_map(|(both, port)| both.port(port)));
        let client = client.client();
        let talkers: Vec<_> =
            (0..).zip(to).map(|(nth, to)| Talker::start(&client, 6000 + nth, to, Pace::QUIET)).collect();
        for talker in &talkers {
            talker.let_pass(2);
        }
        let before = Others::tracked(testbed);
        assert_eq!(before.len(), talkers.len(), "{before:#?}");
        Others { talkers, before }
    }

    fn tracked(testbed: &Testbed) -> BTreeSet<TrackedConnection> {
        let all = dump_tracked(&testbed.net.node).into_iter();
        all.filter(|tracked| (6000..6100).contains(&tracked.client.port())).collect()
    }

    #[track_caller]
    fn assert_kept(&self, testbed: &Testbed) {
        assert_eq!(Others::tracked(testbed), self.before, "tracked connections of others were touched");
    }
}

/// Replaces pods one by one, as a Deployment does; the old one lives for half a second after it has left.
fn roll(testbed: &mut Testbed, service: &Service, kept: usize, mut after_each: impl FnMut(&Testbed, &Pod)) {
    for number in 1..=testbed.pods.len() - kept {
        let number = u8::try_from(number).expect("few pods");
        let new = testbed.net.pod(&format!("new-{number}"), 20 + number, &POD_PORTS);
        let mut old = testbed.pods.remove(0);
        testbed.pods.insert(testbed.pods.len() - kept, new);
        let ready = testbed.ready(1..=testbed.pods.len() - kept);
        let mut endpoints = ready.clone();
        endpoints.push(Endpoint::terminating(&old));
        testbed.manifests.endpoints(service, &endpoints);
        testbed.wait_served(service, &ready);
        thread::sleep(Duration::from_millis(500));
        after_each(testbed, &old);
        old.kill();
        old.disconnect();
        testbed.manifests.endpoints(service, &ready);
    }
}

/// Checks that only datagrams on their way when a real server goes are lost with it, at most one round for
/// every move, and that everything else has an answer.
///
/// TODO-correctness: a resolver must not lose both answers of a pair. It does if both are on their way at
/// that moment, because IPVS forgets the connection at once; an emulated processor makes that moment a long
/// one.
#[track_caller]
fn assert_moved(seen: &Seen, pace: Pace, control: &Control) {
    let moves = seen.pods.len() - 1;
    assert!(seen.lost() <= moves * pace.burst || control.is_slow(), "more lost than in flight: {seen:?}");
}

/// Ends a rollout's clients, prints what each has met, and returns it.
fn total(talkers: &mut [Talker], what: &str) -> Vec<Seen> {
    let seen: Vec<_> = talkers.iter_mut().map(Talker::stop).collect();
    for talker in talkers.iter() {
        println!("{what}: {talker}");
    }
    let sum = |count: fn(&Seen) -> usize| seen.iter().map(count).sum::<usize>();
    let (asked, lost, moves) = (sum(|seen| seen.asked), sum(Seen::lost), sum(|seen| seen.pods.len() - 1));
    println!("{what}: {} clients, {asked} asked, {lost} lost, {moves} moves", seen.len());
    seen
}

/// Conformance: e2e/conntrack should be able to preserve UDP traffic...for a ClusterIP service
/// Conformance: e2e/conntrack should be able to preserve UDP traffic...client is hostNetwork
#[test]
fn a_rolling_update_costs_clients_what_is_in_flight_and_others_nothing() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 3);
    let service = service("dns", 10);
    let other = Port { name: "other".to_owned(), port: 54, target: POD_PORTS[1], proto: Proto::Udp };
    let neighbour = Service::new("neighbour", cluster_ip(10), &[Proto::Udp]).with_ports(&[other]);
    testbed.manifests.serve(&service, &testbed.ready(1..=2));
    testbed.manifests.serve(&neighbour, &testbed.ready(3..=3));
    testbed.start(&[]);
    testbed.wait_served(&service, &testbed.ready(1..=2));
    testbed.wait_served(&neighbour, &testbed.ready(3..=3));
    let _daemons = [53, POD_PORTS[0]].map(|port| testbed.net.node_daemon("daemon", port));
    let control = Control::start(&testbed);
    let others = Others::start(&testbed, &testbed.pods[2], &neighbour, &testbed.pods[0]);
    let clients = [testbed.net.outside_client(), testbed.pods[2].client(), testbed.net.node_client()];
    let start =
        |client: &Client, port, pace| cluster_ip(10).port(53).map(|to| Talker::start(client, port, to, pace));
    let mut load: Vec<_> = clients.iter().flat_map(|client| start(client, 5001, Pace::STEADY)).collect();
    let mut resolvers = start(&clients[1], 5002, Pace::RESOLVER);
    for talker in load.iter().chain(&resolvers) {
        talker.let_pass(2);
    }

    let vips: BTreeSet<SocketAddr> = cluster_ip(10).port(53).into();
    roll(&mut testbed, &service, 1, |testbed, old| {
        others.assert_kept(testbed);
        let leads_to_old = |tracked: &TrackedConnection| {
            vips.contains(&tracked.to) && old.address.contains(tracked.server.ip())
        };
        let left: Vec<_> = dump_tracked(&testbed.net.node).into_iter().filter(leads_to_old).collect();
        assert!(left.is_empty(), "{} is gone: {left:#?}", old.name);
    });
    for talker in load.iter().chain(&resolvers) {
        talker.let_pass(3);
    }
    for seen in total(&mut load, "load") {
        assert_moved(&seen, Pace::STEADY, &control);
        assert!(seen.pods.last().is_some_and(|pod| pod.starts_with("new-")), "{seen:?}");
    }
    for seen in total(&mut resolvers, "resolver") {
        assert_moved(&seen, Pace::RESOLVER, &control);
    }
    println!("{} flows of others kept", others.talkers.len());
}
