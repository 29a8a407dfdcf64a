//! Record of the actions, for when something turns out to be wrong.

use std::{
    collections::VecDeque,
    fmt,
    time::{Duration, Instant},
};

/// Number of actions that are remembered.
const ACTIONS_KEPT: usize = 50;

/// The last actions, each with its time.
#[derive(Debug)]
pub struct History {
    begin: Instant,
    lines: VecDeque<String>,
    count: usize,
}

impl History {
    /// A history that begins now.
    #[expect(clippy::new_without_default, reason = "it begins at a point in time")]
    pub fn new() -> History {
        History { begin: Instant::now(), lines: VecDeque::new(), count: 0 }
    }

    /// Remembers an action.
    pub fn add(&mut self, what: &str) {
        if self.lines.len() == ACTIONS_KEPT {
            self.lines.pop_front();
        }
        self.count += 1;
        self.lines.push_back(format!("{:8.2} s  {what}", self.elapsed().as_secs_f64()));
    }

    /// Time since it began.
    pub fn elapsed(&self) -> Duration {
        self.begin.elapsed()
    }

    /// Number of all actions so far.
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
