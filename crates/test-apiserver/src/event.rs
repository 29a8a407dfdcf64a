//! Events (events.k8s.io/v1) that the real server would refuse (`ValidateEventCreate` and `ValidateEventUpdate` in
//! pkg/apis/core/validation/events.go).

use serde_json::Value;

use crate::{object::text, status::ApiError};

/// Longest `reason`, `action` and `reportingInstance`.
const LONGEST_WORD: usize = 128;
const LONGEST_NOTE: usize = 1024;
/// Fields that are only for events of the older API.
const DEPRECATED: [&str; 4] =
    ["deprecatedCount", "deprecatedFirstTimestamp", "deprecatedLastTimestamp", "deprecatedSource"];
/// Fields that no update may change.
const IMMUTABLE: [&str; 9] = [
    "action",
    "eventTime",
    "note",
    "reason",
    "regarding",
    "related",
    "reportingController",
    "reportingInstance",
    "type",
];

/// Refuses an event that the real server would not create.
pub(crate) fn validate_new(event: &Value) -> Result<(), ApiError> {
    let field = |field: &str| event.pointer(field).and_then(Value::as_str).unwrap_or_default();
    for required in ["/eventTime", "/reportingController", "/reportingInstance", "/action", "/reason"] {
        require(!field(required).is_empty(), required, "Required value")?;
    }
    for word in ["/reportingInstance", "/action", "/reason"] {
        require(field(word).len() <= LONGEST_WORD, word, "can have at most 128 characters")?;
    }
    require(field("/note").len() <= LONGEST_NOTE, "/note", "can have at most 1024 characters")?;
    require(["Normal", "Warning"].contains(&field("/type")), "/type", "has invalid value")?;
    for deprecated in DEPRECATED {
        require(event.get(deprecated).is_none_or(Value::is_null), deprecated, "needs to be unset")?;
    }
    require(is_subdomain(text(event, "name").unwrap_or_default()), "/metadata/name", "a subdomain")?;
    let namespace = text(event, "namespace").unwrap_or_default();
    let of_cluster = ["default", "kube-system"].contains(&namespace);
    let matches = !field("/regarding/namespace").is_empty() || of_cluster;
    require(matches, "/regarding/namespace", "does not match event.namespace")?;
    validate_series(event)
}

/// Refuses a change that the real server would not make.
pub(crate) fn validate_change(before: &Value, after: &Value) -> Result<(), ApiError> {
    for field in IMMUTABLE {
        require(before.get(field) == after.get(field), field, "field is immutable")?;
    }
    if before.get("series") == after.get("series") { Ok(()) } else { validate_series(after) }
}

fn validate_series(event: &Value) -> Result<(), ApiError> {
    let Some(series) = event.get("series").filter(|series| !series.is_null()) else { return Ok(()) };
    let count = series.get("count").and_then(Value::as_i64).unwrap_or_default();
    require(count >= 2, "/series/count", "should be at least 2")?;
    require(series.get("lastObservedTime").is_some(), "/series/lastObservedTime", "Required value")
}

fn require(holds: bool, field: &str, message: &str) -> Result<(), ApiError> {
    let field = field.trim_start_matches('/').replace('/', ".");
    if holds { Ok(()) } else { Err(ApiError::invalid("Event.events.k8s.io", &format!("{field}: {message}"))) }
}

/// Tells whether a name is a subdomain as of RFC 1123.
fn is_subdomain(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_label = |label: &str| {
        let bytes = label.as_bytes();
        let ends = [bytes.first(), bytes.last()];
        ends.iter().all(|end| end.is_some_and(|byte| is_plain(*byte)))
            && bytes.iter().all(|byte| is_plain(*byte) || *byte == b'-')
    };
    name.len() <= 253 && name.split('.').all(is_label)
}
