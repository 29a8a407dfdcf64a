//! Doc comments of tests that name the behaviours that they show.
//!
//! ```text
//! /// Conformance: topology TestCategorizeEndpoints
//! #[test]
//! fn categorize_endpoints() {
//! ```
//!
//! A line names one behaviour; `...` stands for whatever may be left out. One that names a test of Kubernetes without a case
//! stands for all of its cases that are in quotes in the same file, as the rows of a table are.

use std::{fs, path::Path};

use anyhow::{Context, Result};

/// Folders with tests of the product.
const FOLDERS: &[&str] = &["cmd", "crates", "e2e"];

/// Begin of a line that names a behaviour.
const MARK: &str = "/// Conformance: ";

/// A test and one behaviour that it shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Annotation {
    /// Name of the test.
    pub test: String,
    /// Its file, from the root of the repository.
    pub path: String,
    /// Name of the behaviour, as written.
    pub key: String,
}

impl Annotation {
    /// Tells whether it names a behaviour, in a file with this text.
    pub fn names(&self, key: &str, text: &str) -> bool {
        if let Some((start, end)) = self.key.split_once("...") {
            return key.len() > start.len() + end.len() && key.starts_with(start) && key.ends_with(end);
        }
        let case = key.strip_prefix(self.key.as_str()).and_then(|rest| rest.strip_prefix(": "));
        key == self.key || case.is_some_and(|case| text.contains(&format!("\"{case}\"")))
    }

    /// Tells whether it must name one behaviour alone.
    pub fn is_cut(&self) -> bool {
        self.key.contains("...")
    }

    /// The test as a link from the page, with its tier.
    pub fn link(&self) -> String {
        format!("[`{}`](../{}) {}", self.test, self.path, tier(&self.path))
    }
}

/// Tier of the tests of a file, by the table in STYLE.md.
fn tier(path: &str) -> &'static str {
    match path {
        _ if path.starts_with("e2e/tests/") => "T5",
        _ if path.contains("/guest_") || path.contains("/contract") => "T4",
        _ if path.starts_with("crates/reconcile/") => "T3",
        _ if path.ends_with("/golden.rs") => "T1",
        _ => "T0",
    }
}

/// A file with annotations.
#[derive(Debug)]
pub struct Source {
    /// Its path, from the root of the repository.
    pub path: String,
    /// Its text.
    pub text: String,
    /// Behaviours that its tests show.
    pub annotations: Vec<Annotation>,
    /// Faults of those: a line number and words.
    pub faults: Vec<String>,
}

impl Source {
    /// Reads the annotations of a file.
    pub fn parse(path: &str, text: String) -> Self {
        let (mut annotations, mut faults) = (Vec::new(), Vec::new());
        let (mut keys, mut is_test): (Vec<(usize, &str)>, bool) = (Vec::new(), false);
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if let Some(key) = line.strip_prefix(MARK) {
                keys.push((index + 1, key.trim_end()));
                continue;
            }
            is_test |= line.starts_with("#[") && line.ends_with("test]");
            if line.starts_with("//") || line.starts_with("#[") {
                continue;
            }
            let name = line.strip_prefix("fn ").and_then(|rest| rest.split('(').next()).filter(|_| is_test);
            for (number, key) in keys.drain(..) {
                match name {
                    Some(name) => annotations.push(Annotation {
                        test: name.to_owned(),
                        path: path.to_owned(),
                        key: key.to_owned(),
                    }),
                    None => faults.push(format!("{number}: \"{key}\" is not named by a test")),
                }
            }
            is_test = false;
        }
        Source { path: path.to_owned(), annotations, faults, text }
    }
}

/// Reads all files that annotate tests, in the order of their names.
pub fn read_sources(repository: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for folder in FOLDERS {
        read_folder(repository, &repository.join(folder), &mut sources)?;
    }
    sources.sort_unstable_by(|a, b| a.path.cmp(&b.path));
    Ok(sources)
}

fn read_folder(repository: &Path, folder: &Path, sources: &mut Vec<Source>) -> Result<()> {
    for entry in fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            read_folder(repository, &path, sources)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
            if text.contains(MARK) {
                let shown = path.strip_prefix(repository).unwrap_or(&path).to_string_lossy().into_owned();
                sources.push(Source::parse(&shown, text));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_belong_to_the_test_below() {
        let text = "/// Words.\n/// Conformance: a One\n/// Conformance: a Two\n#[test]\n#[should_panic]\nfn both() {}\n\
                    /// Conformance: a Three\nfn helper() {}\n    /// Conformance: b Four\n    #[tokio::test]\n    fn four() {\n";
        let source = Source::parse("e2e/tests/a.rs", text.to_owned());
        let found: Vec<_> = source.annotations.iter().map(|found| (&*found.test, &*found.key)).collect();
        assert_eq!(found, [("both", "a One"), ("both", "a Two"), ("four", "b Four")]);
        assert_eq!(source.faults, ["7: \"a Three\" is not named by a test"]);
    }

    #[test]
    fn an_annotation_names_a_behaviour_its_begin_or_the_cases_in_the_file() {
        let names = |annotation: &str, key: &str| {
            let (test, path) = ("t".to_owned(), "p".to_owned());
            let annotation = Annotation { test, path, key: annotation.to_owned() };
            annotation.names(key, "[\"first\", \"in between\"]")
        };
        for (annotation, key, expect) in [
            ("a Test", "a Test", true),
            ("a Test", "a Test: first", true),
            ("a Test", "a Test: between", false),
            ("a Test: second", "a Test: second", true),
            ("a Test", "a TestOther", false),
            ("a should be...", "a should be possible", true),
            ("a should...possible", "a should be possible", true),
            ("a should...possible", "a should be", false),
            ("a should be", "a should be possible", false),
        ] {
            assert_eq!(names(annotation, key), expect, "{annotation} {key}");
        }
    }

    #[test]
    fn tiers_follow_from_paths() {
        for (path, expect) in [
            ("e2e/tests/traffic/udp.rs", "T5"),
            ("crates/packet-rules/tests/guest_traffic/invalid.rs", "T4"),
            ("crates/reconcile/src/tests/node.rs", "T3"),
            ("crates/packet-rules/tests/golden.rs", "T1"),
            ("crates/planner/src/tests.rs", "T0"),
        ] {
            assert_eq!(tier(path), expect, "{path}");
        }
    }
}
