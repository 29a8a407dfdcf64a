//! Refusals with IPVS in the way: it must neither answer in our stead nor swallow anything.

use std::time::Duration;

use lb_types::{IpFamily, Protocol, RuleSet};

use crate::{
    ipvs::{Cluster, PORT, VIP, each, elements, virtual_server},
    support::{
        by_cidr,
        net::Client,
        talk::{Connection, Failure, ask, at, serve},
    },
};

const CLIENTS: [Client; 4] = [Client::Outside, Client::PodA, Client::PodB, Client::Node];
/// Neither a retransmission nor a timeout: both take a second or more.
const AT_ONCE: Duration = Duration::from_millis(500);

/// The error numbers that mean "refused" to a client.
fn refusals(family: IpFamily, protocol: Protocol, client: Client) -> &'static [i32] {
    match (family, protocol, client) {
        // Whatever drops a packet on its way out makes `send` fail with EPERM.
        (_, Protocol::Udp, Client::Node) => &[libc::ECONNREFUSED, libc::EPERM],
        // What ICMP protocol unreachable means to SCTP.
        (IpFamily::V4, Protocol::Sctp, _) => &[libc::ENOPROTOOPT],
        _ => &[libc::ECONNREFUSED],
    }
}

#[track_caller]
fn assert_refused(what: &str, failure: &Failure, allowed: &[i32]) {
    println!("{:?} after {:.1} ms: {what}", failure.error, failure.after.as_secs_f64() * 1000.0);
    assert!(allowed.contains(&failure.errno()), "{what}: {failure:?}");
    assert!(failure.after < AT_ONCE, "{what}: {failure:?}");
}

/// No ICMP error ends an SCTP association over IPv6, except one that nft cannot send.
const fn is_hopeless(family: IpFamily, protocol: Protocol) -> bool {
    matches!((family, protocol), (IpFamily::V6, Protocol::Sctp))
}

fn everybody(cluster: &Cluster, port: u16) {
    each(|family, protocol| {
        if is_hopeless(family, protocol) {
            return;
        }
        for client in CLIENTS {
            let what = format!("{family} {protocol} from {client:?} to port {port}");
            let failure = ask(cluster.net.of(client), protocol, at(VIP.of(family), port)).expect_err(&what);
            assert_refused(&what, &failure, refusals(family, protocol, client));
        }
    });
}

#[test]
fn a_virtual_server_without_real_servers_is_refused() {
    let cluster = Cluster::create(&by_cidr());
    for set in [RuleSet::Services, RuleSet::MasqueradeNonLocal, RuleSet::NoEndpoints] {
        cluster.add(&elements(set));
    }
    each(|family, protocol| cluster.ipvsadm(&format!("-A {} -s rr", virtual_server(family, protocol))));
    everybody(&cluster, PORT);
}

#[test]
fn a_port_without_service_is_refused_and_never_the_hosts_daemon() {
    let cluster = Cluster::create(&by_cidr());
    cluster.serve_vip(RuleSet::MasqueradeNonLocal);
    for protocol in Protocol::ALL {
        serve(&cluster.net.node, protocol, "0.0.0.0:8000");
        serve(&cluster.net.node, protocol, "[::]:8000");
    }
    everybody(&cluster, 8000);
}

/// The bit is our own until routing. What others have set when a packet comes, makes it no steered one.
#[test]
fn a_mark_bit_of_others_opens_nothing() {
    let cluster = Cluster::create(&by_cidr());
    cluster.serve_vip(RuleSet::MasqueradeExternal);
    for line in [
        "add table inet others",
        "add chain inet others first { type filter hook prerouting priority -300 ; }",
        "add rule inet others first meta mark set 0x1000",
    ] {
        cluster.net.node.run(&["nft", line]);
    }
    let asks = |family: IpFamily| {
        let client = cluster.net.of(Client::Outside);
        let connection = Connection::open(client, Protocol::Udp, at(VIP.of(family), PORT), None);
        connection.expect("a socket").ask_briefly()
    };
    for family in IpFamily::ALL {
        assert!(asks(family).is_ok(), "{family}: the bit alone does no harm");
    }
    cluster.add(&elements(RuleSet::Restricted));
    for family in IpFamily::ALL {
        asks(family).expect_err("source ranges that let nobody in");
    }
}

#[test]
fn pings_are_answered_beside_services() {
    let cluster = Cluster::create(&by_cidr());
    cluster.serve_vip(RuleSet::MasqueradeNonLocal);
    for client in CLIENTS {
        cluster.net.of(client).sh(&format!("ping -c 1 -W 5 {}", VIP.0));
        cluster.net.of(client).sh(&format!("ping -6 -c 1 -W 5 {}", VIP.1));
    }
}

/// The connection's real server is gone: its next packet is not IPVS's any more and belongs to nobody, least of all
/// to the host's daemon on that port.
#[test]
fn stray_packets_are_reset() {
    let cluster = Cluster::create(&by_cidr());
    cluster.serve_vip(RuleSet::MasqueradeNonLocal);
    serve(&cluster.net.node, Protocol::Tcp, &format!("0.0.0.0:{PORT}"));
    serve(&cluster.net.node, Protocol::Tcp, &format!("[::]:{PORT}"));
    for family in IpFamily::ALL {
        for client in CLIENTS {
            let what = format!("{family} from {client:?}");
            let to = at(VIP.of(family), PORT);
            let connection = Connection::open(cluster.net.of(client), Protocol::Tcp, to, None).expect(&what);
            connection.ask().expect(&what);
            let vs = virtual_server(family, Protocol::Tcp);
            cluster.ipvsadm(&format!("-d {vs} {}", crate::ipvs::real_server(family)));
            let failure = last_word(&connection, &what);
            assert_refused(&what, &failure, &[libc::ECONNRESET, libc::EPIPE]);
            cluster.add_real_server(family, Protocol::Tcp, "");
        }
    }
}

/// IPVS drops one packet when it finds the real server gone; the retransmission is nobody's.
fn last_word(connection: &Connection, what: &str) -> Failure {
    let failure = connection.ask().expect_err(what);
    Failure { after: failure.after.saturating_sub(Duration::from_millis(500)), ..failure }
}
