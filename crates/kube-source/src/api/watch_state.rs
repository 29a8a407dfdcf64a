//! State of the lists and watches of one kind of objects: it decides from the end of one request which
//! request comes next. Pure: no clock, no network.
//!
//! First comes a list, preferably as the beginning of a watch ("streaming list"), otherwise in pages. A watch
//! continues where the list ended; each time it ends, it is resumed from the last version seen. Whenever an
//! event may have been lost, the objects are listed again.
//!
//! A list after a watch asks for a state "not older than" the last version seen, which the server can answer
//! from its cache. The newest state costs a read of etcd, and after a restart of the control plane all nodes
//! send their requests at the same time. So the newest state is requested only if the server has refused that
//! version (kubernetes#86430 fixed the same thundering herd in client-go; `relistResourceVersion` in
//! tools/cache/reflector.go).

use std::time::Duration;

/// Minor version of the first API server that may have streaming lists (feature gate WatchList).
const STREAMING_LISTS_SINCE_MINOR: u32 = 27;
/// Minor version of the first API server that answers consistent lists from its cache instead of etcd
/// (feature gate ConsistentListFromCache).
const CACHED_LISTS_SINCE_MINOR: u32 = 31;

/// Pause after the first failure; it doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// Limit of the doubling.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Refusals of one version before the newest state is requested: an API server that lags behind etcd catches
/// up within seconds; one that was restored from a backup never does.
const REFUSALS_BEFORE_NEWEST: u32 = 3;
/// Refusals in a row before a dispensable kind is requested only rarely. An API server that has just started
/// does not know all kinds and permissions yet.
const ABSENCES_BEFORE_RARE_REQUESTS: u32 = 5;
/// Streaming lists that break off in a row before pages are requested instead, until a list is complete.
const BROKEN_STREAMS_BEFORE_PAGES: u32 = 3;

/// A request to the API server for objects of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Everything that exists, as the beginning of a watch: at least as new as a version, or the newest
    /// state.
    StreamingList { not_older_than: Option<String> },
    /// Everything that exists, or its next page; without a `limit`, all at once. Before Kubernetes 1.34 a
    /// limit makes the server read etcd, whatever the version (`shouldDelegateList` in the cacher).
    List { not_older_than: Option<String>, page: Option<String>, limit: bool },
    /// All changes after a version.
    Watch { version: String },
    /// A small list that shows whether the server knows a version. It refuses a list of a future version, but
    /// not a watch.
    Confirm { version: String },
}

/// The end of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// A page of a list, with the token of the next one.
    Page { version: String, next: String },
    /// The server knows the version.
    Confirmed,
    /// The server ended a watch in order; if it `lived` for a while, that was requested.
    Closed { lived: bool },
    /// The connection broke, or could not be made.
    Broken(String),
    /// The server did not answer in time.
    Silent,
    /// A watch that had begun delivered nothing for too long: it may be dead.
    Quiet,
    /// Something arrived that could not be parsed: an event may be lost.
    Garbled(String),
    /// The server refused the request, or ended the watch with an error.
    Refused(Refusal),
}

/// The error with which a server refuses a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) reason: String,
    pub(super) message: String,
    /// The requested version lies in the future of this server.
    pub(super) too_large: bool,
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    fn is_expired(&self) -> bool {
        self.code == 410 || self.reason == "Expired" || self.reason == "Gone"
    }

    /// Tells whether the server objects to the request itself, not to the client, the number of requests or
    /// its own state.
    pub(super) const fn is_about_request(&self) -> bool {
        matches!(self.code, 400..=499) && !matches!(self.code, 401 | 403 | 404 | 408 | 410 | 429)
    }

    /// Tells whether the server has nothing of the media type that was asked for.
    pub(super) const fn is_about_media(&self) -> bool {
        matches!(self.code, 406 | 415)
    }

    /// Tells whether the server has no such kind, or does not let us see it.
    pub(super) const fn is_absence(&self) -> bool {
        matches!(self.code, 403 | 404)
    }
}

