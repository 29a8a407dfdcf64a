//! Announcements of the kernel while something happens: `ip monitor` and `nft monitor`.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Stdio},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use testkit::{NetNs, wait_until};

/// Table whose changes mark the beginning and the end of the recording.
const WITNESS: &str = "e2e-witness";

/// A recording under way, of links, addresses, routes, rules and nftables.
#[derive(Debug)]
pub struct Events {
    node: NetNs,
    monitors: Vec<Child>,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Events {
    /// Starts a recording; returns once both monitors have shown that they listen.
    pub fn record(node: &NetNs) -> Events {
        let mut events = Events { node: node.clone(), monitors: Vec::new(), lines: Arc::default() };
        events.monitor(&["ip", "monitor", "link", "address", "route", "rule"]);
        events.monitor(&["nft", "monitor"]);
        events.mark("begin");
        events.lock().clear();
        events
    }

    fn monitor(&mut self, words: &[&str]) {
        let mut command = self.node.command(words[0]);
        command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = testkit::die_with_thread(&mut command)
            .spawn()
            .unwrap_or_else(|error| panic!("start {words:?}: {error}"));
        let stdout = child.stdout.take().expect("standard output is a pipe");
        let lines = Arc::clone(&self.lines);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
            }
        });
        self.monitors.push(child);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a change of our own until both monitors have reported it; all earlier events have arrived by
    /// then.
    fn mark(&self, name: &str) {
        let table = format!("{WITNESS}-{name}");
        let seen = |part: &str| self.lock().iter().any(|line| line.contains(part));
        wait_until(Duration::from_secs(30), "ip monitor and nft monitor to report a change", || {
            self.node.sh(&format!("nft add table inet {table}"));
            self.node.sh(&format!("nft delete table inet {table}"));
            self.node.sh("ip link add name e2ewitness type veth peer name e2ewitness2");
            self.node.sh("ip link delete e2ewitness");
            seen(&table) && seen("Deleted") && seen("e2ewitness")
        });
    }

    /// Ends the recording; returns the announcements in between, without our own marks.
    pub fn stop(mut self) -> Vec<String> {
        self.mark("end");
        self.end();
        // "# new generation 7 by process 123 (nft)" follows our own marks; another's process stays in.
        let foreign = |line: &&String| {
            !line.contains(WITNESS) && !line.contains("e2ewitness") && !line.contains("(nft)")
        };
        // A link's description has continuation lines.
        let detail = |line: &&String| !line.starts_with("    ") && !line.trim().is_empty();
        self.lock().iter().filter(foreign).filter(detail).cloned().collect()
    }

    fn end(&mut self) {
        for mut monitor in self.monitors.drain(..) {
            let _ = monitor.kill();
            let _ = monitor.wait();
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.end();
    }
}
