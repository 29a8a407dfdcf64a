mod properties;
mod silence;
mod waits;

use std::time::Duration;

use lb_types::{ConnectionCounters, Front, Protocol, RealServerId, TrafficCounters, VipPort};

use crate::{
    Cause, EndpointGone, Key, LEAST_SILENCE, Ledger, Outcome, Overrides, Policy, Record, Settings, State,
    Verdict,
};

fn key(protocol: Protocol, last: u8) -> Key {
    let port = 80.try_into().unwrap();
    let front = Front::from(VipPort { addr: [10, 96, 0, 1].into(), protocol, port });
    Key { front, rs: RealServerId { addr: [10, 244, 0, last].into(), port } }
}

fn counters(active: u32, inactive: u32, bytes: u64) -> Option<(ConnectionCounters, TrafficCounters)> {
    let connections = ConnectionCounters { active, inactive, persistent: 0 };
    Some((connections, TrafficCounters { bytes_in: bytes, ..TrafficCounters::default() }))
}

const NONE: Overrides = Overrides::NONE;

const fn at(seconds: u64) -> Duration {
    Duration::from_secs(1000 + seconds)
}

/// Runs one TCP drain that begins at second 0 through (second, active, inactive, bytes) readings and checks
/// when and how it is due.
fn check(settings: Settings, readings: &[(u64, u32, u32, u64)], expect: Option<(u64, Outcome)>) {
    let (mut ledger, key) = (Ledger::new(settings), key(Protocol::Tcp, 1));
    assert_eq!(ledger.judge(&key, &NONE), Verdict::Quiesce);
    assert!(ledger.begin(key, Cause::Terminating, &NONE, at(0)));
    let due = readings.iter().find_map(|(second, active, inactive, bytes)| {
        ledger.poll(key.front, at(*second), |_| counters(*active, *inactive, *bytes));
        ledger.get(&key).and_then(|drain| drain.due).map(|outcome| (*second, outcome))
    });
    assert_eq!(due, expect);
    if let Some((_, outcome)) = due {
        assert_eq!(ledger.judge(&key, &NONE), Verdict::Remove(outcome), "a due drain is removed");
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

/// Conformance: ipvs/graceful_termination Test_GracefulDeleteRS: inactive connections
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

/// Conformance: ipvs/graceful_termination Test_GracefulDeleteRS: UDP with connections
#[test]
fn immediate_and_udp_are_removed_at_once() {
    let verdict = |policy, protocol| Ledger::new(settings(policy)).judge(&key(protocol, 1), &NONE);
    assert_eq!(verdict(Policy::Immediate, Protocol::Tcp), Verdict::Remove(Outcome::Immediate));
    let verdict = |protocol| verdict(Policy::ActiveOnly, protocol);
    assert_eq!(verdict(Protocol::Udp), Verdict::Remove(Outcome::Immediate));
    assert_eq!(verdict(Protocol::Sctp), Verdict::Quiesce, "an established association counts as active");
}

#[test]
fn an_endpoint_that_is_gone_is_removed() {
    let (mut ledger, key) = (Ledger::default(), key(Protocol::Tcp, 1));
    ledger.begin(key, Cause::Terminating, &NONE, at(0));
    assert_eq!(ledger.judge(&key, &NONE), Verdict::Quiesce);
    ledger.endpoint_gone(&key);
    assert_eq!(ledger.judge(&key, &NONE), Verdict::Remove(Outcome::EndpointGone));
}

#[test]
fn a_returned_endpoint_leaves_no_trace() {
    let (mut ledger, key) = (Ledger::default(), key(Protocol::Tcp, 1));
    ledger.begin(key, Cause::NotServing, &NONE, at(0));
    assert!(ledger.next_poll().is_some());
    assert!(ledger.end(&key).is_some());
    assert!(ledger.is_empty() && ledger.next_poll().is_none(), "nothing drains, nothing is polled");
    assert!(!ledger.poll(key.front, at(100), |_| counters(0, 0, 0)));
}

#[test]
fn polling_slows_down_with_age() {
    let settings = Settings { timeout: None, ..Settings::default() };
    let (mut ledger, key) = (Ledger::new(settings), key(Protocol::Tcp, 1));
    ledger.begin(key, Cause::Terminating, &NONE, at(0));
    let (mut polls, mut now) = (0, at(0));
    while now < at(600) {
        now = ledger.next_poll().unwrap();
        ledger.poll(key.front, now, |_| counters(1, 0, 0));
        polls += 1;
    }
    assert!((100..200).contains(&polls), "{polls} polls in ten minutes");
}

#[test]
fn the_drains_of_one_virtual_server_are_found_among_others() {
    let mut ledger = Ledger::default();
    let keys = [key(Protocol::Tcp, 1), key(Protocol::Tcp, 2), key(Protocol::Sctp, 1)];
    for key in keys {
        ledger.begin(key, Cause::Terminating, &NONE, at(0));
    }
    assert_eq!(ledger.of(&keys[0].front).copied().collect::<Vec<_>>(), keys[..2]);
    assert_eq!(ledger.of(&keys[2].front).copied().collect::<Vec<_>>(), keys[2..]);
    assert_eq!(ledger.of(&key(Protocol::Udp, 1).front).count(), 0);
}

/// A key of its own virtual server.
fn nth(n: u16) -> Key {
    let port = 80.try_into().unwrap();
    let [high, low] = n.to_be_bytes();
    let front = VipPort { addr: [10, 96, high, low].into(), protocol: Protocol::Tcp, port };
    Key { front: front.into(), rs: RealServerId { addr: [10, 244, 0, 1].into(), port } }
}

#[test]
fn new_drains_postpone_no_poll_of_old_ones() {
    let mut ledger = Ledger::default();
    for _ in 0..100 {
        ledger.polls_took(1, Duration::from_micros(10));
    }
    let old = nth(0);
    ledger.begin(old, Cause::Terminating, &NONE, at(0));
    let (mut polls, mut now) = (0, at(0));
    for n in 1..500 {
        now += Duration::from_millis(100);
        ledger.begin(nth(n), Cause::Terminating, &NONE, now);
        let again = Key { rs: nth(n).rs, ..old };
        ledger.begin(again, Cause::Terminating, &NONE, now);
        if ledger.due(now).any(|front| front == old.front) {
            ledger.poll(old.front, now, |_| counters(1, 0, 0));
            polls += 1;
        }
    }
    assert!(polls >= 30, "{polls} polls in 50 s");
}

/// Share of a processor that polls take in the last three of five minutes, in thousandths, and the oldest
/// reading at their end, where many virtual servers drain.
fn five_minutes(count: u16, cost: Duration) -> (u128, Duration) {
    let mut ledger = Ledger::new(Settings { timeout: None, ..Settings::default() });
    for n in 0..count {
        ledger.begin(nth(n), Cause::Terminating, &NONE, at(0));
    }
    let (mut took, mut now) = (Duration::ZERO, at(0));
    while let Some(due) = ledger.next_poll().filter(|due| *due < at(300)) {
        now = now.max(due);
        let some: Vec<_> = ledger.due(now).take(4).collect();
        for front in &some {
            ledger.poll(*front, now, |_| counters(1, 0, 0));
            now += cost;
            took += if now >= at(120) { cost } else { Duration::ZERO };
        }
        let some = u32::try_from(some.len()).unwrap();
        ledger.polls_took(some, cost * some);
    }
    let oldest = (0..count).map(|n| ledger.get(&nth(n)).unwrap().last_activity).min();
    (took.as_millis() / 180, now - oldest.unwrap())
}

#[test]
fn polls_keep_to_a_share_of_the_processor_and_each_has_its_turn() {
    let cheap = Duration::from_micros(100);
    for (count, cost, longest) in [
        (50, cheap, Duration::from_secs(6)),
        (500, cheap, Duration::from_secs(6)),
        (500, Duration::from_millis(1), Duration::from_secs(52)),
        (8000, cheap, Duration::from_secs(85)),
    ] {
        let (share, oldest) = five_minutes(count, cost);
        assert!(share <= 11, "{count} at {cost:?}: {share} thousandths");
        assert!(oldest <= longest, "{count} at {cost:?}: polled {oldest:?} ago");
    }
}

#[test]
fn no_poll_is_put_off_by_more_than_a_minute_and_a_half() {
    let (share, oldest) = five_minutes(500, Duration::from_millis(20));
    assert!(oldest <= Duration::from_secs(105), "{oldest:?}");
    assert!((80..=120).contains(&share), "{share} thousandths");
}

#[test]
fn polls_that_seemed_free_may_turn_out_dear() {
    let mut ledger = Ledger::default();
    for n in 0..100 {
        _ = ledger.begin(nth(n), Cause::Terminating, &NONE, at(0));
    }
    let interval = |ledger: &mut Ledger| {
        for n in 0..100 {
            _ = ledger.poll(nth(n).front, at(100), |_| counters(1, 0, 0));
        }
        ledger.next_poll().unwrap() - at(100)
    };
    for _ in 0..1000 {
        ledger.polls_took(1, Duration::ZERO);
    }
    assert_eq!(interval(&mut ledger), Duration::from_secs(5), "by age");
    for _ in 0..100 {
        ledger.polls_took(1, Duration::from_millis(2));
    }
    assert!(interval(&mut ledger) > Duration::from_secs(15));
}

#[test]
fn few_drains_are_polled_often_even_where_a_poll_is_dear() {
    let mut ledger = Ledger::default();
    for _ in 0..100 {
        ledger.polls_took(1, Duration::from_millis(20));
    }
    for n in 0..16 {
        _ = ledger.begin(nth(n), Cause::Terminating, &NONE, at(0));
    }
    for _ in 0..2 {
        for n in 0..16 {
            _ = ledger.poll(nth(n).front, at(1), |_| counters(1, 0, 0));
        }
        assert_eq!(ledger.next_poll(), Some(at(1) + Duration::from_millis(500)));
    }
}

#[test]
fn a_virtual_server_is_polled_until_its_last_drain_ends() {
    let mut ledger = Ledger::default();
    let keys = [key(Protocol::Tcp, 1), key(Protocol::Tcp, 2)];
    for key in keys {
        ledger.begin(key, Cause::Terminating, &NONE, at(0));
    }
    assert!(ledger.end(&keys[0]).is_some());
    assert!(ledger.next_poll().is_some());
    assert!(ledger.end(&keys[1]).is_some());
    assert_eq!(ledger.next_poll(), None);
}

/// Bytes of a packet without data.
const BARE: u64 = 60;

/// Runs one drain under silent clients, whose first reading is ten seconds old: (second, active, packets in,
/// packets out), with packets of so many bytes.
fn check_silence(silence: Option<u64>, size: u64, readings: &[(u64, u32, u64, u64)], expect: Option<u64>) {
    let settings = Settings { silence: silence.map(Duration::from_secs), ..Settings::default() };
    let (mut ledger, key) = (Ledger::new(settings), key(Protocol::Tcp, 1));
    ledger.begin(key, Cause::LeftSlices, &NONE, at(0));
    let first =
        readings.first().map(|(_, active, packets_in, packets_out)| (0, *active, *packets_in, *packets_out));
    let later = readings
        .iter()
        .map(|(second, active, packets_in, packets_out)| (10 + second, *active, *packets_in, *packets_out));
    let due = first.into_iter().chain(later).find(|(second, active, packets_in, packets_out)| {
        let connections = ConnectionCounters { active: *active, inactive: 0, persistent: 0 };
        let (packets_in, packets_out) = (*packets_in, *packets_out);
        let traffic = TrafficCounters {
            packets_in,
            packets_out,
            bytes_in: size * packets_in,
            bytes_out: size * packets_out,
            ..TrafficCounters::default()
        };
        ledger.poll(key.front, at(*second), |_| Some((connections, traffic)))
    });
    assert_eq!(due.map(|(second, ..)| second - 10), expect);
    let outcome = ledger.get(&key).and_then(|drain| drain.due);
    assert_eq!(outcome, expect.map(|_| Outcome::Silent));
}

#[test]
fn a_real_server_that_answers_nobody_is_removed() {
    let dead = [(1, 9, 100, 100), (2, 9, 110, 100), (5, 9, 115, 100), (7, 9, 118, 100), (8, 9, 118, 100)];
    check_silence(Some(5), 500, &dead, Some(7));
    check_silence(Some(3), 500, &dead, Some(5));
    check_silence(None, 500, &dead, None);
    check_silence(Some(60), 500, &dead, None);
    // Counted from the reading that shows it, however long ago the one before it was.
    let late = [(1, 9, 100, 100), (91, 9, 101, 100), (93, 9, 101, 100), (94, 9, 101, 100)];
    check_silence(Some(3), 500, &late, Some(94));
    // Data once is enough, anything else must be repeated.
    let once = [(1, 9, 100, 100), (2, 9, 101, 100), (6, 9, 101, 100)];
    check_silence(Some(3), 500, &once, Some(6));
    check_silence(Some(3), BARE, &once, None);
    let twice = [dead[0], dead[1], dead[2], dead[3], (8, 9, 119, 100), (11, 9, 119, 100)];
    check_silence(Some(3), BARE, &twice, Some(11));
    // One answer, and all begins anew.
    let answered = [dead[0], dead[1], (3, 9, 111, 101), (5, 9, 111, 101), (60, 9, 111, 101)];
    check_silence(Some(3), 500, &answered, None);
    // The counters were zeroed by somebody.
    check_silence(Some(3), 500, &[dead[0], dead[1], (3, 9, 2, 0), (4, 9, 2, 0), (60, 9, 2, 0)], None);
}

#[test]
fn what_a_client_sent_before_it_reset_its_connection_is_answered_by_nobody() {
    for size in [BARE, 500] {
        // The counters show it before the reset, with it, or 2 s later.
        let before =
            [(1, 9, 100, 100), (2, 9, 102, 100), (3, 8, 102, 100), (5, 8, 103, 100), (60, 8, 103, 100)];
        check_silence(Some(3), size, &before, None);
        let together = [(1, 9, 100, 100), (2, 8, 103, 100), (5, 8, 103, 100), (60, 8, 103, 100)];
        check_silence(Some(3), size, &together, None);
        let later = [(1, 9, 99, 99), (2, 8, 100, 100), (3, 8, 103, 100), (6, 8, 103, 100), (60, 8, 103, 100)];
        check_silence(Some(3), size, &later, None);
    }
    // But not what the others go on sending.
    let others = [(1, 9, 100, 100), (2, 8, 105, 100), (3, 8, 112, 100), (6, 8, 114, 100)];
    check_silence(Some(3), 500, &others, Some(6));
}

#[test]
fn quiet_connections_are_not_silent_ones() {
    for size in [BARE, 500] {
        let idle: Vec<_> = (1..60).map(|s| (s, 9, 100, 100)).collect();
        check_silence(Some(3), size, &idle, None);
        let busy: Vec<_> = (1..60).map(|s| (s, 9, 100 * s, 100 * s)).collect();
        check_silence(Some(3), size, &busy, None);
        let download: Vec<_> = (1..60).map(|s| (s, 9, 100, 100 * s)).collect();
        check_silence(Some(3), size, &download, None);
    }
    // Acknowledgements of what the server sent last are answered by nobody, and may be counted after that.
    // Clients that reset their connections, one after the other, are answered by nobody either.
    let resets: Vec<_> = (1..9).map(|s| (s, 20 - u32::try_from(s).unwrap(), 100 + s, 100)).collect();
    check_silence(Some(3), BARE, &resets, None);
    let now_and_then: Vec<_> = (1..60).map(|n| (20 * n, 9, 100 + n, 100)).collect();
    check_silence(Some(3), BARE, &now_and_then[..40], None);
    let last_acks: Vec<_> = (1..60).map(|s| (s, 9, if s < 3 { 100 } else { 109 }, 100)).collect();
    check_silence(Some(3), BARE, &last_acks, None);
}

#[test]
fn what_its_service_wants_counts_at_once_while_it_drains() {
    let (mut ledger, key) = (Ledger::default(), key(Protocol::Tcp, 1));
    ledger.begin(key, Cause::Terminating, &NONE, at(0));
    ledger.poll(key.front, at(60), |_| counters(1, 0, 0));
    assert!(ledger.next_poll() > Some(at(60)));
    let overrides = Overrides { timeout: Some(Duration::from_secs(30)), ..NONE };
    let version = ledger.version();
    ledger.configure(key.front, &overrides, at(61));
    assert!(ledger.version() > version && ledger.next_poll() <= Some(at(61)), "looked at again");
    assert!(ledger.poll(key.front, at(61), |_| counters(1, 0, 0)));
    assert_eq!(ledger.judge(&key, &overrides), Verdict::Remove(Outcome::TimedOut));
    let version = ledger.version();
    ledger.configure(key.front, &overrides, at(61));
    assert_eq!(ledger.version(), version, "nothing new");
}

#[test]
fn overrides_replace_one_setting_each() {
    let second = Some(Duration::from_secs(1));
    let base = Settings::default();
    assert_eq!(base.with(&NONE), base);
    for (overrides, expect) in [
        (
            Overrides { policy: Some(Policy::Immediate), ..NONE },
            Settings { policy: Policy::Immediate, ..base },
        ),
        (Overrides { linger: second, ..NONE }, Settings { linger: Duration::from_secs(1), ..base }),
        (Overrides { timeout: second, ..NONE }, Settings { timeout: second, ..base }),
        (Overrides { timeout: Some(Duration::ZERO), ..NONE }, Settings { timeout: None, ..base }),
        (
            Overrides { silence: Some(Duration::from_secs(60)), ..NONE },
            Settings { silence: Some(Duration::from_secs(60)), ..base },
        ),
        (Overrides { silence: second, ..NONE }, Settings { silence: Some(LEAST_SILENCE), ..base }),
        (Overrides { silence: Some(Duration::ZERO), ..NONE }, Settings { silence: None, ..base }),
        (
            Overrides { endpoint_gone: Some(EndpointGone::Drain), ..NONE },
            Settings { endpoint_gone: EndpointGone::Drain, ..base },
        ),
    ] {
        assert_eq!(base.with(&overrides), expect);
    }
}

#[test]
fn a_deadline_is_met_to_the_moment_however_rarely_it_is_polled() {
    let (mut ledger, key) = (Ledger::default(), key(Protocol::Tcp, 1));
    let overrides = Overrides { timeout: Some(Duration::from_millis(61_300)), ..NONE };
    ledger.begin(key, Cause::Terminating, &overrides, at(0));
    while let Some(now) = ledger.next_poll().filter(|_| ledger.get(&key).unwrap().due.is_none()) {
        ledger.poll(key.front, now, |_| counters(1, 0, 0));
        if ledger.get(&key).unwrap().due.is_some() {
            assert_eq!(now, at(61) + Duration::from_millis(300));
        }
    }
}

#[test]
fn a_pod_that_terminates_is_remembered_as_that() {
    let (mut ledger, key) = (Ledger::default(), key(Protocol::Tcp, 1));
    for (cause, expect) in [
        (Cause::NotServing, Cause::NotServing),
        (Cause::LeftSlices, Cause::LeftSlices),
        (Cause::NotServing, Cause::NotServing),
        (Cause::Terminating, Cause::Terminating),
        (Cause::NotServing, Cause::Terminating),
        (Cause::LeftSlices, Cause::Terminating),
        (Cause::ServiceGone, Cause::ServiceGone),
    ] {
        ledger.begin(key, cause, &NONE, at(0));
        assert_eq!(ledger.get(&key).unwrap().cause, expect);
    }
}

#[test]
fn an_address_that_changed_hands_goes_and_rests() {
    let (mut ledger, key) = (Ledger::default(), key(Protocol::Tcp, 1));
    ledger.address_reused(key, at(0));
    assert_eq!(ledger.judge(&key, &NONE), Verdict::Remove(Outcome::AddressReused));
    assert_eq!(ledger.at(key.rs.addr).collect::<Vec<_>>(), [&key]);
    ledger.end(&key);
    assert_eq!(ledger.at(key.rs.addr).count(), 0);
    ledger.hold_down(key, at(1));
    let until = ledger.next_release().unwrap();
    assert_eq!(ledger.state(&key), State::HeldDown(until));
    assert!(until > at(1) && until < at(2), "{until:?}");
    assert!(ledger.take_released(at(1)).is_empty());
    assert_eq!(ledger.take_released(until), [key.front]);
    assert_eq!((ledger.state(&key), ledger.next_poll()), (State::Absent, None));
}

#[test]
fn a_record_brings_back_reason_deadline_and_pod() {
    let (mut ledger, key) = (Ledger::default(), key(Protocol::Tcp, 1));
    let overrides = Overrides { timeout: Some(Duration::from_secs(100)), ..NONE };
    ledger.begin(key, Cause::Terminating, &overrides, at(0));
    ledger.note_pod(&key, &"ns/web-1/uid".into());
    let record = Record::from(ledger.get(&key).unwrap());
    let mut next = Ledger::default();
    next.restore(key, record.clone(), at(50));
    let drain = next.get(&key).unwrap();
    assert_eq!((drain.cause, drain.deadline()), (Cause::Terminating, Some(at(100))));
    assert_eq!((drain.pod.as_deref(), drain.last_activity), (Some("ns/web-1/uid"), at(50)));
    next.poll(key.front, at(54), |_| counters(0, 0, 0));
    assert_eq!(next.judge(&key, &NONE), Verdict::Quiesce, "the linger time begins anew");
    next.poll(key.front, at(100), |_| counters(1, 0, 0));
    assert_eq!(next.judge(&key, &NONE), Verdict::Remove(Outcome::TimedOut));
    // From a file that somebody has edited, or from before the clock was set back.
    next.end(&key);
    next.restore(key, Record { since: at(999), ..record }, at(50));
    assert_eq!(next.get(&key).unwrap().since, at(50));
}
