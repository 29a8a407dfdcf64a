use super::*;

const CLOSED: End = End::Closed { lived: false };

fn refused(code: u16, reason: &str) -> End {
    End::Refused(Refusal { code, reason: reason.into(), ..Refusal::default() })
}

fn too_large() -> End {
    End::Refused(Refusal { code: 504, reason: "Timeout".into(), too_large: true, ..Refusal::default() })
}

fn broken() -> End {
    End::Broken("connection refused".into())
}

fn page(next: &str) -> End {
    End::Page { version: "50".into(), next: next.into() }
}

fn show(ask: &Request) -> String {
    let or_newest = |version: &Option<String>| version.clone().unwrap_or_else(|| "newest".into());
    match ask {
        Request::StreamingList { not_older_than } => format!("stream {}", or_newest(not_older_than)),
        Request::List { not_older_than, page: None, limit: true } => {
            format!("list {}", or_newest(not_older_than))
        }
        Request::List { not_older_than, page: None, limit: false } => {
            format!("whole list {}", or_newest(not_older_than))
        }
        Request::List { page: Some(page), .. } => format!("page {page}"),
        Request::Watch { version } => format!("watch {version}"),
        Request::Confirm { version } => format!("confirm {version}"),
    }
}

fn state(minor: Option<u32>) -> WatchState {
    let mut state = WatchState::new(None);
    state.set_server_minor(minor);
    state
}

/// A state that has seen everything up to version 10, in the watch that began as a streaming list.
fn listed() -> WatchState {
    let mut state = state(Some(34));
    state.complete_list("10");
    state
}

fn watching() -> WatchState {
    let mut state = listed();
    state.observe(Some("10"));
    state.record_end(&CLOSED);
    state
}

fn after(mut state: WatchState, ends: &[End]) -> String {
    for end in ends {
        state.record_end(end);
    }
    show(&state.next_request())
}

#[test]
fn what_is_asked_first_depends_on_the_server() {
    for (minor, expect) in [
        (None, "stream newest"),
        (Some(34), "stream newest"),
        (Some(27), "stream newest"),
        (Some(26), "list 0"),
    ] {
        assert_eq!(show(&state(minor).next_request()), expect, "{minor:?}");
    }
    let refusal = [refused(422, "Invalid")];
    assert_eq!(after(state(Some(30)), &refusal), "list 0", "protects etcd");
    assert_eq!(after(state(Some(31)), &refusal), "list newest", "from the cache, and consistent");
    assert_eq!(after(state(None), &refusal), "list 0");
}

#[test]
fn a_server_without_streaming_lists_is_asked_for_pages() {
    let mut state = state(None);
    assert_eq!(state.record_end(&refused(422, "Invalid")), Next { pause: Duration::ZERO, failing: None });
    assert_eq!(show(&state.next_request()), "list 0");
    state.record_end(&page("p2"));
    assert_eq!(show(&state.next_request()), "page p2");
    state.record_end(&page(""));
    assert_eq!(show(&state.next_request()), "watch 50");
    assert_eq!(
        after(state.clone(), &[refused(410, "Gone")]),
        "whole list 50",
        "it is not asked again for a stream"
    );
    state.record_end(&refused(400, "BadRequest"));
    assert_eq!(show(&state.next_request()), "watch 50");
}

#[test]
fn a_server_that_ignores_the_wish_for_a_streaming_list() {
    let mut state = state(None);
    state.observe(Some("3"));
    state.record_end(&End::Quiet);
    assert_eq!(show(&state.next_request()), "list 0", "no version was learned from the beginning of a watch");
}

#[test]
fn a_stream_that_breaks_off_again_and_again_is_given_up() {
    let mut state = state(None);
    for _ in 0..2 {
        state.observe(Some("3"));
        state.record_end(&CLOSED);
        assert_eq!(show(&state.next_request()), "stream newest");
    }
    state.record_end(&broken());
    assert_eq!(show(&state.next_request()), "list 0");
    state.record_end(&page(""));
    assert_eq!(after(state, &[refused(410, "Expired")]), "stream 50", "it was not refused");
}

