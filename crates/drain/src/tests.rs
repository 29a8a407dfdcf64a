use std::time::Duration;

use lb_types::{ConnectionCounters, Protocol, RealServerId, TrafficCounters, VipPort, VirtualServerId};

use crate::{Cause, EndpointGone, Key, Ledger, Outcome, Policy, Settings, Verdict};

fn key(protocol: Protocol, last: u8) -> Key {
    let port = 80.try_into().unwrap();
    let vs = VirtualServerId::Address(VipPort { addr: [10, 96, 0, 1].into(), protocol, port });
    Key { vs, rs: RealServerId { addr: [10, 244, 0, last].into(), port } }
}

fn counters(active: u32, inactive: u32, bytes: u64) -> Option<(ConnectionCounters, TrafficCounters)> {
    let connections = ConnectionCounters { active, inactive, persistent: 0 };
    Some((connections, TrafficCounters { bytes_in: bytes, ..TrafficCounters::default() }))
}

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(1000 + seconds)
}

/// Runs one TCP drain that begins at second 0 through (second, active, inactive, bytes) readings and checks when and
/// how it is due.
fn check(settings: Settings, readings: &[(u64, u32, u32, u64)], expect: Option<(u64, Outcome)>) {
    let (mut ledger, key) = (Ledger::default(), key(Protocol::Tcp, 1));
    assert_eq!(ledger.judge(&key, &settings), Verdict::Quiesce);
    assert!(ledger.begin(key, Cause::Terminating, settings, at(0)));
    let due = readings.iter().find_map(|(second, active, inactive, bytes)| {
        ledger.poll(key.vs, at(*second), |_| counters(*active, *inactive, *bytes));
        ledger.get(&key).and_then(|drain| drain.due).map(|outcome| (*second, outcome))
    });
    assert_eq!(due, expect);
    if let Some((_, outcome)) = due {
        assert_eq!(ledger.judge(&key, &settings), Verdict::Remove(outcome), "a due drain is removed");
    }
}

fn settings(policy: Policy) -> Settings {
    Settings { policy, ..Settings::default() }
}

#[test]
fn active_only_ignores_time_wait_but_waits_for_the_linger_time() {
    let readings = [(1, 1, 9, 10), (2, 0, 9, 20), (4, 0, 9, 20), (6, 0, 9, 20), (7, 0, 9, 20)];
    check(settings(Policy::ActiveOnly), &readings, Some((7, Outcome::Drained)));
}

#[test]
fn active_only_waits_for_half_closed_transfers_that_still_move_data() {
    let readings: Vec<_> = (1..30).map(|s| (s, 0, 1, if s < 20 { 1000 * s } else { 19_000 })).collect();
    check(settings(Policy::ActiveOnly), &readings, Some((24, Outcome::Drained)));
}

#[test]
fn all_connections_waits_for_time_wait_too() {
    let readings = [(1, 1, 9, 0), (60, 0, 9, 0), (120, 0, 0, 0)];
    check(settings(Policy::AllConnections), &readings, Some((120, Outcome::Drained)));
}

#[test]
fn the_deadline_ends_a_connection_that_never_ends() {
    let settings = Settings { timeout: Some(Duration::from_secs(30)), ..Settings::default() };
    let readings: Vec<_> = (1..60).map(|s| (s, 5, 0, s)).collect();
    check(settings, &readings, Some((30, Outcome::TimedOut)));
    check(Settings { timeout: None, ..settings }, &readings, None);
}

#[test]
fn a_clock_that_stands_or_jumps_never_removes_early() {
    check(settings(Policy::ActiveOnly), &[(0, 0, 1, 0), (0, 0, 1, 0), (0, 0, 1, 0)], None);
    check(
        settings(Policy::ActiveOnly),
        &[(4, 1, 0, 0), (1, 0, 1, 0), (8, 0, 1, 0), (9, 0, 1, 0)],
        Some((9, Outcome::Drained)),
    );
}

#[test]
fn immediate_and_udp_are_removed_at_once() {
    let ledger = Ledger::default();
    let verdict = ledger.judge(&key(Protocol::Tcp, 1), &settings(Policy::Immediate));
    assert_eq!(verdict, Verdict::Remove(Outcome::Immediate));
    let verdict = |protocol| ledger.judge(&key(protocol, 1), &Settings::default());
    assert_eq!(verdict(Protocol::Udp), Verdict::Remove(Outcome::Immediate));
    assert_eq!(verdict(Protocol::Sctp), Verdict::Quiesce, "an established association counts as active");
}

