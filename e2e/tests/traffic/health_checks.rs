//! Health checks of load balancers: `healthCheckNodePort`, and `/healthz` of a node that is about to go.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use e2e::{
    manifest::{Endpoint, NODE_FILE, render_node},
    net::{NODE, PodNetwork},
};
use testkit::{NetNs, wait_for};

use crate::testbed::{BALANCER, Testbed, WAIT_LIMIT, WEB, web};

const PORT: u16 = 31080;

/// Status line and body of a page; the error of a connection that was refused.
pub fn get(from: &NetNs, to: SocketAddr, path: &str) -> Result<String, String> {
    from.enter(|| {
        let fetch = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(5)))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        };
        fetch().map_err(|error| error.to_string())
    })
}

/// Waits for an answer that has all of `parts`.
#[track_caller]
pub fn wait_answer(from: &NetNs, to: SocketAddr, path: &str, parts: &[&str]) {
    wait_for(WAIT_LIMIT, &format!("{parts:?} from {to}{path}"), || {
        let answer = get(from, to, path)?;
        if parts.iter().all(|part| answer.contains(part)) { Ok(()) } else { Err(answer) }
    });
}

/// Conformance: e2e/service should fail health check node port if there are only terminating endpoints
/// Conformance: e2e/service should implement NodePort and HealthCheckNodePort correctly when...
/// Conformance: e2e/loadbalancer should only target nodes with endpoints
#[test]
fn load_balancers_learn_which_nodes_have_endpoints() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let outside = testbed.net.outside.clone();
    testbed.net.route_to_node(BALANCER);
    let service = web().with_balancer(BALANCER, "Local", &[]).with_health_check(PORT);
    let mut endpoints = testbed.ready(1..=2);
    endpoints[1].node = "another";
    testbed.manifests.serve(&service, &endpoints);
    testbed.start(&[]);
    let everywhere = [NODE.port(PORT), BALANCER.port(PORT)].concat();
    for to in &everywhere {
        wait_answer(&outside, *to, "/", &["HTTP/1.1 200", "\"name\": \"web\"", "\"localEndpoints\": 1"]);
    }
    // Other ports of the load balancer are left to routing, and those of ClusterIPs stay closed.
    for to in BALANCER.port(PORT + 1) {
        get(&outside, to, "/").expect_err("a port that nobody has");
    }
    for to in WEB.port(PORT) {
        let refused = get(&outside, to, "/").expect_err("a port that nobody has");
        assert!(refused.contains("refused"), "{refused}");
    }
    // The only endpoint of the node terminates: it takes connections, but load balancers shall go elsewhere.
    let leaving = [Endpoint::terminating(&testbed.pods[0]), endpoints[1].clone()];
    testbed.manifests.endpoints(&service, &leaving);
    for to in &everywhere {
        wait_answer(&outside, *to, "/", &["HTTP/1.1 503", "\"localEndpoints\": 0"]);
    }
    for to in BALANCER.port(80) {
        let outcome = testbed.net.outside_client().ask(e2e::probe::Proto::Tcp, to);
        assert_eq!(outcome.result.as_ref().map(|answer| answer.pod.as_str()), Ok("pod-1"), "{outcome}");
    }
    // Another policy needs no health check.
    testbed.manifests.service(&web().with_balancer(BALANCER, "Cluster", &[]).with_health_check(PORT));
    for to in &everywhere {
        wait_for(WAIT_LIMIT, "the port to be closed", || match get(&outside, *to, "/") {
            Err(_) => Ok(()),
            Ok(answer) => Err(answer),
        });
    }
}

#[test]
fn a_health_check_port_that_is_taken_is_tried_again() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 1);
    let service = web().with_balancer(BALANCER, "Local", &[]).with_health_check(PORT);
    let daemon = testbed.net.node_daemon("daemon", PORT);
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    testbed.start(&[]);
    testbed.wait_served(&service, &testbed.ready(1..=1));
    wait_for(WAIT_LIMIT, "a warning", || {
        let lines =
            testbed.proxy().log_lines(&["Service default/web", "healthCheckNodePort", "cannot listen"]);
        if lines.is_empty() { Err("none") } else { Ok(()) }
    });
    drop(daemon);
    let node = testbed.net.node.clone();
    wait_answer(&node, NODE.port(PORT)[0], "/", &["HTTP/1.1 200"]);
}

/// Conformance: healthcheck TestHealthzServer
/// Conformance: healthcheck TestLivezServer
#[test]
fn a_node_that_is_about_to_go_tells_load_balancers() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 1);
    let service = web().with_balancer(BALANCER, "Local", &[]).with_health_check(PORT);
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    testbed.start(&["--healthz-bind-address=[::]:10256"]);
    let (node, health) = (testbed.net.node.clone(), NODE.port(10256)[0]);
    wait_answer(&node, health, "/healthz", &["HTTP/1.1 200", "\"nodeEligible\":true"]);
    let taint = "  taints: [{key: ToBeDeletedByClusterAutoscaler, effect: NoSchedule}]\n";
    testbed.manifests.write(NODE_FILE, &render_node().replace("spec:\n", &format!("spec:\n{taint}")));
    wait_answer(&node, health, "/healthz", &["HTTP/1.1 503", "\"nodeEligible\":false", "\"healthy\":true"]);
    wait_answer(&node, health, "/livez", &["HTTP/1.1 200"]);
    // Its endpoints go on serving.
    wait_answer(&node, NODE.port(PORT)[0], "/", &["HTTP/1.1 200", "\"serviceProxyHealthy\": true"]);
    testbed.manifests.write(NODE_FILE, &render_node());
    wait_answer(&node, health, "/healthz", &["HTTP/1.1 200"]);
    testbed.manifests.remove(NODE_FILE);
    wait_answer(&node, health, "/healthz", &["HTTP/1.1 503", "\"nodeEligible\":false", "\"healthy\":true"]);
    assert!(get(&node, WEB.port(10256)[0], "/healthz").is_err(), "a ClusterIP has no port of the node's");
}
