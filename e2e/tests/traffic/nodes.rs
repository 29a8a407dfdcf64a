//! Start of the tests with several nodes: each has its pods and a kube-ipvs of its own, and all follow the same
//! objects.

mod between;
mod packet_paths;
mod policies;

use std::{
    collections::BTreeSet,
    fmt,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use e2e::{
    manifest::{Endpoint, Manifests, render_node_at},
    net::{CLIENT_TIMEOUT, Client, Node, Pod, Segment},
    probe::{
        Proto,
        once::{Outcome, Question, ask},
    },
    proxy::{Proxy, Settings},
};
use testkit::{TempDir, wait_for};

use crate::{
    reach::together,
    testbed::{POD_PORTS, WAIT_LIMIT, binary, probe},
};

/// Positions of nodes.
pub const A: usize = 0;
pub const B: usize = 1;
pub const C: usize = 2;

/// Everything of one test; fields in the order in which they must end.
pub struct Cluster {
    proxies: Vec<Proxy>,
    /// Pods of each node: `a-1` and `a-2` on `node-a`, and so on.
    pub pods: Vec<Vec<Pod>>,
    pub segment: Segment,
    pub manifests: Manifests,
    settings: Settings,
    _directory: TempDir,
}

impl Cluster {
    /// A cluster with `pods` pods on each node, no Service and nothing started.
    pub fn new(nodes: u8, pods: u8) -> Cluster {
        let directory = TempDir::new("cluster");
        let segment = Segment::new(nodes, probe(&directory));
        let settings = Settings::new(&binary(), directory.path());
        let manifests = Manifests::at(&settings.manifests);
        for node in &segment.nodes {
            manifests.write(&format!("{}.yaml", node.name), &Cluster::render_node(node));
        }
        let pod = |node, number| {
            segment.pod(node, &format!("{}-{number}", ["a", "b", "c"][node]), 10 + number, &POD_PORTS)
        };
        let pods = (0..segment.nodes.len()).map(|node| (1..=pods).map(|number| pod(node, number)).collect());
        Cluster {
            proxies: Vec::new(),
            pods: pods.collect(),
            segment,
            manifests,
            settings,
            _directory: directory,
        }
    }

    /// Renders the Node of a node.
    pub fn render_node(node: &Node) -> String {
        let [v4, v6] = node.pod_ranges();
        render_node_at(node.name, node.address, [&v4, &v6])
    }

    /// Starts kube-ipvs on every node with the usual flags.
    pub fn start(&mut self) {
        let start = |node: &Node| Proxy::start(&node.namespace, &self.settings.on_node(node.name));
        self.proxies = self.segment.nodes.iter().map(start).collect();
    }

    /// Restarts kube-ipvs on every node with exactly these flags.
    pub fn restart_with(&mut self, flags: &[&str]) {
        for proxy in &mut self.proxies {
            proxy.restart_with(flags);
        }
    }

    /// A ready endpoint: pod number `number` of a node.
    pub fn endpoint(&self, node: usize, number: usize) -> Endpoint {
        Endpoint { node: self.segment.nodes[node].name, ..Endpoint::ready(&self.pods[node][number - 1]) }
    }

    /// An endpoint that is being deleted but still answers.
    pub fn terminating(&self, node: usize, number: usize) -> Endpoint {
        Endpoint { ready: false, terminating: true, ..self.endpoint(node, number) }
    }

    /// An endpoint in the network of its node: the server of that name there.
    pub fn host_endpoint(&self, node: usize, name: &str) -> Endpoint {
        let Node { name: node, address, .. } = self.segment.nodes[node];
        Endpoint { pod: name.to_owned(), address, node, ..self.endpoint(A, 1) }
    }

    /// A client in pod number `number` of a node.
    pub fn pod_client(&self, node: usize, number: usize) -> Client {
        self.pods[node][number - 1].client()
    }

    /// A client that is a process of a node.
    pub fn process(&self, node: usize) -> Client {
        self.segment.nodes[node].client()
    }

    /// Asks once from the calling thread, which is in the namespace of the client.
    pub fn ask_from_here(&self, client: &Client, proto: Proto, to: SocketAddr, timeout: Duration) -> Got {
        // An unbound SCTP client would announce all the addresses that it has.
        let from = (proto == Proto::Sctp).then(|| SocketAddr::new(client.own.like(to.ip()), 0));
        self.judge(client, &ask(&Question { proto, to, from, timeout }))
    }

    /// Asks once.
    pub fn ask(&self, client: &Client, proto: Proto, to: SocketAddr, timeout: Duration) -> Got {
        client.namespace.enter(|| self.ask_from_here(client, proto, to, timeout))
    }

    fn judge(&self, client: &Client, outcome: &Outcome) -> Got {
        match &outcome.result {
            Ok(answer) => {
                let ip = answer.peer.ip();
                let node = self.segment.nodes.iter().find(|node| node.address.contains(ip));
                let source = match node {
                    Some(node) => Source::Node(node.name),
                    None if client.own.contains(ip) => Source::Own,
                    None => Source::Other(ip),
                };
                Got::Answer { from: answer.pod.clone(), source }
            }
            // What a node rejects in its own output hook makes `send` fail, and SCTP has an error of its own.
            Err(failure)
                if failure.is_refused() || ["EPERM", "ENOPROTOOPT"].contains(&failure.error.as_str()) =>
            {
                Got::Refused
            }
            Err(failure) if failure.error.contains("TIME") => Got::Nothing,
            Err(failure) => Got::Failure(failure.to_string()),
        }
    }

    /// Waits until a client gets this over TCP at both addresses.
    #[track_caller]
    pub fn wait(&self, client: &Client, at: [SocketAddr; 2], expected: &Got) {
        wait_for(WAIT_LIMIT, &format!("{} to get {expected} at {}", client.place, at[0]), || {
            let got = together(at, |to| self.ask(client, Proto::Tcp, to, SILENCE));
            match got.iter().find(|got| *got != expected) {
                Some(other) => Err(other.to_string()),
                None => Ok(()),
            }
        });
    }

    /// Checks what a client gets at both addresses, over TCP and UDP: each of `expected` within a few connections,
    /// and nothing else.
    #[track_caller]
    pub fn check(&self, client: &Client, at: [SocketAddr; 2], expected: &[Got]) {
        let timeout = if expected.contains(&Got::Nothing) { SILENCE } else { CLIENT_TIMEOUT };
        let expected: BTreeSet<_> = expected.iter().cloned().collect();
        let ways = [Proto::Tcp, Proto::Udp].into_iter().flat_map(|proto| at.map(|to| (proto, to)));
        let wrong = together(ways, |(proto, to)| {
            let got = collect(&expected, 4, || self.ask(client, proto, to, timeout));
            (got != expected)
                .then(|| format!("{} over {proto} at {to}: {got:?} instead of {expected:?}", client.place))
        });
        let wrong: Vec<_> = wrong.into_iter().flatten().collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

/// Time after which whoever should get nothing has got nothing: where a packet is let through, the answer follows
/// within a fraction of it.
pub const SILENCE: Duration = Duration::from_secs(2);

/// Number of questions after which an endpoint that has not answered yet does not answer at all.
const MOST_QUESTIONS: usize = 24;

/// Asks at least `fewest` times, until all that is expected has come, or something else.
pub fn collect(expected: &BTreeSet<Got>, fewest: usize, mut ask: impl FnMut() -> Got) -> BTreeSet<Got> {
    let mut got = BTreeSet::new();
    // More questions show nothing where there is no answer.
    let fewest = if expected.iter().all(Got::is_answer) { fewest } else { 1 };
    for number in 1..=MOST_QUESTIONS {
        got.insert(ask());
        if !got.is_subset(expected) || (number >= fewest && got == *expected) {
            break;
        }
    }
    got
}

/// Result of a question to a Service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Got {
    /// An answer.
    Answer {
        /// Name of the server.
        from: String,
        /// Source that it saw.
        source: Source,
    },
    Refused,
    Nothing,
    /// An error that nobody expects.
    Failure(String),
}

impl Got {
    /// An answer of a server that saw the client's own address.
    pub fn own(from: &str) -> Got {
        Got::Answer { from: from.to_owned(), source: Source::Own }
    }

    /// An answer of a server that saw the address of a node.
    pub fn node(from: &str, node: &'static str) -> Got {
        Got::Answer { from: from.to_owned(), source: Source::Node(node) }
    }

    fn is_answer(&self) -> bool {
        matches!(self, Got::Answer { .. })
    }
}

impl fmt::Display for Got {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Got::Answer { from, source: Source::Own } => write!(f, "{from} sees the client"),
            Got::Answer { from, source: Source::Node(node) } => write!(f, "{from} sees {node}"),
            Got::Answer { from, source: Source::Other(ip) } => write!(f, "{from} sees {ip}"),
            Got::Refused => f.write_str("refused"),
            Got::Nothing => f.write_str("nothing"),
            Got::Failure(error) => f.write_str(error),
        }
    }
}

/// Source address that an endpoint sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// That of the pod or of the client outside.
    Own,
    /// That of a node, because the client is a process there or was masqueraded.
    Node(&'static str),
    Other(IpAddr),
}
