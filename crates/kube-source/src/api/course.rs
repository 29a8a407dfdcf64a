//! What is asked of the server next, decided from how the last request ended. Pure: no clock, no network.
//!
//! A list comes first, by preference as the begin of a watch ("streaming list"), else in pages; then a watch from where
//! it ended, resumed from the last version seen whenever it ends. Whatever may have cost an event leads back to a list.

use std::time::Duration;

/// First version of the API server that may have streaming lists, and the first that answers consistent lists from its
/// cache instead of etcd (feature gates WatchList and ConsistentListFromCache).
const STREAMS_SINCE: u32 = 27;
const CHEAP_SINCE: u32 = 31;

const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// A version that was refused so often in a row is given up.
const DISTRUST_AFTER: u32 = 3;
/// Streaming lists that broke off so often in a row are given up until a list is complete.
const STREAM_ATTEMPTS: u32 = 3;

/// A request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    /// Everything that exists, as the begin of a watch; at least as new as a version, or as now.
    StreamingList { not_older_than: Option<String> },
    /// Everything that exists, or its next page.
    List { not_older_than: Option<String>, page: Option<String> },
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
    Refused { code: u16, reason: String, message: String, retry_after: Option<Duration> },
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
            End::Refused { code: 401, .. } => "unauthorized",
            End::Refused { code: 403, .. } => "forbidden",
            End::Refused { code: 404, .. } => "not-found",
            End::Refused { code: 429, .. } => "throttled",
            End::Refused { code: 500.., .. } => "server-error",
            End::Refused { .. } => "refused",
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
    /// A course from the begin; `minor` is the server's version 1.`minor`, if known.
    pub(super) fn new(minor: Option<u32>) -> Self {
        let cheap = minor.is_some_and(|minor| minor >= CHEAP_SINCE);
        Course {
            streams: minor.is_none_or(|minor| minor >= STREAMS_SINCE),
            first_version: (!cheap).then(|| "0".to_owned()),
            version: None,
            listed: false,
            doubted: false,
            unbroken: false,
            page: None,
            newest: false,
            failures: 0,
            broken_streams: 0,
            progress: false,
        }
    }

    /// The next request.
    pub(super) fn next(&self) -> Ask {
        match &self.version {
            Some(version) if self.listed && self.doubted => Ask::Confirm { version: version.clone() },
            Some(version) if self.listed => Ask::Watch { version: version.clone() },
            _ if self.streams && !self.streams_break() => {
                Ask::StreamingList { not_older_than: self.version.clone() }
            }
            _ if self.newest => Ask::List { not_older_than: None, page: self.page.clone() },
            known => {
                let not_older_than = known.clone().or_else(|| self.first_version.clone());
                Ask::List { not_older_than, page: self.page.clone() }
            }
        }
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
            newest: false,
            failures: 0,
            broken_streams: 0,
            progress: true,
            ..self.clone()
        };
    }

    /// Takes in how the request ended that [`Course::next`] had given.
    pub(super) fn ended(&mut self, end: &End) -> Next {
        let progress = std::mem::take(&mut self.progress);
        if progress {
            self.failures = 0;
        }
        self.unbroken &= matches!(end, End::Quiet | End::Confirmed);
        match end {
            End::Confirmed => (self.doubted, self.failures) = (false, 0),
            _ if self.doubted => {
                self.failures += 1;
                self.forget_version();
            }
            End::Page { version, next } if next.is_empty() => self.list_complete(version),
            End::Page { next, .. } => self.page = Some(next.clone()),
            End::Closed { lived } if progress || *lived => self.stream_broke(),
            End::Closed { .. } | End::Broken(_) => {
                self.failures += 1;
                self.stream_broke();
            }
            End::Silent => self.failures += 1,
            // An old server that ignores the wish for a streaming list never says that it is complete; one that has
            // lost etcd does not either, but may have pages in its cache.
            End::Quiet if !self.listed => {
                self.failures += 1;
                self.broken_streams = STREAM_ATTEMPTS;
            }
            // Not even a bookmark: nothing was written since, the connection is dead, or the version comes from before
            // the server lost its data, and a watch from there stays silent until the server has caught up with it.
            End::Quiet if self.unbroken => self.doubted = true,
            End::Quiet => self.forget_version(),
            End::Garbled(_) => {
                self.failures += 1;
                self.stream_broke();
                self.list_again();
            }
            End::Refused { code, reason, .. } => {
                self.failures += 1;
                self.refused(*code, reason);
            }
        }
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

    const fn streams_break(&self) -> bool {
        self.broken_streams >= STREAM_ATTEMPTS
    }

    fn list_again(&mut self) {
        self.listed = false;
        self.doubted = false;
        self.page = None;
    }

    fn refused(&mut self, code: u16, reason: &str) {
        let expired = code == 410 || reason == "Expired" || reason == "Gone";
        if expired {
            self.forget_version();
        } else if matches!(code, 400 | 415 | 422) && !self.listed && self.streams {
            self.streams = false;
            self.failures = 0;
        } else if !is_about_us(code) && self.failures >= DISTRUST_AFTER {
            // Such as a version from the time before the server lost its data ("Too large resource version").
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
            End::Refused { retry_after: Some(wait), .. } => (*wait).min(LONGEST_PAUSE * 2),
            _ => Duration::ZERO,
        };
        let own = match self.failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => (FIRST_PAUSE * 2u32.saturating_pow(doublings.min(10))).min(LONGEST_PAUSE),
        };
        own.max(asked)
    }

    /// One failure may be a server that restarts; it is worth a word if another one follows, or if the server said so.
    fn failing(&self, end: &End) -> Option<String> {
        let text = match end {
            End::Page { .. } | End::Confirmed => return None,
            End::Closed { .. } => "the server ends every watch at once".to_owned(),
            End::Broken(error) => error.clone(),
            End::Silent => "the server does not answer".to_owned(),
            End::Quiet => "nothing arrives".to_owned(),
            End::Garbled(error) => format!("the server sends what is not understood: {error}"),
            End::Refused { code, reason, message, .. } => format!("refused with {code} {reason}: {message}"),
        };
        let definite = matches!(end, End::Refused { code: 401 | 403 | 404, .. });
        (self.failures > 1 || (definite && self.failures > 0)).then_some(text)
    }
}

/// Whether a refusal says nothing about what was asked for, but about who asks or how often.
const fn is_about_us(code: u16) -> bool {
    matches!(code, 401 | 403 | 404 | 429)
}

#[cfg(test)]
mod tests;
