//! Work under way when its pod turns terminating, finished within the pod's grace period.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use e2e::{
    manifest::{Endpoint, Port, Service},
    net::{Pod, PodNetwork, cluster_ip},
    observe::Timeline,
    probe::{
        Proto,
        download::{self, half_close},
        talk::{self, Talk},
    },
};
use testkit::wait_for;

use super::{addresses, conversations, real, wait_removed};
use crate::testbed::{Testbed, assert_uncut};

/// Grace period of the pods.
const GRACE_PERIOD: Duration = Duration::from_secs(30);

/// Default of `--graceful-linger`.
const LINGER: Duration = Duration::from_secs(5);

/// Period of polls for a real server that has drained for 10 to 60 s.
const POLL_PERIOD: Duration = Duration::from_secs(2);

/// Delay with which the kernel shows that data has moved (net/netfilter/ipvs/ip_vs_est.c); `active-only`
/// waits for quiet.
const COUNTER_DELAY: Duration = Duration::from_secs(2);

const PORTS: [u16; 3] = [8080, 8081, 8082];

/// A Service of one family: a drain in one cannot be mistaken for one in another.
fn service(name: &str, number: u8, v4: bool, target: u16) -> Service {
    let ip = cluster_ip(number).each()[usize::from(!v4)];
    Service::new(name, cluster_ip(number), &[])
        .with_ports(&[Port { target, ..Port::web(Proto::Tcp) }])
        .with_ips(&[ip])
}

fn address(service: &Service) -> SocketAddr {
    SocketAddr::new(service.ips[0], 80)
}

/// Time at which this pod's last conversation ended.
fn last_end(talk: &Talk, report: &talk::Report, pod: &Pod) -> Option<Instant> {
    let ends = report.finished.iter().filter(|finished| finished.pod == pod.name).map(|finished| finished.at);
    ends.max().map(|at| talk.begin() + Duration::from_millis(u64::try_from(at).unwrap_or(u64::MAX)))
}

/// The Services, and the pods that are in all of them.
struct Rollout {
    testbed: Testbed,
    web: Service,
    files: Service,
    sticky: Service,
}

impl Rollout {
    /// Makes pods 1 to 3 serve and pods 4 to 6 stand by.
    fn prepare() -> Rollout {
        let mut testbed = Testbed::new(PodNetwork::Routed, 0);
        let pod = |number: u8| testbed.net.pod(&format!("pod-{number}"), 10 + number, &PORTS);
        testbed.pods = (1..=6).map(pod).collect();
        let web = service("web", 80, true, 8080).with_node_port(30080, "Cluster");
        let files = service("files", 81, false, 8081);
        let sticky = service("sticky", 82, true, 8082).with_affinity(600);
        let before = testbed.ready(1..=3);
        for service in [&web, &files, &sticky] {
            testbed.manifests.serve(service, &before);
        }
        testbed.start(&[]);
        for service in [&web, &files, &sticky] {
            testbed.wait_served(service, &before);
        }
        Rollout { testbed, web, files, sticky }
    }

    fn old(&self) -> &[Pod] {
        &self.testbed.pods[..3]
    }

    /// Starts conversations that end after 8 to 18 messages, one each second.
    fn work(&self, service: &Service, connections: usize) -> Talk {
        let settings = conversations(&addresses(service), connections, Duration::from_secs(1));
        self.testbed.talk_with(&talk::Settings { work: Some((8, 18)), ..settings })
    }

    /// Reads a slow answer of 20 s as a client that has half-closed; returns the time at which it ended.
    fn download(&self) -> (download::Report, Instant) {
        let settings = download::Settings {
            to: address(&self.files),
            lines: 20,
            pause: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
        };
        (self.testbed.net.outside.enter(|| half_close(&settings)), Instant::now())
    }

    fn wait_downloads(&self, count: usize) {
        wait_for(GRACE_PERIOD, "the downloads to reach the pods", || {
            let listing = self.testbed.net.node.sh("ipvsadm -Lnc");
            let found = listing.lines().filter(|line| line.contains("]:8081")).count();
            if found >= count { Ok(()) } else { Err(listing) }
        });
    }

