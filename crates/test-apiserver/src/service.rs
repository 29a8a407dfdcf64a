//! Requests and their answers.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    Method, Request, Response, StatusCode, Uri,
    header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT},
};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::{
    body::Answer,
    clock::monotonic,
    event, list,
    media::Media,
    object::{Key, Object, set, text},
    proto,
    query::Query,
    requests::Request as LoggedRequest,
    resource::{Resource, Verb},
    shared::Shared,
    status::ApiError,
    store::{StoreError, Write},
    target::Target,
    watch,
};

/// Path and query of a request: HTTP/2 has the host in the same place.
pub(crate) fn path_and_query(uri: &Uri) -> &str {
    uri.path_and_query().map_or_else(|| uri.path(), |both| both.as_str())
}

/// Answers a request of the API, which came over the connection of this number.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    connection: u64,
    request: Request<Incoming>,
) -> Response<Answer> {
    let how = shared.policy().protobuf;
    let media = Media::negotiate(request.headers(), how).unwrap_or(Media::Json);
    let response = match respond(&shared, connection, request).await {
        Ok(response) => response,
        Err(error) => refusal(&error, media),
    };
    shared.requests().count_status(response.status().as_u16());
    response
}

async fn respond(
    shared: &Arc<Shared>,
    connection: u64,
    request: Request<Incoming>,
) -> Result<Response<Answer>, ApiError> {
    let target = Target::parse(request.uri().path());
    let query = Query::parse(request.uri().query().unwrap_or_default());
    let verb = verb(request.method(), target.as_ref(), &query);
    if let (Some(target), Some(verb)) = (&target, verb) {
        shared.requests().record(describe(target.resource, verb, &request, connection));
        shared.wait_unless_silent(target.resource).await;
    }
    let authorization = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let user = shared.policy().authenticate(authorization)?;
    let Some(target) = target else { return plain(shared, request.uri().path()) };
    let verb = verb.ok_or_else(ApiError::method_not_allowed)?;
    shared.policy().authorize(&user, verb, &target)?;
    refuse(shared, &target, verb)?;
    match verb {
        Verb::List | Verb::Watch => many(shared, &target, &query, &request),
        Verb::Get => get(shared, &target),
        Verb::Delete => delete(shared, &target),
        Verb::Create | Verb::Update | Verb::Patch => write(shared, &target, verb, request).await,
    }
}

/// Answers a list or a watch, in the media type that the client prefers.
fn many(
    shared: &Arc<Shared>,
    target: &Target,
    query: &Query,
    request: &Request<Incoming>,
) -> Result<Response<Answer>, ApiError> {
    let how = shared.policy().protobuf;
    let media = Media::negotiate(request.headers(), how)?;
    let (resource, namespace) = (target.resource, target.namespace.as_deref());
    let watches = query.flag("watch") == Some(true);
    let (media, answer) = if watches {
        watch::answer(shared, resource, namespace, query, media)?
    } else {
        list::answer(shared, resource, namespace, query, media)?
    };
    if media == Media::Protobuf {
        shared.requests().count_protobuf();
    }
    let mut response = Response::new(answer);
    response.headers_mut().insert(CONTENT_TYPE, media.content_type(watches));
    Ok(response)
}

fn describe(resource: Resource, verb: Verb, request: &Request<Incoming>, connection: u64) -> LoggedRequest {
    let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    LoggedRequest {
        verb,
        resource,
        uri: path_and_query(request.uri()).to_owned(),
        agent: header(USER_AGENT).to_owned(),
        accept: header(ACCEPT).to_owned(),
        connection,
        at: monotonic(),
    }
}