impl End {
    /// Description of the failure, if it is one.
    pub(super) fn failure(&self) -> Option<String> {
        Some(match self {
            End::Page { .. } | End::Confirmed => return None,
            End::Closed { .. } => "the server ends every watch at once".to_owned(),
            End::Broken(error) => error.clone(),
            End::Silent => "the server does not answer".to_owned(),
            End::Quiet => "the server sends nothing".to_owned(),
            End::Garbled(error) => format!("the server sent something that cannot be parsed: {error}"),
            End::Refused(Refusal { code, reason, message, .. }) => {
                let message = message.replace(char::is_control, " ");
                format!("the server refuses with {code} {reason}: {message}")
            }
        })
    }

    /// Code of the failure. It reveals nothing about servers, credentials or objects.
    pub(super) const fn code(&self) -> &'static str {
        match self {
            End::Page { .. } | End::Confirmed => "listing",
            End::Closed { .. } => "watches-end-at-once",
            End::Broken(_) => "unreachable",
            End::Silent | End::Quiet => "silent",
            End::Garbled(_) => "not-understood",
            End::Refused(Refusal { code: 401, .. }) => "unauthorized",
            End::Refused(Refusal { code: 403, .. }) => "forbidden",
            End::Refused(Refusal { code: 404, .. }) => "not-found",
            End::Refused(Refusal { code: 429, .. }) => "throttled",
            End::Refused(Refusal { code: 500.., .. }) => "server-error",
            End::Refused(_) => "refused",
        }
    }
}

/// Consequences of the end of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// Pause before the next request; the caller adds jitter.
    pub(super) pause: Duration,
    /// Reason why changes do not arrive, once that is worth reporting.
    pub(super) failing: Option<String>,
}

/// State of the lists and watches of one kind of objects.
#[derive(Clone, Debug)]
pub(super) struct WatchState {
    /// Minor version of the server, if known.
    minor: Option<u32>,
    /// Pause while a dispensable kind is missing or forbidden; `None` for a kind that is indispensable.
    rarely: Option<Duration>,
    /// True while streaming lists are tried.
    streams: bool,
    /// Version to request before any is known: `Some("0")` is whatever the server has cached, `None` the
    /// newest.
    first_version: Option<String>,
    /// Version up to which everything has been seen; lists must be at least this new.
    version: Option<String>,
    /// True if a list is complete, so that a watch can follow.
    listed: bool,
    /// True if the server may not know the version.
    doubted: bool,
    /// True if only silence has ended watches since the last complete list. A server that loses data ends its
    /// watches; once it has caught up, nothing else distinguishes its versions from the earlier ones.
    unbroken: bool,
    /// Token of the next page of an unfinished list.
    page: Option<String>,
    /// True if a list expired between two pages, so that the next one must come all at once.
    whole: bool,
    /// Refusals of the requested version, as too large or as nonsense, since the last complete list.
    distrust: u32,
    /// Refusals in a row because the kind is missing or forbidden.
    absences: u32,
    /// True if the next list must be the newest state.
    newest: bool,
    /// Failed requests in a row.
    failures: u32,
    /// Streaming lists that broke off in a row; one that fell silent counts as the maximum.
    broken_streams: u32,
    /// True if anything has arrived since the last request.
    progress: bool,
}

impl WatchState {
    /// Initial state. Where a dispensable kind is missing or forbidden, the pause between requests is
    /// `rarely`.
    pub(super) fn new(rarely: Option<Duration>) -> Self {
        WatchState {
            minor: None,
            rarely,
            streams: true,
            first_version: Some("0".to_owned()),
            version: None,
            listed: false,
            doubted: false,
            unbroken: false,
            page: None,
            whole: false,
            distrust: 0,
            absences: 0,
            newest: false,
            failures: 0,
            broken_streams: 0,
            progress: false,
        }
    }

