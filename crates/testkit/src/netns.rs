//! Network namespaces that exist as long as a value does.
//!
//! They never have a name under /run/netns. Whatever happens to the test process, the kernel removes a
//! namespace with its last user, so that nothing is left over for the next test.

use std::{
    fs::File,
    io,
    os::{fd::AsFd, unix::process::CommandExt},
    process::Command,
    sync::Arc,
    thread,
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use crate::command::{CommandError, try_output};

/// A network namespace. Clones are handles of the same namespace.
#[derive(Debug, Clone)]
pub struct NetNs {
    /// File that keeps the namespace alive, for `setns`.
    handle: Arc<File>,
}

impl NetNs {
    /// Creates a namespace with its loopback link up. Needs root.
    #[track_caller]
    pub fn create() -> Self {
        in_new_netns(NetNs::current)
    }

    /// Namespace of the calling thread.
    #[track_caller]
    pub fn current() -> Self {
        let handle = File::open("/proc/thread-self/ns/net").expect("open this thread's network namespace");
        NetNs { handle: Arc::new(handle) }
    }

    /// Calls `f` on a thread of its own inside this namespace and returns its result; panics pass through.
    ///
    /// There `/proc/sys/net` belongs to this namespace, but `/proc/net` still to that of the main thread: use
    /// `/proc/thread-self/net`.
    pub fn enter<R: Send>(&self, f: impl FnOnce() -> R + Send) -> R {
        on_own_thread(|| {
            self.join().unwrap_or_else(|error| panic!("cannot enter the network namespace: {error}"));
            f()
        })
    }

    /// A command that will run inside this namespace.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let namespace = self.clone();
        let mut command = Command::new(program);
        #[expect(
            unsafe_code,
            reason = "between fork and exec there is no other place to change the namespace"
        )]
        // SAFETY: the closure only makes the system call setns; it neither allocates nor takes a lock.
        unsafe {
            command.pre_exec(move || namespace.join());
        }
        command
    }

    /// Runs a command in this namespace to its end; see [`crate::try_run`].
    pub fn try_run<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> Result<String, CommandError> {
        let (program, arguments) = words.split_first().expect("a command has at least a program");
        try_output(self.command(program).args(arguments))
    }

    /// Runs a command in this namespace to its end and returns its standard output; panics with the full
    /// report of a failure.
    #[track_caller]
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, words: &[S]) -> String {
        self.try_run(words).unwrap_or_else(|error| panic!("{error}"))
    }

    /// [`NetNs::run`] for a line without quoting: `ns.sh("ip link add br0 type bridge")`.
    #[track_caller]
    pub fn sh(&self, line: &str) -> String {
        self.run(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// Moves the calling thread (not its process) into this namespace.
    fn join(&self) -> io::Result<()> {
        Ok(move_into_link_name_space(self.handle.as_fd(), Some(LinkNameSpaceType::Network))?)
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.handle.as_fd()
    }
}

/// Calls `f` on a thread of its own inside a new network namespace whose loopback link is up. Needs root.
#[track_caller]
pub fn in_new_netns<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    on_own_thread(|| {
        #[expect(unsafe_code, reason = "unshare is unsafe in rustix because of the flag FILES, unused here")]
        // SAFETY: NEWNET changes only which network this fresh thread sees; file descriptors stay shared.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
            .unwrap_or_else(|error| panic!("cannot create a network namespace (root needed): {error}"));
        crate::run(&["ip", "link", "set", "lo", "up"]);
        f()
    })
}

/// Calls `f` on a thread of its own, because a namespace belongs to a thread; passes a panic on to the
/// caller.
fn on_own_thread<R: Send>(f: impl FnOnce() -> R + Send) -> R {
    let name = thread::current().name().unwrap_or("netns").to_owned();
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(name).spawn_scoped(scope, f).expect("start a thread");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    use super::{NetNs, in_new_netns};

    fn allowed() -> bool {
        let root = rustix::process::geteuid().is_root();
        if !root {
            eprintln!("skipped: network namespaces need root");
        }
        root
    }

    #[test]
    fn a_new_namespace_is_private_and_has_loopback() {
        if !allowed() {
            return;
        }
        let links = in_new_netns(|| {
            crate::run(&["ip", "link", "add", "name", "private0", "type", "bridge"]);
            crate::run(&["ip", "-br", "link"])
        });
        assert!(links.contains("private0") && links.contains("LOOPBACK,UP"), "{links}");
        assert!(!crate::run(&["ip", "-br", "link"]).contains("private0"));
    }

    #[test]
    fn threads_and_commands_see_the_same_namespace() {
        if !allowed() {
            return;
        }
        let ns = NetNs::create();
        ns.sh("ip link add name shared0 type bridge");
        assert!(ns.enter(|| crate::run(&["ip", "-br", "link"])).contains("shared0"));
        assert!(ns.run(&["ip", "-br", "link"]).contains("shared0"));
        let error = ns.try_run(&["ip", "link", "show", "other0"]).unwrap_err();
        assert!(error.stderr.contains("other0"), "{error}");
    }

    #[test]
    #[should_panic(expected = "from inside")]
    fn a_panic_passes_through() {
        NetNs::current().enter(|| panic!("from inside"));
    }
}
