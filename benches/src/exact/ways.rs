//! Programs a node for one path: by kube-ipvs, by hand with no more than the path needs, and as kube-proxy does.

use std::{
    fmt::Write as _,
    net::{IpAddr, SocketAddr},
    path::Path as FilePath,
    time::Duration,
};

use anyhow::{Context, Result};
use e2e::{
    manifest::{Endpoint, Manifests, Service},
    net::{NODE, Net, OUTSIDE, Pod, cluster_ip},
    probe::Proto,
    proxy::{Proxy, Settings},
};
use testkit::{NetNs, try_output_with_input, try_wait_for};

use super::paths::{BALANCER, Client, NODE_PORT, Path, TARGET_PORT, To};
use crate::{
    objects::{self, Size},
    product::PROGRAMMED_SUFFIX,
};

/// Time for kube-ipvs to program everything.
const PATIENCE: Duration = Duration::from_secs(300);

/// Timeout of session affinity, as in the API by default.
const AFFINITY_SECONDS: u32 = 10_800;

/// Way of programming.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// A virtual server made by hand, with connection tracking, and one rule that masquerades where both others do.
    Bare,
    /// kube-ipvs.
    KubeIpvs,
    /// Virtual servers, addresses, ipsets and rules as kube-proxy's mode ipvs writes them.
    KubeProxy,
}

/// A node, and what is to be programmed there.
#[derive(Debug)]
pub struct Scene<'a> {
    /// Path of the packets.
    pub path: &'a Path,
    /// Node and outside client.
    pub net: &'a Net,
    /// The only endpoint.
    pub endpoint: &'a Pod,
    /// kube-ipvs.
    pub binary: &'a FilePath,
    /// Directory for files.
    pub directory: &'a FilePath,
}

impl Way {
    /// All of them, the one that the others are compared with first.
    pub const ALL: [Way; 3] = [Way::Bare, Way::KubeIpvs, Way::KubeProxy];

    /// Name of the way.
    pub const fn as_str(self) -> &'static str {
        match self {
            Way::Bare => "bare",
            Way::KubeIpvs => "kube-ipvs",
            Way::KubeProxy => "kube-proxy",
        }
    }

    /// Programs the node.
    pub fn program(self, scene: &Scene<'_>) -> Result<()> {
        match self {
            Way::Bare => scene.program_bare(),
            Way::KubeIpvs => scene.run_kube_ipvs(),
            Way::KubeProxy => scene.restore_kube_proxy(),
        }
    }
}

