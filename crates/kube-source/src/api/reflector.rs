//! The requests for one kind of objects, and the objects that arrive.

use std::{
    cell::RefCell,
    collections::BTreeSet,
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use form_urlencoded::Serializer;
use futures_util::future::{Either, pending, select};
use http::Response;
use http_body_util::BodyExt;
use kube::client::Body;
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};
use tracing::{debug, info, warn};

use super::{
    ApiOptions, ApiStatus, Limits, MediaType,
    answer::{collect, get, refused},
    body::{EventStream, WatchEvent, read_list},
    chain,
    chance::{below, with_jitter},
    connect::{Connector, Doubt},
    kinds::{Item, Kind},
    media::Negotiation,
    object_tracker::ObjectTracker,
    sink::Sink,
    watch_state::{End, Request, WatchState},
};
use crate::Batch;

/// Requested duration of a watch. Each watch gets up to a fifth less, so that not all nodes return at once.
const WATCH_SECONDS: u64 = 300;
/// Least duration of a watch that delivers nothing; one that ends sooner has failed.
const LEAST_WATCH_DURATION: Duration = Duration::from_secs(5);
/// Wait for the server's version before the first list that depends on it.
const LONGEST_WAIT_FOR_VERSION: Duration = Duration::from_secs(1);
/// Wait for an answer after which a log line says so.
const REPORTED_WAIT: Duration = Duration::from_secs(5);

/// Waits for a result, unless something else comes first.
async fn unless<T>(
    other: Pin<&mut impl Future<Output = ()>>,
    result: Pin<&mut impl Future<Output = T>>,
) -> Option<T> {
    match select(result, other).await {
        Either::Left((result, _)) => Some(result),
        Either::Right(_) => None,
    }
}

/// Lists and watches one kind of objects, like client-go's type of this name, and passes on what changes.
pub(super) struct Reflector<'a> {
    kind: Kind,
    node_name: Arc<str>,
    selector: Option<(&'static str, String)>,
    connector: Rc<Connector>,
    sink: Rc<RefCell<Sink<'a>>>,
    tracker: ObjectTracker,
    negotiation: Negotiation,
    /// Time since which changes have not arrived.
    failing_since: Option<Instant>,
    /// Codes of the failures since then whose details are in the log.
    logged: BTreeSet<&'static str>,
    /// True if the last request did not reach the server.
    lost: bool,
}

impl<'a> Reflector<'a> {
    pub(super) fn new(
        kind: Kind,
        options: &ApiOptions,
        connector: Rc<Connector>,
        sink: Rc<RefCell<Sink<'a>>>,
    ) -> Self {
        Reflector {
            kind,
            node_name: Arc::clone(&options.node_name),
            selector: kind.selector(&options.node_name, None),
            connector,
            sink,
            tracker: ObjectTracker::new(kind),
            negotiation: Negotiation::new(options.media),
            failing_since: None,
            logged: BTreeSet::new(),
            lost: false,
        }
    }

    /// Runs until the listener is gone.
    pub(super) async fn run(mut self) {
        let begun = Instant::now();
        let absence = self.connector.limits().absence;
        let mut state = WatchState::new((!self.kind.is_vital()).then_some(absence));
        let mut minor = self.connector.minor.subscribe();
        if self.kind.depends_on_version() {
            // A list by the wrong selector would have to be repeated.
            let _unknown = timeout(LONGEST_WAIT_FOR_VERSION, minor.wait_for(Option::is_some)).await;
        }
        while !self.sink.borrow().is_gone() {
            let known_minor = *minor.borrow_and_update();
            state.set_server_minor(known_minor);
            self.select_by_version(known_minor, &mut state);
            self.negotiation.set_server_minor(known_minor);
            let request = state.next_request();
            debug!(kind = self.kind.resource(), ?request, "request to the API server");
            let other_selector = self.until_other_selector(minor.clone());
            let performed = self.perform_in_time(&request, &mut state, begun);
            // What a request by another selector would find is not asked for any more.
            let Some(end) = unless(pin!(other_selector), pin!(performed)).await else { continue };
            debug!(kind = self.kind.resource(), ?end, "request ended");
            if let Some(time) = self.negotiation.record_end(&end, Instant::now()) {
                self.report_distrust(&end, time);
            }
            let next = state.record_end(&end);
            if !state.is_listing() && matches!(end, End::Page { .. }) {
                self.end_list();
            }
            match next.failing {
                Some(reason) => self.report_failure(end.code(), &reason),
                None if !state.is_listing() && matches!(end, End::Page { .. }) => self.report_following(),
                None => {}
            }
            self.settle_without_list(&end, begun);
            self.renew_after(&end).await;
            // A server of another version may answer differently, so its change ends the pause.
            let _other_version = timeout(with_jitter(next.pause), minor.changed()).await;
        }
    }

