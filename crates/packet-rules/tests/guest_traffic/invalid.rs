//! Packets that conntrack calls invalid: an endpoint's must end no connection of a Service, whoever the client is.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use lb_types::{IpFamily, Protocol, RuleSet};
use socket2::{Domain, Socket, Type};
use testkit::{NetNs, wait_until};

use crate::{
    ipvs::{Cluster, PORT, TARGET, VIP, elements},
    support::{
        by_cidr,
        net::{Client, NODE, SERVER},
        nft, nft_script,
        talk::{Connection, at, serve},
    },
};

/// Masqueraded ones, among them the endpoint itself, and one that keeps its address.
const CLIENTS: [Client; 4] = [Client::Outside, Client::Node, Client::Server, Client::PodA];
const SOON: Duration = Duration::from_secs(20);
/// More than any window.
const FAR_AWAY: u32 = 1 << 30;

/// A segment as its receiver saw it.
#[derive(Clone, Copy, Debug)]
struct Segment {
    from: SocketAddr,
    to: SocketAddr,
    /// The first byte behind it.
    end: u32,
    acknowledged: u32,
}

/// Hears the segments that come to a namespace.
struct Ear(UdpSocket);

impl Ear {
    fn open(ns: &NetNs, family: IpFamily) -> Ear {
        let domain = if family == IpFamily::V4 { Domain::IPV4 } else { Domain::IPV6 };
        let socket = ns.enter(|| Socket::new(domain, Type::RAW, Some(libc::IPPROTO_TCP.into())));
        let socket = socket.expect("a raw socket");
        socket.set_read_timeout(Some(SOON)).expect("a timeout");
        // Not UDP, but the standard library receives addresses with data.
        Ear(socket.into())
    }

    /// The next segment with data for a port.
    fn data_for(&self, to: SocketAddr) -> Segment {
        loop {
            let mut buffer = [0_u8; 2000];
            let (len, from) = self.0.recv_from(&mut buffer).expect("a segment");
            let ip_header = if to.is_ipv4() { usize::from(buffer[0] & 15) * 4 } else { 0 };
            let tcp = &buffer[ip_header..len];
            let word = |at: usize| u32::from_be_bytes(tcp[at..at + 4].try_into().expect("four bytes"));
            let port = |at: usize| u16::from_be_bytes([tcp[at], tcp[at + 1]]);
            let data = tcp.len() - usize::from(tcp[12] >> 4) * 4;
            if port(2) == to.port() && data > 0 {
                let from = SocketAddr::new(from.ip(), port(0));
                return Segment { from, to, end: word(4).wrapping_add(data as u32), acknowledged: word(8) };
            }
        }
    }

    /// Sends the other side an answer to a segment that lies far outside of the window.
    fn answer_from_far_away(&self, segment: Segment) {
        let mut tcp = vec![];
        tcp.extend(segment.to.port().to_be_bytes());
        tcp.extend(segment.from.port().to_be_bytes());
        tcp.extend(segment.acknowledged.wrapping_add(FAR_AWAY).to_be_bytes());
        tcp.extend(segment.end.to_be_bytes());
        // Five words, ACK, a window of 1,000.
        tcp.extend([5 << 4, 0x10, 1000_u16.to_be_bytes()[0], 1000_u16.to_be_bytes()[1], 0, 0, 0, 0]);
        tcp.push(b'x');
        let sum = checksum(segment.to.ip(), segment.from.ip(), &tcp);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        let to = SocketAddr::new(segment.from.ip(), 0);
        self.0.send_to(&tcp, to).expect("send a segment");
    }
}

fn checksum(from: IpAddr, to: IpAddr, tcp: &[u8]) -> u16 {
    let octets = |addr| match addr {
        IpAddr::V4(addr) => addr.octets().to_vec(),
        IpAddr::V6(addr) => addr.octets().to_vec(),
    };
    let mut bytes = [octets(from), octets(to)].concat();
    bytes.extend((tcp.len() as u32).to_be_bytes());
    bytes.extend([0, 0, 0, Protocol::Tcp.number()]);
    bytes.extend(tcp);
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    let sum = bytes.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let sum = (sum & 0xffff) + (sum >> 16);
    !((sum & 0xffff) + (sum >> 16)) as u16
}

