//! A pod: a namespace, a link to the node, and a server process.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
};

use testkit::NetNs;

use super::{Both, Client, PodNetwork, ProbeProgram, ip};
use crate::probe::Proto;

/// A pod. Dropping it kills its process and takes its network away.
#[derive(Debug)]
pub struct Pod {
    /// Name with which its server answers.
    pub name: String,
    /// Addresses of the pod.
    pub address: Both,
    /// Network of the pod.
    pub namespace: NetNs,
    node: NetNs,
    /// Node's end of its link; `None` once its network is gone.
    link: Option<String>,
    server: Option<Server>,
}

impl Pod {
    /// Makes the namespace and connects it by a link that has the number in its name.
    pub(super) fn connect(node: &NetNs, network: PodNetwork, name: &str, number: u8, address: Both) -> Pod {
        let namespace = NetNs::create();
        let link = match network {
            PodNetwork::Bridge => connect_bridged(node, &namespace, address, number),
            PodNetwork::Routed => connect_routed(node, &namespace, address, number),
        };
        ip::sysctls(&namespace, &[("net/ipv4/ping_group_range", "0 0")]);
        Pod { name: name.to_owned(), address, namespace, node: node.clone(), link: Some(link), server: None }
    }

    /// Starts the server: every transport on every port and both addresses.
    pub(super) fn serve(&mut self, program: &ProbeProgram, ports: &[u16]) {
        let mut listeners = Vec::new();
        for at in ports.iter().flat_map(|&port| self.address.port(port)) {
            listeners.extend(Proto::ALL.map(|proto| (proto, at.to_string())));
        }
        self.server = Some(Server::start(&self.namespace, program, &self.name, &listeners));
    }

    /// A client inside this pod.
    pub fn client(&self) -> Client {
        Client { place: format!("pod {}", self.name), namespace: self.namespace.clone(), own: self.address }
    }

    /// Kills the process; the network stays, so the kernel in the pod resets what arrives.
    pub fn kill(&mut self) {
        self.server = None;
    }

    /// Lets the pod neither hear nor say anything any more, not even that: its node has died.
    pub fn fall_silent(&self) {
        self.die("drop");
    }

    /// Does the same, but senders get the answer that there is no such host: the pod's node lives, and has
    /// deleted it by force.
    pub fn become_unreachable(&self) {
        self.die("reject with icmpx type host-unreachable");
    }

    /// Gives everything that arrives the same fate, except that the address can still be found. The kernel
    /// behind it must not repeat what was not acknowledged.
    fn die(&self, verdict: &str) {
        let rules = [
            "add table inet dead",
            "add chain inet dead output { type filter hook output priority 0; policy drop; }",
            "add rule inet dead output meta l4proto { icmp, ipv6-icmp } accept",
            "add chain inet dead input { type filter hook input priority 0; }",
            "add rule inet dead input meta l4proto ipv6-icmp accept",
            &format!("add rule inet dead input {verdict}"),
        ];
        self.namespace.run(&["nft", &rules.join("; ")]);
    }

    /// Takes the network away as the end of a sandbox does: nobody has the address any more.
    pub fn disconnect(&mut self) {
        if let Some(link) = self.link.take() {
            // A link that is gone already is as good: the topology may be on its way out.
            let _ = self.node.try_run(&["ip", "link", "delete", &link]);
        }
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        self.kill();
        self.disconnect();
    }
}

fn connect_routed(node: &NetNs, pod: &NetNs, address: Both, number: u8) -> String {
    let link = format!("cali{number}");
    let Both { v4, v6 } = address;
    let lines = format!(
        "link add name {link} type veth peer name eth0 netns {peer}\n\
         link set {link} addrgenmode none\n\
         address add fe80::1/64 dev {link} nodad\n\
         link set {link} up\n\
         route add {v4}/32 dev {link}\n\
         route add {v6}/128 dev {link}\n",
        peer = ip::path(pod),
    );
    ip::batch(node, &lines);
    let arp = [format!("net/ipv4/conf/{link}/proxy_arp"), format!("net/ipv4/neigh/{link}/proxy_delay")];
    ip::sysctls(node, &[(&arp[0], "1"), (&arp[1], "0")]);
    let lines = format!(
        "link set eth0 addrgenmode none\n\
         address add {v4}/32 dev eth0\n\
         address add {v6}/128 dev eth0 nodad\n\
         address add fe80::2/64 dev eth0 nodad\n\
         link set eth0 up\n\
         route add 169.254.1.1 dev eth0 scope link\n\
         route add default via 169.254.1.1 dev eth0\n\
         route add default via fe80::1 dev eth0\n",
    );
    ip::batch(pod, &lines);
    link
}

fn connect_bridged(node: &NetNs, pod: &NetNs, address: Both, number: u8) -> String {
    let link = format!("veth{number}");
    let Both { v4, v6 } = address;
    // CNI plug-ins set hairpin mode, too; a pod that reaches itself through the node does not depend on it.
    let lines = format!(
        "link add name {link} type veth peer name eth0 netns {peer}\n\
         link set {link} addrgenmode none\n\
         link set {link} master cni0\n\
         link set {link} type bridge_slave hairpin on\n\
         link set {link} up\n",
        peer = ip::path(pod),
    );
    ip::batch(node, &lines);
    let lines = format!(
        "link set eth0 addrgenmode none\n\
         address add {v4}/24 dev eth0\n\
         address add {v6}/64 dev eth0 nodad\n\
         address add fe80::{number:x}/64 dev eth0 nodad\n\
         link set eth0 up\n\
         route add default via {}\n\
         route add default via {}\n",
        super::BRIDGE.v4,
        super::BRIDGE.v6,
    );
    ip::batch(pod, &lines);
    link
}

/// A running server process; dropping it kills it.
#[derive(Debug)]
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts it and waits until it accepts.
    pub(super) fn start(
        namespace: &NetNs,
        program: &ProbeProgram,
        name: &str,
        listeners: &[(Proto, String)],
    ) -> Server {
        let mut command = namespace.command(&program.path);
        command.args(&program.prefix).args(["serve", "--name", name]);
        for (proto, at) in listeners {
            command.arg(format!("--{proto}").to_lowercase()).arg(at);
        }
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = testkit::die_with_thread(&mut command)
            .spawn()
            .unwrap_or_else(|error| panic!("start {}: {error}", program.path.display()));
        let mut line = String::new();
        let stdout = child.stdout.take().expect("standard output is a pipe");
        // This ends at the latest when the child does.
        let read = BufReader::new(stdout).read_line(&mut line);
        assert!(read.is_ok() && line == "ready\n", "the server {name} did not start, its reason is above");
        Server { child }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