/// An outage proves nothing about streaming lists: when it is over, they are still preferred.
#[test]
fn a_server_that_is_away_is_asked_both_ways_by_turns() {
    let mut state = state(Some(34));
    let mut asked = Vec::new();
    for _ in 0..8 {
        asked.push(show(&state.next_request()));
        state.record_end(&broken());
    }
    let turn = ["stream newest", "stream newest", "stream newest", "list newest"];
    assert_eq!(asked, [turn, turn].concat());
}

/// A server that has lost etcd behaves so.
#[test]
fn a_server_that_falls_silent_once_is_asked_for_streaming_lists_again() {
    let mut state = state(Some(34));
    state.record_end(&End::Quiet);
    assert_eq!(show(&state.next_request()), "list newest");
    state.record_end(&End::Silent);
    assert_eq!(show(&state.next_request()), "list newest");
    state.record_end(&page(""));
    assert_eq!(show(&state.next_request()), "watch 50");
    assert_eq!(after(state, &[refused(410, "Expired")]), "stream 50");
}

#[test]
fn a_watch_is_resumed_where_it_ended() {
    for end in [CLOSED, broken(), End::Silent, refused(500, "InternalError"), refused(401, "Unauthorized")] {
        let mut state = watching();
        state.observe(Some("12"));
        state.observe(None);
        state.observe(Some(""));
        state.record_end(&end);
        assert_eq!(show(&state.next_request()), "watch 12", "{end:?}");
    }
}

#[test]
fn what_may_have_cost_an_event_leads_to_a_list() {
    assert_eq!(after(watching(), &[End::Garbled("eof".into())]), "stream 10");
    for expired in [refused(410, "Expired"), refused(410, "Gone"), refused(0, "Expired")] {
        assert_eq!(after(watching(), std::slice::from_ref(&expired)), "stream 10");
        assert_eq!(after(watching(), &[expired.clone(), expired]), "stream newest", "the list was refused");
    }
}

/// After a restart of the control plane all nodes send their requests at the same time.
#[test]
fn an_expired_watch_leads_to_a_list_from_the_cache() {
    let mut state = state(Some(30));
    state.record_end(&refused(422, "Invalid"));
    state.record_end(&page(""));
    state.record_end(&refused(410, "Expired"));
    assert_eq!(show(&state.next_request()), "whole list 50", "a limit would lead to etcd");
    for end in [broken(), End::Silent, refused(500, "InternalError"), refused(503, "ServiceUnavailable")] {
        assert_eq!(after(state.clone(), &vec![end; 20]), "whole list 50");
    }
    assert_eq!(after(state.clone(), &[refused(410, "Expired")]), "list newest");
    assert_eq!(after(state, &[page("")]), "watch 50");
}

#[test]
fn a_version_that_the_server_does_not_take_is_given_up() {
    let ahead = || vec![refused(410, "Expired"), too_large(), too_large()];
    assert_eq!(after(watching(), &ahead()), "stream 10");
    assert_eq!(after(watching(), &[ahead(), vec![too_large()]].concat()), "stream newest");
    let others = vec![broken(), refused(500, "InternalError"), End::Silent];
    assert_eq!(after(watching(), &[ahead(), others].concat()), "list 10".replace("list", "whole list"));
    assert_eq!(after(watching(), &vec![refused(400, "BadRequest"); 2]), "watch 10");
    assert_eq!(after(watching(), &vec![refused(400, "BadRequest"); 3]), "stream newest");
}

#[test]
fn what_says_nothing_about_a_version_keeps_it() {
    for end in [
        refused(429, "TooManyRequests"),
        refused(403, "Forbidden"),
        refused(404, "NotFound"),
        refused(401, "Unauthorized"),
        refused(500, "InternalError"),
        refused(503, "ServiceUnavailable"),
        refused(504, "Timeout"),
        broken(),
        End::Silent,
    ] {
        assert_eq!(after(watching(), &vec![end.clone(); 20]), "watch 10", "{end:?}");
    }
}

/// A streaming list is as consistent as the server's cache, which may lag.
#[test]
fn a_server_whose_cache_lags_is_asked_both_ways() {
    let mut state = state(Some(34));
    let mut asked = Vec::new();
    for _ in 0..4 {
        asked.push(show(&state.next_request()));
        state.record_end(&too_large());
    }
    assert_eq!(asked, ["stream newest", "stream newest", "stream newest", "list newest"]);
}

