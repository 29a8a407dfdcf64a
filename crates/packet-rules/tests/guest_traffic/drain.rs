//! Established connections never meet a refusal.

use lb_types::{IpFamily, Protocol, RuleSet};

use crate::{
    ipvs::{Cluster, PORT, VIP, elements, layouts, real_server, reinstall, virtual_server},
    support::{
        by_cidr,
        net::Client,
        talk::{Connection, ask, at},
    },
};

const CLIENTS: [Client; 3] = [Client::Outside, Client::PodA, Client::Node];

fn connect(cluster: &Cluster) -> Vec<Connection> {
    let mut connections = vec![];
    for family in IpFamily::ALL {
        for protocol in [Protocol::Tcp, Protocol::Sctp] {
            for client in CLIENTS {
                let to = at(VIP.of(family), PORT);
                connections
                    .push(Connection::open(cluster.net.of(client), protocol, to, None).expect("connect"));
            }
        }
    }
    assert_alive(&connections);
    connections
}

#[track_caller]
fn assert_alive(connections: &[Connection]) {
    for connection in connections {
        connection.ask().expect("an answer");
    }
}

/// The last endpoint is on its way out: old connections go on, new ones are refused at once.
#[test]
fn draining_real_servers_keep_their_connections() {
    let cluster = Cluster::create(&by_cidr());
    cluster.serve_vip(RuleSet::MasqueradeNonLocal);
    let connections = connect(&cluster);
    for family in IpFamily::ALL {
        for protocol in [Protocol::Tcp, Protocol::Sctp] {
            let vs = virtual_server(family, protocol);
            cluster.ipvsadm(&format!("-e {vs} {} -m -w 0", real_server(family)));
        }
    }
    cluster.add(&elements(RuleSet::NoEndpoints));
    assert_alive(&connections);
    for family in IpFamily::ALL {
        for client in CLIENTS {
            let refused = ask(cluster.net.of(client), Protocol::Tcp, at(VIP.of(family), PORT));
            let failure = refused.expect_err("a draining service takes no new connection");
            assert_eq!(failure.errno(), libc::ECONNREFUSED);
        }
    }
    assert_alive(&connections);
}

/// Chains are rewritten, even made anew, under running connections.
#[test]
fn another_layout_cuts_nothing() {
    let cluster = Cluster::create(&by_cidr());
    cluster.serve_vip(RuleSet::MasqueradeNonLocal);
    let connections = connect(&cluster);
    for (layout, _) in layouts() {
        reinstall(&cluster, &layout);
        assert_alive(&connections);
    }
}
