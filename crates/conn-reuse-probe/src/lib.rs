//! Tells by trying whether this kernel drops the first SYN of a reused source port while `conn_reuse_mode` is
//! 1.
//!
//! Kernels from 4.1 to 5.8 may or may not have the fix (commit f0a5e4d7a594), and their version does not
//! tell. [`probe`] makes two connections from one port through a virtual server of its own, in a network
//! namespace of its own: it touches nothing on the node, and nothing on the node can be in its way.
//!
//! Deliberately not here: the decision, which is [`kernel::decide_conn_reuse_mode`], and whether the decision
//! needs the probe, which is [`kernel::needs_probe`].
//!
//! Reading order: [`probe`], [`ProbeOptions`], [`ProbeReport`]; `experiment` is the sequence of steps,
//! `namespace` and `tcp` are its tools.

mod experiment;
mod namespace;
mod report;
mod tcp;

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

pub use report::{Control, ProbeError, ProbeReport};

/// Scope and time limit of a probe.
#[derive(Clone, Copy, Debug)]
pub struct ProbeOptions {
    /// Runs the control as well: if the probe sees no drop, it shows that it would have seen one. Takes 0.4 s
    /// more.
    pub control: bool,
    /// Time after which the outcome counts as unknown, whatever the probe still finds.
    pub limit: Duration,
}

impl Default for ProbeOptions {
    fn default() -> Self {
        ProbeOptions { control: true, limit: Duration::from_millis(1900) }
    }
}

/// Runs the probe on a thread of its own; never fails, never panics, and never takes longer than the limit.
///
/// Module ip_vs should be loaded: old kernels do not load it by themselves.
pub fn probe(options: &ProbeOptions) -> ProbeReport {
    let start = Instant::now();
    let (sender, receiver) = mpsc::sync_channel(1);
    let with_control = options.control;
    // A network namespace belongs to a thread; it goes with the thread and the sockets that the thread has
    // opened.
    let started = thread::Builder::new().name("conn-reuse".to_owned()).spawn(move || {
        let _nobody_waits = sender.send(experiment::run(with_control));
    });
    let (seen, control) = match started {
        Ok(_detached) => receiver.recv_timeout(options.limit).unwrap_or_else(|error| {
            let error = match error {
                RecvTimeoutError::Timeout => ProbeError::TooSlow { limit: options.limit },
                RecvTimeoutError::Disconnected => ProbeError::Died,
            };
            (Err(error), Control::NotRun)
        }),
        Err(source) => (Err(ProbeError::Thread(source)), Control::NotRun),
    };
    ProbeReport { seen, control, duration: start.elapsed() }
}
