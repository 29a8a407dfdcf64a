//! What is asked of the server next, decided from how the last request ended. Pure: no clock, no network.
//!
//! A list comes first, by preference as the begin of a watch ("streaming list"), else in pages; then a watch from where
//! it ended, resumed from the last version seen whenever it ends. Whatever may have cost an event leads back to a list.
//!
//! A list that follows a watch is asked for "not older than" the last version seen, which the server answers from its
//! cache. The newest state costs a read of etcd, and all nodes ask at the same time after a restart of the control
//! plane, so it is asked for only if the server has refused that version (kubernetes#86430 mended the same herd in
//! client-go; `relistResourceVersion` in tools/cache/reflector.go).

use std::time::Duration;

/// First version of the API server that may have streaming lists, and the first that answers consistent lists from its
/// cache instead of etcd (feature gates WatchList and ConsistentListFromCache).
const STREAMS_SINCE: u32 = 27;
const CHEAP_SINCE: u32 = 31;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Refusals of one version, after which the newest is asked for: an API server that lags behind etcd catches up within
/// seconds, one that was restored from a backup does not.
const DISTRUST_AFTER: u32 = 3;
/// Refusals in a row after which a kind that can be done without is asked for rarely. An API server that has just
/// started knows neither all kinds nor all permissions yet.
const RARELY_AFTER: u32 = 5;
/// Streaming lists that broke off so often in a row are given up until a list is complete.
const STREAM_ATTEMPTS: u32 = 3;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Everything that exists, as the begin of a watch; at least as new as a version, or as now.
    StreamingList { not_older_than: Option<String> },
    /// Everything that exists, or its next page; without a `limit`, all at once. Before Kubernetes 1.34 a limit sends
    /// the server to etcd, whatever the version (`shouldDelegateList` in the cacher).
    List { not_older_than: Option<String>, page: Option<String>, limit: bool },
    /// What happens from a version on.
    Watch { version: String },
    /// Whether the server knows a version: it refuses those of the future, if not over a watch.
    Confirm { version: String },
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// A page of a list, with the token of the next one.
    Page { version: String, next: String },
    /// The server knows the version.
    Confirmed,
    /// The server ended a watch in order; as asked for if it `lived` for a while.
    Closed { lived: bool },
    /// The connection broke, or could not be made.
    Broken(String),
    /// The server does not answer.
    Silent,
    /// A watch that had begun brought nothing for too long: it may be dead.
    Quiet,
    /// Something arrived that cannot be understood: an event may be lost.
    Garbled(String),
    /// The server said no, before or during a watch.
    Refused(Refusal),
}

/// A server's no.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) reason: String,
    pub(super) message: String,
    /// The version that was asked for is one of the future, from where this server stands.
    pub(super) too_large: bool,
    pub(super) retry_after: Option<Duration>,
}

impl Refusal {
    fn is_expired(&self) -> bool {
        self.code == 410 || self.reason == "Expired" || self.reason == "Gone"
    }

    /// The request itself is wrong in the eyes of the server, not who asks, how often, or the state of the server.
    const fn is_about_request(&self) -> bool {
        matches!(self.code, 400..=499) && !matches!(self.code, 401 | 403 | 404 | 408 | 410 | 429)
    }

    /// The server has no such kind, or does not let us see it.
    pub(super) const fn is_absence(&self) -> bool {
        matches!(self.code, 403 | 404)
    }
}

impl End {
    /// A word for it that tells nothing about servers, credentials or objects.
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

/// What follows from an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Next {
    /// Before the next request; the caller adds jitter.
    pub(super) pause: Duration,
    /// Why changes do not arrive, once that is worth a word.
    pub(super) failing: Option<String>,
}

