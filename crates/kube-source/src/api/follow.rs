//! Asks what the course says and takes in what arrives.

use std::{
    cell::RefCell,
    collections::{BTreeSet, hash_map::RandomState},
    hash::{BuildHasher, Hasher},
    rc::Rc,
    time::Duration,
};

use form_urlencoded::Serializer;
use http::{Request, Response, header};
use http_body_util::BodyExt;
use kube::client::Body;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, info, warn};

use super::{
    ApiOptions, ApiStatus,
    body::{Lines, Status, WatchLine, read_list},
    connect::Connector,
    course::{Ask, Course, End},
    kinds::Kind,
    known::Known,
    sink::Sink,
};
use crate::Batch;

/// For the head of a response, and between two parts of a list.
const RESPONSE: Duration = Duration::from_secs(30);
/// In the begin of a streaming list: servers that do not know it stay silent after the last object.
const INITIAL_SILENCE: Duration = Duration::from_secs(10);
/// Watches are asked to end after this time or up to a fifth less, so that not all nodes return at once.
const WATCH_SECONDS: u64 = 300;
/// A watch that ends sooner, without having brought anything, has failed.
const SHORT_LIVED: Duration = Duration::from_secs(5);
/// A kind that is not vital is not waited for longer; kube-proxy waits as long for the Node
/// (`NewNodeManager` in pkg/proxy/node.go).
const PATIENCE: Duration = Duration::from_secs(30);
/// As client-go's pager.
const PAGE: &str = "500";
/// The body of a refusal is read so far.
const LONGEST_STATUS: usize = 64 * 1024;

/// Follows one kind of objects.
pub(super) struct Follower<'a> {
    kind: Kind,
    silence: Duration,
    selector: Option<(&'static str, String)>,
    connector: Rc<Connector>,
    sink: Rc<RefCell<Sink<'a>>>,
    known: Known,
    /// Since when changes have not been arriving.
    failing_since: Option<Instant>,
    /// Codes of the failures since then whose details are in the log.
    logged: BTreeSet<&'static str>,
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
            silence: options.silence,
            selector: kind.selector(&options.node_name),
            connector,
            sink,
            known: Known::new(kind),
            failing_since: None,
            logged: BTreeSet::new(),
        }
    }

    /// Goes on until the listener is gone.
    pub(super) async fn run(mut self) {
        let begun = Instant::now();
        let mut course = Course::new(self.connector.minor().await);
        while !self.sink.borrow().is_gone() {
            let ask = course.next();
            debug!(kind = self.kind.resource(), ?ask, "ask");
            let end = self.perform(&ask, &mut course).await;
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
            if matches!(end, End::Broken(_) | End::Refused { code: 401, .. }) {
                self.connector.renew().await;
            }
            sleep(with_jitter(next.pause)).await;
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
            Ask::Confirm { .. } => collect(response).await.map_or_else(|end| end, |_list| End::Confirmed),
        }
    }

    async fn request(&self, ask: &Ask) -> Result<Response<Body>, End> {
        let broken = |error: &dyn std::error::Error| End::Broken(chain(error));
        let request = Request::get(self.uri(ask))
            .header(header::ACCEPT, "application/json")
            .body(Body::from(Vec::new()))
            .map_err(|error| broken(&error))?;
        let client = self.connector.client().map_err(|error| broken(&error))?;
        match timeout(RESPONSE, client.send(request)).await {
            Err(_elapsed) => Err(End::Silent),
            Ok(Err(error)) => Err(broken(&error)),
            Ok(Ok(response)) if response.status().is_success() => Ok(response),
            Ok(Ok(response)) => Err(refusal(response).await),
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
        let list = |query: &mut Serializer<'_, String>, limit: &str, not_older_than: Option<&str>| {
            query.append_pair("limit", limit);
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
                query.append_pair("limit", PAGE).append_pair("continue", page);
            }
            Ask::List { not_older_than, page: None } => list(&mut query, PAGE, not_older_than.as_deref()),
            Ask::Confirm { version } => list(&mut query, "1", Some(version)),
        }
        format!("{}?{}", self.kind.path(), query.finish())
    }

    async fn take_page(&mut self, response: Response<Body>) -> End {
        let text = match collect(response).await {
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
        let closed = || End::Closed { lived: begun.elapsed() > SHORT_LIVED };
        while !self.sink.borrow().is_gone() {
            let patience = if course.is_listing() { INITIAL_SILENCE } else { self.silence };
            let frame = match timeout(patience, body.frame()).await {
                Err(_elapsed) => return End::Quiet,
                Ok(None) => return closed(),
                Ok(Some(Err(error))) => return End::Broken(chain(&error)),
                Ok(Some(Ok(frame))) => frame,
            };
            let Some(bytes) = frame.data_ref() else { continue };
            lines.push(bytes);
            let mut batch = Batch::default();
            let end = self.take_lines(&mut lines, course, &mut batch);
            self.sink.borrow_mut().objects(batch);
            if let Some(end) = end {
                return end;
            }
            lines.relax();
        }
        closed()
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
        let refused = matches!(end, End::Refused { code: 403 | 404, .. });
        if !self.kind.is_vital() && (refused || begun.elapsed() > PATIENCE) {
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

/// The whole body, as long as it keeps coming.
async fn collect(response: Response<Body>) -> Result<String, End> {
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    loop {
        match timeout(RESPONSE, body.frame()).await {
            Err(_elapsed) => return Err(End::Silent),
            Ok(None) => break,
            Ok(Some(Err(error))) => return Err(End::Broken(chain(&error))),
            Ok(Some(Ok(frame))) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..])),
        }
    }
    String::from_utf8(bytes).map_err(|error| End::Garbled(error.to_string()))
}

/// What a response that is no success says.
async fn refusal(response: Response<Body>) -> End {
    let (head, mut body) = response.into_parts();
    let retry_after =
        head.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
    let mut bytes = Vec::new();
    while bytes.len() < LONGEST_STATUS {
        match timeout(RESPONSE, body.frame()).await {
            Ok(Some(Ok(frame))) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| &data[..])),
            _ => break,
        }
    }
    let status: Status = serde_json::from_slice(&bytes).unwrap_or_default();
    let fallback = head.status.canonical_reason().unwrap_or_default();
    let reason = if status.reason.is_empty() { fallback.to_owned() } else { status.reason };
    refused(Status { code: head.status.as_u16(), reason, ..status }, retry_after.map(Duration::from_secs))
}

fn refused(status: Status, retry_after: Option<Duration>) -> End {
    let Status { code, reason, message } = status;
    End::Refused { code, reason, message, retry_after }
}

fn watch_seconds() -> u64 {
    WATCH_SECONDS - random() % (WATCH_SECONDS / 5)
}

/// Between half of a pause and all of it, so that nodes do not return in step.
fn with_jitter(pause: Duration) -> Duration {
    pause / 2 + (pause / 2).mul_f64((random() % 1000) as f64 / 1000.0)
}

/// The standard library seeds its hashers at random: enough to spread requests.
fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// An error with its whole chain of causes on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
