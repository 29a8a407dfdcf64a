//! Waits of a real server at weight 0.

use super::*;
use crate::{Time, WaitsFor};

/// One drain after readings (second, active, inactive, bytes of clients), and what it waits for, in words of
/// that moment.
fn check_waits(settings: Settings, readings: &[(u64, u32, u32, u64)], expect: &str) {
    let (mut ledger, key) = (Ledger::new(settings), key(Protocol::Tcp, 1));
    ledger.begin(key, Cause::Terminating, &NONE, at(0));
    let mut now = at(0);
    for (second, active, inactive, bytes) in readings {
        now = at(*second);
        let packets_in = bytes / 500;
        ledger.poll(key.front, now, |_| {
            let (connections, traffic) = counters(*active, *inactive, *bytes)?;
            Some((connections, TrafficCounters { packets_in, ..traffic }))
        });
    }
    let next = ledger.next_reading(&key.front).unwrap();
    assert_eq!(ledger.get(&key).unwrap().waits_for(next, || None).render(now), expect);
}

#[test]
fn every_drain_says_what_it_waits_for() {
    let [active, all, immediate] = Policy::ALL.map(settings);
    check_waits(active, &[], "the next reading in 1s");
    check_waits(immediate, &[], "the next reading in 1s");
    check_waits(active, &[(1, 1, 9, 0)], "1 connection");
    check_waits(active, &[(1, 12, 9, 0)], "12 connections");
    check_waits(all, &[(1, 12, 9, 0)], "21 connections");
    check_waits(all, &[(1, 0, 9, 0)], "9 connections");
    check_waits(active, &[(1, 12, 9, 0), (3, 0, 9, 0)], "quiet for 3s more");
    check_waits(active, &[(1, 12, 9, 0), (3, 0, 9, 1000)], "quiet for 5s more");
    check_waits(
        active,
        &[(1, 2, 0, 1000), (3, 2, 0, 1000), (4, 2, 0, 2000), (5, 2, 0, 2000)],
        "an answer to its clients, for 2s more",
    );
    check_waits(Settings { silence: None, ..active }, &[(1, 2, 0, 1000), (2, 2, 0, 2000)], "2 connections");
    check_waits(active, &[(1, 2, 0, 0), (900, 2, 0, 0)], "its removal: timed-out");
}

#[test]
fn a_pod_that_may_have_moved_has_its_time_whatever_its_connections_do() {
    let (mut ledger, key) = (Ledger::default(), key(Protocol::Tcp, 1));
    ledger.begin(key, Cause::Terminating, &NONE, at(0));
    ledger.endpoint_perhaps_gone(&key, at(1));
    ledger.endpoint_perhaps_gone(&key, at(2));
    let waits = ledger.get(&key).unwrap().waits_for(at(9), || None);
    assert_eq!(waits.render(at(1)), "another slice with its pod, for 2s more");
    ledger.poll(key.front, at(2), |_| None);
    assert!(ledger.next_poll() <= Some(at(3)), "a look of its own");
    assert_eq!(ledger.state(&key), State::Draining);
    ledger.poll(key.front, at(3), |_| None);
    assert_eq!(ledger.state(&key), State::Due(Outcome::EndpointGone));
    // One that comes back in time is not removed, whenever it is looked at.
    let mut ledger = Ledger::default();
    ledger.begin(key, Cause::Terminating, &NONE, at(0));
    ledger.endpoint_perhaps_gone(&key, at(1));
    ledger.endpoint_listed(&key);
    ledger.poll(key.front, at(9), |_| None);
    assert_eq!(ledger.state(&key), State::Draining);
}

#[test]
fn what_keeps_a_removal_from_being_written_is_what_it_waits_for() {
    let (mut ledger, key) = (Ledger::default(), key(Protocol::Tcp, 1));
    ledger.begin(key, Cause::Terminating, &NONE, at(0));
    let refused = || Some(WaitsFor::Retry { at: at(4), refused: "ENOENT".to_owned() });
    let waits_for = |ledger: &Ledger| ledger.get(&key).unwrap().waits_for(at(1), refused);
    assert_eq!(waits_for(&ledger), WaitsFor::Reading(at(1)), "nothing is to be written");
    ledger.endpoint_gone(&key);
    let words = |now: Time| waits_for(&ledger).render(now);
    assert_eq!([words(at(0)), words(at(9))], ["retry in 4s: ENOENT", "retry in 0s: ENOENT"]);
    assert_eq!(WaitsFor::Base.render(at(0)), "link and chains");
    assert_eq!(WaitsFor::Dump.render(at(0)), "a dump of its virtual server");
}

#[test]
fn newer_counters_outweigh_what_was_recorded() {
    let (quiet, reading) = (WaitsFor::Quiet(at(3)), WaitsFor::Reading(at(0)));
    let (answer, removal) = (WaitsFor::Answer(at(3)), WaitsFor::Removal(Outcome::Drained));
    for (recorded, open, expect) in [
        (WaitsFor::Connections(3), Some(2), WaitsFor::Connections(2)),
        (WaitsFor::Connections(3), Some(0), reading.clone()),
        (quiet.clone(), Some(0), quiet.clone()),
        (quiet.clone(), Some(1), WaitsFor::Connections(1)),
        (WaitsFor::Reading(at(9)), Some(1), WaitsFor::Connections(1)),
        (WaitsFor::Reading(at(9)), Some(0), WaitsFor::Reading(at(9))),
        (answer.clone(), Some(1), answer.clone()),
        (answer, Some(0), reading.clone()),
        (removal.clone(), Some(1), removal.clone()),
        (removal, None, reading),
    ] {
        assert_eq!(recorded.clone().by(open, at(0)), expect, "{recorded:?} {open:?}");
    }
    for past in [quiet, WaitsFor::Answer(at(3)), WaitsFor::Reading(at(3))] {
        assert_eq!(past.render(at(4)), "the next reading", "its time has passed");
    }
}

#[test]
fn details_change_with_what_is_waited_for_and_with_nothing_else() {
    let (mut ledger, key) = (Ledger::default(), key(Protocol::Tcp, 1));
    ledger.begin(key, Cause::Terminating, &NONE, at(0));
    let mut changes = |second, active, bytes| {
        let before = (ledger.version(), ledger.details());
        ledger.poll(key.front, at(second), |_| counters(active, 0, bytes));
        assert_eq!(ledger.version(), before.0);
        ledger.details() > before.1
    };
    assert!(changes(1, 3, 0));
    assert!(!changes(2, 3, 99), "traffic alone");
    assert!(changes(3, 2, 99));
    assert!(changes(4, 0, 99));
    assert!(!changes(5, 0, 99), "quiet until the same moment");
}
