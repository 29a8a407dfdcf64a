//! The name under which this node is known unless configured otherwise.

/// The kernel's host name is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host name is empty: set it, or give the node's name with --hostname-override")]
pub struct EmptyHostname;

/// The node's name as kube-proxy derives it (pkg/util/node: `GetHostname`): the host name, trimmed, in lower case.
pub fn hostname() -> Result<String, EmptyHostname> {
    normalise(&rustix::system::uname().nodename().to_string_lossy())
}

/// Tells boots apart: times since boot of one mean nothing in another.
pub fn boot_id() -> std::io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}

fn normalise(name: &str) -> Result<String, EmptyHostname> {
    match name.trim() {
        "" => Err(EmptyHostname),
        name => Ok(name.to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::normalise;

    #[test]
    fn trimmed_and_lower_case() {
        assert_eq!(normalise(" Node-1.Example.com\n").as_deref(), Ok("node-1.example.com"));
        assert!(normalise(" \t").is_err());
    }
}
