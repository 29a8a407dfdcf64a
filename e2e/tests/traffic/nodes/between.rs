//! Clients and endpoints on different nodes: topology, clients of UDP that keep their port, the second family.

use std::net::SocketAddr;

use e2e::{
    manifest::{Endpoint, Port, Service},
    net::{CLIENT_TIMEOUT, Client, cluster_ip},
    probe::{Answer, Proto, socket},
};
use testkit::{wait_for, wait_until};

use super::{A, B, C, Cluster, Got};
use crate::{
    testbed::{BALANCER, POD_PORTS, WAIT_LIMIT},
    udp::{Pace, Talker, dump_tracked},
};

/// An endpoint with hints for nodes and zones.
fn hinted(endpoint: Endpoint, nodes: &[&str], zones: &[&str]) -> Endpoint {
    let list =
        |names: &[&str]| names.iter().map(|name| format!("{{name: {name}}}")).collect::<Vec<_>>().join(", ");
    let hints = format!("{{forNodes: [{}], forZones: [{}]}}", list(nodes), list(zones));
    Endpoint { hints, ..endpoint }
}

/// Three nodes, of which the first two are in one zone.
fn zones() -> Cluster {
    let cluster = Cluster::new(3, 2);
    for (node, zone) in cluster.segment.nodes.iter().zip(["east", "east", "west"]) {
        let label = format!("  labels: {{topology.kubernetes.io/zone: {zone}}}\nspec:\n");
        let text = Cluster::render_node(node).replace("spec:\n", &label);
        cluster.manifests.write(&format!("{}.yaml", node.name), &text);
    }
    cluster
}

/// Waits until a pod of each node is served by exactly these endpoints.
#[track_caller]
fn expect(cluster: &Cluster, expected: [&[&str]; 3]) {
    let at = cluster_ip(80).port(80);
    for (node, endpoints) in expected.into_iter().enumerate() {
        let client = cluster.pod_client(node, 2);
        let expected: Vec<_> = endpoints.iter().map(|endpoint| Got::own(endpoint)).collect();
        wait_for(WAIT_LIMIT, &format!("{} to be served by {endpoints:?}", client.place), || {
            // Only the new endpoints answer, all of them.
            let asked = |_| cluster.ask(&client, Proto::Tcp, at[0], CLIENT_TIMEOUT);
            let got: std::collections::BTreeSet<_> = (0..6).map(asked).collect();
            if got == expected.iter().cloned().collect() { Ok(()) } else { Err(format!("{got:?}")) }
        });
        cluster.check(&client, at, &expected);
    }
}

/// Conformance: e2e/traffic_distribution should route traffic to an endpoint in the same zone when using PreferClose
/// Conformance: e2e/traffic_distribution should route traffic correctly between pods on multiple nodes when using PreferClose
/// Conformance: e2e/traffic_distribution should route traffic to an endpoint in the same zone when using PreferSameZone
/// Conformance: e2e/traffic_distribution should route traffic correctly between pods on multiple nodes when using PreferSameZone
/// Conformance: e2e/traffic_distribution should route traffic to an endpoint on the same node or fall back to same zone when using PreferSameNode
/// Conformance: e2e/traffic_distribution should route traffic to an endpoint on the same node when using PreferSameNode and fall back when the endpoint becomes unavailable
#[test]
fn clients_are_served_in_their_zone_or_on_their_node() {
    let mut cluster = zones();
    let service = Service::new("web", cluster_ip(80), &[Proto::Tcp, Proto::Udp]);
    let zone = |cluster: &Cluster, node: usize| {
        hinted(cluster.endpoint(node, 1), &[], &[if node == C { "west" } else { "east" }])
    };
    let own = |cluster: &Cluster, node: usize| {
        let Endpoint { hints, .. } = zone(cluster, node);
        let name = cluster.segment.nodes[node].name;
        Endpoint { hints: hints.replace("[]", &format!("[{{name: {name}}}]")), ..cluster.endpoint(node, 1) }
    };
    cluster.manifests.serve(&service, &[zone(&cluster, A), zone(&cluster, C)]);
    cluster.start();
    expect(&cluster, [&["a-1"], &["a-1"], &["c-1"]]);
    cluster.manifests.endpoints(&service, &[A, B, C].map(|node| zone(&cluster, node)));
    expect(&cluster, [&["a-1", "b-1"], &["a-1", "b-1"], &["c-1"]]);
    // A zone without an endpoint is served by all others.
    cluster.manifests.endpoints(&service, &[A, B].map(|node| zone(&cluster, node)));
    expect(&cluster, [&["a-1", "b-1"]; 3]);
    let on_each_node = [A, B, C].map(|node| own(&cluster, node));
    cluster.manifests.endpoints(&service, &on_each_node);
    expect(&cluster, [&["a-1"], &["b-1"], &["c-1"]]);
    // The endpoint of node-b is gone: its clients stay in their zone.
    cluster.manifests.endpoints(&service, &[A, C].map(|node| own(&cluster, node)));
    expect(&cluster, [&["a-1"], &["a-1"], &["c-1"]]);
    cluster.manifests.endpoints(&service, &on_each_node);
    expect(&cluster, [&["a-1"], &["b-1"], &["c-1"]]);
}

