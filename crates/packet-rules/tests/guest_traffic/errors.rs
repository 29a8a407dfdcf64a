//! ICMP errors about connections of a Service: which of them reach the client, and which IPVS counts.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use lb_types::{IpFamily, Protocol, RuleSet, RulesLayout};
use socket2::{Domain, Socket, Type};
use testkit::{NetNs, wait_until};

use crate::{
    ipvs::{Cluster, PORT, TARGET, VIP, reinstall, virtual_server},
    support::{
        by_cidr,
        net::{Client, SERVER},
        talk::{Connection, at},
    },
};

/// Through the forward hook, and through the input hook.
const CLIENTS: [Client; 3] = [Client::Outside, Client::PodA, Client::Node];
const SOON: Duration = Duration::from_secs(20);
/// The error may come before the client's kernel is done with sending; then the one about the next SYN tells, 1 s later.
const AT_ONCE: Duration = Duration::from_secs(3);

/// Type and code of an ICMP error.
type Kind = (u8, u8);

/// Those on which no connection is ended.
const fn soft(family: IpFamily) -> [Kind; 5] {
    match family {
        // Net, host, port, "administratively prohibited"; time exceeded.
        IpFamily::V4 => [(3, 0), (3, 1), (3, 3), (3, 13), (11, 0)],
        // No route, "administratively prohibited", address, port; time exceeded.
        IpFamily::V6 => [(1, 0), (1, 1), (1, 3), (1, 4), (3, 0)],
    }
}

/// The others that IPVS passes on; the last one is "too big".
const fn hard(family: IpFamily) -> &'static [Kind] {
    match family {
        IpFamily::V4 => &[(3, 2), (3, 4)],
        IpFamily::V6 => &[(2, 0)],
    }
}

/// A cluster where nobody is masqueraded, so that the server sees the addresses and ports of clients.
fn cluster() -> Cluster {
    let cluster = Cluster::create(&RulesLayout::default());
    cluster.serve_vip(RuleSet::MasqueradeNonLocal);
    for client in CLIENTS {
        count_errors(cluster.net.of(client));
    }
    cluster
}

/// Counts errors where they end: behind all that could drop them.
fn count_errors(ns: &NetNs) {
    ns.run(&[
        "nft",
        "add table inet watch; add chain inet watch input { type filter hook input priority 200; }",
    ]);
    count(ns);
}

/// A rule with a counter for each kind.
fn count(ns: &NetNs) {
    let mut rules = vec![];
    for family in IpFamily::ALL {
        for (kind, code) in soft(family).iter().chain(hard(family)) {
            let protocol = if family == IpFamily::V4 { "icmp" } else { "ipv6-icmp" };
            let word = u16::from_be_bytes([*kind, *code]);
            rules.push(format!(
                "add rule inet watch input meta l4proto {protocol} @th,0,16 {word} counter comment \"{family} {kind} {code}\""
            ));
        }
    }
    ns.run(&["nft", &rules.join("; ")]);
}

/// How many errors of a family have come so far.
fn errors(ns: &NetNs, family: IpFamily) -> BTreeMap<Kind, u64> {
    let text = ns.sh("nft list chain inet watch input");
    let mut counts = BTreeMap::new();
    for line in text.lines() {
        let Some((_, name)) = line.split_once(&format!("comment \"{family} ")) else { continue };
        let mut numbers = name.trim_end_matches('"').split(' ').map(|word| word.parse().expect("a number"));
        let mut next = || numbers.next().expect("type and code");
        let kind = (next(), next());
        let (_, rest) = line.split_once("packets ").expect("a counter");
        let count = rest.split(' ').next().and_then(|word| word.parse().ok()).expect("a number");
        counts.insert(kind, count);
    }
    counts
}

/// The errors that the client has got of all that there are, sent once each about a packet of its to the server.
fn passed(cluster: &Cluster, client: Client, protocol: Protocol, from: SocketAddr) -> Vec<Kind> {
    let to = at(SERVER.of(IpFamily::of(from.ip())), TARGET);
    arrived(&cluster.net.server, cluster.net.of(client), Packet { protocol, from, to })
}

/// The errors that arrive of all that there are, sent once each.
fn arrived(sender: &NetNs, ns: &NetNs, about: Packet) -> Vec<Kind> {
    let family = IpFamily::of(about.from.ip());
    let kinds: Vec<_> = soft(family).into_iter().chain(hard(family).iter().copied()).collect();
    let before = errors(ns, family);
    sender.enter(|| {
        for kind in &kinds {
            about.send_error(*kind).unwrap_or_else(|error| panic!("{about:?} {kind:?}: {error}"));
        }
    });
    let grown = || {
        let after = errors(ns, family);
        kinds.iter().copied().filter(|kind| after[kind] > before[kind]).collect::<Vec<_>>()
    };
    // One packet after the other takes the same way, and "too big" passes always.
    let last = kinds.last().expect("there are some");
    wait_until(SOON, &format!("an error about {about:?}"), || grown().contains(last));
    grown()
}

