//! `cargo xtask guest ...`.

use std::{
    io::{self, Write},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use super::{
    image::Image,
    protocol::{Outcome, Task},
};
use crate::{
    guest_test::{GuestTest, selftest},
    kernels::{self, Kernel},
    setup,
};

/// Commands about guests.
#[derive(Debug, Subcommand)]
pub enum GuestCommand {
    /// Lists the kernels, fetching those that are not cached.
    Kernels {
        /// Fetches the latest ones even if others are cached.
        #[arg(long)]
        update: bool,
        /// Only these series.
        series: Vec<String>,
    },
    /// Runs one program in a guest; its exit code is ours.
    Run(Run),
    /// Runs the guest tests of the workspace.
    Test(GuestTest),
    /// Checks that guests report failures, hangs and crashes for what they are.
    Selftest {
        /// Only on this series; may be repeated. Without it: all.
        #[arg(long)]
        kernel: Vec<String>,
    },
    /// Opens a shell in a guest on this terminal; `exit` powers off.
    Shell(Options),
}

/// Options of every guest.
#[derive(Debug, Args)]
pub struct Options {
    /// The series of the kernel.
    #[arg(long, default_value = kernels::DEFAULT_SERIES)]
    pub kernel: String,
    /// Adds a file or folder of the host, programs with the libraries that they need.
    #[arg(long, value_name = "HOST:GUEST")]
    pub file: Vec<String>,
    /// Memory in MiB.
    #[arg(long, default_value_t = super::MEMORY_MIB)]
    pub memory: u32,
}

/// `guest run`.
#[derive(Debug, Args)]
pub struct Run {
    #[command(flatten)]
    options: Options,
    /// Sets a variable for the program.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Kills the program after so many seconds.
    #[arg(long, default_value_t = 600)]
    timeout: u64,
    /// Copies a file or folder out of the guest afterwards.
    #[arg(long, value_name = "GUEST:HOST")]
    fetch: Vec<String>,
    /// The program and its arguments.
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

impl GuestCommand {
    /// Runs the command.
    pub fn run(self) -> Result<ExitCode> {
        setup::ensure()?;
        match self {
            Self::Kernels { update, series } => list_kernels(&series, update),
            Self::Run(run) => run.run(),
            Self::Test(test) => test.run(),
            Self::Selftest { kernel } => selftest::run(&kernel),
            Self::Shell(options) => options.shell(),
        }
    }
}

fn list_kernels(names: &[String], update: bool) -> Result<ExitCode> {
    let mut code = ExitCode::SUCCESS;
    for series in kernels::select(names, names.is_empty())? {
        let kernel = if update { kernels::update(series) } else { kernels::ensure(series) };
        match kernel {
            Ok(kernel) => println!("{:8} {:32} {}", kernel.series, kernel.release, kernel.version),
            Err(error) => {
                println!("{:8} missing: {error:#}", series.name);
                code = ExitCode::FAILURE;
            }
        }
    }
    Ok(code)
}

impl Options {
    /// Makes the image with the files of the options.
    fn image(&self, kernel: &Kernel) -> Result<Image> {
        let mut image = Image::new(kernel)?;
        for pair in &self.file {
            let (host, guest) = split(pair, "--file HOST:GUEST")?;
            let host = Path::new(host);
            if host.is_dir() { image.add_tree(host, guest)? } else { image.add_program(host, guest)? }
        }
        Ok(image)
    }

    fn shell(&self) -> Result<ExitCode> {
        let kernel = kernels::ensure(kernels::series(&self.kernel)?)?;
        super::machine(&kernel, &self.image(&kernel)?, self.memory, "shell")?.run_shell()?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Run {
    fn run(&self) -> Result<ExitCode> {
        let kernel = kernels::ensure(kernels::series(&self.options.kernel)?)?;
        let image = self.options.image(&kernel)?;
        let task = self.task()?;
        // Several ad hoc runs may go on at the same time; tests and demos use names of their own.
        let what = format!("run-{}", std::process::id());
        let mut session = super::boot(&kernel, &image, self.options.memory, &what)?;
        let outcome = session.run(&task, to_terminal)?;
        for pair in &self.fetch {
            let (guest, host) = split(pair, "--fetch GUEST:HOST")?;
            session.fetch(guest, Path::new(host))?;
        }
        session.quit();
        Ok(report(&outcome, &kernel, &what))
    }

    fn task(&self) -> Result<Task> {
        let env = self.env.iter().map(|pair| {
            let (name, value) = pair.split_once('=').with_context(|| format!("--env {pair}: no `=`"))?;
            Ok((name.to_owned(), value.to_owned()))
        });
        let env = env.collect::<Result<_>>()?;
        Ok(Task { argv: self.command.clone(), env, timeout_ms: self.timeout.saturating_mul(1000) })
    }
}

/// Hands a guest's output on at once.
pub fn to_terminal(bytes: &[u8]) {
    let mut stdout = io::stdout().lock();
    let _ = stdout.write_all(bytes);
    let _ = stdout.flush();
}

/// Prints the error of a run, if it had one, and turns the outcome into an exit code. The console's log of
/// the run `what` stays only after an error.
pub fn report(outcome: &Outcome, kernel: &Kernel, what: &str) -> ExitCode {
    for line in &outcome.kernel {
        eprintln!("kernel: {line}");
    }
    let log = super::console_log(kernel, what).unwrap_or_default();
    if outcome.kernel.iter().any(|line| super::is_bug(line)) {
        eprintln!("the kernel reported a bug; console log: {}", log.display());
        return ExitCode::FAILURE;
    }
    let _ = std::fs::remove_file(log);
    if let Some(problem) = outcome.problem() {
        eprintln!("{problem}");
    }
    let code = outcome.code.and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}

fn split<'a>(pair: &'a str, usage: &str) -> Result<(&'a str, &'a str)> {
    let parts = pair.split_once(':').filter(|(left, right)| !left.is_empty() && !right.is_empty());
    parts.with_context(|| format!("{pair}: expected {usage}"))
}
