//! A second run for a failed test: its conditions, and the verdict of the two runs together.
//!
//! Guests are emulated and share their host. A neighbour that takes a processor for a few seconds makes a
//! test that waits for packets fail, about one run of the suite in three. Such a test runs once more, and the
//! summary names it.

use super::verdict::Verdict;

/// Number of tests of one kernel that get a second run; the next one that fails, fails. A broken test fails
/// twice. A test that breaks now and then can hide here only as long as hardly anything else fails, and the
/// summary names it whenever it does; a suite in which more than two of 140 tests waver has a fault of its
/// own.
const SECOND_RUNS: usize = 2;

/// Number of second runs that are left.
#[derive(Debug)]
pub struct Retries(usize);

impl Retries {
    /// As many as the tests of a kernel get, or none.
    pub fn new(wanted: bool) -> Self {
        Self(if wanted { SECOND_RUNS } else { 0 })
    }

    /// Takes one for a test with this verdict, if it needs one and there is one; returns the reason of the
    /// failure.
    pub fn take<'a>(&mut self, verdict: &'a Verdict) -> Option<&'a str> {
        let Verdict::Failed(why) = verdict else { return None };
        self.0 = self.0.checked_sub(1)?;
        Some(why)
    }
}

/// Verdict on a test that failed for this reason and ran once more.
pub fn of_both(first: &str, second: Verdict) -> Verdict {
    match second {
        Verdict::Passed => Verdict::Unsteady(first.to_owned()),
        Verdict::Failed(why) if why == first => Verdict::Failed(format!("{why}, twice")),
        Verdict::Failed(why) => Verdict::Failed(format!("{why}; before that: {first}")),
        // A failure is no success only because it did not come again.
        Verdict::Skipped(why) => Verdict::Failed(format!("{first}; skipped when run once more: {why}")),
        Verdict::Unsteady(_) => second,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(why: &str) -> Verdict {
        Verdict::Failed(why.to_owned())
    }

    #[test]
    fn second_runs_are_for_failures_and_are_few() {
        let mut retries = Retries::new(true);
        assert_eq!(retries.take(&Verdict::Passed), None);
        assert_eq!(retries.take(&Verdict::Skipped("no SCTP".to_owned())), None);
        assert_eq!(retries.take(&failed("a")), Some("a"));
        assert_eq!(retries.take(&failed("b")), Some("b"));
        assert_eq!(retries.take(&failed("c")), None, "the third one fails");
        assert_eq!(Retries::new(false).take(&failed("a")), None);
    }

    #[test]
    fn two_runs_make_one_verdict() {
        let check = |second, expected| assert_eq!(of_both("hung", second), expected);
        check(Verdict::Passed, Verdict::Unsteady("hung".to_owned()));
        check(failed("hung"), failed("hung, twice"));
        check(failed("exit code 101"), failed("exit code 101; before that: hung"));
        check(Verdict::Skipped("no SCTP".to_owned()), failed("hung; skipped when run once more: no SCTP"));
    }
}
