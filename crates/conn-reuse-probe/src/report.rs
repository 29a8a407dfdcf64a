//! Results of the probe, and reasons why there are none.

use std::{error::Error, fmt, io, time::Duration};

use dataplane::TableError;
use kernel::ProbeOutcome;

/// Reason why the probe could not find something out.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The thread did not start.
    #[error("cannot start a thread")]
    Thread(#[source] io::Error),
    /// The thread ended without a result.
    #[error("the thread of the probe ended without a result")]
    Died,
    /// The probe exceeded its limit.
    #[error("no result after {} ms", .limit.as_millis())]
    TooSlow {
        /// The limit.
        limit: Duration,
    },
    /// The kernel refused a network namespace.
    #[error("cannot make a network namespace (CAP_SYS_ADMIN is needed)")]
    Namespace(#[source] io::Error),
    /// The kernel refused to set loopback up.
    #[error("cannot set the loopback link up")]
    Loopback(#[source] netlink::Error),
    /// The namespace's IPVS tables or kernel parameters are out of reach.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The kernel refused a write to the namespace's IPVS tables.
    #[error("{0}")]
    Refused(String),
    /// A system call of a client or a listener failed.
    #[error("cannot {step}")]
    Socket {
        /// Attempted step.
        step: &'static str,
        /// Error of the system call.
        source: io::Error,
    },
    /// Connections are not tracked: no kernel drops the SYN then, and the probe would show nothing.
    #[error("connections are not tracked in the new network namespace")]
    NoConntrack,
    /// The connection whose port the probe wants to reuse did not come about.
    #[error("the first connection found no answer")]
    NoFirstConnection,
    /// The connection whose port the probe wants to reuse did not end.
    #[error("IPVS did not see the end of the first connection")]
    NoEnd,
}

/// Result of the control, which shows whether the probe can see a drop: the same attempt in a situation in
/// which every kernel drops the first SYN.
#[derive(Debug)]
pub enum Control {
    /// It did not run: nobody asked for it, or the probe saw a drop, or nothing at all, without it.
    NotRun,
    /// The kernel dropped the SYN, and the probe saw that.
    DropSeen,
    /// The probe saw no drop: it is blind here.
    NoDropSeen,
    /// The situation did not come about.
    NotAvailable(ProbeError),
}

/// Findings of the probe.
#[derive(Debug)]
pub struct ProbeReport {
    /// Fate of the first SYN of the reused port, or the reason why that is unknown.
    pub seen: Result<ProbeOutcome, ProbeError>,
    /// Proof that the probe could have seen the opposite.
    pub control: Control,
    /// Duration of the whole probe.
    pub duration: Duration,
}

impl ProbeReport {
    /// Outcome on which a decision may rest; `None` for unknown.
    pub fn outcome(&self) -> Option<ProbeOutcome> {
        match (&self.seen, &self.control) {
            (Ok(ProbeOutcome::SynSurvived), Control::NoDropSeen) | (Err(_), _) => None,
            (Ok(outcome), _) => Some(*outcome),
        }
    }
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.seen {
            Ok(ProbeOutcome::SynSurvived) => f.write_str("the first SYN got through")?,
            Ok(ProbeOutcome::SynDropped) => f.write_str("the first SYN was dropped")?,
            Err(error) => write_chain(f, error)?,
        }
        match &self.control {
            Control::NotRun => {}
            Control::DropSeen => f.write_str(", the control's was dropped as it must be")?,
            Control::NoDropSeen => {
                f.write_str(", but so did the control's, which must not: the probe is blind here")?;
            }
            Control::NotAvailable(error) => {
                f.write_str(", no control: ")?;
                write_chain(f, error)?;
            }
        }
        write!(f, "; {} ms", self.duration.as_millis())
    }
}

/// Writes the error and its chain of causes.
fn write_chain(f: &mut fmt::Formatter<'_>, error: &ProbeError) -> fmt::Result {
    write!(f, "{error}")?;
    let mut source = error.source();
    while let Some(error) = source {
        write!(f, ": {error}")?;
        source = error.source();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(seen: Result<ProbeOutcome, ProbeError>, control: Control) -> ProbeReport {
        ProbeReport { seen, control, duration: Duration::from_millis(31) }
    }

    fn no_namespace() -> ProbeError {
        ProbeError::Namespace(io::Error::from_raw_os_error(libc::EPERM))
    }

    #[test]
    fn a_blind_probe_shows_nothing() {
        use ProbeOutcome::{SynDropped, SynSurvived};
        let cases = [
            (Ok(SynSurvived), Control::DropSeen, Some(SynSurvived)),
            (Ok(SynSurvived), Control::NotRun, Some(SynSurvived)),
            (Ok(SynSurvived), Control::NotAvailable(ProbeError::Died), Some(SynSurvived)),
            (Ok(SynSurvived), Control::NoDropSeen, None),
            (Ok(SynDropped), Control::NotRun, Some(SynDropped)),
            (Err(ProbeError::NoConntrack), Control::NotRun, None),
        ];
        for (seen, control, expect) in cases {
            let report = report(seen, control);
            assert_eq!(report.outcome(), expect, "{report}");
        }
    }

    #[test]
    fn reports_are_one_line_with_every_reason() {
        let permission = "Operation not permitted (os error 1)";
        let cases = [
            (
                report(Ok(ProbeOutcome::SynSurvived), Control::DropSeen),
                "the first SYN got through, the control's was dropped as it must be; 31 ms".to_owned(),
            ),
            (
                report(Ok(ProbeOutcome::SynDropped), Control::NotRun),
                "the first SYN was dropped; 31 ms".to_owned(),
            ),
            (
                report(Err(no_namespace()), Control::NotRun),
                format!("cannot make a network namespace (CAP_SYS_ADMIN is needed): {permission}; 31 ms"),
            ),
            (
                report(Ok(ProbeOutcome::SynSurvived), Control::NotAvailable(no_namespace())),
                format!(
                    "the first SYN got through, no control: cannot make a network namespace (CAP_SYS_ADMIN is \
                     needed): {permission}; 31 ms"
                ),
            ),
        ];
        for (report, expect) in cases {
            assert_eq!(report.to_string(), expect);
        }
    }
}
