//! Choice of `net.ipv4.vs.conn_reuse_mode` for this kernel.
//!
//! With 0, IPVS sends a client that reuses a source port to the real server of its old connection, whatever
//! has become of that. With 1 it schedules the connection anew, but kernels without commit f0a5e4d7a594
//! (Linux 5.9, back-ported to 4.19.140, 5.4.59 and by vendors) drop the first SYN, which costs the client a
//! second. The version alone therefore decides only outside of 4.1 to 5.8.

use std::{fmt, str::FromStr};

use crate::KernelVersion;

/// First version with the parameter (commit d752c3645717).
const FIRST_WITH_PARAMETER: KernelVersion = KernelVersion::new(4, 1);
/// First version that certainly does not drop the SYN.
const FIRST_FIXED: KernelVersion = KernelVersion::new(5, 9);

/// Parameter of some vendors' 4.14 and 4.19 kernels: 1 if the first SYN is not dropped, below `/proc/sys`.
pub const VENDOR_FILE: &str = "net/ipv4/vs/conn_reuse_old_conntrack";

/// A value of the parameter that we write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConnReuseMode {
    /// 0: reused ports follow the old connection.
    FollowOld,
    /// 1: reused ports are scheduled anew.
    Reschedule,
}

impl ConnReuseMode {
    /// Value of the parameter.
    pub const fn value(self) -> u32 {
        match self {
            ConnReuseMode::FollowOld => 0,
            ConnReuseMode::Reschedule => 1,
        }
    }
}

impl fmt::Display for ConnReuseMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value().fmt(f)
    }
}

/// Value of the flag `--conn-reuse-mode`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ConnReuseFlag {
    /// Decides by the kernel.
    #[default]
    Auto,
    /// Writes the mode of the user.
    Mode(ConnReuseMode),
    /// Leaves the parameter alone.
    Keep,
}

/// Text that is no value of `--conn-reuse-mode`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown connection reuse mode {0:?}: expected auto, 0, 1 or keep")]
pub struct UnknownConnReuseFlag(pub String);

impl FromStr for ConnReuseFlag {
    type Err = UnknownConnReuseFlag;

    fn from_str(text: &str) -> Result<Self, UnknownConnReuseFlag> {
        match text {
            "auto" => Ok(ConnReuseFlag::Auto),
            "0" => Ok(ConnReuseFlag::Mode(ConnReuseMode::FollowOld)),
            "1" => Ok(ConnReuseFlag::Mode(ConnReuseMode::Reschedule)),
            "keep" => Ok(ConnReuseFlag::Keep),
            _ => Err(UnknownConnReuseFlag(text.to_owned())),
        }
    }
}

impl fmt::Display for ConnReuseFlag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnReuseFlag::Auto => f.write_str("auto"),
            ConnReuseFlag::Mode(mode) => mode.fmt(f),
            ConnReuseFlag::Keep => f.write_str("keep"),
        }
    }
}

/// Finding of the probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProbeOutcome {
    /// The first SYN of a reused port got through.
    SynSurvived,
    /// The kernel dropped it.
    SynDropped,
}

/// Facts on which the decision rests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConnReuseFacts {
    /// Wish of the user.
    pub flag: ConnReuseFlag,
    /// Version of the kernel, if its release makes sense.
    pub version: Option<KernelVersion>,
    /// Value of [`VENDOR_FILE`], if the kernel has it.
    pub vendor: Option<u32>,
    /// Finding of the probe; `None` if it was not needed or could not run.
    pub probe: Option<ProbeOutcome>,
}

/// Fact that decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnReuseReason {
    /// The flag, regardless of the other facts.
    Flag,
    /// The version, which is too old for the parameter.
    VersionWithout(KernelVersion),
    /// The version, which does not drop the first SYN.
    VersionFixed(KernelVersion),
    /// The vendor's parameter with this value.
    Vendor(u32),
    /// The finding of the probe.
    Probe(ProbeOutcome),
    /// None: neither version nor vendor can tell, and the probe could not run.
    Unknown,
}

