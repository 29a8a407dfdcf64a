//! The main job end to end, narrated: three pods, a client that reuses source ports, a rolling update. It
//! runs first by kube-proxy's rule, then by the defaults, under the same traffic; a table of both is the end.
//!
//! The demo prints whatever it measured; it fails only if it could not run or if nothing was served.

mod examples;
mod rollout;
mod screen;

use std::{collections::BTreeSet, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use testkit::{NetNs, TempDir, try_output, wait_for};

use crate::{
    net::{Net, OUTSIDE, Pod, PodNetwork, ProbeProgram},
    observe::{Timeline, ipvs},
    probe::load::{self, Load},
    proxy::{Proxy, Settings},
};
use examples::Examples;
use rollout::{Old, Rollout};
use screen::Screen;

/// First argument that turns the demo's executable into the prober.
pub const PROBE_WORD: &str = "probe";

/// Service that gets the load.
const SERVICE: &str = "web";

/// Time for which the load runs before the first and after the last change: each source port comes round at
/// least once.
const LOAD_BEFORE_AND_AFTER: Duration = Duration::from_secs(10);

/// Time for which the load runs after each replaced pod.
const LOAD_BETWEEN_PODS: Duration = Duration::from_secs(4);

/// Time for everything that has to happen before traffic can be measured.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Inputs of the demo, from its environment.
struct Inputs {
    binary: PathBuf,
    examples: PathBuf,
}

impl Inputs {
    /// Checks everything that can be missing, before anything is built.
    fn read() -> Result<Inputs> {
        let path = |name: &str| -> Result<PathBuf> {
            let path = PathBuf::from(std::env::var_os(name).with_context(|| format!("{name} is not set"))?);
            ensure!(path.exists(), "{name}: there is no {}", path.display());
            Ok(path)
        };
        let inputs = Inputs { binary: path("KUBE_IPVS_BIN")?, examples: path("KUBE_IPVS_EXAMPLES")? };
        ensure!(rustix::process::geteuid().is_root(), "network namespaces need root");
        for tool in ["ip", "nft", "ipvsadm"] {
            let found = try_output(Command::new(tool).arg("-V"));
            // Some tools print their version and fail; only a missing one cannot start.
            ensure!(
                found.is_ok() || found.is_err_and(|error| error.code.is_some()),
                "{tool} is not installed"
            );
        }
        let listed = NetNs::create().try_run(&["ipvsadm", "-Ln"]);
        listed.context("this kernel has no IPVS (module ip_vs)")?;
        Ok(inputs)
    }
}

/// Rule that decides when a drained real server goes, and what becomes of a reused port.
struct Rule {
    name: &'static str,
    flags: &'static [&'static str],
    /// True if connections of a vanished real server stay, as kube-proxy once left them.
    keeps_dead_connections: bool,
}

/// kube-proxy's rule: a real server goes with its last connection, active or not, and by nothing else.
const KUBE_PROXY: Rule = Rule {
    name: "kube-proxy's rule",
    flags: &[
        "--graceful-policy=all-connections",
        "--graceful-endpoint-gone=drain",
        "--graceful-silence=0s",
        "--conn-reuse-mode=0",
        // Otherwise the audit would put the next setting right.
        "--ipvs-sync-period=1h",
    ],
    keeps_dead_connections: true,
};

const DEFAULTS: Rule = Rule { name: "kube-ipvs, defaults", flags: &[], keeps_dead_connections: false };

/// Measurements under one rule.
struct Measured {
    report: load::Report,
    /// Old pods, each with the time from turning terminating until its last real server went; or its stay so
    /// far.
    gone: Vec<(String, Result<Duration, Duration>)>,
}

/// Runs the whole demo.
pub fn run() -> Result<()> {
    let inputs = Inputs::read()?;
    let screen = Screen::new();
    let directory = TempDir::new("kube-ipvs-demo");
    let version = Settings::new(&inputs.binary, directory.path()).version()?;
    screen.title(&[&kernel_release(), version.trim()]);
    let measured = [act(&screen, &inputs, &KUBE_PROXY)?, act(&screen, &inputs, &DEFAULTS)?];
    show_result(&screen, &measured);
    ensure!(measured.iter().all(|measured| measured.report.ok > 0), "{SERVICE} was not served at all");
    Ok(())
}