impl Scene<'_> {
    fn node(&self) -> &NetNs {
        &self.net.node
    }

    fn endpoint(&self) -> SocketAddr {
        SocketAddr::new(self.path.of_family(self.endpoint.address), TARGET_PORT)
    }

    /// Lines for `ipvsadm -R`: the virtual server of the path, and those of other Services.
    fn virtual_servers(&self) -> String {
        let persistent = if self.path.affinity { format!(" -p {AFFINITY_SECONDS}") } else { String::new() };
        let (front, endpoint) = (self.path.front(), self.endpoint());
        let mut text = format!("-A -t {front} -s rr{persistent}\n-a -t {front} -r {endpoint} -m -w 1\n");
        for other in self.others() {
            let rs = objects::pods(self.size(), other)[0];
            let vip = objects::vip(other);
            let _ = write!(text, "-A -t {vip}:80 -s rr\n-a -t {vip}:80 -r {rs}:8080 -m -w 1\n");
        }
        text
    }

    fn size(&self) -> Size {
        Size { services: self.path.others, endpoints: 1 }
    }

    fn others(&self) -> std::ops::Range<usize> {
        0..self.path.others
    }

    fn load(&self, program: &str, arguments: &[&str], input: &str) -> Result<()> {
        let mut command = self.node().command(program);
        command.args(arguments);
        try_output_with_input(&mut command, input)
            .with_context(|| format!("{program} with:\n{}", head(input)))?;
        Ok(())
    }

    fn set_parameters(&self) -> Result<()> {
        self.load("ipvsadm", &["-R"], &self.virtual_servers())?;
        let parameters = ["net.ipv4.ip_forward=1", "net.ipv4.vs.conntrack=1"];
        self.node().try_run(&["sysctl", "-qw", parameters[0], parameters[1]])?;
        Ok(())
    }

    fn program_bare(&self) -> Result<()> {
        self.set_parameters()?;
        let vip = self.path.front().ip();
        if self.path.is_to_vip() {
            let source = self.path.of_family(NODE);
            let lines = format!(
                "link add bare0 type dummy\nlink set bare0 up\nroute add local {vip} dev bare0 table local src {source}\n"
            );
            self.load("ip", &["-batch", "-"], &lines)?;
        }
        // Such a rule makes the kernel track connections, though no packet comes here.
        self.load("nft", &["-f", "-"], "table inet bare {\n chain unused {\n  ct state new accept\n }\n}\n")?;
        if self.path.takes_masquerading() {
            let family = if self.path.is_v6 { "ip6" } else { "ip" };
            let endpoint = self.endpoint().ip();
            let source = match self.path.from {
                Client::Itself => endpoint,
                _ => self.path.of_family(OUTSIDE),
            };
            let rules = format!(
                "table {family} bare {{\n chain postrouting {{\n  type nat hook postrouting priority 100;\n  \
                 {family} daddr {endpoint} {family} saddr {source} masquerade fully-random\n }}\n}}\n"
            );
            self.load("nft", &["-f", "-"], &rules)?;
        }
        Ok(())
    }

    /// The Service with all its addresses.
    fn service(&self) -> Service {
        let service = Service::new("web", cluster_ip(80), &[Proto::Tcp]);
        let service = if self.path.affinity { service.with_affinity(AFFINITY_SECONDS) } else { service };
        match self.path.to {
            To::ClusterIp => service,
            To::NodePort => service.with_node_port(NODE_PORT, "Cluster"),
            To::Routed | To::Steered => service.with_balancer(BALANCER, "Cluster", &[]),
        }
    }

    /// Runs kube-ipvs until everything is programmed. Then it ends, so that nothing but traffic is counted.
    fn run_kube_ipvs(&self) -> Result<()> {
        let mut settings = Settings::new(self.binary, self.directory);
        if self.path.to == To::Routed {
            settings.flags.push("--load-balancer-ip-binding=route".to_owned());
        }
        let manifests = Manifests::new(&settings.manifests);
        manifests.serve(&self.service(), &[Endpoint::ready(self.endpoint)]);
        if self.path.others > 0 {
            let mut text = String::new();
            // The Node is there already.
            for object in objects::all_json(self.size()).skip(1) {
                let _ = writeln!(text, "{object}");
            }
            manifests.write("others.json", &text);
        }
        let mut proxy = Proxy::start(self.node(), &settings);
        try_wait_for(PATIENCE, "kube-ipvs to program everything", || {
            proxy.assert_running();
            let log = proxy.log();
            if log.contains(PROGRAMMED_SUFFIX) { Ok(()) } else { Err(log) }
        })?;
        proxy.kill();
        Ok(())
    }

    fn restore_kube_proxy(&self) -> Result<()> {
        self.set_parameters()?;
        let is_v6 = self.path.is_v6;
        let mut lines = "link add kube-ipvs0 type dummy\n".to_owned();
        for vip in self.vips() {
            let _ = writeln!(lines, "address add {vip} dev kube-ipvs0{}", if is_v6 { " nodad" } else { "" });
        }
        self.load("ip", &["-batch", "-"], &lines)?;
        self.load("ipset", &["restore"], &self.sets())?;
        let parameters = ["net.ipv4.vs.expire_nodest_conn=1", "net.ipv4.vs.expire_quiescent_template=1"];
        self.node().try_run(&["sysctl", "-qw", parameters[0], parameters[1]])?;
        let restore = if is_v6 { "ip6tables-nft-restore" } else { "iptables-nft-restore" };
        self.load(restore, &["--noflush"], &self.rules())
    }

    /// ClusterIPs and ingress IPs.
    fn vips(&self) -> impl Iterator<Item = IpAddr> {
        let own = match self.path.to {
            To::Routed | To::Steered => vec![cluster_ip(80), BALANCER],
            To::ClusterIp | To::NodePort => vec![cluster_ip(80)],
        };
        let own: Vec<_> = own.into_iter().map(|both| self.path.of_family(both)).collect();
        own.into_iter().chain(self.others().map(|other| objects::vip(other).into()))
    }

    /// Prefix of the names of kube-proxy's sets.
    const fn prefix(&self) -> &'static str {
        if self.path.is_v6 { "KUBE-6-" } else { "KUBE-" }
    }

    /// Sets of kube-proxy, for `ipset restore`.
    fn sets(&self) -> String {
        let prefix = self.prefix();
        let family = if self.path.is_v6 { "inet6" } else { "inet" };
        let size = format!("family {family} hashsize 1024 maxelem 65536");
        let mut text = format!(
            "create {prefix}LOOP-BACK hash:ip,port,ip {size}\ncreate {prefix}IPVS-IPS hash:ip {size}\n\
             create {prefix}NODE-PORT-TCP bitmap:port range 0-65535\n\
             create {prefix}HEALTH-CHECK-NODE-PORT bitmap:port range 0-65535\n"
        );
        for set in ["CLUSTER-IP", "EXTERNAL-IP", "EXTERNAL-IP-LOCAL", "LOAD-BALANCER"] {
            let _ = writeln!(text, "create {prefix}{set} hash:ip,port {size}");
        }
        let endpoint = self.endpoint().ip();
        let _ = writeln!(text, "add {prefix}LOOP-BACK {endpoint},tcp:{TARGET_PORT},{endpoint}");
        let cluster_ip = self.path.of_family(cluster_ip(80));
        let others = self.others().map(|other| objects::vip(other).into());
        for vip in others.chain([cluster_ip]) {
            let _ = writeln!(text, "add {prefix}CLUSTER-IP {vip},tcp:80");
        }
        for vip in self.vips() {
            let _ = writeln!(text, "add {prefix}IPVS-IPS {vip}");
        }
        match self.path.to {
            To::NodePort => _ = writeln!(text, "add {prefix}NODE-PORT-TCP {NODE_PORT}"),
            To::Routed | To::Steered => {
                let _ = writeln!(text, "add {prefix}LOAD-BALANCER {},tcp:80", self.path.of_family(BALANCER));
            }
            To::ClusterIp => {}
        }
        text
    }

    /// Chains and rules of kube-proxy, for `iptables-restore`; a rule about an empty set is left out, as it does.
    fn rules(&self) -> String {
        let prefix = self.prefix();
        let (loopback, pods, reject) = if self.path.is_v6 {
            ("::1/128", "fd00:244::/56", "icmp6-port-unreachable")
        } else {
            ("127.0.0.0/8", "10.244.0.0/16", "icmp-port-unreachable")
        };
        let (mut services, mut node_ports) = (String::new(), String::new());
        let balancer = matches!(self.path.to, To::Routed | To::Steered);
        if balancer {
            let _ = writeln!(
                services,
                "-A KUBE-SERVICES -m set --match-set {prefix}LOAD-BALANCER dst,dst -j KUBE-LOAD-BALANCER"
            );
        }
        let _ = writeln!(
            services,
            "-A KUBE-SERVICES ! -s {pods} -m set --match-set {prefix}CLUSTER-IP dst,dst -j KUBE-MARK-MASQ\n\
             -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODE-PORT\n\
             -A KUBE-SERVICES -m set --match-set {prefix}CLUSTER-IP dst,dst -j ACCEPT"
        );
        if balancer {
            let _ = writeln!(
                services,
                "-A KUBE-SERVICES -m set --match-set {prefix}LOAD-BALANCER dst,dst -j ACCEPT"
            );
        }
        if self.path.to == To::NodePort {
            let _ = writeln!(
                node_ports,
                "-A KUBE-NODE-PORT -p tcp -m set --match-set {prefix}NODE-PORT-TCP dst -j KUBE-MARK-MASQ"
            );
        }
        format!(
            "*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-POSTROUTING - [0:0]\n:KUBE-NODE-PORT - [0:0]\n\
             :KUBE-LOAD-BALANCER - [0:0]\n:KUBE-MARK-MASQ - [0:0]\n\
             -A PREROUTING -j KUBE-SERVICES\n-A OUTPUT -j KUBE-SERVICES\n-A POSTROUTING -j KUBE-POSTROUTING\n\
             -A KUBE-SERVICES -s {loopback} -j RETURN\n{services}{node_ports}\
             -A KUBE-LOAD-BALANCER -j KUBE-MARK-MASQ\n-A KUBE-MARK-MASQ -j MARK --or-mark 0x4000\n\
             -A KUBE-POSTROUTING -m set --match-set {prefix}LOOP-BACK dst,dst,src -j MASQUERADE\n\
             -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN\n\
             -A KUBE-POSTROUTING -j MARK --xor-mark 0x4000\n-A KUBE-POSTROUTING -j MASQUERADE --random-fully\nCOMMIT\n\
             *filter\n:KUBE-FORWARD - [0:0]\n:KUBE-NODE-PORT - [0:0]\n:KUBE-PROXY-FIREWALL - [0:0]\n\
             :KUBE-IPVS-FILTER - [0:0]\n:KUBE-IPVS-OUT-FILTER - [0:0]\n\
             -A INPUT -j KUBE-IPVS-FILTER\n-A INPUT -j KUBE-PROXY-FIREWALL\n-A INPUT -j KUBE-NODE-PORT\n\
             -A OUTPUT -j KUBE-IPVS-OUT-FILTER\n-A FORWARD -j KUBE-PROXY-FIREWALL\n-A FORWARD -j KUBE-FORWARD\n\
             -A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT\n\
             -A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT\n\
             -A KUBE-NODE-PORT -m set --match-set {prefix}HEALTH-CHECK-NODE-PORT dst -j ACCEPT\n\
             {filter}\
             -A KUBE-IPVS-FILTER -m set --match-set {prefix}HEALTH-CHECK-NODE-PORT dst -j RETURN\n\
             -A KUBE-IPVS-FILTER -m conntrack --ctstate NEW -m set --match-set {prefix}IPVS-IPS dst -j REJECT \
             --reject-with {reject}\nCOMMIT\n",
            filter = ["LOAD-BALANCER", "CLUSTER-IP", "EXTERNAL-IP", "EXTERNAL-IP-LOCAL"]
                .map(|set| format!(
                    "-A KUBE-IPVS-FILTER -m set --match-set {prefix}{set} dst,dst -j RETURN\n"
                ))
                .concat(),
        )
    }
}

/// Beginning of an input, for errors.
fn head(input: &str) -> String {
    input.lines().take(60).collect::<Vec<_>>().join("\n")
}
