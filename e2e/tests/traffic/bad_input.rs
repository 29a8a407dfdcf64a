//! Input that is wrong: everybody else stays served, it is reported once and exactly, and it heals.

use e2e::manifest::{Port, Service, render_slice};
use e2e::net::{PodNetwork, cluster_ip};
use e2e::observe::Writes;
use e2e::probe::Proto;
use testkit::wait_for;

use crate::world::{SOON, World, ask_all};

/// A world with a good service in it, followed closely.
fn world() -> World {
    let mut world = World::new(PodNetwork::Routed, 2);
    let good = good();
    world.manifests.serve(&good, &world.ready(1..=1));
    world.start(&["--ipvs-sync-period=1s"]);
    world.wait_served(&good, &world.ready(1..=1));
    world
}

fn good() -> Service {
    Service::new("good", cluster_ip(80), &[Proto::Tcp])
}

fn victim() -> Service {
    Service::new("victim", cluster_ip(90), &[Proto::Tcp])
}

/// Good input still gets through: change the good service and see the change served.
#[track_caller]
fn others_are_served(world: &mut World) {
    let good = good();
    for range in [1..=2, 1..=1] {
        world.manifests.endpoints(&good, &world.ready(range.clone()));
        world.wait_served(&good, &world.ready(range));
        ask_all(&world.net.outside_client(), &good);
    }
    world.proxy().assert_running();
}

/// The log has exactly one line with all these words, and still has after some audits.
#[track_caller]
fn reported_once(world: &mut World, words: &[&str]) {
    wait_for(SOON, &format!("a log line with {words:?}"), || {
        let lines = world.proxy().log_lines(words);
        if lines.is_empty() { Err(world.proxy().log()) } else { Ok(()) }
    });
    // Three audits later it must not have been said again.
    match Writes::record() {
        Ok(writes) => {
            let audits =
                || writes.seen().iter().filter(|call| call.ends_with("ip_vs_genl_dump_services")).count();
            testkit::wait_until(SOON, "some audits", || audits() >= 3);
        }
        Err(why) => panic!("cannot see the audits: {why}"),
    }
    let lines = world.proxy().log_lines(words);
    assert_eq!(lines.len(), 1, "reported more than once: {lines:#?}");
    println!("{}", lines[0]);
}

/// The corrected input is served.
#[track_caller]
fn heals(world: &World) {
    let victim = victim();
    world.manifests.serve(&victim, &world.ready(1..=2));
    world.wait_served(&victim, &world.ready(1..=2));
    ask_all(&world.net.outside_client(), &victim);
}

#[test]
fn broken_yaml() {
    let mut world = world();
    world.manifests.endpoints(&victim(), &world.ready(1..=2));
    world.manifests.write("victim.yaml", "apiVersion: v1\nkind: Service\nmetadata: {name: victim\nspec: [\n");
    reported_once(&mut world, &["victim.yaml"]);
    others_are_served(&mut world);
    heals(&world);
}

#[test]
fn a_file_that_breaks_keeps_what_it_said() {
    let mut world = world();
    let victim = victim();
    heals(&world);
    world.manifests.write("victim.yaml", "kind: [");
    reported_once(&mut world, &["victim.yaml"]);
    others_are_served(&mut world);
    // What was served before the mistake is served until the file says something else.
    world.served(&victim, &world.ready(1..=2)).unwrap();
    ask_all(&world.net.outside_client(), &victim);
    heals(&world);
}

#[test]
fn a_broken_document_among_good_ones() {
    let mut world = world();
    let victim = victim();
    let mut text = victim.render();
    for (suffix, v4) in [("v4", true), ("v6", false)] {
        text.push_str("---\n");
        text.push_str(&render_slice(&victim, suffix, v4, &world.ready(1..=2)));
    }
    text.push_str("---\nkind: Service\nspec: {ports: [\n");
    world.manifests.write("together.yaml", &text);
    world.wait_served(&victim, &world.ready(1..=2));
    ask_all(&world.net.outside_client(), &victim);
    reported_once(&mut world, &["together.yaml"]);
    others_are_served(&mut world);
}

