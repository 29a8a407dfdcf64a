//! Counting results, and naming what failed or was skipped.

use std::process::ExitCode;

/// The results of a tier, or of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Checks and tests that passed.
    pub passed: usize,
    /// How many failed.
    pub failed: usize,
    /// How many did not run.
    pub skipped: usize,
    /// `what: why` of each failure.
    failures: Vec<String>,
    /// `what: why` of everything that was skipped.
    skips: Vec<String>,
}

impl Tally {
    /// Counts one that passed.
    pub fn pass(&mut self) {
        self.passed += 1;
    }

    /// Counts one that failed.
    pub fn fail(&mut self, what: &str, why: &str) {
        self.failed += 1;
        self.failures.push(format!("{what}: {why}"));
    }

    /// Counts one that did not run.
    pub fn skip(&mut self, what: &str, why: &str) {
        self.skip_many(what, why, 1);
    }

    /// Counts several that did not run for one reason.
    pub fn skip_many(&mut self, what: &str, why: &str, count: usize) {
        self.skipped += count;
        self.skips.push(format!("{what}: {why}"));
    }

    /// Adds all of another tally.
    pub fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.failures.extend_from_slice(&other.failures);
        self.skips.extend_from_slice(&other.skips);
    }

    /// How many ran.
    pub fn ran(&self) -> usize {
        self.passed + self.failed
    }

    /// Prints what failed or was skipped and why.
    pub fn print_details(&self) {
        for skip in &self.skips {
            println!("skipped  {skip}");
        }
        for failure in &self.failures {
            println!("FAILED   {failure}");
        }
    }

    /// The closing line.
    pub fn line(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }

    /// Failure if anything failed.
    pub fn exit_code(&self) -> ExitCode {
        if self.failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let mut all = Tally::default();
        all.pass();
        let mut other = Tally::default();
        other.fail("b", "broken");
        other.skip_many("c", "no kernel", 3);
        all.add(&other);
        assert_eq!(all.line(), "1 passed, 1 failed, 3 skipped");
        assert_eq!(all.ran(), 2);
        assert_eq!(all.exit_code(), ExitCode::FAILURE);
    }
}
