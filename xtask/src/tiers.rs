//! `cargo xtask test`: every tier, one table, one closing line.

use std::{
    io::{BufRead, BufReader},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    checks::{edges, links, purity},
    command, conformance, deny, exact, fuzz,
    guest_test::{self, OnKernel, Plan, Tolerance, selftest},
    image, kernels,
    libtest::{self, Line},
    manifests, monitoring, schemas, setup,
    tally::Tally,
    workspace::{Workspace, cargo},
};

/// `cargo xtask test`.
#[derive(Debug, Args)]
pub struct Test {
    /// Runs the guest tests on all kernels, not only on the required ones.
    #[arg(long)]
    all_kernels: bool,
    /// Leaves out the guest tests.
    #[arg(long)]
    host_only: bool,
    #[command(flatten)]
    tolerance: Tolerance,
}

/// A finished tier.
struct Tier {
    name: String,
    tally: Tally,
    took: Duration,
}

impl Test {
    /// Runs all tiers whatever fails; the last line is `N passed, N failed, N skipped`.
    pub fn run(&self) -> ExitCode {
        let mut tiers = Vec::new();
        run_tier(&mut tiers, "set-up", |_| setup::ensure());
        if tiers.iter().all(|tier| tier.tally.failed == 0) {
            self.run_tiers(&mut tiers);
        }
        close(&tiers)
    }

    fn run_tiers(&self, tiers: &mut Vec<Tier>) {
        run_tier(tiers, "format", |tally| {
            check(tally, "cargo fmt", cargo().args(["fmt", "--all", "--check"]))
        });
        run_tier(tiers, "edges", check_edges);
        run_tier(tiers, "purity", check_purity);
        run_tier(tiers, "links", check_links);
        run_tier(tiers, "conformance", check_conformance);
        run_tier(tiers, "manifests", manifests::check);
        run_tier(tiers, "schemas", schemas::check);
        run_tier(tiers, "monitoring", monitoring::check);
        run_tier(tiers, "clippy", clippy);
        run_tier(tiers, "crates", deny::check);
        run_tier(tiers, "host tests", host_tests);
        run_tier(tiers, "image", image::check);
        run_tier(tiers, "fuzz targets", |tally| self.fuzz(tally));
        self.run_guests(tiers);
    }

    fn fuzz(&self, tally: &mut Tally) -> Result<()> {
        if self.host_only {
            tally.skip("fuzz targets", "--host-only was given; cargo xtask fuzz runs them");
            return Ok(());
        }
        fuzz::all(tally)
    }

    fn run_guests(&self, tiers: &mut Vec<Tier>) {
        let series = kernels::SERIES.iter().filter(|series| self.all_kernels || series.required);
        let series: Vec<_> = series.collect();
        if self.host_only {
            run_tier(tiers, "guest tests", |tally| {
                for series in &series {
                    tally.skip(&format!("guest tests on {}", series.name), "--host-only was given");
                }
                Ok(())
            });
            return;
        }
        run_tier(tiers, "guest self-test", |tally| {
            tally.add(&selftest::on_series(kernels::series(kernels::DEFAULT_SERIES)?)?);
            Ok(())
        });
        run_tier(tiers, "image in a guest", image::check_in_guest);
        let mut built = None;
        run_tier(tiers, "guest build", |_| {
            let plan = Plan::build(&[], guest_test::PROFILE, None)?;
            let kernels = OnKernel::all(&series, &plan, crate::guest::MEMORY_MIB, self.tolerance)?;
            built = Some((plan, kernels));
            Ok(())
        });
        let Some((plan, mut kernels)) = built else { return };
        run_tier(tiers, "contracts on kernels", |tally| {
            tally.add(&guest_test::contracts(&mut kernels, &plan));
            Ok(())
        });
        for kernel in &mut kernels {
            let name = kernel.series.name;
            run_tier(tiers, &format!("end to end on {name}"), |tally| {
                // The contracts cover what differs by kernel; one kernel runs everything.
                if self.all_kernels || name == kernels::DEFAULT_SERIES {
                    tally.add(&kernel.run(&plan.end_to_end));
                } else {
                    tally.skip(&format!("end to end on {name}"), "only --all-kernels runs it there");
                }
                Ok(())
            });
        }
        run_tier(tiers, "instructions", exact::check);
    }
}

