//! Access to the API: the ClusterRole of kube-proxy is enough.

use kube_source::{Notice, Reason, Regarding, ServiceRef};
use lb_types::ServiceName;
use test_apiserver::{Resource, StreamingLists, TestApiServer, Verb};

use crate::cluster::{Cluster, filled, node, service};

/// Rules of `system:node-proxier` for these resources (plugin/pkg/auth/authorizer/rbac/bootstrappolicy/policy.go).
const NODE_PROXIER: [(Resource, &[Verb]); 5] = [
    (Resource::Services, &[Verb::List, Verb::Watch]),
    (Resource::EndpointSlices, &[Verb::List, Verb::Watch]),
    (Resource::Nodes, &[Verb::Get, Verb::List, Verb::Watch]),
    (Resource::ServiceCidrs, &[Verb::List, Verb::Watch]),
    (Resource::Events, &[Verb::Create, Verb::Patch, Verb::Update]),
];

const VERBS: [Verb; 7] =
    [Verb::Get, Verb::List, Verb::Watch, Verb::Create, Verb::Update, Verb::Patch, Verb::Delete];

/// Forbids everything that the role does not name.
fn restrict(server: &TestApiServer) {
    for (resource, allowed) in NODE_PROXIER {
        for verb in VERBS.into_iter().filter(|verb| !allowed.contains(verb)) {
            server.deny(resource, verb, true);
        }
    }
}

#[test]
fn the_role_of_kube_proxy_is_enough() {
    for lists in [
        StreamingLists::Supported,
        StreamingLists::Refused,
        StreamingLists::RefusedByMatch,
        StreamingLists::Ignored,
    ] {
        let server = filled(TestApiServer::builder(), 20);
        server.set_streaming_lists(lists);
        restrict(&server);
        let mut cluster = Cluster::follow(server);
        cluster.wait_same();
        let regarding = ServiceRef { name: ServiceName::new("ns", "s1"), uid: "uid-s1".into() };
        for (regarding, reason) in
            [(Regarding::Service(regarding), Reason::ClaimedByOther), (Regarding::Node, Reason::Starting)]
        {
            cluster.recorder.record(Notice { regarding, reason, note: "note".to_owned() });
        }
        cluster.wait("both events", |cluster| cluster.recorder.counts().written == 2);
        // Changes, and versions that are gone.
        cluster.apply(node());
        cluster.apply(service(21, "a"));
        cluster.wait_same();
        cluster.server.stop().unwrap();
        cluster.apply(service(22, "a"));
        cluster.server.objects().compact();
        cluster.server.restart().unwrap();
        cluster.wait_same();
        let requests = cluster.server.requests();
        assert_eq!(requests.status(403), 0, "{lists:?}: {}", cluster.log.text());
        // The server has nothing but what the role names, and counts what is asked for beside that.
        assert_eq!(requests.status(404), 0, "{lists:?}: {}", cluster.log.text());
    }
}

/// The server refuses everything that the role does not name.
#[test]
fn less_than_the_role_is_noticed() {
    let server = filled(TestApiServer::builder(), 1);
    restrict(&server);
    server.deny(Resource::Services, Verb::Watch, true);
    server.deny(Resource::Services, Verb::List, true);
    let mut cluster = Cluster::follow(server);
    cluster.wait("a refusal", |cluster| cluster.server.requests().status(403) > 0);
    cluster.wait("a failure that is told", |cluster| cluster.is_failing("services"));
}
