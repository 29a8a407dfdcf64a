//! A node with pods and a client outside, as network namespaces.
//!
//! ```text
//! outside 192.0.2.2 --- eth0 192.0.2.1 node --- veth-a --- pod A 10.244.0.10   (an interface of its own)
//!                                           --- cbr0   --- pod B 10.244.0.11   (behind a bridge)
//!                                           --- srv    --- server 10.244.0.12
//! ```
//!
//! IPv6 alike: fd00:2::1, fd00:2::2, fd00:244::10 and so on. Pods have /32 and /128 addresses and reach everything
//! through the node, which is 10.244.0.1 and fd00:244::1 to them.

use lb_types::IpFamily;
use testkit::NetNs;

/// The namespaces.
pub struct Net {
    pub node: NetNs,
    pub outside: NetNs,
    pub pod_a: NetNs,
    pub pod_b: NetNs,
    pub server: NetNs,
}

/// Opener of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    Outside,
    PodA,
    PodB,
    Node,
    /// The pod that serves: it reaches itself.
    Server,
}

/// An address per family.
#[derive(Clone, Copy, Debug)]
pub struct Both(pub &'static str, pub &'static str);

impl Both {
    pub fn of(self, family: IpFamily) -> &'static str {
        match family {
            IpFamily::V4 => self.0,
            IpFamily::V6 => self.1,
        }
    }
}

pub const NODE: Both = Both("192.0.2.1", "fd00:2::1");
pub const GATEWAY: Both = Both("10.244.0.1", "fd00:244::1");
pub const SERVER: Both = Both("10.244.0.12", "fd00:244::12");

impl Client {
    /// Its own address: what an endpoint sees of it without masquerading.
    pub fn address(self) -> Both {
        match self {
            Client::Outside => Both("192.0.2.2", "fd00:2::2"),
            Client::PodA => Both("10.244.0.10", "fd00:244::10"),
            Client::PodB => Both("10.244.0.11", "fd00:244::11"),
            Client::Node => NODE,
            Client::Server => SERVER,
        }
    }
}

impl Net {
    pub fn create() -> Net {
        let net = Net {
            node: NetNs::create(),
            outside: NetNs::create(),
            pod_a: NetNs::create(),
            pod_b: NetNs::create(),
            server: NetNs::create(),
        };
        net.node.enter(|| {
            for key in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/{key}"), "1").expect("switch forwarding on");
            }
        });
        net.connect_outside();
        net.connect_pod(&net.pod_a, "veth-a", Client::PodA);
        net.connect_bridge();
        net.connect_pod(&net.server, "srv", Client::Server);
        net
    }

    pub fn of(&self, client: Client) -> &NetNs {
        match client {
            Client::Outside => &self.outside,
            Client::PodA => &self.pod_a,
            Client::PodB => &self.pod_b,
            Client::Node => &self.node,
            Client::Server => &self.server,
        }
    }

    /// Makes VIPs local to the node, as a binding of kind `route` does, and routes them there from outside.
    pub fn bind(&self, vips: Both) {
        let Both(v4, v6) = vips;
        self.node.sh(&format!("ip route add local {v4} dev lo table local src {}", NODE.0));
        self.node.sh(&format!("ip -6 route add local {v6} dev lo table local src {}", NODE.1));
        self.outside.sh(&format!("ip route add {v4} via {}", NODE.0));
        self.outside.sh(&format!("ip -6 route add {v6} via {}", NODE.1));
    }

    fn connect_outside(&self) {
        veth(&self.node, "eth0", &self.outside);
        for (ns, address) in [(&self.node, NODE), (&self.outside, Client::Outside.address())] {
            ns.sh(&format!("ip address add {}/24 dev eth0", address.0));
            ns.sh(&format!("ip address add {}/64 dev eth0 nodad", address.1));
        }
        for pods in ["10.244.0.0/24 via 192.0.2.1", "fd00:244::/64 via fd00:2::1"] {
            self.outside.sh(&format!("ip route add {pods}"));
        }
    }

    fn connect_bridge(&self) {
        self.node.sh("ip link add cbr0 type bridge");
        self.node.sh("ip link set cbr0 up");
        veth(&self.node, "port-b", &self.pod_b);
        self.node.sh("ip link set port-b master cbr0");
        self.address_pod(&self.pod_b, "cbr0", Client::PodB);
    }

    fn connect_pod(&self, pod: &NetNs, link: &str, client: Client) {
        veth(&self.node, link, pod);
        self.address_pod(pod, link, client);
    }

    fn address_pod(&self, pod: &NetNs, link: &str, client: Client) {
        let Both(v4, v6) = client.address();
        self.node.sh(&format!("ip address add {}/32 dev {link}", GATEWAY.0));
        self.node.sh(&format!("ip address add {}/128 dev {link} nodad", GATEWAY.1));
        self.node.sh(&format!("ip route add {v4} dev {link}"));
        self.node.sh(&format!("ip route add {v6} dev {link}"));
        pod.sh(&format!("ip address add {v4}/32 dev eth0"));
        pod.sh(&format!("ip address add {v6}/128 dev eth0 nodad"));
        for gateway in [GATEWAY.0, GATEWAY.1] {
            pod.sh(&format!("ip route add {gateway} dev eth0"));
            pod.sh(&format!("ip route add default via {gateway} dev eth0"));
        }
    }
}

/// A cable from `link` in the node to `eth0` in another namespace, which is that of the command's process.
pub fn veth(node: &NetNs, link: &str, other: &NetNs) {
    // `ip` finds a namespace by a process in it.
    let mut process = other.command("sleep").arg("1000").spawn().expect("start a process in the namespace");
    node.sh(&format!("ip link add {link} type veth peer name eth0 netns {}", process.id()));
    node.sh(&format!("ip link set {link} up"));
    other.sh("ip link set eth0 up");
    process.kill().expect("end the process");
    process.wait().expect("wait for the process");
}
