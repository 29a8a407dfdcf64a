//! Execution of planned tests in a guest, and in another one when it dies or a test gets a second run.

use std::{
    fs,
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    plan::{Case, environment},
    retry::{self, Retries},
    verdict::Verdict,
};
use crate::{
    guest::{
        self,
        image::Image,
        is_bug,
        protocol::{Outcome, Task},
        session::Session,
    },
    kernels::Kernel,
    libtest::{self, Counts},
    paths,
    tally::Tally,
};

/// Bytes of a failed test's output that are printed; all of it is in a file.
const OUTPUT_BYTES_SHOWN: usize = 20_000;

/// Lines of a panic that are shown before that.
const PANIC_LINES_SHOWN: usize = 30;

/// Guests in a row that do not even boot after which the rest fails.
const BOOT_ATTEMPTS: u32 = 2;

/// Runner of the tests of one kernel.
#[derive(Debug)]
pub struct Runner {
    kernel: Kernel,
    image: Image,
    memory: u32,
    /// Number of guests started so far; it numbers their logs.
    boots: u32,
    session: Option<Session>,
    retries: Retries,
    tally: Tally,
}

/// Result of one test.
#[derive(Debug)]
pub struct Report {
    /// Verdict on the test.
    pub verdict: Verdict,
    /// Everything that it wrote.
    pub output: Vec<u8>,
    /// Duration of the test, without the boot.
    pub took: Duration,
}

impl Runner {
    /// A runner that starts nothing before the first test.
    pub fn new(kernel: Kernel, image: Image, memory: u32, retries: Retries) -> Self {
        Self { kernel, image, memory, boots: 0, session: None, retries, tally: Tally::default() }
    }

    /// Runs these tests one after the other, prints each result at once, and ends its guest.
    pub fn run(&mut self, cases: &[Case]) -> Tally {
        println!("kernel {} ({}): {} tests", self.kernel.series, self.kernel.release, cases.len());
        for case in cases {
            let report = self.settle(case);
            self.record(case, &report);
        }
        self.stop(true);
        std::mem::take(&mut self.tally)
    }

    /// Runs one test, and once more in a fresh guest if it fails and second runs are left.
    pub fn settle(&mut self, case: &Case) -> Report {
        let first = self.run_one(case);
        let Some(why) = self.retries.take(&first.verdict) else { return first };
        self.print_failure(case, &first, why, self.keep(case, &first.output, "-first"));
        println!("  once more, in a fresh guest: {}", self.label(case));
        self.stop(false);
        let second = self.run_one(case);
        Report { verdict: retry::of_both(why, second.verdict), ..second }
    }

    /// Runs one test, in a new guest if the one before did not survive.
    pub fn run_one(&mut self, case: &Case) -> Report {
        let mut output = Vec::new();
        if case.ignored {
            let verdict = Verdict::Skipped("marked as ignored".to_owned());
            return Report { verdict, output, took: Duration::ZERO };
        }
        let booted = self.start();
        let start = Instant::now();
        let verdict = match booted {
            Ok(()) => self.run_case(case, &mut output),
            Err(error) => Verdict::Failed(format!("{error:#}")),
        };
        Report { verdict, output, took: start.elapsed() }
    }

    /// Boots a guest unless one is running.
    fn start(&mut self) -> Result<()> {
        let mut attempt = 0;
        while self.session.is_none() {
            attempt += 1;
            self.boots += 1;
            let start = Instant::now();
            match guest::boot(&self.kernel, &self.image, self.memory, &self.name()) {
                Ok(session) => {
                    println!("  booted in {:.1} s  [{}]", start.elapsed().as_secs_f64(), self.kernel.series);
                    self.session = Some(session);
                }
                Err(error) if attempt < BOOT_ATTEMPTS => {
                    println!("  boot of {} failed: {error:#}", self.kernel.series)
                }
                Err(error) => return Err(error.context("the guest does not boot")),
            }
        }
        Ok(())
    }

    /// Powers the guest off; removes its log if nothing in it is of interest.
    pub fn stop(&mut self, clean: bool) {
        let Some(session) = self.session.take() else { return };
        session.quit();
        if clean && let Ok(log) = guest::console_log(&self.kernel, &self.name()) {
            let _ = fs::remove_file(log);
        }
    }

    fn name(&self) -> String {
        name(self.boots)
    }

    /// Removes the logs of all guests so far.
    pub fn discard_logs(&self) {
        for boot in 1..=self.boots {
            if let Ok(log) = guest::console_log(&self.kernel, &name(boot)) {
                let _ = fs::remove_file(log);
            }
        }
    }

    fn run_case(&mut self, case: &Case, output: &mut Vec<u8>) -> Verdict {
        let Some(session) = &mut self.session else { return Verdict::Failed("no guest".to_owned()) };
        match session.run(&task(case, &self.kernel), |bytes| output.extend_from_slice(bytes)) {
            Ok(outcome) => {
                let verdict = judge(&outcome, &String::from_utf8_lossy(output));
                if let Some(bug) = outcome.kernel.iter().find(|line| is_bug(line)) {
                    self.stop(false);
                    let log = guest::console_log(&self.kernel, &self.name()).unwrap_or_default();
                    return Verdict::Failed(format!(
                        "the kernel reported {bug}; console log: {}",
                        log.display()
                    ));
                }
                verdict
            }
            Err(error) => {
                self.session = None;
                Verdict::Failed(format!("{error:#}"))
            }
        }
    }