    /// Turns all old pods terminating and all new ones ready; returns the time.
    fn roll(&self) -> Instant {
        let terminating = Instant::now();
        let mut after = self.testbed.ready(4..=6);
        after.extend(self.old().iter().map(Endpoint::terminating));
        let services = [&self.web, &self.files, &self.sticky];
        for service in services {
            self.testbed.manifests.endpoints(service, &after);
        }
        for service in services {
            self.testbed.wait_served(service, &self.testbed.ready(4..=6));
        }
        terminating
    }
}

/// A rolling update of all pods meets 100 conversations that end after 8 to 18 s of work; a download of 20 s
/// from each pod, by clients that have half-closed; and a client with affinity.
#[test]
fn work_is_finished_within_the_grace_period_slow() {
    let rollout = Rollout::prepare();
    let timeline = Timeline::record(&rollout.testbed.net.node);
    let works = [
        (rollout.work(&rollout.web, 100), &rollout.web),
        (rollout.work(&rollout.sticky, 5), &rollout.sticky),
    ];
    thread::scope(|scope| {
        let downloads: Vec<_> = (0..3).map(|_| scope.spawn(|| rollout.download())).collect();
        rollout.wait_downloads(downloads.len());
        let terminating = rollout.roll();
        assert_affinity_moves(&rollout.testbed, &rollout.sticky);
        for (talk, service) in &works {
            assert_finished(talk, service, rollout.old(), (&timeline, terminating));
        }
        let ends: Vec<_> =
            downloads.into_iter().map(|download| download.join().expect("a download")).collect();
        for (report, _) in &ends {
            println!(
                "download: {} of {} bytes in {} ms",
                report.bytes,
                report.expected,
                report.took.as_millis()
            );
            assert!(report.is_complete(), "{report:?}");
        }
        let (first, last) = ends
            .iter()
            .fold((ends[0].1, ends[0].1), |(first, last), (_, end)| (first.min(*end), last.max(*end)));
        for pod in rollout.old() {
            assert_gone_in_time(&timeline, pod, &rollout.files, (terminating, first, last));
        }
        println!("all over {} ms after the pods turned terminating", terminating.elapsed().as_millis());
        assert!(last.duration_since(terminating) < GRACE_PERIOD, "the guest was too slow for this test");
    });
}

/// Checks that every conversation ends by itself, and that the real servers go then.
#[track_caller]
fn assert_finished(
    talk: &Talk,
    service: &Service,
    old: &[Pod],
    (timeline, terminating): (&Timeline, Instant),
) {
    let count = talk.progress().established();
    let report = wait_for(GRACE_PERIOD, "all work to be done", || {
        let report = talk.progress();
        if report.finished.len() + report.cut.len() == count {
            Ok(report)
        } else {
            Err(format!("{report:?}"))
        }
    });
    println!("{}: {} of {count} conversations finished", service.name, report.finished.len());
    assert_uncut(&report);
    for pod in old {
        if let Some(end) = last_end(talk, &report, pod) {
            assert_gone_in_time(timeline, pod, service, (terminating, end, end));
        }
    }
}

/// Checks that the real server went no sooner than `linger` after the last end of work, and no later than it
/// has to.
#[track_caller]
fn assert_gone_in_time(
    timeline: &Timeline,
    pod: &Pod,
    service: &Service,
    (terminating, first, last): (Instant, Instant, Instant),
) {
    let reals = real(pod, service);
    let gone = terminating + wait_removed(timeline, &reals, terminating);
    println!(
        "{} {}: gone {} ms after its last connection ended",
        service.name,
        pod.name,
        gone.saturating_duration_since(last).as_millis()
    );
    assert!(gone >= first.max(terminating) + LINGER, "it was removed early");
    assert!(
        gone <= last.max(terminating) + LINGER + COUNTER_DELAY + POLL_PERIOD + POLL_PERIOD,
        "it stayed too long"
    );
}

/// Checks that new connections of a client with affinity go to one new pod while its old ones run.
fn assert_affinity_moves(testbed: &Testbed, sticky: &Service) {
    let client = testbed.net.outside_client();
    let ask = |_| client.ask(Proto::Tcp, address(sticky)).result.expect("an answer").pod;
    let pods: BTreeSet<_> = (0..5).map(ask).collect();
    println!("a known client's new connections go to {pods:?}");
    let new: BTreeSet<_> = testbed.pods[3..].iter().map(|pod| pod.name.clone()).collect();
    assert!(pods.len() == 1 && pods.is_subset(&new), "{pods:?} of {new:?}");
}
