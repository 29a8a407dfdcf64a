//! Label and field selectors.

use crate::object::Object;

/// Filter for the objects of a list or watch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    pub(crate) namespace: Option<String>,
    labels: Vec<LabelRequirement>,
    fields: Vec<FieldRequirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct LabelRequirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    /// Also true for objects without the label, as `!=` is.
    NotIn(Vec<String>),
    Exists,
    DoesNotExist,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct FieldRequirement {
    field: Field,
    value: String,
    equal: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Namespace,
}

impl Filter {
    pub(crate) fn parse(namespace: Option<&str>, labels: &str, fields: &str) -> Result<Self, String> {
        Ok(Self {
            namespace: namespace.map(str::to_owned),
            labels: split(labels).into_iter().map(parse_label).collect::<Result<_, _>>()?,
            fields: split(fields).into_iter().map(parse_field).collect::<Result<_, _>>()?,
        })
    }

    /// Tells whether the filter excludes objects by their content.
    pub(crate) fn selects(&self) -> bool {
        !self.labels.is_empty() || !self.fields.is_empty()
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == object.key.namespace)
            && self.labels.iter().all(|requirement| requirement.holds(object.label(&requirement.key)))
            && self.fields.iter().all(|requirement| requirement.holds(object))
    }
}

impl LabelRequirement {
    fn holds(&self, value: Option<&str>) -> bool {
        let within = |values: &[String]| value.is_some_and(|value| values.iter().any(|v| v == value));
        match &self.test {
            Test::In(values) => within(values),
            Test::NotIn(values) => !within(values),
            Test::Exists => value.is_some(),
            Test::DoesNotExist => value.is_none(),
        }
    }
}

impl FieldRequirement {
    fn holds(&self, object: &Object) -> bool {
        let value = match self.field {
            Field::Name => &object.key.name,
            Field::Namespace => &object.key.namespace,
        };
        (*value == self.value) == self.equal
    }
}

/// Splits at commas outside of parentheses.
fn split(selector: &str) -> Vec<&str> {
    let mut depth = 0_u32;
    selector
        .split(|c| {
            match c {
                '(' => depth += 1,
                ')' => depth = depth.saturating_sub(1),
                _ => {}
            }
            c == ',' && depth == 0
        })
        .map(str::trim)
        .filter(|part| !part.is_empty())
        .collect()
}

fn parse_label(part: &str) -> Result<LabelRequirement, String> {
    if let Some((key, value)) = part.split_once("!=") {
        return label(key, Test::NotIn(vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return label(key, Test::In(vec![value.trim().to_owned()]));
    }
    if let Some(key) = part.strip_prefix('!') {
        return label(key, Test::DoesNotExist);
    }
    let Some((key, rest)) = part.split_once(char::is_whitespace) else {
        return label(part, Test::Exists);
    };
    let rest = rest.trim();
    if let Some(values) = rest.strip_prefix("notin") {
        label(key, Test::NotIn(parse_values(values)?))
    } else if let Some(values) = rest.strip_prefix("in") {
        label(key, Test::In(parse_values(values)?))
    } else {
        Err(format!("unable to parse requirement: found '{rest}', expected: in, notin, =, ==, !="))
    }
}

fn label(key: &str, test: Test) -> Result<LabelRequirement, String> {
    let key = key.trim();
    if key.is_empty() || key.contains(|c: char| c.is_whitespace() || "()!=,".contains(c)) {
        return Err(format!("unable to parse requirement: '{key}' is not a label key"));
    }
    Ok(LabelRequirement { key: key.to_owned(), test })
}

fn parse_values(values: &str) -> Result<Vec<String>, String> {
    let inner = values.trim().strip_prefix('(').and_then(|values| values.strip_suffix(')'));
    let inner =
        inner.ok_or_else(|| format!("unable to parse requirement: found '{values}', expected: '('"))?;
    Ok(inner.split(',').map(|value| value.trim().to_owned()).collect())
}

fn parse_field(part: &str) -> Result<FieldRequirement, String> {
    let (field, value, equal) = if let Some((field, value)) = part.split_once("!=") {
        (field, value, false)
    } else if let Some((field, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (field, value, true)
    } else {
        return Err(format!("invalid selector: '{part}'; can't understand '{part}'"));
    };
    let field = match field.trim() {
        "metadata.name" => Field::Name,
        "metadata.namespace" => Field::Namespace,
        other => return Err(format!("field label not supported: {other}")),
    };
    Ok(FieldRequirement { field, value: value.trim().to_owned(), equal })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::object::Key;

    fn object() -> Object {
        let value = json!({"metadata": {"labels": {"app": "web", "tier": "front"}}});
        Object::encode(Arc::new(Key::new("shop", "cart")), value, 1)
    }

    fn check(labels: &str, fields: &str, expect: bool) {
        let filter = Filter::parse(None, labels, fields).unwrap();
        assert_eq!(filter.matches(&object()), expect, "labels {labels:?} fields {fields:?}");
    }

    #[test]
    fn labels() {
        check("", "", true);
        check("app", "", true);
        check("!app", "", false);
        check("!other", "", true);
        check("app=web", "", true);
        check("app==web", "", true);
        check("app = web", "", true);
        check("app!=web", "", false);
        check("other!=web", "", true);
        check("app in (api, web)", "", true);
        check("app in (api)", "", false);
        check("other in (api)", "", false);
        check("app notin (api,web)", "", false);
        check("other notin (api,web)", "", true);
        check("app in (api,web),tier=front,!other", "", true);
        check("app in (api,web),tier=back", "", false);
    }

    #[test]
    fn fields() {
        check("", "metadata.name=cart", true);
        check("", "metadata.name==cart", true);
        check("", "metadata.name!=cart", false);
        check("", "metadata.namespace=shop,metadata.name=cart", true);
        check("", "metadata.namespace=other,metadata.name=cart", false);
    }

    #[test]
    fn nonsense_is_refused() {
        for labels in ["app of (x)", "app in x", "=x", "a b=c", "!"] {
            assert!(Filter::parse(None, labels, "").is_err(), "{labels:?}");
        }
        for fields in ["metadata.name", "spec.nodeName=x"] {
            assert!(Filter::parse(None, "", fields).is_err(), "{fields:?}");
        }
    }
}
