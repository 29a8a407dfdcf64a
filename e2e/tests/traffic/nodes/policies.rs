//! Traffic policies between nodes, with endpoints on some of them.

use std::net::SocketAddr;

use e2e::{
    manifest::{Endpoint, Service},
    net::{Both, Client, Node, OUTSIDE, cluster_ip},
    probe::Proto,
};
use testkit::wait_for;

use super::{A, B, C, Cluster, Got, SILENCE};
use crate::{
    health_checks::{get, wait_answer},
    testbed::{BALANCER, POD_PORTS, WAIT_LIMIT},
};

const HEALTH: u16 = 31_090;

fn service(name: &str, number: u8) -> Service {
    Service::new(name, cluster_ip(number), &[Proto::Tcp, Proto::Udp])
}

/// Conformance: e2e/service should respect internalTrafficPolicy=Local Pod to Pod
/// Conformance: e2e/service should respect internalTrafficPolicy=Local Pod (hostNetwork: true) to Pod
/// Conformance: e2e/service should respect internalTrafficPolicy=Local Pod and Node, to Pod (hostNetwork: true)
#[test]
fn internal_traffic_policy_local_keeps_clients_on_their_node() {
    let mut cluster = Cluster::new(2, 2);
    let _host = cluster.segment.daemon(A, "host-a", POD_PORTS[0]);
    let [pod, host] =
        [("pod", 80), ("host", 81)].map(|(name, ip)| service(name, ip).with_internal_policy("Local"));
    cluster.manifests.serve(&pod, &[cluster.endpoint(A, 1)]);
    cluster.manifests.serve(&host, &[cluster.host_endpoint(A, "host-a")]);
    cluster.start();
    for (server, ip) in [("a-1", 80), ("host-a", 81)] {
        let at = cluster_ip(ip).port(80);
        cluster.wait(&cluster.pod_client(A, 2), at, &Got::own(server));
        cluster.check(&cluster.pod_client(A, 2), at, &[Got::own(server)]);
        cluster.check(&cluster.process(A), at, &[Got::node(server, "node-a")]);
        cluster.wait(&cluster.pod_client(B, 2), at, &Got::Refused);
        cluster.check(&cluster.pod_client(B, 2), at, &[Got::Refused]);
        cluster.check(&cluster.process(B), at, &[Got::Refused]);
    }
    // Each node keeps to its own.
    cluster.manifests.endpoints(&pod, &[cluster.endpoint(A, 1), cluster.endpoint(B, 1)]);
    let at = cluster_ip(80).port(80);
    cluster.wait(&cluster.pod_client(B, 2), at, &Got::own("b-1"));
    cluster.check(&cluster.pod_client(B, 2), at, &[Got::own("b-1")]);
    cluster.check(&cluster.process(B), at, &[Got::node("b-1", "node-b")]);
    cluster.check(&cluster.pod_client(A, 2), at, &[Got::own("a-1")]);
}

/// Conformance: e2e/service should implement NodePort and HealthCheckNodePort correctly when ExternalTrafficPolicy changes
/// Conformance: e2e/service should support externalTrafficPolicy=Local for type=NodePort
/// Conformance: e2e/loadbalancer should only target nodes with endpoints
/// Conformance: e2e/loadbalancer should target all nodes with endpoints
#[test]
fn node_ports_and_health_checks_follow_the_external_traffic_policy() {
    const PORT: u16 = 30_090;
    let mut cluster = Cluster::new(3, 1);
    let with_policy =
        |policy| service("web", 90).with_node_port(PORT, policy).with_balancer(BALANCER, policy, &[]);
    let local = with_policy("Local").with_health_check(HEALTH);
    cluster.manifests.serve(&local, &[cluster.endpoint(A, 1)]);
    cluster.start();
    let [at_a, at_b, at_c] = [A, B, C].map(|node| cluster.segment.nodes[node].address);
    let (on_b, outside) = (cluster.process(B), cluster.segment.outside_client());
    let expect_local = || {
        for (address, status) in [(at_a, "200 OK"), (at_b, "503 Service"), (at_c, "503 Service")] {
            for to in address.port(HEALTH) {
                wait_answer(&on_b.namespace, to, "/", &[&format!("HTTP/1.1 {status}")]);
            }
        }
        cluster.wait(&outside, at_a.port(PORT), &Got::own("a-1"));
        cluster.check(&outside, at_a.port(PORT), &[Got::own("a-1")]);
        for address in [at_b, at_c] {
            cluster.wait(&outside, address.port(PORT), &Got::Nothing);
            cluster.check(&outside, address.port(PORT), &[Got::Nothing]);
        }
        // A process is inside for its own node, and outside for every other one.
        cluster.check(&on_b, at_a.port(PORT), &[Got::node("a-1", "node-b")]);
        cluster.check(&on_b, at_b.port(PORT), &[Got::node("a-1", "node-b")]);
        cluster.check(&on_b, at_c.port(PORT), &[Got::Nothing]);
    };
    expect_local();
    cluster.manifests.service(&with_policy("Cluster"));
    for (address, node) in [(at_a, "node-a"), (at_b, "node-b"), (at_c, "node-c")] {
        cluster.wait(&outside, address.port(PORT), &Got::node("a-1", node));
        for client in [&outside, &on_b] {
            cluster.check(client, address.port(PORT), &[Got::node("a-1", node)]);
        }
        for to in address.port(HEALTH) {
            wait_for(WAIT_LIMIT, "the health check to be closed", || {
                get(&on_b.namespace, to, "/").map_or(Ok(()), Err)
            });
        }
    }
    cluster.manifests.service(&local);
    expect_local();
}

