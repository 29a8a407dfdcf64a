//! Draining, proved by traffic: rolling updates, long conversations, pods that die in every way there is.
//!
//! Each test prints its counts: connections, failures, cuts with their times, how long real servers stayed.

mod edit;
mod grace;
mod history;
mod immediate;
mod leave;
mod rollout;
mod schedulers;
mod silent;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use e2e::{
    manifest::Service,
    net::{NODE, OUTSIDE, Pod},
    observe::Timeline,
    probe::{
        Proto,
        load::Settings,
        talk::{self, Talk},
    },
};
use testkit::{wait_for, wait_until};

use crate::testbed::{Testbed, WAIT_LIMIT};

/// Settings for short connections from 300 source ports; each comes round every 6 seconds, always to the same
/// address as long as there are not more than 50 of those.
fn from_300_ports(targets: &[SocketAddr]) -> Settings {
    Settings { ports: (20_000, 300), rate: 50, workers: 6, ..Settings::new(targets, &OUTSIDE.each()) }
}

/// Number of connections after which every source port has been used once more.
const CONNECTIONS_PER_ROUND: u64 = 300;

/// Addresses at which clients outside reach the first port of the Service: its ClusterIPs, and those of the node where
/// it has a node port.
fn addresses(service: &Service) -> Vec<SocketAddr> {
    let of_cluster = service.ips.iter().map(|ip| SocketAddr::new(*ip, service.ports[0].port));
    let of_node =
        service.ips.iter().filter_map(|ip| Some(SocketAddr::new(NODE.like(*ip), service.node_port?)));
    of_cluster.chain(of_node).collect()
}

/// Real servers of a pod for this Service, of both families.
fn real(pod: &Pod, service: &Service) -> [SocketAddr; 2] {
    pod.address.port(service.ports[0].target)
}

/// Waits until the timeline shows it, and returns how long after `since` that was.
#[track_caller]
fn wait_seen(since: Instant, what: &str, mut look: impl FnMut() -> Option<Instant>) -> Duration {
    wait_for(WAIT_LIMIT, what, || look().ok_or("")).saturating_duration_since(since)
}

/// Time between two looks at the kernel from which on a guest is too slow to be measured against a second. On
/// an idle host it is 90 ms, of which a pause is 60.
const SLOW_LOOK: Duration = Duration::from_millis(210);

/// Checks that the time limit held, or the guest itself stood still; tells whether that could be judged.
#[track_caller]
fn assert_within(limit: Duration, took: Duration, what: &str, timeline: &Timeline, since: Instant) -> bool {
    let slowest = timeline.slowest(since);
    let (took, look) = (took.as_millis(), slowest.as_millis());
    if took < limit.as_millis() {
        return true;
    }
    assert!(slowest > SLOW_LOOK, "{what}: {took} ms; no look took longer than {look} ms");
    println!("{what}: {took} ms, but a look took {look} ms: the guest was too slow to judge");
    false
}

/// Waits until these real servers are gone, and returns how long after `since` that was.
#[track_caller]
fn wait_removed(timeline: &Timeline, real: &[SocketAddr], since: Instant) -> Duration {
    wait_seen(since, &format!("{real:?} to be removed"), || timeline.removed(real, since))
}

/// Waits until `count` conversations were cut, and returns how long after `since` the first and the last one
/// were.
#[track_caller]
fn wait_cut(talk: &Talk, count: usize, since: Instant) -> (Duration, Duration) {
    let cut = wait_for(WAIT_LIMIT, &format!("{count} conversations to be cut"), || {
        let report = talk.progress();
        if report.cut.len() == count { Ok(report.cut) } else { Err(format!("{} are", report.cut.len())) }
    });
    let other: Vec<_> = cut.iter().filter(|cut| cut.failure.error != "ECONNRESET").collect();
    assert!(other.is_empty(), "cut by something else than a reset: {other:?}");
    let after = |at: u128| {
        let at = Duration::from_millis(u64::try_from(at).unwrap_or(u64::MAX));
        (talk.begin() + at).saturating_duration_since(since)
    };
    let mut times: Vec<_> = cut.iter().map(|cut| after(cut.at)).collect();
    times.sort_unstable();
    (times[0], times[count - 1])
}

/// Settings for `connections` conversations from the outside client with a message every `every`.
fn conversations(targets: &[SocketAddr], connections: usize, every: Duration) -> talk::Settings {
    talk::Settings { every, ..talk::Settings::new(targets, &OUTSIDE.each(), connections) }
}

/// Time within which an event cuts an established connection or never does: longer than any rule of draining
/// waits that does not look at connections.
const CUT_WITHIN: Duration = Duration::from_secs(8);

/// Waits until these conversations have had every opportunity to be cut since then, and until all of them are
/// answered.
#[track_caller]
pub fn go_on(talks: &[&Talk], since: Instant) {
    wait_until(2 * CUT_WITHIN, "the connections to have had every opportunity to be cut", || {
        since.elapsed() >= CUT_WITHIN
    });
    let expected = |talk: &&Talk| {
        let report = talk.progress();
        report.messages + 2 * report.established() as u64
    };
    let expected: Vec<_> = talks.iter().map(expected).collect();
    for (talk, messages) in talks.iter().zip(expected) {
        wait_until(WAIT_LIMIT, "answers", || talk.progress().messages >= messages);
    }
}

/// Waits until clients outside are refused there.
#[track_caller]
pub fn wait_refused(testbed: &Testbed, to: SocketAddr) {
    wait_until(WAIT_LIMIT, &format!("new connections to {to} to be refused"), || {
        let outcome = testbed.net.outside_client().ask(Proto::Tcp, to);
        outcome.result.is_err_and(|failure| failure.is_refused())
    });
}
