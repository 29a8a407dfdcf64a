//! Asks what the course says and takes in what arrives.

use std::{cell::RefCell, collections::BTreeSet, rc::Rc, time::Duration};

use form_urlencoded::Serializer;
use http::Response;
use http_body_util::BodyExt;
use kube::client::Body;
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, info, warn};

use super::{
    ApiOptions, ApiStatus,
    answer::{collect, get, refused},
    body::{Lines, WatchLine, read_list},
    chain,
    chance::{below, with_jitter},
    connect::{Connector, Doubt},
    course::{Ask, Course, End},
    kinds::Kind,
    known::Known,
    sink::Sink,
};
use crate::Batch;

/// Watches are asked to end after this time or up to a fifth less, so that not all nodes return at once.
const WATCH_SECONDS: u64 = 300;
/// A watch that ends sooner, without having brought anything, has failed.
const SHORT_LIVED: Duration = Duration::from_secs(5);
/// A request without an answer for so long is worth a word.
const NOTICEABLE: Duration = Duration::from_secs(5);

/// Follows one kind of objects.
pub(super) struct Follower<'a> {
    kind: Kind,
    selector: Option<(&'static str, String)>,
    connector: Rc<Connector>,
    sink: Rc<RefCell<Sink<'a>>>,
    known: Known,
    /// Since when changes have not been arriving.
    failing_since: Option<Instant>,
    /// Codes of the failures since then whose details are in the log.
    logged: BTreeSet<&'static str>,
    /// Whether the last request met no server.
    lost: bool,
}

impl<'a> Follower<'a> {
    pub(super) fn new(
        kind: Kind,
        options: &ApiOptions,
        connector: Rc<Connector>,
        sink: Rc<RefCell<Sink<'a>>>,
    ) -> Self {
        Follower {
            kind,
            selector: kind.selector(&options.node_name),
            connector,
            sink,
            known: Known::new(kind),
            failing_since: None,
            logged: BTreeSet::new(),
            lost: false,
        }
    }

    /// Goes on until the listener is gone.
    pub(super) async fn run(mut self) {
        let begun = Instant::now();
        let absence = self.connector.limits().absence;
        let mut course = Course::new((!self.kind.is_vital()).then_some(absence));
        let mut minor = self.connector.minor.subscribe();
        while !self.sink.borrow().is_gone() {
            course.server_is(*minor.borrow_and_update());
            let ask = course.next();
            debug!(kind = self.kind.resource(), ?ask, "ask");
            let end = self.perform_in_time(&ask, &mut course, begun).await;
            debug!(kind = self.kind.resource(), ?end, "answered");
            let next = course.ended(&end);
            if !course.is_listing() && matches!(end, End::Page { .. }) {
                self.end_list();
            }
            match next.failing {
                Some(reason) => self.failing(end.code(), &reason),
                None if !course.is_listing() && matches!(end, End::Page { .. }) => self.following(),
                None => {}
            }
            self.settle_without_list(&end, begun);
            self.doubt(&end).await;
            // A server of another version may know another answer.
            let _other_version = timeout(with_jitter(next.pause), minor.changed()).await;
        }
    }

    /// A kind that is not vital does not keep the others waiting, whatever its requests wait for.
    async fn perform_in_time(&mut self, ask: &Ask, course: &mut Course, begun: Instant) -> End {
        let left = self.connector.limits().patience.saturating_sub(begun.elapsed());
        let waits = course.is_listing() && !self.kind.is_vital() && left > Duration::ZERO;
        let (sink, kind) = (Rc::clone(&self.sink), self.kind);
        let perform = self.perform(ask, course);
        if !waits {
            return perform.await;
        }
        tokio::pin!(perform);
        match timeout(left, perform.as_mut()).await {
            Ok(end) => end,
            Err(_elapsed) => {
                sink.borrow_mut().settled(kind);
                perform.await
            }
        }
    }

