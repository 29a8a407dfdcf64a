//! Getting rid of a task's processes inside a guest.

use std::fs;

use rustix::process::{self, Pid, Signal};

/// Kills every process of a group.
pub fn kill_group(leader: u32) {
    if let Some(leader) = i32::try_from(leader).ok().and_then(Pid::from_raw) {
        let _ = process::kill_process_group(leader, Signal::KILL);
    }
}

/// Kills every process except init, this one and kernel threads, until none is left.
/// Returns what was running.
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

/// The command line; `None` for kernel threads and zombies, which have none.
fn command(pid: Pid) -> Option<String> {
    let bytes = fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
    let line = String::from_utf8_lossy(&bytes).replace('\0', " ");
    let line = line.trim();
    (!line.is_empty()).then(|| line.to_owned())
}
