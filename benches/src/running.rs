//! kube-ipvs with everything programmed, fed by an API server: one change, many at once, none, and a restart.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::IpAddr,
    path::Path,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use dataplane::IpvsTable;
use ipvs::IpvsClient;
use rustix::process::{Signal, kill_process};
use serde::Serialize;
use test_apiserver::monotonic;

use crate::{
    cluster::{Change, Cluster},
    node::{Node, millis},
    objects::{self, Size},
    process,
    product::{LONGEST_WAIT, Product, Settings},
    programming::{Bench, first_write, has_strace, parse_summary},
    tap::Tap,
};

/// Pause between two looks at a virtual server.
const LOOK_PAUSE: Duration = Duration::from_micros(200);

/// Pause between two changes, so that none waits behind another.
const CHANGE_PAUSE: Duration = Duration::from_millis(25);

/// Number of changes whose messages and system calls are counted.
const COUNTED_CHANGES: usize = 20;

/// Number of changes in a burst.
const BURST_CHANGES: usize = 1_000;

/// Number of real servers that drain while nothing else happens.
pub const DRAINING_REAL_SERVERS: usize = 1_000;

/// Number of their Services.
const DRAINING_SERVICES: usize = 500;

/// Number of Services at which that is measured.
pub const DRAINING_MEASURED_AT: usize = 1_000;

/// Durations and numbers of samples.
#[derive(Debug, Clone, Copy)]
pub struct Samples {
    /// Number of changes that are timed one by one.
    pub changes: usize,
    /// Length of the idle time.
    pub idle: Duration,
}

/// Results for one size; times in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Running {
    /// Time from the start of the process to a programmed kernel.
    pub start_ms: f64,
    /// Part of it before the first write: connecting, listing, reading.
    pub start_to_first_write_ms: f64,
    /// CPU time of the process in all of it.
    pub start_cpu_ms: f64,
    /// Results of one change at a time.
    pub changes: Changes,
    /// Results of many changes at once.
    pub burst: Burst,
    /// Results of an idle time.
    pub idle: Idle,
    /// Memory after all of the above.
    pub memory: Memory,
    /// Cost of changes, counted in a run of their own.
    pub change_counts: ChangeCounts,
    /// Results of a restart with everything in place.
    pub restart: Restart,
    /// CPU time while a great many real servers drain; at `DRAINING_MEASURED_AT` Services only.
    pub draining: Option<Idle>,
}

/// Results for a replaced endpoint: its real server comes, the old one is quiesced.
#[derive(Debug, Clone, Serialize)]
pub struct Changes {
    /// Time from the API server's answer to the kernel.
    pub answer_to_kernel: Latency,
    /// Time from the hand-over of the watch event to the kernel.
    pub event_to_kernel: Latency,
    /// Median time between two looks at the kernel, by which the latencies may be too long.
    pub resolution_ms: f64,
}

/// Times of many samples.
#[derive(Debug, Clone, Serialize)]
pub struct Latency {
    /// Number of samples.
    pub samples: usize,
    /// Median.
    pub p50_ms: f64,
    /// Time that 99 of 100 samples do not exceed.
    pub p99_ms: f64,
    /// Longest time.
    pub longest_ms: f64,
}

/// Results for changes that arrive together.
#[derive(Debug, Clone, Serialize)]
pub struct Burst {
    /// Number of changes.
    pub changes: usize,
    /// Time from the API server's answer until all are in the kernel.
    pub all_ms: f64,
    /// Number of syncs.
    pub syncs: usize,
    /// Number of writes so far; real servers that drain go later.
    pub writes: usize,
}

/// Results of a time in which nothing happens but audits.
#[derive(Debug, Clone, Serialize)]
pub struct Idle {
    /// Length of that time.
    pub seconds: f64,
    /// User and system time.
    pub cpu_ms: f64,
    /// The same as a share of a core.
    pub percent_of_a_core: f64,
}

/// Resident memory.
#[derive(Debug, Clone, Serialize)]
pub struct Memory {
    /// Peak.
    pub peak_kb: u64,
    /// Value after the idle time.
    pub settled_kb: u64,
}

/// Cost of a change, the drain of the old real server to its end included.
#[derive(Debug, Clone, Serialize)]
pub struct ChangeCounts {
    /// Number of counted changes.
    pub changes: usize,
    /// Netlink datagrams sent to the kernel, per change.
    pub sends_per_change: f64,
    /// Messages in them, per change.
    pub messages_per_change: f64,
    /// Messages that write, per change.
    pub write_messages_per_change: f64,
    /// System calls of the whole process, per change; unknown without `strace`.
    pub system_calls_per_change: Option<f64>,
    /// Numbers of system calls by name, of all these changes together.
    pub system_calls: BTreeMap<String, u64>,
}

/// Results of a start with the state already in place.
#[derive(Debug, Clone, Serialize)]
pub struct Restart {
    /// Time from the start of the process until it says that everything is programmed.
    pub ready_ms: f64,
    /// Number of netlink messages that write, recorded by the kernel in another restart.
    pub writes: usize,
}

