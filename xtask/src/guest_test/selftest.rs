//! Tests of the guests themselves: a harness that reports a hang as a success is worse than none.

use std::{process::ExitCode, time::Duration};

use anyhow::Result;

use super::{
    plan::Case,
    retry::Retries,
    run::{Report, Runner},
    verdict::Verdict,
};
use crate::{
    guest::{MEMORY_MIB, image::Image},
    kernels::{self, Kernel, Series},
    setup,
    tally::Tally,
};

const SCRIPT: &str = include_str!("selftest.sh");

/// Expected result of a test.
#[derive(Debug, Clone, Copy)]
enum Expected {
    Pass,
    /// Failure with a reason that holds this.
    Fail(&'static str),
    /// Failure with a reason that holds this, and success in the second run.
    Unsteady(&'static str),
    /// Success after writing this number of lines.
    Lines(usize),
}

/// Tests in their order: the one after a dead guest shows that there is a new one.
const EXPECTED: &[(&str, Expected)] = &[
    ("passes", Expected::Pass),
    ("fails", Expected::Fail("exit code 101")),
    ("does_not_run", Expected::Fail("the test did not run")),
    ("hangs", Expected::Fail("timed out")),
    ("crashes", Expected::Fail("killed by signal 11")),
    ("leaves_processes", Expected::Pass),
    ("leaves_namespaces", Expected::Pass),
    ("finds_a_clean_guest", Expected::Pass),
    ("writes_much", Expected::Lines(200_001)),
    ("has_what_tests_need", Expected::Pass),
    ("makes_the_kernel_complain", Expected::Fail("BUG: made up; console log: ")),
    (
        "makes_the_kernel_panic",
        Expected::Fail("Kernel panic - not syncing: sysrq triggered crash; console log: "),
    ),
    ("needs_a_fresh_guest", Expected::Pass),
    ("needs_a_fresh_guest", Expected::Unsteady("exit code 101")),
    ("passes", Expected::Pass),
];

/// `cargo xtask guest selftest`.
pub fn run(names: &[String]) -> Result<ExitCode> {
    setup::ensure()?;
    let mut all = Tally::default();
    for series in kernels::select(names, names.is_empty())? {
        all.add(&on_series(series)?);
    }
    all.print_details();
    println!("{}", all.line());
    Ok(all.exit_code())
}

/// Runs the checks on one series.
pub fn on_series(series: &'static Series) -> Result<Tally> {
    let kernel = kernels::ensure(series)?;
    let mut image = Image::new(&kernel)?;
    image.add_bytes("/tests/selftest", SCRIPT.as_bytes(), 0o755);
    println!("kernel {} ({}): {} checks of the guest", kernel.series, kernel.release, EXPECTED.len());
    let mut runner = Runner::new(kernel.clone(), image, MEMORY_MIB, Retries::new(true));
    let mut tally = Tally::default();
    for (test, expected) in EXPECTED {
        let case = case(test);
        let may_run_again = matches!(expected, Expected::Unsteady(_));
        let report = if may_run_again { runner.settle(&case) } else { runner.run_one(&case) };
        record(&kernel, test, *expected, &report, &mut tally);
    }
    runner.stop(true);
    if tally.failed == 0 {
        runner.discard_logs();
    }
    Ok(tally)
}

fn case(test: &str) -> Case {
    Case {
        package: "guest".to_owned(),
        program: "/tests/selftest".to_owned(),
        test: test.to_owned(),
        ignored: false,
        timeout: Duration::from_secs(if test == "hangs" { 2 } else { 60 }),
    }
}

fn record(kernel: &Kernel, test: &str, expected: Expected, report: &Report, tally: &mut Tally) {
    let output = String::from_utf8_lossy(&report.output);
    let as_expected = match (expected, &report.verdict) {
        (Expected::Pass, Verdict::Passed) => true,
        (Expected::Lines(count), Verdict::Passed) => output.lines().count() == count,
        (Expected::Fail(reason), Verdict::Failed(why))
        | (Expected::Unsteady(reason), Verdict::Unsteady(why)) => why.contains(reason),
        _ => false,
    };
    if as_expected {
        println!("  as expected {:6.2} s  {test}: {expected:?}", report.took.as_secs_f64());
        tally.pass();
        return;
    }
    let why = format!("expected {expected:?}, got {:?}", report.verdict);
    println!("  {test}: {why}\n{}", output.chars().take(5000).collect::<String>());
    tally.fail(&format!("[{}] guest {test}", kernel.series), &why);
}