/// Counts invalid segments where they come into the node or start from it, and behind all rules of the input hook.
fn count_invalid(ns: &NetNs) {
    let chain = |name, hook, priority| {
        format!(
            "chain {name} {{
                type filter hook {hook} priority {priority};
                meta l4proto tcp ct state invalid counter
            }}"
        )
    };
    let chains =
        [chain("comes", "prerouting", 200), chain("starts", "output", -150), chain("ends", "input", 200)];
    ns.enter(|| nft_script(&format!("table inet watch {{ {}\n}}", chains.join("\n"))));
}

fn invalid_seen(ns: &NetNs, chain: &str) -> u64 {
    let text = ns.enter(|| nft(&format!("list chain inet watch {chain}")));
    let (_, rest) = text.split_once("packets ").expect("a counter");
    rest.split(' ').next().and_then(|word| word.parse().ok()).expect("a number")
}

/// The endpoint's answer from far away reaches the node, and the connection lives.
#[track_caller]
fn survives(cluster: &Cluster, ear: &Ear, connection: &Connection, (endpoint, what): (SocketAddr, &str)) {
    connection.ask().expect(what);
    let segment = ear.data_for(endpoint);
    let seen = || ["comes", "starts"].map(|chain| invalid_seen(&cluster.net.node, chain)).iter().sum::<u64>();
    let before = seen();
    ear.answer_from_far_away(segment);
    wait_until(SOON, what, || seen() > before);
    // A reset would come before the next answer.
    connection.ask().unwrap_or_else(|failure| panic!("{what}: {failure:?}"));
    connection.ask().unwrap_or_else(|failure| panic!("{what}: {failure:?}"));
}

/// Conformance: e2e/conntrack proxy implementation should not be vulnerable...
#[test]
fn an_endpoints_packet_outside_of_the_window_resets_nobody() {
    let cluster = Cluster::create(&by_cidr());
    cluster.serve_vip(RuleSet::MasqueradeNonLocal);
    count_invalid(&cluster.net.node);
    for family in IpFamily::ALL {
        let endpoint = at(SERVER.of(family), TARGET);
        for client in CLIENTS {
            let what = format!("{family} from {client:?}");
            let to = at(VIP.of(family), PORT);
            let connection = Connection::open(cluster.net.of(client), Protocol::Tcp, to, None).expect(&what);
            let ear = Ear::open(&cluster.net.server, family);
            survives(&cluster, &ear, &connection, (endpoint, &what));
        }
    }
}

/// The endpoint is this node, and so is the client.
#[test]
fn neither_does_that_of_an_endpoint_on_the_node() {
    let cluster = Cluster::create(&by_cidr());
    cluster.add(&elements(RuleSet::Services));
    count_invalid(&cluster.net.node);
    let daemon = at(NODE.0, TARGET);
    serve(&cluster.net.node, Protocol::Tcp, &daemon.to_string());
    cluster.ipvsadm(&format!("-A -t {} -s rr", at(VIP.0, PORT)));
    cluster.ipvsadm(&format!("-a -t {} -r {daemon} -m", at(VIP.0, PORT)));
    let connection = Connection::open(&cluster.net.node, Protocol::Tcp, at(VIP.0, PORT), None);
    let connection = connection.expect("connect");
    let ear = Ear::open(&cluster.net.node, IpFamily::V4);
    survives(&cluster, &ear, &connection, (daemon, "from the node to itself"));
}

/// A connection that no Service takes part in: whatever comes for it is its socket's business.
#[test]
fn packets_of_direct_connections_are_the_sockets_business() {
    let cluster = Cluster::create(&by_cidr());
    cluster.serve_vip(RuleSet::MasqueradeNonLocal);
    count_invalid(&cluster.net.node);
    for family in IpFamily::ALL {
        let endpoint = at(SERVER.of(family), TARGET);
        // The rules know the endpoint.
        let through = Connection::open(&cluster.net.node, Protocol::Tcp, at(VIP.of(family), PORT), None);
        through.expect("connect").ask().expect("an answer");
        let connection = Connection::open(&cluster.net.node, Protocol::Tcp, endpoint, None).expect("connect");
        let ear = Ear::open(&cluster.net.server, family);
        let before = invalid_seen(&cluster.net.node, "ends");
        survives(&cluster, &ear, &connection, (endpoint, "directly"));
        assert!(invalid_seen(&cluster.net.node, "ends") > before, "{family}");
    }
}
