//! The failure that the defaults prevent, made on purpose: without it no other test here would prove
//! anything.

use std::time::{Duration, Instant};

use e2e::{
    manifest::{Endpoint, Service},
    net::{PodNetwork, cluster_ip},
    observe::Timeline,
    probe::{Proto, load::Settings},
    proxy::CLUSTER_CIDRS,
};
use testkit::wait_until;

use super::{CONNECTIONS_PER_ROUND, from_300_ports, real, wait_seen};
use crate::testbed::{Testbed, WAIT_LIMIT};

/// Source ports are reused into a dead pod ("No route to host") until a restart with the defaults.
#[test]
fn the_historical_failure_and_its_cure_slow() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let service = Service::new("web", cluster_ip(80), &[Proto::Tcp]);
    testbed.manifests.serve(&service, &testbed.ready(1..=2));
    // This is kube-proxy's rule: it knows no end of an endpoint but that of its connections.
    testbed.start(&[
        "--graceful-policy=all-connections",
        "--graceful-endpoint-gone=drain",
        "--graceful-silence=0s",
        "--conn-reuse-mode=0",
        "--ipvs-sync-period=1h",
    ]);
    testbed.wait_served(&service, &testbed.ready(1..=2));
    // kube-proxy once left this setting: connections of a vanished real server stay.
    testbed.net.node.sh("sysctl -w net.ipv4.vs.expire_nodest_conn=0");
    let timeline = Timeline::record(&testbed.net.node);
    let targets = cluster_ip(80).port(80);
    // A worker that waits long for a dead pod opens fewer connections.
    let short_timeout = Settings { timeout: Duration::from_secs(3), ..from_300_ports(&targets) };
    let load = testbed.load_from(&testbed.net.outside_client(), &short_timeout);
    load.let_pass(CONNECTIONS_PER_ROUND);
    let mut endpoints = testbed.ready(1..=1);
    endpoints.push(Endpoint::terminating(&testbed.pods[1]));
    let terminating = Instant::now();
    testbed.manifests.endpoints(&service, &endpoints);
    let reals = real(&testbed.pods[1], &service);
    wait_seen(terminating, "weight 0", || timeline.quiesced(&reals, terminating));
    std::thread::sleep(Duration::from_secs(1).saturating_sub(terminating.elapsed()));
    let mut old = testbed.pods.remove(1);
    old.kill();
    old.disconnect();
    testbed.manifests.endpoints(&service, &testbed.ready(1..=1));
    load.let_pass(CONNECTIONS_PER_ROUND / 2);
    let report = load.stop();
    println!("kube-proxy's rule: {report}");
    let unreachable = report.failures.iter().filter(|(what, _)| what.contains("EHOSTUNREACH"));
    let unreachable: u64 = unreachable.map(|(_, count)| count).sum();
    assert!(unreachable > 0, "source ports were not reused into the dead pod: this load proves nothing");
    assert!(timeline.removed(&reals, terminating).is_none(), "they should stay as long as connections do");
    // A restart brings the defaults: the dead real server may still count half-open connections, but gets no
    // new ones.
    testbed.start_with(&[CLUSTER_CIDRS]);
    wait_until(WAIT_LIMIT, "the parameters to be back", || {
        let parameters = ["conn_reuse_mode", "expire_nodest_conn"];
        let read = |name| testbed.net.node.sh(&format!("sysctl -n net.ipv4.vs.{name}"));
        parameters.map(read).iter().all(|value| value.trim() == "1")
    });
    let load = testbed.load_from(&testbed.net.outside_client(), &from_300_ports(&targets));
    load.let_pass(CONNECTIONS_PER_ROUND);
    let report = load.stop();
    println!("the defaults: {report}");
    // By the kernel's rules, a half-open connection left by the failures costs the next one on its port its
    // first SYN.
    assert!(report.failed() == 0, "not healed");
}
