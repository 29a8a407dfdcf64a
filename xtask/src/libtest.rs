//! Parser of the output of Rust's test harness (pure).

/// The counts of one run of a test program, or of several.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests that passed.
    pub passed: usize,
    /// Tests that failed.
    pub failed: usize,
    /// Tests marked as ignored.
    pub ignored: usize,
}

/// Reads the names in the output of `--list`.
pub fn parse_list(text: &str) -> Vec<String> {
    text.lines().filter_map(|line| line.strip_suffix(": test")).map(str::to_owned).collect()
}

/// Parses `test result: ok. 3 passed; 0 failed; 1 ignored; ...`; `None` for other lines.
pub fn parse_result(line: &str) -> Option<Counts> {
    let (_, rest) = line.trim().strip_prefix("test result: ")?.split_once(". ")?;
    let mut counts = Counts::default();
    for part in rest.split("; ") {
        match part.split_once(' ') {
            Some((number, "passed")) => counts.passed = number.parse().ok()?,
            Some((number, "failed")) => counts.failed = number.parse().ok()?,
            Some((number, "ignored")) => counts.ignored = number.parse().ok()?,
            _ => {}
        }
    }
    Some(counts)
}

/// Parses `test NAME ... ignored, REASON`; the reason may be missing.
pub fn parse_ignored(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.trim().strip_prefix("test ")?.rsplit_once(" ... ignored")?;
    let reason = rest.strip_prefix(", ").unwrap_or("marked as ignored");
    (rest.is_empty() || rest.starts_with(", ")).then_some((name, reason))
}

/// Parses `test NAME ... FAILED`.
pub fn parse_failed(line: &str) -> Option<&str> {
    line.trim().strip_prefix("test ")?.strip_suffix(" ... FAILED")
}

/// Parses `skipped: REASON`, which a test prints when it returns because it cannot run here. Where output is
/// not captured, the first line of a test stands behind its name.
pub fn parse_skipped(line: &str) -> Option<&str> {
    let line = line.trim();
    let printed = line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... "));
    printed.map_or(line, |(_, printed)| printed).strip_prefix("skipped: ")
}

/// Meaning of a line of a test program's output.
#[derive(Debug, PartialEq, Eq)]
pub enum Line<'a> {
    /// The closing line.
    Result(Counts),
    /// A test marked as ignored, with the reason.
    Ignored(&'a str, &'a str),
    /// A test that failed.
    Failed(&'a str),
    /// A test that passed but says that it could not run, with the reason.
    Skipped(String, &'a str),
    /// Output of a test that passed: of no interest.
    Hidden,
    /// Anything else.
    Other,
}

/// Follows the output of test programs that run with `--show-output`.
#[derive(Debug, Default)]
pub struct Follower {
    in_successes: bool,
    test: String,
}

impl Follower {
    /// Takes the next line.
    pub fn line<'a>(&mut self, line: &'a str) -> Line<'a> {
        if let Some(counts) = parse_result(line) {
            self.in_successes = false;
            return Line::Result(counts);
        }
        if let Some((name, reason)) = parse_ignored(line) {
            return Line::Ignored(name, reason);
        }
        if let Some(name) = parse_failed(line) {
            return Line::Failed(name);
        }
        match line {
            "successes:" => self.in_successes = true,
            "failures:" => self.in_successes = false,
            _ => {}
        }
        if !self.in_successes {
            return Line::Other;
        }
        if let Some(name) = line.strip_prefix("---- ").and_then(|rest| rest.strip_suffix(" stdout ----")) {
            name.clone_into(&mut self.test);
        }
        match parse_skipped(line) {
            Some(reason) => Line::Skipped(self.test.clone(), reason),
            None => Line::Hidden,
        }
    }
}

/// Adds up all results in the output of a run.
pub fn sum(text: &str) -> Counts {
    text.lines().filter_map(parse_result).fold(Counts::default(), |sum, counts| Counts {
        passed: sum.passed + counts.passed,
        failed: sum.failed + counts.failed,
        ignored: sum.ignored + counts.ignored,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_add_up() {
        let text = "running 3 tests\ntest a ... ok\n\
            test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.00s\n\
            test result: FAILED. 10 passed; 3 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.00s\n";
        assert_eq!(sum(text), Counts { passed: 12, failed: 3, ignored: 1 });
        assert_eq!(sum("test result of another kind"), Counts::default());
    }

    #[test]
    fn lists() {
        let text = "contract::adds: test\nslow: bench\nother::name: test\n\n2 tests, 1 benchmark\n";
        assert_eq!(parse_list(text), ["contract::adds", "other::name"]);
    }

    #[test]
    fn ignored_tests_give_their_reason() {
        assert_eq!(parse_ignored("test a::b ... ignored, needs 5.8"), Some(("a::b", "needs 5.8")));
        assert_eq!(parse_ignored("test a::b ... ignored"), Some(("a::b", "marked as ignored")));
        assert_eq!(parse_ignored("test a::b ... ok"), None);
        assert_eq!(parse_failed("test a::b ... FAILED"), Some("a::b"));
        assert_eq!(parse_failed("test result: FAILED. 10 passed"), None);
    }

    #[test]
    fn tests_that_passed_may_say_that_they_skipped() {
        let text = "test a ... ok\n\nsuccesses:\n\n---- a stdout ----\nskipped: no dummy links\n\nsuccesses:\n    a\n\n\
            failures:\n\n---- b stdout ----\nskipped: not me\n\
            test result: FAILED. 1 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        let mut follower = Follower::default();
        let lines: Vec<_> = text.lines().map(|line| follower.line(line)).collect();
        let skips: Vec<_> = lines.iter().filter(|line| matches!(line, Line::Skipped(..))).collect();
        assert_eq!(skips, [&Line::Skipped("a".to_owned(), "no dummy links")]);
        assert_eq!(lines.last(), Some(&Line::Result(Counts { passed: 1, failed: 1, ignored: 0 })));
        assert_eq!(lines.iter().filter(|line| **line == Line::Hidden).count(), 7);
    }
}
