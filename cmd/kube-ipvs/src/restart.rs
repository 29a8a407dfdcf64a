//! The end of the process, and its new start where it has another configuration.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt as _,
    process::Command,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context;
use kernel::ProbeOutcome;
use signal_hook::flag;

use crate::conn_reuse;

/// True once a signal has asked the process to stop, perhaps after another configuration has asked it to start again.
static MUST_STOP: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// True once the process is about to start again: whatever asks it to stop from then on ends it at once.
static STARTS_AGAIN: LazyLock<Arc<AtomicBool>> = LazyLock::new(Arc::default);

/// Has a signal noted that asks the process to stop, also while nobody handles it any more.
pub fn note(signal: i32) -> io::Result<()> {
    flag::register_conditional_default(signal, Arc::clone(&STARTS_AGAIN))?;
    flag::register(signal, Arc::clone(&MUST_STOP))?;
    Ok(())
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
            Stopped::Reconfigured(probe) => {
                STARTS_AGAIN.store(true, Ordering::SeqCst);
                if MUST_STOP.load(Ordering::SeqCst) { Ok(()) } else { start_again(args, probe) }
            }
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

    fn arguments(test: &str, role: &str) -> Vec<OsString> {
        ["kube-ipvs", &format!("restart::tests::{test}"), role, "--exact", "--nocapture"]
            .map(OsString::from)
            .to_vec()
    }

    /// Output of this test in a process of its own, with a role.
    fn run(test: &str, role: &str) -> (u32, String) {
        let mut process = Command::new("/proc/self/exe");
        process.args(&arguments(test, role)[1..]).stdout(std::process::Stdio::piped());
        let process = process.spawn().unwrap();
        let id = process.id();
        let output = process.wait_with_output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        (id, text)
    }

    #[expect(clippy::print_stdout, reason = "the first process hears of the second one")]
    #[test]
    fn a_stop_that_was_asked_for_comes_before_a_new_start() {
        const TEST: &str = "a_stop_that_was_asked_for_comes_before_a_new_start";
        if has_role("again") {
            println!("started again");
        } else if has_role("stopped") {
            note(signal_hook::consts::SIGTERM).unwrap();
            signal_hook::low_level::raise(signal_hook::consts::SIGTERM).unwrap();
            Stopped::Reconfigured(None).follow(&arguments(TEST, "again")).unwrap();
            println!("stopped");
        } else {
            let (_, text) = run(TEST, "stopped");
            assert!(text.contains("stopped\n") && !text.contains("started again"), "{text}");
        }
    }

    #[expect(clippy::print_stdout, reason = "the first process hears of the second one")]
    #[test]
    fn the_program_starts_again_in_the_same_process() {
        const TEST: &str = "the_program_starts_again_in_the_same_process";
        if has_role("second") {
            println!("started again as {} after {:?}", id(), std::env::var(conn_reuse::EARLIER_PROBE));
        } else if has_role("first") {
            let stopped = Stopped::Reconfigured(None).with_probe(Some(ProbeOutcome::SynSurvived));
            let failed = stopped.follow(&arguments(TEST, "second"));
            panic!("{failed:?}");
        } else {
            let (id, text) = run(TEST, "first");
            let expect = format!("started again as {id} after Ok(\"syn-survived\")");
            assert!(text.contains(&expect), "{text}");
        }
    }
}
