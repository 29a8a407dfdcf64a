//! Media types of answers.

use http::{HeaderMap, HeaderValue, header::ACCEPT};

use crate::{policy::Protobuf, status::ApiError};

/// Media type of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    Json,
    Protobuf,
}

impl Media {
    /// Media type that a client prefers and that the server has (`NegotiateMediaTypeOptions` in
    /// staging/src/k8s.io/apiserver/pkg/endpoints/handlers/negotiation/negotiate.go).
    pub(crate) fn negotiate(headers: &HeaderMap, how: Protobuf) -> Result<Self, ApiError> {
        let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut clauses: Vec<_> = accept.split(',').filter_map(clause).collect();
        if clauses.is_empty() {
            return Ok(Self::Json);
        }
        // The sort keeps the order of those with the same quality.
        clauses.sort_by(|a, b| b.1.total_cmp(&a.1));
        if how == Protobuf::Refused && clauses.iter().any(|(name, _)| is_protobuf(name)) {
            return Err(ApiError::not_acceptable());
        }
        let found = clauses.iter().find_map(|(name, _)| match *name {
            "*/*" | "application/*" | "application/json" => Some(Self::Json),
            name if is_protobuf(name) && how != Protobuf::Missing => Some(Self::Protobuf),
            _ => None,
        });
        found.ok_or_else(ApiError::not_acceptable)
    }

    /// Value of the header `Content-Type`; that of a watch says so, unless it is JSON.
    pub(crate) const fn content_type(self, watch: bool) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Json => "application/json",
            Self::Protobuf if watch => "application/vnd.kubernetes.protobuf;stream=watch",
            Self::Protobuf => "application/vnd.kubernetes.protobuf",
        })
    }
}

fn is_protobuf(name: &str) -> bool {
    name == "application/vnd.kubernetes.protobuf"
}

/// Name and quality in a part of the header.
fn clause(part: &str) -> Option<(&str, f32)> {
    let mut parameters = part.split(';').map(str::trim);
    let name = parameters.next().filter(|name| !name.is_empty())?;
    let quality = parameters.find_map(|parameter| parameter.strip_prefix("q=")?.parse().ok());
    Some((name, quality.unwrap_or(1.0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn negotiation() {
        use Media::{Json, Protobuf as Proto};
        let both = "application/vnd.kubernetes.protobuf, application/json;q=0.9";
        for (accept, how, expect) in [
            ("", Protobuf::Supported, Some(Json)),
            ("*/*", Protobuf::Supported, Some(Json)),
            ("application/json", Protobuf::Supported, Some(Json)),
            (both, Protobuf::Supported, Some(Proto)),
            ("application/json;q=0.9,application/vnd.kubernetes.protobuf", Protobuf::Supported, Some(Proto)),
            ("application/json, application/vnd.kubernetes.protobuf", Protobuf::Supported, Some(Json)),
            (both, Protobuf::Missing, Some(Json)),
            ("application/vnd.kubernetes.protobuf, */*", Protobuf::Missing, Some(Json)),
            ("application/vnd.kubernetes.protobuf", Protobuf::Missing, None),
            (both, Protobuf::Refused, None),
            ("application/json", Protobuf::Refused, Some(Json)),
            (both, Protobuf::Broken, Some(Proto)),
            ("text/html", Protobuf::Supported, None),
        ] {
            let headers = HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]);
            assert_eq!(Media::negotiate(&headers, how).ok(), expect, "{accept} {how:?}");
        }
    }
}