/// Conformance: e2e/service should fail health check node port if there are only terminating endpoints
/// Conformance: e2e/service should fallback to terminating endpoints when there are no ready endpoints with internalTrafficPolicy=Cluster
/// Conformance: e2e/service should fallback to local terminating endpoints when there are no ready endpoints with internalTrafficPolicy=Local
/// Conformance: e2e/service should fallback to terminating endpoints when there are no ready endpoints with externallTrafficPolicy=Cluster
/// Conformance: e2e/service should fallback to local terminating endpoints when there are no ready endpoints with externalTrafficPolicy=Local
#[test]
fn terminating_endpoints_serve_whom_the_policy_means() {
    let mut cluster = Cluster::new(2, 2);
    let services = [
        service("internal-cluster", 80),
        service("internal-local", 81).with_internal_policy("Local"),
        service("external-cluster", 82).with_node_port(30_082, "Cluster"),
        service("external-local", 83)
            .with_node_port(30_083, "Local")
            .with_balancer(BALANCER, "Local", &[])
            .with_health_check(HEALTH),
    ];
    let serve = |cluster: &Cluster, endpoints: &[Endpoint]| {
        for service in &services {
            cluster.manifests.serve(service, endpoints);
        }
    };
    serve(&cluster, &[cluster.endpoint(A, 1)]);
    cluster.start();
    let [at_a, at_b] = [A, B].map(|node| cluster.segment.nodes[node].address);
    let [on_a, on_b] = [A, B].map(|node| cluster.pod_client(node, 2));
    let outside = cluster.segment.outside_client();
    let expect_health = |address: Both, status: &str| {
        let status = format!("HTTP/1.1 {status}");
        wait_answer(&outside.namespace, address.port(HEALTH)[0], "/", &[&status]);
    };
    // Ready or terminating, the only endpoint has the same clients.
    let check = |cluster: &Cluster| {
        let a = || Got::own("a-1");
        cluster.check(&on_a, cluster_ip(80).port(80), &[a()]);
        cluster.check(&on_b, cluster_ip(80).port(80), &[a()]);
        cluster.check(&on_a, cluster_ip(81).port(80), &[a()]);
        cluster.check(&on_b, cluster_ip(81).port(80), &[Got::Refused]);
        cluster.check(&outside, at_a.port(30_082), &[Got::node("a-1", "node-a")]);
        cluster.check(&outside, at_b.port(30_082), &[Got::node("a-1", "node-b")]);
        cluster.check(&outside, at_a.port(30_083), &[a()]);
        cluster.check(&outside, at_b.port(30_083), &[Got::Nothing]);
        expect_health(at_b, "503");
    };
    cluster.wait(&outside, at_a.port(30_083), &Got::own("a-1"));
    cluster.wait(&outside, at_b.port(30_082), &Got::node("a-1", "node-b"));
    expect_health(at_a, "200");
    check(&cluster);
    serve(&cluster, &[cluster.terminating(A, 1)]);
    expect_health(at_a, "503");
    check(&cluster);
    // A ready endpoint comes on the other node: all clients go there, except where they have to stay.
    serve(&cluster, &[cluster.terminating(A, 1), cluster.endpoint(B, 1)]);
    expect_health(at_b, "200");
    let b = || Got::own("b-1");
    cluster.wait(&outside, at_b.port(30_083), &b());
    cluster.wait(&on_a, cluster_ip(80).port(80), &b());
    cluster.check(&on_a, cluster_ip(80).port(80), &[b()]);
    cluster.check(&on_a, cluster_ip(81).port(80), &[Got::own("a-1")]);
    cluster.check(&on_b, cluster_ip(81).port(80), &[b()]);
    cluster.check(&outside, at_a.port(30_082), &[Got::node("b-1", "node-a")]);
    cluster.check(&outside, at_a.port(30_083), &[Got::own("a-1")]);
    cluster.check(&outside, at_b.port(30_083), &[b()]);
    expect_health(at_a, "503");
}

