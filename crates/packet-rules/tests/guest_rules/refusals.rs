//! What nobody serves is refused at once, without IPVS having a part in it.

use std::time::Duration;

use lb_types::{IpFamily, Protocol, RuleElement, RuleSet, RulesLayout};

use crate::support::{
    add, client, in_set, install,
    net::{Both, Client, NODE, Net},
    talk::{Connection, Failure, ask, at, serve},
    vip,
};

const VIP: Both = Both("10.96.0.10", "fd00:96::10");
const CLIENTS: [Client; 3] = [Client::Outside, Client::PodB, Client::Node];
/// Neither a retransmission nor a timeout: both take a second or more.
const AT_ONCE: Duration = Duration::from_millis(500);

/// A node with a bound VIP, our table, and a daemon of its own on port 8000 of every address.
fn node(elements: &[RuleElement]) -> Net {
    let net = Net::create();
    net.bind(VIP);
    net.node.enter(|| {
        let mut client = client();
        install(&mut client, &RulesLayout::default());
        add(&mut client, &[vip(VIP.0), vip(VIP.1)]);
        add(&mut client, elements);
    });
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        serve(&net.node, protocol, "0.0.0.0:8000");
        serve(&net.node, protocol, "[::]:8000");
    }
    net
}

fn in_both(set: RuleSet, protocol: Protocol, port: u16) -> [RuleElement; 2] {
    [in_set(set, VIP.0, protocol, port), in_set(set, VIP.1, protocol, port)]
}

#[track_caller]
fn assert_refused(what: &str, result: Result<std::net::IpAddr, Failure>) {
    let failure = result.expect_err(what);
    assert_eq!(failure.errno(), libc::ECONNREFUSED, "{what}: {failure:?}");
    assert!(failure.after < AT_ONCE, "{what}: {failure:?}");
    println!("refused after {:5.1} ms: {what}", failure.after.as_secs_f64() * 1000.0);
}

fn everybody(mut check: impl FnMut(&str, Client, IpFamily, Protocol)) {
    for family in IpFamily::ALL {
        for client in CLIENTS {
            for protocol in [Protocol::Tcp, Protocol::Udp] {
                check(&format!("{family} {protocol} from {client:?}"), client, family, protocol);
            }
        }
    }
}

#[test]
fn a_service_without_endpoints_is_refused() {
    let both = [Protocol::Tcp, Protocol::Udp].map(|protocol| {
        [in_both(RuleSet::Services, protocol, 8000), in_both(RuleSet::NoEndpoints, protocol, 8000)].concat()
    });
    let net = node(&both.concat());
    everybody(|what, client, family, protocol| {
        let to = at(VIP.of(family), 8000);
        if (client, protocol) == (Client::Node, Protocol::Udp) {
            let connection = Connection::open(&net.node, protocol, to, None).expect("nothing is sent yet");
            assert_refused_twice(what, &connection);
        } else {
            assert_refused(what, ask(net.of(client), protocol, to));
        }
    });
}

/// Whatever drops a packet on its way out, IPVS included, makes `send` fail with EPERM, besides the ICMP error.
#[track_caller]
fn assert_refused_twice(what: &str, connection: &Connection) {
    let failure = connection.ask().expect_err(what);
    assert!(matches!(failure.errno(), libc::EPERM | libc::ECONNREFUSED), "{what}: {failure:?}");
    if failure.errno() == libc::EPERM {
        assert_refused(what, connection.listen());
    }
}

#[test]
fn a_port_without_service_is_refused_and_never_the_hosts_daemon() {
    let net = node(&in_both(RuleSet::Services, Protocol::Tcp, 80));
    everybody(|what, client, family, protocol| {
        assert_refused(what, ask(net.of(client), protocol, at(VIP.of(family), 8000)));
        // The daemon is there; over UDP it would answer pods from another of the node's addresses.
        if protocol == Protocol::Tcp {
            let seen = ask(net.of(client), protocol, at(NODE.of(family), 8000)).expect(what);
            assert_eq!(seen.to_string(), client.address().of(family));
        }
    });
}

#[test]
fn what_ipvs_leaves_over_is_refused() {
    let net = node(
        &[in_both(RuleSet::Services, Protocol::Tcp, 8000), in_both(RuleSet::Services, Protocol::Udp, 8000)]
            .concat(),
    );
    everybody(|what, client, family, protocol| {
        assert_refused(what, ask(net.of(client), protocol, at(VIP.of(family), 8000)));
    });
}

#[test]
fn pings_are_answered() {
    let net = node(&in_both(RuleSet::NoEndpoints, Protocol::Tcp, 80));
    for client in CLIENTS {
        net.of(client).sh(&format!("ping -c 1 -W 5 {}", VIP.0));
        net.of(client).sh(&format!("ping -6 -c 1 -W 5 {}", VIP.1));
    }
}

#[test]
fn answers_to_a_vip_as_source_pass() {
    let net = node(&in_both(RuleSet::Services, Protocol::Tcp, 80));
    for family in IpFamily::ALL {
        serve(&net.outside, Protocol::Tcp, if family == IpFamily::V4 { "0.0.0.0:7000" } else { "[::]:7000" });
        let to = at(Client::Outside.address().of(family), 7000);
        let from = VIP.of(family).parse().expect("valid");
        if family == IpFamily::V6 {
            // A local route is not enough to bind to.
            net.node.sh(&format!("ip address add {from}/128 dev lo nodad"));
        }
        let connection = Connection::open(&net.node, Protocol::Tcp, to, Some(from)).expect("connect");
        assert_eq!(connection.ask().expect("an answer"), from);
    }
}

#[test]
fn other_addresses_of_the_node_are_no_vips() {
    let net = node(&[]);
    for family in IpFamily::ALL {
        for (client, port, expected) in
            [(Client::Outside, 8000, None), (Client::Outside, 8001, Some(libc::ECONNREFUSED))]
        {
            let result = ask(net.of(client), Protocol::Tcp, at(NODE.of(family), port));
            assert_eq!(result.err().map(|failure| failure.errno()), expected);
        }
    }
}
