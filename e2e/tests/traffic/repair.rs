//! Damage by others to our objects: repaired within the sync period, at once where the kernel announces it.

use std::time::{Duration, Instant};

use e2e::{net::PodNetwork, observe::Snapshot};
use testkit::wait_for;

use crate::{
    reach::{Gets, check, wait},
    testbed::{BALANCER, EXTERNAL, Testbed, WAIT_LIMIT, ask_all, web},
};

/// Time for the repair itself, and for our looking, in a slow guest.
const REPAIR_TIMEOUT: Duration = Duration::from_secs(6);

/// Time for the repair of what the kernel announces: a second, and our own looking in a slow guest.
const REPAIRED_WITHIN: Duration = Duration::from_secs(2);

/// Damage, and the sign that it is undone: a command and a part of its output.
struct Damage<'a> {
    lines: &'a [&'static str],
    look: &'static str,
    repaired: &'static str,
}

/// Does the damage, waits for its effect, then for everything to be as before.
fn damage(testbed: &Testbed, damage: &Damage<'_>, within: Duration) {
    let node = &testbed.net.node;
    let intact = Snapshot::take(node);
    for line in damage.lines {
        node.sh(line);
    }
    let start = Instant::now();
    let what = format!("{:?} to be repaired", damage.lines);
    wait_for(within, &what, || {
        // The listing fails if the table is missing altogether.
        let seen =
            node.try_run(&damage.look.split(' ').collect::<Vec<_>>()).map_err(|error| error.to_string())?;
        if seen.contains(damage.repaired) { Ok(()) } else { Err(seen) }
    });
    println!("{:?}: repaired within {} ms", damage.lines, start.elapsed().as_millis());
    wait_for(WAIT_LIMIT, &what, || {
        let missing = intact.render_changes(&Snapshot::take(node));
        if relevant(&missing) { Err(missing) } else { Ok(()) }
    });
    for client in testbed.clients() {
        ask_all(&client, &web());
    }
}

/// Tells whether a difference is more than new handles, the index and hardware address of a new link, and the
/// elements that packets have left in the set of endpoints, which fills by itself.
fn relevant(changes: &str) -> bool {
    let bare = |line: &str| {
        let line = line.split(" # handle").next().unwrap_or_default();
        let line = line.split(" link/ether").next().unwrap_or_default();
        let line = line.split_once(": kube-ipvs0").map_or(line, |(_, rest)| rest);
        line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
    };
    let side = |sign: &str| {
        // The kernel derives these from the hardware address.
        let derived = |line: &&str| line.contains("fe80:") || line.contains("ff00::");
        // These have four parts: an endpoint and, once more, its address.
        let remembered = |line: &&str| line.split(',').any(|element| element.matches(" . ").count() == 3);
        let lines = changes.lines().filter(|line| line.trim_start().starts_with(sign));
        let lines = lines.filter(|line| !derived(line) && !remembered(line));
        let mut lines: Vec<_> = lines.map(bare).collect();
        lines.sort();
        lines
    };
    side("- ") != side("+ ")
}

fn testbed(flags: &[&str]) -> Testbed {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    let service = web();
    testbed.manifests.serve(&service, &testbed.ready(1..=2));
    testbed.start(flags);
    testbed.wait_served(&service, &testbed.ready(1..=2));
    for client in testbed.clients() {
        ask_all(&client, &service);
    }
    testbed
}

#[test]
fn virtual_and_real_servers_are_repaired_within_the_sync_period() {
    let testbed = testbed(&["--ipvs-sync-period=1s"]);
    let within = Duration::from_secs(1) + REPAIR_TIMEOUT;
    let server = |lines, repaired| Damage { lines, look: "ipvsadm -Sn", repaired };
    for case in [
        server(&["ipvsadm -D -t 10.96.0.80:80"], "-a -t 10.96.0.80:80 -r 10.244.0.12:8080 -m -w 1"),
        server(&["ipvsadm -D -u [fd00:96::80]:80"], "-a -u [fd00:96::80]:80 -r [fd00:244::12]:8080 -m -w 1"),
        server(
            &["ipvsadm -d -t 10.96.0.80:80 -r 10.244.0.11:8080"],
            "-a -t 10.96.0.80:80 -r 10.244.0.11:8080 -m -w 1",
        ),
        server(
            &["ipvsadm -e -t 10.96.0.80:80 -r 10.244.0.11:8080 -m -w 0"],
            "-a -t 10.96.0.80:80 -r 10.244.0.11:8080 -m -w 1",
        ),
        server(
            &["ipvsadm -e -t [fd00:96::80]:80 -r [fd00:244::11]:8080 -m -w 9"],
            "-a -t [fd00:96::80]:80 -r [fd00:244::11]:8080 -m -w 1",
        ),
        server(&["ipvsadm -E -t 10.96.0.80:80 -s wlc"], "-A -t 10.96.0.80:80 -s rr"),
        server(&["ipvsadm -C"], "-a -t [fd00:96::80]:80 -r [fd00:244::12]:8080 -m -w 1"),
        // This adds a foreign real server to our virtual server: only the comparison of everything shows that
        // it goes.
        server(&["ipvsadm -a -t 10.96.0.80:80 -r 10.244.0.99:8080 -m"], "-A -t 10.96.0.80:80"),
    ] {
        damage(&testbed, &case, within);
    }
}