/// Waits until a client is refused over TCP and UDP: the kernel sends few ICMP errors a second to the same client.
#[track_caller]
fn wait_refused(cluster: &Cluster, client: &Client, at: [SocketAddr; 2]) {
    for (proto, to) in [Proto::Tcp, Proto::Udp].into_iter().flat_map(|proto| at.map(|to| (proto, to))) {
        wait_for(
            WAIT_LIMIT,
            &format!("{} to be refused over {proto} at {to}", client.place),
            || match cluster.ask(client, proto, to, SILENCE) {
                Got::Refused => Ok(()),
                got => Err(got),
            },
        );
    }
}

/// Where a Service publishes addresses that are not ready, its slices call them ready; so the last endpoint serves
/// everybody until it goes, and without that only as long as it still answers.
/// Conformance: e2e/service should create endpoints for unready pods
/// Conformance: e2e/service should be able to connect to terminating and unready endpoints if PublishNotReadyAddresses is true
/// Conformance: e2e/service should not be able to connect to terminating and unready endpoints if PublishNotReadyAddresses is false
/// Conformance: endpointschangetracker TestUpdateEndpointsMap: change from ready to terminating pod
/// Conformance: endpointschangetracker TestUpdateEndpointsMap: change from terminating to empty pod
#[test]
fn endpoints_that_are_not_ready_serve_where_they_are_published() {
    let mut cluster = Cluster::new(2, 2);
    let mut published = service("published", 84).with_node_port(30_084, "Cluster");
    published.spec += "  publishNotReadyAddresses: true\n";
    let plain = service("plain", 85).with_node_port(30_085, "Cluster");
    // The endpoint as the slices of both Services have it: its readiness counts where it is not published.
    let serve = |cluster: &Cluster, endpoint: Option<Endpoint>| {
        let publish = |endpoint: &Endpoint| Endpoint { ready: true, ..endpoint.clone() };
        cluster.manifests.serve(&published, &endpoint.iter().map(publish).collect::<Vec<_>>());
        cluster.manifests.serve(&plain, endpoint.as_slice());
    };
    // Clients on both nodes, at the ClusterIP and at the node port of both, get answers or are refused.
    let check = |cluster: &Cluster, (ip, port): (u8, u16), serves: bool| {
        let check = |client: &Client, at: [SocketAddr; 2], got: Got| {
            if serves {
                cluster.check(client, at, &[got]);
            } else {
                wait_refused(cluster, client, at);
            }
        };
        for node in [A, B] {
            let &Node { name, address, .. } = &cluster.segment.nodes[node];
            let (pod, process) = (cluster.pod_client(node, 2), cluster.process(node));
            check(&pod, cluster_ip(ip).port(80), Got::own("a-1"));
            check(&process, cluster_ip(ip).port(80), Got::node("a-1", name));
            for client in [pod, process, cluster.segment.outside_client()] {
                check(&client, address.port(port), Got::node("a-1", name));
            }
        }
    };
    let unready = |endpoint: Endpoint| Endpoint { ready: false, serving: false, ..endpoint };
    let stages = [
        ("ready", Some(cluster.endpoint(A, 1)), [true, true]),
        ("terminating", Some(cluster.terminating(A, 1)), [true, true]),
        ("terminating and not ready", Some(unready(cluster.terminating(A, 1))), [true, false]),
        ("gone", None, [false, false]),
        ("not ready", Some(unready(cluster.endpoint(A, 1))), [true, false]),
    ];
    serve(&cluster, None);
    cluster.start();
    for (what, endpoint, [is_published, is_plain]) in stages {
        println!("{what}");
        serve(&cluster, endpoint);
        for (ip, serves) in [(84, is_published), (85, is_plain)] {
            let expected = if serves { Got::own("a-1") } else { Got::Refused };
            for node in [A, B] {
                cluster.wait(&cluster.pod_client(node, 2), cluster_ip(ip).port(80), &expected);
            }
        }
        check(&cluster, (84, 30_084), is_published);
        check(&cluster, (85, 30_085), is_plain);
    }
}

