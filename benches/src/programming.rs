//! Four ways to program an empty kernel: kube-ipvs, its IPVS part alone, `ipvsadm -R`, and the same bytes
//! sent again.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::{
    alone,
    node::{Node, millis},
    objects::{self, Size},
    process,
    product::{self, Input, Product, Settings},
    replay::{Replayed, replay},
    tap::{Datagram, Recording, Tap, Traffic},
};

/// First object that kube-ipvs writes, as it stands in the list of links.
const FIRST_WRITE: &str = "kube-ipvs0:";

/// Results of programming one size in every way; times in milliseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Programming {
    /// The whole of kube-ipvs.
    pub product: Whole,
    /// Its loop with no table but IPVS.
    pub ipvs_alone: IpvsAlone,
    /// `ipvsadm -R` with the rules that kube-ipvs had programmed.
    pub ipvsadm: Timed,
    /// Time for all netlink writes of kube-ipvs, sent again in the same pieces by a loop that does nothing
    /// else.
    pub replay_ms: f64,
    /// Part of that time for the writes to IPVS.
    pub replay_ipvs_ms: f64,
    /// Counts of a run of its own, so that counting slows nothing that is timed.
    pub counts: CallCounts,
}

/// kube-ipvs from its manifests to a programmed kernel.
#[derive(Debug, Clone, Serialize)]
pub struct Whole {
    /// Time from the start of the process to the last write.
    pub start_to_last_write_ms: f64,
    /// Time from the first write to the last, as seen from outside of the process.
    pub first_to_last_write_ms: f64,
    /// CPU time of the process up to the last write.
    pub cpu_ms: f64,
    /// Number of syncs.
    pub syncs: usize,
    /// Number of writes in its log: to IPVS, routes and packet rules.
    pub writes: usize,
}

/// The loop with no table but IPVS.
#[derive(Debug, Clone, Serialize)]
pub struct IpvsAlone {
    /// Time for planning, encoding and writing.
    pub all_ms: f64,
    /// Time for encoding and writing.
    pub apply_ms: f64,
}

/// A program that ran to its end.
#[derive(Debug, Clone, Serialize)]
pub struct Timed {
    /// Elapsed time.
    pub wall_ms: f64,
    /// CPU time.
    pub cpu_ms: f64,
}

/// Messages and system calls of programming.
#[derive(Debug, Clone, Serialize)]
pub struct CallCounts {
    /// Netlink traffic, as the kernel itself recorded it.
    pub netlink: Traffic,
    /// Numbers of system calls by name, of the whole process from its start until everything is programmed;
    /// empty without `strace`.
    pub system_calls: BTreeMap<String, u64>,
}

/// Executable of the product, and a place for files.
#[derive(Debug, Clone)]
pub struct Bench {
    /// The product's executable.
    pub binary: PathBuf,
    /// Directory for files of the runs.
    pub scratch: PathBuf,
}

