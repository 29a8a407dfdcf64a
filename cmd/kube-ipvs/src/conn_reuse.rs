//! The choice of `conn_reuse_mode` for this node, with its reason in one line.

use std::fmt;

use conn_reuse_probe::{ProbeOptions, ProbeReport, probe};
use dataplane::Sysctls as _;
use kernel::{
    ConnReuseDecision, ConnReuseFacts, ConnReuseFlag, KernelRelease, ProbeOutcome, ProcSysctls,
    decide_conn_reuse_mode, needs_probe,
};

/// A value for `conn_reuse_mode`, with its grounds.
#[derive(Debug)]
pub struct ConnReuseChoice {
    /// The value and the reason for it.
    pub decision: ConnReuseDecision,
    /// Report of the probe, where the choice needed it.
    pub probe: Option<ProbeReport>,
}

impl ConnReuseChoice {
    /// Chooses for this kernel, and runs the probe where nothing else decides, which takes less than 2 s.
    pub fn make(flag: ConnReuseFlag, kernel: &KernelRelease) -> Self {
        let vendor = ProcSysctls::default().read(kernel::VENDOR_FILE).ok().flatten();
        let facts = ConnReuseFacts { flag, version: kernel.version, vendor, probe: None };
        ConnReuseChoice::decide(facts, || probe(&ProbeOptions::default()))
    }

    /// Result of the probe, in a word.
    pub fn probe_word(&self) -> &'static str {
        match self.probe.as_ref().map(ProbeReport::outcome) {
            None => "not-run",
            Some(None) => "failed",
            Some(Some(ProbeOutcome::SynSurvived)) => "syn-survived",
            Some(Some(ProbeOutcome::SynDropped)) => "syn-dropped",
        }
    }

    fn decide(facts: ConnReuseFacts, probe: impl FnOnce() -> ProbeReport) -> Self {
        let probe = needs_probe(&facts).then(probe);
        let outcome = probe.as_ref().and_then(ProbeReport::outcome);
        ConnReuseChoice {
            decision: decide_conn_reuse_mode(&ConnReuseFacts { probe: outcome, ..facts }),
            probe,
        }
    }
}

impl fmt::Display for ConnReuseChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.decision.fmt(f)?;
        match &self.probe {
            Some(report) => write!(f, "; probe: {report}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use conn_reuse_probe::{Control, ProbeError};
    use kernel::ConnReuseMode;

    use super::*;

    fn facts(release: &str) -> ConnReuseFacts {
        ConnReuseFacts { version: KernelRelease::new(release).version, ..ConnReuseFacts::default() }
    }

    fn report(seen: Result<ProbeOutcome, ProbeError>) -> ProbeReport {
        ProbeReport { seen, control: Control::NotRun, duration: Duration::from_millis(31) }
    }

    #[test]
    fn the_probe_runs_only_where_nothing_else_decides() {
        for release in ["4.0", "5.9", "6.12.107+deb13-cloud-amd64", "7.2"] {
            let choice = ConnReuseChoice::decide(facts(release), || panic!("{release} needs no probe"));
            assert_eq!(choice.probe_word(), "not-run");
        }
    }

    #[test]
    fn the_result_of_the_probe_decides() {
        let choose = |seen| ConnReuseChoice::decide(facts("5.4.58"), || report(Ok(seen)));
        let survived = choose(ProbeOutcome::SynSurvived);
        assert_eq!(survived.decision.mode, Some(ConnReuseMode::Reschedule));
        assert_eq!(
            survived.to_string(),
            "conn_reuse_mode=1 (probed: the first SYN of a reused port gets through); probe: the first SYN got \
             through; 31 ms"
        );
        assert_eq!(choose(ProbeOutcome::SynDropped).decision.mode, Some(ConnReuseMode::FollowOld));
        assert_eq!(
            (survived.probe_word(), choose(ProbeOutcome::SynDropped).probe_word()),
            ("syn-survived", "syn-dropped")
        );
    }

    #[test]
    fn a_probe_that_fails_is_reported_with_its_reason() {
        let choice = ConnReuseChoice::decide(facts("4.19.139"), || report(Err(ProbeError::NoConntrack)));
        assert_eq!(choice.probe_word(), "failed");
        assert_eq!(
            choice.to_string(),
            "conn_reuse_mode=0 (the version cannot tell and the probe could not run); probe: connections are not \
             tracked in the new network namespace; 31 ms"
        );
    }
}
