//! What a step did.

use std::fmt;

use drain::{Drain, Key, Time};

/// What one step did; all zero when there was nothing to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Services whose intent was computed anew.
    pub services: usize,
    /// Writes that the kernel executed.
    pub written: usize,
    /// Writes that it refused; they are tried again.
    pub failed: usize,
    /// Objects that an audit found different from the mirror: somebody else wrote.
    pub drift: usize,
    /// Drains that began.
    pub drains_begun: usize,
    /// Drains that ended.
    pub drains_ended: usize,
    /// Whether this step completed the first programming of everything.
    pub completed_start: bool,
}

impl Report {
    /// Whether anything happened that an operator would want a line for.
    pub fn is_quiet(&self) -> bool {
        *self == Report { services: self.services, ..Report::default() }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { services, written, failed, drift, drains_begun, drains_ended, completed_start } = self;
        write!(f, "{written} writes for {services} changed services")?;
        for (count, what) in [
            (failed, "refused"),
            (drift, "found changed by others"),
            (drains_begun, "drains begun"),
            (drains_ended, "drains ended"),
        ] {
            if *count > 0 {
                write!(f, ", {count} {what}")?;
            }
        }
        if *completed_start {
            f.write_str("; everything is programmed")?;
        }
        Ok(())
    }
}

/// Sizes of what is programmed, for metrics and status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Services with an intent.
    pub services: usize,
    /// Virtual servers in the mirror, foreign ones included.
    pub virtual_servers: usize,
    /// Real servers in the mirror.
    pub real_servers: usize,
    /// Real servers that drain.
    pub draining: usize,
    /// Subjects that wait for another try.
    pub retrying: usize,
}

/// One row of the drain listing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DrainLine {
    /// Who.
    pub key: Key,
    /// Why, since when, by what rule.
    pub drain: Drain,
    /// How long it has been draining.
    pub age: Time,
}
