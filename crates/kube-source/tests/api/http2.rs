//! One connection for everything, where the server speaks HTTP/2.

use std::{collections::BTreeSet, thread::sleep, time::Duration};

use test_apiserver::{Hangup, Pick, Resource, Ruin, Spoil, TestApiServer};

use crate::{
    cluster::{Cluster, filled, service, slice},
    faults::drop_all_watches,
};

/// Connections over which requests have come, of all kinds, after the first `since`.
fn connections(cluster: &Cluster, since: usize) -> BTreeSet<u64> {
    cluster.server.requests().log().skip(since).map(|request| request.connection).collect()
}

fn requests(cluster: &Cluster) -> usize {
    cluster.server.requests().log().count()
}

/// Changes a Service and a slice, and waits for both.
fn change(cluster: &mut Cluster, name: &str, endpoints: u32) {
    cluster.apply(service(1, name));
    cluster.apply(slice(1, endpoints));
    cluster.wait_same();
}

#[test]
fn one_connection_is_enough_for_all_kinds() {
    let mut cluster = Cluster::new(TestApiServer::builder().tls());
    cluster.wait_same();
    drop_all_watches(&cluster, Hangup::End);
    change(&mut cluster, "b", 5);
    assert_eq!(connections(&cluster, 0).len(), 1);
    let mut cluster = Cluster::new(TestApiServer::builder().tls().without_http2());
    cluster.wait_same();
    drop_all_watches(&cluster, Hangup::End);
    change(&mut cluster, "b", 5);
    assert!(connections(&cluster, 0).len() >= 4, "each watch has its own with HTTP/1.1");
}

/// A server that wants to be rid of clients (`--goaway-chance`, an upgrade) cuts no watch, and gets no more requests.
#[test]
fn a_server_that_sends_clients_away_keeps_what_runs() {
    let mut cluster = Cluster::new(TestApiServer::builder().tls());
    cluster.wait_same();
    let old = connections(&cluster, 0);
    cluster.server.send_go_away();
    sleep(Duration::from_millis(200));
    let (before, watches) = (requests(&cluster), cluster.server.watches(Resource::Services));
    change(&mut cluster, "b", 5);
    assert_eq!((requests(&cluster), cluster.server.watches(Resource::Services)), (before, watches));
    drop_all_watches(&cluster, Hangup::End);
    change(&mut cluster, "a", 6);
    let new = connections(&cluster, before);
    assert!(new.len() == 1 && new.is_disjoint(&old), "{old:?}, {new:?}");
}

/// The end of the only connection ends all watches; each goes on where it was.
#[test]
fn a_connection_that_breaks_is_replaced_for_all_kinds() {
    for then in [Ruin::Close, Ruin::Reset, Ruin::Garbage, Ruin::Silence] {
        let server = filled(TestApiServer::builder().tls(), 12);
        let mut cluster = Cluster::follow(server);
        cluster.wait_same();
        let before = requests(&cluster);
        cluster.server.spoil(Pick::Nth(0), Spoil { after: 0, then });
        cluster.server.drop_watches(Resource::Services, Hangup::End);
        change(&mut cluster, "b", 5);
        let log = cluster.server.requests();
        let lists = log.log().skip(before).filter(|request| request.uri.contains("sendInitialEvents"));
        assert_eq!(lists.count(), 0, "{then:?}: resumed, not listed");
    }
}

/// Lists that are larger than what may be on its way, to a listener that pauses in the middle of each.
#[test]
fn a_slow_listener_delays_but_never_stops_the_lists() {
    const SERVICES: u32 = 2_000;
    let server = filled(TestApiServer::builder().tls().realistic(), SERVICES);
    let mut cluster = Cluster::follow_slowly(server, Duration::from_millis(3));
    cluster.wait_same();
    change(&mut cluster, "b", 5);
    assert_eq!(connections(&cluster, 0).len(), 1);
}
