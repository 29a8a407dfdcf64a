//! Transfer of events from the store to the sink, with the faults on the way.

use std::{sync::Arc, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Begin, End, Watch};
use crate::{
    body::Sink,
    clock::monotonic,
    faults::{Hangup, shuffle},
    media::Media,
    object::Object,
    policy::Protobuf,
    proto,
    requests::Delivery,
    resource::Resource,
    selector::Filter,
    shared::Shared,
    status::ApiError,
    store::{Change, Event},
};

/// Most events that are taken from the store at a time.
const EVENTS_PER_READ: usize = 256;

/// Time between the last bookmark and the end of a watch, as in the API server.
const LAST_BOOKMARK_BEFORE_END: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) id: u64,
    pub(super) deadline: Instant,
}

struct Pump<'a> {
    shared: &'a Shared,
    sink: &'a Sink,
    resource: Resource,
    filter: Filter,
    media: Media,
    /// Version up to which everything has been sent or does not concern this watch.
    reached: u64,
    id: u64,
}

/// Runs until the watch ends by itself.
pub(super) async fn run(shared: &Shared, watch: Watch, sink: &Sink, times: Times) -> End {
    let Watch { resource, filter, media, begin, bookmarks, .. } = watch;
    let mut pump = Pump { shared, sink, resource, filter, media, reached: begin.revision, id: times.id };
    let ended = pump.pump(begin, bookmarks, times.deadline).await;
    ended.err().unwrap_or(End::Timeout)
}

