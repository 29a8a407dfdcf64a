//! The table's text for every kind of local detection; a change of any rule shows in review.

use lb_types::{LocalDetection, RulesLayout};
use packet_rules::{Statement, render_arp_table, render_table};

fn net(text: &str) -> ipnetwork::IpNetwork {
    text.parse().expect("prefixes of tests are valid")
}

fn render(local_v4: LocalDetection, local_v6: LocalDetection) -> String {
    render_table(&RulesLayout { local_v4, local_v6, ..RulesLayout::default() }).to_string()
}

#[test]
fn without_detection() {
    testkit::assert_golden!("tests/golden/none.nft", render(LocalDetection::None, LocalDetection::None));
}

/// Conformance: ipvs/proxier TestMasqueradeRule
/// Conformance: util TestDetectLocal
#[test]
fn by_prefixes() {
    let v4 = LocalDetection::ClusterCidr(vec![net("10.244.0.0/24"), net("10.245.7.7/32")]);
    let v6 = LocalDetection::ClusterCidr(vec![net("fd00:244::/64")]);
    testkit::assert_golden!("tests/golden/cidr.nft", render(v4, v6));
}

/// Conformance: util TestDetectLocal
#[test]
fn by_interfaces() {
    let v4 = LocalDetection::BridgeInterface("cbr0".to_owned());
    let v6 = LocalDetection::InterfaceNamePrefix("veth".to_owned());
    testkit::assert_golden!("tests/golden/interface.nft", render(v4, v6));
}

#[test]
fn the_range_of_marks_shows_where_they_are_cleared() {
    let marks = "0x200/0xfffffe00".parse().expect("ranges of tests are valid");
    let table = render_table(&RulesLayout { marks, ..RulesLayout::default() });
    let clears = |rule: &packet_rules::RuleSpec| {
        rule.to_string() == "meta mark 0x00000200/23 ct direction original meta mark set 0x00000000"
    };
    let chains = table.chains.iter().filter(|chain| chain.rules.first().is_some_and(clears));
    assert_eq!(
        chains.map(|chain| chain.name).collect::<Vec<_>>(),
        ["input-late", "output-first", "output-late"]
    );
}

/// Only the rules that a layout shapes, without their comments.
fn shaped(local: &LocalDetection) -> Vec<String> {
    let table = render_table(&RulesLayout { local_v4: local.clone(), ..RulesLayout::default() });
    let plain = render_table(&RulesLayout::default());
    let rules = table.chains.iter().flat_map(|chain| chain.rules.iter().map(move |rule| (chain.name, rule)));
    let usual: Vec<_> = plain.chains.iter().flat_map(|chain| &chain.rules).collect();
    rules.filter(|(_, rule)| !usual.contains(rule)).map(|(chain, rule)| format!("{chain}: {rule}")).collect()
}

/// Rules that masquerade connections under a condition.
fn masquerades(condition: &str) -> [String; 2] {
    ["nonlocal", "external"]
        .map(|chain| format!("{chain}-v4: meta nfproto ipv4 {condition} masquerade fully-random"))
}

/// Rule of a chain that marks first packets to a set.
fn marks(chain: &str, set: &str) -> String {
    format!(
        "{chain}-mark: meta nfproto ipv4 ip daddr . meta l4proto . th dport @masquerade-{set}-v4 \
         meta mark set meta mark | 0x00004000"
    )
}

#[test]
fn prefixes_of_the_other_family_only_are_no_detection() {
    assert_eq!(shaped(&LocalDetection::NodeCidr(vec![net("fd00::/64")])), Vec::<String>::new());
    assert_eq!(shaped(&LocalDetection::NodeCidr(vec![])), Vec::<String>::new());
}

#[test]
fn host_bits_of_prefixes_do_not_matter() {
    let [nonlocal, external] = masquerades("ct original ip saddr != 10.244.0.0/24");
    let drops = |chain: &str| {
        format!(
            "{chain}: ct state new,untracked meta nfproto ipv4 ip daddr . meta l4proto . th dport \
             @no-local-endpoints-v4 ct original ip saddr != 10.244.0.0/24 drop"
        )
    };
    let leads = |chain: &str| {
        format!(
            "{chain}: meta nfproto ipv4 ct direction original ct original ip saddr != 10.244.0.0/24 \
             meta mark set ip daddr . meta l4proto . th dport map @marks-external-v4 accept"
        )
    };
    assert_eq!(
        shaped(&LocalDetection::NodeCidr(vec![net("10.244.0.9/24")])),
        [
            "node-input-v4: ct state new,untracked meta nfproto ipv4 meta l4proto . th dport \
             @node-no-local-endpoints-v4 ct original ip saddr != 10.244.0.0/24 drop"
                .to_owned(),
            "node-input-v4: meta nfproto ipv4 ct direction original ct original ip saddr != 10.244.0.0/24 \
             meta mark set meta l4proto . th dport map @node-marks-external-v4 accept"
                .to_owned(),
            drops("ports-v4"),
            leads("ports-v4"),
            nonlocal,
            external,
            drops("steered"),
            leads("steered"),
        ]
    );
}

