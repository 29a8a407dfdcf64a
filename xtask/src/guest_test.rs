//! Tests that run on real kernels.
//!
//! Any package with a feature `guest` and test targets that require it takes part, so on the host these
//! tests do not exist and cannot pass by skipping. Each test runs in a process of its own.

mod plan;
mod retry;
mod run;
pub mod selftest;

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::kernels::{self, Kernel, Series};
use crate::setup;
use crate::tally::Tally;
pub use plan::{Plan, add_programs, environment};
use retry::Retries;
use run::Runner;

/// `cargo xtask guest test`.
#[derive(Debug, Clone, Default, Args)]
pub struct GuestTest {
    /// Runs on this series; may be repeated. Without it: the required ones.
    #[arg(long)]
    pub kernel: Vec<String>,
    /// Runs on all series.
    #[arg(long)]
    pub all_kernels: bool,
    /// Only tests of this package; may be repeated.
    #[arg(short, long)]
    pub package: Vec<String>,
    /// Cargo's profile for tests and programs.
    #[arg(long, default_value = PROFILE)]
    pub profile: String,
    /// Memory of the guest in MiB.
    #[arg(long, default_value_t = crate::guest::MEMORY)]
    pub memory: u32,
    #[command(flatten)]
    pub tolerance: Tolerance,
    /// Only tests whose names contain this.
    pub filter: Option<String>,
}

/// What is forgiven.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Tolerance {
    /// Fails a test at its first failure; for finding out which tests are unsteady.
    #[arg(long)]
    no_retry: bool,
}

/// Cargo's profile for what runs in guests unless told otherwise.
pub const PROFILE: &str = "dev";

impl GuestTest {
    /// Runs the tests and prints a summary.
    pub fn run(&self) -> Result<ExitCode> {
        setup::ensure()?;
        let plan = Plan::build(&self.package, &self.profile, self.filter.as_deref())?;
        let mut all = Tally::default();
        for series in kernels::select(&self.kernel, self.all_kernels)? {
            all.add(&on_series(series, &plan, self.memory, self.tolerance)?);
        }
        all.print_details();
        println!("{}", all.line());
        Ok(all.exit_code())
    }
}

/// Runs the planned tests on one series. Without the kernel they are skipped, or failed if it is required.
pub fn on_series(series: &'static Series, plan: &Plan, memory: u32, tolerance: Tolerance) -> Result<Tally> {
    match kernels::ensure(series) {
        Ok(kernel) => run_all(&kernel, plan, memory, tolerance),
        Err(error) => Ok(missing(series, plan, &format!("{error:#}"))),
    }
}

fn run_all(kernel: &Kernel, plan: &Plan, memory: u32, tolerance: Tolerance) -> Result<Tally> {
    let image = plan.image(kernel)?;
    let retries = Retries::new(!tolerance.no_retry);
    let mut tally = Runner::new(kernel, &image, memory, retries).run(&plan.cases);
    if tally.ran() == 0 {
        tally.fail(&format!("guest tests on kernel {}", kernel.series), "no test ran");
    }
    Ok(tally)
}

fn missing(series: &Series, plan: &Plan, reason: &str) -> Tally {
    let what = format!("all guest tests on kernel {}", series.name);
    println!("kernel {}: {reason}", series.name);
    let mut tally = Tally::default();
    if series.required {
        tally.fail(&what, reason);
    } else {
        tally.skip_many(&what, reason, plan.cases.len());
    }
    tally
}
