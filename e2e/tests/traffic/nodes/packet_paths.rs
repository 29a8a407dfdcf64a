//! Ways of a packet to a Service, in every combination of client, front, policy and endpoints, in both families and
//! over all transports, through two nodes.
//!
//! [`TABLE`] is all that is expected. It can be read beside the documentation of Kubernetes: "Virtual IPs and Service
//! Proxies" (traffic policies), "Service Internal Traffic Policy", "Using Source IP" and "Create an External Load
//! Balancer" (preserving the client source IP).

use std::{
    collections::BTreeSet,
    fmt,
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use e2e::{
    manifest::Service,
    net::{Both, CLIENT_TIMEOUT, Client, cluster_ip},
    probe::Proto,
};

use super::{A, B, Cluster, Got, SILENCE, collect};
use crate::testbed::WAIT_LIMIT;

/// Client, as the node that serves the connection sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Caller {
    /// A pod of that node.
    Pod,
    /// A process of that node.
    Process,
    /// Any other.
    Outside,
}

/// Place where clients reach a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Front {
    ClusterIp,
    NodePort,
    ExternalIp,
    LoadBalancer,
}
const FRONTS: [Front; 4] = [Front::ClusterIp, Front::NodePort, Front::ExternalIp, Front::LoadBalancer];

/// `internalTrafficPolicy` for a ClusterIP, `externalTrafficPolicy` for every other front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Cluster,
    Local,
}

/// Endpoints that answer. A Service without any endpoint refuses everybody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reaches {
    /// All of them.
    All,
    /// Those of the node that serves; without one, the client is refused.
    OfNodeOrRefused,
    /// Those of the node that serves; without one, the client hears nothing, so that it is not told to give up what
    /// another node can serve.
    OfNodeOrNothing,
}

/// Source that an endpoint sees. A pod that reaches itself is always seen as the node that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sees {
    Client,
    /// The node that serves.
    Node,
}

/// Line of the table.
struct Row(&'static [Front], Policy, &'static [Caller], Reaches, Sees);

/// Expectations. Every combination of front, policy and client is in exactly one line.
const TABLE: &[Row] = {
    use Caller::{Outside, Pod, Process};
    use Front::{ClusterIp, ExternalIp, LoadBalancer, NodePort};
    use Policy::{Cluster, Local};
    use Reaches::{All, OfNodeOrNothing, OfNodeOrRefused};
    use Sees::{Client, Node};
    &[
        Row(&[ClusterIp], Cluster, &[Pod], All, Client),
        // Nodes route ClusterIPs for nobody, but where one does, answers must come back through it.
        Row(&[ClusterIp], Cluster, &[Process, Outside], All, Node),
        Row(&[ClusterIp], Local, &[Pod], OfNodeOrRefused, Client),
        Row(&[ClusterIp], Local, &[Process, Outside], OfNodeOrRefused, Node),
        Row(&[ExternalIp, LoadBalancer], Cluster, &[Pod], All, Client),
        Row(&[ExternalIp, LoadBalancer], Cluster, &[Process, Outside], All, Node),
        // The kernel knows a node port by the node's address alone, which pods of other nodes call too.
        Row(&[NodePort], Cluster, &[Pod, Process, Outside], All, Node),
        // Pods and processes of the node are inside of the cluster: its external traffic policy is not about them.
        Row(&[NodePort, ExternalIp, LoadBalancer], Local, &[Pod], All, Client),
        Row(&[NodePort, ExternalIp, LoadBalancer], Local, &[Process], All, Node),
        Row(&[NodePort, ExternalIp, LoadBalancer], Local, &[Outside], OfNodeOrNothing, Client),
    ]
};

/// Place of a client. All but those of `node-b` are served by `node-a`, which has the endpoint `a-1`; `b-1` is on
/// `node-b`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    ProcessOfA,
    /// A pod that is no endpoint.
    PodOfA,
    /// The endpoint itself.
    EndpointOfA,
    ProcessOfB,
    PodOfB,
    Outside,
}
const PLACES: [Place; 6] =
    [Place::ProcessOfA, Place::PodOfA, Place::EndpointOfA, Place::ProcessOfB, Place::PodOfB, Place::Outside];