    fn record(&mut self, case: &Case, report: &Report) {
        let what = self.label(case);
        let seconds = report.took.as_secs_f64();
        // The output of tests that passed stays as well: proofs print what they counted.
        let file = self.keep(case, &report.output, "");
        match &report.verdict {
            Verdict::Passed => {
                println!("  ok      {seconds:7.2} s  {what}");
                self.tally.pass();
            }
            Verdict::Unsteady(why) => {
                println!("  UNSTEADY{seconds:7.2} s  {what}: passed now");
                self.tally.pass_unsteadily(&what, why);
            }
            Verdict::Skipped(why) => {
                println!("  skipped            {what}: {why}");
                self.tally.skip(&what, why);
            }
            Verdict::Failed(why) => {
                self.print_failure(case, report, why, file);
                self.tally.fail(&what, why);
            }
        }
        let _ = std::io::stdout().flush();
    }

    /// Prints a failure in one piece, because another guest's results may come at the same time.
    fn print_failure(&self, case: &Case, report: &Report, why: &str, file: Option<PathBuf>) {
        let (seconds, what) = (report.took.as_secs_f64(), self.label(case));
        print!("  FAILED  {seconds:7.2} s  {what}: {why}\n{}", excerpt(&report.output, file));
    }

    /// Names a test for people: `[series] package test`.
    fn label(&self, case: &Case) -> String {
        format!("[{}] {} {}", self.kernel.series, case.package, case.test)
    }

    /// Writes a test's output to a file.
    fn keep(&self, case: &Case, output: &[u8], run: &str) -> Option<PathBuf> {
        let name = format!("{}-{}{run}.out", self.kernel.series, case.test.replace("::", "-"));
        let path = paths::guest_output().ok()?.join(name);
        fs::write(&path, output).ok().map(|()| path)
    }
}

/// Name of the files of a guest.
fn name(boot: u32) -> String {
    format!("tests-{}-{boot}", std::process::id())
}

fn task(case: &Case, kernel: &Kernel) -> Task {
    // Output is not captured: what a test wrote before it hung or crashed the guest matters most.
    let arguments = [case.program.as_str(), &case.test, "--exact", "--nocapture", "--test-threads=1"];
    Task {
        argv: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        env: environment(kernel),
        timeout_ms: u64::try_from(case.timeout.as_millis()).unwrap_or(u64::MAX),
    }
}

/// Judges a test: it passed if its process says that it ran and passed, and ends with 0.
fn judge(outcome: &Outcome, output: &str) -> Verdict {
    if let Some(problem) = outcome.problem() {
        return Verdict::Failed(problem);
    }
    if !outcome.is_success() {
        return Verdict::Failed(format!("exit code {}", outcome.code.unwrap_or(-1)));
    }
    match libtest::sum(output) {
        Counts { passed: 1, failed: 0, .. } => match output.lines().find_map(libtest::parse_skipped) {
            Some(reason) => Verdict::Skipped(reason.to_owned()),
            None => Verdict::Passed,
        },
        _ => Verdict::Failed("the test did not run".to_owned()),
    }
}

/// Reason of a failed test, as far as it gave one, and the end of its output.
fn excerpt(output: &[u8], file: Option<PathBuf>) -> String {
    let text = String::from_utf8_lossy(output);
    let mut lines: Vec<_> = reason(&text).map(|line| format!("    > {line}\n")).collect();
    let mut start = text.len().saturating_sub(OUTPUT_BYTES_SHOWN);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    if let Some(file) = file.filter(|_| start > 0) {
        lines.push(format!("    ... ({start} bytes before this are in {})\n", file.display()));
    }
    lines.extend(text[start..].lines().map(|line| format!("    | {line}\n")));
    lines.concat()
}

/// Words of a panic, which may stand far above the end, before the logs that follow it.
fn reason(text: &str) -> impl Iterator<Item = &str> {
    let is_panic = |line: &&str| line.contains("panicked at ");
    text.lines().skip_while(move |line| !is_panic(line)).take(PANIC_LINES_SHOWN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_begins_with_the_panic() {
        let text = "log\n\nthread 'a' (7) panicked at a.rs:1:2:\nno route\n";
        assert_eq!(reason(text).collect::<Vec<_>>(), ["thread 'a' (7) panicked at a.rs:1:2:", "no route"]);
        assert_eq!(reason("log").count(), 0);
        assert_eq!(reason(&format!("{text}{}", "log\n".repeat(100))).count(), PANIC_LINES_SHOWN);
    }

    const PASS: &str =
        "test a ... ok\n\ntest result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 3 filtered out";

    fn check(outcome: Outcome, output: &str, verdict: Verdict) {
        assert_eq!(judge(&outcome, output), verdict, "{outcome:?}");
    }

    #[test]
    fn verdicts() {
        let exit = |code| Outcome { code: Some(code), ..Outcome::default() };
        check(exit(0), PASS, Verdict::Passed);
        for printed in ["skipped: no SCTP", "test a ... skipped: no SCTP"] {
            check(exit(0), &format!("{printed}\nok\n{PASS}"), Verdict::Skipped("no SCTP".to_owned()));
        }
        check(exit(101), PASS, Verdict::Failed("exit code 101".to_owned()));
        check(exit(0), "", Verdict::Failed("the test did not run".to_owned()));
        let none = "test result: ok. 0 passed; 0 failed; 0 ignored; 0 measured; 9 filtered out";
        check(exit(0), none, Verdict::Failed("the test did not run".to_owned()));
        let killed = Outcome { signal: Some(9), timed_out: true, millis: 120_400, ..Outcome::default() };
        check(killed, "", Verdict::Failed("killed after 120 s: timed out".to_owned()));
        let crashed = Outcome { signal: Some(11), ..Outcome::default() };
        check(crashed, "", Verdict::Failed("killed by signal 11".to_owned()));
    }
}
