//! Lists, events and Status objects in protobuf.

use bytes::Bytes;
use prost::Message;

use super::{INITIAL_EVENTS_END, ListMeta, ReadError, Status, TOO_LARGE, WatchEvent};
use crate::{
    api::kinds::{Item, Kind},
    proto::{self, ProtoError},
};

/// Kind of errors of the API.
const STATUS: &str = "Status";

/// Hands each object of a list to `take` as soon as it is read.
pub(super) fn read_list(
    body: &Bytes,
    kind: Kind,
    mut take: impl FnMut(Result<Item, ReadError>),
) -> Result<ListMeta, ReadError> {
    let content = proto::unwrap(body.clone(), &format!("{}List", kind.name()))?;
    let proto::ListMeta { resource_version, next } =
        proto::read_list(content, |item| take(kind.read_protobuf(item).map_err(ReadError::from)))?;
    Ok(ListMeta { resource_version, next })
}

/// Reads a frame of a watch.
pub(super) fn parse_event(frame: Bytes, kind: Kind) -> Result<WatchEvent<Bytes>, ReadError> {
    let event = proto::WatchEvent::decode(frame)?;
    Ok(match &*event.kind {
        "ADDED" | "MODIFIED" => WatchEvent::Applied(event.object(kind.name())?),
        "DELETED" => WatchEvent::Deleted(event.object(kind.name())?),
        "BOOKMARK" => {
            let bookmark = proto::Bookmark::decode(event.object(kind.name())?)?;
            let initial_end = bookmark.has_annotation(INITIAL_EVENTS_END, "true");
            WatchEvent::Bookmark { version: bookmark.version(), initial_end }
        }
        "ERROR" => WatchEvent::Error(status(event.object(STATUS)?)?),
        _ => return Err(ProtoError::EventType(event.kind).into()),
    })
}

/// Reads the body of a refusal.
pub(super) fn parse_status(body: Bytes) -> Result<Status, ReadError> {
    status(proto::unwrap(body, STATUS)?)
}

fn status(message: Bytes) -> Result<Status, ReadError> {
    let status = proto::Status::decode(message)?;
    let too_large = status.has_cause(TOO_LARGE);
    let proto::Status { code, reason, message, .. } = status;
    Ok(Status { code: u16::try_from(code).unwrap_or_default(), reason, message, too_large })
}

#[cfg(test)]
mod tests;
