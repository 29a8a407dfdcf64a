//! Any order of events, judged by a second bookkeeping that only remembers what has been seen.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::*;
use crate::{Drain, Time, WaitsFor};

/// Event of the ledger.
#[derive(Clone, Debug)]
enum Event {
    Begin(u8, Cause),
    /// Its endpoint serves again.
    Return(u8),
    EndpointGone(u8),
    AddressReused(u8),
    Configure(u8, Overrides),
    /// Time passes, and what is due is polled at its time.
    Pass(Duration),
    /// The machine was busy: nothing is polled in time.
    Sleep(Duration),
    /// Connections and traffic of a real server from now on.
    WatchedLedger(u8, Traffic),
    /// The kernel does not tell for a while.
    Mute(bool),
    Restart,
}

/// Behaviour of clients and server.
#[derive(Clone, Copy, Debug, Default)]
struct Traffic {
    active: u32,
    inactive: u32,
    /// Packets per poll.
    packets_in: u64,
    packets_out: u64,
    /// Bytes of each packet.
    size: u64,
}

/// One reading of the counters.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Time,
    active: u32,
    inactive: u32,
    packets: (u64, u64),
    /// From clients.
    bytes: u64,
}

/// Memory of one drain.
#[derive(Clone, Debug)]
struct Memory {
    since: Time,
    settings: Settings,
    /// Since it began, or since the restart.
    readings: Vec<Reading>,
    resumed: Time,
    /// When it was polled last, or when the process started.
    looked: Time,
    cause: Cause,
    /// Readings from before clients were waited for, as those of a pod that was healthy.
    unheard: usize,
    /// The outcome that was decided without a reading.
    must: Option<Outcome>,
}

struct WatchedLedger {
    ledger: Ledger,
    now: Time,
    traffic: BTreeMap<Key, Traffic>,
    packets: BTreeMap<Key, (u64, u64)>,
    bytes: BTreeMap<Key, u64>,
    memory: BTreeMap<Key, Memory>,
    mute: bool,
}

const BASE: Settings = Settings {
    policy: Policy::ActiveOnly,
    linger: Duration::from_secs(5),
    timeout: Some(Duration::from_secs(90)),
    silence: Some(Duration::from_secs(5)),
    endpoint_gone: EndpointGone::Remove,
};

/// Two real servers of each of three virtual servers.
fn which(n: u8) -> Key {
    Key { rs: key(Protocol::Tcp, 1 + n % 2).rs, ..nth(u16::from(n / 2 % 3)) }
}

