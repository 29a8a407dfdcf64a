//! Tables as large as in large clusters, and their cost.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use dataplane::{
    VipTable as _,
    contract::vips::{NODE_V4, NODE_V6, VipsWorld as _},
};
use lb_types::{RouteTable, VipOp};
use testkit::in_new_netns;

use super::{
    ensure,
    namespace::{NodeNamespace, ip},
    vip,
};

const COUNT: u32 = 20_000;

fn v4(n: u32) -> IpAddr {
    IpAddr::from((0x0a60_0000 + n).to_be_bytes())
}

fn v6(n: u32) -> IpAddr {
    IpAddr::from((0xfd00_1111_u128 << 96 | u128::from(n)).to_be_bytes())
}

/// Result of `call`, and the time that it took.
fn timed<T>(call: impl FnOnce() -> T) -> (T, Duration) {
    let start = Instant::now();
    (call(), start.elapsed())
}

pub fn twenty_thousand_routes_of_each_family(kind: &str) {
    in_new_netns(|| {
        let mut namespace = NodeNamespace::new(kind);
        namespace.apply(&[VipOp::EnsureLink]);
        let vips: BTreeSet<IpAddr> = (1..=COUNT).flat_map(|n| [v4(n), v6(n)]).collect();
        let ensures: Vec<_> = vips.iter().map(|vip| ensure(*vip)).collect();
        let deletes: Vec<_> =
            vips.iter().map(|vip| VipOp::DeleteRoute { vip: *vip, table: RouteTable::Local }).collect();

        let before = namespace.client.counters();
        let ((), added) = timed(|| namespace.apply(&ensures));
        let sends = namespace.client.counters().sends - before.sends;
        assert!(sends < 100, "{sends} system calls for {} routes", vips.len());

        let (seen, observed) = timed(|| namespace.client.observe().expect("observable"));
        assert_eq!(seen.routes.len(), vips.len());
        assert!(
            seen.routes
                .iter()
                .all(|(vip, from)| *from == Some(if vip.is_ipv4() { NODE_V4 } else { NODE_V6 }))
        );
        assert_eq!(namespace.routes().len(), vips.len(), "as others see it");

        let before = namespace.client.counters();
        namespace.apply(&[ensure(v4(COUNT + 1))]);
        assert_eq!(
            namespace.client.counters().sends - before.sends,
            2,
            "one more route: the link, the route"
        );
        namespace.apply(&[VipOp::DeleteRoute { vip: v4(COUNT + 1), table: RouteTable::Local }]);

        let ((), again) = timed(|| namespace.apply(&ensures));
        assert_eq!(namespace.client.observe().expect("observable"), seen, "nothing doubled, nothing lost");
        let ((), deleted) = timed(|| namespace.apply(&deletes));
        assert_eq!(namespace.routes(), []);
        println!(
            "{} routes: add {added:.0?} ({sends} sends), observe {observed:.0?}, add again {again:.0?}, delete {deleted:.0?}",
            vips.len()
        );
    });
}

pub fn foreign_routes_cost_nothing(kind: &str) {
    const FOREIGN: u32 = 5_000;
    in_new_netns(|| {
        let mut namespace = NodeNamespace::new(kind);
        namespace.apply(&[VipOp::EnsureLink, ensure(vip("10.96.0.1")), ensure(vip("fd00:1111::1"))]);
        let routes: String = (1..=FOREIGN)
            .flat_map(|n| [v4(0x10_0000 + n), v6(0x10_0000 + n)])
            .map(|addr| {
                format!("route add local {addr} dev lo table local proto 211\nroute add {addr} dev lo\n")
            })
            .collect();
        let dir = testkit::TempDir::new("routes");
        let file = dir.path().join("batch");
        std::fs::write(&file, routes).expect("a file");
        ip(&format!("-batch {}", file.display()));

        let before = namespace.client.counters();
        let (seen, observed) = timed(|| namespace.client.observe().expect("observable"));
        let received = namespace.client.counters().messages_received - before.messages_received;
        assert_eq!(seen.routes.len(), 2);
        assert!(received < 60, "{received} messages for 2 routes of ours among {} others", 4 * FOREIGN);
        println!("observing 2 routes among {} others: {received} messages, {observed:.0?}", 4 * FOREIGN);
    });
}
