//! UDP clients that keep their port: they must notice neither the end of a pod nor that they were there first.
//!
//! Nothing ends a UDP flow, so what the connection tracking has decided about a client's first packet holds for as long
//! as the client sends.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use e2e::manifest::{Endpoint, Port, Service};
use e2e::net::{Client, NODE, OUTSIDE, Pod, PodNetwork, cluster_ip};
use e2e::probe::{Answer, Proto, socket};
use testkit::{NetNs, wait_for, wait_until};

use crate::testbed::{POD_PORTS, SOON, Testbed};

/// Within this time a client has to have answers, from the moment at which the API has the endpoint.
const RECOVERY: Duration = Duration::from_secs(2);

/// How a client behaves.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// Datagrams sent at once.
    burst: usize,
    /// Pause after their answers.
    every: Duration,
    /// Bound on the wait for them.
    patience: Duration,
}

impl Pace {
    /// Sends whether or not there are answers.
    const STUBBORN: Pace =
        Pace { burst: 1, every: Duration::from_millis(50), patience: Duration::from_millis(100) };
    /// Sends one at a time, and has answers even in a busy guest.
    const STEADY: Pace =
        Pace { burst: 1, every: Duration::from_millis(50), patience: Duration::from_secs(1) };
    /// Only there to be left alone.
    const QUIET: Pace =
        Pace { burst: 1, every: Duration::from_millis(500), patience: Duration::from_secs(1) };
    /// As a resolver that asks for A and AAAA.
    const RESOLVER: Pace =
        Pace { burst: 2, every: Duration::from_millis(100), patience: Duration::from_secs(1) };
}

/// What a client has met.
#[derive(Debug, Clone, Default)]
struct Seen {
    asked: usize,
    answered: usize,
    /// Pods in the order in which they answered, each once for every time that it took over.
    pods: Vec<String>,
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

    fn lost(&self) -> usize {
        self.asked - self.answered
    }
}