fn verb(method: &Method, target: Option<&Target>, query: &Query) -> Option<Verb> {
    let target = target?;
    let one = target.name.is_some();
    // A namespaced resource is written in a namespace.
    let placed = target.namespace.is_some() == target.resource.namespaced();
    match *method {
        Method::GET if one => Some(Verb::Get),
        Method::GET if query.flag("watch") == Some(true) => Some(Verb::Watch),
        Method::GET => Some(Verb::List),
        Method::POST if !one && placed => Some(Verb::Create),
        Method::PUT if one => Some(Verb::Update),
        Method::PATCH if one => Some(Verb::Patch),
        Method::DELETE if one => Some(Verb::Delete),
        _ => None,
    }
}

/// Answers requests for paths outside of the resources.
fn plain(shared: &Shared, path: &str) -> Result<Response<Answer>, ApiError> {
    match path {
        "/healthz" | "/livez" | "/readyz" => {
            let mut response = Response::new(Answer::Whole(Some(Bytes::from_static(b"ok"))));
            response
                .headers_mut()
                .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
            Ok(response)
        }
        "/version" => {
            shared.requests().count_version_request();
            let minor = shared.policy().minor;
            let version = format!("v1.{minor}.0-kube-ipvs-test");
            let body = json!({
                "major": "1",
                "minor": minor.to_string(),
                "gitVersion": version,
                "platform": "linux/amd64",
            });
            Ok(respond_with(StatusCode::OK, &body))
        }
        _ => Err(ApiError::no_such_resource()),
    }
}

/// Fails with the error of a fault, if one concerns the request.
fn refuse(shared: &Shared, target: &Target, verb: Verb) -> Result<(), ApiError> {
    let mut refusal = None;
    shared.faults.send_if_modified(|table| {
        refusal = table.take_refusal(target.resource, verb);
        refusal.is_some()
    });
    let Some(refusal) = refusal else { return Ok(()) };
    Err(match refusal.status {
        410 => ApiError::too_old(0, shared.store().revision()),
        429 => ApiError::too_many_requests(Duration::from_secs(refusal.retry_after_s)),
        status => {
            ApiError::failure(StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR))
        }
    })
}

fn key(target: &Target) -> Key {
    Key::new(target.namespace.as_deref().unwrap_or_default(), target.name.as_deref().unwrap_or_default())
}

fn get(shared: &Shared, target: &Target) -> Result<Response<Answer>, ApiError> {
    let key = key(target);
    let object = shared.store().get(target.resource, &key).map(|object| object.json.clone());
    let json = object.ok_or_else(|| ApiError::not_found(target.resource, &key.name))?;
    Ok(ok(Answer::Whole(Some(json))))
}

fn delete(shared: &Shared, target: &Target) -> Result<Response<Answer>, ApiError> {
    let key = key(target);
    let object =
        shared.write(|store| store.delete(target.resource, &key)).map_err(|error| refused(&error))?;
    let body = json!({
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {
            "name": key.name,
            "group": target.resource.group(),
            "kind": target.resource.plural(),
            "uid": text(&object.value(), "uid"),
        },
    });
    Ok(respond_with(StatusCode::OK, &body))
}

async fn write(
    shared: &Shared,
    target: &Target,
    verb: Verb,
    request: Request<Incoming>,
) -> Result<Response<Answer>, ApiError> {
    let kind = request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    if verb == Verb::Patch && !kind.starts_with("application/merge-patch+json") {
        return Err(ApiError::unsupported_media_type());
    }
    let body =
        request.into_body().collect().await.map_err(|error| ApiError::bad_request(error.to_string()))?;
    let body: Value = serde_json::from_slice(&body.to_bytes()).map_err(|error| {
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {target:?}): {error}"
        ))
    })?;
    let written = shared.write(|store| {
        let (object, write) = match verb {
            Verb::Patch => {
                (patched(store.get(target.resource, &key(target)), target, &body)?, Write::Replace)
            }
            Verb::Create => (body, Write::Create),
            _ => (body, Write::Replace),
        };
        let object = placed(object, target)?;
        if target.resource == Resource::Events {
            match store.get(target.resource, &key(target)) {
                Some(before) => event::validate_change(&before.value(), &object)?,
                None if write == Write::Create => event::validate_new(&object)?,
                None => {}
            }
        }
        store.write(target.resource, object, write).map_err(|error| refused(&error))
    })?;
    let status = if verb == Verb::Create { StatusCode::CREATED } else { StatusCode::OK };
    let mut response = ok(Answer::Whole(Some(written.json.clone())));
    *response.status_mut() = status;
    Ok(response)
}