    /// Follows the selector of the server's version. What one selector has found says nothing about the other.
    fn select_by_version(&mut self, minor: Option<u32>, state: &mut WatchState) {
        let selector = self.kind.selector(&self.node_name, minor);
        if minor.is_some() && selector != self.selector {
            self.selector = selector;
            state.list_again();
        }
    }

    /// Waits until the server has a version that calls for another selector.
    fn until_other_selector(
        &self,
        mut minor: watch::Receiver<Option<u32>>,
    ) -> impl Future<Output = ()> + use<> {
        let (kind, node_name, selector) = (self.kind, Arc::clone(&self.node_name), self.selector.clone());
        async move {
            let is_other =
                |minor: &Option<u32>| minor.is_some() && kind.selector(&node_name, *minor) != selector;
            if minor.wait_for(is_other).await.is_err() {
                pending().await
            }
        }
    }

    /// Performs a request. A kind that is not vital does not keep the others waiting for longer than the patience,
    /// however long its request takes, be it a watch that waits for the Node.
    async fn perform_in_time(&mut self, request: &Request, state: &mut WatchState, begun: Instant) -> End {
        let left = self.connector.limits().patience.saturating_sub(begun.elapsed());
        let mut waits = !self.kind.is_vital() && self.sink.borrow().awaits(self.kind);
        if waits && left.is_zero() {
            self.sink.borrow_mut().settle(self.kind);
            waits = false;
        }
        let (sink, kind) = (Rc::clone(&self.sink), self.kind);
        let perform = self.perform(request, state);
        if !waits {
            return perform.await;
        }
        tokio::pin!(perform);
        match timeout(left, perform.as_mut()).await {
            Ok(end) => end,
            Err(_elapsed) => {
                sink.borrow_mut().settle(kind);
                perform.await
            }
        }
    }

    async fn perform(&mut self, request: &Request, state: &mut WatchState) -> End {
        let response = match self.send(request).await {
            Ok(response) => response,
            Err(end) => return end,
        };
        match request {
            Request::List { page, .. } => {
                if page.is_none() {
                    self.tracker.begin_list();
                }
                self.take_page(response).await
            }
            Request::StreamingList { .. } => {
                self.tracker.begin_list();
                self.take_watch(response, state).await
            }
            Request::Watch { .. } => {
                self.report_following();
                self.take_watch(response, state).await
            }
            // The objects in this list are not needed: they arrive over the watch, too.
            Request::Confirm { .. } => {
                let list = collect(response, self.connector.limits()).await;
                list.map_or_else(|end| end, |_list| End::Confirmed)
            }
        }
    }

    async fn send(&mut self, request: &Request) -> Result<Response<Body>, End> {
        let uri = self.uri(request);
        let media = self.negotiation.ask(request, Instant::now());
        let refused = match self.get(&uri, media).await {
            Err(End::Refused(refusal)) if refusal.is_about_media() => End::Refused(refusal),
            answer => return answer,
        };
        let Some(time) = self.negotiation.record_fault(Instant::now()) else { return Err(refused) };
        self.report_distrust(&refused, time);
        self.get(&uri, MediaType::Json).await
    }

    async fn get(&mut self, uri: &str, media: MediaType) -> Result<Response<Body>, End> {
        let connector = Rc::clone(&self.connector);
        let answer = get(&connector, uri, media);
        tokio::pin!(answer);
        let answer = match timeout(REPORTED_WAIT, answer.as_mut()).await {
            Ok(answer) => answer,
            Err(_elapsed) => {
                if self.failing_since.is_none() {
                    let (kind, url) = (self.kind.resource(), connector.url());
                    info!("watching {kind}: no answer from {url} after {REPORTED_WAIT:?}, still waiting");
                }
                answer.await
            }
        };
        if answer.is_ok() && std::mem::take(&mut self.lost) {
            connector.reconnected.notify_one();
        }
        answer
    }