/// Everything wrong at once, and already there when kube-ipvs starts.
#[test]
fn a_start_with_bad_input() {
    let mut world = World::new(PodNetwork::Routed, 2);
    let good = good();
    world.manifests.serve(&good, &world.ready(1..=1));
    world.manifests.write("garbage.yaml", "\u{1}\u{2} not yaml: [");
    world.manifests.write("empty.yaml", "");
    world.manifests.write("other.yaml", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n");
    world.manifests.write("nothing.yaml", "apiVersion: v1\nkind: Service\n");
    world.manifests.write("victim.yaml", &victim().render().replace("10.96.0.90", "10.96.0.900"));
    world.start(&["--ipvs-sync-period=1s"]);
    world.wait_served(&good, &world.ready(1..=1));
    reported_once(&mut world, &["garbage.yaml"]);
    reported_once(&mut world, &["nothing.yaml"]);
    reported_once(&mut world, &["Service default/victim", "clusterIPs[0]"]);
    assert_eq!(world.proxy().log_lines(&["empty.yaml"]), [""; 0], "an empty file is no mistake");
    others_are_served(&mut world);
    heals(&world);
}

#[test]
fn a_slice_port_without_a_name() {
    let mut world = world();
    let victim = victim();
    world.manifests.service(&victim);
    let slice = render_slice(&victim, "v4", true, &world.ready(1..=2))
        .replace("- name: tcp\n  protocol", "- protocol");
    world.manifests.write("victim-endpoints.yaml", &slice);
    reported_once(&mut world, &["victim-v4", "ports[].name"]);
    others_are_served(&mut world);
    heals(&world);
}

#[test]
fn a_service_port_without_a_name() {
    let mut world = world();
    let mut victim = victim();
    victim.ports.push(Port { name: "second".to_owned(), proto: Proto::Tcp, port: 81, target: 8081 });
    world.manifests.endpoints(&victim, &world.ready(1..=2));
    world
        .manifests
        .write("victim.yaml", &victim.render().replace("- name: second\n    protocol", "- protocol"));
    reported_once(&mut world, &["Service default/victim", "ports[1].name"]);
    others_are_served(&mut world);
    heals(&world);
}

#[test]
fn an_endpoint_given_twice() {
    let mut world = world();
    let victim = victim();
    world.manifests.service(&victim);
    let mut endpoints = world.ready(1..=2);
    endpoints.extend(world.ready(1..=2));
    world.manifests.endpoints(&victim, &endpoints);
    world.wait_served(&victim, &world.ready(1..=2));
    others_are_served(&mut world);
    heals(&world);
}

#[test]
fn an_address_of_the_other_family() {
    let mut world = world();
    let victim = victim();
    world.manifests.service(&victim);
    let mut slice =
        render_slice(&victim, "v4", true, &world.ready(1..=2)).replace("\"10.244.0.12\"", "\"fd00:244::12\"");
    slice.push_str("---\n");
    slice.push_str(&render_slice(&victim, "v6", false, &world.ready(1..=1)));
    world.manifests.write("victim-endpoints.yaml", &slice);
    // The good endpoint of the same slice is served.
    world.wait_served(&victim, &world.ready(1..=1));
    reported_once(&mut world, &["victim-v4", "endpoints[1].addresses"]);
    others_are_served(&mut world);
    heals(&world);
}

#[test]
fn port_zero() {
    let mut world = world();
    let mut victim = victim();
    victim.ports.push(Port { name: "zero".to_owned(), proto: Proto::Tcp, port: 0, target: 8081 });
    world.manifests.serve(&victim, &world.ready(1..=2));
    reported_once(&mut world, &["victim", "ports[1].port"]);
    others_are_served(&mut world);
    heals(&world);
}

#[test]
fn a_slice_with_port_zero() {
    let mut world = world();
    let victim = victim();
    world.manifests.service(&victim);
    let slice = render_slice(&victim, "v4", true, &world.ready(1..=2)).replace("port: 8080", "port: 0");
    world.manifests.write("victim-endpoints.yaml", &slice);
    reported_once(&mut world, &["victim-v4", "ports[0].port"]);
    others_are_served(&mut world);
    heals(&world);
}

#[test]
fn a_scheduler_that_does_not_exist() {
    let mut world = world();
    let victim = victim().with_annotation("kube-ipvs.io/scheduler", "nonsense");
    world.manifests.serve(&victim, &world.ready(1..=2));
    reported_once(&mut world, &["victim", "kube-ipvs.io/scheduler", "nonsense"]);
    others_are_served(&mut world);
    heals(&world);
}
