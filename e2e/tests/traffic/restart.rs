//! `kill -9` and a new start under load: nobody notices, and nothing is written.

use e2e::{
    manifest::Service,
    net::{PodNetwork, cluster_ip},
    observe::{Events, Snapshot, Writes},
    probe::Proto,
};
use testkit::wait_until;

use crate::testbed::{Testbed, WAIT_LIMIT, WEB, assert_uncut, web};

/// Number of calls of the dump function after a start: the adoption and some audits, each of two calls or
/// more.
const READS_AFTER_START: usize = 6;

fn restart_unnoticed(testbed: &mut Testbed, end: fn(&mut e2e::proxy::Proxy)) {
    let load = testbed.load(&WEB.port(80));
    let talk = testbed.talk(&WEB.port(80), 20);
    load.let_pass(100);
    let before = Snapshot::take(&testbed.net.node);
    let events = Events::record(&testbed.net.node);
    let writes = Writes::record().unwrap_or_else(|why| panic!("cannot prove that nothing is written: {why}"));
    end(testbed.proxy());
    load.let_pass(100);
    // From here on only kube-ipvs itself can read or write.
    let idle = writes.reads();
    testbed.proxy().start_again();
    wait_until(WAIT_LIMIT, "the adoption and two audits", || writes.reads() >= idle + READS_AFTER_START);
    let written = writes.writes();
    assert!(written.is_empty(), "a restart with unchanged input wrote: {written:#?}");
    drop(writes);
    let announced = events.stop();
    assert!(announced.is_empty(), "a restart with unchanged input changed: {announced:#?}");
    before.assert_same(&Snapshot::take(&testbed.net.node), "by a restart");
    load.let_pass(100);
    load.assert_clean();
    assert_uncut(&talk.stop());
}

/// Shows that the witness can see: a change is written, and seen.
fn control(testbed: &mut Testbed) {
    let writes = Writes::record().expect("as before");
    let second = Service::new("second", cluster_ip(81), &[Proto::Tcp]);
    testbed.manifests.serve(&second, &testbed.ready(1..=1));
    testbed.wait_served(&second, &testbed.ready(1..=1));
    let written = writes.writes();
    for function in ["ip_vs_genl_set_cmd", "nfnetlink_rcv_batch", "inet_rtm_newroute", "inet6_rtm_newroute"] {
        let watched = writes.traced().contains(&function);
        let seen = written.iter().any(|call| call.ends_with(function) && call.starts_with("kube-ipvs"));
        assert!(seen || !watched, "the tracer did not see {function} in {written:#?}");
    }
}

fn testbed() -> Testbed {
    let mut testbed = Testbed::new(PodNetwork::Routed, 3);
    let service = web();
    testbed.manifests.serve(&service, &testbed.ready(1..=3));
    testbed.start(&["--ipvs-sync-period=1s"]);
    testbed.wait_served(&service, &testbed.ready(1..=3));
    testbed
}

/// Conformance: e2e/service should work after restarting kube-proxy
#[test]
fn kill_and_restart_under_load_loses_and_writes_nothing_slow() {
    let mut testbed = testbed();
    restart_unnoticed(&mut testbed, e2e::proxy::Proxy::kill);
    control(&mut testbed);
}

#[test]
fn stop_and_restart_under_load_loses_and_writes_nothing_slow() {
    let mut testbed = testbed();
    restart_unnoticed(&mut testbed, |proxy| _ = proxy.terminate());
}

/// The next start catches up with changes made while kube-ipvs was away, and touches nothing else.
/// Conformance: e2e/service should work after restarting kube-proxy
#[test]
fn changes_during_an_absence_are_caught_up_with_slow() {
    let mut testbed = testbed();
    let service = web();
    let second = Service::new("second", cluster_ip(81), &[Proto::Tcp]);
    testbed.manifests.serve(&second, &testbed.ready(1..=2));
    testbed.wait_served(&second, &testbed.ready(1..=2));
    let load = testbed.load(&WEB.port(80));
    load.let_pass(50);
    testbed.proxy().kill();
    testbed.manifests.forget(&second);
    let third = Service::new("third", cluster_ip(82), &[Proto::Tcp]);
    testbed.manifests.serve(&third, &testbed.ready(2..=3));
    testbed.manifests.endpoints(&service, &testbed.ready(1..=2));
    testbed.proxy().start_again();
    testbed.wait_served(&third, &testbed.ready(2..=3));
    testbed.wait_served(&service, &testbed.ready(1..=2));
    testbed.wait_gone(&second);
    load.let_pass(100);
    load.assert_clean();
}