/// A client with one connected socket, on a thread of its own until it is dropped.
struct Talker {
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
    fn start(client: &Client, port: u16, to: SocketAddr, pace: Pace) -> Talker {
        let from = SocketAddr::new(client.own.like(to.ip()), port);
        let open = || {
            let socket = socket::bound(Proto::Udp, from, pace.patience)?;
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

    fn seen(&self) -> Seen {
        self.seen.lock().expect("no thread panics with it").clone()
    }

    /// Wait until it has had `count` more answers.
    #[track_caller]
    fn let_pass(&self, count: usize) {
        let goal = self.seen().answered + count;
        wait_until(SOON, &format!("{count} more answers, {self}"), || self.seen().answered >= goal);
    }

    /// End it; all that was asked has been answered or given up.
    fn stop(&mut self) -> Seen {
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

/// One round: what comes late, or as an error of an earlier round, is passed over.
fn exchange(socket: &UdpSocket, pace: Pace, seen: &Mutex<Seen>) {
    let mut buffer = [0; 512];
    socket.set_nonblocking(true).expect("a socket can be told");
    while socket
        .recv(&mut buffer)
        .map_or_else(|error| error.kind() != std::io::ErrorKind::WouldBlock, |_| true)
    {}
    socket.set_nonblocking(false).expect("a socket can be told");
    for _ in 0..pace.burst {
        // Refused by the answer to an earlier one: a lost one like any other.
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

/// A tracked connection of UDP: client, destination, who answers, and the id that no later one of the same ends has.
type Entry = (SocketAddr, SocketAddr, SocketAddr, String);

fn entries(node: &NetNs) -> BTreeSet<Entry> {
    let listed = ["ipv4", "ipv6"].map(|family| node.sh(&format!("conntrack -L -p udp -f {family} -o id")));
    listed.iter().flat_map(|text| text.lines()).filter_map(parse_entry).collect()
}

/// `udp 17 29 src=.. dst=.. sport=.. dport=.. [UNREPLIED] src=.. dst=.. sport=.. dport=.. mark=0 use=1 id=..`
fn parse_entry(line: &str) -> Option<Entry> {
    let field = |name: &str, nth| line.split_whitespace().filter_map(|word| word.strip_prefix(name)).nth(nth);
    let end = |addr, port, nth| {
        Some(SocketAddr::new(field(addr, nth)?.parse().ok()?, field(port, nth)?.parse().ok()?))
    };
    let (client, to) = (end("src=", "sport=", 0)?, end("dst=", "dport=", 0)?);
    Some((client, to, end("src=", "sport=", 1)?, field("id=", 0)?.to_owned()))
}

/// UDP port 53 to the pods' 8080.
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

/// A client and a server that no Service stands between: how fast the guest is at the moment.
struct Control(Talker);

impl Control {
    /// From here on the guest itself is too slow to judge how long something took.
    const STARVED: Duration = Duration::from_millis(350);

    fn start(testbed: &Testbed) -> Control {
        let last = testbed.pods.last().expect("a pod that stays");
        let to = SocketAddr::new(last.address.v4.into(), POD_PORTS[0]);
        Control(Talker::start(&testbed.net.node_client(), 7001, to, Pace::STEADY))
    }

    fn is_starved(&self) -> bool {
        let starved = self.0.seen().gap > Control::STARVED || self.0.seen().lost() > 0;
        if starved {
            println!("the guest was too slow to judge how long it took: {}", self.0);
        }
        starved
    }
}

/// All of them have answers within the time, and go on having them.
#[track_caller]
fn assert_recovered(talkers: &[Talker], since: Instant, what: &str, control: &Control) {
    for talker in talkers {
        wait_until(SOON, &format!("answers for {talker}"), || talker.seen().first.is_some());
    }
    for talker in talkers {
        let first = talker.seen().first.expect("waited for") - since;
        println!("{what}: {} -> {}: first answer after {} ms", talker.place, talker.to, first.as_millis());
        assert!(first <= RECOVERY || control.is_starved(), "{what}: {talker}: after {first:?}");
        talker.let_pass(3);
    }
}

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
        let all = entries(&testbed.net.node);
        all.into_iter().filter(|(_, to, ..)| service.ips.contains(&to.ip())).collect::<Vec<_>>()
    };
    // Without these entries the test would prove nothing.
    wait_for(SOON, "every early client to be tracked", || {
        let tracked = of(&absent);
        let untranslated = tracked.iter().filter(|(_, to, server, _)| to == server).count();
        if untranslated == to_absent.len() { Ok(()) } else { Err(format!("{tracked:#?}")) }
    });
    println!("tracked before: {} to no Service, {} to no endpoint", of(&absent).len(), of(&empty).len());

    let since = Instant::now();
    testbed.manifests.serve(&absent, &testbed.ready(1..=1));
    assert_recovered(&to_absent, since, "no Service before", &control);
    let since = Instant::now();
    testbed.manifests.endpoints(&empty, &testbed.ready(1..=1));
    assert_recovered(&to_empty, since, "no endpoint before", &control);
    let left: Vec<_> = of(&absent).into_iter().filter(|(_, to, server, _)| to == server).collect();
    assert!(left.is_empty(), "{left:#?}");
}

/// As a process leaves it that dies between the first endpoint and the deletion.
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
    wait_until(SOON, "ten questions each", || stuck.iter().all(|talker| talker.seen().asked >= 10));
    for talker in &stuck {
        println!("before: {talker}");
        assert_eq!(talker.seen().answered, 0, "this kernel needs no help: {talker}");
    }
    testbed.proxy().kill();
    let since = Instant::now();
    testbed.proxy().start_again();
    for talker in &stuck {
        wait_until(SOON, &format!("answers for {talker}"), || talker.seen().answered > 3);
        println!("after: {talker}, {} ms after the start", since.elapsed().as_millis());
    }
    let node = &testbed.net.node;
    let translated = |(_, to, server, _): &Entry| to.port() != 53 || to != server;
    assert!(entries(node).iter().all(translated), "{:#?}", entries(node));
}

/// Who else has flows: they have to keep them.
struct Others {
    talkers: Vec<Talker>,
    /// Their entries at the start.
    before: BTreeSet<Entry>,
}

impl Others {
    /// Another Service's port on the same VIP; the number of the Service's port and of its target elsewhere; a pod of
    /// the Service by its own address. `client` and `server` are pods that stay.
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
        let before = Others::entries(testbed);
        assert_eq!(before.len(), talkers.len(), "{before:#?}");
        Others { talkers, before }
    }

    fn entries(testbed: &Testbed) -> BTreeSet<Entry> {
        let all = entries(&testbed.net.node).into_iter();
        all.filter(|(client, ..)| (6000..6100).contains(&client.port())).collect()
    }

    #[track_caller]
    fn assert_kept(&self, testbed: &Testbed) {
        assert_eq!(Others::entries(testbed), self.before, "flows of others were touched");
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

/// Whatever is on its way when a real server goes is lost with it, at most one round for every move; everything else
/// has an answer.
///
/// TODO-correctness: a resolver must not lose both answers of a pair. It does if both are on their way at that moment,
/// because IPVS forgets the connection at once; an emulated processor makes that moment a long one.
#[track_caller]
fn assert_moved(seen: &Seen, pace: Pace, control: &Control) {
    let moves = seen.pods.len() - 1;
    assert!(seen.lost() <= moves * pace.burst || control.is_starved(), "more lost than in flight: {seen:?}");
}

/// What both kinds of clients have met during a rollout, printed.
fn total(talkers: &mut [Talker], what: &str) -> Vec<Seen> {
    let seen: Vec<_> = talkers.iter_mut().map(Talker::stop).collect();
    for talker in &talkers {
        println!("{what}: {talker}");
    }
    let sum = |count: fn(&Seen) -> usize| seen.iter().map(count).sum::<usize>();
    let (asked, lost, moves) = (sum(|seen| seen.asked), sum(Seen::lost), sum(|seen| seen.pods.len() - 1));
    println!("{what}: {} clients, {asked} asked, {lost} lost, {moves} moves", seen.len());
    seen
}

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
        let stale = |(_, to, server, _): &Entry| vips.contains(to) && old.address.contains(server.ip());
        let stale: Vec<_> = entries(&testbed.net.node).into_iter().filter(stale).collect();
        assert!(stale.is_empty(), "{} is gone: {stale:#?}", old.name);
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