impl ConnReuseReason {
    /// The deciding fact in one word, for metrics.
    pub const fn source(self) -> &'static str {
        match self {
            ConnReuseReason::Flag => "flag",
            ConnReuseReason::VersionWithout(_) | ConnReuseReason::VersionFixed(_) => "version",
            ConnReuseReason::Vendor(_) => "vendor",
            ConnReuseReason::Probe(_) => "probe",
            ConnReuseReason::Unknown => "unknown",
        }
    }
}

impl fmt::Display for ConnReuseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnReuseReason::Flag => f.write_str("set by --conn-reuse-mode"),
            ConnReuseReason::VersionWithout(v) => write!(f, "kernel {v} is too old to have the parameter"),
            ConnReuseReason::VersionFixed(v) => {
                write!(f, "kernel {v} does not drop the first SYN of a reused port")
            }
            ConnReuseReason::Vendor(value) => write!(f, "the vendor's {VENDOR_FILE} is {value}"),
            ConnReuseReason::Probe(ProbeOutcome::SynSurvived) => {
                f.write_str("probed: the first SYN of a reused port gets through")
            }
            ConnReuseReason::Probe(ProbeOutcome::SynDropped) => {
                f.write_str("probed: this kernel drops the first SYN of a reused port")
            }
            ConnReuseReason::Unknown => f.write_str("the version cannot tell and the probe could not run"),
        }
    }
}

/// Decision about `conn_reuse_mode`, with its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnReuseDecision {
    /// Value to write; `None` leaves the parameter as it is.
    pub mode: Option<ConnReuseMode>,
    /// Fact that decided.
    pub reason: ConnReuseReason,
}

impl fmt::Display for ConnReuseDecision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mode {
            Some(mode) => write!(f, "conn_reuse_mode={mode} ({})", self.reason),
            None => write!(f, "conn_reuse_mode left alone ({})", self.reason),
        }
    }
}

/// Tells whether the decision would rest on the probe, if that could run.
pub fn needs_probe(facts: &ConnReuseFacts) -> bool {
    decide_conn_reuse_mode(&ConnReuseFacts { probe: None, ..*facts }).reason == ConnReuseReason::Unknown
}

/// Decides by flag, version, vendor and probe, in this order.
pub fn decide_conn_reuse_mode(facts: &ConnReuseFacts) -> ConnReuseDecision {
    let decision = |mode, reason| ConnReuseDecision { mode, reason };
    match facts.flag {
        ConnReuseFlag::Keep => return decision(None, ConnReuseReason::Flag),
        ConnReuseFlag::Mode(mode) => return decision(Some(mode), ConnReuseReason::Flag),
        ConnReuseFlag::Auto => {}
    }
    match facts.version {
        Some(v) if v < FIRST_WITH_PARAMETER => decision(None, ConnReuseReason::VersionWithout(v)),
        // kube-proxy leaves the parameter alone here, but an older proxy may have set it to 0.
        Some(v) if v >= FIRST_FIXED => {
            decision(Some(ConnReuseMode::Reschedule), ConnReuseReason::VersionFixed(v))
        }
        _ => decide_by_behaviour(facts),
    }
}

/// Decides for versions that may or may not have the fix.
fn decide_by_behaviour(facts: &ConnReuseFacts) -> ConnReuseDecision {
    let (survives, reason) = match (facts.vendor, facts.probe) {
        (Some(value), _) => (value != 0, ConnReuseReason::Vendor(value)),
        (None, Some(outcome)) => (outcome == ProbeOutcome::SynSurvived, ConnReuseReason::Probe(outcome)),
        (None, None) => (false, ConnReuseReason::Unknown),
    };
    let mode = if survives { ConnReuseMode::Reschedule } else { ConnReuseMode::FollowOld };
    ConnReuseDecision { mode: Some(mode), reason }
}

#[cfg(test)]
mod tests;
