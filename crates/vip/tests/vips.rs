//! Tests of the kernel's tables on this machine, whose kernel may have no dummy links: a link of type ifb
//! stands in.

mod common;

use dataplane::VipTable as _;
use lb_types::VipOp;
use vip::VipClient;

const STAND_IN: &str = "ifb";

/// Tells whether this machine lets the tests run, and prints the reason if not.
fn possible() -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return false;
    }
    let made =
        testkit::in_new_netns(|| testkit::try_run(&["ip", "link", "add", "x0", "type", STAND_IN]).is_ok());
    if !made {
        eprintln!("skipped: this kernel has no links of type {STAND_IN}");
    }
    made
}

/// Defines one test for each demand.
macro_rules! demands {
    ($($demand:ident),+ $(,)?) => {
        $(#[test] fn $demand() { if possible() { common::$demand(STAND_IN); } })+
    };
}

#[test]
fn a_kernel_without_dummy_links_says_so() {
    if !possible() {
        return;
    }
    let report = testkit::in_new_netns(|| {
        VipClient::open()
            .expect("a socket")
            .apply(&[VipOp::EnsureLink])
            .expect("the call as a whole succeeds")
    });
    match report.failed.first() {
        None => eprintln!("skipped: this kernel has dummy links"),
        Some(failed) => {
            assert_eq!(failed.errno, libc::EOPNOTSUPP);
            assert!(failed.reason.contains("modprobe dummy"), "{}", failed.reason);
        }
    }
}

demands!(
    contract,
    the_link_is_quiet,
    addresses_become_routes_without_a_gap,
    twenty_thousand_routes_of_each_family,
    foreign_routes_cost_nothing,
    connections_of_the_node_start_at_its_address,
    outside_clients_reach_a_vip,
    own_changes_are_not_reported,
    others_changes_are_reported,
    a_storm_is_survived,
    a_busy_node_ends_no_watcher,
);
