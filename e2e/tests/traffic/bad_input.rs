//! Wrong input: everybody else stays served, the log reports it once and exactly, and it heals.

use e2e::{
    manifest::{Port, Service, render_slice},
    net::{PodNetwork, cluster_ip},
    observe::Writes,
    probe::Proto,
};
use testkit::wait_for;

use crate::testbed::{Testbed, WAIT_LIMIT, ask_all};

/// A testbed with a good service in it, which audits check closely.
fn testbed() -> Testbed {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let good = good();
    testbed.manifests.serve(&good, &testbed.ready(1..=1));
    testbed.start(&["--ipvs-sync-period=1s"]);
    testbed.wait_served(&good, &testbed.ready(1..=1));
    testbed
}

fn good() -> Service {
    Service::new("good", cluster_ip(80), &[Proto::Tcp])
}

fn victim() -> Service {
    Service::new("victim", cluster_ip(90), &[Proto::Tcp])
}

/// Checks that good input still gets through: changes the good service and waits for the change to be served.
#[track_caller]
fn assert_others_served(testbed: &mut Testbed) {
    let good = good();
    for range in [1..=2, 1..=1] {
        testbed.manifests.endpoints(&good, &testbed.ready(range.clone()));
        testbed.wait_served(&good, &testbed.ready(range));
        ask_all(&testbed.net.outside_client(), &good);
    }
    testbed.proxy().assert_running();
}

/// Checks that the log has exactly one line with all these words, also after some audits.
#[track_caller]
fn assert_reported_once(testbed: &mut Testbed, words: &[&str]) {
    wait_for(WAIT_LIMIT, &format!("a log line with {words:?}"), || {
        let lines = testbed.proxy().log_lines(words);
        if lines.is_empty() { Err(testbed.proxy().log()) } else { Ok(()) }
    });
    // Three audits later it must not be there again.
    match Writes::record() {
        Ok(writes) => {
            let audits =
                || writes.seen().iter().filter(|call| call.ends_with("ip_vs_genl_dump_services")).count();
            testkit::wait_until(WAIT_LIMIT, "some audits", || audits() >= 3);
        }
        Err(why) => panic!("cannot see the audits: {why}"),
    }
    let lines = testbed.proxy().log_lines(words);
    assert_eq!(lines.len(), 1, "reported more than once: {lines:#?}");
    println!("{}", lines[0]);
}

/// Checks that the corrected input is served.
#[track_caller]
fn wait_healed(testbed: &Testbed) {
    let victim = victim();
    testbed.manifests.serve(&victim, &testbed.ready(1..=2));
    testbed.wait_served(&victim, &testbed.ready(1..=2));
    ask_all(&testbed.net.outside_client(), &victim);
}

#[test]
fn broken_yaml() {
    let mut testbed = testbed();
    testbed.manifests.endpoints(&victim(), &testbed.ready(1..=2));
    testbed
        .manifests
        .write("victim.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: victim\nspec: [\n");
    assert_reported_once(&mut testbed, &["victim.yaml"]);
    assert_others_served(&mut testbed);
    wait_healed(&testbed);
}

#[test]
fn a_file_that_breaks_keeps_what_it_said() {
    let mut testbed = testbed();
    let victim = victim();
    wait_healed(&testbed);
    testbed.manifests.write("victim.yaml", "kind: [");
    assert_reported_once(&mut testbed, &["victim.yaml"]);
    assert_others_served(&mut testbed);
    // Whatever was served before the mistake stays served until the file says something else.
    testbed.check_served(&victim, &testbed.ready(1..=2)).unwrap();
    ask_all(&testbed.net.outside_client(), &victim);
    wait_healed(&testbed);
}

#[test]
fn a_broken_document_among_good_ones() {
    let mut testbed = testbed();
    let victim = victim();
    let mut text = victim.render();
    for (suffix, v4) in [("v4", true), ("v6", false)] {
        text.push_str("---\n");
        text.push_str(&render_slice(&victim, suffix, v4, &testbed.ready(1..=2)));
    }
    text.push_str("---\nkind: Service\nspec: {ports: [\n");
    testbed.manifests.write("together.yaml", &text);
    testbed.wait_served(&victim, &testbed.ready(1..=2));
    ask_all(&testbed.net.outside_client(), &victim);
    assert_reported_once(&mut testbed, &["together.yaml"]);
    assert_others_served(&mut testbed);
}