/// Runs the whole rolling update under one rule, in a network of its own.
fn act(screen: &Screen, inputs: &Inputs, rule: &Rule) -> Result<Measured> {
    screen.chapter(rule.name, rule.flags);
    let directory = TempDir::new("kube-ipvs-demo");
    let mut settings = Settings::new(&inputs.binary, directory.path());
    settings.flags.extend(rule.flags.iter().map(|flag| (*flag).to_owned()));
    let mut examples = Examples::copy(&inputs.examples, &settings.manifests)?;
    let program = ProbeProgram { path: std::env::current_exe()?, prefix: vec![PROBE_WORD.to_owned()] };
    let net = Net::new(PodNetwork::Routed, program);
    let mut pods = Vec::new();
    for (name, number) in examples.pods(SERVICE)? {
        pods.push(net.pod(&name, number, &examples.target_ports()));
    }
    screen.step(&format!("a node, a client outside and {} pods, made of network namespaces", pods.len()));
    let vips = examples.addresses(SERVICE)?;
    let _proxy = Proxy::start(&net.node, &settings);
    wait_for(START_TIMEOUT, &format!("{SERVICE} to be served"), || {
        let mut outcomes = vips.iter().map(|vip| net.outside_client().ask(crate::probe::Proto::Tcp, *vip));
        outcomes.find(|outcome| outcome.result.is_err()).map_or(Ok(()), Err)
    });
    if rule.keeps_dead_connections {
        net.node.try_run(&["sysctl", "-w", "net.ipv4.vs.expire_nodest_conn=0"])?;
        screen.step("net.ipv4.vs.expire_nodest_conn=0, as kube-proxy once left it");
    }
    let vips_shown: Vec<_> = vips.iter().map(ToString::to_string).collect();
    screen.step(&format!("{SERVICE} answers the client at {}", vips_shown.join(" and ")));
    let load_settings = load_settings(&vips);
    let load = net.outside.enter(|| Load::start(&load_settings));
    screen.step(&render_load(&load_settings));
    std::thread::sleep(LOAD_BEFORE_AND_AFTER);
    screen.step(&render_progress(&load));
    let timeline = Timeline::record(&net.node);
    let old = roll(screen, &net, &mut examples, &mut pods, &load)?;
    std::thread::sleep(LOAD_BEFORE_AND_AFTER);
    screen.step(&render_progress(&load));
    let gone = old.iter().map(|old| (old.name.clone(), stayed(&timeline, old, &examples))).collect();
    show_virtual_servers(screen, &net, "Virtual servers after")?;
    Ok(Measured { report: load.stop(), gone })
}

fn stayed(timeline: &Timeline, old: &Old, examples: &Examples) -> Result<Duration, Duration> {
    let reals: Vec<_> = examples.target_ports().into_iter().flat_map(|port| old.address.port(port)).collect();
    let removed = timeline.removed(&reals, old.terminating);
    removed.map(|at| at.duration_since(old.terminating)).ok_or_else(|| old.terminating.elapsed())
}

fn kernel_release() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}", release.trim())
}

/// Makes 50 connections a second, so that a slow guest can keep up; each port comes round after 6 seconds.
fn load_settings(vips: &[std::net::SocketAddr]) -> load::Settings {
    load::Settings {
        ports: (20_000, 300),
        rate: 50,
        workers: 6,
        // If each connection waited longer for a dead pod, fewer would be under way at once.
        timeout: Duration::from_secs(3),
        ..load::Settings::new(vips, &OUTSIDE.each())
    }
}

fn render_load(settings: &load::Settings) -> String {
    format!(
        "short connections: {} a second from {} source ports, reused in turn",
        settings.rate, settings.ports.1
    )
}

fn render_progress(load: &Load) -> String {
    let report = load.progress();
    format!("so far {} connections, {} failed, {} slow", report.connections, report.failed(), report.slow)
}

/// Replaces every pod, one after the other.
fn roll(
    screen: &Screen,
    net: &Net,
    examples: &mut Examples,
    pods: &mut Vec<Pod>,
    load: &Load,
) -> Result<Vec<Old>> {
    let mut gone = Vec::new();
    for turn in 1..=pods.len() {
        let old = pods.remove(0);
        // A process takes from 1 to 3 s to end after it was asked to.
        let grace = Duration::from_secs(1 + (turn as u64 - 1) % 3);
        let number = 20 + u8::try_from(turn)?;
        let new = net.pod(&format!("{}-new", old.name), number, &examples.target_ports());
        gone.push(Rollout { screen, net, examples }.replace(old, &new, grace)?);
        pods.push(new);
        std::thread::sleep(LOAD_BETWEEN_PODS);
        screen.step(&render_progress(load));
    }
    Ok(gone)
}

fn show_virtual_servers(screen: &Screen, net: &Net, title: &str) -> Result<()> {
    let listing = net.node.try_run(&["ipvsadm", "-Ln"])?;
    let count = ipvs(&net.node).servers.len();
    screen.block(&format!("{title} ({count}, as ipvsadm -Ln lists them)"), &listing);
    Ok(())
}

fn show_result(screen: &Screen, measured: &[Measured; 2]) {
    let both = |name: &str, value: &dyn Fn(&Measured) -> String| {
        let [kube_proxy, defaults] = measured.each_ref().map(value);
        [name.to_owned(), kube_proxy, defaults]
    };
    let mut rows = vec![
        [String::new(), KUBE_PROXY.name.to_owned(), DEFAULTS.name.to_owned()],
        both("connections", &|measured| measured.report.connections.to_string()),
        both("failed", &|measured| measured.report.failed().to_string()),
    ];
    let kinds: BTreeSet<_> = measured.iter().flat_map(|measured| measured.report.failures.keys()).collect();
    rows.extend(kinds.into_iter().map(|kind| {
        let count =
            |measured: &Measured| measured.report.failures.get(kind).copied().unwrap_or(0).to_string();
        both(&format!("  {kind}"), &count)
    }));
    let slow = format!("slow (> {:.1} s)", load::SLOW_FROM.as_secs_f64());
    rows.push(both(&slow, &|measured| measured.report.slow.to_string()));
    rows.push(both("median / 99 % / longest", &|measured| {
        let load::Report { median, p99, longest, .. } = measured.report;
        format!("{median:.1} / {p99:.1} / {longest:.1} ms")
    }));
    for at in 0..measured[0].gone.len() {
        rows.push(both(&format!("{}: real servers stayed", measured[0].gone[at].0), &|measured| {
            match &measured.gone[at].1 {
                Ok(stayed) => format!("{:.1} s", stayed.as_secs_f64()),
                Err(so_far) => format!("{:.0} s and longer", so_far.as_secs_f64()),
            }
        }));
    }
    screen.table("The same rolling update by both rules, as its client saw it", &rows);
}
