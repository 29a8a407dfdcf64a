//! VIPs that are addresses of the link, as kube-proxy leaves them, become routes while a client connects to
//! them.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    time::Duration,
};

use dataplane::{
    VipTable as _,
    contract::vips::{NODE_V4, NODE_V6, VipsWorld as _},
};
use lb_types::{IpFamily, VipOp};
use testkit::{in_new_netns, wait_until};

use super::{
    ensure,
    namespace::{NodeNamespace, ip},
    vip,
};

const COUNT: u8 = 200;
const PATIENCE: Duration = Duration::from_secs(20);

fn vips() -> Vec<IpAddr> {
    (1..=COUNT).flat_map(|n| [vip(&format!("10.96.0.{n}")), vip(&format!("fd00:1111::{n}"))]).collect()
}

/// Numbers of connections that a client made, and of those that failed.
#[derive(Default)]
struct Tally {
    made: AtomicUsize,
    failed: AtomicUsize,
    stop: AtomicBool,
}

impl Tally {
    /// Connects to one VIP after the other until the test stops it.
    fn connect(&self, listeners: &[TcpListener; 2]) {
        for vip in vips().into_iter().cycle().take_while(|_| !self.stop.load(Ordering::Relaxed)) {
            let listener = &listeners[usize::from(vip.is_ipv6())];
            let address = SocketAddr::new(vip, listener.local_addr().expect("bound").port());
            let result = TcpStream::connect_timeout(&address, PATIENCE);
            let counter = if result.is_ok() { &self.made } else { &self.failed };
            counter.fetch_add(1, Ordering::Relaxed);
            if let Ok(_client) = result {
                let _ = listener.accept();
            }
        }
    }

    fn wait_for_more(&self) {
        let made = self.made.load(Ordering::Relaxed);
        wait_until(PATIENCE, "more connections", || self.made.load(Ordering::Relaxed) >= made + 100);
    }
}

pub fn addresses_become_routes_without_a_gap(kind: &str) {
    in_new_netns(|| {
        let mut namespace = NodeNamespace::new(kind);
        ip(&format!("link add kube-ipvs0 type {kind}"));
        ip("link set kube-ipvs0 up");
        for vip in vips() {
            namespace.add_address(vip);
        }
        let listeners = IpFamily::ALL
            .map(|family| TcpListener::bind(SocketAddr::new(family.unspecified(), 0)).expect("a free port"));
        let tally = Tally::default();
        std::thread::scope(|scope| {
            scope.spawn(|| tally.connect(&listeners));
            tally.wait_for_more();
            namespace.apply(&vips().into_iter().map(ensure).collect::<Vec<_>>());
            let unbind: Vec<_> = vips().into_iter().map(|addr| VipOp::DeleteAddress { addr }).collect();
            namespace.apply(&unbind);
            tally.wait_for_more();
            tally.stop.store(true, Ordering::Relaxed);
        });
        let seen = namespace.client.observe().expect("observable");
        assert!(seen.addresses.is_empty());
        assert_eq!(seen.routes.len(), vips().len());
        assert!(seen.routes.values().all(|source| [Some(NODE_V4), Some(NODE_V6)].contains(source)));
        let (made, failed) = (tally.made.into_inner(), tally.failed.into_inner());
        println!("{made} connections, {failed} failed while {} addresses became routes", vips().len());
        assert_eq!(failed, 0);
    });
}
