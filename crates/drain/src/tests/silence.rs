//! A world of clients, servers and counters as the kernel shows them: whoever answers is never taken for
//! silent.

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::Time;

/// Behaviour of one group of connections.
#[derive(Clone, Copy, Debug)]
enum Talk {
    /// Clients send data, the server acknowledges it.
    Requests,
    /// Clients send packets without data, the server answers.
    Keepalives,
    /// The server sends data, clients acknowledge it.
    Pushes,
}

#[derive(Clone, Copy, Debug)]
struct Group {
    talk: Talk,
    period: Time,
    /// Time of the first packet.
    first: Time,
    /// How long the answer takes.
    delay: Time,
}

/// A client resets its connection, and has sent some data right before that nobody has acknowledged yet.
#[derive(Clone, Copy, Debug)]
struct Reset {
    at: Time,
    sent: u64,
}

/// How old the counters of a reading are.
#[derive(Clone, Debug)]
enum Ages {
    /// As in the kernel: summed up every 2 s, the first time then.
    Tick(Time),
    /// Anything up to 2 s, in turn.
    Any(Vec<Time>),
}

#[derive(Clone, Debug)]
struct PolledServers {
    groups: Vec<Group>,
    resets: Vec<Reset>,
    /// When the server dies.
    dies: Time,
    ages: Ages,
    /// Other virtual servers that are polled, too, and what each poll costs.
    others: u16,
    cost: Time,
    /// How late polls are, in turn.
    late: Vec<Time>,
    silence: Time,
}

const BARE: u64 = 60;
const DATA: u64 = 500;
const STALE: Time = Time::from_secs(2);
/// Everything has been going on for so long when the drain begins.
const BEGIN: Time = Time::from_secs(200);
const END: Time = Time::from_secs(1500);

/// How many of something that happens every `period` have happened by `at`.
fn count(first: Time, period: Time, at: Time) -> u64 {
    at.checked_sub(first).map_or(0, |since| 1 + (since.as_millis() / period.as_millis()) as u64)
}

impl Group {
    /// Packets and bytes in, packets out, of a server that lives until then.
    fn traffic(&self, at: Time, dies: Time) -> [u64; 3] {
        let sent = |until: Time| count(self.first, self.period, until);
        let echoed = |until: Time| count(self.first + self.delay, self.period, until);
        let alive = at.min(dies);
        match self.talk {
            Talk::Pushes => [echoed(at).min(sent(alive)), BARE * echoed(at).min(sent(alive)), sent(alive)],
            Talk::Keepalives => [sent(at), BARE * sent(at), echoed(alive)],
            Talk::Requests => {
                let answered = echoed(alive);
                let repeats: u64 = (answered..sent(at)).map(|n| self.repeats(n, at, dies)).sum();
                [sent(at) + repeats, DATA * (sent(at) + repeats), answered]
            }
        }
    }

    /// How often the n-th packet has been sent again.
    fn repeats(&self, n: u64, at: Time, dies: Time) -> u64 {
        let sent = self.first + self.period * u32::try_from(n).unwrap();
        let again = (1..10).map(|n| sent + Time::from_millis(200) * ((1 << n) - 1));
        if sent + self.delay < dies { 0 } else { again.take_while(|again| *again <= at).count() as u64 }
    }
}

impl PolledServers {
    /// Counters of the kernel at a time.
    fn traffic(&self, at: Time) -> TrafficCounters {
        let mut sums = [0; 3];
        for group in &self.groups {
            let traffic = group.traffic(at, self.dies);
            for n in 0..3 {
                sums[n] += traffic[n];
            }
        }
        for reset in &self.resets {
            let sent = if reset.at <= at + Time::from_millis(30) { reset.sent } else { 0 };
            let last = u64::from(reset.at <= at);
            sums[0] += sent + last;
            sums[1] += DATA * sent + BARE * last;
        }
        let [packets_in, bytes_in, packets_out] = sums;
        TrafficCounters { packets_in, bytes_in, packets_out, bytes_out: BARE * packets_out, connections: 0 }
    }

