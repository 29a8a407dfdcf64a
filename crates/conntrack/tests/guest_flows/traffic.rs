//! Tracked connections that clients have really made through IPVS, in one network namespace on loopback.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    time::Duration,
};

use conntrack::ConntrackClient;
use dataplane::{ConntrackTable as _, contract::conntrack::Flow};
use lb_types::{ConntrackFilter, IpFamily, Protocol, RealServerId, VipPort};
use testkit::{in_new_netns, run};

use crate::tool;

const PORT: u16 = 53;
const TARGET: u16 = 5353;
const NODE_PORT: u16 = 30_053;
/// Time for an answer, on an emulated processor.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// Addresses on loopback.
struct Net {
    client: IpAddr,
    vip: IpAddr,
    node: IpAddr,
    servers: [IpAddr; 2],
    /// Address of a server that has nothing to do with IPVS, on the port numbers of the others.
    foreign: IpAddr,
}

impl Net {
    fn of(family: IpFamily) -> Net {
        let addr = |host: u8| -> IpAddr {
            let text = match family {
                IpFamily::V4 => format!("10.7.0.{host}"),
                IpFamily::V6 => format!("fd00:7::{host}"),
            };
            text.parse().expect("an address")
        };
        Net {
            client: addr(1),
            vip: addr(10),
            node: addr(2),
            servers: [addr(11), addr(12)],
            foreign: addr(20),
        }
    }

    /// Adds addresses, servers and virtual servers.
    fn build(&self) {
        let prefix = if self.vip.is_ipv4() { 32 } else { 128 };
        for addr in [self.client, self.vip, self.node, self.servers[0], self.servers[1], self.foreign] {
            let mut words = vec!["ip".to_owned(), "address".to_owned(), "add".to_owned()];
            words.extend([format!("{addr}/{prefix}"), "dev".to_owned(), "lo".to_owned()]);
            if self.vip.is_ipv6() {
                words.push("nodad".to_owned());
            }
            run(&words);
        }
        for (addr, port) in [(self.servers[0], TARGET), (self.servers[1], TARGET)] {
            echo(SocketAddr::new(addr, port));
        }
        for port in [PORT, TARGET, NODE_PORT] {
            echo(SocketAddr::new(self.foreign, port));
        }
        for to in [(self.vip, PORT), (self.node, NODE_PORT)].map(|(addr, port)| SocketAddr::new(addr, port)) {
            run(&["ipvsadm", "-A", "-u", &to.to_string(), "-s", "rr"]);
            for server in self.servers {
                let server = SocketAddr::new(server, TARGET).to_string();
                run(&["ipvsadm", "-a", "-u", &to.to_string(), "-r", &server, "-m"]);
            }
        }
    }

    fn vip_port(&self, addr: IpAddr, port: u16) -> VipPort {
        VipPort { addr, protocol: Protocol::Udp, port: port.try_into().expect("not 0") }
    }

    fn real_server(&self, nth: usize) -> RealServerId {
        RealServerId { addr: self.servers[nth], port: TARGET.try_into().expect("not 0") }
    }
}

/// A server that answers with its own address; ends with the process.
fn echo(at: SocketAddr) {
    let socket = UdpSocket::bind(at).unwrap_or_else(|error| panic!("serve on {at}: {error}"));
    std::thread::spawn(move || {
        let mut buffer = [0; 16];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _client_gone = socket.send_to(at.to_string().as_bytes(), peer);
        }
    });
}

/// A client with a port of its own.
struct Client(UdpSocket);

impl Client {
    fn new(net: &Net, to: SocketAddr) -> Client {
        let socket = UdpSocket::bind(SocketAddr::new(net.client, 0)).expect("bind");
        socket.connect(to).expect("connect");
        socket.set_read_timeout(Some(ANSWER_TIMEOUT)).expect("set a timeout");
        Client(socket)
    }

    fn at(&self) -> SocketAddr {
        self.0.local_addr().expect("bound")
    }

    /// Asks, and returns the address that answers.
    fn ask(&self) -> SocketAddr {
        self.try_ask().unwrap_or_else(|error| panic!("no answer to {}: {error}", self.at()))
    }

    /// Asks, and returns the address that answers, if one does; skips errors of earlier datagrams.
    fn try_ask(&self) -> std::io::Result<SocketAddr> {
        let mut buffer = [0; 64];
        let _earlier_error = self.0.take_error()?;
        self.0.send(b"who?")?;
        let length = self.0.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).parse().expect("an address"))
    }
}

/// Runs a test in a namespace that tracks connections, also those of IPVS.
fn with_tracking(test: impl FnOnce() + Send) {
    run(&["modprobe", "-a", "ip_vs", "ip_vs_rr", "nf_conntrack_netlink"]);
    in_new_netns(|| {
        run(&["nft", "add table inet t"]);
        run(&["nft", "add chain inet t c { type filter hook input priority 0; }"]);
        run(&["nft", "add rule inet t c ct state invalid counter"]);
        run(&["sysctl", "-q", "-w", "net.ipv4.vs.conntrack=1", "net.ipv4.vs.expire_nodest_conn=0"]);
        test();
    });
}

