//! Work of kube-ipvs itself: its start, a restart, a change.

use std::{fs, time::Duration};

use anyhow::{Context, Result};

use super::{Row, instructions};
use crate::{
    cluster::Cluster,
    node::Node,
    objects::Size,
    process,
    product::Product,
    programming::{self, Bench, Programming},
    running::{DRAINING_MEASURED_AT, DRAINING_REAL_SERVERS, start_draining},
};

/// Counted changes.
const CHANGES: usize = 100;

/// Time for which an idle process is watched: long enough for every kind of audit.
pub const IDLE: Duration = Duration::from_secs(62);

/// Counts what the process does at each size.
pub fn measure(bench: &Bench, quick: bool, progress: &mut impl FnMut(&str)) -> Result<Vec<Row>> {
    let sizes: &[usize] = if quick { &[1_000] } else { &[100, 1_000, 10_000] };
    let mut rows = Vec::new();
    for size in sizes.iter().copied().map(Size::of) {
        progress(&format!("{} x {}", size.services, size.endpoints));
        rows.extend(measure_one(bench, size, quick)?);
    }
    Ok(rows)
}

fn measure_one(bench: &Bench, size: Size, quick: bool) -> Result<Vec<Row>> {
    let mut rows = if quick { Vec::new() } else { writes(bench, size)? };
    let mut push = |work: &str, unit: &str, instructions: f64| {
        rows.push(Row {
            work: format!("{work}, {} x {}", size.services, size.endpoints),
            unit: unit.to_owned(),
            way: "kube-ipvs".to_owned(),
            instructions: instructions.round(),
        });
    };
    let services = size.services as f64;
    let directory = bench.directory("exact-work")?;
    let node = Node::new()?;
    let mut cluster = Cluster::start(&node, size)?;
    let settings = cluster.settings(bench, &directory)?;
    let mut product = Product::start(&node, &settings)?;
    let start = programmed(&mut product).context("start")?;
    // What ran before in the same guest makes a difference of 17 %: a quick run has no such figure.
    if !quick {
        push("start", "Service", start / services);
    }
    node.check(size, true)?;
    let counts = changes(&mut cluster, &mut product)?;
    push("one endpoint replaced", "change", counts[counts.len() / 2]);
    if !quick {
        push("one endpoint replaced, 99 of 100", "change", counts[counts.len() * 99 / 100 - 1]);
        product.wait_for_drains()?;
        push("idle, audits included", "second", idle(&product)?);
    }
    product.stop()?;

    let mut product = Product::start(&node, &settings)?;
    push("restart", "Service", programmed(&mut product).context("restart")? / services);
    product.stop()?;
    // It differs by some percent, by how the polls meet the audits.
    if !quick && size.services == DRAINING_MEASURED_AT {
        let work = format!("{DRAINING_REAL_SERVERS} real servers drain, audits included");
        let product = start_draining(&node, &mut cluster, &settings).context("drains")?;
        push(&work, "second", idle(&product)?);
        product.stop()?;
    }
    fs::remove_dir_all(&directory)?;
    Ok(rows)
}

/// Instructions of single changes, in order of size.
fn changes(cluster: &mut Cluster, product: &mut Product) -> Result<Vec<f64>> {
    let mut counts = Vec::with_capacity(CHANGES);
    for _ in 0..CHANGES {
        let (syncs, before) = (product.syncs()?.len(), process::run_time(product.pid())?);
        cluster.change()?;
        product.wait_for_sync(syncs)?;
        counts.push(since(before, product)?);
    }
    counts.sort_unstable_by(f64::total_cmp);
    Ok(counts)
}

/// Instructions of a second in which nothing is asked of the process.
fn idle(product: &Product) -> Result<f64> {
    let before = process::run_time(product.pid())?;
    std::thread::sleep(IDLE);
    Ok(since(before, product)? / IDLE.as_secs_f64())
}

/// Instructions of the process since it had run for some time; those of threads that have ended meanwhile are left out.
fn since(before: Duration, product: &Product) -> Result<f64> {
    Ok(instructions(process::run_time(product.pid())?.saturating_sub(before)))
}

/// Counts the writes alone, from the first to the last: by kube-ipvs, by `ipvsadm`, and by a loop that sends the bytes
/// of kube-ipvs again.
fn writes(bench: &Bench, size: Size) -> Result<Vec<Row>> {
    let Programming { product, ipvs_alone, ipvsadm, replay_ms, replay_ipvs_ms, .. } =
        programming::measure(bench, size)?;
    let row = |work: &str, way: &str, ms: f64| Row {
        work: format!("{work}, {} x {}", size.services, size.endpoints),
        unit: "Service".to_owned(),
        way: way.to_owned(),
        instructions: (instructions(Duration::from_secs_f64(ms / 1e3)) / size.services as f64).round(),
    };
    Ok(vec![
        row("write everything", "bare", replay_ms),
        row("write everything", "kube-ipvs", product.first_to_last_write_ms),
        row("write to IPVS alone", "bare", replay_ipvs_ms),
        row("write to IPVS alone", "kube-ipvs", ipvs_alone.all_ms),
        row("write to IPVS alone", "ipvsadm -R", ipvsadm.wall_ms),
    ])
}

/// Instructions of a start until everything is programmed.
fn programmed(product: &mut Product) -> Result<f64> {
    product.wait_until_programmed()?;
    Ok(instructions(process::run_time(product.pid())?))
}
