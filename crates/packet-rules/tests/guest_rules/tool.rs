//! The nft tool shows what we mean.

use dataplane::RulesTable as _;
use lb_types::{FastSet, LocalDetection, Protocol, RuleSet, RulesLayout, RulesOp};
use testkit::in_new_netns;

use crate::support::{
    add, apply, assert_reads_like, by_cidr, by_interface, client, in_set, install, nft, vip,
};

#[test]
fn the_kernels_rules_read_like_ours() {
    let interface = by_interface(&LocalDetection::BridgeInterface("cbr0".to_owned()));
    let prefix = by_interface(&LocalDetection::InterfaceNamePrefix("veth".to_owned()));
    let links = ["eth0", "br-1"].map(str::to_owned).to_vec();
    let on_networks = RulesLayout { arp: Some(links), ..RulesLayout::default() };
    for layout in [RulesLayout::default(), by_cidr(), interface, prefix, on_networks] {
        in_new_netns(|| {
            install(&mut client(), &layout);
            assert_reads_like(&layout);
        });
    }
}

#[test]
fn asking_for_tables_of_family_arp_makes_none() {
    in_new_netns(|| {
        let ruleset = || nft("list ruleset");
        let before = ruleset();
        assert!(client().has_arp().expect("the kernel answers"));
        assert_eq!(ruleset(), before);
    });
}

#[test]
fn elements_read_well() {
    in_new_netns(|| {
        let mut client = client();
        install(&mut client, &RulesLayout::default());
        let elements = [
            vip("10.96.0.10"),
            vip("fd00:96::10"),
            in_set(RuleSet::Services, "10.96.0.10", Protocol::Udp, 53),
            in_set(RuleSet::NoEndpoints, "fd00:96::11", Protocol::Tcp, 8443),
            in_set(RuleSet::Masquerade, "10.96.0.12", Protocol::Sctp, 3868),
        ];
        add(&mut client, &elements);
        let seen = nft("list ruleset");
        for expected in [
            "elements = { 10.96.0.10 }",
            "elements = { fd00:96::10 }",
            "elements = { 10.96.0.10 . udp . 53 }",
            "elements = { fd00:96::11 . tcp . 8443 }",
            "elements = { 10.96.0.12 . sctp . 3868 }",
        ] {
            assert!(seen.contains(expected), "{expected} is not in\n{seen}");
        }
    });
}

#[test]
fn the_tool_reads_and_writes_our_elements() {
    in_new_netns(|| {
        let mut client = client();
        install(&mut client, &RulesLayout::default());
        add(&mut client, &[vip("10.96.0.1"), vip("10.96.0.2")]);
        nft("delete element inet kube-ipvs vips-v4 { 10.96.0.1 }");
        nft("add element inet kube-ipvs services-v6 { fd00:96::1 . sctp . 80 }");
        // What our vocabulary cannot express.
        nft("add element inet kube-ipvs services-v4 { 10.96.0.1 . icmp . 0 }");
        // What packets write is none of ours.
        nft("add element inet kube-ipvs endpoints-v4 { 10.244.0.1 . tcp . 80 . 10.244.0.1 }");
        let seen = client.observe(&RulesLayout::default()).expect("dump the table");
        let expected = [vip("10.96.0.2"), in_set(RuleSet::Services, "fd00:96::1", Protocol::Sctp, 80)];
        assert_eq!(seen.elements, FastSet::from_iter(expected));
        assert!(seen.layout_current);
    });
}

#[test]
fn installing_again_writes_nothing() {
    in_new_netns(|| {
        let mut client = client();
        install(&mut client, &by_cidr());
        add(&mut client, &[vip("10.96.0.1")]);
        // Handles and all: a rule written anew has another one.
        let before = nft("-a -j list ruleset");
        let mut watcher = packet_rules::RulesWatcher::open(0).expect("open the watcher");
        install(&mut client, &by_cidr());
        let seen = watcher.wait(std::time::Duration::from_millis(100)).expect("wait");
        assert_eq!(seen, None, "something was written");
        assert_eq!(nft("-a -j list ruleset"), before);
    });
}

#[test]
fn a_failed_transaction_leaves_nothing() {
    in_new_netns(|| {
        let mut client = client();
        install(&mut client, &by_cidr());
        add(&mut client, &[vip("10.96.0.1")]);
        let before = nft("-a -j list ruleset");
        let ops = [
            RulesOp::InstallLayout(RulesLayout::default()),
            RulesOp::AddElement(vip("10.96.0.2")),
            RulesOp::DeleteElement(vip("10.96.0.3")),
        ];
        let report = client.apply(&ops).expect("the kernel answers");
        assert_eq!(report.failed.len(), 1);
        assert_eq!((report.failed[0].index, report.failed[0].errno), (2, libc::ENOENT));
        assert_eq!(nft("-a -j list ruleset"), before);
        apply(&mut client, &ops[..2]);
    });
}