impl Bench {
    /// Makes a fresh directory, also for the manifests if there are to be any.
    pub fn directory(&self, name: &str) -> Result<PathBuf> {
        let path = self.scratch.join(name);
        if path.exists() {
            fs::remove_dir_all(&path)?;
        }
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    fn manifests(&self, size: Size) -> Result<Settings> {
        let directory = self.directory(&format!("manifests-{}", size.services))?;
        let manifests = directory.join("manifests");
        fs::create_dir(&manifests)?;
        fs::write(manifests.join("all.json"), objects::manifests(size))?;
        Ok(Settings {
            binary: self.binary.clone(),
            input: Input::Manifests(manifests),
            directory,
            flags: Vec::new(),
        })
    }
}

/// Measures all ways of programming one size, each on a node of its own.
pub fn measure(bench: &Bench, size: Size) -> Result<Programming> {
    let settings = bench.manifests(size)?;
    let (product, rules) = whole(&settings, size).context("kube-ipvs")?;
    let (writes, counts) = record(&settings, size).context("recording kube-ipvs")?;
    let Replayed { all, ipvs } = replay_writes(&writes, size).context("sending the same bytes again")?;
    let node = Node::new()?;
    let alone = alone::program(&node, size).context("IPVS alone")?;
    node.check(size, false).context("IPVS alone")?;
    let ipvsadm = ipvsadm(&settings.directory, &rules, size).context("ipvsadm -R")?;
    fs::remove_dir_all(&settings.directory)?;
    Ok(Programming {
        product,
        ipvs_alone: IpvsAlone { all_ms: millis(alone.all), apply_ms: millis(alone.apply) },
        ipvsadm,
        replay_ms: millis(all),
        replay_ipvs_ms: millis(ipvs),
        counts,
    })
}

/// Runs kube-ipvs, watched from outside. The moment it claims to be ready it is frozen, and tools that are
/// not ours read the kernel: what they find was written before the claim.
fn whole(settings: &Settings, size: Size) -> Result<(Whole, String)> {
    let node = Node::new()?;
    let mut product = Product::start(&node, settings)?;
    let first = first_write(&node)?;
    let last = product.wait_until_programmed()?;
    process::freeze(product.pid())?;
    let cpu = process::cpu_time(product.pid())?;
    node.check(size, true)?;
    let rules = node.rules()?;
    process::thaw(product.pid())?;
    let syncs = product.syncs()?;
    let whole = Whole {
        start_to_last_write_ms: millis(last - product.started),
        first_to_last_write_ms: millis(last - first),
        cpu_ms: millis(cpu),
        syncs: syncs.len(),
        writes: syncs.iter().map(|sync| sync.writes).sum(),
    };
    product.stop()?;
    Ok((whole, rules))
}

/// Last time at which the link was missing with which kube-ipvs begins. The first write came after that, so
/// that an observer who is kept from looking makes the product slower, not faster.
pub fn first_write(node: &Node) -> Result<Instant> {
    // The usual call (SIOCGIFINDEX) starts modprobe each time for a name that does not exist, so this asks
    // otherwise.
    node.ns.enter(|| {
        let start = Instant::now();
        let mut before = start;
        loop {
            let look = Instant::now();
            if fs::read_to_string("/proc/thread-self/net/dev")?.contains(FIRST_WRITE) {
                return Ok(before);
            }
            ensure!(start.elapsed() < product::LONGEST_WAIT, "kube-ipvs has written nothing");
            before = look;
            thread::sleep(Duration::from_micros(200));
        }
    })
}

/// Runs it again, with every message recorded and every system call counted.
fn record(settings: &Settings, size: Size) -> Result<(Vec<Datagram>, CallCounts)> {
    let node = Node::with_tap()?;
    let tap = Tap::start(&node)?;
    let summary = settings.directory.join("strace");
    let mut product = if has_strace() {
        Product::start_counted(&node, settings, &summary)?
    } else {
        Product::start(&node, settings)?
    };
    product.wait_until_programmed()?;
    product.stop()?;
    let recording: Recording = tap.finish()?;
    node.check(size, true)?;
    let system_calls = fs::read_to_string(&summary).map(|text| parse_summary(&text)).unwrap_or_default();
    let counts = CallCounts { netlink: recording.traffic(), system_calls };
    Ok((recording.into_writes(), counts))
}

/// Tells whether system calls can be counted here.
pub fn has_strace() -> bool {
    Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// Reads the table that `strace -c` writes: name last, number of calls fourth.
pub fn parse_summary(text: &str) -> BTreeMap<String, u64> {
    let line = |line: &str| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let calls = fields.get(3)?.parse().ok()?;
        Some(((*fields.last()?).to_owned(), calls))
    };
    text.lines().filter_map(line).collect()
}

fn replay_writes(writes: &[Datagram], size: Size) -> Result<Replayed> {
    let node = Node::new()?;
    let replayed = replay(&node, writes)?;
    node.check(size, true)?;
    Ok(replayed)
}

fn ipvsadm(directory: &Path, rules: &str, size: Size) -> Result<Timed> {
    let node = Node::new()?;
    let file = directory.join("rules");
    fs::write(&file, rules)?;
    let mut command = node.ns.command("ipvsadm");
    command.arg("-R").stdin(fs::File::open(&file)?);
    let start = Instant::now();
    let mut child = testkit::die_with_thread(&mut command).spawn()?;
    process::wait_for_end(child.id())?;
    let wall = start.elapsed();
    let cpu = process::cpu_time(child.id())?;
    let status = child.wait()?;
    ensure!(status.success(), "it ended with {status}");
    node.check(size, false)?;
    Ok(Timed { wall_ms: millis(wall), cpu_ms: millis(cpu) })
}

#[cfg(test)]
mod tests {
    use super::parse_summary;

    #[test]
    fn the_table_of_strace() {
        let text = "\
% time     seconds  usecs/call     calls    errors syscall
------ ----------- ----------- --------- --------- ----------------
 40.00    0.000200           2       100           sendto
 20.00    0.000100           1        90        45 recvfrom
------ ----------- ----------- --------- --------- ----------------
100.00    0.000500           2       190        45 total
";
        let counts = parse_summary(text);
        assert_eq!(counts["sendto"], 100);
        assert_eq!(counts["recvfrom"], 90);
        assert_eq!(counts["total"], 190);
        assert_eq!(counts.len(), 3);
    }
}