/// Measures one size on one node.
pub fn measure(bench: &Bench, size: Size, samples: Samples) -> Result<Running> {
    let directory = bench.directory(&format!("running-{}", size.services))?;
    let node = Node::new()?;
    let mut cluster = Cluster::start(&node, size)?;
    let settings = cluster.settings(bench, &directory)?;
    let mut product = Product::start(&node, &settings)?;
    let start_to_first_write_ms = millis(first_write(&node)? - product.started);
    let start_ms = ready(&node, &mut product, size)?;
    let start_cpu_ms = millis(process::cpu_time(product.pid())?);
    let mut kernel = node.ns.enter(IpvsClient::open)?;

    let changes = changes(&mut cluster, &mut kernel, samples.changes).context("one change at a time")?;
    let burst = burst(&mut cluster, &mut kernel, &mut product).context("a burst of changes")?;
    product.wait_for_drains().context("drains after the burst")?;
    let idle = idle(&product, samples.idle)?;
    let memory = Memory {
        peak_kb: process::status_kb(product.pid(), "VmHWM")?,
        settled_kb: process::status_kb(product.pid(), "VmRSS")?,
    };
    product.stop()?;
    node.check(size, true).context("before the restart")?;
    let mut product = Product::start(&node, &settings)?;
    let ready_ms = ready(&node, &mut product, size).context("restart")?;
    product.stop()?;

    node.add_tap()?;
    let tap = Tap::start(&node)?;
    let mut product = Product::start(&node, &settings)?;
    product.wait_until_programmed().context("restart that is recorded")?;
    let writes = tap.finish()?.traffic().write_messages;
    let change_counts = count(&node, &mut cluster, &mut product).context("counting changes")?;
    product.stop()?;
    node.check(size, true).context("after everything")?;
    let restart = Restart { ready_ms, writes };
    let draining = match size.services {
        DRAINING_MEASURED_AT => {
            Some(measure_draining(&node, &mut cluster, &settings, samples.idle).context("drains")?)
        }
        _ => None,
    };
    Ok(Running {
        start_ms,
        start_to_first_write_ms,
        start_cpu_ms,
        changes,
        burst,
        idle,
        memory,
        change_counts,
        restart,
        draining,
    })
}

/// Starts a process in which a great many real servers drain, none of which ends.
pub fn start_draining(node: &Node, cluster: &mut Cluster, settings: &Settings) -> Result<Product> {
    let flags = vec!["--graceful-linger=1h", "--graceful-timeout=0"];
    let mut product = Product::start(node, &Settings { flags, ..settings.clone() })?;
    product.wait_until_programmed()?;
    cluster.burst_among(DRAINING_SERVICES, DRAINING_REAL_SERVERS)?;
    product.wait_for_begun_drains(DRAINING_REAL_SERVERS)?;
    Ok(product)
}

/// Measures a time in which nothing happens but that real servers drain.
fn measure_draining(
    node: &Node,
    cluster: &mut Cluster,
    settings: &Settings,
    length: Duration,
) -> Result<Idle> {
    let product = start_draining(node, cluster, settings)?;
    let idle = idle(&product, length)?;
    product.stop()?;
    Ok(idle)
}

/// Waits until kube-ipvs says that it is ready, freezes it, and checks that this is true; returns the time
/// since its start in milliseconds.
fn ready(node: &Node, product: &mut Product, size: Size) -> Result<f64> {
    let ready = product.wait_until_programmed()?;
    process::freeze(product.pid())?;
    node.check(size, true)?;
    process::thaw(product.pid())?;
    Ok(millis(ready - product.started))
}

/// Replaces one endpoint after the other, each when the one before is in the kernel.
fn changes(cluster: &mut Cluster, kernel: &mut IpvsClient, samples: usize) -> Result<Changes> {
    let (mut answers, mut events, mut gaps) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..samples {
        thread::sleep(CHANGE_PAUSE);
        let change = cluster.change()?;
        let seen = wait_until_in_kernel(kernel, &change, &mut gaps)?;
        answers.push(seen.saturating_sub(change.answered));
        let handed_over = cluster.handed_over(&change).context("a change that no watch has reported")?;
        events.push(seen.saturating_sub(handed_over));
    }
    Ok(Changes {
        answer_to_kernel: Latency::of(answers),
        event_to_kernel: Latency::of(events),
        resolution_ms: Latency::of(gaps).p50_ms,
    })
}

/// Looks at the virtual server until its real servers in service are the endpoints of the change; returns the
/// time of that look.
fn wait_until_in_kernel(
    kernel: &mut IpvsClient,
    change: &Change,
    gaps: &mut Vec<Duration>,
) -> Result<Duration> {
    let wanted: BTreeSet<IpAddr> = change.pods.iter().map(|pod| IpAddr::from(*pod)).collect();
    let mut before = monotonic();
    loop {
        let serving = serving(kernel, change.service)?;
        let now = monotonic();
        if serving == wanted {
            return Ok(now);
        }
        ensure!(now.saturating_sub(change.answered) < LONGEST_WAIT, "the kernel still has {serving:?}");
        thread::sleep(LOOK_PAUSE);
        let next = monotonic();
        gaps.push(next.saturating_sub(before));
        before = next;
    }
}

