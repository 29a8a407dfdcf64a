//! Watches.

mod pump;

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use crate::{
    body::{Answer, Left, Sink, stream},
    faults::Hangup,
    media::Media,
    object::Object,
    policy::GoneForm,
    query::{Query, Start, watch_start},
    resource::Resource,
    selector::Filter,
    shared::{OpenWatch, Shared},
    status::ApiError,
};

/// Timeout of a watch that requests none; the API server takes a random time of this order.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(30);

/// A watch, before its first event.
#[derive(Debug)]
pub(crate) struct Watch {
    resource: Resource,
    filter: Filter,
    media: Media,
    begin: Begin,
    bookmarks: bool,
    timeout: Duration,
}

/// Beginning of a watch, which has reached `revision` after it.
#[derive(Debug)]
struct Begin {
    revision: u64,
    objects: Vec<Arc<Object>>,
    /// True if a bookmark marks the end of the objects.
    end: bool,
    /// Error that ends the watch at once, because its version is too old or lies in the future.
    gone: Option<ApiError>,
}

impl Begin {
    const fn at(revision: u64) -> Self {
        Self { revision, objects: Vec::new(), end: false, gone: None }
    }
}

/// Answers a watch request; a task of its own delivers the events.
pub(crate) fn answer(
    shared: &Arc<Shared>,
    resource: Resource,
    namespace: Option<&str>,
    query: &Query,
    media: Media,
) -> Result<(Media, Answer), ApiError> {
    let mut watch = prepare(shared, resource, namespace, query)?;
    if media == Media::Protobuf && has_messages(shared, &watch) {
        watch.media = Media::Protobuf;
    }
    let media = watch.media;
    // Read before the watch counts as open, because a test may drop it as soon as it does.
    let dropped = shared.faults.borrow().dropped(resource);
    let open = OpenWatch::new(shared, resource);
    let id = open.id;
    let (sink, answer) = stream(shared, resource, Some(open));
    tokio::spawn(run(Arc::clone(shared), watch, sink, Birth { id, dropped }));
    Ok((media, answer))
}

/// Tells whether everything that the watch delivers has a message of protobuf, as far as is known.
fn has_messages(shared: &Shared, watch: &Watch) -> bool {
    let resource = watch.resource;
    let (current, events) = {
        let store = shared.store();
        let events = store.events_after(resource, watch.begin.revision, usize::MAX);
        (store.select(resource, &Filter::default()), events.map(|(events, _)| events).unwrap_or_default())
    };
    let past = events.iter().map(|event| &event.object);
    watch.begin.objects.iter().chain(&current).chain(past).all(|object| object.message(resource).is_some())
}

fn prepare(
    shared: &Shared,
    resource: Resource,
    namespace: Option<&str>,
    query: &Query,
) -> Result<Watch, ApiError> {
    let (lists, form) = {
        let policy = shared.policy();
        (policy.streaming_lists, policy.gone_form)
    };
    let filter = query.filter(namespace)?;
    let start = watch_start(query, lists)?;
    let begin = begin(shared, resource, &filter, start, form)?;
    let timeout = query.number("timeoutSeconds")?.map_or(DEFAULT_TIMEOUT, Duration::from_secs);
    let bookmarks = query.flag("allowWatchBookmarks").unwrap_or(false);
    Ok(Watch { resource, filter, media: Media::Json, begin, bookmarks, timeout })
}

fn begin(
    shared: &Shared,
    resource: Resource,
    filter: &Filter,
    start: Start,
    form: GoneForm,
) -> Result<Begin, ApiError> {
    let stale = shared.stale();
    let store = shared.store();
    let current = store.revision();
    match start {
        Start::Everything { not_older, .. } if not_older > current => {
            Ok(Begin { gone: Some(ApiError::too_large(not_older, current)), ..Begin::at(current) })
        }
        Start::Everything { not_older: 0, end } if let Some(stale) = stale => {
            Ok(Begin { objects: stale.select(resource, filter), end, ..Begin::at(stale.revision()) })
        }
        Start::Everything { end, .. } => {
            Ok(Begin { objects: store.select(resource, filter), end, ..Begin::at(current) })
        }
        Start::Now => Ok(Begin::at(current)),
        Start::After(revision) if revision < store.oldest() => {
            let gone = ApiError::too_old(revision, store.oldest());
            match form {
                GoneForm::Status => Err(gone),
                GoneForm::Event => Ok(Begin { gone: Some(gone), ..Begin::at(revision) }),
            }
        }
        Start::After(revision) => Ok(Begin::at(revision)),
    }
}

/// Reason for the end of a watch.
enum End {
    Timeout,
    Left,
    /// The client has got the error that its version is gone.
    Gone,
    Dropped(Hangup),
}

/// Number of a watch, and of the hangups before it.
struct Birth {
    id: u64,
    dropped: u64,
}

async fn run(shared: Arc<Shared>, watch: Watch, sink: Sink, birth: Birth) {
    let deadline = Instant::now() + watch.timeout;
    let resource = watch.resource;
    let end = tokio::select! {
        biased;
        how = dropped(&shared, resource, birth.dropped) => End::Dropped(how),
        () = sink.left() => End::Left,
        () = sleep_until(deadline) => End::Timeout,
        end = pump::run(&shared, watch, &sink, pump::Times { id: birth.id, deadline }) => end,
    };
    match end {
        // The response ends with its sink.
        End::Timeout | End::Left | End::Gone | End::Dropped(Hangup::End) => {}
        End::Dropped(Hangup::Cut) => sink.cut().await,
        End::Dropped(Hangup::Mute) => sink.left().await,
    }
}

/// Waits until a test drops the watches of `resource`.
async fn dropped(shared: &Shared, resource: Resource, before: u64) -> Hangup {
    let mut faults = shared.faults.subscribe();
    let table = faults.wait_for(|table| table.dropped(resource) != before).await;
    // The sender lives as long as `shared`.
    table.map_or(Hangup::End, |table| table.last_drop(resource))
}

impl From<Left> for End {
    fn from(_: Left) -> Self {
        Self::Left
    }
}