/// The course of one kind of objects.
#[derive(Clone, Debug)]
pub(super) struct Course {
    /// Minor version of the server, if known.
    minor: Option<u32>,
    /// Pause of a kind that is missing or forbidden, if it can be done without.
    rarely: Option<Duration>,
    /// Whether streaming lists are tried.
    streams: bool,
    /// Asked for where nothing is known yet: `Some("0")` is whatever the server has in its cache, `None` the newest.
    first_version: Option<String>,
    /// Up to here everything has been seen; at least this is asked for in lists.
    version: Option<String>,
    /// Whether a list was completed, so that a watch can follow.
    listed: bool,
    /// Whether the version may be one that the server does not know.
    doubted: bool,
    /// Whether nothing but silence has ended a watch since the last complete list. A server that loses data ends its
    /// watches; once it has caught up, nothing else tells its versions from those of before.
    unbroken: bool,
    /// The next page of a list under way.
    page: Option<String>,
    /// A list expired between two pages: it is asked for all at once.
    whole: bool,
    /// Refusals of the version that is asked for, as too large or as nonsense, since the last complete list.
    distrust: u32,
    /// Absences in a row.
    absences: u32,
    /// The newest state must be asked for.
    newest: bool,
    /// Requests that failed in a row.
    failures: u32,
    /// Streaming lists that broke off in a row, or enough of them if one fell silent.
    broken_streams: u32,
    /// Whether anything arrived since the last request.
    progress: bool,
}

