//! Tests that run on real kernels.
//!
//! Any package with a feature `guest` and test targets that require it takes part, so on the host these tests
//! do not exist and cannot pass by skipping. Each test runs in a process of its own.

mod plan;
mod retry;
mod run;
pub mod selftest;
mod verdict;

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use crate::{
    kernels::{self, Kernel, Series},
    setup,
    tally::Tally,
};
pub use plan::{Case, Plan, add_programs, environment};
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
    #[arg(long, default_value_t = crate::guest::MEMORY_MIB)]
    pub memory: u32,
    #[command(flatten)]
    pub tolerance: Tolerance,
    /// Only tests whose names contain this.
    pub filter: Option<String>,
}

/// Tolerance towards failures.
#[derive(Debug, Clone, Copy, Default, Args)]
pub struct Tolerance {
    /// Fails a test at its first failure; for finding out which tests are unsteady.
    #[arg(long)]
    no_retry: bool,
}

/// Cargo's profile for programs in guests, by default.
pub const PROFILE: &str = "dev";

/// Number of kernels whose contracts are tested at the same time, in a guest each: most of their time is one
/// process's.
const KERNELS_AT_A_TIME: usize = 2;

impl GuestTest {
    /// Runs the tests and prints a summary.
    pub fn run(&self) -> Result<ExitCode> {
        setup::ensure()?;
        let plan = Plan::build(&self.package, &self.profile, self.filter.as_deref())?;
        let series = kernels::select(&self.kernel, self.all_kernels)?;
        let mut kernels = OnKernel::all(&series, &plan, self.memory, self.tolerance)?;
        let mut all = Tally::default();
        if !plan.contracts.is_empty() {
            all.add(&contracts(&mut kernels, &plan));
        }
        if !plan.end_to_end.is_empty() {
            for kernel in &mut kernels {
                all.add(&kernel.run(&plan.end_to_end));
            }
        }
        if all.ran() == 0 && all.skipped == 0 {
            all.fail("guest tests", "no test ran");
        }
        all.print_details();
        println!("{}", all.line());
        Ok(all.exit_code())
    }
}

/// A series and its runner of tests, or the reason why it has none.
#[derive(Debug)]
pub struct OnKernel {
    /// The series.
    pub series: &'static Series,
    runner: Result<Runner, String>,
}

impl OnKernel {
    /// Makes images for all of these series; a kernel that is not to be had is an error only when its tests
    /// run.
    pub fn all(
        series: &[&'static Series],
        plan: &Plan,
        memory: u32,
        tolerance: Tolerance,
    ) -> Result<Vec<Self>> {
        let runner = |kernel: Kernel| {
            let image = plan.image(&kernel)?;
            anyhow::Ok(Runner::new(kernel, image, memory, Retries::new(!tolerance.no_retry)))
        };
        let on = |series: &&'static Series| match kernels::ensure(series) {
            Ok(kernel) => Ok(Self { series, runner: Ok(runner(kernel)?) }),
            Err(error) => Ok(Self { series, runner: Err(format!("{error:#}")) }),
        };
        series.iter().map(on).collect()
    }

    /// Runs these tests. Without the kernel it skips them, or fails them if the kernel is required.
    pub fn run(&mut self, cases: &[Case]) -> Tally {
        match &mut self.runner {
            Ok(runner) => {
                let mut tally = runner.run(cases);
                if tally.ran() == 0 {
                    tally.fail(&format!("guest tests on kernel {}", self.series.name), "no test ran");
                }
                tally
            }
            Err(reason) => missing(self.series, cases.len(), reason),
        }
    }
}

/// Runs the contracts on all kernels, on some at the same time.
pub fn contracts(kernels: &mut [OnKernel], plan: &Plan) -> Tally {
    let mut all = Tally::default();
    for some in kernels.chunks_mut(KERNELS_AT_A_TIME) {
        std::thread::scope(|scope| {
            let runs: Vec<_> =
                some.iter_mut().map(|kernel| scope.spawn(|| kernel.run(&plan.contracts))).collect();
            for run in runs {
                match run.join() {
                    Ok(tally) => all.add(&tally),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
        });
    }
    all
}

fn missing(series: &Series, count: usize, reason: &str) -> Tally {
    let what = format!("all guest tests on kernel {}", series.name);
    println!("kernel {}: {reason}", series.name);
    let mut tally = Tally::default();
    if series.required {
        tally.fail(&what, reason);
    } else {
        tally.skip_many(&what, reason, count);
    }
    tally
}
