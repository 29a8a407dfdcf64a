//! iproute2 in batches, and sysctls of a namespace.

use std::os::fd::{AsFd, AsRawFd};

use testkit::{NetNs, try_output_with_input};

/// Runs the lines by one `ip -batch -` inside the namespace: starting programs is slow in an emulated guest.
pub fn batch(namespace: &NetNs, lines: &str) {
    if let Err(error) = try_batch(namespace, lines) {
        panic!("{error}\n  the lines were:\n{lines}");
    }
}

/// Does the same as [`batch`], where failing is a possible answer.
pub fn try_batch(namespace: &NetNs, lines: &str) -> Result<String, testkit::CommandError> {
    try_output_with_input(namespace.command("ip").args(["-batch", "-"]), lines)
}

/// Path that `ip ... netns` takes for a namespace without a name.
pub fn path(namespace: &NetNs) -> String {
    format!("/proc/{}/fd/{}", std::process::id(), namespace.as_fd().as_raw_fd())
}

/// Writes `(path below /proc/sys, value)` pairs inside the namespace.
pub fn sysctls(namespace: &NetNs, settings: &[(&str, &str)]) {
    namespace.enter(|| {
        for (name, value) in settings {
            std::fs::write(format!("/proc/sys/{name}"), value)
                .unwrap_or_else(|error| panic!("sysctl {name}={value}: {error}"));
        }
    });
}