    /// Takes in that the server is version 1.`minor`, as far as is known. After an upgrade, streaming lists
    /// are tried again, even if the old server had refused them.
    pub(super) fn set_server_minor(&mut self, minor: Option<u32>) {
        let Some(known) = minor.filter(|_| minor != self.minor) else { return };
        let can_stream = known >= STREAMING_LISTS_SINCE_MINOR;
        self.streams = can_stream && (self.streams || self.minor.is_some());
        self.first_version = (known < CACHED_LISTS_SINCE_MINOR).then(|| "0".to_owned());
        self.minor = minor;
    }

    /// The next request.
    pub(super) fn next_request(&self) -> Request {
        match &self.version {
            Some(version) if self.listed && self.doubted => Request::Confirm { version: version.clone() },
            Some(version) if self.listed => Request::Watch { version: version.clone() },
            _ if self.wants_stream() => Request::StreamingList { not_older_than: self.version.clone() },
            Some(version) => {
                Request::List { not_older_than: Some(version.clone()), page: self.page.clone(), limit: false }
            }
            None => {
                let not_older_than = self.first_version.clone().filter(|_| !self.newest);
                Request::List { not_older_than, page: self.page.clone(), limit: !self.whole }
            }
        }
    }

    const fn wants_stream(&self) -> bool {
        !self.listed && self.streams && !self.has_given_up_streams()
    }

    /// Tells whether a list is unfinished or comes next.
    pub(super) const fn is_listing(&self) -> bool {
        !self.listed
    }

    /// Takes in that something arrived over a watch. Objects at the beginning of a streaming list come in any
    /// order of versions, so those versions mean nothing.
    pub(super) fn observe(&mut self, version: Option<&str>) {
        self.progress = true;
        if let Some(version) = version.filter(|version| self.listed && !version.is_empty()) {
            self.version = Some(version.to_owned());
        }
    }

    /// Takes in that the list is complete, as of a version.
    pub(super) fn complete_list(&mut self, version: &str) {
        *self = WatchState {
            version: Some(version.to_owned()),
            listed: true,
            doubted: false,
            unbroken: true,
            page: None,
            whole: false,
            distrust: 0,
            absences: 0,
            newest: false,
            failures: 0,
            broken_streams: 0,
            progress: true,
            ..self.clone()
        };
    }

    /// Takes in the end of the request that [`WatchState::next_request`] returned.
    pub(super) fn record_end(&mut self, end: &End) -> Next {
        // A list that breaks off has to be requested again from its beginning, so what it delivered is no
        // progress. Otherwise a server that cannot finish one would get requests for ever, without growing
        // pauses.
        let progress = std::mem::take(&mut self.progress) && self.listed;
        if progress {
            self.failures = 0;
        }
        self.unbroken &= matches!(end, End::Quiet | End::Confirmed);
        match end {
            End::Confirmed => {
                self.doubted = false;
                self.failures = 0;
            }
            // Nothing confirms the version, so a list follows. The server refuses that one, too, if the
            // version lies in its future.
            _ if self.doubted => {
                self.failures += 1;
                self.list_again();
                self.distrust += u32::from(matches!(end, End::Refused(refusal) if refusal.too_large));
            }
            End::Page { version, next } if next.is_empty() => self.complete_list(version),
            End::Page { next, .. } => self.page = Some(next.clone()),
            End::Closed { lived } if self.listed && (progress || *lived) => self.count_broken_stream(),
            End::Closed { .. } | End::Broken(_) => {
                self.failures += 1;
                self.count_broken_stream();
            }
            End::Silent => {
                self.failures += 1;
                self.count_failed_stream();
            }
            // An old server ignores that a streaming list was requested and never says that it is complete. A
            // server that has lost etcd does not either, but may have pages in its cache.
            End::Quiet if !self.listed => {
                self.failures += 1;
                self.broken_streams = BROKEN_STREAMS_BEFORE_PAGES;
            }
            // Not even a bookmark arrived: nothing has been written since, the connection is dead, or the
            // version comes from before the server lost its data. In the last case a watch stays silent until
            // the server has caught up with that version.
            End::Quiet if self.unbroken => self.doubted = true,
            End::Quiet => self.list_again(),
            End::Garbled(_) => {
                self.failures += 1;
                self.count_broken_stream();
                self.list_again();
            }
            End::Refused(refusal) => {
                self.failures += 1;
                self.handle_refusal(refusal);
            }
        }
        self.absences = match end {
            End::Refused(refusal) if refusal.is_absence() => self.absences + 1,
            _ => 0,
        };
        self.progress = false;
        Next { pause: self.pause(end), failing: self.failing(end) }
    }

