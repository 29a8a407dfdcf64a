//! Answers to requests. No wait for one is without a limit.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::BodyExt;
use kube::client::Body;
use tokio::time::{Instant, timeout, timeout_at};

use super::{
    Limits, MediaType,
    body::Status,
    chain,
    connect::Connector,
    watch_state::{End, Refusal},
};

/// Length up to which the body of a refusal is read.
const MAX_STATUS_BYTES: usize = 64 * 1024;

/// Sends a GET request and returns the head of a successful answer.
pub(super) async fn get(connector: &Connector, uri: &str, media: MediaType) -> Result<Response<Body>, End> {
    let get = Request::get(uri).header(header::ACCEPT, media.accept()).body(Body::from(Vec::new()));
    request(connector, get).await
}

/// Sends a request and returns the head of a successful answer.
pub(super) async fn request(
    connector: &Connector,
    request: http::Result<Request<Body>>,
) -> Result<Response<Body>, End> {
    let broken = |error: &dyn std::error::Error| End::Broken(chain(error));
    let request = request.map_err(|error| broken(&error))?;
    let client = connector.client().await.map_err(|error| broken(&error))?;
    let limits = connector.limits();
    let method = request.method().clone();
    let answer = timeout(limits.response, client.send(request)).await;
    let status = answer.as_ref().ok().and_then(|sent| sent.as_ref().ok()).map(Response::status);
    connector.counts.count_request(method.as_str(), status.map(|status| status.as_u16()));
    match answer {
        Err(_elapsed) => Err(End::Silent),
        Ok(Err(error)) => Err(broken(&error)),
        Ok(Ok(response)) if response.status().is_success() => Ok(response),
        Ok(Ok(response)) => Err(refusal(response, limits).await),
    }
}

/// Reads the whole body, as long as it keeps coming.
pub(super) async fn collect(response: Response<Body>, limits: &Limits) -> Result<Bytes, End> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    let deadline = Instant::now() + limits.list;
    loop {
        let next = (Instant::now() + limits.response).min(deadline);
        match timeout_at(next, body.frame()).await {
            Err(_elapsed) => return Err(End::Silent),
            Ok(None) => break,
            Ok(Some(Err(error))) => return Err(End::Broken(chain(&error))),
            Ok(Some(Ok(frame))) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..])),
        }
        if bytes.len() > limits.list_bytes {
            return Err(End::Garbled(format!("an answer of more than {} bytes", limits.list_bytes)));
        }
    }
    Ok(bytes.into())
}

/// Reads the error in a response that is no success.
async fn refusal(response: Response<Body>, limits: &Limits) -> End {
    let (head, mut body) = response.into_parts();
    // The API server sends seconds, never a date.
    let retry_after =
        head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let mut bytes = Vec::new();
    let deadline = Instant::now() + limits.response;
    while bytes.len() < MAX_STATUS_BYTES {
        match timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..])),
            _ => break,
        }
    }
    let status = Status::parse(bytes.into(), MediaType::of(&head.headers));
    let fallback = head.status.canonical_reason().unwrap_or_default();
    let reason = if status.reason.is_empty() { fallback.to_owned() } else { status.reason.clone() };
    refused(Status { code: head.status.as_u16(), reason, ..status }, retry_after.map(Duration::from_secs))
}

/// Turns an error of the server into the end of a request.
pub(super) fn refused(status: Status, retry_after: Option<Duration>) -> End {
    let too_large = status.is_too_large();
    let Status { code, reason, message, .. } = status;
    End::Refused(Refusal { code, reason, message, too_large, retry_after })
}
