//! CPU time and memory of a process, from `/proc`.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

/// Clock ticks of `/proc/PID/stat` per second (USER_HZ, the same on all of Linux's common architectures).
const TICKS_PER_SECOND: f64 = 100.0;

/// A process id as rustix takes it.
pub fn pid_of(id: u32) -> Result<Pid> {
    i32::try_from(id).ok().and_then(Pid::from_raw).context("not a process id")
}

/// User and system time of all threads so far, in steps of 10 ms; also of a process that nobody has waited
/// for yet.
pub fn cpu_time(id: u32) -> Result<Duration> {
    let path = format!("/proc/{id}/stat");
    let stat = fs::read_to_string(&path).with_context(|| path.clone())?;
    // The name, in parentheses, may contain anything; utime and stime are fields 14 and 15.
    let after = stat.rsplit_once(')').map(|(_, after)| after).context("/proc/PID/stat")?;
    let fields = after.split_whitespace().skip(11).take(2);
    let ticks: f64 = fields.filter_map(|field| field.parse::<f64>().ok()).sum();
    Ok(Duration::from_secs_f64(ticks / TICKS_PER_SECOND))
}

/// Time that all threads of a process have run so far, those that have ended left out.
pub fn run_time(id: u32) -> Result<Duration> {
    let tasks = format!("/proc/{id}/task");
    let mut nanos = 0;
    for task in fs::read_dir(&tasks).with_context(|| tasks.clone())? {
        // A thread may end meanwhile.
        let Ok(text) = fs::read_to_string(task?.path().join("schedstat")) else { continue };
        nanos += text.split(' ').next().and_then(|field| field.parse::<u64>().ok()).context("schedstat")?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// Waits for the end of a process without making its statistics go away.
pub fn wait_for_end(id: u32) -> Result<()> {
    waitid(WaitId::Pid(pid_of(id)?), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT).context("waitid")?;
    Ok(())
}

/// A value in kB from `/proc/PID/status`.
pub fn status_kb(id: u32, name: &str) -> Result<u64> {
    let path = format!("/proc/{id}/status");
    let status = fs::read_to_string(&path).with_context(|| path.clone())?;
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number = value.and_then(|value| value.split_whitespace().next()?.parse().ok());
    number.with_context(|| format!("{name} in {path}"))
}

/// Stops a process where it stands.
pub fn freeze(id: u32) -> Result<()> {
    kill_process(pid_of(id)?, Signal::STOP).context("SIGSTOP")
}

/// Lets a frozen process go on.
pub fn thaw(id: u32) -> Result<()> {
    kill_process(pid_of(id)?, Signal::CONT).context("SIGCONT")
}

/// Asks a process to end.
pub fn terminate(id: u32) -> Result<()> {
    kill_process(pid_of(id)?, Signal::TERM).context("SIGTERM")
}

/// The child of a process that runs a program of this name (the first 15 letters of it).
pub fn child_of(id: u32, name: &str) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).ok()?;
    let mut children = children.split_whitespace().filter_map(|child| child.parse().ok());
    children.find(|child: &u32| {
        fs::read_to_string(format!("/proc/{child}/comm")).is_ok_and(|comm| comm.trim_end() == name)
    })
}