/// Real servers of a Service that take new connections.
fn serving(kernel: &mut IpvsClient, service: usize) -> Result<BTreeSet<IpAddr>> {
    let servers = kernel.dump_real_servers(objects::virtual_server(service))?;
    let serving = servers.iter().filter(|server| !server.settings.weight.is_quiesced());
    Ok(serving.map(|server| server.id.addr).collect())
}

/// Replaces many endpoints at once.
fn burst(cluster: &mut Cluster, kernel: &mut IpvsClient, product: &mut Product) -> Result<Burst> {
    let before = product.syncs()?.len();
    let (services, answered) = cluster.burst(BURST_CHANGES)?;
    for service in services {
        let wanted: BTreeSet<IpAddr> = cluster.pods(service).iter().map(|pod| IpAddr::from(*pod)).collect();
        while serving(kernel, service)? != wanted {
            ensure!(
                monotonic().saturating_sub(answered) < LONGEST_WAIT,
                "Service {service} is not up to date"
            );
            thread::sleep(LOOK_PAUSE);
        }
    }
    let all = monotonic().saturating_sub(answered);
    let syncs = product.syncs()?.split_off(before);
    let writes = syncs.iter().map(|sync| sync.writes).sum();
    Ok(Burst { changes: BURST_CHANGES, all_ms: millis(all), syncs: syncs.len(), writes })
}

/// Measures the process for a time in which nothing is asked of it.
pub fn idle(product: &Product, length: Duration) -> Result<Idle> {
    let (cpu, start) = (process::cpu_time(product.pid())?, Instant::now());
    thread::sleep(length);
    let cpu = process::cpu_time(product.pid())?.saturating_sub(cpu);
    let seconds = start.elapsed().as_secs_f64();
    let percent_of_a_core = 100.0 * cpu.as_secs_f64() / seconds;
    Ok(Idle { seconds, cpu_ms: millis(cpu), percent_of_a_core })
}

/// Counts the cost of some changes. Nobody else looks at the kernel meanwhile, because that would count, too.
fn count(node: &Node, cluster: &mut Cluster, product: &mut Product) -> Result<ChangeCounts> {
    let summary = product.directory().join("strace-changes");
    let strace = has_strace().then(|| Attached::to(product.pid(), &summary)).transpose()?;
    let tap = Tap::start(node)?;
    for _ in 0..COUNTED_CHANGES {
        cluster.change()?;
        thread::sleep(CHANGE_PAUSE * 4);
    }
    product.wait_for_drains()?;
    let traffic = tap.finish()?.traffic();
    let system_calls = match strace {
        Some(strace) => strace.detach(&summary)?,
        None => BTreeMap::new(),
    };
    let per_change = |count: usize| count as f64 / COUNTED_CHANGES as f64;
    Ok(ChangeCounts {
        changes: COUNTED_CHANGES,
        sends_per_change: per_change(traffic.sends),
        messages_per_change: per_change(traffic.messages),
        write_messages_per_change: per_change(traffic.write_messages),
        system_calls_per_change: system_calls
            .get("total")
            .map(|total| *total as f64 / COUNTED_CHANGES as f64),
        system_calls,
    })
}

/// An `strace` that counts the system calls of a process that runs already.
struct Attached(std::process::Child);

impl Attached {
    fn to(pid: u32, summary: &Path) -> Result<Attached> {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-c", "-p", &pid.to_string(), "-o"]).arg(summary);
        let child = testkit::die_with_thread(command.stdin(Stdio::null())).spawn().context("strace")?;
        let deadline = Instant::now() + Duration::from_secs(10);
        while process::status_kb(pid, "TracerPid")? == 0 {
            ensure!(Instant::now() < deadline, "strace does not attach");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(Attached(child))
    }

    fn detach(mut self, summary: &Path) -> Result<BTreeMap<String, u64>> {
        kill_process(process::pid_of(self.0.id())?, Signal::INT).context("SIGINT to strace")?;
        self.0.wait()?;
        Ok(parse_summary(&fs::read_to_string(summary)?))
    }
}

impl Latency {
    /// Percentiles of some times.
    pub fn of(mut times: Vec<Duration>) -> Latency {
        times.sort_unstable();
        let at = |percent: usize| times.get(rank(percent, times.len())).map_or(0.0, |time| millis(*time));
        Latency { samples: times.len(), p50_ms: at(50), p99_ms: at(99), longest_ms: at(100) }
    }
}

/// Position of a percentile (nearest rank) among `count` sorted values.
fn rank(percent: usize, count: usize) -> usize {
    (percent * count).div_ceil(100).saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{Latency, rank};

    #[test]
    fn percentiles() {
        assert_eq!([50, 99, 100].map(|percent| rank(percent, 100)), [49, 98, 99]);
        assert_eq!([50, 99, 100].map(|percent| rank(percent, 1)), [0, 0, 0]);
        let latency = Latency::of((1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!((latency.p50_ms, latency.p99_ms, latency.longest_ms), (100.0, 198.0, 200.0));
        assert_eq!(Latency::of(Vec::new()).samples, 0);
    }
}
