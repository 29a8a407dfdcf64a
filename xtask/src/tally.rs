//! Counts of results, with the names of failed and skipped ones.

use std::process::ExitCode;

use anyhow::Result;

/// The results of a tier, or of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Checks and tests that passed.
    pub passed: usize,
    /// Checks and tests that failed.
    pub failed: usize,
    /// Checks and tests that did not run.
    pub skipped: usize,
    /// `what: why` of each test that passed only in its second run.
    unsteady: Vec<String>,
    /// `what: why` of each failure.
    failures: Vec<String>,
    /// `what: why` of everything that was skipped.
    skips: Vec<String>,
}

impl Tally {
    /// Counts a success.
    pub fn pass(&mut self) {
        self.passed += 1;
    }

    /// Counts a success in the second run, after a failure for the reason `why`.
    pub fn pass_unsteadily(&mut self, what: &str, why: &str) {
        self.pass();
        self.unsteady.push(format!("{what}: {why}"));
    }

    /// Counts a failure.
    pub fn fail(&mut self, what: &str, why: &str) {
        self.failed += 1;
        self.failures.push(format!("{what}: {why}"));
    }

    /// Counts a test that did not run.
    pub fn skip(&mut self, what: &str, why: &str) {
        self.skip_many(what, why, 1);
    }

    /// Counts several that did not run for one reason.
    pub fn skip_many(&mut self, what: &str, why: &str, count: usize) {
        self.skipped += count;
        self.skips.push(format!("{what}: {why}"));
    }

    /// Takes a tool that could be had; where it could not (`lack`), the `count` tests that need it are skipped.
    pub fn have<T>(&mut self, tool: Result<T>, what: &str, lack: &str, count: usize) -> Option<T> {
        match tool {
            Ok(tool) => Some(tool),
            Err(error) => {
                let why = format!("{lack}: {error:#}");
                println!("skipped: {why}");
                self.skip_many(what, &why, count);
                None
            }
        }
    }

    /// Adds all of another tally.
    pub fn add(&mut self, other: &Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
        self.unsteady.extend_from_slice(&other.unsteady);
        self.failures.extend_from_slice(&other.failures);
        self.skips.extend_from_slice(&other.skips);
    }

    /// Number of checks and tests that ran.
    pub fn ran(&self) -> usize {
        self.passed + self.failed
    }

    /// Prints everything that failed, was skipped or needed a second run, with the reasons.
    pub fn print_details(&self) {
        for line in self.details() {
            println!("{line}");
        }
    }

    /// Details, with the worst last, next to the closing line.
    fn details(&self) -> impl Iterator<Item = String> {
        let skips = self.skips.iter().map(|skip| format!("skipped  {skip}"));
        let unsteady = self
            .unsteady
            .iter()
            .map(|test| format!("UNSTEADY {test} (counted as passed: it did in a fresh guest)"));
        let failures = self.failures.iter().map(|failure| format!("FAILED   {failure}"));
        skips.chain(unsteady).chain(failures)
    }

    /// The closing line.
    pub fn line(&self) -> String {
        format!("{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }

    /// Exit code: failure if anything failed.
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

    #[test]
    fn what_is_unsteady_passes_and_is_named() {
        let mut tier = Tally::default();
        tier.pass_unsteadily("[6.12] e2e a", "exit code 101");
        tier.skip("b", "no kernel");
        let mut all = Tally::default();
        all.add(&tier);
        assert_eq!(all.line(), "1 passed, 0 failed, 1 skipped");
        assert_eq!(all.exit_code(), ExitCode::SUCCESS);
        assert_eq!(
            all.details().collect::<Vec<_>>(),
            [
                "skipped  b: no kernel",
                "UNSTEADY [6.12] e2e a: exit code 101 (counted as passed: it did in a fresh guest)"
            ]
        );
    }
}
