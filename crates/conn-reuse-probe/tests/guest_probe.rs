//! The probe on real kernels: `cargo xtask guest test -p conn-reuse-probe`.

use std::{fs, time::Duration};

use conn_reuse_probe::{Control, ProbeOptions, ProbeReport, probe};
use kernel::{KernelRelease, ProbeOutcome};
use testkit::{in_new_netns, run};

/// Options with a longer limit than that of a start, which an emulated processor needs.
const LONG_LIMIT: ProbeOptions = ProbeOptions { control: true, limit: Duration::from_secs(60) };

fn probe_with(options: &ProbeOptions) -> ProbeReport {
    run(&["modprobe", "ip_vs"]);
    let report = probe(options);
    println!("kernel {}: {report}", KernelRelease::running());
    report
}

/// All kernels of the guests are 5.10 or newer, so they have the fix; the control drops on every kernel.
#[test]
fn the_first_syn_survives_and_the_control_shows_a_drop() {
    let report = probe_with(&LONG_LIMIT);
    assert_eq!(report.outcome(), Some(ProbeOutcome::SynSurvived), "{report}");
    assert!(matches!(report.control, Control::DropSeen), "{report}");
}

#[test]
fn the_control_is_left_out_on_request() {
    let report = probe_with(&ProbeOptions { control: false, ..LONG_LIMIT });
    assert_eq!(report.outcome(), Some(ProbeOutcome::SynSurvived), "{report}");
    assert!(matches!(report.control, Control::NotRun), "{report}");
}

/// Out here are a virtual server and addresses that look like the probe's own but are somebody else's.
#[test]
fn the_node_is_not_touched() {
    run(&["modprobe", "ip_vs"]);
    in_new_netns(|| {
        run(&["ipvsadm", "-A", "-t", "127.0.0.2:80", "-s", "wlc"]);
        run(&["ipvsadm", "-a", "-t", "127.0.0.2:80", "-r", "127.0.0.3:8080", "-m", "-w", "7"]);
        fs::write("/proc/sys/net/ipv4/vs/conn_reuse_mode", "0").expect("writable");
        let _in_the_way = std::net::TcpListener::bind("127.0.0.3:8080").expect("listen");
        let before = node();
        let report = probe_with(&LONG_LIMIT);
        assert_eq!(report.outcome(), Some(ProbeOutcome::SynSurvived), "{report}");
        assert_eq!(node(), before);
    });
}

/// Nothing piles up, whatever the number of probes.
#[test]
fn nothing_stays_open() {
    let count = |what: &str| fs::read_dir(format!("/proc/self/{what}")).expect("readable").count();
    probe_with(&LONG_LIMIT);
    // A joined thread may still be listed here; three probes that leak would outnumber it.
    let (descriptors, threads) = (count("fd"), count("task"));
    for _ in 0..3 {
        probe_with(&ProbeOptions { control: false, ..LONG_LIMIT });
    }
    testkit::wait_until(Duration::from_secs(20), "descriptors and threads are no more than before", || {
        count("fd") <= descriptors && count("task") <= threads
    });
}

/// Everything that the probe writes in its own namespace, as it looks in ours.
fn node() -> Vec<String> {
    vec![
        run(&["ipvsadm", "-S", "-n"]),
        run(&["ipvsadm", "-L", "-n", "-c"]),
        run(&["sysctl", "-a", "--pattern", "^net.ipv4.vs"]),
        run(&["ip", "-o", "address"]),
        run(&["ip", "netns", "list"]),
    ]
}
