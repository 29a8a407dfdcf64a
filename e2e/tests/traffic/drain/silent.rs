//! Pods that are gone without a word to the API server: only packets from their addresses, or the lack of
//! them, show it.

use std::time::{Duration, Instant};

use e2e::{
    manifest::{Endpoint, Service},
    net::{Pod, PodNetwork, cluster_ip},
    observe::Timeline,
    probe::{
        Proto,
        talk::{self, Talk},
    },
};

use super::{addresses, assert_within, conversations, real, wait_cut, wait_removed};
use testkit::wait_for;

use crate::testbed::{Testbed, WAIT_LIMIT};

/// Time from the moment at which the address leaves the slice to the reset of the last client.
const RESET_WITHIN: Duration = Duration::from_secs(15);
const SECOND: Duration = Duration::from_secs(1);

/// A way in which a pod vanishes.
struct Way {
    what: &'static str,
    vanish: fn(&mut Pod),
    /// Number of conversations with it.
    clients: usize,
}

const WAYS: [Way; 3] = [
    Way { what: "its node died", vanish: |pod| pod.fall_silent(), clients: 100 },
    Way {
        what: "deleted by force, another node says unreachable",
        vanish: |pod| pod.become_unreachable(),
        clients: 100,
    },
    Way { what: "deleted by force, this node says unreachable", vanish: Pod::disconnect, clients: 20 },
];

/// The endpoints leave without ever having been terminating.
#[test]
fn the_clients_of_a_vanished_pod_are_reset_within_15_seconds_slow() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 4);
    let services = [80, 81, 82].map(|n| {
        let service = Service::new(&format!("web-{n}"), cluster_ip(n), &[Proto::Tcp]);
        service.with_node_port(30_000 + u16::from(n), "Cluster")
    });
    for (service, pod) in services.iter().zip(&testbed.pods) {
        testbed.manifests.serve(service, &[Endpoint::ready(pod)]);
    }
    // The real server goes after 7 s: 2 s that are not judged, and 5 s of silence. The reset answers a retransmission, and
    // TCP doubles the time between two of them: where the path is fast, one comes after 6.2 s and the next one after
    // 12.6 s, both counted from a question of the second in which the pod vanished.
    testbed.start(&[]);
    for (service, pod) in services.iter().zip(&testbed.pods) {
        testbed.wait_served(service, &[Endpoint::ready(pod)]);
    }
    let timeline = Timeline::record(&testbed.net.node);
    let talks: Vec<_> =
        services.iter().zip(&WAYS).map(|(service, way)| talk(&testbed, service, way.clients)).collect();
    assert!(talks.iter().all(|talk| talk.progress().cut.is_empty()), "nothing has happened yet");
    // In a new network namespace the kernel first measures how fast it is (`ip_vs_est_calc_phase`,
    // net/netfilter/ipvs/ip_vs_est.c); its counters stand still until then.
    wait_for(WAIT_LIMIT, "the kernel to count", || {
        let listed = testbed.net.node.sh("ipvsadm -Ln --stats");
        let counted = |line: &&str| line.split_whitespace().nth(2).is_some_and(|count| count != "0");
        let of_services = listed.lines().filter(|line| line.starts_with("TCP  10.96.0."));
        if of_services.clone().count() == 3 && of_services.clone().all(|line| counted(&line)) {
            Ok(())
        } else {
            Err(listed.clone())
        }
    });
    for (pod, way) in testbed.pods.iter_mut().zip(&WAYS) {
        (way.vanish)(pod);
    }
    let left = Instant::now();
    for service in &services {
        testbed.manifests.endpoints(service, &testbed.ready(4..=4));
    }
    for (((way, service), pod), talk) in WAYS.iter().zip(&services).zip(&testbed.pods).zip(&talks) {
        let gone = wait_removed(&timeline, &real(pod, service), left);
        let (first, last) = wait_cut(talk, way.clients, left);
        println!(
            "{}: real servers gone {} ms after the address left the slice, all {} conversations reset after {} to {} ms",
            way.what,
            gone.as_millis(),
            way.clients,
            first.as_millis(),
            last.as_millis()
        );
        assert_within(RESET_WITHIN, last, &format!("{}: a client hung", way.what), &timeline, left);
    }
}

fn talk(testbed: &Testbed, service: &Service, clients: usize) -> Talk {
    let settings = conversations(&addresses(service), clients, SECOND);
    testbed.talk_with(&talk::Settings { timeout: Duration::from_secs(60), ..settings })
}
