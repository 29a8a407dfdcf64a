//! Documents of a file, and the objects in each.

use serde_saphyr::Options;

use crate::wire::{AnyObject, Object};

/// Part of a file that can be parsed, or be broken, independently of the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Document<'a> {
    /// One YAML document, and the number of lines before it.
    Yaml(usize, &'a str),
    /// A whole file of JSON values, one after the other.
    Json(&'a str),
}

/// Text that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Broken {
    /// Line in the file, from 1.
    pub(super) line: usize,
    /// Message of the parser.
    pub(super) message: String,
}

/// Splits a file into documents; its name tells whether it is YAML or JSON.
pub(super) fn split<'a>(file: &str, text: &'a str) -> Vec<Document<'a>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    if file.ends_with(".json") {
        return vec![Document::Json(text)];
    }
    let documents = split_yaml(text).into_iter().filter(|(_, document)| !is_blank(document));
    documents.map(|(lines_before, document)| Document::Yaml(lines_before, document)).collect()
}

/// Splits YAML at each line `---` or `...`. At the margin it separates documents even inside scalars (YAML
/// 1.2 section 9.1.2, `c-forbidden`).
fn split_yaml(text: &str) -> Vec<(usize, &str)> {
    let (mut documents, mut start, mut lines_before, mut offset) = (Vec::new(), 0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if is_separator(line) {
            documents.push((lines_before, &text[start..offset]));
            start = offset + "---".len();
            lines_before = number;
        }
        offset += line.len();
    }
    documents.push((lines_before, &text[start..]));
    documents
}

fn is_separator(line: &str) -> bool {
    let rest = line.strip_prefix("---").or_else(|| line.strip_prefix("..."));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn is_blank(document: &str) -> bool {
    let mut lines = document.lines().map(str::trim);
    lines.all(|line| line.is_empty() || line.starts_with('#') || line.starts_with('%'))
}

impl Document<'_> {
    /// Objects of the document, and the fault in its text. JSON keeps the values before the broken one.
    pub(super) fn parse(self) -> (Vec<Object<AnyObject>>, Option<Broken>) {
        match self {
            Document::Yaml(lines_before, text) => {
                match serde_saphyr::from_str_with_options(text, yaml_options()) {
                    Ok(object) => (vec![object], None),
                    Err(error) => (Vec::new(), Some(broken_yaml(lines_before, &error))),
                }
            }
            Document::Json(text) => parse_json(text),
        }
    }

    /// Number of its first line in the file, from 1, after blank lines and comments.
    pub(super) fn first_line(&self) -> usize {
        match self {
            Document::Yaml(lines_before, text) => {
                let blank = text.lines().take_while(|line| is_blank(line)).count();
                lines_before + blank + 1
            }
            Document::Json(_) => 1,
        }
    }

    /// Name of its language, for messages.
    pub(super) const fn language(&self) -> &'static str {
        match self {
            Document::Yaml(..) => "YAML",
            Document::Json(_) => "JSON",
        }
    }

    /// Length of its text in bytes.
    pub(super) fn len(&self) -> usize {
        match self {
            Document::Yaml(_, text) | Document::Json(text) => text.len(),
        }
    }
}

/// Options without limits of size, since a List of all objects of a cluster is one large document. The limits
/// on aliases stay.
fn yaml_options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_events: usize::MAX,
            max_nodes: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
        },
        emit_comments: false,
        with_snippet: false,
    }
}

fn broken_yaml(lines_before: usize, error: &serde_saphyr::Error) -> Broken {
    let line = error.location().map_or(1, |location| usize::try_from(location.line()).unwrap_or(1));
    let text = error.to_string();
    let message = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    Broken { line: lines_before + line.max(1), message: without_place(message).to_owned() }
}

fn parse_json(text: &str) -> (Vec<Object<AnyObject>>, Option<Broken>) {
    let mut objects = Vec::new();
    for object in serde_json::Deserializer::from_str(text).into_iter() {
        match object {
            Ok(object) => objects.push(object),
            Err(error) => {
                let message = without_place(&error.to_string()).to_owned();
                return (objects, Some(Broken { line: error.line().max(1), message }));
            }
        }
    }
    (objects, None)
}