/// Runs a tier; an error is a failure of the tier.
fn run_tier(tiers: &mut Vec<Tier>, name: &str, run: impl FnOnce(&mut Tally) -> Result<()>) {
    println!("==> {name}");
    let start = Instant::now();
    let mut tally = Tally::default();
    if let Err(error) = run(&mut tally) {
        tally.fail(name, &format!("{error:#}"));
        println!("{name} failed: {error:#}");
    }
    tiers.push(Tier { name: name.to_owned(), tally, took: start.elapsed() });
}

/// Counts a command that passes or fails as a whole.
fn check(tally: &mut Tally, what: &str, command: &mut Command) -> Result<()> {
    match command::run(command) {
        Ok(()) => tally.pass(),
        Err(error) => tally.fail(what, &format!("{error:#}")),
    }
    Ok(())
}

fn check_edges(tally: &mut Tally) -> Result<()> {
    expect_none(tally, "edges", &edges::violations(&Workspace::load()?));
    Ok(())
}

fn check_purity(tally: &mut Tally) -> Result<()> {
    expect_none(tally, "purity", &purity::violations(&Workspace::load()?)?);
    Ok(())
}

fn check_links(tally: &mut Tally) -> Result<()> {
    expect_none(tally, "links", &links::violations()?);
    Ok(())
}

fn check_conformance(tally: &mut Tally) -> Result<()> {
    expect_none(tally, "conformance", &conformance::violations()?);
    Ok(())
}

fn expect_none(tally: &mut Tally, what: &str, violations: &[String]) {
    if violations.is_empty() {
        tally.pass();
    }
    for violation in violations {
        println!("{violation}");
        tally.fail(what, violation);
    }
}

/// Runs clippy with the guest features, because guest tests are code like any other.
fn clippy(tally: &mut Tally) -> Result<()> {
    let workspace = Workspace::load()?;
    let with_feature = workspace.packages.iter().filter(|package| package.features.contains_key("guest"));
    let features: Vec<_> = with_feature.map(|package| format!("{}/guest", package.name)).collect();
    let mut command = cargo();
    command.args(["clippy", "--workspace", "--all-targets", "--features", &features.join(",")]);
    check(tally, "cargo clippy", command.args(["--", "-D", "warnings"]))
}

fn host_tests(tally: &mut Tally) -> Result<()> {
    let mut command = cargo();
    command.args(["test", "--workspace", "--no-fail-fast", "--", "--show-output"]);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {}", command::render(&command)))?;
    let stdout = child.stdout.take().context("cargo test without an output")?;
    let mut follower = libtest::Follower::default();
    let (mut failed, mut skipped) = (0, 0);
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        let event = follower.line(&line);
        if event != Line::Hidden {
            println!("{line}");
        }
        match event {
            Line::Result(counts) => {
                tally.passed += counts.passed;
                failed += counts.failed;
            }
            Line::Ignored(name, reason) => tally.skip(name, reason),
            Line::Failed(name) => tally.fail(name, "see its output above"),
            // Libtest counts it as passed, in the result that follows.
            Line::Skipped(name, reason) => {
                tally.skip(&name, reason);
                skipped += 1;
            }
            Line::Hidden | Line::Other => {}
        }
    }
    tally.passed = tally.passed.saturating_sub(skipped);
    let status = child.wait()?;
    // A test program that does not build or crashes prints no result.
    if !status.success() && failed == 0 {
        tally.fail("cargo test", &format!("a test program did not build or crashed, see above ({status})"));
    }
    Ok(())
}

/// Prints the table, the details, and the closing line.
fn close(tiers: &[Tier]) -> ExitCode {
    let mut all = Tally::default();
    println!("\n{:<24} {:>7} {:>7} {:>8} {:>9}", "tier", "passed", "failed", "skipped", "seconds");
    for Tier { name, tally, took } in tiers {
        let Tally { passed, failed, skipped, .. } = tally;
        println!("{name:<24} {passed:>7} {failed:>7} {skipped:>8} {:>9.1}", took.as_secs_f64());
        all.add(tally);
    }
    all.print_details();
    println!("{}", all.line());
    all.exit_code()
}
