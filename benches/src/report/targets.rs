//! Targets, and whether the measurements meet them.

use serde::Serialize;

use super::SizeResults;

/// A target and its measurement.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Verdict {
    /// Target in words.
    pub target: String,
    /// Measured value.
    pub measured: f64,
    /// Limit, which the value must not exceed, or not fall below.
    pub limit: f64,
    /// Unit of both.
    pub unit: &'static str,
    /// True if the target is met.
    pub met: bool,
}

impl Verdict {
    fn at_most(target: String, measured: f64, limit: f64, unit: &'static str) -> Verdict {
        Verdict { target, measured, limit, unit, met: measured <= limit }
    }

    fn at_least(target: String, measured: f64, limit: f64, unit: &'static str) -> Verdict {
        Verdict { target, measured, limit, unit, met: measured >= limit }
    }
}

/// Judges every target that the measured sizes allow to judge.
pub fn judge(sizes: &[SizeResults]) -> Vec<Verdict> {
    let mut verdicts: Vec<_> = sizes.iter().flat_map(programming).collect();
    verdicts.extend(sizes.iter().map(one_change));
    verdicts.extend(scaling(sizes));
    let at = |services| sizes.iter().find(move |results| results.size.services == services);
    for (services, limit) in [(1_000, 30.0), (10_000, 80.0)] {
        verdicts.extend(at(services).map(|results| {
            let peak = results.running.memory.peak_kb as f64 / 1e3;
            Verdict::at_most(format!("peak resident memory at {services} x 10"), peak, limit, "MB")
        }));
    }
    verdicts.extend(at(10_000).map(|results| {
        let share = results.running.idle.percent_of_a_core;
        Verdict::at_most("CPU when idle at 10000 x 10, audits included".to_owned(), share, 1.0, "% of a core")
    }));
    verdicts.extend(at(1_000).and_then(|results| results.running.draining.as_ref()).map(|draining| {
        let target = "CPU with 1000 real servers of 500 Services draining".to_owned();
        Verdict::at_most(target, draining.percent_of_a_core, 2.0, "% of a core")
    }));
    verdicts.extend(at(1_000).map(|results| {
        let start = results.running.start_ms;
        Verdict::at_most("cold start at 1000 x 10".to_owned(), start, 2_000.0, "ms")
    }));
    verdicts
}

/// Judges against `ipvsadm -R`, and against the bytes alone: everything that kube-ipvs writes, and IPVS only.
fn programming(results: &SizeResults) -> Vec<Verdict> {
    let (services, p) = (results.size.services, &results.programming);
    let whole = p.product.first_to_last_write_ms;
    let alone = p.ipvs_alone.all_ms;
    let times = "times";
    vec![
        Verdict::at_least(
            format!("ipvsadm -R / all of kube-ipvs at {services} x 10"),
            p.ipvsadm.wall_ms / whole,
            10.0,
            times,
        ),
        Verdict::at_least(
            format!("ipvsadm -R / its IPVS part at {services} x 10"),
            p.ipvsadm.wall_ms / alone,
            10.0,
            times,
        ),
        Verdict::at_most(
            format!("all of kube-ipvs / same bytes replayed at {services} x 10"),
            whole / p.replay_ms,
            1.3,
            times,
        ),
        Verdict::at_most(
            format!("its IPVS part / same bytes replayed at {services} x 10"),
            alone / p.replay_ipvs_ms,
            1.3,
            times,
        ),
    ]
}

fn one_change(results: &SizeResults) -> Verdict {
    let p99 = results.running.changes.answer_to_kernel.p99_ms;
    Verdict::at_most(
        format!("one change in the kernel at {} x 10, p99", results.size.services),
        p99,
        20.0,
        "ms",
    )
}

/// Judges the largest size against the smallest, if these are the ones that the target is about.
fn scaling(sizes: &[SizeResults]) -> Option<Verdict> {
    let p50 = |services| {
        let found = sizes.iter().find(|results| results.size.services == services)?;
        Some(found.running.changes.answer_to_kernel.p50_ms)
    };
    let ratio = p50(10_000)? / p50(100)?;
    Some(Verdict::at_most("one change, p50 at 10000 / p50 at 100".to_owned(), ratio, 1.5, "times"))
}
