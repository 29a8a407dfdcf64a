//! Objects from files.

use serde_json::Value;

/// Error of a text without objects.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The text is not JSON.
    #[error("not JSON")]
    Json(#[from] serde_json::Error),
    /// A document is not YAML.
    #[error("YAML document {document}: {message}")]
    Yaml {
        /// Number of the document, from 1.
        document: usize,
        /// Message of the parser.
        message: String,
    },
}

/// Reads objects from JSON (an object, an array or a List) or from YAML documents (objects or Lists).
///
/// # Errors
///
/// If the text is neither.
pub fn parse_objects(text: &str) -> Result<Vec<Value>, LoadError> {
    if text.trim_start().starts_with(['{', '[']) {
        return Ok(flatten(serde_json::from_str(text)?));
    }
    let mut objects = Vec::new();
    for (index, document) in documents(text).into_iter().enumerate() {
        let value: Value = serde_saphyr::from_str(&document)
            .map_err(|error| LoadError::Yaml { document: index + 1, message: error.to_string() })?;
        objects.extend(flatten(value));
    }
    Ok(objects)
}

/// Splits YAML into documents, and drops those without content.
fn documents(text: &str) -> Vec<String> {
    let mut documents = vec![String::new()];
    for line in text.lines() {
        if line.starts_with("---") {
            documents.push(String::new());
        } else if let Some(document) = documents.last_mut() {
            document.push_str(line);
            document.push('\n');
        }
    }
    let content = |line: &str| !line.trim().is_empty() && !line.trim_start().starts_with('#');
    documents.retain(|document| document.lines().any(content));
    documents
}

fn flatten(value: Value) -> Vec<Value> {
    match value {
        Value::Array(values) => values,
        Value::Object(mut list) if list.contains_key("items") => match list.remove("items") {
            Some(Value::Array(values)) => values,
            _ => Vec::new(),
        },
        Value::Null => Vec::new(),
        value => vec![value],
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn texts() {
        let (a, b) = (json!({"kind": "A"}), json!({"kind": "B"}));
        let check = |text: &str, expect: &[&Value]| {
            assert_eq!(parse_objects(text).unwrap().iter().collect::<Vec<_>>(), expect, "{text}");
        };
        check(r#"{"kind": "A"}"#, &[&a]);
        check(r#"[{"kind": "A"}, {"kind": "B"}]"#, &[&a, &b]);
        check(r#"{"kind": "List", "items": [{"kind": "A"}, {"kind": "B"}]}"#, &[&a, &b]);
        check("# first\n---\nkind: A\n---\n# nothing\n---\nkind: B\n", &[&a, &b]);
        check("kind: List\nitems:\n- kind: A\n- kind: B\n", &[&a, &b]);
        check("", &[]);
        assert!(matches!(parse_objects("kind: A\n---\n}{"), Err(LoadError::Yaml { document: 2, .. })));
        assert!(matches!(parse_objects("{"), Err(LoadError::Json(_))));
    }
}
