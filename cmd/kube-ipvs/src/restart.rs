//! The end of the process, and its new start where it has another configuration.

use std::{ffi::OsString, os::unix::process::CommandExt as _, process::Command};

use anyhow::Context;

/// Reason for which the program has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// A signal, or a command that is done.
    Done,
    /// Another configuration in the file.
    Reconfigured,
}

impl Stopped {
    /// Ends, or executes the program anew in this process, so that its Pod does not restart. All sockets and files close
    /// by themselves then, and with its file the lock of the state directory.
    pub fn follow(self, args: &[OsString]) -> anyhow::Result<()> {
        match self {
            Stopped::Done => Ok(()),
            Stopped::Reconfigured => start_again(args),
        }
    }
}

fn start_again(args: &[OsString]) -> anyhow::Result<()> {
    // The file itself, even if another one has its name by now.
    let mut program = Command::new("/proc/self/exe");
    if let Some((name, args)) = args.split_first() {
        program.arg0(name).args(args);
    }
    Err(program.exec()).context("start again with the new configuration")
}

#[cfg(test)]
mod tests {
    use std::process::id;

    use super::*;

    /// Role of a process of this test; the test's runner takes it for another filter.
    fn has_role(role: &str) -> bool {
        std::env::args().any(|arg| arg == role)
    }

    fn arguments(role: &str) -> Vec<OsString> {
        let test = "restart::tests::the_program_starts_again_in_the_same_process";
        ["kube-ipvs", test, role, "--exact", "--nocapture"].map(OsString::from).to_vec()
    }

    #[expect(clippy::print_stdout, reason = "the first process hears of the second one")]
    #[test]
    fn the_program_starts_again_in_the_same_process() {
        if has_role("second") {
            println!("started again as {}", id());
        } else if has_role("first") {
            let failed = Stopped::Reconfigured.follow(&arguments("second"));
            panic!("{failed:?}");
        } else {
            let mut first = Command::new("/proc/self/exe");
            first.args(&arguments("first")[1..]).stdout(std::process::Stdio::piped());
            let first = first.spawn().unwrap();
            let expect = format!("started again as {}", first.id());
            let output = first.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains(&expect), "{text}");
        }
    }
}
