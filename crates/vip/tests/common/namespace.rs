//! A network namespace, seen and changed through the `ip` command.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::OwnedFd,
    time::Duration,
};

use dataplane::{
    BatchReport, ObservedLink, VipTable,
    contract::vips::{NODE_LINK, NODE_V4, NODE_V6, VipsWorld},
};
use lb_types::{IpFamily, Protocol, VipOp};
use serde_json::Value;
use socket2::{Domain, Socket, Type};
use testkit::{run, try_run};
use vip::{LINK_NAME, ROUTE_PROTOCOL, RULE_PRIORITY, STEERING_TABLE, VipClient};

fn listen_over_sctp(at: SocketAddr) -> std::io::Result<OwnedFd> {
    let protocol = socket2::Protocol::from(i32::from(Protocol::Sctp.number()));
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(protocol))?;
    socket.bind(&at.into())?;
    socket.listen(1)?;
    Ok(socket.into())
}

/// Protocol number of routes of somebody else.
const FOREIGN_PROTOCOL: &str = "211";

/// The calling thread's network namespace, set up as that of a node.
pub struct NodeNamespace {
    pub client: VipClient,
    kind: String,
    sockets: Vec<OwnedFd>,
}

impl NodeNamespace {
    /// Sets up the links and addresses that the contract expects; `kind` is the type of our link.
    pub fn new(kind: &str) -> Self {
        ip(&format!("link add {NODE_LINK} type veth peer name peer0"));
        ip("link set peer0 up");
        ip(&format!("link set {NODE_LINK} up"));
        let client = VipClient::open_with_kind(kind).expect("a socket");
        let mut namespace = NodeNamespace { client, kind: kind.to_owned(), sockets: Vec::new() };
        namespace.add_node_address(NODE_V4);
        namespace.add_node_address(NODE_V6);
        namespace
    }

    pub fn try_apply(&mut self, ops: &[VipOp]) -> BatchReport {
        self.client.apply(ops).expect("the call as a whole succeeds")
    }

    #[track_caller]
    pub fn apply(&mut self, ops: &[VipOp]) {
        let report = self.try_apply(ops);
        assert!(report.is_clean(), "{report:?}");
    }
}

/// Runs `ip` with these words.
#[track_caller]
pub fn ip(words: &str) -> String {
    run(&["ip"].into_iter().chain(words.split_whitespace()).collect::<Vec<_>>())
}

#[track_caller]
fn ip_json(words: &str) -> Vec<Value> {
    let text = ip(&format!("-j {words}"));
    // The tool prints nothing at all where there is nothing to list.
    if text.trim().is_empty() { Vec::new() } else { serde_json::from_str(&text).expect("JSON") }
}

fn family_flag(addr: IpAddr) -> &'static str {
    if addr.is_ipv4() { "-4" } else { "-6" }
}

/// Address with the prefix length of its subnet on the node's link.
fn on_subnet(addr: IpAddr) -> String {
    if addr.is_ipv4() { format!("{addr}/24") } else { format!("{addr}/64 nodad") }
}