/// Tracked connections of all these clients.
fn of_clients(clients: &BTreeMap<SocketAddr, Client>) -> BTreeMap<SocketAddr, Flow> {
    let known = tool::flows().into_iter().filter(|flow| clients.contains_key(&flow.client));
    known.map(|flow| (flow.client, flow)).collect()
}

fn clients_of(net: &Net, to: SocketAddr, count: usize) -> BTreeMap<SocketAddr, Client> {
    (0..count).map(|_| Client::new(net, to)).map(|client| (client.at(), client)).collect()
}

fn only_the_real_servers_flows_go(family: IpFamily) {
    let net = Net::of(family);
    net.build();
    let mut clients = BTreeMap::new();
    for to in [
        SocketAddr::new(net.vip, PORT),
        SocketAddr::new(net.node, NODE_PORT),
        SocketAddr::new(net.servers[0], TARGET),
        SocketAddr::new(net.foreign, PORT),
        SocketAddr::new(net.foreign, TARGET),
        SocketAddr::new(net.foreign, NODE_PORT),
    ] {
        clients.extend(clients_of(&net, to, 6));
    }
    let answers: BTreeMap<_, _> = clients.iter().map(|(at, client)| (*at, client.ask())).collect();
    let before = of_clients(&clients);
    assert_eq!(before.len(), clients.len(), "every client has a tracked connection");
    for (client, flow) in &before {
        assert_eq!(flow.server, answers[client], "the connection tracking knows who answers: {flow:?}");
    }

    let mut table = ConntrackClient::open().expect("open");
    for (to, nth) in [((net.vip, PORT), 0), ((net.node, NODE_PORT), 1)] {
        let before = of_clients(&clients);
        let filter = ConntrackFilter::of_real_server(net.vip_port(to.0, to.1), net.real_server(nth));
        let server = SocketAddr::new(net.servers[nth], TARGET);
        let meant: BTreeSet<_> = before
            .values()
            .filter(|flow| flow.to == SocketAddr::new(to.0, to.1) && flow.server == server)
            .copied()
            .collect();
        assert_eq!(meant.len(), 3, "round robin over two real servers");
        assert_eq!(table.delete_flows(&[filter]).expect("delete"), 3, "{filter}");
        let left: BTreeSet<_> = of_clients(&clients).into_values().collect();
        let expected: BTreeSet<_> = before.into_values().filter(|flow| !meant.contains(flow)).collect();
        assert_eq!(left, expected, "{filter}");
    }
    for (at, client) in &clients {
        assert_eq!(client.ask(), answers[at], "IPVS goes on with its own entries");
    }
}

/// Conformance: conntrack/cleanup TestCleanStaleEntries
#[test]
fn only_the_real_servers_flows_go_v4() {
    with_tracking(|| only_the_real_servers_flows_go(IpFamily::V4));
}

/// Conformance: conntrack/cleanup TestCleanStaleEntries
#[test]
fn only_the_real_servers_flows_go_v6() {
    with_tracking(|| only_the_real_servers_flows_go(IpFamily::V6));
}

/// Clients that send to a VIP before it has a virtual server are tracked with the VIP as their server, and
/// this stays so as long as they send, also when IPVS has taken over. After a deletion the kernel tracks them
/// anew and right.
fn early_clients_are_found(family: IpFamily) {
    let net = Net::of(family);
    let vip = SocketAddr::new(net.vip, PORT);
    net.build();
    run(&["ipvsadm", "-D", "-u", &vip.to_string()]);
    // Nobody listens there: the client gets an error, and the kernel a tracked connection.
    let early = clients_of(&net, vip, 2);
    for client in early.values() {
        let refused = client.try_ask().expect_err("nobody is there");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    }
    let entries = of_clients(&early);
    assert_eq!(entries.len(), 2, "{:?}", tool::flows());
    assert!(entries.values().all(|flow| flow.server == vip), "{entries:?}");

    run(&["ipvsadm", "-A", "-u", &vip.to_string(), "-s", "rr"]);
    let server = SocketAddr::new(net.servers[0], TARGET);
    run(&["ipvsadm", "-a", "-u", &vip.to_string(), "-r", &server.to_string(), "-m"]);
    for client in early.values() {
        // The kernel's version decides whether the answer finds its way; the connection is tracked in any
        // case.
        println!("with the old entry: {:?}", client.try_ask());
    }
    let entries = of_clients(&early);
    assert!(entries.values().all(|flow| flow.server == vip), "the old entries stay: {entries:?}");

    let late = clients_of(&net, vip, 2);
    assert!(late.values().all(|client| client.ask() == server));
    let late_entries = of_clients(&late);
    let mut table = ConntrackClient::open().expect("open");
    let filter = ConntrackFilter::untranslated(net.vip_port(net.vip, PORT));
    assert_eq!(table.delete_flows(&[filter]).expect("delete"), 2);
    assert_eq!(of_clients(&late), late_entries, "those of real servers stay");
    for client in early.values() {
        assert_eq!(client.ask(), server);
    }
    let entries = of_clients(&early);
    assert!(entries.len() == 2 && entries.values().all(|flow| flow.server == server), "{entries:?}");
}

#[test]
fn early_clients_are_found_v4() {
    with_tracking(|| early_clients_are_found(IpFamily::V4));
}

#[test]
fn early_clients_are_found_v6() {
    with_tracking(|| early_clients_are_found(IpFamily::V6));
}