#[test]
fn an_endpoint_that_is_gone_is_removed_unless_configured_otherwise() {
    for (endpoint_gone, expect) in [
        (EndpointGone::Remove, Verdict::Remove(Outcome::EndpointGone)),
        (EndpointGone::Drain, Verdict::Quiesce),
    ] {
        let (mut ledger, key) = (Ledger::default(), key(Protocol::Tcp, 1));
        let settings = Settings { endpoint_gone, ..Settings::default() };
        ledger.begin(key, Cause::Terminating, settings, at(0));
        ledger.endpoint_gone(&key);
        assert_eq!(ledger.judge(&key, &settings), expect);
    }
}

#[test]
fn a_returned_endpoint_leaves_no_trace() {
    let (mut ledger, key) = (Ledger::default(), key(Protocol::Tcp, 1));
    ledger.begin(key, Cause::NotServing, Settings::default(), at(0));
    assert!(ledger.next_poll().is_some());
    assert!(ledger.end(&key).is_some());
    assert!(ledger.is_empty() && ledger.next_poll().is_none(), "nothing drains, nothing is polled");
    assert!(!ledger.poll(key.vs, at(100), |_| counters(0, 0, 0)));
}

#[test]
fn polling_slows_down_with_age() {
    let (mut ledger, key) = (Ledger::default(), key(Protocol::Tcp, 1));
    ledger.begin(key, Cause::Terminating, Settings { timeout: None, ..Settings::default() }, at(0));
    let (mut polls, mut now) = (0, at(0));
    while now < at(600) {
        now = ledger.next_poll().unwrap();
        ledger.poll(key.vs, now, |_| counters(1, 0, 0));
        polls += 1;
    }
    assert!((100..200).contains(&polls), "{polls} polls in ten minutes");
}

#[test]
fn the_drains_of_one_virtual_server_are_found_among_others() {
    let mut ledger = Ledger::default();
    let keys = [key(Protocol::Tcp, 1), key(Protocol::Tcp, 2), key(Protocol::Sctp, 1)];
    for key in keys {
        ledger.begin(key, Cause::Terminating, Settings::default(), at(0));
    }
    assert_eq!(ledger.of(&keys[0].vs).copied().collect::<Vec<_>>(), keys[..2]);
    assert_eq!(ledger.of(&keys[2].vs).copied().collect::<Vec<_>>(), keys[2..]);
    assert_eq!(ledger.of(&key(Protocol::Udp, 1).vs).count(), 0);
}

/// A key of its own virtual server.
fn nth(n: u16) -> Key {
    let port = 80.try_into().unwrap();
    let [high, low] = n.to_be_bytes();
    let vs = VipPort { addr: [10, 96, high, low].into(), protocol: Protocol::Tcp, port };
    Key { vs: vs.into(), rs: RealServerId { addr: [10, 244, 0, 1].into(), port } }
}

#[test]
fn new_drains_postpone_no_poll_of_old_ones() {
    let mut ledger = Ledger::default();
    let old = nth(0);
    ledger.begin(old, Cause::Terminating, Settings::default(), at(0));
    let (mut polls, mut now) = (0, at(0));
    for n in 1..500 {
        now += Duration::from_millis(100);
        ledger.begin(nth(n), Cause::Terminating, Settings::default(), now);
        let again = Key { rs: nth(n).rs, ..old };
        ledger.begin(again, Cause::Terminating, Settings::default(), now);
        if ledger.due(now).any(|vs| vs == old.vs) {
            ledger.poll(old.vs, now, |_| counters(1, 0, 0));
            polls += 1;
        }
    }
    assert!(polls >= 30, "{polls} polls in 50 s");
}

#[test]
fn a_great_many_drains_are_polled_at_a_bounded_rate_and_each_in_turn() {
    let mut ledger = Ledger::default();
    let all = 0..8000;
    for n in all.clone() {
        ledger.begin(nth(n), Cause::Terminating, Settings::default(), at(0));
    }
    let (mut polls, mut now) = (0, at(0));
    while let Some(due) = ledger.next_poll().filter(|due| *due < at(60)) {
        now = now.max(due);
        let some: Vec<_> = ledger.due(now).take(128).collect();
        polls += some.len();
        some.into_iter().for_each(|vs| _ = ledger.poll(vs, now, |_| counters(1, 0, 0)));
    }
    assert!(polls < 60 * 2500, "{polls} polls in a minute");
    let oldest = all.map(|n| ledger.get(&nth(n)).unwrap().last_activity).min();
    assert!(oldest >= Some(at(50)), "every one of them is polled: {oldest:?}");
}

#[test]
fn a_virtual_server_is_polled_until_its_last_drain_ends() {
    let mut ledger = Ledger::default();
    let keys = [key(Protocol::Tcp, 1), key(Protocol::Tcp, 2)];
    for key in keys {
        ledger.begin(key, Cause::Terminating, Settings::default(), at(0));
    }
    assert!(ledger.end(&keys[0]).is_some());
    assert!(ledger.next_poll().is_some());
    assert!(ledger.end(&keys[1]).is_some());
    assert_eq!(ledger.next_poll(), None);
}