impl WatchedLedger {
    fn new() -> Self {
        let (traffic, packets, bytes, memory) = Default::default();
        WatchedLedger { ledger: Ledger::new(BASE), now: at(0), traffic, packets, bytes, memory, mute: false }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Begin(n, cause) => self.begin(which(n), cause),
            Event::Return(n) => self.end(&which(n)),
            Event::EndpointGone(n) => {
                self.ledger.endpoint_gone(&which(n));
                if let Some(memory) = self.memory.get_mut(&which(n)) {
                    memory.must = memory.must.or(Some(Outcome::EndpointGone));
                }
            }
            Event::AddressReused(n) => {
                self.begin(which(n), Cause::AddressReused);
                assert!(!self.ledger.address_reused(which(n), self.now), "drains already");
                self.memory.get_mut(&which(n)).unwrap().must = Some(Outcome::AddressReused);
            }
            Event::Configure(n, overrides) => {
                let front = which(n).front;
                self.ledger.configure(front, &overrides, self.now);
                let of_vs = self.memory.iter_mut().filter(|(key, _)| key.front == front);
                for (_, memory) in of_vs {
                    memory.settings = BASE.with(&overrides);
                }
            }
            Event::Pass(duration) => self.pass(duration),
            Event::Sleep(duration) => {
                self.now += duration;
                self.poll_due();
            }
            Event::WatchedLedger(n, traffic) => _ = self.traffic.insert(which(n), traffic),
            Event::Mute(mute) => self.mute = mute,
            Event::Restart => self.restart(),
        }
        self.check();
    }

    fn begin(&mut self, key: Key, cause: Cause) {
        let began = self.ledger.begin(key, cause, &Overrides::NONE, self.now);
        assert_eq!(began, !self.memory.contains_key(&key), "begins once");
        let (since, resumed, looked) = (self.now, self.now, self.now);
        let (settings, readings, unheard, must) = (BASE, Vec::new(), 0, None);
        let new = Memory { since, settings, readings, resumed, looked, cause, unheard, must };
        let memory = self.memory.entry(key).or_insert(new);
        if cause.supersedes(memory.cause) {
            if memory.cause == Cause::NotChosen || cause == Cause::AddressLeft {
                (memory.since, memory.unheard) = (self.now, memory.readings.len());
            }
            memory.cause = cause;
        }
    }

    fn end(&mut self, key: &Key) {
        assert_eq!(self.ledger.end(key).is_some(), self.memory.remove(key).is_some());
    }

    fn pass(&mut self, duration: Duration) {
        let end = self.now + duration;
        while let Some(due) = self.ledger.next_poll().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.poll_due();
            self.check();
        }
        self.now = end;
    }

    /// Polls what is due and executes what follows, as the loop does.
    fn poll_due(&mut self) {
        let due: Vec<_> = self.ledger.due(self.now).collect();
        for front in due {
            let readings = self.read(front);
            let counters = |rs: &RealServerId| {
                let reading = readings.get(rs)?;
                let (packets_in, packets_out) = reading.packets;
                let (bytes_in, bytes_out) = (reading.bytes, 60 * packets_out);
                let traffic =
                    TrafficCounters { connections: 0, packets_in, packets_out, bytes_in, bytes_out };
                Some((reading.connections(), traffic))
            };
            let any_due = self.ledger.poll(front, self.now, counters);
            let keys: Vec<_> = self.ledger.of(&front).copied().collect();
            for key in &keys {
                self.judge(key);
            }
            let over: Vec<_> = keys.iter().filter(|key| self.due(key).is_some()).collect();
            assert_eq!(any_due, !over.is_empty());
            for key in over {
                self.end(key);
            }
        }
    }

    fn due(&self, key: &Key) -> Option<Outcome> {
        self.ledger.get(key).and_then(|drain: &Drain| drain.due)
    }

    fn read(&mut self, front: Front) -> BTreeMap<RealServerId, Reading> {
        let mut readings = BTreeMap::new();
        for (key, memory) in self.memory.iter_mut().filter(|(key, _)| key.front == front) {
            memory.looked = self.now;
            if self.mute {
                continue;
            }
            let traffic = self.traffic.get(key).copied().unwrap_or_default();
            let packets = self.packets.entry(*key).or_default();
            *packets = (packets.0 + traffic.packets_in, packets.1 + traffic.packets_out);
            let bytes = self.bytes.entry(*key).or_default();
            *bytes += traffic.packets_in * traffic.size;
            let Traffic { active, inactive, .. } = traffic;
            let reading = Reading { at: self.now, active, inactive, packets: *packets, bytes: *bytes };
            memory.readings.push(reading);
            readings.insert(key.rs, reading);
        }
        readings
    }

    /// Every poll decides as the readings say: never early, never late, and never for another reason.
    fn judge(&self, key: &Key) {
        let (due, memory) = (self.due(key), &self.memory[key]);
        let expect = memory.decide(self.now, !self.mute);
        // That clients wait in vain has tests of its own; here it must be borne out, and nothing else come
        // first.
        let may_be_silent = matches!(expect, None | Some(Outcome::TimedOut)) && memory.is_silent(self.now);
        let right = due == expect || due == Some(Outcome::Silent) && may_be_silent && !self.mute;
        assert!(right, "{due:?} instead of {expect:?} at {:?}: {memory:?}", self.now);
        if due.is_none() {
            self.check_wait(key, memory);
        }
    }

    /// Checks the wait against the readings, and that a poll comes when it is over.
    fn check_wait(&self, key: &Key, memory: &Memory) {
        let next = self.ledger.next_reading(&key.front).unwrap();
        let open =
            memory.readings.last().map(|reading| memory.settings.policy.awaited(&reading.connections()));
        match self.ledger.get(key).unwrap().waits_for(next, || panic!("nothing is to be written")) {
            WaitsFor::Connections(count) => assert!(count > 0 && open == Some(count)),
            WaitsFor::Answer(until) => assert!(open > Some(0) && (self.mute || next <= until)),
            WaitsFor::Quiet(until) => assert!(open == Some(0) && (self.mute || next <= until)),
            WaitsFor::Reading(at) => assert!(at == next && open.is_none_or(|open| open == 0)),
            other => panic!("{other:?}"),
        }
    }

    /// Nothing is late, and nothing is forgotten.
    fn check(&self) {
        let keys: Vec<_> = self.ledger.iter().map(|(key, _)| *key).collect();
        assert_eq!(keys, self.memory.keys().copied().collect::<Vec<_>>());
        let next = self.ledger.next_poll();
        assert_eq!(next.is_some(), !keys.is_empty(), "polled while something drains, and only then");
        for (key, memory) in &self.memory {
            let due = self.due(key);
            let kept = memory.deadline().is_some_and(|deadline| deadline < self.now) && due.is_none();
            assert!(!kept || next <= Some(self.now), "{key:?} is kept past its deadline");
            let rarely = memory.looked + Duration::from_secs(5) < self.now && next > Some(self.now);
            assert!(!rarely, "{key:?} was looked at {:?}, now is {:?}", memory.looked, self.now);
        }
    }

    fn restart(&mut self) {
        let records: Vec<_> = self.ledger.iter().map(|(key, drain)| (*key, Record::from(drain))).collect();
        self.ledger = Ledger::new(BASE);
        for (key, record) in records {
            self.ledger.restore(key, record, self.now);
        }
        for memory in self.memory.values_mut() {
            *memory = Memory {
                readings: Vec::new(),
                resumed: self.now,
                looked: self.now,
                unheard: 0,
                must: None,
                ..memory.clone()
            };
        }
    }
}