#[test]
fn a_broken_page_begins_the_list_anew() {
    let mut state = state(Some(20));
    state.record_end(&page("p2"));
    assert_eq!(after(state.clone(), &[refused(500, "InternalError")]), "page p2");
    assert_eq!(after(state.clone(), &[End::Silent]), "page p2");
    assert_eq!(after(state.clone(), &[refused(410, "Expired")]), "whole list 0", "too slow for pages");
    assert_eq!(after(state, &[broken()]), "list 0");
}

#[test]
fn a_server_that_was_upgraded_is_asked_for_streaming_lists_again() {
    let mut state = state(Some(31));
    state.record_end(&refused(422, "Invalid"));
    state.record_end(&page(""));
    state.set_server_minor(None);
    state.set_server_minor(Some(31));
    assert_eq!(after(state.clone(), &[refused(410, "Expired")]), "whole list 50");
    state.set_server_minor(Some(32));
    assert_eq!(after(state.clone(), &[refused(410, "Expired")]), "stream 50");
    state.set_server_minor(Some(26));
    assert_eq!(after(state, &[refused(410, "Expired")]), "whole list 50");
}

#[test]
fn a_kind_that_can_be_done_without_is_asked_for_rarely_where_it_is_absent() {
    let rarely = Duration::from_secs(300);
    for absent in [refused(404, "NotFound"), refused(403, "Forbidden")] {
        let pauses = |mut state: WatchState| {
            (0..8).map(|_| state.record_end(&absent).pause.as_millis()).collect::<Vec<_>>()
        };
        assert_eq!(
            pauses(WatchState::new(Some(rarely))),
            [200, 400, 800, 1600, 3200, 300_000, 300_000, 300_000],
            "a server that has just started may soon know the kind"
        );
        assert_eq!(pauses(state(None)), [200, 400, 800, 1600, 3200, 6400, 12_800, 15_000]);
    }
    let mut state = WatchState::new(Some(rarely));
    for _ in 0..10 {
        state.record_end(&refused(404, "NotFound"));
    }
    assert_eq!(state.record_end(&broken()).pause, LONGEST_PAUSE, "away, not absent");
}

#[test]
fn pauses_double_and_end_with_what_arrives() {
    let mut state = watching();
    let pauses: Vec<_> = (0..9).map(|_| state.record_end(&broken()).pause.as_millis()).collect();
    assert_eq!(pauses, [200, 400, 800, 1600, 3200, 6400, 12_800, 15_000, 15_000]);
    state.observe(Some("11"));
    assert_eq!(state.record_end(&CLOSED).pause, Duration::ZERO);
    assert_eq!(
        state.record_end(&CLOSED).pause,
        FIRST_PAUSE,
        "a server that only hangs up is not asked without pause"
    );
    let busy = End::Refused(Refusal {
        code: 429,
        reason: "TooManyRequests".into(),
        retry_after: Some(Duration::from_secs(5)),
        ..Refusal::default()
    });
    assert_eq!(watching().record_end(&busy).pause, Duration::from_secs(5));
}

#[test]
fn lists_that_break_off_are_asked_for_ever_more_rarely() {
    for end in [CLOSED, End::Closed { lived: true }, broken(), End::Garbled("half a line".into())] {
        let mut state = WatchState::new(None);
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            state.next_request();
            state.observe(None);
            let Next { pause, .. } = state.record_end(&end);
            assert!(pause >= FIRST_PAUSE && pause >= last, "{end:?}: {pause:?} after {last:?}");
            last = pause;
        }
        assert!(last >= Duration::from_secs(10), "{end:?}: {last:?}");
    }
}

#[test]
fn watches_without_any_change_are_no_failure() {
    let mut state = watching();
    for _ in 0..5 {
        let end = End::Closed { lived: true };
        assert_eq!(state.record_end(&end), Next { pause: Duration::ZERO, failing: None });
        assert_eq!(show(&state.next_request()), "watch 10");
    }
}

