//! Commands that end by themselves.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, bail};
use dataplane::Sysctls;
use kernel::ProcSysctls;
use lb_types::{Operation, VipBinding};
use planner::{Plan, Subject};
use proxy_config::ConfigFile;
use reconcile::{Cleanup, Event, Reconciler, State};
use tracing::{info, warn};

use crate::{
    advice, config::Settings, flags::VersionRequest, kernel_tables, leftovers, output, process, source,
    state_dir,
};

/// Prints the version.
pub fn version(request: VersionRequest) -> anyhow::Result<()> {
    let name = if request == VersionRequest::Raw { "" } else { "kube-ipvs " };
    output::print(&format!("{name}{}\n", env!("CARGO_PKG_VERSION")))?;
    Ok(())
}

/// Writes the configuration that is in effect to a file, with every default.
pub fn write_config(path: &Path, config: ConfigFile, settings: &Settings) -> anyhow::Result<()> {
    advice::report_settings(settings);
    let config = process::effective_config(config, settings);
    if settings.healthz.is_none() || settings.metrics.is_none() {
        warn!(
            "a file cannot switch a server off: an empty address means the default there, as in kube-proxy"
        );
    }
    fs::write(path, config.to_yaml()).with_context(|| format!("write --write-config-to {}", path.display()))
}

/// Loads modules and sets the kernel parameters and IPVS timeouts as a start would, and leaves what depends on Services
/// to it.
pub fn init(settings: &Settings) -> anyhow::Result<()> {
    advice::report_settings(settings);
    kernel_tables::load_ipvs(settings);
    let tables = kernel_tables::open()?.tables;
    kernel_tables::set_timeouts(settings)?;
    let choice = kernel_tables::choose_conn_reuse(settings);
    let config = kernel_tables::for_this_kernel(settings, &choice);
    let plan = Reconciler::new(config, tables).dry_run().context("read the kernel parameters")?;
    write_sysctls(&plan, &mut ProcSysctls::default());
    Ok(())
}

/// Writes the kernel parameters of a plan, and nothing else of it. One that is refused stops no other.
fn write_sysctls(plan: &Plan, sysctls: &mut dyn Sysctls) {
    for op in plan.operations() {
        let Operation::Sysctl(op) = op else { continue };
        match sysctls.write(op) {
            Ok(()) => info!("{op}"),
            Err(error) => warn!("{}", kernel_tables::chain(&error)),
        }
    }
}

/// Prints each write that a start on this node would make.
pub fn plan(settings: &Settings) -> anyhow::Result<()> {
    advice::report_settings(settings);
    let source = source::open(settings)?;
    let tables = kernel_tables::open()?.tables;
    let choice = kernel_tables::choose_conn_reuse(settings);
    let config = kernel_tables::for_this_kernel(settings, &choice);
    let mut reconciler = Reconciler::new(config, tables);
    let batch = source.read_once();
    for problem in &batch.problems {
        warn!("{problem}");
    }
    for event in batch.events {
        reconciler.handle(Event::Model(event));
    }
    let plan = reconciler.dry_run().context("compare the kernel with the objects")?;
    let mut bindings = render_bindings(&reconciler);
    if let Some(line) = leftovers::announce(settings.kube_proxy_rules) {
        let _infallible = write!(bindings, "{line}");
    }
    match plan.len() {
        0 => output::print(&format!("{bindings}nothing to write: the kernel is as the objects say\n"))?,
        writes => output::print(&format!("{bindings}{}{writes} writes\n", render(&plan, &reconciler)))?,
    };
    Ok(())
}

/// Prints one line for the way by which packets to each external and load-balancer IP come to IPVS, with the reason.
fn render_bindings(reconciler: &Reconciler) -> String {
    let mut text = String::new();
    for (vip, (binding, reason)) in reconciler.state().desired.external_bindings() {
        let binding = binding.map_or_else(|| VipBinding::None.to_string(), |binding| binding.to_string());
        let _infallible = writeln!(text, "# {vip}: {binding} ({reason})");
    }
    text
}

