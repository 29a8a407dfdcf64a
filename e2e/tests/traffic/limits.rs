//! Limits of IPVS (docs/limits.md): each test states what happens today, so that a kernel or a change that
//! does better is noticed.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use e2e::{
    manifest::Service,
    net::{Client, PodNetwork, cluster_ip},
    probe::{
        Answer, Proto, Stage,
        once::{Outcome, Question, ask},
        socket,
    },
};

use crate::testbed::Testbed;

/// Time for an answer, whether it comes or not.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// A connection that stays open.
struct Held(BufReader<TcpStream>);

impl Held {
    #[track_caller]
    fn open(client: &Client, proto: Proto, from: SocketAddr, to: SocketAddr) -> Held {
        let stream = client.namespace.enter(|| {
            let socket = socket::bound(proto, from, ANSWER_TIMEOUT).expect("bind");
            socket::connect_stream(socket, to).expect("connect")
        });
        Held(BufReader::new(stream))
    }

    /// Sends a message; returns the answer to it.
    fn say(&mut self) -> Result<Answer, String> {
        let mut line = String::new();
        self.0.get_mut().write_all(b"talk\n").map_err(|error| error.to_string())?;
        match self.0.read_line(&mut line) {
            Ok(0) => Err("closed".to_owned()),
            Ok(_) => line.parse().map_err(|_| line.clone()),
            Err(error) => Err(error.to_string()),
        }
    }
}

fn ask_from(client: &Client, port: u16, to: SocketAddr) -> Outcome {
    let from = Some(SocketAddr::new(client.own.like(to.ip()), port));
    client.namespace.enter(|| ask(&Question { proto: Proto::Tcp, to, from, timeout: ANSWER_TIMEOUT }))
}

/// A node where pod 1 is the only endpoint of two Services, and pod 2 the client; with their addresses and
/// the endpoint's own.
fn two_services() -> (Testbed, Client, [SocketAddr; 2], SocketAddr) {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let services = [70, 71].map(|ip| Service::new(&format!("web-{ip}"), cluster_ip(ip), &[Proto::Tcp]));
    for service in &services {
        testbed.manifests.serve(service, &testbed.ready(1..=1));
    }
    testbed.start(&[]);
    for service in &services {
        testbed.wait_served(service, &testbed.ready(1..=1));
    }
    let (client, endpoint) = (testbed.pods[1].client(), testbed.pods[0].address.port(8080)[0]);
    (testbed, client, [70, 71].map(|ip| cluster_ip(ip).port(80)[0]), endpoint)
}

#[test]
fn a_cluster_ip_and_its_endpoint_from_one_source_port() {
    let (_world, client, [vip, _], endpoint) = two_services();
    ask_from(&client, 5555, vip).result.expect("the ClusterIP answers");
    let direct = ask_from(&client, 5555, endpoint);
    println!("the endpoint itself, from the port of a connection that is closed: {direct}");
    assert_eq!(
        direct.result.expect_err("taken for the connection through the ClusterIP").stage,
        Stage::Connect
    );
    ask_from(&client, 5556, endpoint).result.expect("from another port the endpoint answers");
}

/// Conformance: e2e/networking should function for multiple endpoint-Services with same selector
#[test]
fn two_cluster_ips_with_one_endpoint_from_one_source_port() {
    let (_world, client, [first, second], _) = two_services();
    let from = SocketAddr::new(client.own.like(first.ip()), 5558);
    let mut held = Held::open(&client, Proto::Tcp, from, first);
    held.say().expect("the first ClusterIP answers");
    ask_from(&client, 5558, second).result.expect("the second ClusterIP answers");
    let after = held.say();
    println!("the connection to the first: {after:?}");
    after.expect_err("its answers are taken for those of the second");
    // One after the other they cannot be confused.
    ask_from(&client, 5559, first).result.expect("the first ClusterIP answers");
    ask_from(&client, 5559, second).result.expect("the second ClusterIP answers");
}

/// Conformance: e2e/service should have session affinity timeout work for service with type clusterIP
#[test]
fn an_affinity_shorter_than_time_wait_lasts_as_long() {
    const AFFINITY: u32 = 1;
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let service = Service::new("sticky", cluster_ip(72), &[Proto::Tcp]).with_affinity(AFFINITY);
    testbed.manifests.serve(&service, &testbed.ready(1..=2));
    testbed.start(&[]);
    testbed.wait_served(&service, &testbed.ready(1..=2));
    let (client, vip) = (testbed.net.outside_client(), cluster_ip(72).port(80)[0]);
    let ask = || client.ask(Proto::Tcp, vip).result.expect("the ClusterIP answers").pod;
    let first = ask();
    for _ in 0..4 {
        // This is several times as long as the affinity: without it, round robin chooses the other pod every
        // other time.
        thread::sleep(Duration::from_secs(3 * u64::from(AFFINITY)));
        assert_eq!(ask(), first, "connections in TIME_WAIT keep the affinity alive");
    }
}

#[test]
fn a_multi_homed_sctp_client_has_one_path() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 1);
    testbed.net.outside.run(&["ip", "address", "add", "192.168.50.3/24", "dev", "eth0"]);
    let service = Service::new("signalling", cluster_ip(73), &[Proto::Sctp]);
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    testbed.start(&[]);
    testbed.wait_served(&service, &testbed.ready(1..=1));
    let (client, vip) = (testbed.net.outside_client(), cluster_ip(73).port(80)[0]);
    // The client is not bound, so that it announces both addresses.
    let mut held = Held::open(&client, Proto::Sctp, socket::any(vip), vip);
    for _ in 0..5 {
        // The server's first heartbeats to the second address fall into this time; they must not end the
        // association.
        thread::sleep(Duration::from_secs(1));
        held.say().expect("the first path serves");
    }
    let deaf = "add table inet deaf; add chain inet deaf input { type filter hook input priority 0; }; \
        add rule inet deaf input ip daddr 192.168.50.2 meta l4proto sctp drop";
    testbed.net.outside.run(&["nft", deaf]);
    let after = held.say();
    println!("with a deaf first path: {after:?}");
    after.expect_err("nothing of the association goes through the second path");
}
