//! End of a task's processes inside a guest.

use std::fs;

use rustix::process::{self, Pid, Signal};

/// Kills every process of a group.
pub fn kill_group(leader: u32) {
    if let Some(leader) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
        let _ = process::kill_process_group(leader, Signal::KILL);
    }
}

/// Kills every process except init, this one and kernel threads, until none is left; returns the command of
/// each.
pub fn kill_all() -> Vec<String> {
    let mut killed = Vec::new();
    for _ in 0..100 {
        let processes = others();
        if processes.is_empty() {
            break;
        }
        for (pid, command) in processes {
            let _ = process::kill_process(pid, Signal::KILL);
            if !killed.contains(&command) {
                killed.push(command);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    killed
}

fn others() -> Vec<(Pid, String)> {
    let own = process::getpid();
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok().and_then(Pid::from_raw));
    let others = pids.filter(|pid| *pid != own && !pid.is_init());
    others.filter_map(|pid| Some((pid, command(pid)?))).collect()
}

/// Command of a process; `None` for kernel threads and zombies. The command line alone does not distinguish
/// these: it is empty while a process starts another program.
fn command(pid: Pid) -> Option<String> {
    let read = |file: &str| fs::read(format!("/proc/{}/{file}", pid.as_raw_nonzero())).ok();
    let stat = String::from_utf8_lossy(&read("stat")?).into_owned();
    let name = running_program(&stat)?;
    let line = String::from_utf8_lossy(&read("cmdline")?).replace('\0', " ");
    Some(if line.trim().is_empty() { name.to_owned() } else { line.trim().to_owned() })
}

/// Name of the program in a line of `/proc/PID/stat`: `pid (name) state ppid pgrp session tty tpgid flags
/// ...`.
fn running_program(stat: &str) -> Option<&str> {
    /// Flag `PF_KTHREAD` of include/linux/sched.h.
    const KERNEL_THREAD: u32 = 0x0020_0000;
    let (head, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?;
    let flags: u32 = fields.nth(5)?.parse().ok()?;
    let runs = flags & KERNEL_THREAD == 0 && !["Z", "X"].contains(&state);
    runs.then(|| head.split_once('(').map(|(_, name)| name))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_threads_and_zombies_do_not_count() {
        let program = "243 (a) b) S 241 241 241 0 -1 4194304 93 0 0 0 0 0 0 0 20 0 1 0 700";
        assert_eq!(running_program(program), Some("a) b"));
        let thread = "12 (ksoftirqd/0) S 2 0 0 0 -1 69238848 0 0 0 0 0 0 0 0 20 0 1 0 2";
        assert_eq!(running_program(thread), None);
        let zombie = "250 (sleep) Z 1 241 241 0 -1 4194316 93 0 0 0 0 0 0 0 20 0 1 0 700";
        assert_eq!(running_program(zombie), None);
    }
}
