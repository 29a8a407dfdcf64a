//! Reason for which a real server is still there at weight 0.

#[cfg(feature = "serde")]
use crate::spelling::millis;
use crate::{Drain, Outcome, Time};

/// The next thing that a draining real server waits for. Times are since boot.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "camelCase"))]
pub enum WaitsFor {
    /// The end of connections.
    Connections(u32),
    /// Nothing that moves until then.
    #[cfg_attr(feature = "serde", serde(rename = "quietUntilMillis", with = "millis"))]
    Quiet(Time),
    /// An answer to clients that have sent, until then.
    #[cfg_attr(feature = "serde", serde(rename = "answerUntilMillis", with = "millis"))]
    Answer(Time),
    /// Another slice that lists its pod, until then: after that the pod is gone.
    #[cfg_attr(feature = "serde", serde(rename = "sliceUntilMillis", with = "millis"))]
    Slice(Time),
    /// The next reading of its counters.
    #[cfg_attr(feature = "serde", serde(rename = "readingAtMillis", with = "millis"))]
    Reading(Time),
    /// The removal that the loop plans next.
    Removal(Outcome),
    /// A write to its virtual server that the kernel has refused.
    Retry {
        /// The time of the next try.
        #[cfg_attr(feature = "serde", serde(rename = "atMillis", with = "millis"))]
        at: Time,
        /// The write, its errno and what that means.
        refused: String,
    },
    /// Link and chains, without which its virtual server is not written.
    Base,
    /// A dump that tells whether it is still there.
    Dump,
}

impl Drain {
    /// Answers what it waits for, given the time of the next reading and what keeps its removal from being
    /// written.
    pub fn waits_for(&self, reading: Time, obstacle: impl FnOnce() -> Option<WaitsFor>) -> WaitsFor {
        if let Some(outcome) = self.due {
            return obstacle().unwrap_or(WaitsFor::Removal(outcome));
        }
        if let Some(at) = self.gone_at {
            return WaitsFor::Slice(at);
        }
        match self.seen.map(|(connections, _)| self.settings.policy.awaited(&connections)) {
            Some(0) => self.lingers_until().map_or(WaitsFor::Reading(reading), WaitsFor::Quiet),
            Some(open) => self.unanswered_until().map_or(WaitsFor::Connections(open), WaitsFor::Answer),
            None => WaitsFor::Reading(reading),
        }
    }
}

impl WaitsFor {
    /// The same by counters that are newer, which are `None` if the real server is gone.
    #[must_use]
    pub fn by(self, open: Option<u32>, now: Time) -> Self {
        match (self, open) {
            (WaitsFor::Connections(_) | WaitsFor::Quiet(_) | WaitsFor::Reading(_), Some(open))
                if open > 0 =>
            {
                WaitsFor::Connections(open)
            }
            (WaitsFor::Connections(_) | WaitsFor::Answer(_), Some(0)) | (_, None) => WaitsFor::Reading(now),
            (recorded, _) => recorded,
        }
    }

    /// Plain words, with times from `now` on.
    pub fn render(&self, now: Time) -> String {
        let left = |until: &Time| until.saturating_sub(now).as_millis().div_ceil(1000);
        match self {
            WaitsFor::Connections(1) => "1 connection".to_owned(),
            WaitsFor::Connections(open) => format!("{open} connections"),
            WaitsFor::Quiet(until) if left(until) > 0 => format!("quiet for {}s more", left(until)),
            WaitsFor::Answer(until) if left(until) > 0 => {
                format!("an answer to its clients, for {}s more", left(until))
            }
            WaitsFor::Slice(until) if left(until) > 0 => {
                format!("another slice with its pod, for {}s more", left(until))
            }
            WaitsFor::Reading(at) if left(at) > 0 => format!("the next reading in {}s", left(at)),
            WaitsFor::Quiet(_) | WaitsFor::Answer(_) | WaitsFor::Slice(_) | WaitsFor::Reading(_) => {
                "the next reading".to_owned()
            }
            WaitsFor::Removal(outcome) => format!("its removal: {outcome}"),
            WaitsFor::Retry { at, refused } => format!("retry in {}s: {refused}", left(at)),
            WaitsFor::Base => "link and chains".to_owned(),
            WaitsFor::Dump => "a dump of its virtual server".to_owned(),
        }
    }
}
