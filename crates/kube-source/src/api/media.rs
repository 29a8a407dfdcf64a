//! Media types of answers, and the choice of the one to ask for.

use std::{collections::BTreeSet, time::Duration};

use http::{HeaderMap, header};
use tokio::time::Instant;

use super::watch_state::{End, Request};

/// Time for which JSON is asked for after an answer that could not be parsed; it doubles with each further one.
const FIRST_DISTRUST: Duration = Duration::from_mins(10);
/// Limit of the doubling, and time without a fault after which faults count no more.
const LONGEST_DISTRUST: Duration = Duration::from_hours(24);
/// Refusals in a row of a server that has never sent protobuf, after which JSON is tried.
const REFUSALS_BEFORE_JSON: u32 = 3;

/// Media type in which the API server sends objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MediaType {
    /// `application/vnd.kubernetes.protobuf`. JSON is accepted, too: servers have some kinds in nothing else.
    #[default]
    Protobuf,
    /// `application/json`
    Json,
}

/// Name of protobuf's media type, without parameters.
pub(crate) const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

impl MediaType {
    /// Parses a media type, whatever its parameters; the names know no case (RFC 9110, section 8.3.1).
    pub fn parse(text: &str) -> Option<Self> {
        match &*text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase() {
            PROTOBUF => Some(MediaType::Protobuf),
            "application/json" => Some(MediaType::Json),
            _ => None,
        }
    }

    /// Value of the header `Accept`.
    pub(super) const fn accept(self) -> &'static str {
        match self {
            MediaType::Protobuf => "application/vnd.kubernetes.protobuf, application/json;q=0.9",
            MediaType::Json => "application/json",
        }
    }

    /// Media type of an answer. A watch adds `;stream=watch` (`serveWatchHandler` in
    /// staging/src/k8s.io/apiserver/pkg/endpoints/handlers/watch.go).
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        value.and_then(MediaType::parse).unwrap_or(MediaType::Json)
    }
}

/// Choice of the media type to ask for, for one kind of objects. A server or proxy that cannot speak protobuf, or not
/// well, gets requests for JSON for a while.
#[derive(Debug)]
pub(super) struct Negotiation {
    preferred: MediaType,
    /// Minor versions of the server that were seen; those of several servers may come in turn.
    minors: BTreeSet<u32>,
    /// Faults since a version of the server was new.
    faults: u32,
    /// End of the time for which JSON is asked for.
    until: Option<Instant>,
    /// Media type that was asked for last, or is from now on.
    asked: MediaType,
    /// True once a list was complete that had been asked for in protobuf.
    has_worked: bool,
    /// Refusals in a row before that.
    refusals: u32,
    /// True if the last watch in protobuf delivered nothing for too long, so that the next one is to be in JSON.
    is_quiet: bool,
}

impl Negotiation {
    pub(super) const fn new(preferred: MediaType) -> Self {
        Negotiation {
            preferred,
            minors: BTreeSet::new(),
            faults: 0,
            until: None,
            asked: preferred,
            has_worked: false,
            refusals: 0,
            is_quiet: false,
        }
    }

    /// Takes in that the server is version 1.`minor`, as far as is known. A version that is new may do better.
    pub(super) fn set_server_minor(&mut self, minor: Option<u32>) {
        let Some(known) = minor else { return };
        if self.minors.insert(known) && self.minors.len() > 1 {
            (self.faults, self.until) = (0, None);
        }
    }

    /// Media type for the next request.
    pub(super) fn ask(&mut self, request: &Request, now: Instant) -> MediaType {
        let is_quiet = matches!(request, Request::Watch { .. }) && std::mem::take(&mut self.is_quiet);
        let distrusts = is_quiet || self.until.is_some_and(|until| now < until);
        self.asked = if distrusts { MediaType::Json } else { self.preferred };
        self.asked
    }

    /// Takes in that a list is complete.
    pub(super) const fn record_list(&mut self) {
        self.has_worked |= matches!(self.asked, MediaType::Protobuf);
    }

    /// Takes in the end of a request. Returns the time for which JSON is asked for from now on, unless it was anyway or
    /// protobuf is not to blame.
    pub(super) fn record_end(&mut self, end: &End, now: Instant) -> Option<Duration> {
        if self.asked == MediaType::Json {
            return None;
        }
        match end {
            End::Garbled(_) => return self.record_fault(now),
            // What lies before the server may let no protobuf through; the server itself refuses with 406 at most. It
            // refuses other things, too, such as streaming lists.
            End::Refused(refusal)
                if !self.has_worked && (refusal.is_about_request() || refusal.code >= 500) =>
            {
                self.refusals += 1;
                if self.refusals >= REFUSALS_BEFORE_JSON {
                    return self.record_fault(now);
                }
            }
            // Such a thing may wait for the end of a line, which JSON has and protobuf has not.
            End::Quiet => self.is_quiet = true,
            _ => {}
        }
        None
    }

