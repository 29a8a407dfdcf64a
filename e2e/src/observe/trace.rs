//! The kernel's own witness: ftrace on the functions through which everything kube-ipvs writes must pass.
//!
//! IPVS announces nothing, and writing the same value again leaves no trace in any dump; here it is seen.

use std::fs;
use std::path::Path;

/// Where tracefs is mounted.
const TRACING: &str = "/sys/kernel/tracing";

/// The function that runs for each dump of the virtual servers: a sign of life that changes nothing.
pub const READ: &str = "ip_vs_genl_dump_services";

/// Besides [`READ`], functions that run once for each request that changes something; reading takes other paths.
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

/// A recording of writes under way, of the whole machine.
#[derive(Debug)]
pub struct Writes {
    /// Functions this kernel can trace.
    traced: Vec<&'static str>,
}

impl Writes {
    /// Begin; the error says why this kernel cannot do it.
    pub fn record() -> Result<Writes, String> {
        let file = |name: &str| format!("{TRACING}/{name}");
        if !Path::new(&file("trace")).exists() {
            let _ = testkit::try_run(&["mount", "-t", "tracefs", "nodev", TRACING]);
        }
        let available = fs::read_to_string(file("available_filter_functions"))
            .map_err(|error| format!("no function tracer here: {error}"))?;
        let names: std::collections::BTreeSet<&str> =
            available.lines().filter_map(|line| line.split_whitespace().next()).collect();
        let traced: Vec<&str> = FUNCTIONS.into_iter().filter(|name| names.contains(name)).collect();
        for needed in &FUNCTIONS[..4] {
            if !traced.contains(needed) {
                return Err(format!("this kernel cannot trace {needed}"));
            }
        }
        let put = |name: &str, text: &str| {
            fs::write(file(name), text).map_err(|error| format!("{}: {error}", file(name)))
        };
        put("current_tracer", "nop")?;
        put("set_ftrace_filter", &traced.join("\n"))?;
        put("current_tracer", "function")?;
        put("trace", "")?;
        put("tracing_on", "1")?;
        Ok(Writes { traced })
    }

    /// The functions that are watched.
    pub fn traced(&self) -> &[&'static str] {
        &self.traced
    }

    /// What was called so far: `command-pid function`, in order.
    pub fn seen(&self) -> Vec<String> {
        let trace = fs::read_to_string(format!("{TRACING}/trace")).unwrap_or_default();
        trace.lines().filter(|line| !line.starts_with('#')).filter_map(call).collect()
    }

    /// How often the virtual servers were read so far: once at a start, and once by every audit.
    pub fn reads(&self) -> usize {
        self.seen().iter().filter(|call| call.ends_with(READ)).count()
    }

    /// The calls that change something.
    pub fn writes(&self) -> Vec<String> {
        self.seen().into_iter().filter(|call| !call.ends_with(READ)).collect()
    }
}

/// `   kube-ipvs-123   [000] .....    12.345678: nfnetlink_rcv_batch <-nfnetlink_rcv`
fn call(line: &str) -> Option<String> {
    let (head, _) = line.split_once(" <-")?;
    let (task, function) = (head.split('[').next()?, head.split(": ").last()?);
    Some(format!("{} {function}", task.trim()))
}

impl Drop for Writes {
    fn drop(&mut self) {
        for (name, text) in [("current_tracer", "nop"), ("set_ftrace_filter", "")] {
            // The machine is a guest that will not be traced again otherwise.
            let _ = fs::write(format!("{TRACING}/{name}"), text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::call;

    #[test]
    fn a_traced_call_is_a_task_and_a_function() {
        let line = "       kube-ipvs-123     [001] .....   12.3: nfnetlink_rcv_batch <-nfnetlink_rcv";
        assert_eq!(call(line).as_deref(), Some("kube-ipvs-123 nfnetlink_rcv_batch"));
        assert_eq!(call("# tracer: function"), None);
    }
}