/// Prints one line for each write. Behind it stands the Service port that it is for, and the front, where the
/// write names only a mark.
fn render(plan: &Plan, reconciler: &Reconciler) -> String {
    let mut text = String::new();
    let State { desired, mirror, .. } = reconciler.state();
    for op in plan.operations() {
        let Some(front) = Subject::front_of(op, mirror) else {
            let _infallible = writeln!(text, "{op}");
            continue;
        };
        let name = desired.name_of(&front).map_or_else(|| "no Service".to_owned(), |name| name.to_string());
        let by_mark = matches!(op, Operation::Ipvs(op) if op.virtual_server().vip_port().is_none());
        let place = if by_mark { format!("{front}, ") } else { String::new() };
        let _infallible = writeln!(text, "{op}  # {place}{name}");
    }
    text
}

/// Removes everything of ours, unless a process runs that would bring it back.
pub fn cleanup(settings: &Settings) -> anyhow::Result<()> {
    advice::report_settings(settings);
    let _lock = state_dir::lock(&settings.state_dir)?;
    let mut reconciler = Reconciler::new(settings.reconcile.clone(), kernel_tables::open_each());
    let Cleanup { plan, report, unread } = reconciler.cleanup();
    let printed = output::print(&plan.to_string());
    for error in &unread {
        output::complain(&format!(
            "kube-ipvs: {}; everything of ours there stays",
            kernel_tables::chain(error)
        ));
    }
    match (report.failed, unread.len()) {
        (0, 0) => printed.map(drop),
        (0, unread) => bail!("{unread} tables could not be read; run it again once they can be"),
        (failed, _) => bail!("{failed} of {} writes were refused; see the log lines above", plan.len()),
    }
}

#[cfg(test)]
mod tests {
    use dataplane::{
        Tables,
        fake::{FakeConntrack, FakeIpvs, FakeRules, FakeSysctls, FakeVips},
    };
    use kernel::{ConnReuseFlag, KernelRelease};

    use super::*;
    use crate::{conn_reuse::ConnReuseChoice, invocation::testing::invocation};

    #[test]
    fn an_initialisation_writes_kernel_parameters_alone_and_as_configured() {
        let flags = ["--conntrack-udp-timeout=90s", "--conntrack-max-per-core=0", "--ipvs-strict-arp"];
        let settings = Settings::new(&invocation(&flags)).unwrap();
        let choice = ConnReuseChoice::make(ConnReuseFlag::Keep, &KernelRelease::running());
        let (sysctls, rules) = (FakeSysctls::default(), FakeRules::default());
        for (name, value) in [
            (kernel::CONNTRACK, 0),
            (kernel::CONNTRACK_MAX, 7),
            (kernel::CONNTRACK_UDP, 30),
            (kernel::ARP_IGNORE, 0),
        ] {
            sysctls.set(name, value);
        }
        let tables = Tables {
            ipvs: Box::new(FakeIpvs::default()),
            vips: Box::new(FakeVips::default()),
            rules: Box::new(rules.clone()),
            sysctls: Box::new(sysctls.clone()),
            conntrack: Box::new(FakeConntrack::default()),
        };
        let config = kernel_tables::for_this_kernel(&settings, &choice);
        let plan = Reconciler::new(config, tables).dry_run().unwrap();
        assert!(plan.operations().any(|op| !matches!(op, Operation::Sysctl(_))), "a start would write more");
        sysctls.refuse(kernel::CONNTRACK, true);
        write_sysctls(&plan, &mut sysctls.clone());
        assert_eq!((sysctls.get(kernel::CONNTRACK), sysctls.get(kernel::CONNTRACK_UDP)), (Some(0), Some(90)));
        assert_eq!((sysctls.get(kernel::CONNTRACK_MAX), sysctls.get(kernel::ARP_IGNORE)), (Some(7), Some(1)));
        assert_eq!(rules.transactions(), 0, "nothing else is written");
    }
}
