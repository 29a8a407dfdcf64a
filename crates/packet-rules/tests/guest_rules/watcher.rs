//! Who touches our table is noticed, except ourselves.

use std::time::{Duration, Instant};

use dataplane::{RulesTable as _, Touched};
use lb_types::{Protocol, RuleElement, RuleSet, RulesLayout, RulesOp};
use packet_rules::{RulesClient, RulesWatcher};
use testkit::in_new_netns;

use crate::support::{add, apply, client, in_set, install, nft, nft_script, vip};

/// Long enough for anything, as nothing waits that long.
const SOON: Duration = Duration::from_secs(20);
/// Long enough to see something that should not come: notifications are queued before `nft` exits.
const NEVER: Duration = Duration::from_millis(100);

fn watched() -> (RulesClient, RulesWatcher) {
    let mut client = client();
    install(&mut client, &RulesLayout::default());
    let watcher = client.watch().expect("open the watcher");
    (client, watcher)
}

#[track_caller]
fn assert_silent(watcher: &mut RulesWatcher) {
    assert_eq!(watcher.wait(NEVER).expect("wait"), None);
}

#[track_caller]
fn assert_told_once(watcher: &mut RulesWatcher) {
    assert_eq!(watcher.wait(SOON).expect("wait"), Some(Touched::Rules));
    assert_silent(watcher);
}

#[test]
fn others_are_noticed() {
    in_new_netns(|| {
        let (mut client, mut watcher) = watched();
        add(&mut client, &[vip("10.96.0.1")]);
        for change in [
            "delete element inet kube-ipvs vips-v4 { 10.96.0.1 }",
            "add element inet kube-ipvs vips-v4 { 10.96.0.7 }",
            "add rule inet kube-ipvs refuse drop",
            "flush chain inet kube-ipvs input",
            "add chain inet kube-ipvs mine",
            "add set inet kube-ipvs mine { type mark ; }",
            "delete table inet kube-ipvs",
            "add table inet kube-ipvs",
            "flush ruleset",
        ] {
            nft(change);
            assert_told_once(&mut watcher);
        }
    });
}

#[test]
fn another_client_of_ours_counts_as_another() {
    in_new_netns(|| {
        let (_, mut watcher) = watched();
        add(&mut client(), &[vip("10.96.0.1")]);
        assert_told_once(&mut watcher);
    });
}

#[test]
fn foreign_tables_are_no_news() {
    in_new_netns(|| {
        let (_, mut watcher) = watched();
        nft_script(
            "table ip kube-ipvs { set vips-v4 { type ipv4_addr; }; chain input { }; }
             table inet kube-ipvs-2 { chain input { drop; }; }",
        );
        nft("add element ip kube-ipvs vips-v4 { 10.96.0.1 }");
        nft("delete table ip kube-ipvs");
        assert_silent(&mut watcher);
    });
}

#[test]
fn our_own_changes_are_no_news_however_many() {
    in_new_netns(|| {
        let (mut client, mut watcher) = watched();
        let elements: Vec<RuleElement> =
            (1..=60_000).map(|port| in_set(RuleSet::Services, "10.96.0.1", Protocol::Tcp, port)).collect();
        let start = Instant::now();
        add(&mut client, &elements);
        println!("60,000 elements under a watcher's eyes: {} ms", start.elapsed().as_millis());
        install(&mut client, &crate::support::by_cidr());
        apply(&mut client, &[RulesOp::DeleteTable]);
        assert_silent(&mut watcher);
        let before = client.observe(&RulesLayout::default()).expect("dump the table");
        assert!(!before.table);
    });
}

#[test]
fn an_overrun_is_told() {
    in_new_netns(|| {
        let (_, mut watcher) = watched();
        let mut other = client();
        let elements: Vec<RuleElement> =
            (1..=60_000).map(|port| in_set(RuleSet::Services, "10.96.0.1", Protocol::Tcp, port)).collect();
        add(&mut other, &elements);
        assert_eq!(watcher.wait(SOON).expect("wait"), Some(Touched::Rules));
    });
}

#[test]
fn waiting_ends_in_time() {
    in_new_netns(|| {
        let (_, mut watcher) = watched();
        let start = Instant::now();
        assert_eq!(watcher.wait(Duration::from_millis(50)).expect("wait"), None);
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(50) && took < SOON, "{took:?}");
    });
}

/// Enough that the kernel does not tell the watcher of them.
fn many(first: u32) -> Vec<RuleElement> {
    (first..first + 5_000).map(|n| RuleElement::Vip(std::net::Ipv4Addr::from(n).into())).collect()
}

#[test]
fn after_a_large_transaction_of_ours_others_are_noticed_again() {
    in_new_netns(|| {
        let (mut client, mut watcher) = watched();
        add(&mut client, &many(0x0a60_0000));
        assert_silent(&mut watcher);
        nft("add element inet kube-ipvs vips-v4 { 192.0.2.1 }");
        assert_told_once(&mut watcher);
    });
}

#[test]
fn a_change_during_a_large_transaction_of_ours_is_noticed() {
    in_new_netns(|| {
        let (mut client, mut watcher) = watched();
        for round in 0..5_u32 {
            // Either the watcher hears it, or the generation of the ruleset gives it away.
            std::thread::scope(|scope| {
                let other = format!("add element inet kube-ipvs vips-v4 {{ 192.0.2.{} }}", round + 1);
                scope.spawn(move || nft(&other));
                add(&mut client, &many(0x0a60_0000 + round * 5_000));
            });
            assert_eq!(watcher.wait(SOON).expect("wait"), Some(Touched::Rules), "round {round}");
        }
    });
}
