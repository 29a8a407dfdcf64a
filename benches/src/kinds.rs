//! Services of all kinds, and node ports on nodes with few and with many addresses: start, memory, one change, one
//! address more.

use std::{
    fs, iter,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;
use serde_json::{Value, json};
use test_apiserver::TestApiServer;

use crate::{
    cluster::STRIDE,
    exact::work::IDLE,
    node::{Node, millis},
    objects::{self, Size},
    process,
    product::{Input, LONGEST_WAIT, Product, Settings},
    programming::Bench,
    report::Run,
    running::{self, Idle, Latency},
    tap::Tap,
};

/// Addresses of the node beside Services of all kinds.
const ADDRESSES: usize = 4;

/// First node port; the range of a cluster may be wider than the usual one.
const FIRST_NODE_PORT: usize = 20_000;

/// First health check port.
const FIRST_HEALTH_PORT: usize = 40_000;

/// Number of changes that are timed one by one.
const CHANGES: usize = 100;

/// Address that comes while kube-ipvs runs.
const NEW_ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 168, 60, 1);

/// Everything about one run.
#[derive(Debug, Clone, Serialize)]
pub struct Results {
    /// Machine and time of the run.
    pub run: Run,
    /// Measured cases.
    pub cases: Vec<Case>,
}

/// Objects and the node for which they are programmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Setup {
    /// Size of the cluster.
    #[serde(flatten)]
    pub size: Size,
    /// Kinds of its Services.
    pub kinds: Kinds,
    /// Number of addresses of the node.
    pub addresses: usize,
}

/// Kinds of Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub enum Kinds {
    /// All: of 8 Services 2 have a ClusterIP alone, 2 a node port, 2 a load balancer under a Local policy with a health
    /// check and source ranges, 1 a node port with session affinity, 1 an external IP.
    Mixed,
    /// Node ports, whose virtual servers are selected by a packet mark.
    NodePortsByMark,
    /// Node ports with a virtual server for each address.
    NodePortsByAddress,
    /// A node port, selected by a packet mark, for two Services of five, and a ClusterIP alone for the others.
    TwoNodePortsOfFive,
}

/// Results of a process that has programmed everything.
#[derive(Debug, Clone, Serialize)]
pub struct Steady {
    /// Time from the API server's answer to a change until the log has its sync.
    pub changes: Latency,
    /// Time in which nothing happens but audits.
    pub idle: Idle,
    /// Resident memory after all that.
    pub settled_kb: u64,
}

/// Results of one case; times in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Case {
    /// Objects and node.
    #[serde(flatten)]
    pub setup: Setup,
    /// Number of virtual servers.
    pub virtual_servers: usize,
    /// Time from the start of the process to a programmed kernel.
    pub start_ms: f64,
    /// CPU time of the process in it.
    pub start_cpu_ms: f64,
    /// Peak memory after the start.
    pub peak_kb: u64,
    /// Time from the start of a second process to its readiness.
    pub restart_ms: f64,
    /// Number of netlink messages that write, of a third one.
    pub restart_writes: usize,
    /// Number of writes that follow from one endpoint more.
    pub change_writes: usize,
    /// Number of netlink messages that write for an address more of the node.
    pub address_writes: usize,
    /// Time from that address to the last of these writes.
    pub address_ms: f64,
    /// Results after the start, in the large case alone.
    pub steady: Option<Steady>,
}

impl Setup {
    /// The largest case: 50,000 Services with two endpoints, 20,000 of them with a node port.
    pub const LARGE: Setup = Setup {
        size: Size { services: 50_000, endpoints: 2 },
        kinds: Kinds::TwoNodePortsOfFive,
        addresses: ADDRESSES,
    };

    /// A small case that loads modules and brings programs into memory.
    pub const WARM_UP: Setup = Setup { size: Size::of(16), kinds: Kinds::Mixed, addresses: ADDRESSES };