    fn count_broken_stream(&mut self) {
        self.page = None;
        if !self.listed {
            // If pages break off, too, the server itself is away, and both ways are tried in turn.
            self.broken_streams = if self.has_given_up_streams() { 0 } else { self.broken_streams + 1 };
        }
    }

    /// Counts a broken stream if the request was for one; a page can simply be requested again.
    fn count_failed_stream(&mut self) {
        if self.wants_stream() {
            self.count_broken_stream();
        }
    }

    const fn has_given_up_streams(&self) -> bool {
        self.broken_streams >= BROKEN_STREAMS_BEFORE_PAGES
    }

    /// A complete list comes next.
    pub(super) fn list_again(&mut self) {
        self.listed = false;
        self.doubted = false;
        self.page = None;
    }

    fn handle_refusal(&mut self, refusal: &Refusal) {
        if refusal.is_expired() {
            self.handle_expiry();
        } else if refusal.too_large {
            self.list_again();
            if self.version.is_some() {
                self.distrust_version();
            } else {
                self.count_failed_stream();
            }
        } else if matches!(refusal.code, 400 | 415 | 422) && self.wants_stream() {
            self.streams = false;
            self.failures = 0;
        } else if refusal.is_about_request() {
            self.distrust_version();
        } else if refusal.code >= 500 {
            self.count_failed_stream();
        }
    }

    fn handle_expiry(&mut self) {
        if self.listed {
            self.list_again();
        } else if self.page.take().is_some() {
            self.whole = true;
        } else {
            self.forget_version();
        }
    }

    /// Counts that the server rejects this version, which may come from before it lost its data.
    fn distrust_version(&mut self) {
        self.distrust += 1;
        if self.distrust >= REFUSALS_BEFORE_NEWEST {
            self.distrust = 0;
            self.forget_version();
        }
    }

    fn forget_version(&mut self) {
        self.list_again();
        self.version = None;
        self.newest = true;
    }

    fn pause(&self, end: &End) -> Duration {
        let requested = match end {
            End::Refused(Refusal { retry_after: Some(wait), .. }) => (*wait).min(LONGEST_PAUSE * 2),
            _ => Duration::ZERO,
        };
        let own = match self.failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => (FIRST_PAUSE * 2u32.saturating_pow(doublings.min(10))).min(LONGEST_PAUSE),
        };
        let rarely =
            self.rarely.filter(|_| self.absences > ABSENCES_BEFORE_RARE_REQUESTS).unwrap_or_default();
        own.max(requested).max(rarely)
    }

    /// Reason to report for an end, if there is one. A single failure may be a restart of the server. It is
    /// worth a report if another one follows, if the server itself refused, or if there was no answer.
    fn failing(&self, end: &End) -> Option<String> {
        let text = end.failure()?;
        // An answer that did not come has taken so long already that its failure is reported at once.
        let definite = match end {
            End::Silent => true,
            End::Refused(refusal) => refusal.code == 401 || refusal.is_absence(),
            _ => false,
        };
        (self.failures > 1 || (definite && self.failures > 0)).then_some(text)
    }
}

#[cfg(test)]
mod tests;
