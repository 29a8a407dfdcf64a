//! Parser of the list of behaviours (pure).
//!
//! ```text
//! [topology] pkg/proxy/topology_test.go
//!
//! TestOfKubernetes: its case
//!     What must be true.
//!     no test: why not
//! ```

/// A behaviour that a test of Kubernetes pins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Behaviour {
    /// Name by which tests refer to it: short name of the file, a space, name of the test and its case.
    pub key: String,
    /// File of the test in the sources of Kubernetes.
    pub file: String,
    /// Demand on the product, in our words.
    pub must: String,
    /// Reason why no test shows it.
    pub reason: Option<String>,
}

impl Behaviour {
    /// Name of the test, without that of its file.
    pub fn name(&self) -> &str {
        self.key.split_once(' ').map_or("", |(_, name)| name)
    }

    /// Tells whether there will be a test.
    pub fn is_waiting(&self) -> bool {
        self.reason.as_deref().is_some_and(|reason| reason.starts_with("not yet"))
    }
}

/// Begin of a line that says why no test shows a behaviour.
const REASON: &str = "no test: ";

/// Reads the list, and says which of its lines are wrong.
pub fn parse(text: &str) -> (Vec<Behaviour>, Vec<String>) {
    let mut behaviours: Vec<Behaviour> = Vec::new();
    let mut faults = Vec::new();
    let mut section = None;
    for (index, line) in
        text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
    {
        let mut fault = |what: &str| faults.push(format!("line {} of the list {what}", index + 1));
        if let Some((short, file)) = line.strip_prefix('[').and_then(|rest| rest.split_once("] ")) {
            section = Some((short, file));
        } else if !line.starts_with(' ') {
            let Some((short, file)) = section else {
                fault("stands before any file");
                continue;
            };
            let key = format!("{short} {line}");
            if behaviours.iter().any(|known| known.key == key) {
                fault("is there twice");
            }
            let file = file.to_owned();
            behaviours.push(Behaviour { key, file, must: String::new(), reason: None });
        } else if let Some(behaviour) = behaviours.last_mut() {
            let words = line.trim();
            match (words.strip_prefix(REASON), &mut behaviour.reason) {
                (Some(words), reason @ None) => *reason = Some(words.to_owned()),
                (_, Some(reason)) => append(reason, words),
                (None, None) => append(&mut behaviour.must, words),
            }
        }
    }
    let silent = behaviours.iter().filter(|behaviour| behaviour.must.is_empty());
    faults.extend(silent.map(|behaviour| format!("{}: nothing says what must be true", behaviour.key)));
    (behaviours, faults)
}

fn append(text: &mut String, words: &str) {
    if !text.is_empty() {
        text.push(' ');
    }
    text.push_str(words);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaviours_have_words_and_perhaps_a_reason() {
        let text = "# a comment\n[a] pkg/a_test.go\n\nTestA: b, \"c\" [d]\n  It is\n  so.\n  no test: not\n  yet\nTestB\n  B.\n";
        let behaviour = |name: &str, must: &str, reason: Option<&str>| Behaviour {
            key: format!("a {name}"),
            file: "pkg/a_test.go".to_owned(),
            must: must.to_owned(),
            reason: reason.map(str::to_owned),
        };
        let expect =
            [behaviour("TestA: b, \"c\" [d]", "It is so.", Some("not yet")), behaviour("TestB", "B.", None)];
        assert_eq!(parse(text), (expect.to_vec(), vec![]));
        assert!(expect[0].is_waiting() && !expect[1].is_waiting());
        assert_eq!(expect[0].name(), "TestA: b, \"c\" [d]");
    }

    #[test]
    fn wrong_lines_are_named() {
        let text = "TestA\n[a] b\nTestB\n  B.\nTestB\n  B.\nTestC\n";
        let faults = [
            "line 1 of the list stands before any file",
            "line 5 of the list is there twice",
            "a TestC: nothing says what must be true",
        ];
        assert_eq!(parse(text).1, faults);
    }
}
