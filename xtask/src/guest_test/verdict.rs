//! The verdict on a test.

/// The verdict on one test.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It ran and passed.
    Passed,
    /// It failed, for this reason.
    Failed(String),
    /// It passed in a fresh guest after it had failed for this reason.
    Unsteady(String),
    /// It did not run, for this reason.
    Skipped(String),
}