impl Place {
    fn client(self, cluster: &Cluster) -> Client {
        match self {
            Place::ProcessOfA => cluster.process(A),
            Place::PodOfA => cluster.pod_client(A, 2),
            Place::EndpointOfA => cluster.pod_client(A, 1),
            Place::ProcessOfB => cluster.process(B),
            Place::PodOfB => cluster.pod_client(B, 2),
            Place::Outside => cluster.segment.outside_client(),
        }
    }
}

/// Way in which nodes tell their own pods from other clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Detection {
    /// By the range of the whole cluster: pods of other nodes count as a node's own.
    ClusterCidr,
    /// By the range of the node.
    NodeCidr,
}

/// Endpoints of a Service: `a-1`, `b-1`, both, or none.
type Endpoints = &'static [&'static str];
const ENDPOINTS: [Endpoints; 4] = [&["a-1"], &["b-1"], &["a-1", "b-1"], &[]];

/// Service for one front, policy and choice of endpoints.
#[derive(Clone, Copy, Debug)]
struct Target {
    front: Front,
    policy: Policy,
    endpoints: Endpoints,
    /// Last part of its addresses and of its node port.
    number: u8,
}

fn targets() -> Vec<Target> {
    let policies =
        FRONTS.into_iter().flat_map(|front| [Policy::Cluster, Policy::Local].map(|policy| (front, policy)));
    let all = policies.flat_map(|(front, policy)| ENDPOINTS.map(|endpoints| (front, policy, endpoints)));
    (1..)
        .zip(all)
        .map(|(number, (front, policy, endpoints))| Target { front, policy, endpoints, number })
        .collect()
}

impl Target {
    /// Its Service. The policy for the other kind of fronts is the opposite one, so that neither passes for the other.
    fn service(&self) -> Service {
        let [this, other] = match self.policy {
            Policy::Cluster => ["Cluster", "Local"],
            Policy::Local => ["Local", "Cluster"],
        };
        let service = Service::new(&format!("path-{}", self.number), cluster_ip(self.number), &Proto::ALL);
        let node_port = 30_000 + u16::from(self.number);
        match self.front {
            Front::ClusterIp => service.with_node_port(node_port, other).with_internal_policy(this),
            Front::NodePort => service.with_node_port(node_port, this).with_internal_policy(other),
            Front::ExternalIp => service.with_external_ips(self.external(), this).with_internal_policy(other),
            Front::LoadBalancer => {
                service.with_balancer(self.external(), this, &[]).with_internal_policy(other)
            }
        }
    }

    /// Its external addresses; those of documentation (RFC 5737, RFC 3849), which no link has.
    fn external(&self) -> Both {
        Both {
            v4: [192, 0, 2, self.number].into(),
            v6: [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(self.number)].into(),
        }
    }

    /// Addresses that clients call, IPv4 first.
    fn addresses(&self, cluster: &Cluster) -> [SocketAddr; 2] {
        match self.front {
            Front::ClusterIp => cluster_ip(self.number).port(80),
            Front::NodePort => cluster.segment.nodes[A].address.port(30_000 + u16::from(self.number)),
            Front::ExternalIp | Front::LoadBalancer => self.external().port(80),
        }
    }
}

/// Question: one client asks one Service.
#[derive(Clone, Copy, Debug)]
struct Path {
    place: Place,
    target: Target,
    proto: Proto,
    to: SocketAddr,
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Path { place, target: Target { front, policy, endpoints, .. }, proto, to } = self;
        write!(f, "{place:?} -> {front:?}, {policy:?}, endpoints {endpoints:?}, {proto} {to}")
    }
}

impl Path {
    /// Node that serves the client, and the client as that node sees it.
    fn served_by(&self, detection: Detection) -> (&'static str, Caller) {
        match (self.place, self.target.front) {
            (Place::ProcessOfA, _) => ("node-a", Caller::Process),
            (Place::PodOfA | Place::EndpointOfA, _) => ("node-a", Caller::Pod),
            (Place::Outside, _) => ("node-a", Caller::Outside),
            // All node ports are those of node-a.
            (Place::PodOfB, Front::NodePort) if detection == Detection::ClusterCidr => {
                ("node-a", Caller::Pod)
            }
            (Place::ProcessOfB | Place::PodOfB, Front::NodePort) => ("node-a", Caller::Outside),
            (Place::ProcessOfB, _) => ("node-b", Caller::Process),
            (Place::PodOfB, _) => ("node-b", Caller::Pod),
        }
    }

