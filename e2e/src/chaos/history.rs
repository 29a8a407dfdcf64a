//! What was done, for when something turns out to be wrong.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

/// Actions remembered.
const KEPT: usize = 50;

/// The last actions, each with its time.
#[derive(Debug)]
pub struct History {
    begin: Instant,
    lines: VecDeque<String>,
    count: usize,
}

impl History {
    /// Begins now.
    #[expect(clippy::new_without_default, reason = "it begins at a point in time")]
    pub fn new() -> History {
        History { begin: Instant::now(), lines: VecDeque::new(), count: 0 }
    }

    /// Remember an action.
    pub fn add(&mut self, what: &str) {
        if self.lines.len() == KEPT {
            self.lines.pop_front();
        }
        self.count += 1;
        self.lines.push_back(format!("{:8.2} s  {what}", self.elapsed().as_secs_f64()));
    }

    /// Since it began.
    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// How many actions there were.
    pub fn count(&self) -> usize {
        self.count
    }
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the last {} of {} actions:", self.lines.len(), self.count)?;
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}