/// Waits until the last answers to all of them come from a pod.
#[track_caller]
fn wait_answered<'a>(talkers: impl IntoIterator<Item = &'a Talker>, pod: &str) {
    for talker in talkers {
        wait_until(WAIT_LIMIT, &format!("an answer of {pod}: {talker}"), || {
            talker.seen().pods.last().is_some_and(|last| last == pod)
        });
    }
}

/// Conformance: e2e/conntrack should be able to preserve UDP traffic when server pod cycles for a NodePort service
/// Conformance: e2e/conntrack should be able to preserve UDP traffic when server pod cycles for a ClusterIP service
/// Conformance: e2e/conntrack should be able to preserve UDP traffic when server pod cycles for a ClusterIP service with InternalTrafficPolicy set to Local
/// Conformance: e2e/conntrack should be able to preserve UDP traffic when server pod cycles for a ClusterIP service and client is hostNetwork
/// Conformance: e2e/conntrack should be able to preserve UDP traffic when initial unready endpoints get ready
/// Conformance: e2e/loadbalancer should be able to preserve UDP traffic when server pod cycles for a LoadBalancer service
/// Conformance: e2e/conntrack should be able to cleanup conntrack entries when UDP service target port changes for a NodePort service
#[test]
fn udp_clients_that_keep_their_port_follow_pods_from_node_to_node() {
    const PORT: u16 = 30_081;
    let mut cluster = Cluster::new(2, 3);
    let cluster_wide = Service::new("cluster", cluster_ip(80), &[Proto::Udp]);
    let node_port = Service::new("node-port", cluster_ip(81), &[Proto::Udp])
        .with_node_port(PORT, "Cluster")
        .with_balancer(BALANCER, "Cluster", &[]);
    let local = Service::new("local", cluster_ip(82), &[Proto::Udp]).with_internal_policy("Local");
    let everywhere = [cluster_wide, node_port.clone()];
    let serve = |cluster: &Cluster, endpoints: &[Endpoint]| {
        for service in everywhere.iter().chain([&local]) {
            cluster.manifests.serve(service, endpoints);
        }
    };
    serve(&cluster, &[]);
    cluster.start();
    cluster.segment.route_to_node(A, &["192.0.2.0/24", "2001:db8::/64"]);
    let node_a = cluster.segment.nodes[A].address;
    let [on_a, on_b] = [A, B].map(|node| cluster.pod_client(node, 3));
    let talk = |client: &Client, port, to: [SocketAddr; 2]| {
        to.map(|to| Talker::start(client, port, to, Pace::STUBBORN))
    };
    let to_all = [
        talk(&on_b, 5001, cluster_ip(80).port(80)),
        talk(&cluster.process(B), 5002, cluster_ip(80).port(80)),
        talk(&on_b, 5003, node_a.port(PORT)),
        talk(&cluster.process(B), 5004, node_a.port(PORT)),
        talk(&cluster.segment.outside_client(), 5005, node_a.port(PORT)),
        talk(&cluster.segment.outside_client(), 5006, BALANCER.port(80)),
    ];
    let to_local = [
        talk(&on_a, 5007, cluster_ip(82).port(80)),
        talk(&cluster.process(A), 5008, cluster_ip(82).port(80)),
    ];
    let all = || to_all.iter().chain(&to_local).flatten();
    wait_until(WAIT_LIMIT, "five questions each", || all().all(|talker| talker.seen().asked >= 5));
    let unready = Endpoint { ready: false, serving: false, ..cluster.endpoint(A, 1) };
    serve(&cluster, &[unready]);
    wait_until(WAIT_LIMIT, "ten questions each", || all().all(|talker| talker.seen().asked >= 10));
    assert!(all().all(|talker| talker.seen().pods.is_empty()), "nobody is there to answer");
    serve(&cluster, &[cluster.endpoint(A, 1)]);
    wait_answered(all(), "a-1");
    // The next pod is on the same node ...
    serve(&cluster, &[cluster.endpoint(A, 2)]);
    cluster.pods[A][0].kill();
    cluster.pods[A][0].disconnect();
    wait_answered(all(), "a-2");
    // ... and the one after it on the other.
    serve(&cluster, &[cluster.endpoint(B, 1)]);
    cluster.pods[A][1].kill();
    cluster.pods[A][1].disconnect();
    wait_answered(to_all.iter().flatten(), "b-1");
    // Another port of the pod.
    let port = Port { target: POD_PORTS[1], ..Port::web(Proto::Udp) };
    cluster.manifests.serve(&node_port.with_ports(&[port]), &[cluster.endpoint(B, 1)]);
    wait_for(WAIT_LIMIT, "clients of the node port to be sent to the new port", || {
        let tracked = dump_tracked(&cluster.segment.nodes[A].namespace);
        let theirs = tracked.into_iter().filter(|one| (5003..=5006).contains(&one.client.port()));
        let old: Vec<_> = theirs.filter(|one| one.server.port() != POD_PORTS[1]).collect();
        if old.is_empty() { Ok(()) } else { Err(format!("{old:?}")) }
    });
    for talker in to_all[2..].iter().flatten() {
        talker.let_pass(3);
    }
}