    /// The cases of a run, in the order of the table.
    pub fn all(quick: bool) -> Vec<Setup> {
        let (mixed, ports): (&[usize], usize) =
            if quick { (&[100, 200], 200) } else { (&[500, 1_000, 2_000, 5_000], 5_000) };
        let of = |kinds: Kinds, addresses| Setup {
            size: Size { services: ports, endpoints: 2 },
            kinds,
            addresses,
        };
        let ports = [Kinds::NodePortsByMark, Kinds::NodePortsByAddress]
            .into_iter()
            .flat_map(|kinds| [1, 4, 16].map(|addresses| of(kinds, addresses)));
        Setup::mixed(mixed).into_iter().chain(ports).collect()
    }

    /// Cases of so many Services of all kinds.
    pub fn mixed(services: &[usize]) -> Vec<Setup> {
        let of =
            |services: &usize| Setup { size: Size::of(*services), kinds: Kinds::Mixed, addresses: ADDRESSES };
        services.iter().map(of).collect()
    }

    /// Words for a line of the table.
    pub fn name(&self) -> String {
        let kinds = match self.kinds {
            Kinds::Mixed => "all kinds",
            Kinds::NodePortsByMark => "node ports, by mark",
            Kinds::NodePortsByAddress => "node ports, by address",
            Kinds::TwoNodePortsOfFive => "two node ports of five",
        };
        format!("{} x {}, {kinds}, {} addresses", self.size.services, self.size.endpoints, self.addresses)
    }

    fn flags(&self) -> Vec<&'static str> {
        match self.kinds {
            Kinds::NodePortsByAddress => vec!["--node-port-servers=address"],
            Kinds::Mixed | Kinds::NodePortsByMark | Kinds::TwoNodePortsOfFive => vec![],
        }
    }

    fn service(&self, index: usize) -> Value {
        let mut service = objects::service_json(index);
        let spec = &mut service["spec"];
        let node_port = FIRST_NODE_PORT + index;
        match (self.kinds, index % 8) {
            (Kinds::NodePortsByMark | Kinds::NodePortsByAddress, _) | (Kinds::Mixed, 1 | 5) => {
                spec["type"] = "NodePort".into();
                spec["ports"][0]["nodePort"] = node_port.into();
            }
            (Kinds::Mixed, 2 | 6) => {
                spec["type"] = "LoadBalancer".into();
                spec["ports"][0]["nodePort"] = node_port.into();
                spec["externalTrafficPolicy"] = "Local".into();
                spec["healthCheckNodePort"] = (FIRST_HEALTH_PORT + index).into();
                spec["loadBalancerSourceRanges"] = json!(["192.0.2.0/24", "198.51.100.0/24"]);
                let ip = Ipv4Addr::from_bits(Ipv4Addr::new(172, 20, 0, 0).to_bits() + index as u32);
                service["status"] = json!({"loadBalancer": {"ingress": [{"ip": ip, "ipMode": "VIP"}]}});
            }
            (Kinds::Mixed, 3) => {
                spec["type"] = "NodePort".into();
                spec["ports"][0]["nodePort"] = node_port.into();
                spec["sessionAffinity"] = "ClientIP".into();
            }
            (Kinds::Mixed, 7) => {
                let ip = Ipv4Addr::from_bits(Ipv4Addr::new(172, 21, 0, 0).to_bits() + index as u32);
                spec["externalIPs"] = json!([ip]);
            }
            (Kinds::TwoNodePortsOfFive, _) if index % 5 < 2 => {
                spec["type"] = "NodePort".into();
                spec["ports"][0]["nodePort"] = (FIRST_NODE_PORT + index / 5 * 2 + index % 5).into();
            }
            (Kinds::Mixed | Kinds::TwoNodePortsOfFive, _) => {}
        }
        service
    }

    /// Number of virtual servers of a Service: the one of its ClusterIP, and those beyond.
    fn virtual_servers_of(&self, index: usize) -> usize {
        match (self.kinds, index % 8) {
            (Kinds::NodePortsByMark, _) | (Kinds::Mixed, 1 | 5 | 7) => 2,
            (Kinds::NodePortsByAddress, _) | (Kinds::Mixed, 3) => 1 + self.addresses,
            // Load balancer and node port, each for all clients and for those outside.
            (Kinds::Mixed, 2 | 6) => 5,
            (Kinds::TwoNodePortsOfFive, _) if index % 5 < 2 => 2,
            (Kinds::Mixed | Kinds::TwoNodePortsOfFive, _) => 1,
        }
    }

    fn virtual_servers(&self) -> usize {
        (0..self.size.services).map(|index| self.virtual_servers_of(index)).sum()
    }
}

