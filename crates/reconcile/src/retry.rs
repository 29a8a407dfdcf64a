//! What failed, and when it is tried again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
    time::Duration,
};

use dataplane::Touched;
use drain::Time;
use lb_types::{ElementKey, RuleElement, VirtualServerId};
use planner::Touch;
use tally::Tallied;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(30);

/// What is tried again as a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// The first dumps, the link, or the chains.
    Base,
    /// The dump of a table that is in doubt.
    Table(Touched),
    /// Dumps of virtual servers that are in doubt.
    Servers,
    /// A virtual server with its real servers and elements.
    Server(VirtualServerId),
    /// A VIP.
    Vip(IpAddr),
    /// An address that must leave the link.
    Address(IpAddr),
    /// Deletions of tracked connections.
    Flows,
}

impl Subject {
    /// What an element belongs to.
    pub(crate) fn of(element: &RuleElement) -> Self {
        match element.key {
            ElementKey::Addr(vip) => Subject::Vip(vip),
            ElementKey::Port(port) => Subject::Server(port.into()),
        }
    }

    /// Whether it is an object of the kernel, unlike what all of them stand on and what only accompanies them.
    pub(crate) const fn is_object(&self) -> bool {
        matches!(self, Subject::Server(_) | Subject::Vip(_) | Subject::Address(_))
    }

    /// Adds it to what must be compared.
    pub(crate) fn touch(self, touch: &mut Touch) {
        let _new = match self {
            Subject::Base | Subject::Table(_) | Subject::Servers | Subject::Flows => false,
            Subject::Server(vs) => touch.servers.insert(vs),
            Subject::Vip(vip) => touch.vips.insert(vip),
            Subject::Address(addr) => touch.addresses.insert(addr),
        };
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Subject::Base => f.write_str("link and packet rules"),
            Subject::Table(Touched::Vips) => f.write_str("dump of link, routes and addresses"),
            Subject::Table(Touched::Rules) => f.write_str("dump of packet rules"),
            Subject::Servers => f.write_str("dumps of virtual servers"),
            Subject::Server(vs) => write!(f, "virtual server {vs}"),
            Subject::Vip(vip) => write!(f, "VIP {vip}"),
            Subject::Address(addr) => write!(f, "address {addr}"),
            Subject::Flows => f.write_str("deletions of tracked connections"),
        }
    }
}

#[derive(Clone, Debug)]
struct Entry {
    /// Delay before the try that is due next.
    delay: Duration,
    due: Time,
    /// Last reason, so that a failure that stays is reported once.
    reason: String,
}

/// Failed subjects with exponential backoff: 100 ms, doubled up to 30 s.
#[derive(Clone, Debug, Default)]
pub(crate) struct Retry {
    entries: Tallied<BTreeMap<Subject, Entry>>,
    /// The same by the time of the next try, so that what waits is not looked at before its time.
    by_due: Tallied<BTreeSet<(Time, Subject)>>,
    /// What has failed since the last [`Retry::tried_until`].
    fresh: BTreeSet<Subject>,
    /// How many of the subjects are VIPs, and how many virtual servers.
    vips: usize,
    servers: usize,
}

impl Retry {
    /// Notes a failure; returns whether its reason is news.
    pub(crate) fn fail(&mut self, subject: Subject, reason: &str, now: Time) -> bool {
        let before = self.entries.get(&subject);
        // Several writes of one subject may fail in one go: that is one try.
        let delay = match before {
            Some(entry) if entry.due > now => entry.delay,
            Some(entry) => (entry.delay * 2).min(LONGEST),
            None => FIRST,
        };
        let news = before.is_none_or(|entry| entry.reason != reason);
        let due = now + delay;
        match self.entries.insert(subject, Entry { delay, due, reason: reason.to_owned() }) {
            Some(before) => _ = self.by_due.remove(&(before.due, subject)),
            None => self.count(&subject, |count| count + 1),
        }
        self.by_due.insert((due, subject));
        self.fresh.insert(subject);
        news
    }

    /// The step that has noted the last failures took until `now`: the delays begin there, so that a step that takes
    /// longer than they are is not repeated without a pause.
    pub(crate) fn tried_until(&mut self, now: Time) {
        for subject in std::mem::take(&mut self.fresh) {
            let Some(entry) = self.entries.get_mut(&subject) else { continue };
            self.by_due.remove(&(entry.due, subject));
            entry.due = now + entry.delay;
            self.by_due.insert((entry.due, subject));
        }
    }