/// Everything is wrong at once, and already there when kube-ipvs starts.
#[test]
fn a_start_with_bad_input() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let good = good();
    testbed.manifests.serve(&good, &testbed.ready(1..=1));
    testbed.manifests.write("garbage.yaml", "\u{1}\u{2} not yaml: [");
    testbed.manifests.write("empty.yaml", "");
    testbed.manifests.write("other.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n");
    testbed.manifests.write("nothing.yaml", "apiVersion: v1\nkind: Service\n");
    testbed.manifests.write("victim.yaml", &victim().render().replace("10.96.0.90", "10.96.0.900"));
    testbed.start(&["--ipvs-sync-period=1s"]);
    testbed.wait_served(&good, &testbed.ready(1..=1));
    assert_reported_once(&mut testbed, &["garbage.yaml"]);
    assert_reported_once(&mut testbed, &["nothing.yaml"]);
    assert_reported_once(&mut testbed, &["Service default/victim", "clusterIPs[0]"]);
    assert_eq!(testbed.proxy().log_lines(&["empty.yaml"]), [""; 0], "an empty file is no mistake");
    assert_others_served(&mut testbed);
    wait_healed(&testbed);
}

#[test]
fn a_slice_port_without_a_name() {
    let mut testbed = testbed();
    let victim = victim();
    testbed.manifests.service(&victim);
    let slice = render_slice(&victim, "v4", true, &testbed.ready(1..=2))
        .replace("- name: tcp\n  protocol", "- protocol");
    testbed.manifests.write("victim-endpoints.yaml", &slice);
    assert_reported_once(&mut testbed, &["victim-v4", "ports[].name"]);
    assert_others_served(&mut testbed);
    wait_healed(&testbed);
}

#[test]
fn a_service_port_without_a_name() {
    let mut testbed = testbed();
    let mut victim = victim();
    victim.ports.push(Port { name: "second".to_owned(), proto: Proto::Tcp, port: 81, target: 8081 });
    testbed.manifests.endpoints(&victim, &testbed.ready(1..=2));
    testbed
        .manifests
        .write("victim.yaml", &victim.render().replace("- name: second\n    protocol", "- protocol"));
    assert_reported_once(&mut testbed, &["Service default/victim", "ports[1].name"]);
    assert_others_served(&mut testbed);
    wait_healed(&testbed);
}

#[test]
fn an_endpoint_given_twice() {
    let mut testbed = testbed();
    let victim = victim();
    testbed.manifests.service(&victim);
    let mut endpoints = testbed.ready(1..=2);
    endpoints.extend(testbed.ready(1..=2));
    testbed.manifests.endpoints(&victim, &endpoints);
    testbed.wait_served(&victim, &testbed.ready(1..=2));
    assert_others_served(&mut testbed);
    wait_healed(&testbed);
}

#[test]
fn an_address_of_the_other_family() {
    let mut testbed = testbed();
    let victim = victim();
    testbed.manifests.service(&victim);
    let mut slice = render_slice(&victim, "v4", true, &testbed.ready(1..=2))
        .replace("\"10.244.0.12\"", "\"fd00:244::12\"");
    slice.push_str("---\n");
    slice.push_str(&render_slice(&victim, "v6", false, &testbed.ready(1..=1)));
    testbed.manifests.write("victim-endpoints.yaml", &slice);
    // The good endpoint of the same slice is served.
    testbed.wait_served(&victim, &testbed.ready(1..=1));
    assert_reported_once(&mut testbed, &["victim-v4", "endpoints[1].addresses"]);
    assert_others_served(&mut testbed);
    wait_healed(&testbed);
}

#[test]
fn port_zero() {
    let mut testbed = testbed();
    let mut victim = victim();
    victim.ports.push(Port { name: "zero".to_owned(), proto: Proto::Tcp, port: 0, target: 8081 });
    testbed.manifests.serve(&victim, &testbed.ready(1..=2));
    assert_reported_once(&mut testbed, &["victim", "ports[1].port"]);
    assert_others_served(&mut testbed);
    wait_healed(&testbed);
}

#[test]
fn a_slice_with_port_zero() {
    let mut testbed = testbed();
    let victim = victim();
    testbed.manifests.service(&victim);
    let slice = render_slice(&victim, "v4", true, &testbed.ready(1..=2)).replace("port: 8080", "port: 0");
    testbed.manifests.write("victim-endpoints.yaml", &slice);
    assert_reported_once(&mut testbed, &["victim-v4", "ports[0].port"]);
    assert_others_served(&mut testbed);
    wait_healed(&testbed);
}

#[test]
fn a_scheduler_that_does_not_exist() {
    let mut testbed = testbed();
    let victim = victim().with_annotation("kube-ipvs.io/scheduler", "nonsense");
    testbed.manifests.serve(&victim, &testbed.ready(1..=2));
    assert_reported_once(&mut testbed, &["victim", "kube-ipvs.io/scheduler", "nonsense"]);
    assert_others_served(&mut testbed);
    wait_healed(&testbed);
}