/// Removes the place that parsers add to a message: it counts from the start of the document, and the problem
/// has the line of the file.
fn without_place(message: &str) -> &str {
    let end = message.rfind(" at line ").or_else(|| message.rfind(" at position "));
    let message = end.map_or(message, |end| &message[..end]);
    let prefixed = message.strip_prefix("error: line ").and_then(|rest| rest.split_once(": "));
    prefixed.map_or(message, |(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(file: &str, text: &str) -> (Vec<String>, Vec<usize>) {
        let (mut kinds, mut broken_lines) = (Vec::new(), Vec::new());
        for document in split(file, text) {
            let (objects, broken) = document.parse();
            kinds.extend(objects.iter().map(|object| object.value.kind.str().unwrap_or("?").to_owned()));
            broken_lines.extend(broken.map(|broken| broken.line));
        }
        (kinds, broken_lines)
    }

    fn check(file: &str, text: &str, expect: &[&str], broken: &[usize]) {
        let (kinds, lines) = kinds(file, text);
        assert_eq!(
            (kinds.as_slice(), lines.as_slice()),
            (&expect.iter().map(|k| (*k).to_owned()).collect::<Vec<_>>()[..], broken),
            "{text:?}"
        );
    }

    #[test]
    fn documents_are_split_at_the_margin_only() {
        check("f.yaml", "", &[], &[]);
        check("f.yaml", "# only\n---\n# comments\n---\n", &[], &[]);
        check("f.yaml", "---\nkind: A\n---\nkind: B\n...\n---\nkind: C", &["A", "B", "C"], &[]);
        check("f.yaml", "--- # first\nkind: A\n", &["A"], &[]);
        check("f.yaml", "--- {kind: A}\n--- {kind: B}\n", &["A", "B"], &[]);
        check("f.yaml", "---\r\nkind: A\r\n---\r\nkind: B\r\n", &["A", "B"], &[]);
        check("f.yaml", "---\tkind\nkind: A\n".replace("\tkind", "\t# x").as_str(), &["A"], &[]);
        check("f.yaml", "%YAML 1.2\n---\nkind: A\n", &["A"], &[]);
        check("f.yaml", "\u{feff}kind: A\n", &["A"], &[]);
        check("f.yaml", "kind: A\nspec:\n  x: |\n    ---\n    text\n", &["A"], &[]);
        check("f.yaml", "kind: A\n----\n", &[], &[2]);
        check("f.yaml", "a: ---x\nkind: A\n", &["A"], &[]);
        check("f.yaml", r#"{"kind": "A"}"#, &["A"], &[]);
        check("f.yaml", "null\n---\n~\n", &["?", "?"], &[]);
    }

    #[test]
    fn a_broken_document_breaks_no_other() {
        check("f.yaml", "kind: A\n---\nkind: B\nspec: [\n---\nkind: C\n", &["A", "C"], &[4]);
        check("f.yaml", "kind: A\nkind: A\n---\nkind: C\n", &["C"], &[2]);
        check("f.yaml", "kind: A\n---\nkind: B: C\n---\nkind: C\n", &["A", "C"], &[3]);
        check("f.yaml", "a: *unknown\n---\nkind: C\n", &["C"], &[1]);
    }

    #[test]
    fn json_values_follow_one_another() {
        check("f.json", r#"{"kind":"A"}"#, &["A"], &[]);
        check("f.json", "{\"kind\":\"A\"}\n{\"kind\":\"B\"}{\"kind\":\"C\"}\n", &["A", "B", "C"], &[]);
        check("f.json", "{\"kind\":\"A\"}\n{\"kind\":\n", &["A"], &[3]);
        check("f.json", "", &[], &[]);
        check("f.json", "kind: A\n", &[], &[1]);
    }

    #[test]
    fn the_message_names_no_second_place() {
        for (file, text) in
            [("f.yaml", "a: b\n---\nkind: [\n"), ("f.json", "{\"kind\": }"), ("f.yaml", "a: 1\na: 2\n")]
        {
            let broken: Vec<_> =
                split(file, text).into_iter().filter_map(|document| document.parse().1).collect();
            assert_eq!(broken.len(), 1, "{text:?}");
            assert!(!broken[0].message.contains("line "), "{:?}", broken[0].message);
            assert!(!broken[0].message.is_empty());
        }
    }
}
