//! Costs counted in instructions, on an emulator whose clock counts them.
//!
//! `cargo xtask bench --exact` starts a guest with one processor and `-icount`: every instruction takes two
//! nanoseconds of the guest's time, whatever the machine around it does, so that a second run says the same. Nothing
//! waits in what is counted: idle time follows the host.
//!
//! In reading order: [`paths`] lists the paths of packets that are measured; [`ways`] programs a node for each of
//! them, by kube-ipvs, by hand, and as kube-proxy does; [`traffic`] sends and counts; [`work`] counts what kube-ipvs itself
//! does; [`report`] compares with an earlier run. Apart from that, [`parts`] tells what each chain costs.

pub mod parts;
pub mod paths;
pub mod report;
pub mod traffic;
pub mod ways;
pub mod work;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::programming::Bench;
use paths::Path;
use ways::Way;

/// Nanoseconds of an instruction on the guest's clock (`-icount shift=1`).
const NANOS_PER_INSTRUCTION: f64 = 2.0;

/// Largest difference between two counts of the same work, as a share: interrupts of the timer are counted, too.
const UNSTEADY: f64 = 0.01;

/// One figure.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Name of the work.
    pub work: String,
    /// Unit of the figure: a connection, an exchange, a Service.
    pub unit: String,
    /// Program, or way of programming, that it is a figure of.
    pub way: String,
    /// Instructions for each.
    pub instructions: f64,
}

/// Measures the chains of the packet rules, one by one.
pub fn measure_parts(bench: &Bench, progress: impl FnMut(&str)) -> Result<Vec<parts::Part>> {
    check_clock()?;
    parts::measure(bench, progress)
}

/// Measures everything, or a part that takes a few minutes.
pub fn measure(bench: &Bench, quick: bool, mut progress: impl FnMut(&str)) -> Result<Vec<Row>> {
    check_clock()?;
    let mut rows = Vec::new();
    for path in Path::all(quick) {
        progress(&path.name());
        for way in Way::ALL {
            let counts = path.measure(way, bench)?;
            for (unit, instructions) in counts {
                rows.push(Row {
                    work: path.name(),
                    unit: unit.to_owned(),
                    way: way.as_str().to_owned(),
                    instructions: instructions.round(),
                });
            }
        }
    }
    rows.extend(work::measure(bench, quick, &mut progress)?);
    Ok(rows)
}

/// Number of instructions that take so long.
fn instructions(time: Duration) -> f64 {
    time.as_secs_f64() * 1e9 / NANOS_PER_INSTRUCTION
}

/// Counts the instructions of some work, by whichever process. The kernel's timers and its work in the background are
/// counted, too.
fn count(work: impl FnOnce() -> Result<()>) -> Result<f64> {
    let start = Instant::now();
    work()?;
    Ok(instructions(start.elapsed()))
}

/// Checks that the clock counts instructions: the same work takes the same time.
fn check_clock() -> Result<()> {
    ensure!(
        std::thread::available_parallelism()?.get() == 1,
        "there are several processors; run this by `cargo xtask bench --exact`"
    );
    let spin = || {
        count(|| {
            for n in 0..20_000_000_u64 {
                _ = black_box(n);
            }
            Ok(())
        })
    };
    let counts = [spin()?, spin()?, spin()?];
    let (least, most) =
        counts.iter().fold((f64::MAX, 0_f64), |(least, most), n| (least.min(*n), most.max(*n)));
    ensure!(
        most <= least * (1.0 + UNSTEADY),
        "the clock does not count instructions, the same work took {least:.0} to {most:.0}; run this by `cargo xtask \
         bench --exact`"
    );
    Ok(())
}