fn address_of(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

impl VipsWorld for NodeNamespace {
    fn table(&mut self) -> &mut dyn VipTable {
        &mut self.client
    }

    fn add_node_address(&mut self, addr: IpAddr) {
        ip(&format!("addr add {} dev {NODE_LINK}", on_subnet(addr)));
        // The kernel makes an address of IPv6 local in a work queue: before that, nobody is reached there.
        testkit::wait_until(Duration::from_secs(20), "the address to be local", || {
            !ip(&format!("{} route show table local {addr}", family_flag(addr))).trim().is_empty()
        });
    }

    fn remove_node_address(&mut self, addr: IpAddr) {
        ip(&format!("addr del {} dev {NODE_LINK}", on_subnet(addr).trim_end_matches(" nodad")));
    }

    fn delete_link(&mut self) {
        ip(&format!("link del {LINK_NAME}"));
    }

    fn rename_link(&mut self) {
        // Kernels before 6.2 rename only what is down.
        if try_run(&["ip", "link", "set", LINK_NAME, "name", "renamed0"]).is_err() {
            ip(&format!("link set {LINK_NAME} down"));
            ip(&format!("link set {LINK_NAME} name renamed0"));
            ip("link set renamed0 up");
        }
    }

    fn set_link_down(&mut self) {
        ip(&format!("link set {LINK_NAME} down"));
    }

    fn add_foreign_link(&mut self) {
        ip(&format!("link add {LINK_NAME} type veth peer name foreign0"));
        ip(&format!("link set {LINK_NAME} up"));
    }

    fn add_address(&mut self, addr: IpAddr) {
        let prefix = if addr.is_ipv4() { "/32" } else { "/128 nodad" };
        ip(&format!("addr add {addr}{prefix} dev {LINK_NAME}"));
    }

    fn delete_address(&mut self, addr: IpAddr) {
        let prefix = if addr.is_ipv4() { "/32" } else { "/128" };
        ip(&format!("addr del {addr}{prefix} dev {LINK_NAME}"));
    }

    fn delete_route(&mut self, vip: IpAddr) {
        let family = family_flag(vip);
        let is_local = self.routes().iter().any(|(other, _)| *other == vip);
        let local = is_local.then(|| "local".to_owned());
        let steering = self.steered().contains(&vip).then(|| STEERING_TABLE.to_string());
        for table in local.into_iter().chain(steering) {
            ip(&format!("{family} route del local {vip} dev {LINK_NAME} table {table}"));
        }
    }

    fn steered(&mut self) -> Vec<IpAddr> {
        // The table of a family exists once it has had a route.
        let exists = |family: &&str| {
            try_run(&["ip", family, "route", "show", "table", &STEERING_TABLE.to_string()]).is_ok()
        };
        let list = |family| {
            ip_json(&format!("{family} route show table {STEERING_TABLE} type local proto {ROUTE_PROTOCOL}"))
        };
        let mut vips: Vec<_> = ["-4", "-6"]
            .into_iter()
            .filter(exists)
            .flat_map(list)
            .filter_map(|route| address_of(&route["dst"]))
            .collect();
        vips.sort_unstable();
        vips
    }

    fn rules(&mut self) -> Vec<(IpFamily, u8)> {
        let list = |(flag, family): (&str, IpFamily)| {
            let rules = ip_json(&format!("{flag} rule show table {STEERING_TABLE}"));
            rules.into_iter().map(move |rule| {
                assert_eq!(rule["priority"], RULE_PRIORITY, "{rule}");
                assert_eq!(rule["fwmark"], rule["fwmask"], "{rule}");
                let mark = rule["fwmark"].as_str().and_then(|mark| mark.strip_prefix("0x")).expect("a mark");
                let mark = u32::from_str_radix(mark, 16).expect("a number");
                (family, u8::try_from(mark.trailing_zeros()).expect("a bit"))
            })
        };
        let mut rules: Vec<_> =
            [("-4", IpFamily::V4), ("-6", IpFamily::V6)].into_iter().flat_map(list).collect();
        rules.sort_unstable();
        rules
    }

    fn delete_rules(&mut self) {
        for (family, bit) in self.rules() {
            let flag = family_flag(family.unspecified());
            ip(&format!("{flag} rule del fwmark {0:#x}/{0:#x} lookup {STEERING_TABLE}", 1_u32 << bit));
        }
    }

    fn addresses(&mut self) -> BTreeSet<IpAddr> {
        let links = ip_json(&format!("address show dev {LINK_NAME}"));
        let of_link = |link: &serde_json::Value| link["addr_info"].as_array().cloned().unwrap_or_default();
        let addresses = links.iter().flat_map(of_link).filter_map(|info| address_of(&info["local"]));
        let is_internal = |addr: &IpAddr| match addr {
            IpAddr::V4(addr) => addr.is_loopback(),
            IpAddr::V6(addr) => addr.is_unicast_link_local(),
        };
        addresses.filter(|addr| !is_internal(addr)).collect()
    }

    fn add_foreign_route(&mut self, addr: IpAddr) {
        let family = family_flag(addr);
        ip(&format!("{family} route add local {addr} dev lo table local proto {FOREIGN_PROTOCOL}"));
    }

    fn has_sctp(&mut self) -> bool {
        listen_over_sctp((NODE_V4, 0).into()).is_ok()
    }

    fn listen(&mut self, protocol: Protocol, addr: Option<IpAddr>, port: u16) {
        let everywhere = ["0.0.0.0", "::"].map(|addr| addr.parse().expect("an address"));
        for addr in addr.map_or(everywhere.to_vec(), |addr| vec![addr]) {
            let socket = match protocol {
                Protocol::Udp => UdpSocket::bind((addr, port)).map(OwnedFd::from),
                Protocol::Tcp => TcpListener::bind((addr, port)).map(OwnedFd::from),
                Protocol::Sctp => listen_over_sctp((addr, port).into()),
            };
            match socket {
                Ok(socket) => self.sockets.push(socket),
                // The socket of IPv6 gets the packets of IPv4 too.
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse && addr.is_unspecified() => {}
                Err(error) => panic!("listen on {addr}:{port}: {error}"),
            }
        }
    }

    fn connect(&mut self, addr: IpAddr, port: u16) -> u16 {
        let client = TcpStream::connect((addr, port)).expect("connect");
        let own = client.local_addr().expect("an address").port();
        self.sockets.push(client.into());
        own
    }

    fn stop_listening(&mut self) {
        self.sockets.clear();
    }

    fn link(&mut self) -> Option<ObservedLink> {
        let text = try_run(&["ip", "-j", "-d", "link", "show", "dev", LINK_NAME]).ok()?;
        let links: Vec<Value> = serde_json::from_str(&text).expect("JSON");
        let link = links.iter().find(|link| link["ifname"] == LINK_NAME)?;
        let flags = link["flags"].as_array().expect("flags");
        let dummy = link["linkinfo"]["info_kind"] == self.kind.as_str();
        Some(ObservedLink { dummy, up: flags.iter().any(|flag| flag == "UP") })
    }

    fn routes(&mut self) -> Vec<(IpAddr, Option<IpAddr>)> {
        let mut routes = Vec::new();
        for family in ["-4", "-6"] {
            for route in
                ip_json(&format!("{family} route show table local type local proto {ROUTE_PROTOCOL}"))
            {
                assert_eq!(route["dev"], LINK_NAME, "{route}");
                let vip = address_of(&route["dst"]).expect("a destination");
                routes.push((vip, address_of(&route["prefsrc"])));
            }
        }
        routes.sort();
        routes
    }

    fn foreign_routes(&mut self) -> BTreeSet<IpAddr> {
        ["-4", "-6"]
            .iter()
            .flat_map(|family| {
                ip_json(&format!("{family} route show table local type local proto {FOREIGN_PROTOCOL}"))
            })
            .filter_map(|route| address_of(&route["dst"]))
            .collect()
    }
}
