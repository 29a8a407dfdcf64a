//! Ways in which an endpoint leaves: its pod is deleted, or lives and is merely no longer part of the
//! Service.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use e2e::{
    manifest::{Endpoint, Service, render_slice},
    net::{Pod, PodNetwork, cluster_ip},
    observe::Timeline,
    probe::{Proto, talk::Talk},
};

use super::{
    addresses, assert_within, conversations, go_on, real, wait_cut, wait_refused, wait_removed, wait_seen,
};
use crate::testbed::{Testbed, assert_uncut};

const SECOND: Duration = Duration::from_secs(1);

fn service(name: &str, number: u8) -> Service {
    Service::new(name, cluster_ip(number), &[Proto::Tcp])
        .with_node_port(30_000 + u16::from(number), "Cluster")
}

/// A Service, at its ClusterIPs and a node port, with one endpoint that leaves, and conversations with it.
struct Case {
    service: Service,
    /// Index of the pod.
    pod: usize,
    talk: Talk,
}

impl Case {
    fn begin(testbed: &Testbed, service: Service, pod: usize, connections: usize) -> Case {
        let settings = conversations(&addresses(&service), connections, SECOND);
        Case { talk: testbed.talk_with(&settings), service, pod }
    }

    fn real(&self, testbed: &Testbed) -> [SocketAddr; 2] {
        real(&testbed.pods[self.pod], &self.service)
    }
}

/// Nobody but the node lets the clients of a pod know that it is deleted with its network.
#[test]
fn a_deleted_pod_s_clients_are_reset_at_once_slow() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let service = service("web", 80);
    let alone = testbed.ready(1..=1);
    testbed.manifests.serve(&service, &alone);
    testbed.start(&[]);
    testbed.wait_served(&service, &alone);
    let timeline = Timeline::record(&testbed.net.node);
    let talk = testbed.talk_with(&conversations(&addresses(&service), 100, Duration::from_millis(500)));
    // The beginning is that of a rollout; then the process dies with its sandbox, so that it tells its
    // clients nothing.
    let terminating = Instant::now();
    let replaced = [Endpoint::terminating(&testbed.pods[0]), Endpoint::ready(&testbed.pods[1])];
    testbed.manifests.endpoints(&service, &replaced);
    let reals = real(&testbed.pods[0], &service);
    wait_seen(terminating, "weight 0", || timeline.quiesced(&reals, terminating));
    assert!(talk.progress().cut.is_empty(), "a terminating pod goes on serving its connections");
    testbed.pods[0].disconnect();
    let left = Instant::now();
    testbed.manifests.endpoints(&service, &testbed.ready(2..=2));
    let gone = wait_removed(&timeline, &reals, left);
    let (first, last) = wait_cut(&talk, 100, left);
    println!(
        "deleted: real servers gone {} ms after the address left the slice, 100 of 100 conversations reset after {} to {} ms",
        gone.as_millis(),
        first.as_millis(),
        last.as_millis()
    );
    assert_within(SECOND, gone, "the real servers stayed", &timeline, left);
    assert_within(2 * SECOND, last, "a client hung", &timeline, left);
}

/// Labels, selectors, slices and Services change; pods live on, and so do their connections.
#[test]
fn a_living_pod_keeps_its_connections_however_it_leaves_slow() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 5);
    let services =
        [service("label", 81), service("selector", 82), service("slices", 83), service("whole", 84)];
    for (service, pod) in services.iter().zip(&testbed.pods) {
        testbed.manifests.serve(service, &[Endpoint::ready(pod)]);
    }
    testbed.start(&[]);
    for (service, pod) in services.iter().zip(&testbed.pods) {
        testbed.wait_served(service, &[Endpoint::ready(pod)]);
    }
    let timeline = Timeline::record(&testbed.net.node);
    let [label, selector, slices, whole] = services;
    let cases = [(label, 100), (selector, 10), (slices, 10), (whole, 10)];
    let mut pod = 0..;
    let cases =
        cases.map(|(service, count)| Case::begin(&testbed, service, pod.next().expect("endless"), count));
    let left = leave(&testbed, &timeline, &cases);
    go_on(&cases.each_ref().map(|case| &case.talk), left);
    assert_eq!(timeline.missed(&cases[2].real(&testbed)), 0, "the same endpoint was removed meanwhile");
    let ended = cases.map(|case| assert_kept(&testbed, &timeline, case, left));
    for (service, reals, closed) in &ended {
        if service.name != "slices" {
            let gone = wait_removed(&timeline, reals, *closed);
            println!("{}: real servers gone {} ms after the last connection", service.name, gone.as_millis());
        }
    }
    let [.., (whole, _, _)] = &ended;
    testbed.wait_gone(whole);
}

/// Makes all of them leave at once; returns the time.
fn leave(testbed: &Testbed, timeline: &Timeline, [label, selector, slices, whole]: &[Case; 4]) -> Instant {
    let left = Instant::now();
    // The pod loses its label: it leaves the slice, no other comes.
    testbed.manifests.endpoints(&label.service, &[]);
    // Another selector chooses another pod.
    testbed.manifests.endpoints(&selector.service, &testbed.ready(5..=5));
    replace_slices(testbed, &slices.service, &testbed.pods[slices.pod]);
    testbed.manifests.forget(&whole.service);
    for case in [label, selector, whole] {
        wait_seen(left, "weight 0", || timeline.quiesced(&case.real(testbed), left));
    }
    let serving = slices.real(testbed);
    wait_seen(left, "the same endpoint to serve again", || timeline.serving(&serving, Instant::now()));
    for to in addresses(&whole.service) {
        wait_refused(testbed, to);
    }
    left
}

/// Checks that no conversation was cut; ends them and returns the time.
#[track_caller]
fn assert_kept(
    testbed: &Testbed,
    timeline: &Timeline,
    case: Case,
    left: Instant,
) -> (Service, [SocketAddr; 2], Instant) {
    let (name, reals) = (&case.service.name, case.real(testbed));
    let stays = name == "slices" || timeline.removed(&reals, left).is_none();
    assert!(stays, "{name}: removed under its connections");
    let report = case.talk.stop();
    println!("{name}: {} cut within {} ms", report.cut.len(), left.elapsed().as_millis());
    assert_uncut(&report);
    (case.service, reals, Instant::now())
}

/// Replaces the slices by others with the same endpoint; the new ones are written after the old ones are
/// deleted.
fn replace_slices(testbed: &Testbed, service: &Service, pod: &Pod) {
    let endpoints = [Endpoint::ready(pod)];
    let slices = [("v4", true), ("v6", false)]
        .map(|(suffix, v4)| render_slice(service, &format!("other-{suffix}"), v4, &endpoints));
    testbed.manifests.remove(&format!("{}-endpoints.yaml", service.name));
    testbed.manifests.write(&format!("{}-other.yaml", service.name), &slices.join("---\n"));
}
