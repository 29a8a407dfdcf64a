//! Reports of the watcher, and its silence.

use std::{
    fmt::Write as _,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use dataplane::{Touched, VipTable as _, contract::vips::VipsWorld as _};
use lb_types::{RouteTable, VipOp};
use testkit::in_new_netns;
use vip::VipWatcher;

use super::{
    ensure,
    namespace::{NodeNamespace, ip},
    vip,
};

/// Time within which a report must come.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time that is long enough for a notification that waits already.
const SILENCE_TIME: Duration = Duration::from_millis(300);

#[track_caller]
fn assert_silent(watcher: &mut VipWatcher, what: &str) {
    assert_eq!(watcher.wait(SILENCE_TIME).expect("readable"), None, "reported without need: {what}");
}

#[track_caller]
fn assert_reported(watcher: &mut VipWatcher, what: &str) {
    assert_eq!(watcher.wait(REPORT_TIMEOUT).expect("readable"), Some(Touched::Vips), "not reported: {what}");
    // On a slow machine the rest of a change may come late.
    for _ in 0..3 {
        if watcher.wait(SILENCE_TIME).expect("readable").is_none() {
            return;
        }
    }
    panic!("reported without end: {what}");
}

fn vips() -> [std::net::IpAddr; 2] {
    [vip("10.96.0.1"), vip("fd00:1111::1")]
}

pub fn own_changes_are_not_reported(kind: &str) {
    in_new_netns(|| {
        let mut namespace = NodeNamespace::new(kind);
        let mut watcher = VipWatcher::open(namespace.client.port_id()).expect("a subscription");
        namespace.apply(&[VipOp::EnsureLink]);
        assert_silent(&mut watcher, "our link made");
        namespace.apply(&vips().map(ensure));
        namespace.add_node_address(vip("192.0.2.2"));
        assert_reported(&mut watcher, "a node address");
        namespace.apply(&[VipOp::EnsureRoute {
            vip: vips()[0],
            table: RouteTable::Local,
            source: Some(vip("192.0.2.2")),
        }]);
        namespace.apply(&[VipOp::EnsureRoute { vip: vips()[1], table: RouteTable::Local, source: None }]);
        namespace.apply(&vips().map(|vip| VipOp::DeleteRoute { vip, table: RouteTable::Local }));
        assert_silent(&mut watcher, "our routes made, replaced and deleted");
        let many: Vec<_> =
            (0..=255).flat_map(|a| (0..20).map(move |b| ensure([10, 97, b, a].into()))).collect();
        namespace.apply(&many);
        assert_silent(&mut watcher, "thousands of routes made");
        ip("route add local 10.98.0.1 dev lo table local proto 211");
        ip("route replace 10.98.0.0/16 dev lo proto 211");
        ip("route del local 10.98.0.1 dev lo table local");
        ip("link add other0 type veth peer name other1");
        ip("link del other0");
        assert_silent(&mut watcher, "routes and links of others");
    });
}

pub fn others_changes_are_reported(kind: &str) {
    in_new_netns(|| {
        let mut namespace = NodeNamespace::new(kind);
        namespace.apply(&[VipOp::EnsureLink]);
        let mut watcher = VipWatcher::open(namespace.client.port_id()).expect("a subscription");
        namespace.apply(&vips().map(ensure));
        assert_silent(&mut watcher, "our routes made");
        for vip in vips() {
            namespace.delete_route(vip);
            assert_reported(&mut watcher, "a route deleted");
        }
        namespace.apply(&vips().map(ensure));
        ip("route replace local 10.96.0.1 dev lo table local proto 211");
        assert!(!namespace.client.observe().expect("observable").routes.contains_key(&vips()[0]));
        assert_reported(&mut watcher, "a route replaced");
        ip("route del local 10.96.0.1 dev lo table local");
        namespace.add_address(vip("10.96.0.9"));
        assert_reported(&mut watcher, "an address on our link");
        namespace.apply(&[VipOp::DeleteAddress { addr: vip("10.96.0.9") }]);
        assert_silent(&mut watcher, "an address deleted by us");
        for addr in [vip("192.0.2.2"), vip("fd00:ff::2")] {
            namespace.add_node_address(addr);
            assert_reported(&mut watcher, "a node address made");
            namespace.remove_node_address(addr);
            assert_reported(&mut watcher, "a node address removed");
        }
        namespace.set_link_down();
        assert_reported(&mut watcher, "our link down");
        namespace.apply(&[VipOp::EnsureLink]);
        assert_silent(&mut watcher, "our link up again");
        namespace.delete_link();
        assert_reported(&mut watcher, "our link deleted");
    });
}

pub fn a_storm_is_survived(kind: &str) {
    in_new_netns(|| {
        let mut namespace = NodeNamespace::new(kind);
        namespace.apply(&[VipOp::EnsureLink]);
        let mut watcher = VipWatcher::open(namespace.client.port_id()).expect("a subscription");
        let many: Vec<_> =
            (1..=20_000u128).map(|n| ensure((0xfd00_1111_u128 << 96 | n).to_be_bytes().into())).collect();
        namespace.apply(&many);
        assert_silent(&mut watcher, "our routes made");
        // The kernel sends one notification for each, more than any buffer holds.
        namespace.set_link_down();
        while watcher.wait(SILENCE_TIME).expect("readable").is_some() {}
        namespace.apply(&[VipOp::EnsureLink, ensure(vips()[1])]);
        assert_silent(&mut watcher, "our link up, a route made");
        namespace.delete_route(vips()[1]);
        assert_reported(&mut watcher, "a route deleted");
        namespace.delete_link();
        assert_reported(&mut watcher, "our link deleted");
    });
}

/// Number of addresses whose dump takes several datagrams: only such a dump can be interrupted.
const MANY_ADDRESSES: u32 = 3000;
/// Time for which others change addresses as fast as they can.
const BUSY_TIME: Duration = Duration::from_secs(2);

pub fn a_busy_node_ends_no_watcher(kind: &str) {
    in_new_netns(|| {
        let mut namespace = NodeNamespace::new(kind);
        namespace.apply(&[VipOp::EnsureLink]);
        namespace.apply(&vips().map(ensure));
        let directory = testkit::TempDir::new("busy-node");
        let addresses = |from: u32| (from..).map(|n| std::net::Ipv4Addr::from(0x0a64_0000 + n));
        let mut lines = String::new();
        for addr in addresses(0).take(MANY_ADDRESSES as usize) {
            writeln!(lines, "addr add {addr}/32 dev lo").expect("text");
        }
        ip_batch(&directory, &lines).wait().expect("an end");
        lines.clear();
        for addr in addresses(MANY_ADDRESSES).take(40_000) {
            writeln!(lines, "addr add {addr}/32 dev lo\naddr del {addr}/32 dev lo").expect("text");
        }
        let mut churn = ip_batch(&directory, &lines);
        let open = || VipWatcher::open(namespace.client.port_id()).expect("a watcher on a busy node");
        let mut watchers: Vec<_> = (0..20).map(|_| open()).collect();
        let mut watcher = watchers.pop().expect("twenty");
        let end = Instant::now() + BUSY_TIME;
        while Instant::now() < end && churn.try_wait().expect("a child").is_none() {
            watcher.wait(SILENCE_TIME).expect("a watcher that goes on");
        }
        let _ended = churn.kill();
        churn.wait().expect("an end");
        // It sees as well as a watcher that was opened now.
        while watcher.wait(REPORT_TIMEOUT).expect("readable").is_some() {}
        namespace.apply(&[VipOp::EnsureLink]);
        assert_silent(&mut watcher, "nothing");
        namespace.set_link_down();
        assert_reported(&mut watcher, "our link down");
    });
}

/// Runs `ip` with one command a line.
fn ip_batch(directory: &testkit::TempDir, lines: &str) -> Child {
    let path = directory.path().join("batch");
    std::fs::write(&path, lines).expect("a file");
    let mut command = Command::new("ip");
    command.args(["-force", "-batch"]).arg(path).stderr(Stdio::null());
    command.spawn().expect("ip")
}
