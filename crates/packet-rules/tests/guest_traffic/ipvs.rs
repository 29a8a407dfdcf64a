//! Virtual servers, made with a tool that is not ours.

use lb_types::{IpFamily, LocalDetection, Protocol, RuleElement, RuleSet, RulesLayout, RulesOp};
use packet_rules::RulesClient;

use crate::support::{
    self, by_cidr, in_set,
    net::{Both, Client, Net, SERVER},
    talk::serve,
    vip,
};

pub const VIP: Both = Both("10.96.0.10", "fd00:96::10");
/// Port of the virtual servers.
pub const PORT: u16 = 80;
/// Port of the real server.
pub const TARGET: u16 = 8080;

/// A node with IPVS, a bound VIP, and a server for every protocol.
pub struct Cluster {
    pub net: Net,
}

impl Cluster {
    /// With the table installed, but without virtual servers.
    pub fn create(layout: &RulesLayout) -> Cluster {
        testkit::run(&["modprobe", "-a", "ip_vs", "ip_vs_rr", "sctp"]);
        let net = Net::create();
        net.bind(VIP);
        net.node.enter(|| {
            for (key, value) in [("conntrack", "1"), ("expire_nodest_conn", "1")] {
                std::fs::write(format!("/proc/sys/net/ipv4/vs/{key}"), value)
                    .expect("set a parameter of IPVS");
            }
        });
        let cluster = Cluster { net };
        cluster.rules(|client| {
            support::install(client, layout);
            support::add(client, &[vip(VIP.0), vip(VIP.1)]);
        });
        for protocol in Protocol::ALL {
            for addr in ["0.0.0.0", "[::]"] {
                serve(&cluster.net.server, protocol, &format!("{addr}:{TARGET}"));
            }
        }
        cluster
    }

    /// Calls `f` with a client of the node's table.
    pub fn rules<R: Send>(&self, f: impl FnOnce(&mut RulesClient) -> R + Send) -> R {
        self.net.node.enter(|| f(&mut support::client()))
    }

    pub fn add(&self, elements: &[RuleElement]) {
        self.rules(|client| support::add(client, elements));
    }

    /// Everything that makes a service of the VIP, in the order of the real thing.
    pub fn serve_vip(&self, masquerade: RuleSet) {
        for set in [RuleSet::Services, masquerade] {
            self.add(&elements(set));
        }
        each(|family, protocol| {
            self.ipvsadm(&format!("-A {} -s rr", virtual_server(family, protocol)));
            self.add_real_server(family, protocol, "");
        });
    }

    pub fn add_real_server(&self, family: IpFamily, protocol: Protocol, more: &str) {
        self.ipvsadm(&format!("-a {} {} -m {more}", virtual_server(family, protocol), real_server(family)));
    }

    pub fn ipvsadm(&self, arguments: &str) {
        self.net.node.sh(&format!("ipvsadm {arguments}"));
    }
}

/// The elements of the VIP's services in a set.
pub fn elements(set: RuleSet) -> Vec<RuleElement> {
    let mut elements = vec![];
    each(|family, protocol| elements.push(in_set(set, VIP.of(family), protocol, PORT)));
    elements
}

pub fn each(mut f: impl FnMut(IpFamily, Protocol)) {
    for family in IpFamily::ALL {
        for protocol in Protocol::ALL {
            f(family, protocol);
        }
    }
}

/// How ipvsadm is told of a virtual server.
pub fn virtual_server(family: IpFamily, protocol: Protocol) -> String {
    let option = match protocol {
        Protocol::Tcp => "-t",
        Protocol::Udp => "-u",
        Protocol::Sctp => "--sctp-service",
    };
    format!("{option} {}", socket(family, VIP, PORT))
}

/// How ipvsadm is told of the real server.
pub fn real_server(family: IpFamily) -> String {
    format!("-r {}", socket(family, SERVER, TARGET))
}

fn socket(family: IpFamily, addr: Both, port: u16) -> String {
    support::talk::at(addr.of(family), port).to_string()
}

/// All layouts, and which clients are taken for pods of this node.
pub fn layouts() -> Vec<(RulesLayout, &'static [Client])> {
    let bridge = LocalDetection::BridgeInterface("cbr0".to_owned());
    let prefix = LocalDetection::InterfaceNamePrefix("veth".to_owned());
    const EVERYBODY: &[Client] = &[Client::Outside, Client::PodA, Client::PodB, Client::Node];
    vec![
        (by_cidr(), &[Client::PodA, Client::PodB]),
        (support::by_interface(&bridge), &[Client::PodB]),
        (support::by_interface(&prefix), &[Client::PodA]),
        // Nobody is masqueraded because of where it is.
        (RulesLayout::default(), EVERYBODY),
    ]
}

/// Installs another layout under the traffic.
pub fn reinstall(cluster: &Cluster, layout: &RulesLayout) {
    cluster.rules(|client| support::apply(client, &[RulesOp::InstallLayout(layout.clone())]));
}
