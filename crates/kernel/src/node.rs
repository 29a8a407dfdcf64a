//! Name, boot and processors of this node, and the process's rank when its memory is short.

/// The kernel's host name is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the host name is empty: set it, or give the node's name with --hostname-override")]
pub struct EmptyHostname;

/// The node's name as kube-proxy derives it (pkg/util/node: `GetHostname`): the host name, trimmed, in lower
/// case.
pub fn hostname() -> Result<String, EmptyHostname> {
    normalise(&rustix::system::uname().nodename().to_string_lossy())
}

/// Number of this boot: times since one boot mean nothing in another.
pub fn boot_id() -> std::io::Result<String> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").map(|id| id.trim().to_owned())
}

/// Number of processors of this node that are in use, whatever this process may use of them.
pub fn cores() -> u32 {
    let online = std::fs::read_to_string("/sys/devices/system/cpu/online").ok();
    online.and_then(|list| count_cores(&list)).unwrap_or_else(|| {
        std::thread::available_parallelism().ok().and_then(|n| u32::try_from(n.get()).ok()).unwrap_or(1)
    })
}

/// Sets this process's rank among those that the kernel kills when memory is short: from -1000 (never) to 1000.
pub fn set_oom_score_adj(value: i32) -> std::io::Result<()> {
    std::fs::write("/proc/self/oom_score_adj", value.to_string())
}

/// Counts the processors of a list such as `0-3,8`.
fn count_cores(list: &str) -> Option<u32> {
    let count = |range: &str| -> Option<u32> {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    };
    list.trim().split(',').map(count).sum()
}

fn normalise(name: &str) -> Result<String, EmptyHostname> {
    match name.trim() {
        "" => Err(EmptyHostname),
        name => Ok(name.to_lowercase()),
    }
}

#[cfg(test)]
mod tests {
    use super::{count_cores, normalise};

    #[test]
    fn cores_are_counted() {
        for (list, count) in
            [("0\n", Some(1)), ("0-3\n", Some(4)), ("0-1,4,6-7", Some(5)), ("", None), ("3-1", None)]
        {
            assert_eq!(count_cores(list), count, "{list:?}");
        }
    }

    #[test]
    fn trimmed_and_lower_case() {
        assert_eq!(normalise(" Node-1.Example.com\n").as_deref(), Ok("node-1.example.com"));
        assert!(normalise(" \t").is_err());
    }
}
