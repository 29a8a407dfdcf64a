//! Commands that end by themselves.

use anyhow::{Context, bail};
use reconcile::{Cleanup, Event, Reconciler};
use tracing::warn;

use crate::{config::Settings, kernel_tables, output, source, state_dir};

/// Prints the version.
pub fn version() -> anyhow::Result<()> {
    output::print(concat!("kube-ipvs ", env!("CARGO_PKG_VERSION"), "\n"))?;
    Ok(())
}

/// Prints each write that a start on this node would make.
pub fn plan(settings: &Settings) -> anyhow::Result<()> {
    let source = source::open(settings)?;
    let tables = kernel_tables::open()?.tables;
    let choice = kernel_tables::choose_conn_reuse(settings, None);
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
    match plan.len() {
        0 => output::print("nothing to write: the kernel is as the objects say\n")?,
        writes => output::print(&format!("{plan}{writes} writes\n"))?,
    };
    Ok(())
}

/// Removes everything of ours, unless a process runs that would bring it back.
pub fn cleanup(settings: &Settings) -> anyhow::Result<()> {
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
