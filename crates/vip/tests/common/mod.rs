//! All demands on the kernel's tables, over dummy links in the guest and over a stand-in elsewhere.

mod bulk;
mod link;
mod namespace;
mod takeover;
mod traffic;
mod watcher;

pub use bulk::{foreign_routes_cost_nothing, twenty_thousand_routes_of_each_family};
pub use link::the_link_is_quiet;
pub use takeover::addresses_become_routes_without_a_gap;
pub use traffic::{connections_of_the_node_start_at_its_address, outside_clients_reach_a_vip};
pub use watcher::{
    a_busy_node_ends_no_watcher, a_storm_is_survived, others_changes_are_reported,
    own_changes_are_not_reported,
};

use dataplane::contract::vips::{CASES, NODE_V4, NODE_V6};
use lb_types::{RouteTable, VipOp};
use namespace::NodeNamespace;
use std::net::IpAddr;

/// Runs the contract suite, every case in a network namespace of its own.
pub fn contract(kind: &str) {
    let mut violated = Vec::new();
    for case in CASES {
        let run = || testkit::in_new_netns(|| (case.run)(&mut NodeNamespace::new(kind)));
        match std::panic::catch_unwind(run) {
            Ok(()) => eprintln!("  ok: {}", case.name),
            Err(_) => violated.push(case.name),
        }
    }
    assert!(violated.is_empty(), "violated: {violated:#?}");
}

/// Operation that binds a VIP with the node's address of its family as source.
fn ensure(vip: IpAddr) -> VipOp {
    let source = Some(if vip.is_ipv4() { NODE_V4 } else { NODE_V6 });
    VipOp::EnsureRoute { vip, table: RouteTable::Local, source }
}

fn vip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}
