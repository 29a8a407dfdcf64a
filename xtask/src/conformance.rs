//! `cargo xtask conformance`: what kube-proxy's own tests say a proxy does, and which tests here show the same.
//!
//! `e2e/conformance.txt` lists the behaviours, doc comments of tests name those that they show, and
//! `e2e/CONFORMANCE.md` is written from both. A behaviour has a test or a reason why there is none, never both.

mod annotations;
mod list;

use std::{fmt::Write as _, fs, path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::Args;

use crate::paths;
use annotations::{Annotation, Source};
use list::Behaviour;

/// `cargo xtask conformance`.
#[derive(Debug, Args)]
pub struct Conformance {
    /// Writes nothing, and fails if the page is out of date.
    #[arg(long)]
    check: bool,
}

const LIST: &str = "e2e/conformance.txt";
const PAGE: &str = "e2e/CONFORMANCE.md";

/// A behaviour with the tests that show it.
type Shown<'a> = (&'a Behaviour, Vec<&'a Annotation>);

impl Conformance {
    /// Writes or checks the page.
    pub fn run(&self) -> Result<ExitCode> {
        let (page, mut faults) = render()?;
        if self.check {
            faults.extend(outdated(&page)?);
        } else if faults.is_empty() {
            fs::write(page_path(), page).with_context(|| format!("writing {PAGE}"))?;
        }
        for fault in &faults {
            eprintln!("{fault}");
        }
        Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Lists what is wrong with the list, the annotations and the page, one line each.
pub fn violations() -> Result<Vec<String>> {
    let (page, mut faults) = render()?;
    faults.extend(outdated(&page)?);
    Ok(faults)
}

fn outdated(page: &str) -> Result<Option<String>> {
    let written = fs::read_to_string(page_path()).with_context(|| format!("reading {PAGE}"))?;
    Ok((written != page).then(|| format!("{PAGE} is out of date: run cargo xtask conformance")))
}

fn page_path() -> PathBuf {
    paths::repository().join(PAGE)
}

/// Renders the page; it holds only if there are no faults.
fn render() -> Result<(String, Vec<String>)> {
    let text =
        fs::read_to_string(paths::repository().join(LIST)).with_context(|| format!("reading {LIST}"))?;
    let (behaviours, mut faults) = list::parse(&text);
    let sources = annotations::read_sources(paths::repository())?;
    let (shown, wrong) = compare(&behaviours, &sources);
    faults.extend(wrong);
    Ok((render_page(&shown), faults))
}

/// Finds the tests of each behaviour, and everything that does not fit.
fn compare<'a>(behaviours: &'a [Behaviour], sources: &'a [Source]) -> (Vec<Shown<'a>>, Vec<String>) {
    let mut shown: Vec<Shown<'a>> = behaviours.iter().map(|behaviour| (behaviour, Vec::new())).collect();
    let mut faults = Vec::new();
    for source in sources {
        faults.extend(source.faults.iter().map(|fault| format!("{}:{fault}", source.path)));
        for annotation in &source.annotations {
            let named =
                shown.iter_mut().filter(|(behaviour, _)| annotation.names(&behaviour.key, &source.text));
            let count = named.map(|(_, tests)| tests.push(annotation)).count();
            let Annotation { test, path, key } = annotation;
            if count == 0 {
                faults.push(format!("{path}: {test} shows \"{key}\", which {LIST} does not list"));
            } else if count > 1 && annotation.is_cut() {
                faults.push(format!("{path}: {test} shows \"{key}\", which may be any of {count}"));
            }
        }
    }
    for (Behaviour { key, reason, .. }, tests) in &shown {
        match (reason, tests.as_slice()) {
            (None, []) => faults.push(format!("{key}: neither a test shows it, nor does {LIST} say why not")),
            (Some(_), [test, ..]) => faults.push(format!(
                "{key}: {} shows it; remove from {LIST} the reason why no test does",
                test.test
            )),
            _ => {}
        }
    }
    (shown, faults)
}

const HEAD: &str = "\
# Conformance

Written by `cargo xtask conformance` from [conformance.txt](conformance.txt) and the doc comments of tests; \
[CONTRIBUTING.md](../CONTRIBUTING.md#a-behaviour-of-kube-proxy) says how.

A behaviour is named after the test of Kubernetes 1.36 that pins it for kube-proxy; the words are ours. \
T0 to T5 are the [tiers](../STYLE.md#tests) of the tests that show it here.
";

fn render_page(shown: &[Shown<'_>]) -> String {
    let mut page = HEAD.to_owned();
    let tested = shown.iter().filter(|(_, tests)| !tests.is_empty()).count();
    let waiting = shown.iter().filter(|(behaviour, _)| behaviour.is_waiting()).count();
    let rest = shown.len() - tested - waiting;
    // Writing to a String cannot fail.
    let _ = writeln!(
        page,
        "\n{} behaviours: {tested} shown by tests, {waiting} not yet, {rest} for which there will be no test.",
        shown.len()
    );
    let mut file = "";
    for (behaviour, tests) in shown {
        if behaviour.file != file {
            file = &behaviour.file;
            let _ = writeln!(
                page,
                "\n## {file}\n\n| test of Kubernetes | must be true | shown by |\n| --- | --- | --- |"
            );
        }
        let by = match &behaviour.reason {
            Some(reason) => reason.clone(),
            None => tests.iter().map(|test| test.link()).collect::<Vec<_>>().join("<br>"),
        };
        let cells = [behaviour.name(), &behaviour.must, &by].map(|cell| cell.replace('|', "\\|"));
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    const LISTED: &str = "[a] a_test.go\nTestOne\n  One.\nTestMany: first\n  First.\nTestMany: second\n  Second.\n\
                          TestNone\n  None.\n  no test: not here\n";

    fn check(code: &str, expect: &[&str]) {
        let (behaviours, faults) = list::parse(LISTED);
        assert_eq!(faults, [""; 0]);
        let sources = [Source::parse("crates/a/src/b.rs", code.to_owned())];
        let (_, faults) = compare(&behaviours, &sources);
        let starts = faults.iter().zip(expect).all(|(fault, expect)| fault.starts_with(expect));
        assert!(starts && faults.len() == expect.len(), "{faults:#?}");
    }

    #[test]
    fn a_behaviour_has_a_test_or_a_reason() {
        let both = "/// Conformance: a TestOne\n#[test]\nfn one() {}\n\
                    /// Conformance: a TestMany\n#[test]\nfn many() { [\"first\", \"second\"]; }\n";
        check(both, &[]);
        check(&both.replace("second", "third"), &["a TestMany: second: neither"]);
        check(&both.replace("a TestMany", "a TestMany: first"), &["a TestMany: second: neither"]);
        check(&both.replace("TestOne", "TestTwo"), &["crates/a/src/b.rs: one shows", "a TestOne: neither"]);
        check(
            &format!("{both}/// Conformance: a TestNo...\n#[test]\nfn no() {{}}\n"),
            &["a TestNone: no shows it"],
        );
        check(
            &both.replace("a TestMany", "a TestMany...").replace("TestOne", "TestO..."),
            &["crates/a/src/b.rs: many shows"],
        );
        check(&both.replacen("#[test]\n", "", 1), &["crates/a/src/b.rs:1", "a TestOne: neither"]);
    }

    #[test]
    fn the_page_names_tests_and_reasons() {
        let (behaviours, _) = list::parse(LISTED);
        let code = "/// Conformance: a TestOne\n#[test]\nfn one() {}\n".to_owned();
        let sources = [Source::parse("crates/reconcile/src/tests/b.rs", code)];
        let (shown, _) = compare(&behaviours, &sources);
        let page = render_page(&shown);
        for line in [
            "4 behaviours: 1 shown by tests, 0 not yet, 3 for which",
            "## a_test.go",
            "| TestOne | One. | [`one`](../crates/reconcile/src/tests/b.rs) T3 |",
            "| TestNone | None. | not here |",
        ] {
            assert!(page.contains(line), "{line} is not in\n{page}");
        }
    }
}
