//! Somebody else's hands on our objects: repaired within the sync period, at once where the kernel tells us.

use std::time::{Duration, Instant};

use e2e::net::PodNetwork;
use e2e::observe::Snapshot;
use testkit::wait_for;

use crate::world::{World, ask_all, web};

/// Time for the repair itself, and for our looking, in a slow guest.
const SLACK: Duration = Duration::from_secs(4);

/// What the kernel announces has to be repaired within this time: a second, and our own looking in a slow guest.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Do the damage, see that it is damage, and wait until everything is as before.
fn damage(world: &World, lines: &[&str], within: Duration) {
    let intact = Snapshot::take(&world.net.node);
    for line in lines {
        world.net.node.sh(line);
    }
    let start = Instant::now();
    let service = web();
    let same = || {
        let missing = intact.render_changes(&Snapshot::take(&world.net.node));
        // Handles of rules and indices of links may be new; what they say may not.
        if relevant(&missing) { Err(missing) } else { Ok(()) }
    };
    wait_for(within, &format!("{lines:?} to be repaired"), same);
    println!("{lines:?}: repaired after {} ms", start.elapsed().as_millis());
    world.served(&service, &world.ready(1..=2)).unwrap_or_else(|why| panic!("after {lines:?}: {why}"));
    for client in world.clients() {
        ask_all(&client, &service);
    }
}

/// Whether a difference is more than new handles, and the index and hardware address of a new link.
fn relevant(changes: &str) -> bool {
    let bare = |line: &str| {
        let line = line.split(" # handle").next().unwrap_or_default();
        let line = line.split(" link/ether").next().unwrap_or_default();
        let line = line.split_once(": kube-ipvs0").map_or(line, |(_, rest)| rest);
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    let side = |sign: &str| {
        // What the kernel derives from the hardware address.
        let derived = |line: &&str| line.contains("fe80:") || line.contains("ff00::");
        let lines = changes.lines().filter(|line| line.trim_start().starts_with(sign) && !derived(line));
        let mut lines: Vec<_> = lines.map(bare).collect();
        lines.sort();
        lines
    };
    side("- ") != side("+ ")
}

fn world(flags: &[&str]) -> World {
    let mut world = World::new(PodNetwork::Routed, 2);
    let service = web();
    world.manifests.serve(&service, &world.ready(1..=2));
    world.start(flags);
    world.wait_served(&service, &world.ready(1..=2));
    for client in world.clients() {
        ask_all(&client, &service);
    }
    world
}

#[test]
fn virtual_and_real_servers_are_repaired_within_the_sync_period() {
    let world = world(&["--ipvs-sync-period=3s"]);
    let within = Duration::from_secs(3) + SLACK;
    for lines in [
        &["ipvsadm -D -t 10.96.0.80:80"][..],
        &["ipvsadm -D -u [fd00:96::80]:80"],
        &["ipvsadm -d -t 10.96.0.80:80 -r 10.244.0.11:8080"],
        &["ipvsadm -d -t [fd00:96::80]:80 -r [fd00:244::12]:8080"],
        &["ipvsadm -e -t 10.96.0.80:80 -r 10.244.0.11:8080 -m -w 0"],
        &["ipvsadm -e -t [fd00:96::80]:80 -r [fd00:244::11]:8080 -m -w 9"],
        &["ipvsadm -a -t 10.96.0.80:80 -r 10.244.0.99:8080 -m"],
        &["ipvsadm -E -t 10.96.0.80:80 -s wlc"],
        &["ipvsadm -C"],
    ] {
        damage(&world, lines, within);
    }
}

#[test]
fn what_the_kernel_announces_is_repaired_at_once() {
    // The audit never comes: only notifications can repair.
    let world = world(&["--ipvs-sync-period=1h"]);
    for lines in [
        &["ip route delete local 10.96.0.80 table local"][..],
        &["ip route delete local fd00:96::80 table local"],
        &["nft delete table inet kube-ipvs"],
        &["nft flush table inet kube-ipvs"],
        &["ip link set kube-ipvs0 down"],
        &["ip link delete kube-ipvs0"],
        &["ip link delete kube-ipvs0", "nft delete table inet kube-ipvs"],
    ] {
        damage(&world, lines, AT_ONCE);
    }
}
