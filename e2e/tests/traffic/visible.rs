//! View of an operator: pages of a node, and a drain, also when the process that began it is gone.

use std::net::SocketAddr;

use e2e::{
    manifest::{Endpoint, Service},
    net::{NODE, PodNetwork},
    probe::Proto,
};
use serde_json::Value;
use testkit::wait_for;

use crate::{
    health_checks,
    testbed::{Testbed, WAIT_LIMIT, WEB, assert_uncut},
};

/// A Service with one port, so that there is one virtual server in each family.
fn web() -> Service {
    Service::new("web", WEB, &[Proto::Tcp])
}

/// Rows of `kube-ipvs drains -o json`.
fn drains(testbed: &Testbed) -> Result<Vec<Value>, String> {
    let text =
        testbed.settings.drains(&testbed.net.node, &["--output=json"]).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
}

fn table(testbed: &Testbed) -> String {
    testbed.settings.drains(&testbed.net.node, &[]).unwrap_or_else(|error| panic!("{error}"))
}

/// Waits until there is one row for each family that meets a condition.
#[track_caller]
fn wait_drains(testbed: &Testbed, what: &str, is_right: impl Fn(&Value) -> bool) -> Vec<Value> {
    wait_for(WAIT_LIMIT, what, || {
        let rows = drains(testbed)?;
        if rows.len() == 2 && rows.iter().all(&is_right) { Ok(rows) } else { Err(format!("{rows:#?}")) }
    })
}

/// Head and body of the answer to a request from the node.
fn get(testbed: &Testbed, port: u16, path: &str) -> Result<String, String> {
    health_checks::get(&testbed.net.node, SocketAddr::from(([127, 0, 0, 1], port)), path)
}

fn metrics(testbed: &Testbed) -> Result<String, String> {
    get(testbed, 10_249, "/metrics")
}

#[track_caller]
fn wait_metric(testbed: &Testbed, line: &str) {
    wait_for(WAIT_LIMIT, &format!("the metric {line}"), || match metrics(testbed)? {
        text if text.lines().any(|l| l == line) => Ok(()),
        text => Err(text),
    });
}

/// A drain meets kill -9 in its middle, a damaged record, and its end.
#[test]
fn a_drain_is_visible_and_survives_its_process_slow() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let service = web();
    testbed.manifests.serve(&service, &testbed.ready(1..=2));
    testbed.start(&["--graceful-linger=2s"]);
    testbed.wait_served(&service, &testbed.ready(1..=2));
    assert_eq!(table(&testbed), "nothing drains\n");
    wait_metric(&testbed, "kube_ipvs_draining_real_servers 0");
    let talk = testbed.talk(&WEB.port(80), 12);

    let pods = [Endpoint::terminating(&testbed.pods[0]), Endpoint::ready(&testbed.pods[1])];
    testbed.manifests.endpoints(&service, &pods);
    let is_right = |row: &Value| {
        row["reason"] == "terminating" && row["policy"] == "active-only" && row["pod"] == "default/pod-1"
    };
    let rows = wait_drains(&testbed, "both drains to be listed", is_right);
    print!("{}", table(&testbed));
    let sum = |rows: &[Value], field: &str| rows.iter().filter_map(|row| row[field].as_u64()).sum::<u64>();
    let on_pod_1 = talk.progress().pods["pod-1"] as u64;
    assert_eq!(sum(&rows, "activeConnections"), on_pod_1, "{rows:#?}");
    assert!(sum(&rows, "deadlineSeconds") > 2 * 800, "{rows:#?}");
    wait_metric(&testbed, "kube_ipvs_draining_real_servers 2");
    wait_metric(&testbed, "kube_ipvs_drains_begun_total 2");

    // There is a second between two looks, so that a drain that began anew would be younger.
    let old = |row: &Value| is_right(row) && row["sinceSeconds"].as_u64() >= Some(3);
    wait_drains(&testbed, "the drains to be 3 s old", old);
    testbed.proxy().kill();
    testbed.proxy().start_again();
    let resumed = wait_for(WAIT_LIMIT, "the drains to be taken over", || {
        let lines = testbed.proxy().log_lines(&["goes on with 2 of 2 drains"]);
        if lines.is_empty() { Err(testbed.proxy().log()) } else { Ok(lines) }
    });
    println!("{}", resumed[0]);
    wait_drains(&testbed, "reason and age to be as before", old);
    wait_metric(&testbed, "kube_ipvs_draining_real_servers 2");
    assert_eq!(
        testbed.proxy().log_lines(&["drain of real server", "begins"]).len(),
        2,
        "no drain began anew"
    );

    testbed.proxy().kill();
    std::fs::write(testbed.settings.state.join("drain.json"), "{\"version\":1,\"dra")
        .expect("damage the record");
    testbed.proxy().start_again();
    wait_drains(&testbed, "the drains to begin anew", is_right);
    assert_eq!(testbed.proxy().log_lines(&["drain.json", "damaged"]).len(), 1);

    // The conversations of the draining pod end by themselves, nobody cuts them.
    assert_uncut(&talk.stop());
    wait_for(WAIT_LIMIT, "the drains to end", || match table(&testbed) {
        text if text == "nothing drains\n" => Ok(()),
        text => Err(text),
    });
    wait_metric(&testbed, "kube_ipvs_drains_ended_total{outcome=\"drained\"} 2");
    wait_metric(&testbed, "kube_ipvs_drain_connections_cut_total 0");
    let ended = testbed.proxy().log_lines(&["drain of real server", "ended: drained"]);
    assert_eq!(ended.len(), 2, "{ended:#?}");
}