/// Measures one case on a node of its own.
pub fn measure(bench: &Bench, setup: Setup) -> Result<Case> {
    let directory = bench.directory("kinds")?;
    let node = Node::new()?;
    let server = node.ns.enter(|| TestApiServer::builder().realistic().tls().token("bench").start())?;
    let of_service = |index| [setup.service(index), slice(&setup, index, 0)];
    let objects = (0..setup.size.services).flat_map(of_service);
    server.objects().apply_all(iter::once(objects::node()).chain(objects))?;
    let kubeconfig = directory.join("kubeconfig");
    fs::write(&kubeconfig, server.kubeconfig())?;
    let settings = Settings {
        binary: bench.binary.clone(),
        input: Input::Kubeconfig(kubeconfig),
        directory: directory.clone(),
        flags: setup.flags(),
    };
    for number in 1..setup.addresses {
        add_address(&node, Ipv4Addr::new(192, 168, 51, number as u8))?;
    }
    let mut product = Product::start(&node, &settings)?;
    let ready = product.wait_until_programmed()?;
    let start_cpu_ms = millis(process::cpu_time(product.pid())?);
    let peak_kb = process::status_kb(product.pid(), "VmHWM")?;
    let virtual_servers = node.count()?.virtual_servers;
    let expected = setup.virtual_servers();
    ensure!(virtual_servers == expected, "{virtual_servers} virtual servers instead of {expected}");
    let start_ms = millis(ready - product.started);
    product.stop()?;

    let mut product = Product::start(&node, &settings)?;
    let ready = product.wait_until_programmed().context("restart")?;
    let restart_ms = millis(ready - product.started);
    let steady = (setup.kinds == Kinds::TwoNodePortsOfFive)
        .then(|| steady(&mut product, &server, &setup).context("after the start"))
        .transpose()?;
    product.stop()?;

    node.add_tap()?;
    let tap = Tap::start(&node)?;
    let mut product = Product::start(&node, &settings)?;
    product.wait_until_programmed().context("restart that is recorded")?;
    let restart_writes = tap.finish()?.traffic().write_messages;

    let change_writes = change(&mut product, &server, &setup).context("one endpoint more")?;
    let (address_writes, address_ms) = address(&node, &mut product).context("one address more")?;
    product.stop()?;
    fs::remove_dir_all(&directory)?;
    Ok(Case {
        setup,
        virtual_servers,
        start_ms,
        start_cpu_ms,
        peak_kb,
        restart_ms,
        restart_writes,
        change_writes,
        address_writes,
        address_ms,
        steady,
    })
}

/// Measures single changes, each of which replaces one endpoint, and idle time after their drains.
fn steady(product: &mut Product, server: &TestApiServer, setup: &Setup) -> Result<Steady> {
    let mut times = Vec::with_capacity(CHANGES);
    for number in 0..CHANGES {
        let index = number * STRIDE % setup.size.services;
        let before = product.syncs()?.len();
        let mut pods = objects::pods(setup.size, index);
        pods[0] = objects::new_pod(number);
        server.objects().apply(objects::slice_json(index, &pods))?;
        let answered = Instant::now();
        product.wait_for_sync(before)?;
        times.push(answered.elapsed());
    }
    for number in 0..CHANGES {
        server.objects().apply(slice(setup, number * STRIDE % setup.size.services, 0))?;
    }
    product.wait_for_drains()?;
    let idle = running::idle(product, IDLE)?;
    let settled_kb = process::status_kb(product.pid(), "VmRSS")?;
    Ok(Steady { changes: Latency::of(times), idle, settled_kb })
}

