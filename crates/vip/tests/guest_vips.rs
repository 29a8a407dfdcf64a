//! Tests of the kernel's tables with dummy links, in the guest.

mod common;

/// Defines one test for each demand.
macro_rules! demands {
    ($($demand:ident),+ $(,)?) => {
        $(#[test] fn $demand() { common::$demand("dummy"); })+
    };
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
