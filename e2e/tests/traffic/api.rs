//! An API server in the place of manifests: outages, restarts meanwhile, and connections that die without a
//! word.

use std::{
    collections::BTreeSet,
    io::{Read, Write},
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use e2e::{
    manifest::{Endpoint, Service, render_node, render_slice, to_json},
    net::{Both, PodNetwork, cluster_ip},
    observe::{Snapshot, Timeline},
    probe::Proto,
    proxy::Source,
};
use test_apiserver::{Hangup, Resource, TestApiServer, Verb};
use testkit::{wait_for, wait_until};

use crate::{
    drain,
    reach::{Gets, check, wait, wait_no_answer},
    testbed::{Testbed, WAIT_LIMIT, WEB, assert_uncut, web},
};

/// Time in which a change must arrive although a peer died: a dead peer is noticed after 15 s; a guest on a
/// busy machine needs longer.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(90);

struct Cluster {
    testbed: Testbed,
    server: TestApiServer,
}

impl Cluster {
    /// `web` with two of three pods, followed and served.
    fn new() -> Cluster {
        let mut testbed = Testbed::new(PodNetwork::Routed, 3);
        let server = testbed.net.node.enter(|| TestApiServer::builder().tls().token("t").start());
        let server = server.expect("start the API server");
        let kubeconfig = testbed.settings.state.with_file_name("kubeconfig");
        std::fs::write(&kubeconfig, server.kubeconfig()).expect("write the kubeconfig");
        testbed.settings.source = Source::Kubeconfig(kubeconfig);
        server.objects().apply(to_json(&render_node())).expect("write the Node");
        let cluster = Cluster { testbed, server };
        cluster.serve(&web(), &cluster.testbed.ready(1..=2));
        cluster
    }

    fn start(&mut self) {
        self.testbed.start(&["--ipvs-sync-period=1s"]);
        self.testbed.wait_served(&web(), &self.testbed.ready(1..=2));
        self.wait_ready(200);
    }

    fn serve(&self, service: &Service, endpoints: &[Endpoint]) {
        let slices = [("v4", true), ("v6", false)]
            .map(|(suffix, v4)| to_json(&render_slice(service, suffix, v4, endpoints)));
        let objects = [to_json(&service.render())].into_iter().chain(slices);
        self.server.objects().apply_all(objects).expect("write the objects");
    }

    /// Asks for a health check; returns status and body.
    fn get(&self, path: &str) -> Result<(u16, String), String> {
        let request = || {
            let addr = SocketAddr::from(([127, 0, 0, 1], 10_256));
            let mut stream = TcpStream::connect_timeout(&addr, Duration::from_secs(5))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            write!(stream, "GET {path} HTTP/1.1\r\nHost: node\r\n\r\n")?;
            let mut text = String::new();
            stream.read_to_string(&mut text).map(|_| text)
        };
        let text = self.testbed.net.node.enter(request).map_err(|error| error.to_string())?;
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok((status.ok_or_else(|| text.clone())?, text))
    }

    fn wait_ready(&self, status: u16) -> String {
        wait_for(ARRIVAL_TIMEOUT, &format!("/readyz to answer {status}"), || match self.get("/readyz") {
            Ok((found, text)) if found == status => Ok(text),
            other => Err(format!("{other:?}")),
        })
    }
}

/// Local ports of the established connections to a port.
fn established(proc_net_tcp: &str, port: u16) -> Vec<String> {
    let number = |socket: &str| u16::from_str_radix(socket.split(':').nth(1)?, 16).ok();
    let client = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let [_, local, remote, "01", ..] = words[..] else { return None };
        (number(remote)? == port).then(|| number(local)).flatten()
    };
    proc_net_tcp.lines().filter_map(client).map(|port| port.to_string()).collect()
}

