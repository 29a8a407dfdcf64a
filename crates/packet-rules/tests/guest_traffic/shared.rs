//! A VIP that another program has put on an interface of the node, as NodeLocal DNSCache does.

use lb_types::{IpFamily, Protocol, RuleSet, RulesOp};

use crate::{
    ipvs::{Cluster, PORT, VIP},
    support::{
        apply, by_cidr,
        net::{Client, GATEWAY},
        talk::{ask, at, serve},
        vip,
    },
};

const CLIENTS: [Client; 4] = [Client::Outside, Client::PodA, Client::PodB, Client::Node];
/// No virtual server has it.
const CACHE: u16 = 53;

#[test]
fn the_program_keeps_its_port_and_ipvs_serves_the_others() {
    let cluster = Cluster::create(&by_cidr());
    cluster.serve_vip(RuleSet::MasqueradeNonLocal);
    // Neither route nor element of the VIP: so kube-ipvs leaves it when it becomes an address of the node.
    cluster.rules(|client| apply(client, &[VIP.0, VIP.1].map(|addr| RulesOp::DeleteElement(vip(addr)))));
    let node = &cluster.net.node;
    node.sh("ip link add nodelocaldns type dummy");
    node.sh("ip link set nodelocaldns up");
    for family in IpFamily::ALL {
        let addr = VIP.of(family);
        let (flag, nodad) = if family == IpFamily::V4 { ("-4", "") } else { ("-6", "nodad") };
        node.sh(&format!("ip {flag} route del local {addr} dev lo table local"));
        node.sh(&format!("ip address add {addr} dev nodelocaldns {nodad}"));
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            serve(node, protocol, &at(addr, CACHE).to_string());
            for client in CLIENTS {
                let what = format!("{family} {protocol} from {client:?}");
                let of_cache = ask(cluster.net.of(client), protocol, at(addr, CACHE)).expect(&what);
                let own = if client == Client::Node { VIP } else { client.address() };
                assert_eq!(of_cache.to_string(), own.of(family), "{what}");
                let served = ask(cluster.net.of(client), protocol, at(addr, PORT)).expect(&what);
                let is_pod = [Client::PodA, Client::PodB].contains(&client);
                let seen = if is_pod { client.address() } else { GATEWAY };
                assert_eq!(served.to_string(), seen.of(family), "{what}");
            }
        }
    }
}
