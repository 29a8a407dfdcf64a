//! Endpoints that change under load, unnoticed by any connection, and Services that come one after the other.

use std::time::{Duration, Instant};

use e2e::{
    manifest::{Endpoint, Service},
    net::{Pod, PodNetwork, cluster_ip},
    probe::{Proto, load::Settings},
};
use testkit::{wait_for, wait_until};

use crate::testbed::{Measured, Testbed, WAIT_LIMIT, assert_uncut};

/// Number of connections between two changes: enough for every source port of the load to come round.
const CONNECTIONS_BETWEEN_CHANGES: u64 = 180;

fn service() -> Service {
    Service::new("web", cluster_ip(80), &[Proto::Tcp])
}

/// Waits until the real server is in no virtual server any more, drained or not.
fn wait_removed(testbed: &Testbed, pods: &[Pod]) {
    wait_for(WAIT_LIMIT, "drained real servers to be removed", || {
        let ipvs = testbed.ipvs();
        let mut real = ipvs.servers.values().flat_map(|server| server.real.keys());
        if real.any(|real| pods.iter().any(|pod| pod.address.contains(real.ip()))) {
            Err(ipvs.render())
        } else {
            Ok(())
        }
    });
}

/// Starts load from outside and from a pod, each to both families.
fn loads(testbed: &Testbed) -> [Measured; 2] {
    let targets = cluster_ip(80).port(80);
    let pod = testbed.pods[0].client();
    let mut settings = Settings::new(&targets, &pod.own.each());
    (settings.rate, settings.workers) = (10, 4);
    [testbed.load(&targets), testbed.load_from(&pod, &settings)]
}

/// Conformance: e2e/service should serve a basic endpoint from pods
/// Conformance: e2e/dual_stack should update endpoints: http, udp (secondary family)
/// Conformance: e2e/networking should update endpoints: http, udp
#[test]
fn scaling_from_1_to_5_to_2_under_load_slow() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 5);
    let service = service();
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    testbed.start(&[]);
    testbed.wait_served(&service, &testbed.ready(1..=1));
    let loads = loads(&testbed);
    let talk = testbed.talk(&cluster_ip(80).port(80), 10);
    loads[0].let_pass(CONNECTIONS_BETWEEN_CHANGES);
    for last in 2..=5 {
        testbed.manifests.endpoints(&service, &testbed.ready(1..=last));
        testbed.wait_served(&service, &testbed.ready(1..=last));
        loads[0].let_pass(40);
    }
    loads[0].let_pass(CONNECTIONS_BETWEEN_CHANGES);
    // Three pods begin to terminate at once; they go on serving their connections until they are drained.
    let mut endpoints = testbed.ready(1..=2);
    endpoints.extend(testbed.pods[2..].iter().map(Endpoint::terminating));
    testbed.manifests.endpoints(&service, &endpoints);
    testbed.wait_served(&service, &testbed.ready(1..=2));
    wait_removed(&testbed, &testbed.pods[2..]);
    testbed.manifests.endpoints(&service, &testbed.ready(1..=2));
    testbed.pods.truncate(2);
    loads[0].let_pass(CONNECTIONS_BETWEEN_CHANGES);
    for load in loads {
        load.assert_clean();
    }
    assert_uncut(&talk.stop());
}

/// Wait of a client that asks again and again for a Service that comes.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(300);
/// Bounds on the time from the objects to the first answer; those of Kubernetes are 20 s and 50 s.
const MEDIAN_LATENCY: Duration = Duration::from_secs(2);
const LARGEST_LATENCY: Duration = Duration::from_secs(10);
/// Number of Services, as in the tests of Kubernetes.
const SERVICES: u8 = 200;

/// Each new Service answers within a second or so of its objects, however many there are already.
/// Conformance: e2e/service_latency should not be very high
#[test]
fn two_hundred_services_answer_one_after_the_other() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 1);
    testbed.start(&[]);
    let client = testbed.net.outside_client();
    let ask = |to| client.ask_within(ANSWER_TIMEOUT, Proto::Tcp, to).result.map(|answer| answer.pod);
    let mut took: Vec<_> = (1..=SERVICES)
        .map(|number| {
            let service = Service::new(&format!("web-{number}"), cluster_ip(number), &[Proto::Tcp]);
            let [to, _] = cluster_ip(number).port(80);
            assert!(number % 50 != 0 || ask(to).is_err(), "{to} answers before its Service is there");
            let since = Instant::now();
            testbed.manifests.serve(&service, &testbed.ready(1..=1));
            wait_until(WAIT_LIMIT, &format!("an answer from {to}"), || {
                ask(to).is_ok_and(|pod| pod == "pod-1")
            });
            since.elapsed()
        })
        .collect();
    let (few, many) = took.split_at(usize::from(SERVICES) / 2);
    let mean = |times: &[Duration]| times.iter().sum::<Duration>() / u32::try_from(times.len()).unwrap_or(1);
    println!("with the first hundred {:?} each, with the second {:?}", mean(few), mean(many));
    took.sort_unstable();
    let at = |percent: usize| took[took.len() * percent / 100];
    println!("median {:?}, p90 {:?}, p99 {:?}", at(50), at(90), at(99));
    assert!(at(50) < MEDIAN_LATENCY && at(99) < LARGEST_LATENCY, "median {:?}, p99 {:?}", at(50), at(99));
}