    /// Forgets a subject; returns whether it had failed before.
    pub(crate) fn succeed(&mut self, subject: &Subject) -> bool {
        let Some(before) = self.entries.remove(subject) else { return false };
        self.count(subject, |count| count - 1);
        self.by_due.remove(&(before.due, *subject))
    }

    fn count(&mut self, subject: &Subject, change: impl FnOnce(usize) -> usize) {
        match subject {
            Subject::Vip(_) => self.vips = change(self.vips),
            Subject::Server(_) => self.servers = change(self.servers),
            _ => {}
        }
    }

    /// Number of VIPs that have failed.
    pub(crate) fn failing_vips(&self) -> usize {
        self.vips
    }

    /// Number of virtual servers that have failed.
    pub(crate) fn failing_servers(&self) -> usize {
        self.servers
    }

    /// Forgets a subject that has just been tried, unless it failed again in this try (it is not due then).
    pub(crate) fn tried(&mut self, subject: &Subject, now: Time) -> bool {
        !self.must_wait(subject, now) && self.succeed(subject)
    }

    /// Whether a subject has failed and not succeeded since.
    pub(crate) fn is_failing(&self, subject: &Subject) -> bool {
        self.entries.contains_key(subject)
    }

    /// Adds everything that is due to a touch.
    pub(crate) fn touch_due(&self, now: Time, touch: &mut Touch) {
        for (_, subject) in self.by_due.iter().take_while(|(due, _)| *due <= now) {
            subject.touch(touch);
        }
    }

    /// Whether a subject has to wait.
    pub(crate) fn must_wait(&self, subject: &Subject, now: Time) -> bool {
        self.entries.get(subject).is_some_and(|entry| entry.due > now)
    }

    /// When a subject that has failed is due.
    pub(crate) fn due(&self, subject: &Subject) -> Option<Time> {
        self.entries.get(subject).map(|entry| entry.due)
    }

    /// When something is due next.
    pub(crate) fn next_due(&self) -> Option<Time> {
        self.by_due.first().map(|(due, _)| *due)
    }

    /// All failed subjects.
    pub(crate) fn failing(&self) -> impl Iterator<Item = &Subject> {
        self.entries.keys()
    }

    /// Number of failed subjects.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }
}

/// Every subject of a touch.
pub(crate) fn subjects(touch: &Touch) -> impl Iterator<Item = Subject> {
    let servers = touch.servers.iter().map(|vs| Subject::Server(*vs));
    let vips = touch.vips.iter().map(|vip| Subject::Vip(*vip));
    servers.chain(vips).chain(touch.addresses.iter().map(|addr| Subject::Address(*addr)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_half_a_minute_and_start_over_after_success() {
        let (mut retry, mut now, mut delays) = (Retry::default(), Time::ZERO, Vec::new());
        for _ in 0..12 {
            retry.fail(Subject::Base, "no", now);
            let due = retry.next_due().unwrap();
            delays.push((due - now).as_millis());
            now = due;
        }
        assert_eq!(delays[..4], [100, 200, 400, 800]);
        assert_eq!(delays[11], 30_000);
        assert!(retry.succeed(&Subject::Base) && !retry.succeed(&Subject::Base));
        retry.fail(Subject::Base, "no", now);
        assert_eq!(retry.next_due(), Some(now + FIRST));
        assert!(retry.succeed(&Subject::Base));
        assert_eq!(retry.next_due(), None, "what has succeeded is due no more");
    }

    #[test]
    fn delays_begin_when_the_step_that_failed_has_ended() {
        let mut retry = Retry::default();
        let later = Duration::from_secs(1);
        retry.fail(Subject::Base, "no", Time::ZERO);
        retry.tried_until(later);
        assert_eq!(retry.next_due(), Some(later + FIRST));
        retry.tried_until(later * 2);
        assert_eq!(retry.next_due(), Some(later + FIRST), "only what this step has tried");
    }

    #[test]
    fn several_failures_of_one_try_count_once_and_news_is_a_changed_reason() {
        let mut retry = Retry::default();
        assert!(retry.fail(Subject::Base, "a", Time::ZERO));
        assert!(!retry.fail(Subject::Base, "a", Time::ZERO));
        assert_eq!(retry.next_due(), Some(FIRST));
        assert!(retry.fail(Subject::Base, "b", FIRST));
        assert_eq!(retry.next_due(), Some(FIRST * 3));
    }
}