    async fn perform(&mut self, ask: &Ask, course: &mut Course) -> End {
        let response = match self.request(ask).await {
            Ok(response) => response,
            Err(end) => return end,
        };
        match ask {
            Ask::List { page, .. } => {
                if page.is_none() {
                    self.known.begin_list();
                }
                self.take_page(response).await
            }
            Ask::StreamingList { .. } => {
                self.known.begin_list();
                self.take_watch(response, course).await
            }
            Ask::Watch { .. } => {
                self.following();
                self.take_watch(response, course).await
            }
            // What is in the list arrives over the watch, too.
            Ask::Confirm { .. } => {
                let list = collect(response, self.connector.limits()).await;
                list.map_or_else(|end| end, |_list| End::Confirmed)
            }
        }
    }

    async fn request(&mut self, ask: &Ask) -> Result<Response<Body>, End> {
        let uri = self.uri(ask);
        let connector = Rc::clone(&self.connector);
        let answer = get(&connector, &uri);
        tokio::pin!(answer);
        let answer = match timeout(NOTICEABLE, answer.as_mut()).await {
            Ok(answer) => answer,
            Err(_elapsed) => {
                if self.failing_since.is_none() {
                    let (kind, url) = (self.kind.resource(), connector.url());
                    info!("watching {kind}: no answer from {url} after {NOTICEABLE:?}, still waiting");
                }
                answer.await
            }
        };
        if answer.is_ok() && std::mem::take(&mut self.lost) {
            connector.reconnected.notify_one();
        }
        answer
    }

    /// What a failure says about address and credentials.
    async fn doubt(&mut self, end: &End) {
        match end {
            End::Broken(_) | End::Silent => {
                self.lost = true;
                self.connector.renew(Doubt::Way).await;
            }
            End::Refused(refusal) if refusal.code == 401 => {
                self.connector.renew(Doubt::Credentials).await;
            }
            _ => {}
        }
    }

    fn uri(&self, ask: &Ask) -> String {
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
        match ask {
            Ask::Watch { version } => watch(&mut query, version),
            Ask::StreamingList { not_older_than } => {
                watch(&mut query, not_older_than.as_deref().unwrap_or_default());
                query.append_pair("sendInitialEvents", "true");
                query.append_pair("resourceVersionMatch", "NotOlderThan");
            }
            Ask::List { page: Some(page), .. } => {
                list(&mut query, Some(self.connector.limits().page), None);
                query.append_pair("continue", page);
            }
            Ask::List { not_older_than, page: None, limit } => {
                let limit = limit.then_some(self.connector.limits().page);
                list(&mut query, limit, not_older_than.as_deref());
            }
            Ask::Confirm { version } => list(&mut query, Some(1), Some(version)),
        }
        format!("{}?{}", self.kind.path(), query.finish())
    }

    async fn take_page(&mut self, response: Response<Body>) -> End {
        let text = match collect(response, self.connector.limits()).await {
            Ok(text) => text,
            Err(end) => return end,
        };
        let (kind, known) = (self.kind, &mut self.known);
        let (mut batch, mut unread) = (Batch::default(), None);
        let meta = read_list(&text, |json| match kind.read(json) {
            Ok(item) => known.apply(item, true, &mut batch),
            Err(error) => unread = Some(error),
        });
        self.sink.borrow_mut().objects(batch);
        match (meta, unread) {
            (Ok(meta), None) => End::Page { version: meta.resource_version, next: meta.next },
            (Err(error), _) | (_, Some(error)) => End::Garbled(error.to_string()),
        }
    }

    async fn take_watch(&mut self, response: Response<Body>, course: &mut Course) -> End {
        let mut body = response.into_body();
        let mut lines = Lines::default();
        let begun = Instant::now();
        // When the last line was complete or the next one began.
        let mut moved = begun;
        let closed = || End::Closed { lived: begun.elapsed() > SHORT_LIVED };
        while !self.sink.borrow().is_gone() {
            let between_lines = lines.pending() == 0;
            let deadline = self.deadline(course.is_listing(), between_lines, (begun, moved));
            let frame = match timeout_at(deadline, body.frame()).await {
                Err(_elapsed) if between_lines || course.is_listing() => return End::Quiet,
                Err(_elapsed) => return End::Broken("a watch event never ends".to_owned()),
                Ok(None) => return closed(),
                Ok(Some(Err(error))) => return End::Broken(chain(&error)),
                Ok(Some(Ok(frame))) => frame,
            };
            let Some(bytes) = frame.data_ref() else { continue };
            lines.push(bytes);
            let mut batch = Batch::default();
            let unread = lines.pending();
            let end = self.take_lines(&mut lines, course, &mut batch);
            self.sink.borrow_mut().objects(batch);
            if let Some(end) = end {
                return end;
            }
            if between_lines || lines.pending() < unread {
                moved = Instant::now();
            }
            if lines.pending() > self.connector.limits().line_bytes {
                return End::Garbled("a watch event is larger than any object".to_owned());
            }
            lines.relax();
        }
        closed()
    }