fn patched(object: Option<&Arc<Object>>, target: &Target, patch: &Value) -> Result<Value, ApiError> {
    let name = target.name.as_deref().unwrap_or_default();
    let mut object = object.ok_or_else(|| ApiError::not_found(target.resource, name))?.value();
    merge(&mut object, patch);
    Ok(object)
}

/// Applies a merge patch (RFC 7386).
fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    let Some(target) = target.as_object_mut() else { return };
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            merge(target.entry(key.clone()).or_insert(Value::Null), value);
        }
    }
}

/// Fills in the fields that the path determines, and refuses an object that contradicts it.
fn placed(mut object: Value, target: &Target) -> Result<Value, ApiError> {
    let Some(fields) = object.as_object_mut() else { return Err(ApiError::bad_request("not an object")) };
    fields.insert("apiVersion".to_owned(), target.resource.api_version().into());
    fields.insert("kind".to_owned(), target.resource.kind().into());
    if text(&object, "name").is_none()
        && let Some(prefix) = text(&object, "generateName")
    {
        let name = format!("{prefix}{:05x}", monotonic().subsec_nanos() & 0xf_ffff);
        set(&mut object, "name", name.into());
    }
    let path = [("namespace", target.namespace.as_deref()), ("name", target.name.as_deref())];
    for (field, wanted) in path {
        let Some(wanted) = wanted else { continue };
        match text(&object, field) {
            Some(found) if found != wanted && !found.is_empty() => {
                let message = format!(
                    "the {field} of the object ({found}) does not match the {field} on the URL ({wanted})"
                );
                return Err(ApiError::bad_request(message));
            }
            _ => set(&mut object, field, wanted.into()),
        }
    }
    Ok(object)
}

fn refused(error: &StoreError) -> ApiError {
    match error {
        StoreError::NotAnObject(_) => ApiError::bad_request("name or generateName is required"),
        StoreError::AlreadyExists(resource, name) => ApiError::already_exists(*resource, name),
        StoreError::NotFound(resource, name) => ApiError::not_found(*resource, name),
        StoreError::Conflict(resource, name) => ApiError::conflict(*resource, name),
    }
}

fn refusal(error: &ApiError, media: Media) -> Response<Answer> {
    let mut response = respond_with(error.code, &error.body());
    if media == Media::Protobuf {
        *response.body_mut() = Answer::Whole(Some(proto::status_body(&error.body()).into()));
        response.headers_mut().insert(CONTENT_TYPE, media.content_type(false));
    }
    if let Some(after) = error.retry_after {
        response.headers_mut().insert(RETRY_AFTER, after.as_secs().into());
    }
    response
}

pub(crate) fn respond_with(code: StatusCode, body: &Value) -> Response<Answer> {
    let mut response = ok(Answer::Whole(Some(Bytes::from(format!("{body}\n")))));
    *response.status_mut() = code;
    response
}

fn ok(answer: Answer) -> Response<Answer> {
    let mut response = Response::new(answer);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merge_patches_of_rfc_7386() {
        let check = |target: Value, patch: Value, expect: Value| {
            let mut result = target.clone();
            merge(&mut result, &patch);
            assert_eq!(result, expect, "{target} {patch}");
        };
        check(json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"}));
        check(json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"}));
        check(json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}}));
        check(json!({"a": [{"b": "c"}]}), json!({"a": [1]}), json!({"a": [1]}));
        check(json!([1, 2]), json!({"a": "b", "c": null}), json!({"a": "b"}));
        check(json!({}), json!({"a": {"bb": {"ccc": null}}}), json!({"a": {"bb": {}}}));
    }
}
