//! Tests of `--graceful-policy=immediate`.

use std::time::{Duration, Instant};

use e2e::{
    manifest::{Endpoint, Service},
    net::{NODE, PodNetwork, cluster_ip},
    observe::Timeline,
    probe::Proto,
};

use super::{addresses, assert_within, conversations, real, wait_cut, wait_removed, wait_seen};
use crate::{
    reach::{Gets, wait},
    testbed::Testbed,
};

/// Whatever connections it has, the real server is gone within a second of turning unready, and its clients
/// know.
#[test]
fn an_unready_real_server_is_gone_within_a_second() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let service = Service::new("web", cluster_ip(80), &[Proto::Tcp]).with_node_port(30080, "Cluster");
    let ready = testbed.ready(1..=2);
    testbed.manifests.serve(&service, &ready);
    testbed.start(&["--graceful-policy=immediate"]);
    testbed.wait_served(&service, &ready);
    let timeline = Timeline::record(&testbed.net.node);
    let reals = real(&testbed.pods[1], &service);
    let mut judged = 0;
    for round in 1..=6 {
        let talk = testbed.talk_with(&conversations(&addresses(&service), 20, Duration::from_millis(200)));
        let cuttable = talk.progress().pods[&testbed.pods[1].name];
        let unready = Instant::now();
        testbed.manifests.endpoints(&service, &[ready[0].clone(), Endpoint::unready(&testbed.pods[1])]);
        let gone = wait_removed(&timeline, &reals, unready);
        let (_, last) = wait_cut(&talk, cuttable, unready);
        println!(
            "round {round}: gone {} ms after turning unready, {cuttable} of 20 conversations cut within {} ms",
            gone.as_millis(),
            last.as_millis()
        );
        judged += u32::from(assert_within(Duration::from_secs(1), gone, "it stayed", &timeline, unready));
        let back = Instant::now();
        testbed.manifests.endpoints(&service, &ready);
        wait_seen(back, "the real servers to be back", || timeline.serving(&reals, back));
        assert_eq!(talk.stop().cut.len(), cuttable, "the other pod's conversations are not concerned");
        if judged == 2 {
            break;
        }
    }
}

/// Where the last endpoint of the node is gone, new clients outside get nothing, but those that are connected must not
/// wait for the end of their retransmissions.
#[test]
fn clients_of_the_last_local_endpoint_are_reset() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 1);
    let service = Service::new("web", cluster_ip(80), &[Proto::Tcp]).with_node_port(30080, "Local");
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    testbed.start(&["--graceful-policy=immediate"]);
    wait(&testbed, NODE.port(30080), Gets::Own);
    let talk = testbed.talk_with(&conversations(&NODE.port(30080), 10, Duration::from_millis(200)));
    let gone = Instant::now();
    testbed.manifests.endpoints(&service, &[]);
    let (_, last) = wait_cut(&talk, 10, gone);
    println!("all of 10 conversations reset within {} ms", last.as_millis());
    assert!(last < Duration::from_secs(5), "{last:?}");
}