impl Pump<'_> {
    async fn pump(&mut self, begin: Begin, bookmarks: bool, deadline: Instant) -> Result<(), End> {
        let mut changes = self.shared.changes.subscribe();
        if let Some(gone) = begin.gone {
            return self.gone(&gone).await;
        }
        for object in begin.objects {
            self.send(Change::Added, &object).await?;
        }
        if begin.end && bookmarks {
            self.bookmark(true).await?;
        }
        let begun = self.reached;
        let interval = self.shared.bookmark_interval;
        let mut next_bookmark = next(Instant::now(), interval, deadline);
        loop {
            changes.borrow_and_update();
            if self.deliver().await? {
                continue;
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = sleep_until(next_bookmark) => {
                    // As long as there is nothing newer, the API server sends no bookmark.
                    if bookmarks && self.reached > begun {
                        self.bookmark(false).await?;
                    }
                    next_bookmark = next(next_bookmark, interval, deadline);
                }
            }
        }
    }

    /// Delivers the events that have happened; returns whether there were any.
    async fn deliver(&mut self) -> Result<bool, End> {
        let (mut events, mut reached) = self.take(self.reached).await?;
        if reached == self.reached && events.is_empty() {
            return Ok(false);
        }
        let reorder = self.shared.faults.borrow().of(self.resource).reorder;
        if let Some(reorder) = reorder.filter(|_| !events.is_empty()) {
            sleep(Duration::from_millis(reorder.window_ms)).await;
            let (more, further) = self.take(reached).await?;
            events.extend(more);
            events = shuffle(events, reorder.seed ^ reached, |event| Arc::clone(&event.object.key));
            reached = further;
        }
        for event in events {
            self.event(&event).await?;
        }
        self.reached = reached;
        Ok(true)
    }

    async fn take(&self, after: u64) -> Result<(Vec<Arc<Event>>, u64), End> {
        let taken = self.shared.store().events_after(self.resource, after, EVENTS_PER_READ);
        match taken {
            Ok(taken) => Ok(taken),
            Err(gone) => {
                self.gone(&ApiError::too_old(after, gone.oldest)).await?;
                Err(End::Gone)
            }
        }
    }

    async fn event(&self, event: &Event) -> Result<(), End> {
        let Some(change) = event.seen_by(&self.filter) else { return Ok(()) };
        self.delay(event.committed).await;
        let object = match &event.previous {
            // An object that no longer matches is shown as it was when it did.
            Some(previous) if change == Change::Deleted && event.change != Change::Deleted => {
                let key = Arc::clone(&previous.key);
                Arc::new(Object::encode(key, previous.value(), event.object.revision))
            }
            _ => Arc::clone(&event.object),
        };
        if self.shared.faults.borrow().of(self.resource).truncate > 0 {
            self.truncate(change, &object).await?;
        }
        self.send(change, &object).await?;
        if self.shared.faults.borrow().of(self.resource).repeat {
            self.send(change, &object).await?;
        }
        Ok(())
    }

    async fn delay(&self, committed: Duration) {
        let delay = Duration::from_millis(self.shared.faults.borrow().of(self.resource).delay_ms);
        sleep((committed + delay).saturating_sub(monotonic())).await;
    }

    /// Sends half of the event and ends the watch, if the fault concerns one more event.
    async fn truncate(&self, change: Change, object: &Object) -> Result<(), End> {
        let mut cut = false;
        self.shared.faults.send_modify(|table| cut = table.take_truncation(self.resource));
        if !cut {
            return Ok(());
        }
        let mut piece = self.piece(change, object)?;
        piece.truncate(piece.len() / 2);
        self.sink.send(piece, None).await?;
        Err(End::Dropped(Hangup::Cut))
    }

    async fn send(&self, change: Change, object: &Object) -> Result<(), End> {
        let delivery = Delivery {
            watch: self.id,
            change: change.as_str(),
            revision: object.revision,
            at: Duration::ZERO,
            resource: self.resource,
            key: Arc::clone(&object.key),
        };
        Ok(self.sink.send(self.piece(change, object)?, Some(delivery)).await?)
    }

    /// The event as it is sent. A watch in protobuf ends before an object that has none, and the next one is in JSON.
    fn piece(&self, change: Change, object: &Object) -> Result<Bytes, End> {
        if self.media == Media::Json {
            return Ok(line(change, &object.json));
        }
        let message = object.message(self.resource).ok_or(End::Timeout)?;
        Ok(self.frame(change.as_str(), proto::object_body(self.resource, message)))
    }

    fn frame(&self, change: &str, object: Vec<u8>) -> Bytes {
        let is_broken = self.shared.policy().protobuf == Protobuf::Broken;
        proto::frame(change, if is_broken { proto::broken(object) } else { object })
    }

    async fn bookmark(&self, end: bool) -> Result<(), End> {
        let piece = match self.media {
            Media::Json => bookmark(self.resource, self.reached, end),
            Media::Protobuf => {
                let mut metadata = json!({"resourceVersion": self.reached.to_string()});
                if end {
                    metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
                }
                let message =
                    proto::message(self.resource, json!({"metadata": metadata})).unwrap_or_default();
                self.frame("BOOKMARK", proto::object_body(self.resource, &message))
            }
        };
        Ok(self.sink.send(piece, None).await?)
    }

    async fn gone(&self, error: &ApiError) -> Result<(), End> {
        let piece = match self.media {
            Media::Json => Bytes::from(format!("{{\"type\":\"ERROR\",\"object\":{}}}\n", error.body())),
            Media::Protobuf => self.frame("ERROR", proto::status_body(&error.body())),
        };
        self.sink.send(piece, None).await?;
        Err(End::Gone)
    }
}

/// Time of the next bookmark: after `interval`, or shortly before the end of the watch, which may never come.
fn next(from: Instant, interval: Duration, deadline: Instant) -> Instant {
    let last = deadline.checked_sub(LAST_BOOKMARK_BEFORE_END).filter(|last| *last > from);
    let regular = from + interval;
    last.map_or(regular, |last| last.min(regular))
}

fn line(change: Change, json: &[u8]) -> Bytes {
    let mut line = BytesMut::with_capacity(json.len() + 32);
    line.put_slice(b"{\"type\":\"");
    line.put_slice(change.as_str().as_bytes());
    line.put_slice(b"\",\"object\":");
    line.put_slice(json);
    line.put_slice(b"}\n");
    line.freeze()
}

fn bookmark(resource: Resource, revision: u64, end: bool) -> Bytes {
    let annotations = if end { r#","annotations":{"k8s.io/initial-events-end":"true"}"# } else { "" };
    Bytes::from(format!(
        "{{\"type\":\"BOOKMARK\",\"object\":{{\"kind\":\"{}\",\"apiVersion\":\"{}\",\"metadata\":\
         {{\"resourceVersion\":\"{revision}\",\"creationTimestamp\":null{annotations}}}{}}}}}\n",
        resource.kind(),
        resource.api_version(),
        resource.blank(),
    ))
}
