//! Errors in the words of the API server.

use std::time::Duration;

use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    resource::{Resource, Verb},
    target::Target,
};

/// An answer of kind Status with status Failure.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ApiError {
    pub(crate) code: StatusCode,
    reason: &'static str,
    message: String,
    details: Value,
    /// Time for the header `Retry-After` and the details.
    pub(crate) retry_after: Option<Duration>,
}

impl ApiError {
    fn new(code: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null, retry_after: None }
    }

    fn details(self, details: Value) -> Self {
        Self { details, ..self }
    }

    pub(crate) fn body(&self) -> Value {
        let mut body = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
            "code": self.code.as_u16(),
        });
        if !self.details.is_null() {
            body["details"] = self.details.clone();
        }
        if let Some(after) = self.retry_after {
            body["details"]["retryAfterSeconds"] = after.as_secs().into();
        }
        body
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Unauthorized", "Unauthorized")
    }

    pub(crate) fn forbidden(user: &str, verb: Verb, target: &Target) -> Self {
        let Target { resource, namespace, name } = target;
        let scope = match namespace {
            Some(namespace) => format!("in the namespace \"{namespace}\""),
            None => "at the cluster scope".to_owned(),
        };
        let object = name.as_ref().map(|name| format!(" \"{name}\"")).unwrap_or_default();
        let message = format!(
            "{}{object} is forbidden: User \"{user}\" cannot {} resource \"{}\" in API group \"{}\" {scope}",
            resource.qualified(),
            verb.as_str(),
            resource.plural(),
            resource.group(),
        );
        Self::new(StatusCode::FORBIDDEN, "Forbidden", message)
            .details(details(*resource, name.as_deref().unwrap_or_default()))
    }

    /// Error for a path without a resource.
    pub(crate) fn no_such_resource() -> Self {
        let message = "the server could not find the requested resource";
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).details(json!({}))
    }

    pub(crate) fn not_found(resource: Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", resource.qualified());
        Self::new(StatusCode::NOT_FOUND, "NotFound", message).details(details(resource, name))
    }

    pub(crate) fn already_exists(resource: Resource, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", resource.qualified());
        Self::new(StatusCode::CONFLICT, "AlreadyExists", message).details(details(resource, name))
    }

    pub(crate) fn conflict(resource: Resource, name: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": the object has been modified; \
             please apply your changes to the latest version and try again",
            resource.qualified()
        );
        Self::new(StatusCode::CONFLICT, "Conflict", message).details(details(resource, name))
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "BadRequest", message)
    }

    pub(crate) fn method_not_allowed() -> Self {
        let message = "the server does not allow this method on the requested resource";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", message).details(json!({}))
    }

    pub(crate) fn unsupported_media_type() -> Self {
        let message = "the body of the request was in an unknown format - \
                       accepted media types include: application/merge-patch+json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message).details(json!({}))
    }

    pub(crate) fn not_acceptable() -> Self {
        let message = "only the following media types are accepted: application/json, \
                       application/vnd.kubernetes.protobuf";
        Self::new(StatusCode::NOT_ACCEPTABLE, "NotAcceptable", message).details(json!({}))
    }

    /// Error for an option of a list or watch that the server does not allow
    /// (pkg/apis/meta/internalversion/validation/validation.go in apimachinery).
    pub(crate) fn forbidden_option(field: &str, message: &str) -> Self {
        let message = format!("Forbidden: {message}");
        let whole = format!("ListOptions.meta.k8s.io \"\" is invalid: {field}: {message}");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", whole).details(json!({
            "group": "meta.k8s.io",
            "kind": "ListOptions",
            "causes": [{"reason": "FieldValueForbidden", "message": message, "field": field}],
        }))
    }

    pub(crate) fn invalid_options(message: &str) -> Self {
        let whole = format!("ListOptions.meta.k8s.io \"\" is invalid: {message}");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", whole)
            .details(json!({"group": "meta.k8s.io", "kind": "ListOptions"}))
    }

    /// Error for an object that the server does not take.
    pub(crate) fn invalid(kind: &str, message: &str) -> Self {
        let whole = format!("{kind} is invalid: {message}");
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", whole)
    }

    /// Error for a watch from a version whose events are gone.
    pub(crate) fn too_old(asked: u64, oldest: u64) -> Self {
        let message = format!("too old resource version: {asked} ({oldest})");
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// Error for a page of a list whose version is gone.
    pub(crate) fn continue_expired() -> Self {
        let message = "The provided continue parameter is too old to display a consistent list result. \
                       You can start a new list without the continue parameter.";
        Self::new(StatusCode::GONE, "Expired", message)
    }

    /// Error for a list that must be as new as a version that does not exist yet.
    pub(crate) fn too_large(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        let cause = json!([{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}]);
        Self::new(StatusCode::GATEWAY_TIMEOUT, "Timeout", format!("Timeout: {message}"))
            .details(json!({"causes": cause}))
            .after(Duration::from_secs(1))
    }

    pub(crate) fn too_many_requests(after: Duration) -> Self {
        let message = "Too many requests, please try again later.";
        Self::new(StatusCode::TOO_MANY_REQUESTS, "TooManyRequests", message).details(json!({})).after(after)
    }

    /// Error for any other failure of a server.
    pub(crate) fn failure(code: StatusCode) -> Self {
        let (reason, message) = match code.as_u16() {
            503 => ("ServiceUnavailable", "apiserver is shutting down"),
            504 => ("Timeout", "request timed out"),
            _ => ("InternalError", "Internal error occurred: etcdserver: request timed out"),
        };
        Self::new(code, reason, message)
    }

    fn after(self, after: Duration) -> Self {
        Self { retry_after: Some(after), ..self }
    }
}

fn details(resource: Resource, name: &str) -> Value {
    let mut details = json!({"kind": resource.plural()});
    if !name.is_empty() {
        details["name"] = name.into();
    }
    if !resource.group().is_empty() {
        details["group"] = resource.group().into();
    }
    details
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Error of servers from 1.27 on with the feature gate WatchList off.
    #[test]
    fn refusal_of_a_streaming_list() {
        let message = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled";
        let expect = json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": format!("ListOptions.meta.k8s.io \"\" is invalid: sendInitialEvents: Forbidden: {message}"),
            "reason": "Invalid",
            "details": {
                "group": "meta.k8s.io",
                "kind": "ListOptions",
                "causes": [{
                    "reason": "FieldValueForbidden",
                    "message": format!("Forbidden: {message}"),
                    "field": "sendInitialEvents",
                }],
            },
            "code": 422,
        });
        assert_eq!(ApiError::forbidden_option("sendInitialEvents", message).body(), expect);
    }

    #[test]
    fn forbidden_names_user_verb_and_group() {
        let message = |namespace: Option<&str>, name: Option<&str>| {
            let target = Target {
                resource: Resource::EndpointSlices,
                namespace: namespace.map(str::to_owned),
                name: name.map(str::to_owned),
            };
            let error = ApiError::forbidden("jane", Verb::List, &target).body();
            error["message"].as_str().unwrap().to_owned()
        };
        let tail = "User \"jane\" cannot list resource \"endpointslices\" in API group \"discovery.k8s.io\"";
        assert_eq!(
            message(None, None),
            format!("endpointslices.discovery.k8s.io is forbidden: {tail} at the cluster scope")
        );
        assert_eq!(
            message(Some("shop"), Some("cart")),
            format!(
                "endpointslices.discovery.k8s.io \"cart\" is forbidden: {tail} in the namespace \"shop\""
            )
        );
    }
}
