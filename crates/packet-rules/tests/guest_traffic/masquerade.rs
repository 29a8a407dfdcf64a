//! Whom the endpoint sees.

use lb_types::{IpFamily, Protocol, RuleSet};

use crate::{
    ipvs::{Cluster, PORT, TARGET, VIP, each, elements, layouts, reinstall, virtual_server},
    support::{
        by_cidr,
        net::{Client, GATEWAY, NODE, SERVER},
        nft, nft_script,
        talk::{Connection, ask, at, serve},
    },
};

const CLIENTS: [Client; 4] = [Client::Outside, Client::PodA, Client::PodB, Client::Node];

/// Client of the VIP as the server sees it.
#[track_caller]
fn seen(cluster: &Cluster, client: Client, family: IpFamily, protocol: Protocol) -> String {
    let answer = ask(cluster.net.of(client), protocol, at(VIP.of(family), PORT));
    answer.unwrap_or_else(|failure| panic!("{family} {protocol} from {client:?}: {failure:?}")).to_string()
}

#[test]
fn members_of_masquerade_always_come_from_the_node() {
    let cluster = Cluster::create(&by_cidr());
    cluster.serve_vip(RuleSet::Masquerade);
    each(|family, protocol| {
        for client in CLIENTS {
            let seen = seen(&cluster, client, family, protocol);
            // The address of the interface towards the server; of this node, any of its addresses is one.
            assert_eq!(seen, GATEWAY.of(family), "{family} {protocol} from {client:?}");
        }
    });
}

#[test]
fn members_of_nonlocal_by_every_detection() {
    let cluster = Cluster::create(&by_cidr());
    cluster.serve_vip(RuleSet::MasqueradeNonLocal);
    for (layout, local) in layouts() {
        reinstall(&cluster, &layout);
        each(|family, protocol| {
            for client in CLIENTS {
                let expected = if local.contains(&client) { client.address() } else { GATEWAY };
                let seen = seen(&cluster, client, family, protocol);
                assert_eq!(seen, expected.of(family), "{family} {protocol} from {client:?}, {layout:?}");
            }
        });
    }
}

#[test]
fn others_keep_their_address() {
    let cluster = Cluster::create(&by_cidr());
    cluster.serve_vip(RuleSet::Services);
    each(|family, protocol| {
        for client in CLIENTS {
            let seen = seen(&cluster, client, family, protocol);
            assert_eq!(seen, client.address().of(family), "{family} {protocol} from {client:?}");
        }
        // Not through the service.
        let direct = ask(&cluster.net.pod_b, protocol, at(SERVER.of(family), TARGET)).expect("an answer");
        assert_eq!(direct.to_string(), Client::PodB.address().of(family));
    });
}

/// Nobody tells the rules that the endpoint is a pod of this node: neither its slice need do so, nor an element.
#[test]
fn a_pod_reaches_itself() {
    let cluster = Cluster::create(&by_cidr());
    cluster.serve_vip(RuleSet::MasqueradeNonLocal);
    each(|family, protocol| {
        assert_eq!(
            seen(&cluster, Client::Server, family, protocol),
            GATEWAY.of(family),
            "{family} {protocol}"
        );
        // Pods of this node are still themselves.
        assert_eq!(
            seen(&cluster, Client::PodA, family, protocol),
            Client::PodA.address().of(family),
            "{family} {protocol}"
        );
    });
}

/// An endpoint in the node's own network: packets to it are translated and delivered without leaving.
///
/// The loopback link has an address that masquerading would choose, were it done there.
#[test]
fn a_real_server_of_the_node_itself() {
    let cluster = Cluster::create(&by_cidr());
    cluster.net.node.sh("ip address add 192.0.2.99/32 dev lo");
    cluster.net.node.sh("ip address add fd00:2::99/128 dev lo");
    for masquerade in [RuleSet::MasqueradeNonLocal, RuleSet::Masquerade] {
        for set in [RuleSet::Services, masquerade] {
            cluster.add(&elements(set));
        }
    }
    for family in families_of_local_real_servers() {
        for protocol in Protocol::ALL {
            let daemon = at(NODE.of(family), TARGET);
            serve(&cluster.net.node, protocol, &daemon.to_string());
            let vs = virtual_server(family, protocol);
            cluster.ipvsadm(&format!("-A {vs} -s rr"));
            cluster.ipvsadm(&format!("-a {vs} -r {daemon} -m"));
            for client in [Client::Outside, Client::PodA, Client::Node] {
                let seen = seen(&cluster, client, family, protocol);
                assert_eq!(seen, client.address().of(family), "{family} {protocol} from {client:?}");
            }
            // No Service takes part.
            let direct = ask(&cluster.net.node, protocol, daemon).expect("an answer");
            assert_eq!(direct.to_string(), NODE.of(family), "{family} {protocol}");
        }
    }
}

/// IPVS of Linux 5.10 leaks a route reference for IPv6 connections to local endpoints, whatever the packet rules, and
/// the namespace never goes away.
fn families_of_local_real_servers() -> Vec<IpFamily> {
    let release = testkit::run(&["uname", "-r"]);
    IpFamily::ALL
        .into_iter()
        .filter(|family| *family == IpFamily::V4 || !release.starts_with("5.10."))
        .collect()
}

/// A node process whose source is a VIP: without masquerading no answer would come back from another node.
#[test]
fn a_vip_as_source_is_masqueraded_without_detection() {
    let (layout, _) = layouts().pop().expect("there are layouts");
    let cluster = Cluster::create(&layout);
    cluster.serve_vip(RuleSet::MasqueradeNonLocal);
    let from = VIP.0.parse().expect("valid");
    let to = at(VIP.0, PORT);
    let connection = Connection::open(&cluster.net.node, Protocol::Tcp, to, Some(from));
    let seen = connection.and_then(|connection| connection.ask()).expect("an answer");
    assert_eq!(seen.to_string(), GATEWAY.0);
}

/// The mark of the interface modes is gone when a packet leaves, and never on a packet of a local pod.
/// Conformance: ipvs/proxier TestMasqueradeRule
#[test]
fn no_mark_leaves_the_node() {
    for (layout, _) in layouts() {
        let cluster = Cluster::create(&layout);
        cluster.serve_vip(RuleSet::MasqueradeNonLocal);
        cluster.net.node.enter(|| {
            // Multicast group reports have a mark that is none (a union in struct sk_buff).
            nft_script(
                "table inet spy {
                    chain spy {
                        type filter hook postrouting priority 200;
                        meta l4proto { tcp, udp, sctp } meta mark != 0 counter
                    }
                }",
            );
        });
        each(|family, protocol| {
            for client in CLIENTS {
                seen(&cluster, client, family, protocol);
            }
        });
        let counters = cluster.net.node.enter(|| nft("list table inet spy"));
        assert!(counters.contains("counter packets 0 "), "{layout:?}\n{counters}");
    }
}
