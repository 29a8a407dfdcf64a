//! Others in the ruleset: what is theirs stays, what they do to ours is found and put right.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use dataplane::RulesTable as _;
use lb_types::{FastSet, Protocol, RuleSet, RulesLayout, RulesOp};
use packet_rules::RulesClient;
use testkit::{NetNs, in_new_netns};

use crate::support::{
    add, apply, assert_reads_like, by_cidr, client, in_set, install, is_current, nft, nft_script, vip,
};

const FOREIGN: &str = "
table inet filter {
	set vips-v4 { type ipv4_addr; elements = { 192.0.2.1 } }
	chain input { type filter hook input priority 0; policy drop; ip saddr @vips-v4 accept; }
}
table ip kube-ipvs {
	chain postrouting { type nat hook postrouting priority 100; oifname \"eth0\" masquerade; }
}
table inet kube-ipvs-2 { chain refuse { reject; }; }
";

#[test]
fn foreign_tables_are_not_touched() {
    in_new_netns(|| {
        nft_script(FOREIGN);
        let before = nft("-a -j list ruleset");
        let mut client = client();
        install(&mut client, &by_cidr());
        add(&mut client, &[vip("10.96.0.1")]);
        install(&mut client, &RulesLayout::default());
        apply(&mut client, &[RulesOp::DeleteElement(vip("10.96.0.1")), RulesOp::DeleteTable]);
        assert_eq!(nft("-a -j list ruleset"), before);
    });
}

/// Leftovers of an older version: other chains, other rules, a set that has become one of another type, jumps
/// all over the place, a verdict map.
const OLDER: &str = "
table inet kube-ipvs {
	set vips-v4 { type ipv4_addr; elements = { 10.96.0.1, 10.96.0.2 } }
	set services-v4 { type ipv4_addr . inet_service; elements = { 10.96.0.1 . 80 } }
	set hairpin-v4 { type ipv4_addr . inet_proto . inet_service . ipv4_addr; elements = { 10.0.0.1 . tcp . 80 . 10.0.0.1 } }
	set endpoints-v6 { type ipv6_addr; flags interval; elements = { fd00::/64 } }
	set no-endpoints-v4 { type ipv4_addr . inet_proto . inet_service; size 10; }
	set gone { type mark; elements = { 0x00000001 } }
	map verdicts { type mark : verdict; elements = { 0x00000001 : jump old-target } }
	chain old-target { ip daddr @vips-v4 meta mark @gone accept; }
	chain refuse { ip daddr 10.0.0.1 jump old-target; ip daddr { 10.0.0.2, 10.0.0.3 } drop; }
	chain input { type filter hook input priority 0; policy drop; ip daddr @vips-v4 goto refuse; }
	chain output { type filter hook output priority -110; policy drop; meta mark vmap @verdicts; }
	chain postrouting { type filter hook postrouting priority 100; ip daddr . meta l4proto . th dport . ip saddr @hairpin-v4 accept; }
	chain prerouting { type filter hook prerouting priority -150; ip daddr . th dport @services-v4 jump refuse; }
}
";

#[test]
fn an_older_layout_is_replaced_in_one_transaction() {
    in_new_netns(|| {
        nft_script(OLDER);
        nft("add element inet kube-ipvs vips-v4 { 10.96.0.3 }");
        let mut client = client();
        assert!(!is_current(&mut client, &by_cidr()));
        let service = in_set(RuleSet::Services, "10.96.0.1", Protocol::Tcp, 80);
        apply(&mut client, &[RulesOp::InstallLayout(by_cidr()), RulesOp::AddElement(service)]);
        let seen = client.observe(&by_cidr()).expect("dump the table");
        assert!(seen.layout_current, "{}", nft("list ruleset"));
        let kept = [vip("10.96.0.1"), vip("10.96.0.2"), vip("10.96.0.3")];
        assert_eq!(seen.elements, kept.into_iter().chain([service]).collect());
        apply(&mut client, &seen.elements.into_iter().map(RulesOp::DeleteElement).collect::<Vec<_>>());
        assert_reads_like(&by_cidr());
    });
}

#[test]
fn half_a_table_is_completed() {
    in_new_netns(|| {
        nft_script("table inet kube-ipvs { set vips-v6 { type ipv6_addr; }; chain refuse { }; }");
        nft("add element inet kube-ipvs vips-v6 { fd00::1 }");
        let mut client = client();
        install(&mut client, &by_cidr());
        let seen = client.observe(&by_cidr()).expect("dump the table");
        assert!(seen.layout_current && seen.elements == FastSet::from_iter([vip("fd00::1")]));
    });
}

#[test]
fn every_change_of_the_chains_is_seen_and_mended() {
    let changes = [
        "flush chain inet kube-ipvs input",
        "flush table inet kube-ipvs",
        "add rule inet kube-ipvs refuse drop",
        "insert rule inet kube-ipvs input accept",
        "add chain inet kube-ipvs output { policy drop ; }",
        "add chain inet kube-ipvs mine",
        "add set inet kube-ipvs mine { type mark ; }",
        "add table inet kube-ipvs { flags dormant ; }",
    ];
    in_new_netns(|| {
        let mut client = client();
        for change in changes {
            install(&mut client, &by_cidr());
            add(&mut client, &[vip("10.96.0.1")]);
            assert!(is_current(&mut client, &by_cidr()), "before: {change}");
            nft(change);
            assert!(!is_current(&mut client, &by_cidr()), "not noticed: {change}");
            install(&mut client, &by_cidr());
            let seen = client.observe(&by_cidr()).expect("dump the table");
            assert!(seen.layout_current, "not mended: {change}");
            assert_eq!(seen.elements, FastSet::from_iter([vip("10.96.0.1")]), "{change}");
        }
    });
}

#[test]
fn a_replaced_rule_is_seen() {
    in_new_netns(|| {
        let mut client = client();
        install(&mut client, &by_cidr());
        let listing = nft("-a list chain inet kube-ipvs refuse");
        let rule = listing.lines().find(|line| line.contains("tcp reset")).expect("the rule is listed");
        let handle = rule.rsplit(' ').next().expect("the line has words");
        nft(&format!("replace rule inet kube-ipvs refuse handle {handle} meta l4proto tcp drop"));
        assert!(!is_current(&mut client, &by_cidr()));
        nft(&format!("delete rule inet kube-ipvs refuse handle {handle}"));
        assert!(!is_current(&mut client, &by_cidr()));
        install(&mut client, &by_cidr());
        assert!(is_current(&mut client, &by_cidr()));
    });
}

/// Others change their own tables all the time on some hosts: that must neither fail our writes nor our dumps.
#[test]
fn busy_neighbours_do_not_disturb() {
    let netns = NetNs::create();
    let stop = AtomicBool::new(false);
    let (changes, looks) = (AtomicU32::new(0), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let neighbour = |name: &'static str| {
            let (netns, stop, changes) = (&netns, &stop, &changes);
            move || {
                netns.enter(|| {
                    while !stop.load(Ordering::Relaxed) {
                        nft_script(&format!("add table ip {name}; add chain ip {name} c; flush table ip {name}; delete table ip {name}"));
                        changes.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        };
        scope.spawn(neighbour("one"));
        let work = scope.spawn(|| {
            netns.enter(|| {
                let mut client = client();
                let elements: Vec<_> = (1..=2000_u16)
                    .map(|port| in_set(RuleSet::Services, "10.96.0.1", Protocol::Tcp, port))
                    .collect();
                while changes.load(Ordering::Relaxed) < 50 || looks.load(Ordering::Relaxed) < 20 {
                    one_round(&mut client, &elements);
                    looks.fetch_add(1, Ordering::Relaxed);
                }
            });
        });
        let result = work.join();
        stop.store(true, Ordering::Relaxed);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
}

fn one_round(client: &mut RulesClient, elements: &[lb_types::RuleElement]) {
    for layout in [by_cidr(), RulesLayout::default()] {
        let mut ops = vec![RulesOp::InstallLayout(layout.clone())];
        ops.extend(elements.iter().copied().map(RulesOp::AddElement));
        apply(client, &ops);
        let seen = client.observe(&layout).expect("dump the table");
        assert!(seen.layout_current && seen.elements.len() == elements.len());
    }
}