impl Reading {
    fn connections(&self) -> ConnectionCounters {
        ConnectionCounters { active: self.active, inactive: self.inactive, persistent: 0 }
    }
}

impl Memory {
    fn deadline(&self) -> Option<Time> {
        let timeout = self.settings.timeout.filter(|_| self.cause != Cause::NotChosen);
        let absence = (self.cause == Cause::AddressLeft).then_some(Duration::from_secs(10));
        let timeout = timeout.into_iter().chain(absence).min();
        timeout.map(|timeout| self.since + timeout)
    }

    /// The outcome of a poll, but for silence. Where the kernel tells nothing, only the deadline counts.
    fn decide(&self, now: Time, told: bool) -> Option<Outcome> {
        let last = self.readings.last().filter(|_| told);
        let by_reading = last.and_then(|Reading { active, inactive, .. }| {
            // Counters of traffic are up to 2 s old, and what is half closed shows nowhere else.
            let least = if *inactive > 0 { Duration::from_millis(2500) } else { Duration::ZERO };
            let is_over = match self.settings.policy {
                Policy::Immediate => return Some(Outcome::Immediate),
                Policy::AllConnections => active + inactive == 0,
                Policy::ActiveOnly => {
                    *active == 0 && self.quiet_since() + self.settings.linger.max(least) <= now
                }
            };
            is_over.then_some(Outcome::Drained)
        });
        let overdue = self.deadline().filter(|deadline| *deadline <= now).map(|_| Outcome::TimedOut);
        self.must.or(by_reading).or(overdue)
    }

    fn is_silent(&self, now: Time) -> bool {
        let silence = self.settings.silence.filter(|_| self.cause != Cause::NotChosen);
        let is_new = self.readings.last().is_some_and(|reading| reading.at == now);
        is_new && silence.is_some_and(|silence| self.is_silent_for(silence))
    }

    /// Of all readings, the last one that showed life.
    fn quiet_since(&self) -> Time {
        let moved =
            self.readings.windows(2).filter(|pair| pair[0].packets != pair[1].packets).map(|pair| pair[1].at);
        let active = self.readings.iter().filter(|reading| reading.active > 0).map(|reading| reading.at);
        moved.chain(active).max().unwrap_or(self.resumed)
    }

