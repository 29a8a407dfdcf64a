//! Media types of answers, and the choice of the one to ask for.

use std::time::Duration;

use http::{HeaderMap, header};
use tokio::time::Instant;

/// Time for which JSON is asked for after an answer that could not be parsed; it doubles with each further one.
const FIRST_DISTRUST: Duration = Duration::from_mins(10);
/// Limit of the doubling.
const LONGEST_DISTRUST: Duration = Duration::from_hours(24);

/// Media type in which the API server sends objects.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MediaType {
    /// `application/vnd.kubernetes.protobuf`. JSON is accepted, too: servers have some kinds in nothing else.
    #[default]
    Protobuf,
    /// `application/json`
    Json,
}

impl MediaType {
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
        let value =
            headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let name = value.split(';').next().unwrap_or_default().trim();
        if name.eq_ignore_ascii_case("application/vnd.kubernetes.protobuf") {
            MediaType::Protobuf
        } else {
            MediaType::Json
        }
    }
}

/// Choice of the media type to ask for, for one kind of objects. A server or proxy that cannot speak protobuf, or not
/// well, gets requests for JSON for a while.
#[derive(Debug)]
pub(super) struct Negotiation {
    preferred: MediaType,
    /// Minor version of the server, if known.
    minor: Option<u32>,
    /// Faults since another version of the server was seen.
    faults: u32,
    /// End of the time for which JSON is asked for.
    until: Option<Instant>,
    /// Media type that was asked for last, or is from now on.
    asked: MediaType,
}

impl Negotiation {
    pub(super) const fn new(preferred: MediaType) -> Self {
        Negotiation { preferred, minor: None, faults: 0, until: None, asked: preferred }
    }

    /// Takes in that the server is version 1.`minor`, as far as is known. Another version may do better.
    pub(super) fn set_server_minor(&mut self, minor: Option<u32>) {
        let Some(known) = minor else { return };
        if self.minor.replace(known).is_some_and(|before| before != known) {
            (self.faults, self.until) = (0, None);
        }
    }

    /// Media type for the next request.
    pub(super) fn ask(&mut self, now: Instant) -> MediaType {
        let distrusts = self.until.is_some_and(|until| now < until);
        self.asked = if distrusts { MediaType::Json } else { self.preferred };
        self.asked
    }

    /// Takes in that the answer to the last request could not be parsed, or that the server has nothing of what was
    /// asked for. Returns the time for which JSON is asked for, unless it was anyway.
    pub(super) fn record_fault(&mut self, now: Instant) -> Option<Duration> {
        if self.asked == MediaType::Json {
            return None;
        }
        let time = (FIRST_DISTRUST * 2_u32.saturating_pow(self.faults.min(10))).min(LONGEST_DISTRUST);
        self.faults += 1;
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

    #[test]
    fn json_is_asked_for_after_faults_and_each_time_for_longer() {
        let (mut now, minute) = (Instant::now(), Duration::from_mins(1));
        let mut negotiation = Negotiation::new(MediaType::Protobuf);
        negotiation.set_server_minor(Some(34));
        for expect in [10, 20, 40, 80, 160, 320, 640, 1280, 1440, 1440] {
            assert_eq!(negotiation.ask(now), MediaType::Protobuf);
            assert_eq!(negotiation.record_fault(now), Some(expect * minute));
            assert_eq!(negotiation.ask(now + (expect - 1) * minute), MediaType::Json);
            assert_eq!(negotiation.record_fault(now), None, "JSON cannot be replaced");
            now += expect * minute;
        }
    }

    #[test]
    fn another_version_of_the_server_is_trusted_again() {
        let now = Instant::now();
        let mut negotiation = Negotiation::new(MediaType::Protobuf);
        negotiation.ask(now);
        negotiation.record_fault(now);
        for (minor, expect) in [
            (None, MediaType::Json),
            (Some(34), MediaType::Json),
            (None, MediaType::Json),
            (Some(34), MediaType::Json),
            (Some(35), MediaType::Protobuf),
        ] {
            negotiation.set_server_minor(minor);
            assert_eq!(negotiation.ask(now), expect, "{minor:?}");
        }
    }

    #[test]
    fn json_alone_stays_json() {
        let mut negotiation = Negotiation::new(MediaType::Json);
        assert_eq!(negotiation.ask(Instant::now()), MediaType::Json);
        assert_eq!(negotiation.record_fault(Instant::now()), None);
    }
}
