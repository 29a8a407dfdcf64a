//! Query parameters of lists and watches.

use std::collections::BTreeMap;

use crate::{policy::StreamingLists, selector::Filter, status::ApiError};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(BTreeMap<String, String>);

impl Query {
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(key), decode(value))
                })
                .collect(),
        )
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        match self.text(name) {
            "" => None,
            "0" | "false" => Some(false),
            _ => Some(true),
        }
    }

    pub(crate) fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let text = self.text(name);
        if text.is_empty() {
            return Ok(None);
        }
        let invalid =
            |_| ApiError::bad_request(format!("{name}: Invalid value: \"{text}\": must be a number"));
        text.parse().map(Some).map_err(invalid)
    }

    pub(crate) fn filter(&self, namespace: Option<&str>) -> Result<Filter, ApiError> {
        Filter::parse(namespace, self.text("labelSelector"), self.text("fieldSelector"))
            .map_err(ApiError::bad_request)
    }
}

/// Decodes percent-encoding, and plus as a space.
fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        let escaped = (byte == b'%').then(|| text.get(index + 1..index + 3)).flatten();
        match escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(value) => {
                decoded.push(value);
                index += 3;
            }
            None => {
                decoded.push(if byte == b'+' { b' ' } else { byte });
                index += 1;
            }
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

/// Start of a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// An ADDED for every object; with `end`, a bookmark follows that says that these were all.
    Everything { not_older: u64, end: bool },
    /// The events after a version.
    After(u64),
    /// The next event.
    Now,
}

/// Start that the options of a watch demand from this server (`validateWatchOptions` in
/// pkg/apis/meta/internalversion/validation/validation.go in apimachinery).
pub(crate) fn watch_start(query: &Query, lists: StreamingLists) -> Result<Start, ApiError> {
    let version = query.number("resourceVersion")?.unwrap_or(0);
    let matching = query.text("resourceVersionMatch");
    let initial = query.flag("sendInitialEvents");
    let ordinary =
        if version == 0 { Start::Everything { not_older: 0, end: false } } else { Start::After(version) };
    if lists == StreamingLists::Ignored {
        return Ok(ordinary);
    }
    if lists == StreamingLists::RefusedByMatch {
        let message = "resourceVersionMatch is forbidden for watch";
        let refused = !matching.is_empty();
        return if refused { Err(forbidden("resourceVersionMatch", message)) } else { Ok(ordinary) };
    }
    let Some(initial) = initial else {
        let message = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
        return if matching.is_empty() {
            Ok(ordinary)
        } else {
            Err(forbidden("resourceVersionMatch", message))
        };
    };
    if matching != "NotOlderThan" {
        let message = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        return Err(forbidden("resourceVersionMatch", message));
    }
    if lists == StreamingLists::Refused {
        let message = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        return Err(forbidden("sendInitialEvents", message));
    }
    Ok(match (initial, version) {
        (true, _) => Start::Everything { not_older: version, end: true },
        (false, 0) => Start::Now,
        (false, version) => Start::After(version),
    })
}

fn forbidden(field: &str, message: &str) -> ApiError {
    ApiError::forbidden_option(field, message)
}

/// Version of the objects in a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// The newest state.
    Newest,
    /// Any state; the server takes it from its cache, which knows no pages.
    Any,
    NotOlderThan(u64),
    /// Exactly the requested version.
    Exact(u64),
}

/// Version that the options of a list demand (same file, `ValidateListOptions`).
pub(crate) fn list_version(query: &Query) -> Result<Version, ApiError> {
    let version = query.number("resourceVersion")?;
    let matching = query.text("resourceVersionMatch");
    if query.flag("sendInitialEvents").is_some() {
        return Err(forbidden("sendInitialEvents", "sendInitialEvents is forbidden for list"));
    }
    if !matching.is_empty() && version.is_none() {
        let message = "resourceVersionMatch is forbidden unless resourceVersion is provided";
        return Err(forbidden("resourceVersionMatch", message));
    }
    match (matching, version) {
        ("" | "NotOlderThan", Some(0)) => Ok(Version::Any),
        ("" | "NotOlderThan", Some(version)) => Ok(Version::NotOlderThan(version)),
        ("Exact", Some(0)) => {
            let message = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            Err(forbidden("resourceVersionMatch", message))
        }
        ("Exact", Some(version)) => Ok(Version::Exact(version)),
        ("", None) => Ok(Version::Newest),
        (other, _) => Err(ApiError::invalid_options(&format!(
            "resourceVersionMatch: Unsupported value: \"{other}\": supported values: \"Exact\", \"NotOlderThan\""
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &str, lists: StreamingLists, expect: Result<Start, &str>) {
        let start = watch_start(&Query::parse(query), lists).map_err(|error| error.body().to_string());
        match (start, expect) {
            (Ok(start), Ok(expect)) => assert_eq!(start, expect, "{query}"),
            (Err(body), Err(expect)) => {
                assert!(body.contains(expect) && body.contains("422"), "{query}: {body}")
            }
            (start, expect) => panic!("{query}: {start:?} instead of {expect:?}"),
        }
    }

    #[test]
    fn starts_of_watches() {
        use StreamingLists::{Ignored, Refused, RefusedByMatch, Supported};
        let streaming = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&resourceVersion=0";
        let everything = Start::Everything { not_older: 0, end: false };
        check("watch=true", Supported, Ok(everything));
        check("resourceVersion=0", Supported, Ok(everything));
        check("resourceVersion=7", Supported, Ok(Start::After(7)));
        check(streaming, Supported, Ok(Start::Everything { not_older: 0, end: true }));
        check(streaming, Refused, Err("unless the WatchList feature gate is enabled"));
        check(streaming, RefusedByMatch, Err("resourceVersionMatch is forbidden for watch\""));
        check(streaming, Ignored, Ok(everything));
        check("sendInitialEvents=true", Supported, Err("requires setting resourceVersionMatch"));
        check("resourceVersionMatch=NotOlderThan", Supported, Err("unless sendInitialEvents is provided"));
        let without = "sendInitialEvents=false&resourceVersionMatch=NotOlderThan";
        check(without, Supported, Ok(Start::Now));
    }

    #[test]
    fn versions_of_lists() {
        let version = |query: &str| list_version(&Query::parse(query)).ok();
        assert_eq!(version(""), Some(Version::Newest));
        assert_eq!(version("resourceVersion=0"), Some(Version::Any));
        assert_eq!(version("resourceVersion=9"), Some(Version::NotOlderThan(9)));
        assert_eq!(version("resourceVersion=9&resourceVersionMatch=Exact"), Some(Version::Exact(9)));
        assert_eq!(version("resourceVersion=0&resourceVersionMatch=Exact"), None);
        assert_eq!(version("resourceVersionMatch=Exact"), None);
        assert_eq!(version("sendInitialEvents=true"), None);
        assert_eq!(version("resourceVersion=x"), None);
    }

    #[test]
    fn decoding() {
        let query = Query::parse("labelSelector=%21a%2Fb%3Dc+in&x=%zz&y");
        assert_eq!(query.text("labelSelector"), "!a/b=c in");
        assert_eq!((query.text("x"), query.text("y")), ("%zz", ""));
    }
}