    fn active(&self, at: Time) -> u32 {
        let ended = self.resets.iter().filter(|reset| reset.at <= at).count();
        u32::try_from(self.groups.len() + self.resets.len() - ended).unwrap()
    }

    fn snapshot(&self, at: Time, n: usize, last: Time) -> Time {
        match &self.ages {
            Ages::Tick(first) => {
                let passed = at.saturating_sub(*first).as_millis() % STALE.as_millis();
                at - Time::from_millis(u64::try_from(passed).unwrap())
            }
            Ages::Any(ages) => last.max(at - ages[n % ages.len()]),
        }
    }

    /// Follows one drain and returns its readings, and the time of the one by which it was found silent.
    fn run(&self) -> (Vec<(Time, TrafficCounters)>, Option<Time>) {
        let settings = Settings { silence: Some(self.silence), timeout: None, ..Settings::default() };
        let mut ledger = Ledger::new(settings);
        for _ in 0..500 {
            ledger.polls_took(1, self.cost);
        }
        let watched = nth(0);
        for n in 0..=self.others {
            ledger.begin(nth(n), Cause::LeftSlices, &NONE, BEGIN);
        }
        let (mut readings, mut snapshot) = (Vec::new(), Time::ZERO);
        for n in 0.. {
            let due = ledger.next_poll().unwrap();
            let now = due + self.late[n % self.late.len()];
            if now > END {
                break;
            }
            for front in ledger.due(now).collect::<Vec<_>>() {
                if front != watched.front {
                    ledger.poll(front, now, |_| counters(1, 0, 0));
                    continue;
                }
                snapshot = self.snapshot(now, readings.len(), snapshot);
                let connections = ConnectionCounters { active: self.active(now), inactive: 0, persistent: 0 };
                let traffic = self.traffic(snapshot);
                readings.push((now, traffic));
                if ledger.poll(front, now, |_| Some((connections, traffic))) {
                    assert_eq!(ledger.get(&watched).unwrap().due, Some(Outcome::Silent));
                    return (readings, Some(now));
                }
            }
        }
        (readings, None)
    }
}

impl PolledServers {
    /// The first reading that shows something that is never answered, and no answer to anything else; of the
    /// first readings nobody knows what their counters had left out.
    fn seen(&self, readings: &[(Time, TrafficCounters)]) -> Time {
        let answers = self.traffic(END).packets_out;
        let shows = |pair: &&[(Time, TrafficCounters)]| {
            let [before, after] = [pair[0].1, pair[1].1];
            let is_settled = pair[0].0 >= readings[0].0 + STALE;
            is_settled && before.packets_out == answers && after.packets_in > before.packets_in
        };
        readings.windows(2).find(shows).map(|pair| pair[1].0).expect("never polled after the last answer")
    }
}

fn millis(range: std::ops::RangeInclusive<u64>) -> impl Strategy<Value = Time> {
    range.prop_map(Time::from_millis)
}

fn group(talk: impl Strategy<Value = Talk>, longest: u64) -> impl Strategy<Value = Group> {
    let delay = prop_oneof![3 => millis(1..=200), 1 => millis(1..=1000)];
    (talk, millis(50..=longest), 0..1000_u32, delay).prop_map(|(talk, period, phase, delay)| Group {
        talk,
        period,
        first: period * phase / 1000,
        delay,
    })
}