/// Conformance: e2e/loadbalancer should only allow access from service loadbalancer source ranges
#[test]
fn source_ranges_hold_outside_and_on_every_node() {
    const PORT: u16 = 30_091;
    let mut cluster = Cluster::new(2, 2);
    cluster.segment.route_to_node(A, &["192.0.2.0/24", "2001:db8::/64"]);
    let ranged = |ranges: &[&str]| {
        service("web", 90).with_node_port(PORT, "Cluster").with_balancer(BALANCER, "Cluster", ranges)
    };
    let outside_alone = [format!("{}/32", OUTSIDE.v4), format!("{}/128", OUTSIDE.v6)];
    cluster
        .manifests
        .serve(&ranged(&outside_alone.each_ref().map(String::as_str)), &[cluster.endpoint(A, 1)]);
    cluster.start();
    let at = BALANCER.port(80);
    let [on_a, on_b] = [A, B].map(|node| cluster.pod_client(node, 2));
    let outside = cluster.segment.outside_client();
    let from_a = Got::node("a-1", "node-a");
    cluster.wait(&outside, at, &from_a);
    cluster.check(&outside, at, std::slice::from_ref(&from_a));
    // A process learns at once of a datagram that its own node drops, so that only TCP hears nothing.
    for process in [A, B].map(|node| cluster.process(node)) {
        cluster.wait(&process, at, &Got::Nothing);
    }
    for client in [&on_a, &on_b] {
        cluster.check(client, at, &[Got::Nothing]);
    }
    // The ranges are those of the load balancer alone.
    let node_port = cluster.segment.nodes[A].address.port(PORT);
    cluster.check(&on_b, node_port, std::slice::from_ref(&from_a));
    let pods_of_b = cluster.segment.nodes[B].pod_ranges();
    cluster.manifests.service(&ranged(&pods_of_b.each_ref().map(String::as_str)));
    cluster.wait(&on_b, at, &Got::own("a-1"));
    cluster.wait(&outside, at, &Got::Nothing);
    cluster.check(&on_b, at, &[Got::own("a-1")]);
    cluster.wait(&cluster.process(B), at, &Got::Nothing);
    for client in [&on_a, &outside] {
        cluster.check(client, at, &[Got::Nothing]);
    }
}

/// To its own node, the address of another node is like any external address; to the node that has it, it is that of
/// the node.
#[test]
fn an_external_ip_that_is_an_address_of_another_node_serves_pods() {
    let mut cluster = Cluster::new(2, 2);
    let node_a = cluster.segment.nodes[A].address;
    let service = service("web", 80).with_external_ips(node_a, "Cluster");
    cluster.manifests.serve(&service, &[cluster.endpoint(A, 1)]);
    cluster.start();
    let at: [SocketAddr; 2] = node_a.port(80);
    let outside = cluster.segment.outside_client();
    cluster.wait(&outside, at, &Got::node("a-1", "node-a"));
    cluster.wait(&cluster.pod_client(B, 2), at, &Got::own("a-1"));
    cluster.check(&outside, at, &[Got::node("a-1", "node-a")]);
    cluster.check(&cluster.pod_client(B, 2), at, &[Got::own("a-1")]);
    cluster.check(&cluster.process(B), at, &[Got::node("a-1", "node-b")]);
    cluster.check(&cluster.pod_client(A, 2), at, &[Got::node("a-1", "node-a")]);
    cluster.manifests.endpoints(&service, &[cluster.endpoint(B, 1)]);
    cluster.wait(&cluster.pod_client(B, 2), at, &Got::own("b-1"));
    cluster.check(&cluster.pod_client(B, 2), at, &[Got::own("b-1")]);
    // To node-b, the address stays that of node-a: what that sends under it gets its answers.
    cluster.wait(&outside, at, &Got::node("b-1", "node-a"));
    cluster.check(&outside, at, &[Got::node("b-1", "node-a")]);
}
