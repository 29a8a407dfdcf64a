//! A pod that is gone without a word: its node died. Only its silence tells.
//!
//! TODO-correctness: where a router reports that the address of a pod is unreachable, as the node of a force-deleted pod
//! does, IPVS counts these errors as packets to the client, and the real server is not taken for silent.

use std::time::{Duration, Instant};

use e2e::manifest::Service;
use e2e::net::{PodNetwork, cluster_ip};
use e2e::observe::Timeline;
use e2e::probe::Proto;
use e2e::probe::talk;

use super::{conversations, cut, real, removed, within};
use crate::world::World;

/// From the moment at which the address leaves the slice to the reset of the last client.
const LIMIT: Duration = Duration::from_secs(12);

/// 100 clients talk to a pod whose node dies and whose endpoint leaves without ever having been terminating.
#[test]
fn the_clients_of_a_dead_node_s_pod_are_reset_within_12_seconds_slow() {
    let mut world = World::new(PodNetwork::Routed, 2);
    let service = Service::new("web", cluster_ip(80), &[Proto::Tcp]);
    let alone = world.ready(1..=1);
    world.manifests.serve(&service, &alone);
    // The reset answers a retransmission, and TCP doubles the time between two of them: the one after 6.2 s must find the
    // real server gone, because the next one comes at 12.6 s.
    world.start(&[]);
    world.wait_served(&service, &alone);
    let timeline = Timeline::record(&world.net.node);
    let settings = conversations(&cluster_ip(80).port(80), 100, Duration::from_millis(500));
    let talk = world.talk_with(&talk::Settings { timeout: Duration::from_secs(60), ..settings });
    let reals = real(&world.pods[0], &service);
    assert!(talk.progress().cut.is_empty(), "nothing has happened yet");
    world.pods[0].fall_silent();
    let left = Instant::now();
    world.manifests.endpoints(&service, &world.ready(2..=2));
    let gone = removed(&timeline, &reals, left);
    let (first, last) = cut(&talk, 100, left);
    println!(
        "silent: real servers gone {} ms after the address left the slice, 100 of 100 conversations reset after {} to {} ms",
        gone.as_millis(),
        first.as_millis(),
        last.as_millis()
    );
    within(LIMIT, last, "a client hung", (&timeline, left));
}