impl Course {
    /// A course from the begin. A kind that can be done without is asked for `rarely` where it is missing or forbidden.
    pub(super) fn new(rarely: Option<Duration>) -> Self {
        Course {
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

    /// The server is version 1.`minor`, for all that is known. A server that was upgraded is asked for streaming lists
    /// again, although the old one had refused them.
    pub(super) fn server_is(&mut self, minor: Option<u32>) {
        let Some(known) = minor.filter(|_| minor != self.minor) else { return };
        let can_stream = known >= STREAMS_SINCE;
        self.streams = can_stream && (self.streams || self.minor.is_some());
        self.first_version = (known < CHEAP_SINCE).then(|| "0".to_owned());
        self.minor = minor;
    }

    /// The next request.
    pub(super) fn next(&self) -> Ask {
        match &self.version {
            Some(version) if self.listed && self.doubted => Ask::Confirm { version: version.clone() },
            Some(version) if self.listed => Ask::Watch { version: version.clone() },
            _ if self.asks_stream() => Ask::StreamingList { not_older_than: self.version.clone() },
            Some(version) => {
                Ask::List { not_older_than: Some(version.clone()), page: self.page.clone(), limit: false }
            }
            None => {
                let not_older_than = self.first_version.clone().filter(|_| !self.newest);
                Ask::List { not_older_than, page: self.page.clone(), limit: !self.whole }
            }
        }
    }

    const fn asks_stream(&self) -> bool {
        !self.listed && self.streams && !self.streams_break()
    }

    /// Whether a list is under way or comes next.
    pub(super) const fn is_listing(&self) -> bool {
        !self.listed
    }

    /// Something arrived over a watch. Versions of objects in the begin of a streaming list come in any order and mean
    /// nothing.
    pub(super) fn saw(&mut self, version: Option<&str>) {
        self.progress = true;
        if let Some(version) = version.filter(|version| self.listed && !version.is_empty()) {
            self.version = Some(version.to_owned());
        }
    }

    /// The list is complete, as of a version.
    pub(super) fn list_complete(&mut self, version: &str) {
        *self = Course {
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

    /// Takes in how the request ended that [`Course::next`] had given.
    pub(super) fn ended(&mut self, end: &End) -> Next {
        // A list that breaks off is asked for as a whole again, so what it brought is no progress: a server that cannot
        // finish one must not be asked ever again without longer pauses.
        let progress = std::mem::take(&mut self.progress) && self.listed;
        if progress {
            self.failures = 0;
        }
        self.unbroken &= matches!(end, End::Quiet | End::Confirmed);
        match end {
            End::Confirmed => (self.doubted, self.failures) = (false, 0),
            // Nothing confirms the version, so a list follows. It is refused, too, if the version is one of the future.
            _ if self.doubted => {
                self.failures += 1;
                self.list_again();
                self.distrust += u32::from(matches!(end, End::Refused(refusal) if refusal.too_large));
            }
            End::Page { version, next } if next.is_empty() => self.list_complete(version),
            End::Page { next, .. } => self.page = Some(next.clone()),
            End::Closed { lived } if self.listed && (progress || *lived) => self.stream_broke(),
            End::Closed { .. } | End::Broken(_) => {
                self.failures += 1;
                self.stream_broke();
            }
            End::Silent => {
                self.failures += 1;
                self.stream_failed();
            }
            // An old server that ignores the wish for a streaming list never says that it is complete; one that has
            // lost etcd does not either, but may have pages in its cache.
            End::Quiet if !self.listed => {
                self.failures += 1;
                self.broken_streams = STREAM_ATTEMPTS;
            }
            // Not even a bookmark: nothing was written since, the connection is dead, or the version comes from before
            // the server lost its data, and a watch from there stays silent until the server has caught up with it.
            End::Quiet if self.unbroken => self.doubted = true,
            End::Quiet => self.list_again(),
            End::Garbled(_) => {
                self.failures += 1;
                self.stream_broke();
                self.list_again();
            }
            End::Refused(refusal) => {
                self.failures += 1;
                self.refused(refusal);
            }
        }
        self.absences = match end {
            End::Refused(refusal) if refusal.is_absence() => self.absences + 1,
            _ => 0,
        };
        self.progress = false;
        Next { pause: self.pause(end), failing: self.failing(end) }
    }

    fn stream_broke(&mut self) {
        self.page = None;
        if !self.listed {
            // If pages break off, too, it is the server that is away, and both are tried by turns.
            self.broken_streams = if self.streams_break() { 0 } else { self.broken_streams + 1 };
        }
    }

    /// Like a stream that broke off, if a stream was asked for; a page can be asked for again.
    fn stream_failed(&mut self) {
        if self.asks_stream() {
            self.stream_broke();
        }
    }

    const fn streams_break(&self) -> bool {
        self.broken_streams >= STREAM_ATTEMPTS
    }

    fn list_again(&mut self) {
        self.listed = false;
        self.doubted = false;
        self.page = None;
    }

    fn refused(&mut self, refusal: &Refusal) {
        if refusal.is_expired() {
            self.expired();
        } else if refusal.too_large {
            self.list_again();
            if self.version.is_some() {
                self.distrust();
            } else {
                self.stream_failed();
            }
        } else if matches!(refusal.code, 400 | 415 | 422) && self.asks_stream() {
            self.streams = false;
            self.failures = 0;
        } else if refusal.is_about_request() {
            self.distrust();
        } else if refusal.code >= 500 {
            self.stream_failed();
        }
    }

    fn expired(&mut self) {
        if self.listed {
            self.list_again();
        } else if self.page.take().is_some() {
            self.whole = true;
        } else {
            self.forget_version();
        }
    }

    /// The server takes this version for wrong; it may be from the time before it lost its data.
    fn distrust(&mut self) {
        self.distrust += 1;
        if self.distrust >= DISTRUST_AFTER {
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
        let asked = match end {
            End::Refused(Refusal { retry_after: Some(wait), .. }) => (*wait).min(LONGEST_PAUSE * 2),
            _ => Duration::ZERO,
        };
        let own = match self.failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => (FIRST_PAUSE * 2u32.saturating_pow(doublings.min(10))).min(LONGEST_PAUSE),
        };
        let rarely = self.rarely.filter(|_| self.absences > RARELY_AFTER).unwrap_or_default();
        own.max(asked).max(rarely)
    }

    /// One failure may be a server that restarts; it is worth a word if another one follows, if the server said so, or if
    /// there is no answer.
    fn failing(&self, end: &End) -> Option<String> {
        let text = match end {
            End::Page { .. } | End::Confirmed => return None,
            End::Closed { .. } => "the server ends every watch at once".to_owned(),
            End::Broken(error) => error.clone(),
            End::Silent => "the server does not answer".to_owned(),
            End::Quiet => "nothing arrives".to_owned(),
            End::Garbled(error) => format!("the server sends what is not understood: {error}"),
            End::Refused(Refusal { code, reason, message, .. }) => {
                format!("refused with {code} {reason}: {message}")
            }
        };
        // Who waits for an answer for so long hears of it at once.
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