    /// Logs that JSON is asked for from now on. The next requests succeed then, unless the answer was spoilt on its way.
    fn report_distrust(&self, end: &End, time: Duration) {
        let (kind, what) = (self.kind.resource(), end.failure().unwrap_or_default());
        warn!(
            "watching {kind}: an answer to a request for protobuf cannot be used ({what}); asking for JSON for {time:?}; \
             if this comes again, set clientConnection.contentType to application/json, or mend what lies between here and \
             the API server"
        );
    }

    /// Has address or credentials read again if a failure makes them doubtful.
    async fn renew_after(&mut self, end: &End) {
        match end {
            End::Broken(_) | End::Silent => {
                self.lost = true;
                self.connector.renew(Doubt::Address).await;
            }
            End::Refused(refusal) if refusal.code == 401 => {
                self.connector.renew(Doubt::Credentials).await;
            }
            _ => {}
        }
    }

    fn uri(&self, request: &Request) -> String {
        let mut query = Serializer::new(String::new());
        if let Some((name, selector)) = &self.selector {
            query.append_pair(name, selector);
        }
        let watch = |query: &mut Serializer<'_, String>, version: &str| {
            query.append_pair("watch", "true").append_pair("allowWatchBookmarks", "true");
            query.append_pair("resourceVersion", version);
            query.append_pair("timeoutSeconds", &watch_seconds().to_string());
        };
        let list = |query: &mut Serializer<'_, String>, limit: Option<u32>, not_older_than: Option<&str>| {
            if let Some(limit) = limit {
                query.append_pair("limit", &limit.to_string());
            }
            if let Some(version) = not_older_than {
                query.append_pair("resourceVersion", version);
                query.append_pair("resourceVersionMatch", "NotOlderThan");
            }
        };
        match request {
            Request::Watch { version } => watch(&mut query, version),
            Request::StreamingList { not_older_than } => {
                watch(&mut query, not_older_than.as_deref().unwrap_or_default());
                query.append_pair("sendInitialEvents", "true");
                query.append_pair("resourceVersionMatch", "NotOlderThan");
            }
            Request::List { page: Some(page), .. } => {
                list(&mut query, Some(self.connector.limits().page), None);
                query.append_pair("continue", page);
            }
            Request::List { not_older_than, page: None, limit } => {
                let limit = limit.then_some(self.connector.limits().page);
                list(&mut query, limit, not_older_than.as_deref());
            }
            Request::Confirm { version } => list(&mut query, Some(1), Some(version)),
        }
        format!("{}?{}", self.kind.path(), query.finish())
    }

    async fn take_page(&mut self, response: Response<Body>) -> End {
        let media = MediaType::of(response.headers());
        let body = match collect(response, self.connector.limits()).await {
            Ok(body) => body,
            Err(end) => return end,
        };
        let tracker = &mut self.tracker;
        let (mut batch, mut unread) = (Batch::default(), None);
        let meta = read_list(&body, media, self.kind, |item| match item {
            Ok(item) => tracker.apply(item, true, &mut batch),
            Err(error) => unread = Some(error),
        });
        self.sink.borrow_mut().take(batch);
        match (meta, unread) {
            (Ok(meta), None) => End::Page { version: meta.resource_version, next: meta.next },
            (Err(error), _) | (_, Some(error)) => End::Garbled(error.to_string()),
        }
    }

    async fn take_watch(&mut self, response: Response<Body>, state: &mut WatchState) -> End {
        let mut events = EventStream::new(self.kind, MediaType::of(response.headers()));
        let mut body = response.into_body();
        let mut progress = Progress::new();
        let begun = progress.begun;
        let closed = || End::Closed { lived: begun.elapsed() > LEAST_WATCH_DURATION };
        while !self.sink.borrow().is_gone() {
            let between_events = events.pending() == 0;
            let deadline = progress.deadline(state.is_listing(), between_events, self.connector.limits());
            let frame = match timeout_at(deadline, body.frame()).await {
                Err(_elapsed) if between_events || state.is_listing() => return End::Quiet,
                Err(_elapsed) => return events.unfinished(),
                Ok(None) => return closed(),
                Ok(Some(Err(error))) => return End::Broken(chain(&error)),
                Ok(Some(Ok(frame))) => frame,
            };
            let Some(bytes) = frame.data_ref() else { continue };
            events.push(bytes);
            let mut batch = Batch::default();
            let unread = events.pending();
            let end = self.take_events(&mut events, state, &mut batch);
            self.sink.borrow_mut().take(batch);
            if let Some(end) = end {
                return end;
            }
            if between_events || events.pending() < unread {
                progress.moved = Instant::now();
            }
            if events.exceeds(self.connector.limits().line_bytes) {
                let limit = self.connector.limits().line_bytes;
                return End::Garbled(format!("a watch event of more than {limit} bytes"));
            }
            events.release();
        }
        closed()
    }

    fn take_events(
        &mut self,
        events: &mut EventStream,
        state: &mut WatchState,
        batch: &mut Batch,
    ) -> Option<End> {
        while let Some(event) = events.next() {
            let end = match event {
                Ok(event) => self.take_event(event, state, batch),
                Err(error) => Some(End::Garbled(error.to_string())),
            };
            if end.is_some() {
                return end;
            }
        }
        None
    }

    fn take_event(
        &mut self,
        event: WatchEvent<Item>,
        state: &mut WatchState,
        batch: &mut Batch,
    ) -> Option<End> {
        match event {
            WatchEvent::Applied(item) => {
                state.observe(item.version.as_deref());
                self.tracker.apply(item, state.is_listing(), batch);
                if !state.is_listing() && self.sink.borrow().awaits(self.kind) {
                    let mut sink = self.sink.borrow_mut();
                    sink.take(std::mem::take(batch));
                    sink.settle(self.kind);
                }
            }
            WatchEvent::Deleted(item) => {
                state.observe(item.version.as_deref());
                self.tracker.delete(item, batch);
            }
            WatchEvent::Bookmark { version, initial_end: true } if state.is_listing() => {
                state.complete_list(&version);
                self.sink.borrow_mut().take(std::mem::take(batch));
                self.end_list();
                self.report_following();
            }
            WatchEvent::Bookmark { version, .. } => state.observe(Some(&version)),
            WatchEvent::Error(status) => return Some(refused(status, None)),
        }
        None
    }

    fn end_list(&mut self) {
        self.negotiation.record_list();
        self.connector.counts.count_list(self.kind.resource());
        let mut batch = Batch::default();
        self.tracker.end_list(&mut batch);
        let mut sink = self.sink.borrow_mut();
        sink.take(batch);
        // A Node that is not there may be about to come; kube-proxy waits for it, too (pkg/proxy/node.go).
        if self.kind != Kind::Node || !self.tracker.is_empty() {
            sink.settle(self.kind);
        }
    }

    /// Lets the other kinds go on without this one where a cluster has no ServiceCIDRs, or the proxy may not
    /// read Nodes. The requests continue.
    fn settle_without_list(&self, end: &End, begun: Instant) {
        let refused = matches!(end, End::Refused(refusal) if refusal.is_absence());
        let patience = self.connector.limits().patience;
        if !self.kind.is_vital() && (refused || begun.elapsed() > patience) {
            self.sink.borrow_mut().settle(self.kind);
        }
    }

    fn report_failure(&mut self, code: &'static str, reason: &str) {
        self.connector.counts.count_error(self.kind.resource(), code);
        self.failing_since.get_or_insert_with(Instant::now);
        if self.logged.insert(code) {
            warn!("watching {}: {reason}; keeping the last objects and trying again", self.kind.resource());
        }
        self.sink.borrow_mut().report_status(self.kind, ApiStatus::Failing(code));
    }

    fn report_following(&mut self) {
        self.logged.clear();
        if let Some(since) = self.failing_since.take() {
            info!("watching {} again after {:?}", self.kind.resource(), since.elapsed());
        }
        self.sink.borrow_mut().report_status(self.kind, ApiStatus::Following);
    }
}

/// Times of a watch under way.
struct Progress {
    begun: Instant,
    /// Time at which the last event was complete or the next one began.
    moved: Instant,
}

impl Progress {
    fn new() -> Self {
        let now = Instant::now();
        Progress { begun: now, moved: now }
    }

    /// Deadline of the next part of the watch. Bytes that complete no event do not postpone it: they may drip
    /// for ever.
    fn deadline(&self, listing: bool, between_events: bool, limits: &Limits) -> Instant {
        if listing {
            (self.moved + limits.first_silence).min(self.begun + limits.list)
        } else if between_events {
            self.moved + limits.silence
        } else {
            self.moved + limits.response
        }
    }
}

/// Duration of the next watch, at random.
fn watch_seconds() -> u64 {
    WATCH_SECONDS - below(WATCH_SECONDS / 5)
}