#[test]
fn names_that_no_interface_can_have_match_none() {
    let marked = "meta mark & 0x00004000 == 0x00004000 meta mark set meta mark & 0xffffbfff";
    let unmarked = "postrouting: oif \"lo\" meta mark set meta mark & 0xffffbfff accept".to_owned();
    let [nonlocal, external] = masquerades(marked);
    let empty = vec![nonlocal, external, unmarked, marks("output", "nonlocal"), marks("output", "external")];
    let mut everything = empty.clone();
    everything.splice(3..3, [marks("prerouting", "nonlocal"), marks("prerouting", "external")]);
    assert_eq!(shaped(&LocalDetection::BridgeInterface("b".repeat(16))), everything);
    assert_eq!(shaped(&LocalDetection::BridgeInterface(String::new())), everything);
    assert_eq!(shaped(&LocalDetection::InterfaceNamePrefix("p".repeat(16))), everything);
    // Every interface: only this node itself is not local.
    assert_eq!(shaped(&LocalDetection::InterfaceNamePrefix(String::new())), empty);
}

#[test]
fn a_star_in_a_name_is_no_prefix() {
    let name = shaped(&LocalDetection::BridgeInterface("br*".to_owned()));
    let prefix = shaped(&LocalDetection::InterfaceNamePrefix("br".to_owned()));
    assert!(name[0].contains(r#"iifname != "br\*""#) && prefix[0].contains(r#"iifname != "br*""#));
}

/// Where a set is full, or without memory, the kernel ends the rule (`nft_dynset_eval`): no decision may stand behind.
#[test]
fn what_packets_remember_decides_nothing_in_the_same_rule() {
    for local in [LocalDetection::None, LocalDetection::BridgeInterface("cbr0".to_owned())] {
        let table = render_table(&RulesLayout { local_v4: local, ..RulesLayout::default() });
        let rules: Vec<_> = table.chains.iter().flat_map(|chain| &chain.rules).collect();
        let remembers = |statement: &Statement| matches!(statement, Statement::Remember(_));
        assert_eq!(rules.iter().filter(|rule| rule.statements.iter().any(remembers)).count(), 4);
        for rule in rules {
            let before_the_last = rule.statements.split_last().map_or(&[][..], |(_, before)| before);
            assert!(!before_the_last.iter().any(remembers), "{rule}");
        }
    }
}

/// A port of the node may be in the set of Services alone, while its connections drain and new ones have a mark.
#[test]
fn connections_that_no_set_of_vips_masquerades_are_looked_at_as_those_of_node_ports() {
    let table = render_table(&RulesLayout::default());
    for (family, ip) in [("v4", "ip"), ("v6", "ip6")] {
        let chain = table.chains.iter().find(|chain| chain.name == format!("services-{family}")).unwrap();
        let last = chain.rules.last().unwrap().to_string();
        let to_node =
            format!("ct original {ip} daddr @node-addresses-{family} goto node-postrouting-{family}");
        assert!(last.contains(&to_node), "{last}");
    }
}

#[test]
fn comments_tell_rules_apart_and_fit() {
    let layouts = [LocalDetection::None, LocalDetection::InterfaceNamePrefix("veth".to_owned())];
    for local in layouts {
        let table = render_table(&RulesLayout { local_v4: local, ..RulesLayout::default() });
        for chain in &table.chains {
            let comments: std::collections::BTreeSet<_> =
                chain.rules.iter().map(|rule| rule.comment()).collect();
            assert_eq!(comments.len(), chain.rules.len(), "{}", chain.name);
            // NFTNL_UDATA_COMMENT_MAXLEN with the NUL.
            assert!(comments.iter().all(|comment| comment.len() < 128));
        }
    }
}

#[test]
fn arp() {
    let links = ["eth0", "br-1"].map(str::to_owned).to_vec();
    let table = render_arp_table(&RulesLayout { arp: Some(links), ..RulesLayout::default() }).unwrap();
    testkit::assert_golden!("tests/golden/arp.nft", table.to_string());
    assert_eq!(render_arp_table(&RulesLayout { arp: None, ..RulesLayout::default() }), None);
}
