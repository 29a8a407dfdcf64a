//! One file to its objects.

use std::sync::Arc;

use crate::{Problem, wire::AnyObject};

/// Parses all documents of a file; the first that is no YAML or JSON spoils the file.
pub(super) fn parse(file: &str, text: &str) -> Result<Vec<AnyObject>, Problem> {
    let mut objects = Vec::new();
    for (first_line, document) in split(text) {
        if is_blank(document) {
            continue;
        }
        let object = serde_saphyr::from_str(document).map_err(|error| broken(file, first_line, &error))?;
        flatten(object, &mut objects);
    }
    Ok(objects)
}

/// Documents with the number of lines before each. A line `---` separates them wherever it stands at the margin
/// (YAML 1.2 section 9.1), inside block scalars too.
fn split(text: &str) -> Vec<(usize, &str)> {
    let (mut documents, mut start, mut first_line, mut offset) = (Vec::new(), 0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        if is_separator(line) {
            documents.push((first_line, &text[start..offset]));
            start = offset + 3;
            first_line = number;
        }
        offset += line.len();
    }
    documents.push((first_line, &text[start..]));
    documents
}

fn is_separator(line: &str) -> bool {
    let rest = line.strip_prefix("---").or_else(|| line.strip_prefix("..."));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

fn is_blank(document: &str) -> bool {
    document
        .lines()
        .map(str::trim)
        .all(|line| line.is_empty() || line.starts_with('#') || line.starts_with('%'))
}

/// Lists count as what they hold.
fn flatten(object: AnyObject, objects: &mut Vec<AnyObject>) {
    match object.kind.str() {
        Some(kind) if kind.ends_with("List") => {
            object.items.items.into_iter().for_each(|item| flatten(item.value, objects));
        }
        _ => objects.push(object),
    }
}

fn broken(file: &str, first_line: usize, error: &serde_saphyr::Error) -> Problem {
    let line = error.location().map_or(0, |location| usize::try_from(location.line()).unwrap_or_default());
    let text = error.to_string();
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    Problem {
        file: Some(Arc::from(format!("{file}:{}", first_line + line.max(1)))),
        object: String::new(),
        field: String::new(),
        message: format!("neither YAML nor JSON: {first}; the file keeps the objects that it had"),
        remedy: "correct the line".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_split_at_the_margin_only() {
        let kinds = |text: &str| {
            let objects = parse("f", text).unwrap();
            objects.iter().map(|object| object.kind.str().unwrap_or_default().to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(kinds(""), [""; 0]);
        assert_eq!(kinds("# only\n---\n# comments\n---\n"), [""; 0]);
        assert_eq!(kinds("---\nkind: A\n---\nkind: B\n...\n---\nkind: C"), ["A", "B", "C"]);
        assert_eq!(kinds("--- # first\nkind: A\n"), ["A"]);
        assert_eq!(kinds("kind: A\nspec:\n  x: |\n    ---\n    text\n"), ["A"]);
        assert_eq!(kinds("kind: List\nitems:\n- kind: A\n- kind: B\n"), ["A", "B"]);
        assert_eq!(kinds(r#"{"kind":"ServiceList","items":[{"kind":"A"}]}"#), ["A"]);
    }

    #[test]
    fn the_line_of_an_error_is_that_of_the_file() {
        let problem = parse("web.yaml", "kind: A\n---\nkind: B\nspec: [\n---\nkind: C\n").unwrap_err();
        let file = problem.file.unwrap();
        let line: usize = file.strip_prefix("web.yaml:").unwrap().parse().unwrap();
        assert!((4..=5).contains(&line), "{file}");
    }
}
