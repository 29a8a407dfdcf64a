//! Execution of other programs, with errors that name them.

use std::{
    ffi::OsStr,
    process::{Command, Output, Stdio},
};

use anyhow::{Context, Result, bail};

/// Runs a program with the terminal as its output; an exit code other than 0 is an error.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("starting {}", render(command)))?;
    if !status.success() {
        bail!("{} ended with {status}", render(command));
    }
    Ok(())
}

/// Runs a program and returns its standard output; on failure the error holds its standard error.
pub fn capture(command: &mut Command) -> Result<String> {
    let output = capture_any(command)?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("{} ended with {}: {}", render(command), output.status, stderr.trim());
    }
    String::from_utf8(output.stdout).with_context(|| format!("{} printed no UTF-8", render(command)))
}

/// Runs a program and returns all of its output whatever its exit code is.
pub fn capture_any(command: &mut Command) -> Result<Output> {
    command.stdin(Stdio::null()).output().with_context(|| format!("starting {}", render(command)))
}

/// Renders the command line as a person would type it.
pub fn render(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}
