//! Answers of the probe where it may not or cannot run, on any machine.

use std::time::Duration;

use conn_reuse_probe::{Control, ProbeError, ProbeOptions, ProbeReport, probe};
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

/// Probes on a thread that has lost these rights, if it had them.
fn probe_without(lost: CapabilitySet) -> ProbeReport {
    let thread = std::thread::spawn(move || {
        let mut sets = capabilities(None).expect("readable");
        for set in [&mut sets.effective, &mut sets.permitted, &mut sets.inheritable] {
            set.remove(lost);
        }
        set_capabilities(None, sets).expect("rights can always be given up");
        probe(&ProbeOptions { control: true, limit: Duration::from_secs(20) })
    });
    thread.join().expect("the probe does not panic")
}

#[test]
fn without_the_right_to_make_a_namespace_nothing_is_known() {
    let report = probe_without(CapabilitySet::SYS_ADMIN);
    assert!(matches!(report.seen, Err(ProbeError::Namespace(_))), "{report}");
    assert!(matches!(report.control, Control::NotRun), "{report}");
    assert_eq!(report.outcome(), None);
    assert!(report.to_string().contains("CAP_SYS_ADMIN"), "{report}");
}

#[test]
fn without_the_right_to_configure_networks_nothing_is_known() {
    let report = probe_without(CapabilitySet::NET_ADMIN);
    let no_namespace_either = matches!(report.seen, Err(ProbeError::Namespace(_)));
    assert!(no_namespace_either || matches!(report.seen, Err(ProbeError::Loopback(_))), "{report}");
    assert_eq!(report.outcome(), None);
}

#[test]
fn a_probe_that_takes_too_long_is_given_up() {
    let limit = Duration::ZERO;
    let report = probe(&ProbeOptions { control: true, limit });
    assert!(matches!(report.seen, Err(ProbeError::TooSlow { limit: Duration::ZERO })), "{report}");
    assert_eq!(report.outcome(), None);
    assert!(report.duration < Duration::from_secs(10), "{report}");
}