    fn expected(&self, detection: Detection) -> BTreeSet<Got> {
        let (node, caller) = self.served_by(detection);
        let Target { front, policy, endpoints, .. } = self.target;
        let rows: Vec<_> = TABLE
            .iter()
            .filter(|Row(fronts, of, callers, ..)| {
                fronts.contains(&front) && *of == policy && callers.contains(&caller)
            })
            .collect();
        let [Row(.., reaches, sees)] = rows[..] else {
            panic!("{} lines for {caller:?} -> {front:?}, {policy:?}", rows.len());
        };
        let is_of_node = |endpoint: &str| endpoint.chars().next() == node.chars().next_back();
        let reached: Vec<&str> = endpoints
            .iter()
            .copied()
            .filter(|endpoint| *reaches == Reaches::All || is_of_node(endpoint))
            .collect();
        if reached.is_empty() {
            let silent = *reaches == Reaches::OfNodeOrNothing && !endpoints.is_empty();
            return [if silent { Got::Nothing } else { self.refused() }].into();
        }
        // The range of the whole cluster does not tell whose pod it is, so that an endpoint of another node may be on its.
        let may_bypass = caller == Caller::Pod
            && front == Front::NodePort
            && policy == Policy::Local
            && detection == Detection::ClusterCidr;
        let answer = |endpoint: &str| match (*sees, self.place) {
            (Sees::Node, _) => Got::node(endpoint, node),
            (Sees::Client, _) if may_bypass && !is_of_node(endpoint) => Got::node(endpoint, node),
            (Sees::Client, Place::EndpointOfA) if endpoint == "a-1" => Got::node(endpoint, node),
            (Sees::Client, Place::ProcessOfB) => Got::node(endpoint, "node-b"),
            (Sees::Client, _) => Got::own(endpoint),
        };
        reached.into_iter().map(answer).collect()
    }

    /// A refusal, which SCTP over IPv6 knows as silence alone (docs/limits.md).
    fn refused(&self) -> Got {
        if self.proto == Proto::Sctp && self.to.is_ipv6() { Got::Nothing } else { Got::Refused }
    }
}

/// Number of deviations after which a walk ends: each may have cost a whole timeout, and these say what is wrong.
const MOST_DEVIATIONS: usize = 50;

/// Asks along all paths, with as many workers at each place; returns what is not as expected.
fn walk(
    cluster: &Cluster,
    paths: &[Path],
    detection: Detection,
    timeout: Duration,
    workers: usize,
) -> Vec<String> {
    let of_place = |place| paths.iter().filter(move |path| path.place == place).collect::<Vec<_>>();
    let places = PLACES.map(|place| (place.client(cluster), of_place(place), AtomicUsize::new(0)));
    let deviations = Mutex::new(Vec::new());
    let work = |(client, paths, next): &(Client, Vec<&Path>, AtomicUsize)| {
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            let expected = path.expected(detection);
            // One answer would not show that the other endpoint does not answer.
            let fewest = if path.target.endpoints.len() > 1 { 4 } else { 1 };
            let got =
                collect(&expected, fewest, || cluster.ask_from_here(client, path.proto, path.to, timeout));
            if got != expected {
                let line = format!("{path}: {} instead of {}", list(&got), list(&expected));
                let mut deviations = deviations.lock().expect("no thread panics with it");
                deviations.push(line);
                if deviations.len() >= MOST_DEVIATIONS {
                    next.store(paths.len(), Ordering::Relaxed);
                }
            }
        }
    };
    thread::scope(|scope| {
        for place in &places {
            for _ in 0..workers.min(place.1.len()) {
                scope.spawn(|| place.0.namespace.enter(|| work(place)));
            }
        }
    });
    let mut deviations = deviations.into_inner().expect("no thread panics with it");
    deviations.sort();
    deviations
}

fn list(got: &BTreeSet<Got>) -> String {
    got.iter().map(Got::to_string).collect::<Vec<_>>().join(", ")
}

