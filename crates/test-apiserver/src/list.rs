//! Lists, whole or page by page.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::{Value, json};

use crate::{
    body::{Answer, Left, Sink, stream},
    media::Media,
    object::{Key, Object},
    policy::Protobuf,
    proto,
    query::{Query, Version, list_version},
    resource::Resource,
    selector::Filter,
    shared::Shared,
    status::ApiError,
};

/// Bytes that are gathered before they are sent.
const PORTION_BYTES: usize = 64 << 10;

struct List {
    resource: Resource,
    revision: u64,
    objects: Vec<Arc<Object>>,
    /// Start of the next page, if there is one.
    next: Option<Continue>,
    /// Number of objects after this page; the server only says it for lists without a selector.
    remaining: Option<usize>,
}

/// Content of a `continue` token. A page is part of the list at that version, so a token can be used again,
/// and expires together with the version.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Continue {
    revision: u64,
    after: Key,
}

impl Continue {
    fn parse(token: &str) -> Option<Self> {
        let mut parts = token.splitn(3, ':');
        let revision = parts.next()?.parse().ok()?;
        Some(Self { revision, after: Key::new(parts.next()?, parts.next()?) })
    }

    fn token(&self) -> String {
        format!("{}:{}:{}", self.revision, self.after.namespace, self.after.name)
    }
}

/// Answers a list request: in JSON if that is wanted, or if an object has nothing else.
pub(crate) fn answer(
    shared: &Arc<Shared>,
    resource: Resource,
    namespace: Option<&str>,
    query: &Query,
    media: Media,
) -> Result<(Media, Answer), ApiError> {
    let list = find(shared, resource, &query.filter(namespace)?, query)?;
    let body = if media == Media::Protobuf { encode(&list) } else { None };
    let media = if body.is_some() { Media::Protobuf } else { Media::Json };
    let is_broken = shared.policy().protobuf == Protobuf::Broken;
    let (sink, answer) = stream(shared, resource, None);
    tokio::spawn(async move {
        // That a client leaves before the end is no error.
        let _ = match body {
            Some(body) if is_broken => send_bytes(&sink, proto::broken(body)).await,
            Some(body) => send_bytes(&sink, body).await,
            None => send(&sink, list).await,
        };
    });
    Ok((media, answer))
}

/// The list in protobuf.
fn encode(list: &List) -> Option<Vec<u8>> {
    let items = list.objects.iter().map(|object| object.message(list.resource).cloned());
    Some(proto::list_body(list.resource, &metadata(list), items.collect::<Option<Vec<Bytes>>>()?))
}

async fn send_bytes(sink: &Sink, body: Vec<u8>) -> Result<(), Left> {
    let mut body = Bytes::from(body);
    while !body.is_empty() {
        let portion = body.split_to(body.len().min(PORTION_BYTES));
        sink.send(portion, None).await?;
    }
    Ok(())
}

fn find(shared: &Shared, resource: Resource, filter: &Filter, query: &Query) -> Result<List, ApiError> {
    let version = list_version(query)?;
    let limit =
        query.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|&limit| limit > 0);
    let token = query.text("continue");
    if !token.is_empty() {
        if !matches!(version, Version::Newest | Version::Any) {
            let message = "specifying resource version is not allowed when using continue";
            return Err(ApiError::bad_request(message));
        }
        let from =
            Continue::parse(token).ok_or_else(|| ApiError::bad_request("continue key is not valid"))?;
        let objects = shared.store().select_at(resource, filter, from.revision);
        let mut objects = objects.map_err(|_| ApiError::continue_expired())?;
        objects.retain(|object| *object.key > from.after);
        return Ok(page(resource, from.revision, objects, limit, filter));
    }
    let (revision, objects) = select(shared, resource, filter, version)?;
    // The watch cache, which answers requests for "any version", knows no pages.
    let limit = limit.filter(|_| version != Version::Any);
    Ok(page(resource, revision, objects, limit, filter))
}

fn select(
    shared: &Shared,
    resource: Resource,
    filter: &Filter,
    version: Version,
) -> Result<(u64, Vec<Arc<Object>>), ApiError> {
    if version == Version::Any
        && let Some(stale) = shared.stale()
    {
        return Ok((stale.revision(), stale.select(resource, filter)));
    }
    let store = shared.store();
    let current = store.revision();
    match version {
        Version::Exact(asked) | Version::NotOlderThan(asked) if asked > current => {
            Err(ApiError::too_large(asked, current))
        }
        Version::Exact(asked) => {
            let objects = store.select_at(resource, filter, asked);
            Ok((asked, objects.map_err(|gone| ApiError::too_old(asked, gone.oldest))?))
        }
        Version::Newest | Version::Any | Version::NotOlderThan(_) => {
            Ok((current, store.select(resource, filter)))
        }
    }
}

fn page(
    resource: Resource,
    revision: u64,
    mut objects: Vec<Arc<Object>>,
    limit: Option<usize>,
    filter: &Filter,
) -> List {
    let total = objects.len();
    objects.truncate(limit.unwrap_or(usize::MAX));
    let left = total - objects.len();
    let last = objects.last().filter(|_| left > 0);
    let next = last.map(|last| Continue { revision, after: Key::clone(&last.key) });
    let remaining = (left > 0 && !filter.selects()).then_some(left);
    List { resource, revision, objects, next, remaining }
}

fn metadata(list: &List) -> Value {
    let mut metadata = json!({"resourceVersion": list.revision.to_string()});
    if let Some(next) = &list.next {
        metadata["continue"] = next.token().into();
    }
    if let Some(remaining) = list.remaining {
        metadata["remainingItemCount"] = remaining.into();
    }
    metadata
}

async fn send(sink: &Sink, list: List) -> Result<(), Left> {
    let head = format!(
        r#"{{"kind":"{}List","apiVersion":"{}","metadata":{},"items":["#,
        list.resource.kind(),
        list.resource.api_version(),
        metadata(&list)
    );
    let mut portion = BytesMut::from(head.as_bytes());
    for (index, object) in list.objects.into_iter().enumerate() {
        if index > 0 {
            portion.put_u8(b',');
        }
        portion.put_slice(&object.json);
        if portion.len() > PORTION_BYTES {
            sink.send(portion.split().freeze(), None).await?;
        }
    }
    portion.put_slice(b"]}\n");
    sink.send(Bytes::from(portion), None).await
}