/// Conformance: e2e/networking should recreate its iptables rules if they are deleted
#[test]
fn what_the_kernel_announces_is_repaired_at_once() {
    // The audit never comes: only notifications can repair.
    let testbed = testbed(&["--ipvs-sync-period=1h"]);
    let v4 = "ip -4 route show table local";
    let table = "nft list table inet kube-ipvs";
    for case in [
        Damage {
            lines: &["ip route delete local 10.96.0.80 table local"],
            look: v4,
            repaired: "local 10.96.0.80 ",
        },
        Damage {
            lines: &["ip route delete local fd00:96::80 table local"],
            look: "ip -6 route show table local",
            repaired: "local fd00:96::80 ",
        },
        Damage { lines: &["nft delete table inet kube-ipvs"], look: table, repaired: "masquerade" },
        Damage { lines: &["nft flush table inet kube-ipvs"], look: table, repaired: "masquerade" },
        Damage { lines: &["ip link set kube-ipvs0 down"], look: v4, repaired: "local 10.96.0.80 " },
        Damage { lines: &["ip link delete kube-ipvs0"], look: v4, repaired: "local 10.96.0.80 " },
        Damage {
            lines: &["ip link delete kube-ipvs0", "nft delete table inet kube-ipvs"],
            look: table,
            repaired: "masquerade",
        },
    ] {
        damage(&testbed, &case, REPAIRED_WITHIN);
    }
}

/// The rule and the table that steer packets, and addresses that somebody looks after who takes them for his own.
#[test]
fn bindings_are_repaired_at_once() {
    let mut testbed = Testbed::new(PodNetwork::Routed, 2);
    for addresses in [EXTERNAL, BALANCER] {
        testbed.net.route_to_node(addresses);
    }
    let service = web().with_external_ips(EXTERNAL, "Cluster").with_balancer(BALANCER, "Cluster", &[]);
    testbed.manifests.serve(&service, &testbed.ready(1..=1));
    testbed.start(&["--ipvs-sync-period=1h", "--load-balancer-ip-binding=address"]);
    testbed.wait_served(&service, &testbed.ready(1..=1));
    let everywhere = [EXTERNAL, BALANCER].map(|addresses| addresses.port(80));
    for at in everywhere {
        wait(&testbed, at, Gets::Node);
    }
    let addresses = "ip addr show dev kube-ipvs0";
    for (line, look, repaired) in [
        ("ip -4 rule del fwmark 0x1000/0x1000 lookup 177", "ip -4 rule", "fwmark 0x1000/0x1000 lookup 177"),
        ("ip -6 rule del fwmark 0x1000/0x1000 lookup 177", "ip -6 rule", "fwmark 0x1000/0x1000 lookup 177"),
        (
            "ip -4 route flush table 177",
            "ip -4 route show table all",
            "local 192.0.2.80 dev kube-ipvs0 table 177",
        ),
        (
            "ip -6 route flush table 177",
            "ip -6 route show table all",
            "local 2001:db8::80 dev kube-ipvs0 table 177",
        ),
        ("ip addr del 192.0.2.90/32 dev kube-ipvs0", addresses, " 192.0.2.90/32 "),
        ("ip addr del 2001:db8::90/128 dev kube-ipvs0", addresses, " 2001:db8::90/128 "),
    ] {
        let before = testbed.net.node.sh(look);
        assert!(before.contains(repaired), "{repaired}: {before}");
        damage(&testbed, &Damage { lines: &[line], look, repaired }, REPAIRED_WITHIN);
        for at in everywhere {
            check(&testbed, at, [Gets::Node, Gets::Own, Gets::Node, Gets::Node]);
        }
    }
}