fn world(groups: impl Strategy<Value = Vec<Group>>, resets: usize) -> impl Strategy<Value = PolledServers> {
    let ages =
        prop_oneof![millis(0..=2000).prop_map(Ages::Tick), vec(millis(0..=2000), 1..40).prop_map(Ages::Any)];
    let reset = (millis(150_000..=700_000), prop_oneof![3 => Just(0), 1 => 0..10_u64])
        .prop_map(|(at, sent)| Reset { at, sent });
    let late = prop_oneof![Just(vec![Time::ZERO]), vec(millis(0..=1000), 1..10)];
    let silence = prop_oneof![Just(Time::from_millis(2500)), Just(Time::from_secs(3)), millis(2500..=20_000)];
    let polls = prop_oneof![Just((0, Time::ZERO)), (20..70_u16, millis(0..=20))];
    (groups, vec(reset, 0..=resets), ages, polls, late, silence).prop_map(
        |(groups, resets, ages, (others, cost), late, silence)| PolledServers {
            groups,
            resets,
            dies: Time::MAX,
            ages,
            others,
            cost,
            late,
            silence,
        },
    )
}

fn any_talk() -> impl Strategy<Value = Talk> {
    prop_oneof![Just(Talk::Requests), Just(Talk::Keepalives), Just(Talk::Pushes)]
}

proptest! {
    #[test]
    fn who_answers_is_never_silent(world in world(vec(group(any_talk(), 60_000), 1..4), 6)) {
        let (readings, cut) = world.run();
        prop_assert!(cut.is_none(), "cut at {cut:?} after {:?}", &readings[readings.len().saturating_sub(8)..]);
        prop_assert!(readings.len() > 8, "polled {} times", readings.len());
    }

    #[test]
    fn who_does_not_answer_data_is_found_in_time(
        world in world(vec(group(Just(Talk::Requests), 60_000), 1..4), 0),
        dies in millis(201_000..=900_000),
    ) {
        let world = PolledServers { dies, ..world };
        let (readings, cut) = world.run();
        let seen = world.seen(&readings);
        let limit = seen + world.silence + Time::from_millis(2500);
        prop_assert!(cut.is_some_and(|cut| cut > dies && cut <= limit), "seen at {seen:?}, cut at {cut:?}");
    }

    #[test]
    fn who_does_not_answer_what_clients_repeat_is_found_too(
        world in world(vec(group(Just(Talk::Keepalives), 5_000), 1..4), 0),
        dies in millis(201_000..=900_000),
    ) {
        let world = PolledServers { dies, ..world };
        let (readings, cut) = world.run();
        let seen = world.seen(&readings);
        // Twice more, each within 10 s, and each poll may be late.
        let limit = seen + Time::from_secs(23) + world.silence + Time::from_millis(2500);
        prop_assert!(cut.is_some_and(|cut| cut > dies && cut <= limit), "seen at {seen:?}, cut at {cut:?}");
    }
}

/// A pod that is asked rarely is not judged by what another client had sent before anybody looked.
#[test]
fn a_reset_before_the_first_reading_is_no_silence() {
    for before in (0..2500).step_by(20) {
        let group = Group {
            talk: Talk::Requests,
            period: Time::from_secs(30),
            first: Time::ZERO,
            delay: Time::from_millis(1),
        };
        let world = PolledServers {
            groups: vec![group],
            resets: vec![Reset { at: BEGIN + Time::from_millis(500) - Time::from_millis(before), sent: 5 }],
            dies: Time::MAX,
            ages: Ages::Tick(Time::from_millis(1017)),
            others: 0,
            cost: Time::ZERO,
            late: vec![Time::ZERO],
            silence: Time::from_millis(2500),
        };
        assert_eq!(world.run().1, None, "{before} ms before");
    }
}

#[test]
fn a_heartbeat_every_ten_seconds_on_a_long_drain_is_no_silence() {
    for phase in (0..10_000).step_by(20) {
        let group = Group {
            talk: Talk::Requests,
            period: Time::from_secs(10),
            first: Time::from_millis(phase),
            delay: Time::from_millis(40),
        };
        let world = PolledServers {
            groups: vec![group],
            resets: Vec::new(),
            dies: Time::MAX,
            ages: Ages::Tick(Time::ZERO),
            others: 0,
            cost: Time::ZERO,
            late: vec![Time::ZERO],
            silence: Time::from_secs(3),
        };
        assert_eq!(world.run().1, None, "phase {phase}");
    }
}
