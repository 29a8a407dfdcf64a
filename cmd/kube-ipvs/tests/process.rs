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

/// Runs the program with these arguments; its exit code and standard error.
fn run_with(args: &[&str]) -> (Option<i32>, String) {
    let output = kube_ipvs().args(args).output().expect("run");
    (output.status.code(), stderr(&output))
}

/// A file with these fields of a KubeProxyConfiguration.
fn config_file(dir: &TempDir, fields: &str) -> String {
    let path = dir.path().join("config.conf");
    let head = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n";
    fs::write(&path, format!("{head}{fields}")).expect("write");
    path.display().to_string()
}

/// Conformance: app TestLoadConfigFailures
#[test]
fn a_file_that_is_wrong_ends_the_process_with_every_mistake() {
    let dir = TempDir::new("wrong-config");
    let path =
        config_file(&dir, "mode: nftables\nipvs: {scheduler: fair, syncPeriod: 1s, minSyncPeriod: 2s}\n");
    let (code, text) = run_with(&["--config", &path, "--hostname-override=n1"]);
    assert_eq!(code, Some(1), "{text}");
    for part in
        ["mode: \"nftables\"", "ipvs.scheduler: ", "ipvs.minSyncPeriod: 2s is longer than ipvs.syncPeriod"]
    {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
    let (code, text) = run_with(&["--config=/nonexistent/config.conf"]);
    assert!(
        code == Some(1) && text.contains("read --config /nonexistent/config.conf: No such file"),
        "{text}"
    );
}

#[test]
fn the_configuration_in_effect_is_written_and_means_the_same_again() {
    let dir = TempDir::new("write-config");
    let path = config_file(&dir, "bindAddress: '::'\nipvs: {scheduler: lc}\n");
    let [first, second] = ["first", "second"].map(|name| dir.path().join(name).display().to_string());
    let flags = ["--hostname-override=n1", "--graceful-timeout=1m"];
    let (code, text) = run_with(&[&["--config", &path, "--write-config-to", &first], &flags[..]].concat());
    assert_eq!(code, Some(0), "{text}");
    let written = fs::read_to_string(&first).expect("the file");
    for line in [
        "mode: \"ipvs\"",
        "healthzBindAddress: \"[::]:10256\"",
        "metricsBindAddress: \"[::1]:10249\"",
        "  scheduler: \"lc\"",
        "gracefulTimeout: 1m0s",
        "hostnameOverride: \"n1\"",
    ] {
        assert!(written.lines().any(|written| written == line), "{line} is missing in\n{written}");
    }
    let (code, text) = run_with(&["--config", &first, "--write-config-to", &second]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(fs::read_to_string(&second).expect("the file"), written);
}

#[test]
fn the_version_is_printed_without_a_configuration() {
    let version = |args: &[&str]| String::from_utf8(kube_ipvs().args(args).output().expect("run").stdout);
    let number = env!("CARGO_PKG_VERSION");
    assert_eq!(version(&["--version=raw", "--config=/nonexistent"]), Ok(format!("{number}\n")));
    for args in [&["--version"][..], &["-V"], &["version"]] {
        assert_eq!(version(args), Ok(format!("kube-ipvs {number}\n")));
    }
}
