//! The program as a process: odd arguments, and standard streams that are closed or full.

use std::{
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt,
    process::{Command, Output, Stdio},
};

use testkit::{NetNs, TempDir};

fn kube_ipvs() -> Command {
    Command::new(env!("CARGO_BIN_EXE_kube-ipvs"))
}

/// A pipe that nobody reads.
fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn an_argument_that_is_not_utf8_is_a_clear_error() {
    for command in [&["plan"][..], &["cleanup"], &["drains"], &[]] {
        let odd = OsStr::from_bytes(b"--hostname-override=n\xff");
        let output = kube_ipvs().args(command).arg(odd).output().expect("run");
        let text = stderr(&output);
        assert_eq!(output.status.code(), Some(2), "{text}");
        assert!(text.contains(r"n\xFF") && !text.contains("panicked"), "{text}");
    }
}

#[test]
fn a_closed_standard_output_ends_a_command_quietly() {
    for args in [&["version"][..], &["--help"], &["plan", "--help"]] {
        let output = kube_ipvs().args(args).stdout(closed()).stderr(Stdio::piped()).output().expect("run");
        assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""), "{args:?}");
    }
}

/// A cleanup removes everything, even if nobody reads its output.
#[test]
fn a_cleanup_whose_output_nobody_reads_is_complete() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let (node, state) = (NetNs::create(), TempDir::new("cleanup-closed"));
    node.sh("nft add table inet kube-ipvs");
    let mut cleanup = kube_ipvs();
    cleanup.args(["cleanup", "--hostname-override=n1", "--state-dir"]).arg(state.path());
    let output = node.enter(|| cleanup.stdout(closed()).stderr(Stdio::piped()).output().expect("run"));
    assert!(output.status.success() && !stderr(&output).contains("panicked"), "{}", stderr(&output));
    assert_eq!(node.sh("nft list tables").trim(), "");
}

#[test]
fn a_disk_that_is_full_is_an_error() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").expect("/dev/full");
    let output = kube_ipvs().arg("version").stdout(full).stderr(Stdio::piped()).output().expect("run");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("write to standard output"), "{}", stderr(&output));
}

/// Log lines that nobody reads are lost; they must not end the process.
#[test]
fn a_closed_standard_error_changes_nothing() {
    let dir = TempDir::new("closed-stderr");
    let missing = dir.path().join("missing");
    let command = || {
        let mut command = kube_ipvs();
        command.arg("--manifests").arg(&missing).arg("--state-dir").arg(dir.path());
        command.args(["--healthz-bind-address=", "--metrics-bind-address="]);
        command
    };
    let open = command().output().expect("run");
    assert!(stderr(&open).contains("kube-ipvs starts"), "a line is logged: {}", stderr(&open));
    let status = command().stderr(closed()).status().expect("run");
    assert_eq!((open.status.code(), status.code()), (Some(1), Some(1)));
}
