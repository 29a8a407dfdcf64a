//! Giving up what only the start needs.

use rustix::{
    io::{self, Errno},
    thread::{
        CapabilitySet, capabilities, clear_ambient_capability_set, remove_capability_from_bounding_set,
        set_capabilities, set_no_new_privs,
    },
};

/// Capabilities that a running process uses: netlink and kernel parameters; health check ports below 1024.
const NEEDED: CapabilitySet = CapabilitySet::NET_ADMIN.union(CapabilitySet::NET_BIND_SERVICE);

/// Gives up all capabilities but `NET_ADMIN` and `NET_BIND_SERVICE`, for good: no program that this process executes
/// gets any back, a set-user-ID program included.
///
/// Capabilities belong to a thread, and a new thread inherits those of its parent: call it before the first one starts.
///
/// # Errors
///
/// None that a permission causes: a capability can always be given up. A kernel before 4.3 has no ambient set.
pub fn drop_privileges() -> io::Result<()> {
    set_no_new_privs(true)?;
    let mut sets = capabilities(None)?;
    // Only SETPCAP may shrink the bounding set. Without it the set stays, and gives nothing under no_new_privs.
    if sets.effective.contains(CapabilitySet::SETPCAP) {
        for capability in CapabilitySet::all().difference(NEEDED) {
            match remove_capability_from_bounding_set(capability) {
                // This kernel is older than the capability.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(error) => return Err(error),
            }
        }
    }
    match clear_ambient_capability_set() {
        Ok(()) | Err(Errno::INVAL) => {}
        Err(error) => return Err(error),
    }
    sets.effective &= NEEDED;
    sets.permitted &= NEEDED;
    sets.inheritable = CapabilitySet::empty();
    set_capabilities(None, sets)
}

#[cfg(test)]
mod tests {
    use std::{fs, thread};

    use super::*;

    /// Value of a line of `/proc/thread-self/status`.
    fn status(name: &str) -> String {
        let text = fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    }

    fn set(name: &str) -> CapabilitySet {
        CapabilitySet::from_bits_retain(u64::from_str_radix(&status(name), 16).unwrap())
    }

    #[test]
    fn little_is_kept_and_threads_inherit_that() {
        let check = || {
            let before = set("CapPrm");
            let can_bound = set("CapEff").contains(CapabilitySet::SETPCAP);
            drop_privileges().unwrap();
            // Once more changes nothing.
            drop_privileges().unwrap();
            let check = move || {
                assert_eq!(set("CapPrm"), before & NEEDED);
                assert_eq!(set("CapEff"), before & NEEDED);
                assert_eq!((set("CapInh"), set("CapAmb")), (CapabilitySet::empty(), CapabilitySet::empty()));
                assert_eq!(status("NoNewPrivs"), "1");
                if can_bound {
                    assert!(NEEDED.contains(set("CapBnd")), "{:?}", set("CapBnd"));
                }
            };
            check();
            thread::spawn(check).join().unwrap();
        };
        thread::spawn(check).join().unwrap();
    }

    #[test]
    fn without_setpcap_the_bounding_set_stays() {
        let check = || {
            let mut sets = capabilities(None).unwrap();
            sets.effective.remove(CapabilitySet::SETPCAP);
            sets.permitted.remove(CapabilitySet::SETPCAP);
            set_capabilities(None, sets).unwrap();
            let bounding = set("CapBnd");
            drop_privileges().unwrap();
            assert_eq!(set("CapBnd"), bounding);
            assert!(NEEDED.contains(set("CapPrm")));
        };
        thread::spawn(check).join().unwrap();
    }
}