/// The packet that an error is about.
#[derive(Clone, Copy, Debug)]
struct Packet {
    protocol: Protocol,
    from: SocketAddr,
    to: SocketAddr,
}

impl Packet {
    /// Sends an error about it to its sender.
    fn send_error(self, (kind, code): Kind) -> io::Result<()> {
        let number = if self.from.is_ipv4() { libc::IPPROTO_ICMP } else { libc::IPPROTO_ICMPV6 };
        let socket = Socket::new(Domain::for_address(self.from), Type::RAW, Some(number.into()))?;
        let mut bytes = vec![kind, code, 0, 0, 0, 0, 5, 0];
        bytes.extend(self.encode());
        // The kernel fills it in for IPv6.
        if self.from.is_ipv4() {
            let sum = checksum(&bytes);
            bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        socket.send_to(&bytes, &SocketAddr::new(self.from.ip(), 0).into()).map(drop)
    }

    /// Its first bytes.
    fn encode(self) -> Vec<u8> {
        let number = self.protocol.number();
        let mut bytes = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let mut bytes = vec![0x45, 0, 0, 60, 0, 0, 0x40, 0, 63, number, 0, 0];
                bytes.extend([from.octets(), to.octets()].concat());
                let sum = checksum(&bytes);
                bytes[10..12].copy_from_slice(&sum.to_be_bytes());
                bytes
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let mut bytes = vec![0x60, 0, 0, 0, 0, 40, number, 63];
                bytes.extend([from.octets(), to.octets()].concat());
                bytes
            }
            _ => panic!("a packet has one family"),
        };
        for port in [self.from.port(), self.to.port()] {
            bytes.extend(port.to_be_bytes());
        }
        bytes.extend([0; 36]);
        bytes
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
    let sum: u32 = words.sum();
    let sum = (sum & 0xffff) + (sum >> 16);
    !(((sum & 0xffff) + (sum >> 16)) as u16)
}

fn connect(cluster: &Cluster, client: Client, protocol: Protocol, to: SocketAddr) -> Connection {
    let what = format!("{protocol} from {client:?} to {to}");
    let connection = Connection::open(cluster.net.of(client), protocol, to, None).expect(&what);
    connection.ask().expect(&what);
    connection
}

#[test]
fn established_connections_are_spared_soft_errors_only() {
    let cluster = cluster();
    for family in IpFamily::ALL {
        for client in CLIENTS {
            for protocol in [Protocol::Tcp, Protocol::Sctp] {
                let connection = connect(&cluster, client, protocol, at(VIP.of(family), PORT));
                let seen = passed(&cluster, client, protocol, connection.local());
                assert_eq!(seen, hard(family), "{family} {protocol} from {client:?}");
            }
        }
    }
}

/// Datagrams have nothing but errors, and connections that lead past the Services are none of ours.
#[test]
fn errors_about_datagrams_and_other_connections_pass() {
    let cluster = cluster();
    for family in IpFamily::ALL {
        for client in CLIENTS {
            let cases =
                [(Protocol::Udp, at(VIP.of(family), PORT)), (Protocol::Tcp, at(SERVER.of(family), TARGET))];
            for (protocol, to) in cases {
                let connection = connect(&cluster, client, protocol, to);
                let seen = passed(&cluster, client, protocol, connection.local());
                assert_eq!(
                    seen,
                    [&soft(family), hard(family)].concat(),
                    "{family} {protocol} from {client:?}"
                );
            }
        }
    }
}

/// A router behind the client cannot reach it.
#[test]
fn errors_about_clients_pass_to_the_real_server() {
    let cluster = cluster();
    count_errors(&cluster.net.server);
    for family in IpFamily::ALL {
        for client in [Client::Outside, Client::PodA] {
            let (protocol, from) = (Protocol::Tcp, at(VIP.of(family), PORT));
            let connection = connect(&cluster, client, protocol, from);
            let about = Packet { protocol, from, to: connection.local() };
            let seen = arrived(cluster.net.of(client), &cluster.net.server, about);
            assert_eq!(seen, [&soft(family), hard(family)].concat(), "{family} {client:?}");
        }
    }
}

/// Fate of all that arrives at the server.
fn server_answers(cluster: &Cluster, verdict: &str) {
    let lines = format!(
        "add table inet dead; add chain inet dead input {{ type filter hook input priority 0; }}; \
         add rule inet dead input meta l4proto != ipv6-icmp {verdict}"
    );
    cluster.net.server.run(&["nft", &lines]);
}