#[test]
fn the_version_of_a_watch_without_even_a_bookmark_is_asked_about() {
    let mut state = listed();
    assert_eq!(state.record_end(&End::Quiet), Next { pause: Duration::ZERO, failing: None });
    assert_eq!(show(&state.next_request()), "confirm 10");
    let quiet = state.clone();
    assert_eq!(state.record_end(&End::Confirmed), Next { pause: Duration::ZERO, failing: None });
    assert_eq!(show(&state.next_request()), "watch 10");
    assert_eq!(after(quiet.clone(), &[End::Confirmed, End::Quiet]), "confirm 10");
    let refusals = [(403, "Forbidden"), (410, "Expired"), (429, "TooManyRequests"), (504, "Timeout")];
    let refusals = refusals.map(|(code, reason)| refused(code, reason));
    for end in [broken(), End::Silent, End::Garbled("eof".into())].into_iter().chain(refusals) {
        assert_eq!(after(quiet.clone(), std::slice::from_ref(&end)), "stream 10", "{end:?}");
    }
    assert_eq!(after(quiet.clone(), &vec![too_large(); 2]), "stream 10");
    assert_eq!(after(quiet, &vec![too_large(); 3]), "stream newest", "it has lost its data");
}

/// In the meantime it may have lost data and caught up with the version, which it then knows again.
#[test]
fn a_server_that_ended_a_watch_and_then_falls_silent_is_not_asked_but_listed() {
    for end in [CLOSED, broken(), End::Silent, refused(500, "InternalError")] {
        assert_eq!(after(watching(), std::slice::from_ref(&end)), "watch 10");
        assert_eq!(after(watching(), &[end, End::Quiet]), "stream 10");
    }
    let mut state = watching();
    state.record_end(&CLOSED);
    state.record_end(&End::Quiet);
    state.record_end(&page(""));
    assert_eq!(after(state, &[End::Quiet]), "confirm 50", "the list is newer than what was lost");
}

fn any_end() -> impl proptest::strategy::Strategy<Value = End> {
    use proptest::prelude::{Just, any, prop_oneof};
    use proptest::strategy::Strategy;
    prop_oneof![
        Just(End::Confirmed),
        any::<bool>().prop_map(|lived| End::Closed { lived }),
        Just(broken()),
        Just(End::Silent),
        Just(End::Quiet),
        Just(End::Garbled("eof".into())),
        proptest::sample::select(vec![401, 403, 404, 408, 429, 500, 502, 503, 504])
            .prop_map(|code| refused(code, "Any")),
    ]
}

proptest::proptest! {
    /// Only a refusal of the version itself leads to a read of everything from etcd, whatever else goes wrong.
    #[test]
    fn the_newest_state_is_asked_for_only_if_the_version_was_refused(
        ends in proptest::collection::vec(any_end(), 1..60),
    ) {
        let mut state = watching();
        for end in ends {
            state.record_end(&end);
            let asked = show(&state.next_request());
            proptest::prop_assert!(asked.ends_with("10"), "{asked}");
        }
    }
}

#[test]
fn the_second_failure_and_definite_refusals_are_worth_a_word() {
    let mut state = watching();
    assert_eq!(state.record_end(&broken()).failing, None);
    assert_eq!(state.record_end(&broken()).failing.as_deref(), Some("connection refused"));
    assert!(watching().record_end(&refused(403, "Forbidden")).failing.is_some());
    assert!(watching().record_end(&End::Silent).failing.is_some(), "nothing else says why nothing happens");
    assert!(watching().record_end(&refused(410, "Expired")).failing.is_none());
}

/// Everybody may read the code of a failure, so it contains nothing of what a server or a system says.
#[test]
fn codes_tell_kinds_of_failures() {
    let codes: Vec<_> = [401, 403, 404, 410, 429, 500, 503].map(|code| refused(code, "secret").code()).into();
    let expect =
        ["unauthorized", "forbidden", "not-found", "refused", "throttled", "server-error", "server-error"];
    assert_eq!(codes, expect);
    let ends =
        [broken(), CLOSED, End::Silent, End::Quiet, End::Garbled("secret".into())].map(|end| end.code());
    assert_eq!(ends, ["unreachable", "watches-end-at-once", "silent", "silent", "not-understood"]);
}