    /// Clients have sent data, or three times, and have got nothing for so long since.
    fn is_silent_for(&self, silence: Duration) -> bool {
        let pairs = self.readings[self.unheard.saturating_sub(1)..].windows(2).rev();
        let mut unanswered: Vec<_> =
            pairs.take_while(|pair| pair[0].packets.1 == pair[1].packets.1 && pair[1].active > 0).collect();
        unanswered.reverse();
        let packets = |pair: &&[Reading]| pair[1].packets.0 - pair[0].packets.0;
        let mut sent = unanswered.into_iter().filter(|pair| packets(pair) > 0);
        let data = sent.clone().find(|pair| pair[1].bytes - pair[0].bytes > 100 * packets(pair));
        let [data, third] = [data, sent.nth(2)].map(|pair| pair.map(|pair| pair[1].at));
        let since = data.into_iter().chain(third).min();
        since.zip(self.readings.last()).is_some_and(|(since, now)| since + silence <= now.at)
    }
}

fn event() -> impl Strategy<Value = Event> {
    let cause = prop_oneof![
        Just(Cause::Terminating),
        Just(Cause::NotServing),
        Just(Cause::NotChosen),
        Just(Cause::LeftSlices),
        Just(Cause::ServiceGone),
        Just(Cause::AddressLeft)
    ];
    let policy = prop_oneof![
        Just(None),
        Just(Some(Policy::ActiveOnly)),
        Just(Some(Policy::AllConnections)),
        Just(Some(Policy::Immediate))
    ];
    let seconds = |max: u64| proptest::option::of((0..max).prop_map(Duration::from_secs));
    let gone = proptest::option::of(prop_oneof![Just(EndpointGone::Remove), Just(EndpointGone::Drain)]);
    // Often shorter than counters are old.
    let linger = prop_oneof![seconds(3), seconds(20)];
    let overrides = (policy, linger, seconds(200), seconds(20), gone).prop_map(
        |(policy, linger, timeout, silence, endpoint_gone)| Overrides {
            policy,
            linger,
            timeout,
            silence,
            endpoint_gone,
        },
    );
    let traffic = (0..3_u32, 0..3_u32, 0..3_u64, 0..3_u64, prop_oneof![Just(60_u64), Just(500)]).prop_map(
        |(active, inactive, packets_in, packets_out, size)| Traffic {
            active,
            inactive,
            packets_in,
            packets_out,
            size,
        },
    );
    let n = 0..6_u8;
    prop_oneof![
        6 => (n.clone(), cause).prop_map(|(n, cause)| Event::Begin(n, cause)),
        2 => n.clone().prop_map(Event::Return),
        1 => n.clone().prop_map(Event::EndpointGone),
        1 => n.clone().prop_map(Event::AddressReused),
        2 => (n.clone(), overrides).prop_map(|(n, overrides)| Event::Configure(n, overrides)),
        6 => (0..40_000_u64).prop_map(|ms| Event::Pass(Duration::from_millis(ms))),
        1 => (0..400_000_u64).prop_map(|ms| Event::Sleep(Duration::from_millis(ms))),
        4 => (n, traffic).prop_map(|(n, traffic)| Event::WatchedLedger(n, traffic)),
        1 => any::<bool>().prop_map(Event::Mute),
        1 => Just(Event::Restart),
    ]
}

proptest! {
    #[test]
    fn every_poll_decides_as_the_readings_say(events in vec(event(), 1..60)) {
        let mut world = WatchedLedger::new();
        for event in events {
            world.take(event);
        }
        // All connections end: within linger, the longest interval and a bit all drains are over.
        world.take(Event::Mute(false));
        for n in 0..6 {
            world.take(Event::WatchedLedger(n, Traffic::default()));
        }
        world.take(Event::Pass(Duration::from_secs(40)));
        prop_assert_eq!(world.ledger.len(), 0);
        prop_assert_eq!(world.ledger.next_poll(), None);
    }
}
