//! Witness in the kernel: probes on the functions through which everything that kube-ipvs writes must pass.
//!
//! IPVS announces nothing, and writing the same value again leaves no trace in any dump; the probes see both.

use std::{fs, io::Write, path::Path};

/// Mount point of tracefs.
const TRACING: &str = "/sys/kernel/tracing";

/// Function that runs for each dump of the virtual servers: a sign of life that changes nothing.
pub const READ: &str = "ip_vs_genl_dump_services";

/// Functions besides [`READ`] that run once for each request that changes something; reading takes other
/// paths.
const FUNCTIONS: [&str; 10] = [
    READ,
    "ip_vs_genl_set_cmd",
    "nfnetlink_rcv_batch",
    "inet_rtm_newroute",
    "inet_rtm_delroute",
    "inet6_rtm_newroute",
    "inet6_rtm_delroute",
    "inet_rtm_newaddr",
    "rtnl_newlink",
    "proc_sys_write",
];

/// Name of our group of kernel probes.
const GROUP: &str = "e2e";

/// A recording of writes under way, of the whole machine; one at a time.
#[derive(Debug)]
pub struct Writes {
    /// Functions that this kernel can trace.
    traced: Vec<&'static str>,
}

impl Writes {
    /// Starts a recording; the error says why this kernel cannot do it.
    pub fn record() -> Result<Writes, String> {
        if !Path::new(&format!("{TRACING}/trace")).exists() {
            let _ = testkit::try_run(&["mount", "-t", "tracefs", "nodev", TRACING]);
        }
        // A recording that was killed leaves its probes behind.
        forget();
        let mut writes = Writes { traced: Vec::new() };
        for function in FUNCTIONS {
            match put("kprobe_events", &format!("p:{GROUP}/{function} {function}")) {
                Ok(()) => writes.traced.push(function),
                Err(error) if FUNCTIONS[..4].contains(&function) => return Err(error),
                // Some kernels have some of the others inlined.
                Err(_) => {}
            }
        }
        put("trace", "")?;
        put(&format!("events/{GROUP}/enable"), "1")?;
        put("tracing_on", "1")?;
        Ok(writes)
    }

    /// Functions that are watched.
    pub fn traced(&self) -> &[&'static str] {
        &self.traced
    }

    /// Calls so far, in order: `command-pid function`.
    pub fn seen(&self) -> Vec<String> {
        let trace = fs::read_to_string(format!("{TRACING}/trace")).unwrap_or_default();
        trace.lines().filter(|line| !line.starts_with('#')).filter_map(call).collect()
    }

    /// Number of times that the virtual servers were read so far: once at a start, and once by every audit.
    pub fn reads(&self) -> usize {
        self.seen().iter().filter(|call| call.ends_with(READ)).count()
    }

    /// Calls that change something.
    pub fn writes(&self) -> Vec<String> {
        self.seen().into_iter().filter(|call| !call.ends_with(READ)).collect()
    }
}

/// Appends to, or writes, a file of tracefs.
fn put(name: &str, text: &str) -> Result<(), String> {
    let path = format!("{TRACING}/{name}");
    let file = fs::OpenOptions::new().append(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.map_err(|error| format!("write {text:?} to {path}: {error}"))
}

/// Reads a line like ` kube-ipvs-123 [000] ..... 12.345678: inet_rtm_newroute:
/// (inet_rtm_newroute+0x0/0x1b0)`.
fn call(line: &str) -> Option<String> {
    let (head, function) = line.split_once(": (")?.0.rsplit_once(": ")?;
    Some(format!("{} {function}", head.split('[').next()?.trim()))
}

/// Removes our probes; those that do not exist are gone already.
fn forget() {
    let _ = put(&format!("events/{GROUP}/enable"), "0");
    for function in FUNCTIONS {
        let _ = put("kprobe_events", &format!("-:{GROUP}/{function}"));
    }
}

impl Drop for Writes {
    fn drop(&mut self) {
        forget();
    }
}

#[cfg(test)]
mod tests {
    use super::call;

    #[test]
    fn a_traced_call_is_a_task_and_a_function() {
        let line = "       kube-ipvs-123     [001] .....   12.3: nfnetlink_rcv_batch: (nfnetlink_rcv_batch+0x0/0x7e0)";
        assert_eq!(call(line).as_deref(), Some("kube-ipvs-123 nfnetlink_rcv_batch"));
        assert_eq!(call("# tracer: nop"), None);
    }
}
