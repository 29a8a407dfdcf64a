//! Clients that send UDP from one port for ever, and began before there was anything that could answer.
//!
//! What the connection tracking remembers of their first packet decides on all later ones, and each of these keeps
//! the memory alive: no translation then means no masquerading now.

use std::time::{Duration, Instant};

use lb_types::{IpFamily, Protocol, RuleSet, RulesOp};

use crate::{
    ipvs::{Cluster, PORT, TARGET, VIP, elements},
    support::{
        apply, by_cidr, in_set,
        net::{Both, Client, NODE, SERVER},
        talk::{Connection, at},
    },
};

const CLIENTS: [Client; 4] = [Client::Outside, Client::PodA, Client::PodB, Client::Node];
const NODE_PORT: u16 = 30_080;
/// Longest time that a client may have to wait for a service that has become ready.
const SOON: Duration = Duration::from_secs(2);

struct Early {
    client: Client,
    connection: Connection,
}

/// Clients that have sent once, and were refused.
fn refused(cluster: &Cluster, family: IpFamily, clients: &[Client], to: (Both, u16)) -> Vec<Early> {
    let to = at(to.0.of(family), to.1);
    let connect = |client: &Client| {
        let ns = cluster.net.of(*client);
        let connection = Connection::open(ns, Protocol::Udp, to, None).expect("a socket");
        connection.ask().expect_err("nobody serves there");
        Early { client: *client, connection }
    };
    clients.iter().map(connect).collect()
}

fn assert_answered(family: IpFamily, early: &[Early]) {
    for Early { client, connection } in early {
        let start = Instant::now();
        let answer = match connection.ask() {
            // The error of the packet that was refused before, where `send` had reported another one.
            Err(failure) if failure.errno() == libc::ECONNREFUSED => connection.ask(),
            answer => answer,
        };
        answer.unwrap_or_else(|failure| panic!("{family} {client:?}: {failure:?}"));
        let took = start.elapsed();
        println!("{family} {client:?}: answered after {:.1} ms", took.as_secs_f64() * 1000.0);
        assert!(took < SOON, "{family} {client:?}");
    }
}

fn add_virtual_server(cluster: &Cluster, family: IpFamily, to: (Both, u16)) {
    cluster.ipvsadm(&format!("-A -u {} -s rr", at(to.0.of(family), to.1)));
}

fn add_real_server(cluster: &Cluster, family: IpFamily, to: (Both, u16)) {
    let (vs, rs) = (at(to.0.of(family), to.1), at(SERVER.of(family), TARGET));
    cluster.ipvsadm(&format!("-a -u {vs} -r {rs} -m"));
}

/// conntrack(8) with a command, on the entries whose original destination this is.
fn conntrack(cluster: &Cluster, command: &str, family: IpFamily, (to, port): (Both, u16)) -> Vec<String> {
    let name = if family == IpFamily::V4 { "ipv4" } else { "ipv6" };
    let line = format!("conntrack {command} -f {name} -p udp -d {} --dport {port}", to.of(family));
    cluster.net.node.sh(&line).lines().map(str::to_owned).collect()
}

/// Entries of which the destination itself is expected to answer.
fn untranslated(cluster: &Cluster, family: IpFamily, to: (Both, u16)) -> usize {
    let answers_itself = format!(" src={} ", to.0.of(family));
    let entries = conntrack(cluster, "-L", family, to);
    entries
        .iter()
        .filter(|line| line.split("dport=").nth(1).is_some_and(|l| l.contains(&answers_itself)))
        .count()
}

/// A packet that is refused where it enters leaves nothing behind.
#[test]
fn clients_of_a_service_without_endpoints_recover_by_themselves() {
    let cluster = Cluster::create(&by_cidr());
    for set in [RuleSet::Services, RuleSet::MasqueradeNonLocal, RuleSet::NoEndpoints] {
        cluster.add(&elements(set));
    }
    for family in IpFamily::ALL {
        add_virtual_server(&cluster, family, (VIP, PORT));
        let early = refused(&cluster, family, &CLIENTS, (VIP, PORT));
        assert_eq!(conntrack(&cluster, "-L", family, (VIP, PORT)), [""; 0]);
        add_real_server(&cluster, family, (VIP, PORT));
        let served = in_set(RuleSet::NoEndpoints, VIP.of(family), Protocol::Udp, PORT);
        cluster.rules(|client| apply(client, &[RulesOp::DeleteElement(served)]));
        assert_answered(family, &early);
    }
}

/// A VIP's port that no service has yet: this node's own packets are refused only after they were tracked.
#[test]
fn clients_on_the_node_need_their_entries_deleted() {
    let cluster = Cluster::create(&by_cidr());
    for family in IpFamily::ALL {
        let early = refused(&cluster, family, &CLIENTS, (VIP, PORT));
        assert_eq!(untranslated(&cluster, family, (VIP, PORT)), 1, "that of the client on the node");
        for set in [RuleSet::MasqueradeNonLocal, RuleSet::Services] {
            cluster.add(&[in_set(set, VIP.of(family), Protocol::Udp, PORT)]);
        }
        add_virtual_server(&cluster, family, (VIP, PORT));
        add_real_server(&cluster, family, (VIP, PORT));
        let (on_the_node, others): (Vec<_>, Vec<_>) =
            early.into_iter().partition(|early| early.client == Client::Node);
        assert_answered(family, &others);
        needs_deletion(&cluster, family, (VIP, PORT), &on_the_node);
    }
}

/// A port of the node's address that no service has yet: the node's own stack answers, everybody is tracked.
/// Conformance: e2e/conntrack should be able to preserve UDP traffic when initial unready endpoints get ready
#[test]
fn clients_of_a_node_port_need_their_entries_deleted() {
    let cluster = Cluster::create(&by_cidr());
    for family in IpFamily::ALL {
        let clients = [Client::Outside, Client::Node];
        let early = refused(&cluster, family, &clients, (NODE, NODE_PORT));
        assert_eq!(untranslated(&cluster, family, (NODE, NODE_PORT)), clients.len());
        cluster.add(&[in_set(RuleSet::Masquerade, NODE.of(family), Protocol::Udp, NODE_PORT)]);
        add_virtual_server(&cluster, family, (NODE, NODE_PORT));
        add_real_server(&cluster, family, (NODE, NODE_PORT));
        needs_deletion(&cluster, family, (NODE, NODE_PORT), &early);
    }
}

/// The service is there, but its early clients are tracked as before, until somebody deletes the entries.
fn needs_deletion(cluster: &Cluster, family: IpFamily, to: (Both, u16), early: &[Early]) {
    for Early { client, connection } in early {
        // On some kernels the answer gets through although nothing was masqueraded.
        println!("{family} {client:?} with the old entry: {:?}", connection.ask_briefly());
    }
    assert_eq!(untranslated(cluster, family, to), early.len(), "else the deletion proves nothing");
    conntrack(cluster, "-D", family, to);
    assert_answered(family, early);
    assert_eq!(untranslated(cluster, family, to), 0);
}