    /// Takes in that the answer to the last request could not be parsed, or that the server has nothing of what was
    /// asked for. Returns the time for which JSON is asked for, unless it was anyway.
    pub(super) fn record_fault(&mut self, now: Instant) -> Option<Duration> {
        if self.asked == MediaType::Json {
            return None;
        }
        if self.until.is_some_and(|until| now.duration_since(until) > LONGEST_DISTRUST) {
            self.faults = 0;
        }
        let time = (FIRST_DISTRUST * 2_u32.saturating_pow(self.faults.min(10))).min(LONGEST_DISTRUST);
        self.faults += 1;
        self.refusals = 0;
        self.until = Some(now + time);
        self.asked = MediaType::Json;
        Some(time)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_of_answers() {
        for (value, expect) in [
            ("application/vnd.kubernetes.protobuf", MediaType::Protobuf),
            ("application/vnd.kubernetes.protobuf;stream=watch", MediaType::Protobuf),
            ("Application/vnd.Kubernetes.Protobuf ; stream=watch", MediaType::Protobuf),
            ("application/json", MediaType::Json),
            ("application/json;stream=watch", MediaType::Json),
            ("text/html; charset=utf-8", MediaType::Json),
            ("", MediaType::Json),
        ] {
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, value.parse().unwrap())]);
            assert_eq!(MediaType::of(&headers), expect, "{value}");
        }
        assert_eq!(MediaType::of(&HeaderMap::new()), MediaType::Json);
    }

    use crate::api::watch_state::Refusal;

    const MINUTE: Duration = Duration::from_mins(1);

    fn list() -> Request {
        Request::List { not_older_than: None, page: None, limit: true }
    }

    fn watch() -> Request {
        Request::Watch { version: "7".to_owned() }
    }

    fn refused(code: u16) -> End {
        End::Refused(Refusal { code, ..Refusal::default() })
    }

    fn garbled() -> End {
        End::Garbled("?".to_owned())
    }

    #[test]
    fn json_is_asked_for_after_faults_and_each_time_for_longer() {
        let mut now = Instant::now();
        let mut negotiation = Negotiation::new(MediaType::Protobuf);
        negotiation.set_server_minor(Some(34));
        for expect in [10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440] {
            assert_eq!(negotiation.ask(&list(), now), MediaType::Protobuf);
            assert_eq!(negotiation.record_end(&garbled(), now), Some(expect * MINUTE));
            assert_eq!(negotiation.ask(&list(), now + (expect - 1) * MINUTE), MediaType::Json);
            assert_eq!(negotiation.record_end(&garbled(), now), None, "JSON cannot be replaced");
            now += expect * MINUTE;
        }
        now += 1441 * MINUTE;
        assert_eq!(negotiation.ask(&list(), now), MediaType::Protobuf);
        assert_eq!(negotiation.record_end(&garbled(), now), Some(10 * MINUTE), "a day without a fault");
    }

    #[test]
    fn a_new_version_of_the_server_is_trusted_again() {
        let now = Instant::now();
        let mut negotiation = Negotiation::new(MediaType::Protobuf);
        let mut fault = |minor, expect| {
            negotiation.set_server_minor(minor);
            assert_eq!(negotiation.ask(&list(), now), expect, "{minor:?}");
            negotiation.record_end(&garbled(), now);
        };
        fault(None, MediaType::Protobuf);
        fault(Some(34), MediaType::Json);
        fault(None, MediaType::Json);
        fault(Some(35), MediaType::Protobuf);
        // Several servers behind one address.
        fault(Some(34), MediaType::Json);
        fault(Some(35), MediaType::Json);
    }

    #[test]
    fn what_refuses_protobuf_from_the_beginning_is_asked_for_json() {
        for (ends, expect) in [
            (&[422, 400, 400][..], MediaType::Json),
            (&[502, 502], MediaType::Protobuf),
            (&[502, 502, 502], MediaType::Json),
            (&[401, 403, 404, 429, 410], MediaType::Protobuf),
        ] {
            let now = Instant::now();
            let mut negotiation = Negotiation::new(MediaType::Protobuf);
            for code in ends {
                negotiation.ask(&list(), now);
                negotiation.record_end(&refused(*code), now);
            }
            assert_eq!(negotiation.ask(&list(), now), expect, "{ends:?}");
        }
    }

    #[test]
    fn a_server_that_has_sent_protobuf_may_refuse() {
        let now = Instant::now();
        let mut negotiation = Negotiation::new(MediaType::Protobuf);
        negotiation.ask(&list(), now);
        negotiation.record_list();
        for end in [503, 503, 503, 503, 400].map(refused) {
            assert_eq!(negotiation.ask(&list(), now), MediaType::Protobuf, "{end:?}");
            assert_eq!(negotiation.record_end(&end, now), None);
        }
    }

    #[test]
    fn the_watch_after_a_quiet_one_is_in_json() {
        let now = Instant::now();
        let mut negotiation = Negotiation::new(MediaType::Protobuf);
        negotiation.ask(&watch(), now);
        assert_eq!(negotiation.record_end(&End::Quiet, now), None);
        let confirm = Request::Confirm { version: "7".to_owned() };
        for (request, expect) in
            [(confirm, MediaType::Protobuf), (watch(), MediaType::Json), (watch(), MediaType::Protobuf)]
        {
            assert_eq!(negotiation.ask(&request, now), expect, "{request:?}");
        }
    }

    #[test]
    fn json_alone_stays_json() {
        let now = Instant::now();
        let mut negotiation = Negotiation::new(MediaType::Json);
        assert_eq!(negotiation.ask(&list(), now), MediaType::Json);
        assert_eq!(negotiation.record_end(&garbled(), now), None);
    }
}
