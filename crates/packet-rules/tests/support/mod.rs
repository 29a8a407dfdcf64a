//! What the tests of this package share; no test program uses everything.
#![allow(dead_code, reason = "compiled into several test programs")]

pub mod net;
pub mod talk;

use std::{num::NonZeroU16, process::Command};

use dataplane::RulesTable;
use lb_types::{LocalDetection, Protocol, RuleElement, RuleSet, RulesLayout, RulesOp, VipPort};
use packet_rules::{RulesClient, render_arp_table, render_table};

pub fn client() -> RulesClient {
    RulesClient::open().expect("open the sockets")
}

#[track_caller]
pub fn apply(client: &mut RulesClient, ops: &[RulesOp]) {
    let report = client.apply(ops).expect("the kernel takes transactions");
    assert!(report.is_clean(), "{report:?}");
}

#[track_caller]
pub fn install(client: &mut RulesClient, layout: &RulesLayout) {
    apply(client, &[RulesOp::InstallLayout(layout.clone())]);
}

#[track_caller]
pub fn add(client: &mut RulesClient, elements: &[RuleElement]) {
    apply(client, &elements.iter().copied().map(RulesOp::AddElement).collect::<Vec<_>>());
}

#[track_caller]
pub fn is_current(client: &mut RulesClient, layout: &RulesLayout) -> bool {
    client.observe(layout).expect("dump the table").layout_current
}

/// Output of `nft` for a line of its language.
#[track_caller]
pub fn nft(line: &str) -> String {
    let words: Vec<_> = std::iter::once("nft").chain(line.split_whitespace()).collect();
    testkit::run(&words)
}

/// Lets nft read a whole script.
#[track_caller]
pub fn nft_script(script: &str) {
    let result = testkit::try_output_with_input(Command::new("nft").args(["-f", "-"]), script);
    result.unwrap_or_else(|error| panic!("{error}\n{script}"));
}

/// Checks that the tables, which must be empty, read as their layout says.
///
/// Except that the tool leaves out matches on a family that a later match implies, and that chains and sets which
/// were there before are listed first.
#[track_caller]
pub fn assert_reads_like(layout: &RulesLayout) {
    let comparable = |text: &str| {
        let text = text.replace("meta nfproto ipv4 ", "").replace("meta nfproto ipv6 ", "");
        // A match of the protocol gives its name to the port behind it, and is left out itself.
        let text = text.replace("invalid meta l4proto tcp ", "invalid ").replace(". tcp sport", ". th sport");
        let text = text.replace("meta l4proto tcp tcp ", "tcp ");
        let mut blocks: Vec<_> =
            text.split("\n\n").map(|block| block.trim_matches(['{', '}', '\n']).to_owned()).collect();
        blocks.sort();
        blocks
    };
    let without_header =
        |text: &str| text.split_once('\n').map(|(_, rest)| rest.to_owned()).unwrap_or_default();
    let arp = render_arp_table(layout).expect("layouts of tests have a table of family arp");
    for (family, table) in [("inet", render_table(layout)), ("arp", arp)] {
        let seen = comparable(&without_header(&nft(&format!("list table {family} kube-ipvs"))));
        let wanted = comparable(&without_header(&table.to_string()));
        for (seen, wanted) in seen.iter().zip(&wanted) {
            assert_eq!(seen.trim(), wanted.trim());
        }
        assert_eq!(seen.len(), wanted.len(), "{seen:#?}");
    }
}

pub fn vip_port(addr: &str, protocol: Protocol, port: u16) -> VipPort {
    let port = NonZeroU16::new(port).expect("ports of tests are not 0");
    VipPort { addr: addr.parse().expect("addresses of tests are valid"), protocol, port }
}

pub fn in_set(set: RuleSet, addr: &str, protocol: Protocol, port: u16) -> RuleElement {
    set.of_port(vip_port(addr, protocol, port)).expect("a set of ports")
}

pub fn vip(addr: &str) -> RuleElement {
    RuleElement::Vip(addr.parse().expect("addresses of tests are valid"))
}

/// Local detection by the pod ranges that all tests use.
pub fn by_cidr() -> RulesLayout {
    let net =
        |text: &str| LocalDetection::ClusterCidr(vec![text.parse().expect("prefixes of tests are valid")]);
    RulesLayout { local_v4: net("10.244.0.0/24"), local_v6: net("fd00:244::/64"), ..RulesLayout::default() }
}

/// Local detection by the names of interfaces, in both families.
pub fn by_interface(detection: &LocalDetection) -> RulesLayout {
    RulesLayout { local_v4: detection.clone(), local_v6: detection.clone(), ..RulesLayout::default() }
}