/// The slice of a Service, with some endpoints more than at the start.
fn slice(setup: &Setup, index: usize, more: usize) -> Value {
    let mut pods = objects::pods(setup.size, index);
    pods.extend((0..more).map(objects::new_pod));
    objects::slice_json(index, &pods)
}

/// Adds an endpoint to the second Service, which has a node port; returns the number of writes.
fn change(product: &mut Product, server: &TestApiServer, setup: &Setup) -> Result<usize> {
    let before = product.syncs()?.len();
    server.objects().apply(slice(setup, 1, 1))?;
    product.wait_for_sync(before)?;
    Ok(product.syncs()?[before..].iter().map(|sync| sync.writes).sum())
}

/// Adds an address to the node; returns the number of messages that write, and the time until nothing follows any
/// more.
fn address(node: &Node, product: &mut Product) -> Result<(usize, f64)> {
    let before = product.syncs()?.len();
    let tap = Tap::start(node)?;
    let began = Instant::now();
    add_address(node, NEW_ADDRESS)?;
    product.wait_for_sync(before)?;
    let (mut count, mut last) = (product.syncs()?.len(), began.elapsed());
    // Large changes take several syncs.
    while began.elapsed() < last + Duration::from_secs(2) {
        thread::sleep(Duration::from_millis(2));
        let now = product.syncs()?.len();
        if now > count {
            (count, last) = (now, began.elapsed());
        }
        ensure!(began.elapsed() < LONGEST_WAIT, "the writes do not end");
    }
    // The address itself is a message of `ip`.
    let writes = tap.finish()?.traffic().write_messages.saturating_sub(1);
    Ok((writes, millis(last)))
}

fn add_address(node: &Node, addr: Ipv4Addr) -> Result<()> {
    node.ns.try_run(&["ip", "address", "add", &format!("{addr}/24"), "dev", "node0"])?;
    Ok(())
}

impl Case {
    /// Its line of the table.
    pub fn line(&self) -> String {
        format!(
            "| {} | {} | {:.1} s | {:.1} s | {:.2} ms | {} MB | {:.1} s, {} | {} | {} in {:.1} s |\n",
            self.setup.name(),
            self.virtual_servers,
            self.start_ms / 1e3,
            self.start_cpu_ms / 1e3,
            self.start_ms / self.setup.size.services as f64,
            self.peak_kb / 1024,
            self.restart_ms / 1e3,
            self.restart_writes,
            self.change_writes,
            self.address_writes,
            self.address_ms / 1e3,
        ) + &self.steady.as_ref().map(Steady::line).unwrap_or_default()
    }
}

impl Steady {
    fn line(&self) -> String {
        let Steady { changes, idle, settled_kb } = self;
        format!(
            "one endpoint replaced, median / 99 of 100: {:.1} / {:.1} ms; idle, audits included: {:.1} % of a core; memory \
             then: {} MB\n",
            changes.p50_ms,
            changes.p99_ms,
            idle.percent_of_a_core,
            settled_kb / 1024
        )
    }
}

impl Results {
    /// Renders the table, in Markdown.
    pub fn table(&self) -> String {
        let mut text = String::from(
            "| | virtual servers | start | CPU | a Service | peak memory | restart, writes | writes of one endpoint more | messages of one address more |\n\
             | --- | --- | --- | --- | --- | --- | --- | --- | --- |\n",
        );
        for case in &self.cases {
            text += &case.line();
        }
        text
    }

    /// Writes JSON; returns its path.
    pub fn store(&self, directory: &Path) -> Result<PathBuf> {
        fs::create_dir_all(directory)?;
        let what = if self.cases.iter().any(|case| case.setup == Setup::LARGE) { "large" } else { "kinds" };
        let path = directory.join(format!("{}-{what}.json", self.run.stem()));
        let json = serde_json::to_string_pretty(self)? + "\n";
        fs::write(&path, json).with_context(|| path.display().to_string())?;
        Ok(path)
    }
}
