//! Builds of programs and tests, and their executables.

use std::{
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::{command, workspace::cargo};

/// An executable that cargo built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executable {
    /// Cargo's identifier of the package.
    pub package_id: String,
    /// Name of the target.
    pub target: String,
    /// Path of the file.
    pub path: PathBuf,
}

/// Something that cargo built, or found built: a library, a program or a build script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifact {
    /// Cargo's identifier of the package.
    pub package_id: String,
    /// Name of the target.
    pub target: String,
    /// Paths of its files.
    pub files: Vec<PathBuf>,
    /// Path of the program, if it is one.
    pub executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct CargoMessage {
    reason: String,
    #[serde(default)]
    package_id: String,
    target: Option<MessageTarget>,
    #[serde(default)]
    filenames: Vec<PathBuf>,
    executable: Option<PathBuf>,
}

#[derive(Deserialize)]
struct MessageTarget {
    name: String,
}

/// Builds programs in a profile; `selection` chooses packages and targets.
pub fn programs(profile: &str, selection: &[String]) -> Result<Vec<Executable>> {
    collect(cargo().args(["build", "--profile", profile]).args(selection))
}

/// Builds tests in a profile without running them.
pub fn tests(profile: &str, selection: &[String]) -> Result<Vec<Executable>> {
    collect(cargo().args(["test", "--no-run", "--profile", profile]).args(selection))
}

/// Flags for the coverage that guides libFuzzer, without sanitizers: stable compilers can do that, and nearly
/// all code is safe.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cllvm-args=-simplifycfg-branch-fold-threshold=0";

/// Builds the fuzz targets, and all code that they run through, with coverage, below a folder of its own.
pub fn fuzzer(dir: &Path) -> Result<Vec<Executable>> {
    // With a target, the flags do not apply to build scripts and macros.
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let mut command = cargo();
    command.args(["build", "--package", "fuzz", "--features", "libfuzzer", "--target", &target]);
    collect(command.arg("--target-dir").arg(dir).env("RUSTFLAGS", COVERAGE))
}

fn collect(command: &mut Command) -> Result<Vec<Executable>> {
    Ok(artifacts(command)?.into_iter().filter_map(executable).collect())
}

fn executable(artifact: Artifact) -> Option<Executable> {
    let Artifact { package_id, target, executable, .. } = artifact;
    executable.map(|path| Executable { package_id, target, path })
}

/// Runs a build, and lists everything that it consists of.
pub fn artifacts(command: &mut Command) -> Result<Vec<Artifact>> {
    command.arg("--message-format=json-render-diagnostics").stdin(Stdio::null()).stdout(Stdio::piped());
    let text = command::render(command);
    let mut child = command.spawn().with_context(|| format!("starting {text}"))?;
    let stdout = child.stdout.take().context("cargo without an output")?;
    let mut artifacts = Vec::new();
    for line in BufReader::new(stdout).lines() {
        artifacts.extend(parse(&line?));
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{text} ended with {status}");
    }
    Ok(artifacts)
}

/// Parses one line of cargo's messages; `None` for those about nothing that was built.
fn parse(line: &str) -> Option<Artifact> {
    let message: CargoMessage = serde_json::from_str(line).ok()?;
    (message.reason == "compiler-artifact").then_some(())?;
    Some(Artifact {
        package_id: message.package_id,
        target: message.target?.name,
        files: message.filenames,
        executable: message.executable,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_executables_count() {
        let line = r#"{"reason":"compiler-artifact","package_id":"path+file:///r/e2e#0.1.0",
            "target":{"kind":["bin"],"name":"demo"},"executable":"/r/target/debug/demo"}"#;
        let expected = Executable {
            package_id: "path+file:///r/e2e#0.1.0".to_owned(),
            target: "demo".to_owned(),
            path: "/r/target/debug/demo".into(),
        };
        assert_eq!(parse(line).and_then(executable), Some(expected));
        let library = line.replace("\"/r/target/debug/demo\"", "null");
        assert_eq!(parse(&library).and_then(executable), None);
        assert_eq!(parse(r#"{"reason":"build-finished","success":true}"#), None);
        assert_eq!(parse("running 3 tests"), None);
    }
}
