//! `cargo xtask fuzz`: every parser of outside input under libFuzzer.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::Mutex,
    thread,
};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::{build, command, paths, tally::Tally};

/// Default time for each target, in seconds.
const SECONDS_PER_TARGET: u32 = 60;

/// Time for each target in the tiers of `cargo xtask test`, in seconds: they find what a change has broken at
/// once, and run for longer elsewhere.
const SECONDS_IN_TIERS: u32 = 8;

/// Time in seconds from which on an input is a finding.
const SLOWEST_INPUT_SECONDS: u32 = 10;

/// Memory in MiB that no input may cost.
const MEMORY_MIB: u32 = 2048;

/// Number of lines of a log that show a panic.
const PANIC_LINES_SHOWN: usize = 40;

/// `cargo xtask fuzz`.
#[derive(Debug, Args)]
pub struct Fuzz {
    /// Names of targets; all if none is given.
    targets: Vec<String>,
    /// How long each target runs, in seconds; 0 for ever.
    #[arg(long, default_value_t = SECONDS_PER_TARGET)]
    seconds: u32,
    /// Runs one target on this file only.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

impl Fuzz {
    /// Builds and runs them; the last line is `N passed, N failed, N skipped`.
    pub fn run(&self) -> Result<ExitCode> {
        let fuzzer = Fuzzer::build()?;
        let names = fuzzer.choose(&self.targets)?;
        if let Some(input) = &self.input {
            let [name] = &names[..] else { bail!("--input needs the name of one target") };
            return fuzzer.run_once(name, input);
        }
        let mut tally = Tally::default();
        fuzzer.run(&names, self.seconds, &mut tally)?;
        tally.print_details();
        println!("{}", tally.line());
        Ok(tally.exit_code())
    }
}

/// Runs all targets for [`SECONDS_IN_TIERS`] each.
pub fn all(tally: &mut Tally) -> Result<()> {
    let fuzzer = Fuzzer::build()?;
    fuzzer.run(&fuzzer.choose(&[])?, SECONDS_IN_TIERS, tally)
}

/// The program with all targets, and the folder for its files.
struct Fuzzer {
    program: PathBuf,
    dir: PathBuf,
}

impl Fuzzer {
    fn build() -> Result<Self> {
        let dir = paths::target().join("fuzz");
        let programs = build::fuzzer(&dir)?;
        let program = programs.into_iter().find(|program| program.target == "fuzz");
        Ok(Fuzzer { program: program.context("cargo has built no fuzz targets")?.path, dir })
    }

    /// Chooses the named targets, or all, in the program's order.
    fn choose(&self, wanted: &[String]) -> Result<Vec<String>> {
        let text = command::capture(Command::new(&self.program).env_remove("FUZZ_TARGET"))?;
        let known: Vec<_> = text.lines().map(str::to_owned).collect();
        if let Some(unknown) = wanted.iter().find(|name| !known.contains(name)) {
            bail!("there is no target {unknown:?}, only {}", known.join(", "));
        }
        ensure!(!known.is_empty(), "{} names no target", self.program.display());
        Ok(known.into_iter().filter(|name| wanted.is_empty() || wanted.contains(name)).collect())
    }

    fn run_once(&self, name: &str, input: &Path) -> Result<ExitCode> {
        let status = Command::new(&self.program).env("FUZZ_TARGET", name).arg(input).status()?;
        Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// Runs as many at a time as there are processors.
    fn run(&self, names: &[String], seconds: u32, tally: &mut Tally) -> Result<()> {
        let (queue, results) = (Mutex::new(names.iter()), Mutex::new(Vec::new()));
        let next = || queue.lock().ok().and_then(|mut queue| queue.next());
        thread::scope(|scope| {
            for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
                scope.spawn(|| {
                    while let Some(name) = next() {
                        let result = self.run_target(name, seconds);
                        let shown = result.as_ref().map_or_else(|error| format!("{error:#}"), Clone::clone);
                        println!("fuzz {name}: {shown}");
                        results.lock().map(|mut results| results.push((name, result))).ok();
                    }
                });
            }
        });
        for (name, result) in results.into_inner().unwrap_or_default() {
            match result {
                Ok(_) => tally.pass(),
                Err(error) => tally.fail(&format!("fuzz {name}"), &format!("{error}")),
            }
        }
        Ok(())
    }

    /// Runs one target; returns its numbers of inputs and edges.
    fn run_target(&self, name: &str, seconds: u32) -> Result<String> {
        let (corpus, logs) = (self.dir.join("corpus").join(name), self.dir.join("logs"));
        paths::create(&corpus)?;
        paths::create(&logs)?;
        let log = logs.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("creating {}", log.display()))?;
        let found = self.dir.join(format!("found-{name}-"));
        let status = Command::new(&self.program)
            .env("FUZZ_TARGET", name)
            .env("FUZZ_SEEDS", &corpus)
            .arg(&corpus)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={SLOWEST_INPUT_SECONDS}"))
            .arg(format!("-rss_limit_mb={MEMORY_MIB}"))
            .arg(format!("-artifact_prefix={}", found.display()))
            .arg("-print_final_stats=1")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .status()
            .with_context(|| format!("starting {}", self.program.display()))?;
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        if status.success() {
            return Ok(parse_coverage(&text));
        }
        println!("{}", last_lines(&text, PANIC_LINES_SHOWN));
        match parse_finding(&text) {
            Some(file) => bail!(
                "see its output above; again: cargo xtask fuzz {name} --input {file}; \
                 smaller: FUZZ_TARGET={name} {} -minimize_crash=1 -max_total_time=60 {file}",
                self.program.display()
            ),
            None => bail!("ended with {status}, see {}", log.display()),
        }
    }
}

/// Reads the number of inputs and the coverage from libFuzzer's output.
fn parse_coverage(log: &str) -> String {
    let inputs = log.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let coverage = log.lines().rev().find_map(|line| line.split_once(" cov: ")?.1.split(' ').next());
    format!("{} inputs, {} edges", inputs.unwrap_or("?").trim(), coverage.unwrap_or("?"))
}

/// Reads the name of the file with the input that broke the target.
fn parse_finding(log: &str) -> Option<&str> {
    log.lines().find_map(|line| line.split_once("Test unit written to ")).map(|(_, file)| file.trim())
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "#2\tINITED cov: 32 ft: 32 corp: 1/1b\n#524\tNEW    cov: 37 ft: 40 corp: 5/25b lim: 6\n\
        artifact_prefix='/r/x-'; Test unit written to /r/x-crash-1a\nstat::number_of_executed_units: 524\n\
        stat::average_exec_per_sec:     100\n";

    #[test]
    fn logs_tell_what_was_tried_and_found() {
        assert_eq!(parse_coverage(LOG), "524 inputs, 37 edges");
        assert_eq!(parse_finding(LOG), Some("/r/x-crash-1a"));
        assert_eq!((parse_coverage(""), parse_finding("")), ("? inputs, ? edges".to_owned(), None));
        assert_eq!(last_lines("a\nb\nc", 2), "b\nc");
    }
}
