//! The main job end to end, narrated: three pods, a client with source-port reuse, a rolling update.
//!
//! It prints what was measured, whatever that is; it fails only if it could not run or if nothing was served.

mod examples;
mod rollout;
mod screen;

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use testkit::{NetNs, TempDir, try_output, wait_for};

use crate::net::{Net, OUTSIDE, Pod, PodNetwork, ProbeProgram};
use crate::observe::ipvs;
use crate::probe::load::{self, Load};
use crate::proxy::{Proxy, Settings};
use examples::Examples;
use rollout::{Gone, Rollout};
use screen::Screen;

/// First argument with which the demo's executable is the prober.
pub const PROBE_WORD: &str = "probe";

/// The Service that gets the load.
const SERVICE: &str = "web";

/// How long the load runs before the first and after the last change: each source port comes round at least once.
const QUIET: Duration = Duration::from_secs(10);

/// Bound on everything that has to happen before traffic can be measured.
const START: Duration = Duration::from_secs(60);

/// What the demo is given by its environment.
struct Inputs {
    binary: PathBuf,
    examples: PathBuf,
}

impl Inputs {
    /// Everything that can be missing, checked before anything is built.
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
            // Some print their version and fail; only a missing one cannot start.
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

/// Run the whole demo.
pub fn run() -> Result<()> {
    let inputs = Inputs::read()?;
    let directory = TempDir::new("kube-ipvs-demo");
    let screen = Screen::new();
    let settings = Settings::new(&inputs.binary, directory.path());
    screen.title(&[&kernel_release(), settings.version()?.trim()]);

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
    screen.step(&format!("kube-ipvs started on the node, following a copy of {}", inputs.examples.display()));
    wait_for(START, &format!("{SERVICE} to be served"), || {
        let mut outcomes = vips.iter().map(|vip| net.outside_client().ask(crate::probe::Proto::Tcp, *vip));
        outcomes.find(|outcome| outcome.result.is_err()).map_or(Ok(()), Err)
    });
    let vips_shown: Vec<_> = vips.iter().map(ToString::to_string).collect();
    screen.step(&format!("{SERVICE} answers the client at {}", vips_shown.join(" and ")));
    show_virtual_servers(&screen, &net, "Virtual servers before")?;

    let load_settings = load_settings(&vips);
    let load = net.outside.enter(|| Load::start(&load_settings));
    screen.step(&render_load(&load_settings));
    std::thread::sleep(QUIET);
    screen.step(&render_progress(&load));
    let gone = roll(&screen, &net, &mut examples, &mut pods, &load)?;
    std::thread::sleep(QUIET);
    let report = load.stop();
    screen.step("load stopped");
    show_virtual_servers(&screen, &net, "Virtual servers after")?;
    show_result(&screen, &report, &gone);
    ensure!(report.ok > 0, "{SERVICE} was not served at all");
    Ok(())
}

fn kernel_release() -> String {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("Linux {}", release.trim())
}

/// 50 connections a second, so that a slow guest can keep up; each port comes round after 6 seconds.
fn load_settings(vips: &[std::net::SocketAddr]) -> load::Settings {
    load::Settings {
        ports: (20_000, 300),
        rate: 40,
        workers: 6,
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

/// Replace every pod, one after the other.
fn roll(
    screen: &Screen,
    net: &Net,
    examples: &mut Examples,
    pods: &mut Vec<Pod>,
    load: &Load,
) -> Result<Vec<Gone>> {
    let mut gone = Vec::new();
    for turn in 1..=pods.len() {
        let old = pods.remove(0);
        // From 1 to 3 s, as it takes a process to end after it was told to.
        let grace = Duration::from_secs(1 + (turn as u64 - 1) % 3);
        let number = 20 + u8::try_from(turn)?;
        let new = net.pod(&format!("{}-new", old.name), number, &examples.target_ports());
        gone.push(Rollout { screen, net, examples }.replace(old, &new, grace)?);
        pods.push(new);
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

fn show_result(screen: &Screen, report: &load::Report, gone: &[Gone]) {
    let mut rows = vec![("connections".to_owned(), report.connections.to_string())];
    rows.push(("failed".to_owned(), report.failed().to_string()));
    rows.extend(report.failures.iter().map(|(what, count)| (format!("  {what}"), count.to_string())));
    rows.push((format!("slow (> {:.1} s)", load::SLOW.as_secs_f64()), report.slow.to_string()));
    let latency = format!("{:.1} / {:.1} / {:.1} ms", report.median, report.p99, report.longest);
    rows.push(("median / 99 % / longest".to_owned(), latency));
    for Gone { pod, killed, removed } in gone {
        rows.push((
            format!("{pod}: real servers gone"),
            match removed {
                Some(removed) => format!(
                    "{:.1} s after it turned terminating (its process ended after {:.1} s)",
                    removed.as_secs_f64(),
                    killed.as_secs_f64()
                ),
                None => format!("still there {} s after it turned terminating", rollout::PATIENCE.as_secs()),
            },
        ));
    }
    screen.table("Result", &rows);
}