/// Sends a request that fills several packets.
fn ask_at_length(client: &Client, proto: Proto, to: SocketAddr) -> Result<String, String> {
    let from = SocketAddr::new(client.own.like(to.ip()), 0);
    let request = [&[b'x'; 6000][..], b"\n"].concat();
    let exchange = || -> std::io::Result<String> {
        let mut buffer = [0; 512];
        let socket = socket::bound(proto, from, CLIENT_TIMEOUT)?;
        let length = if proto == Proto::Udp {
            let socket = socket::connect_datagram(socket, to)?;
            socket.send(&request)?;
            socket.recv(&mut buffer)?
        } else {
            let mut stream = socket::connect_stream(socket, to)?;
            std::io::Write::write_all(&mut stream, &request)?;
            std::io::Read::read(&mut stream, &mut buffer)?
        };
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let text = client.namespace.enter(exchange).map_err(|error| error.to_string())?;
    text.parse::<Answer>().map(|answer| answer.pod).map_err(|error| error.to_string())
}

/// Conformance: e2e/dual_stack should function for pod-Service: http, udp, sctp (secondary family)
/// Conformance: e2e/dual_stack should function for node-Service: http, udp (secondary family)
/// Conformance: e2e/dual_stack should function for endpoint-Service: http, udp (secondary family)
/// Conformance: e2e/dual_stack should update endpoints: http, udp (secondary family)
/// Conformance: e2e/dual_stack should function for client IP based session affinity: http (secondary family)
/// Conformance: e2e/dual_stack should function for client IP based session affinity: udp (secondary family)
/// Conformance: e2e/dual_stack should be able to handle large requests: http (secondary family)
/// Conformance: e2e/dual_stack should be able to handle large requests: udp (secondary family)
/// Conformance: e2e/dual_stack should function for service endpoints using hostNetwork (secondary family)
/// Conformance: e2e/networking should function for client IP based session affinity: udp
#[test]
fn the_second_family_of_a_service_is_served_like_the_first() {
    const PORT: u16 = 30_084;
    let mut cluster = Cluster::new(2, 2);
    let _host = cluster.segment.daemon(A, "host-a", POD_PORTS[0]);
    let reversed = |name, number| {
        let [v4, v6] = cluster_ip(number).each();
        Service::new(name, cluster_ip(number), &Proto::ALL).with_ips(&[v6, v4])
    };
    let plain = reversed("plain", 84).with_node_port(PORT, "Cluster");
    let [sticky, host] = [reversed("sticky", 85).with_affinity(600), reversed("host", 86)];
    let both = [cluster.endpoint(A, 1), cluster.endpoint(B, 1)];
    for service in [&plain, &sticky] {
        cluster.manifests.serve(service, &both);
    }
    cluster.manifests.serve(&host, &[cluster.host_endpoint(A, "host-a")]);
    cluster.start();
    let (at, at_node) = (cluster_ip(84).port(80), cluster.segment.nodes[A].address.port(PORT));
    let (pod, process) = (cluster.pod_client(B, 2), cluster.process(B));
    cluster.wait(&pod, cluster_ip(86).port(80), &Got::own("host-a"));
    cluster.check(&pod, cluster_ip(86).port(80), &[Got::own("host-a")]);
    cluster.check(&pod, at, &["a-1", "b-1"].map(Got::own));
    cluster.check(&process, at, &["a-1", "b-1"].map(|endpoint| Got::node(endpoint, "node-b")));
    cluster.check(&process, at_node, &["a-1", "b-1"].map(|endpoint| Got::node(endpoint, "node-a")));
    // An endpoint that asks its own Service.
    let endpoint = cluster.pod_client(A, 1);
    cluster.check(&endpoint, at, &[Got::node("a-1", "node-a"), Got::own("b-1")]);
    for to in at {
        assert_eq!(
            cluster.ask(&pod, Proto::Sctp, to, CLIENT_TIMEOUT).to_string().split_at(3).1,
            " sees the client"
        );
    }
    let stuck = cluster_ip(85).port(80);
    for (proto, to) in [Proto::Tcp, Proto::Udp].into_iter().flat_map(|proto| stuck.map(|to| (proto, to))) {
        let asked = |_| cluster.ask(&pod, proto, to, CLIENT_TIMEOUT);
        let pods: std::collections::BTreeSet<_> = (0..8).map(asked).collect();
        assert!(pods.len() == 1 && pods.is_subset(&["a-1", "b-1"].map(Got::own).into()), "{to}: {pods:?}");
    }
    cluster.manifests.endpoints(&plain, &both[..1]);
    wait_for(WAIT_LIMIT, "one endpoint to be left", || {
        let asked = |_| cluster.ask(&pod, Proto::Tcp, at[1], CLIENT_TIMEOUT);
        (0..4).map(asked).find(|got| *got != Got::own("a-1")).map_or(Ok(()), |got| Err(got.to_string()))
    });
    cluster.check(&pod, at, &[Got::own("a-1")]);
    cluster.check(&process, at_node, &[Got::node("a-1", "node-a")]);
    for (proto, to) in [Proto::Tcp, Proto::Udp].into_iter().flat_map(|proto| at.map(|to| (proto, to))) {
        assert_eq!(ask_at_length(&pod, proto, to), Ok("a-1".to_owned()), "{proto} {to}");
    }
}