/// Returns what is not as expected, once both nodes serve everything or have had the time for it.
fn deviations(cluster: &Cluster, paths: &[Path], detection: Detection) -> Vec<String> {
    let is_silent = |path: &&Path| path.expected(detection).contains(&Got::Nothing);
    let (silent, heard): (Vec<&Path>, Vec<&Path>) = paths.iter().partition(is_silent);
    let [silent, heard] = [silent, heard].map(|paths| paths.into_iter().copied().collect::<Vec<_>>());
    let pods: Vec<_> = heard
        .iter()
        .filter(|path| path.proto == Proto::Tcp && matches!(path.place, Place::PodOfA | Place::PodOfB))
        .copied()
        .collect();
    let began = Instant::now();
    while !walk(cluster, &pods, detection, SILENCE, 4).is_empty() && began.elapsed() < WAIT_LIMIT {}
    let began = Instant::now();
    let mut deviations = walk(cluster, &heard, detection, CLIENT_TIMEOUT, 4);
    deviations.extend(walk(cluster, &silent, detection, SILENCE, 32));
    println!(
        "{detection:?}: {} paths, {} of them silent, in {:.1} s: {} deviations",
        paths.len(),
        silent.len(),
        began.elapsed().as_secs_f64(),
        deviations.len()
    );
    deviations
}

/// Lifts the kernel's limit on ICMP errors, which would turn refusals into silence for a client that asks so often.
fn refuse_often(cluster: &Cluster) {
    for node in &cluster.segment.nodes {
        node.namespace.enter(|| {
            for file in ["ipv4/icmp_ratelimit", "ipv6/icmp/ratelimit"] {
                std::fs::write(format!("/proc/sys/net/{file}"), "0")
                    .unwrap_or_else(|error| panic!("{file}: {error}"));
            }
        });
    }
}

/// Conformance: e2e/service should preserve source pod IP for traffic thru service cluster IP
/// Conformance: e2e/service should allow pods to hairpin back to themselves through services
/// Conformance: e2e/service should be able to create a functioning NodePort service
/// Conformance: e2e/service should be possible to connect to a service via ExternalIP when the external IP is not assigned to a node
/// Conformance: e2e/service should be rejected when no endpoints exist
/// Conformance: e2e/service should serve endpoints on same port and different protocols
/// Conformance: e2e/service should serve endpoints on same port and different protocol for internal traffic on Type LoadBalancer
/// Conformance: e2e/service should support externalTrafficPolicy=Local for type=NodePort
/// Conformance: e2e/networking should function for pod-Service, node-Service, endpoint-Service: http, udp, sctp
/// Conformance: e2e/networking should support basic nodePort: udp functionality
/// Conformance: e2e/loadbalancer should work for type=LoadBalancer (ESIPP)
/// Conformance: e2e/loadbalancer should work from pods
#[test]
fn packets_take_the_ways_that_the_table_says() {
    let mut cluster = Cluster::new(2, 2);
    refuse_often(&cluster);
    cluster.segment.route_to_node(A, &["192.0.2.0/24", "2001:db8::/64"]);
    let targets = targets();
    for target in &targets {
        let endpoint = |name: &&str| cluster.endpoint(if *name == "a-1" { A } else { B }, 1);
        let endpoints: Vec<_> = target.endpoints.iter().map(endpoint).collect();
        cluster.manifests.serve(&target.service(), &endpoints);
    }
    cluster.start();
    let mut paths = Vec::new();
    for (place, target) in
        PLACES.into_iter().flat_map(|place| targets.iter().map(move |target| (place, *target)))
    {
        let ways = target.addresses(&cluster).into_iter().flat_map(|to| Proto::ALL.map(|proto| (proto, to)));
        paths.extend(ways.map(|(proto, to)| Path { place, target, proto, to }));
    }
    let mut wrong = deviations(&cluster, &paths, Detection::ClusterCidr);
    // The only ones for whom it makes a difference.
    paths.retain(|path| path.place == Place::PodOfB && path.target.front == Front::NodePort);
    cluster.restart_with(&["--detect-local-mode=NodeCIDR"]);
    wrong.extend(deviations(&cluster, &paths, Detection::NodeCidr));
    assert!(wrong.is_empty(), "{} deviations:\n{}", wrong.len(), wrong.join("\n"));
}
