//! The choice of `conn_reuse_mode` for this node, with its reason in one line.

use std::fmt;

use conn_reuse_probe::{ProbeOptions, ProbeReport, probe};
use dataplane::Sysctls as _;
use kernel::{
    ConnReuseDecision, ConnReuseFacts, ConnReuseFlag, KernelRelease, ProbeOutcome, ProcSysctls,
    decide_conn_reuse_mode, needs_probe,
};
use telemetry::Metrics;

/// Environment variable in which a process that starts again finds the [`word`] for what the probe saw.
pub const EARLIER_PROBE: &str = "KUBE_IPVS_EARLIER_PROBE";

/// A value for `conn_reuse_mode`, with its grounds.
#[derive(Debug)]
pub struct ConnReuseChoice {
    /// The value and the reason for it.
    pub decision: ConnReuseDecision,
    /// The probe, where the choice needed it.
    pub probe: Option<Probe>,
}

/// The experiment with a reused port.
#[derive(Debug)]
pub enum Probe {
    /// Made at this start.
    Now(ProbeReport),
    /// Made before this process started again.
    Earlier(ProbeOutcome),
}

impl Probe {
    fn outcome(&self) -> Option<ProbeOutcome> {
        match self {
            Probe::Now(report) => report.outcome(),
            Probe::Earlier(outcome) => Some(*outcome),
        }
    }
}

/// Word for a result of the probe, in metrics and in [`EARLIER_PROBE`].
pub const fn word(outcome: ProbeOutcome) -> &'static str {
    match outcome {
        ProbeOutcome::SynSurvived => "syn-survived",
        ProbeOutcome::SynDropped => "syn-dropped",
    }
}

fn earlier_probe() -> Option<ProbeOutcome> {
    let value = std::env::var(EARLIER_PROBE).ok()?;
    [ProbeOutcome::SynSurvived, ProbeOutcome::SynDropped].into_iter().find(|outcome| word(*outcome) == value)
}

impl ConnReuseChoice {
    /// Chooses for this kernel, and runs the probe where nothing else decides, which takes less than 2 s.
    pub fn make(flag: ConnReuseFlag, kernel: &KernelRelease) -> Self {
        let vendor = ProcSysctls::default().read(kernel::VENDOR_FILE).ok().flatten();
        let facts = ConnReuseFacts { flag, version: kernel.version, vendor, probe: None };
        ConnReuseChoice::decide(facts, || match earlier_probe() {
            Some(outcome) => Probe::Earlier(outcome),
            None => Probe::Now(probe(&ProbeOptions::default())),
        })
    }

    /// Result of the probe, if it ran and saw anything.
    pub fn outcome(&self) -> Option<ProbeOutcome> {
        self.probe.as_ref().and_then(Probe::outcome)
    }

    /// Exports the choice as a metric.
    pub fn export(&self, metrics: &Metrics, kernel: &KernelRelease) {
        let mode = self.decision.mode.map_or_else(|| "none".to_owned(), |mode| mode.to_string());
        let reason = self.decision.reason.to_string();
        metrics.set_conn_reuse_mode(&mode, &reason, self.probe_word(), &kernel.to_string());
    }

    /// Result of the probe, in a word.
    pub fn probe_word(&self) -> &'static str {
        match &self.probe {
            None => "not-run",
            Some(probe) => probe.outcome().map_or("failed", word),
        }
    }

    fn decide(facts: ConnReuseFacts, probe: impl FnOnce() -> Probe) -> Self {
        let probe = needs_probe(&facts).then(probe);
        let outcome = probe.as_ref().and_then(Probe::outcome);
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
            Some(Probe::Now(report)) => write!(f, "; probe: {report}"),
            Some(Probe::Earlier(_)) => f.write_str("; probe: at an earlier start of this process"),
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

    fn report(seen: Result<ProbeOutcome, ProbeError>) -> Probe {
        Probe::Now(ProbeReport { seen, control: Control::NotRun, duration: Duration::from_millis(31) })
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
    fn the_result_of_an_earlier_probe_decides_as_well() {
        let choice = ConnReuseChoice::decide(facts("5.4.58"), || Probe::Earlier(ProbeOutcome::SynSurvived));
        assert_eq!(choice.decision.mode, Some(ConnReuseMode::Reschedule));
        assert_eq!(
            (choice.probe_word(), choice.outcome()),
            ("syn-survived", Some(ProbeOutcome::SynSurvived))
        );
        assert!(choice.to_string().ends_with("gets through); probe: at an earlier start of this process"));
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