/// An API server that is away changes nothing; changes made meanwhile arrive when it is back.
/// Conformance: e2e/service should work after restarting apiserver
#[test]
fn an_outage_of_the_api_server_under_load_slow() {
    let mut cluster = Cluster::new();
    cluster.start();
    let load = cluster.testbed.load(&WEB.port(80));
    let talk = cluster.testbed.talk(&WEB.port(80), 10);
    load.let_pass(50);
    let before = Snapshot::take(&cluster.testbed.net.node);
    cluster.server.stop().expect("stop");
    // Each kind finds out by itself.
    wait_for(WAIT_LIMIT, "endpoint slices to be unreachable", || {
        let text = cluster.wait_ready(503);
        if text.contains(r#""endpointslices":"unreachable""#) { Ok(()) } else { Err(text) }
    });
    assert_eq!(cluster.get("/healthz").map(|(status, _)| status), Ok(200), "load balancers need not care");
    load.let_pass(100);
    before.assert_same(&Snapshot::take(&cluster.testbed.net.node), "by an outage of the API server");
    cluster.serve(&web(), &cluster.testbed.ready(1..=3));
    cluster.server.restart().expect("restart");
    cluster.testbed.wait_served(&web(), &cluster.testbed.ready(1..=3));
    cluster.wait_ready(200);
    load.let_pass(50);
    load.assert_clean();
    assert_uncut(&talk.stop());
}

/// A start without an API server leaves the dataplane as the last process left it.
#[test]
fn a_restart_without_an_api_server_under_load_slow() {
    let mut cluster = Cluster::new();
    cluster.start();
    let load = cluster.testbed.load(&WEB.port(80));
    load.let_pass(50);
    let before = Snapshot::take(&cluster.testbed.net.node);
    cluster.testbed.proxy().kill();
    cluster.server.stop().expect("stop");
    cluster.testbed.proxy().start_again();
    let text = cluster.wait_ready(503);
    assert!(text.contains(r#""programmed":false"#), "{text}");
    load.let_pass(100);
    before.assert_same(&Snapshot::take(&cluster.testbed.net.node), "by a start without objects");
    cluster.serve(&web(), &cluster.testbed.ready(1..=3));
    cluster.server.restart().expect("restart");
    cluster.testbed.wait_served(&web(), &cluster.testbed.ready(1..=3));
    load.let_pass(50);
    load.assert_clean();
}

/// Packets of the established connection vanish: changes arrive nevertheless, over a new one.
#[test]
fn connections_to_the_api_server_that_die_silently_slow() {
    let mut cluster = Cluster::new();
    cluster.start();
    let port = cluster.server.address().port();
    let node = &cluster.testbed.net.node;
    let sockets = node.sh("cat /proc/net/tcp");
    let ports = established(&sockets, port);
    assert_eq!(ports.len(), 1, "connections of kube-ipvs to port {port}:\n{sockets}");
    let ports = ports.join(", ");
    let lossy = format!(
        "add table inet lossy; add chain inet lossy input {{ type filter hook input priority 0; }}; \
         add rule inet lossy input tcp sport {port} tcp dport {{ {ports} }} drop; \
         add rule inet lossy input tcp dport {port} tcp sport {{ {ports} }} drop"
    );
    node.run(&["nft", &lossy]);
    cluster.serve(&web(), &cluster.testbed.ready(2..=3));
    let took = wait_until(ARRIVAL_TIMEOUT, "the change to arrive over a new connection", || {
        cluster.testbed.check_served(&web(), &cluster.testbed.ready(2..=3)).is_ok()
    });
    println!("the change arrived after {took:?}");
    cluster.testbed.wait_served(&web(), &cluster.testbed.ready(2..=3));
    wait_for(WAIT_LIMIT, "nothing fails", || cluster.get("/readyz").map(drop));
}

/// All Services and slices are gone at once, as after an etcd that was set up anew, and come back from a
/// backup: nobody said of any pod that it terminates, so established connections go on.
#[test]
fn an_api_server_that_lost_its_data_cuts_nothing_slow() {
    let mut cluster = Cluster::new();
    let service = Service::new("talked-to", cluster_ip(81), &[Proto::Tcp]);
    let (targets, ready) = (cluster_ip(81).port(80), cluster.testbed.ready(1..=2));
    cluster.serve(&service, &ready);
    cluster.start();
    cluster.testbed.wait_served(&service, &ready);
    let timeline = Timeline::record(&cluster.testbed.net.node);
    let reals: Vec<_> = cluster.testbed.pods[..2].iter().flat_map(|pod| pod.address.port(8080)).collect();
    let talk = cluster.testbed.talk(&targets, 20);
    cluster.server.stop().expect("stop");
    for resource in [Resource::Services, Resource::EndpointSlices] {
        for object in cluster.server.objects().list(resource) {
            let name = object["metadata"]["name"].as_str().expect("objects have names");
            cluster.server.objects().delete(resource, "default", name).expect("delete");
        }
    }
    // Nobody can watch what happened meanwhile, so that an empty list is the answer.
    cluster.server.objects().compact();
    let lost = Instant::now();
    cluster.server.restart().expect("restart");
    wait_until(ARRIVAL_TIMEOUT, "the loss to be noticed", || timeline.quiesced(&reals, lost).is_some());
    drain::go_on(&[&talk], Instant::now());
    for to in &targets {
        drain::wait_refused(&cluster.testbed, *to);
    }
    cluster.serve(&service, &ready);
    cluster.testbed.wait_served(&service, &ready);
    assert_uncut(&talk.stop());
}

/// External addresses that two Services claim; those of documentation (RFC 5737, RFC 3849).
const SHARED: Both =
    Both { v4: Ipv4Addr::new(192, 0, 2, 91), v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x91) };
/// Port of a health check that a daemon of the node has.
const TAKEN_PORT: u16 = 31081;

/// Problems of Services, and the start, are events; a restart repeats none of them.
#[test]
fn problems_of_services_are_events_slow() {
    let mut cluster = Cluster::new();
    let _daemon = cluster.testbed.net.node_daemon("daemon", TAKEN_PORT);
    let ready = cluster.testbed.ready(1..=2);
    let older = Service::new("older", cluster_ip(81), &[Proto::Tcp]).with_external_ips(SHARED, "Cluster");
    let younger = Service::new("younger", cluster_ip(82), &[Proto::Tcp])
        .with_external_ips(SHARED, "Cluster")
        .with_annotation("kube-ipvs.io/scheduler", "nonsense");
    let balancer = Both { v4: Ipv4Addr::new(192, 0, 2, 92), ..SHARED };
    let checked = Service::new("checked", cluster_ip(83), &[Proto::Udp])
        .with_balancer(balancer, "Local", &[])
        .with_health_check(TAKEN_PORT);
    for (service, created) in [(older, "2026-01-01"), (younger, "2026-01-02"), (checked, "2026-01-03")] {
        cluster.serve(&service, &ready);
        let mut object = to_json(&service.render());
        object["metadata"]["creationTimestamp"] = format!("{created}T00:00:00Z").into();
        let objects = cluster.server.objects();
        objects.delete(Resource::Services, "default", &service.name).expect("delete");
        objects.apply(object).expect("apply");
    }
    cluster.start();
    let text = |object: &serde_json::Value, path: &str| {
        object.pointer(path).and_then(|value| value.as_str()).unwrap_or_default().to_owned()
    };
    let events = |cluster: &Cluster| {
        let all = cluster.server.objects().list(Resource::Events);
        let one = |event| (text(&event, "/regarding/name"), text(&event, "/reason"), text(&event, "/note"));
        all.into_iter().map(one).collect::<BTreeSet<_>>()
    };
    let expect = [
        ("younger", "ClaimedByOther", "192.0.2.91:80/TCP"),
        ("younger", "ClaimedByOther", "2001:db8::91"),
        ("younger", "InvalidAnnotation", "nonsense"),
        ("checked", "FailedToStartServiceHealthcheck", "31081"),
        (e2e::manifest::NODE_NAME, "Starting", ""),
    ];
    let has = |found: &BTreeSet<(String, String, String)>, (name, reason, note): &(&str, &str, &str)| {
        found.iter().any(|event| event.0 == *name && event.1 == *reason && event.2.contains(note))
    };
    let before = wait_for(ARRIVAL_TIMEOUT, "the events", || {
        let found = events(&cluster);
        if expect.iter().all(|event| has(&found, event)) { Ok(found) } else { Err(format!("{found:#?}")) }
    });
    assert_eq!(before.len(), expect.len(), "others: {before:#?}");
    let requests = |cluster: &Cluster| cluster.server.requests().count(Resource::Events, Verb::Create);
    let first = requests(&cluster);
    cluster.testbed.proxy().kill();
    cluster.testbed.proxy().start_again();
    wait_for(ARRIVAL_TIMEOUT, "the same events again", || match requests(&cluster) {
        count if count >= 2 * first => Ok(()),
        count => Err(count),
    });
    assert_eq!(events(&cluster), before);
    assert_eq!(cluster.server.objects().len(Resource::Events), before.len());
}

/// A Service for another proxy, and slices of a headless Service, are told by labels, which may come and go.
/// Conformance: e2e/service should implement service.kubernetes.io/service-proxy-name
/// Conformance: e2e/service should implement service.kubernetes.io/headless
#[test]
fn what_has_a_label_for_others_is_served_without_it() {
    let mut cluster = Cluster::new();
    let ready = cluster.testbed.ready(1..=1);
    cluster.serve(&web(), &ready);
    let slices = |label: &str| {
        [("v4", true), ("v6", false)].map(|(suffix, v4)| {
            let mut slice = to_json(&render_slice(&web(), suffix, v4, &ready));
            if !label.is_empty() {
                slice["metadata"]["labels"][label] = "".into();
            }
            slice
        })
    };
    let service = |label: &str| {
        let mut service = to_json(&web().render());
        if !label.is_empty() {
            service["metadata"]["labels"] = serde_json::json!({ label: "other" });
        }
        vec![service]
    };
    let (proxy_name, headless) =
        ("service.kubernetes.io/service-proxy-name", "service.kubernetes.io/headless");
    cluster.testbed.start(&["--ipvs-sync-period=1s"]);
    let answers = |cluster: &Cluster| {
        wait(&cluster.testbed, WEB.port(80), Gets::Node);
        check(&cluster.testbed, WEB.port(80), [Gets::Node, Gets::Own, Gets::Node, Gets::Node]);
    };
    answers(&cluster);
    for _ in 0..2 {
        for (labelled, plain) in
            [(service(proxy_name), service("")), (slices(headless).to_vec(), slices("").to_vec())]
        {
            cluster.server.objects().apply_all(labelled).expect("set the label");
            wait_no_answer(&cluster.testbed, &WEB.port(80));
            cluster.server.objects().apply_all(plain).expect("take the label away");
            answers(&cluster);
        }
    }
}

/// Ranges of ClusterIPs that come at run time: from then on, nobody else may have an address there.
/// Conformance: e2e/service_cidrs should create Services and serve on different Service CIDRs
#[test]
fn a_range_of_cluster_ips_may_be_added() {
    let mut cluster = Cluster::new();
    let both =
        |v4: [u8; 4], last| Both { v4: v4.into(), v6: Ipv6Addr::new(0xfd00, 0x98, 0, 0, 0, 0, 0, last) };
    let (address, taken) = (both([10, 98, 0, 80], 0x80), both([10, 98, 0, 81], 0x81));
    for addresses in [address, taken] {
        cluster.testbed.net.route_to_node(addresses);
    }
    let thief = Service::new("thief", cluster_ip(81), &Proto::ALL).with_external_ips(taken, "Cluster");
    let new = Service::new("new", address, &Proto::ALL);
    cluster.serve(&thief, &cluster.testbed.ready(2..=2));
    cluster.start();
    wait(&cluster.testbed, taken.port(80), Gets::Node);
    let range = serde_json::json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "second"},
        "spec": {"cidrs": ["10.98.0.0/16", "fd00:98::/112"]},
    });
    cluster.server.objects().apply(range).expect("add the range");
    wait_no_answer(&cluster.testbed, &taken.port(80));
    cluster.serve(&new, &cluster.testbed.ready(1..=1));
    cluster.testbed.wait_served(&new, &cluster.testbed.ready(1..=1));
    for at in [address.port(80), WEB.port(80)] {
        wait(&cluster.testbed, at, Gets::Node);
    }
    check(&cluster.testbed, address.port(80), [Gets::Node, Gets::Own, Gets::Node, Gets::Node]);
    // The range goes, and its addresses are like others.
    cluster.server.objects().delete(Resource::Services, "default", "new").expect("delete");
    cluster.server.objects().delete(Resource::ServiceCidrs, "", "second").expect("delete");
    wait(&cluster.testbed, taken.port(80), Gets::Node);
}