    /// Until when the next part of a watch is waited for that `began`, and `moved` last. Bytes that complete no line
    /// count for nothing: they may drip for ever.
    fn deadline(&self, listing: bool, between_lines: bool, (began, moved): (Instant, Instant)) -> Instant {
        let limits = self.connector.limits();
        match (listing, between_lines) {
            (true, _) => (moved + limits.first_silence).min(began + limits.list),
            (false, true) => moved + limits.silence,
            (false, false) => moved + limits.response,
        }
    }

    fn take_lines(&mut self, lines: &mut Lines, course: &mut Course, batch: &mut Batch) -> Option<End> {
        while let Some(line) = lines.next() {
            let taken = match std::str::from_utf8(line) {
                Ok(line) => self.take_line(line, course, batch).map_err(|error| error.to_string()),
                Err(error) => Err(error.to_string()),
            };
            match taken {
                Ok(None) => {}
                Ok(Some(end)) => return Some(end),
                Err(error) => return Some(End::Garbled(error)),
            }
        }
        None
    }

    fn take_line(
        &mut self,
        line: &str,
        course: &mut Course,
        batch: &mut Batch,
    ) -> Result<Option<End>, serde_json::Error> {
        match WatchLine::parse(line)? {
            WatchLine::Applied(json) => {
                let item = self.kind.read(json)?;
                course.saw(item.version.as_deref());
                self.known.apply(item, course.is_listing(), batch);
            }
            WatchLine::Deleted(json) => {
                let item = self.kind.read(json)?;
                course.saw(item.version.as_deref());
                self.known.delete(item, batch);
            }
            WatchLine::Bookmark { version, initial_end: true } if course.is_listing() => {
                course.list_complete(&version);
                self.sink.borrow_mut().objects(std::mem::take(batch));
                self.end_list();
                self.following();
            }
            WatchLine::Bookmark { version, .. } => course.saw(Some(&version)),
            WatchLine::Error(status) => return Ok(Some(refused(status, None))),
        }
        Ok(None)
    }

    fn end_list(&mut self) {
        let mut batch = Batch::default();
        self.known.end_list(&mut batch);
        let mut sink = self.sink.borrow_mut();
        sink.objects(batch);
        sink.settled(self.kind);
    }

    /// A cluster without ServiceCIDRs, or a proxy that may not read Nodes: goes on without, and keeps asking.
    fn settle_without_list(&self, end: &End, begun: Instant) {
        let refused = matches!(end, End::Refused(refusal) if refusal.is_absence());
        let patience = self.connector.limits().patience;
        if !self.kind.is_vital() && (refused || begun.elapsed() > patience) {
            self.sink.borrow_mut().settled(self.kind);
        }
    }

    fn failing(&mut self, code: &'static str, reason: &str) {
        self.failing_since.get_or_insert_with(Instant::now);
        if self.logged.insert(code) {
            warn!("watching {}: {reason}; the last objects stay, trying again", self.kind.resource());
        }
        self.sink.borrow_mut().status(self.kind, ApiStatus::Failing(code));
    }

    fn following(&mut self) {
        self.logged.clear();
        if let Some(since) = self.failing_since.take() {
            info!("watching {} again after {:?}", self.kind.resource(), since.elapsed());
        }
        self.sink.borrow_mut().status(self.kind, ApiStatus::Following);
    }
}

fn watch_seconds() -> u64 {
    WATCH_SECONDS - below(WATCH_SECONDS / 5)
}
