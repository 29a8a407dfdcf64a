//! The end of the process, and its new start where it has another configuration.

use std::{
    ffi::OsString,
    os::unix::process::CommandExt as _,
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
};

use anyhow::Context;
use kernel::ProbeOutcome;

use crate::conn_reuse;

/// True once a signal has asked the process to stop, perhaps after another configuration has asked it to start again.
static MUST_STOP: AtomicBool = AtomicBool::new(false);

/// Notes that a signal has asked the process to stop.
pub fn note_stop() {
    MUST_STOP.store(true, Ordering::Release);
}

/// Reason for which the program has come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// A signal, or a command that is done.
    Done,
    /// Another configuration in the file. The new start gets the result of the probe, which takes a capability that
    /// this process has given up.
    Reconfigured(Option<ProbeOutcome>),
}

impl Stopped {
    /// Ends, or executes the program anew in this process, so that its Pod does not restart. All sockets and files close
    /// by themselves then, and with its file the lock of the state directory.
    pub fn follow(self, args: &[OsString]) -> anyhow::Result<()> {
        match self {
            Stopped::Done => Ok(()),
            Stopped::Reconfigured(_) if MUST_STOP.load(Ordering::Acquire) => Ok(()),
            Stopped::Reconfigured(probe) => start_again(args, probe),
        }
    }

    /// Adds the result of the probe, for a new start.
    pub fn with_probe(self, probe: Option<ProbeOutcome>) -> Self {
        match self {
            Stopped::Done => Stopped::Done,
            Stopped::Reconfigured(_) => Stopped::Reconfigured(probe),
        }
    }
}

fn start_again(args: &[OsString], probe: Option<ProbeOutcome>) -> anyhow::Result<()> {
    // The file itself, even if another one has its name by now.
    let mut program = Command::new("/proc/self/exe");
    if let Some((name, args)) = args.split_first() {
        program.arg0(name).args(args);
    }
    if let Some(outcome) = probe {
        program.env(conn_reuse::EARLIER_PROBE, conn_reuse::word(outcome));
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
            println!("started again as {} after {:?}", id(), std::env::var(conn_reuse::EARLIER_PROBE));
        } else if has_role("first") {
            let stopped = Stopped::Reconfigured(None).with_probe(Some(ProbeOutcome::SynSurvived));
            let failed = stopped.follow(&arguments("second"));
            panic!("{failed:?}");
        } else {
            let mut first = Command::new("/proc/self/exe");
            first.args(&arguments("first")[1..]).stdout(std::process::Stdio::piped());
            let first = first.spawn().unwrap();
            let expect = format!("started again as {} after Ok(\"syn-survived\")", first.id());
            let output = first.wait_with_output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains(&expect), "{text}");
        }
    }
}
