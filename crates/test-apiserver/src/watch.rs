//! Watches.

mod pump;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::body::{Answer, Left, Sink, stream};
use crate::faults::Hangup;
use crate::object::Object;
use crate::policy::GoneForm;
use crate::query::{Query, Start, watch_start};
use crate::resource::Resource;
use crate::selector::Filter;
use crate::shared::{OpenWatch, Shared};
use crate::status::ApiError;

/// How long a watch lives that does not say; the API server takes a random time of this order.
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(30);

/// A watch, before its first event.
#[derive(Debug)]
pub(crate) struct Watch {
    resource: Resource,
    filter: Filter,
    begin: Begin,
    bookmarks: bool,
    timeout: Duration,
}

/// What a watch begins with; the store is at `revision` afterwards.
#[derive(Debug)]
struct Begin {
    revision: u64,
    objects: Vec<Arc<Object>>,
    /// Say where they end.
    end: bool,
    /// The version is too old, or one of the future: say so, and stop.
    gone: Option<ApiError>,
}

impl Begin {
    const fn at(revision: u64) -> Self {
        Self { revision, objects: Vec::new(), end: false, gone: None }
    }
}

/// Answers a watch request; the events come from a task of their own.
pub(crate) fn answer(
    shared: &Arc<Shared>,
    resource: Resource,
    namespace: Option<&str>,
    query: &Query,
) -> Result<Answer, ApiError> {
    let watch = prepare(shared, resource, namespace, query)?;
    // Before the watch counts as open: who sees it may drop it.
    let dropped = shared.faults.borrow().dropped(resource);
    let open = OpenWatch::new(shared, resource);
    let id = open.id;
    let (sink, answer) = stream(shared, resource, Some(open));
    tokio::spawn(run(Arc::clone(shared), watch, sink, Birth { id, dropped }));
    Ok(answer)
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
    Ok(Watch { resource, filter, begin, bookmarks, timeout })
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

/// Why a watch ends.
enum End {
    Timeout,
    Left,
    /// It was told that its version is gone.
    Gone,
    Dropped(Hangup),
}

/// The circumstances in which a watch began.
struct Birth {
    id: u64,
    /// How often watches had been dropped.
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

/// Waits until someone drops the watches of `resource`.
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