/// Real connections must not live on with the new owner of their address: the kernel revives a real server
/// that comes back too early, together with them.
#[test]
fn an_address_under_another_pod_starts_afresh_slow() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let service = web();
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    testbed.start(&[]);
    testbed.wait_served(&service, &testbed.ready(1..=1));
    let talk = testbed.talk(&WEB.port(80), 20);
    let successor = Endpoint { pod: "successor".to_owned(), ..Endpoint::ready(&testbed.pods[0]) };
    testbed.manifests.endpoints(&service, &[successor]);
    wait_for(WAIT_LIMIT, "all old connections to be reset", || {
        let progress = talk.progress();
        if progress.cut.len() == 20 { Ok(()) } else { Err(format!("{progress:#?}")) }
    });
    // The server still runs and knows them: only IPVS has forgotten them.
    let cut = talk.stop().cut;
    assert!(cut.iter().all(|cut| cut.failure.error == "ECONNRESET"), "{cut:#?}");
    testbed.wait_served(&service, &testbed.ready(1..=1));
    let load = testbed.load(&WEB.port(80));
    load.let_pass(50);
    load.assert_clean();
    let evicted = testbed.proxy().log_lines(&["drain of real server", "ended: address-reused"]);
    println!("{} connections reset, {} real servers evicted", cut.len(), evicted.len());
    assert_eq!(evicted.len(), 2, "{}", testbed.proxy().log());
}

/// The pages of a node that others ask for by their numbers and names, at the default addresses.
/// Conformance: e2e/networking should check kube-proxy urls
#[test]
fn a_node_answers_at_the_urls_of_kube_proxy() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 1);
    for (port, path) in [(10_256, "/healthz"), (10_249, "/proxyMode")] {
        get(&testbed, port, path).expect_err("nobody answers yet");
    }
    testbed.manifests.serve(&web(), &testbed.ready(1..=1));
    testbed.start(&[]);
    testbed.wait_served(&web(), &testbed.ready(1..=1));
    for (port, path, parts) in [
        (10_256, "/healthz", &["HTTP/1.1 200 OK\r\n", "\"lastUpdated\":"][..]),
        (10_249, "/proxyMode", &["HTTP/1.1 200 OK\r\n", "\r\n\r\nipvs"]),
        (
            10_249,
            "/metrics",
            &["HTTP/1.1 200 OK\r\n", "\n# TYPE kubeproxy_sync_proxy_rules_duration_seconds histogram\n"],
        ),
    ] {
        wait_for(WAIT_LIMIT, &format!("{parts:?} from port {port}, {path}"), || {
            let text = get(&testbed, port, path)?;
            if parts.iter().all(|part| text.contains(part)) { Ok(()) } else { Err(text) }
        });
    }
    // The health of the node is for others, its metrics are not.
    let outside = &testbed.net.outside;
    for to in NODE.port(10_256) {
        let text =
            health_checks::get(outside, to, "/healthz").unwrap_or_else(|error| panic!("{to}: {error}"));
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{to}: {text}");
    }
    for to in NODE.port(10_249) {
        health_checks::get(outside, to, "/metrics").expect_err("metrics are at loopback alone");
    }
    // What is no page is none.
    let text = get(&testbed, 10_256, "/nowhere").expect("an answer");
    assert!(text.starts_with("HTTP/1.1 404 "), "{text}");
}