/// Directory where the kubelet mounts a Pod's credentials.
const ACCOUNT_DIRECTORY: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Without flags it uses the service account of the Pod, whose token is replaced now and then.
#[test]
fn the_service_account_of_a_pod() {
    let mut cluster = Cluster::new();
    let write = |file: &str, text: &str| {
        std::fs::create_dir_all(ACCOUNT_DIRECTORY).expect("the folder of the service account");
        testkit::write_atomic(&std::path::Path::new(ACCOUNT_DIRECTORY).join(file), text)
            .expect("write a credential");
    };
    write("namespace", "kube-system");
    write("ca.crt", cluster.server.ca_pem().expect("TLS"));
    write("token", "t");
    cluster.testbed.settings.source = Source::ServiceAccount(cluster.server.address());
    let plan =
        cluster.testbed.settings.plan(&cluster.testbed.net.node).unwrap_or_else(|error| panic!("{error}"));
    assert!(plan.contains("10.244.0.11:8080"), "{plan}");
    cluster.start();
    cluster.server.add_token("u");
    write("token", "u");
    cluster.server.revoke_token("t");
    for resource in [Resource::Services, Resource::EndpointSlices] {
        cluster.server.drop_watches(resource, Hangup::End);
    }
    cluster.serve(&web(), &cluster.testbed.ready(2..=3));
    wait_until(ARRIVAL_TIMEOUT, "the change to arrive with the new token", || {
        cluster.testbed.check_served(&web(), &cluster.testbed.ready(2..=3)).is_ok()
    });
    cluster.wait_ready(200);
}