const UNREACHABLE: &str = "reject with icmpx type host-unreachable";

#[test]
fn connecting_to_an_unreachable_real_server_fails_at_once() {
    let cluster = cluster();
    server_answers(&cluster, UNREACHABLE);
    for family in IpFamily::ALL {
        for client in CLIENTS {
            let to = at(VIP.of(family), PORT);
            let failure = Connection::open(cluster.net.of(client), Protocol::Tcp, to, None)
                .err()
                .unwrap_or_else(|| panic!("{family} from {client:?}: connected to nobody"));
            assert_eq!(failure.errno(), libc::EHOSTUNREACH, "{family} from {client:?}: {failure:?}");
            assert!(failure.after < AT_ONCE, "{family} from {client:?}: {failure:?}");
        }
    }
}

/// Somewhere behind the node somebody says that nobody has the address.
#[test]
fn ipvs_does_not_take_a_router_for_the_real_server() {
    assert_not_counted("prerouting", |cluster| server_answers(cluster, UNREACHABLE));
}

/// The node itself finds nobody who has the address.
#[test]
fn ipvs_does_not_take_the_node_for_the_real_server() {
    assert_not_counted("output", |cluster| {
        server_answers(cluster, "drop");
        for lines in [
            "add table arp dead; add chain arp dead input { type filter hook input priority 0; policy drop; }",
            "insert rule inet dead input drop",
        ] {
            cluster.net.server.run(&["nft", lines]);
        }
        forget_neighbors(cluster);
    });
}

/// The node asks anew who has the server's addresses: for a while it believes that nobody has them, if that was so.
fn forget_neighbors(cluster: &Cluster) {
    for family in ["-4", "-6"] {
        cluster.net.node.sh(&format!("ip {family} neighbor flush dev srv"));
    }
}

/// Errors enter at this hook of the node when the server has gone in this way.
fn assert_not_counted(hook: &str, go: impl Fn(&Cluster)) {
    for family in IpFamily::ALL {
        let cluster = Cluster::create(&by_cidr());
        cluster.serve_vip(RuleSet::MasqueradeNonLocal);
        cluster.net.node.run(&["nft", &format!("add table inet watch; add chain inet watch input {{ type filter hook {hook} priority -300; }}")]);
        count(&cluster.net.node);
        for ruled in [false, true] {
            if !ruled {
                drop(cluster.net.node.sh("nft flush chain inet kube-ipvs soft-errors"))
            } else {
                reinstall(&cluster, &by_cidr())
            }
            let connections =
                CLIENTS.map(|client| connect(&cluster, client, Protocol::Tcp, at(VIP.of(family), PORT)));
            go(&cluster);
            for connection in &connections {
                connection.tell();
            }
            assert_eq!(clients_are_answered(&cluster, family), !ruled, "{family}, with the rule: {ruled}");
            for line in ["delete table inet dead", "delete table arp dead"] {
                let _ = cluster.net.server.try_run(&["nft", line]);
            }
            forget_neighbors(&cluster);
            let heard: Vec<_> = connections.iter().filter_map(Connection::error).collect();
            assert!(!ruled || heard.is_empty(), "{family}: clients have heard of it: {heard:?}");
        }
    }
}

/// Tells whether IPVS counts packets to clients while there are errors only.
///
/// The kernel sums its counters up every 2 s, and clients repeat themselves: whatever was counted before a look is in the
/// counters once these have grown after it.
fn clients_are_answered(cluster: &Cluster, family: IpFamily) -> bool {
    let total = || errors(&cluster.net.node, family).values().sum::<u64>();
    let later = |seen: (u64, u64)| {
        wait_until(SOON, "clients to repeat themselves", || packets(cluster, family).0 > seen.0);
        packets(cluster, family)
    };
    let before = later(packets(cluster, family));
    let already = total();
    wait_until(SOON, "errors", || total() > already);
    let after = later(packets(cluster, family));
    println!("{family}: in and out {before:?}, then {after:?}, {} errors meanwhile", total() - already);
    after.1 > before.1
}

/// Packets of the real server: from clients, and to them.
fn packets(cluster: &Cluster, family: IpFamily) -> (u64, u64) {
    let vs = virtual_server(family, Protocol::Tcp);
    let text = cluster.net.node.sh(&format!("ipvsadm -Ln --stats --exact {vs}"));
    let line = text.lines().find(|line| line.trim_start().starts_with("->") && line.contains(":8080"));
    let words = line.unwrap_or_else(|| panic!("a real server in\n{text}")).split_whitespace();
    // Connections, packets in, packets out, bytes in, bytes out.
    let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
    (numbers[1], numbers[2])
}
