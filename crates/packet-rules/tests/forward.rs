//! Chains of others that drop the answers of pods, as the nft tool writes them, on this machine's kernel.

use std::process::Command;

use dataplane::RulesTable as _;
use packet_rules::RulesClient;
use testkit::{in_new_netns, try_output_with_input};

fn found(script: &str) -> Vec<String> {
    in_new_netns(|| {
        let result = try_output_with_input(Command::new("nft").args(["-f", "-"]), script);
        result.unwrap_or_else(|error| panic!("{error}\n{script}"));
        let drops = RulesClient::open().expect("sockets").forward_drops().expect("readable");
        drops.iter().map(ToString::to_string).collect()
    })
}

/// A table `ip filter` as iptables-nft makes it, with these rules in FORWARD, and what it calls.
fn forward(rules: &str) -> String {
    format!(
        "table ip filter {{
           chain USER {{ ct state established,related accept; }}
           chain BACK {{ return; }}
           chain ENGINE {{ oifname \"docker0\" ct state related,established accept; iifname \"docker0\" accept; }}
           chain FORWARD {{ type filter hook forward priority 0; policy drop; {rules} }}
         }}"
    )
}

#[test]
fn only_chains_that_drop_answers_are_told() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    for (rules, drops) in [
        ("", true),
        ("ct state established,related accept;", false),
        ("ct state established accept;", false),
        ("ct state { established, related } accept;", false),
        ("ct state vmap { established : accept, invalid : drop };", false),
        ("ct state new accept; ct state invalid drop;", true),
        ("jump USER;", false),
        ("jump BACK;", true),
        ("ip protocol icmp accept; tcp dport 22 accept; icmp type echo-request accept;", true),
        // A container engine lets its own pass.
        (
            "jump BACK; jump ENGINE; oifname \"docker0\" jump USER; iifname \"docker0\" oifname != \"docker0\" accept;",
            true,
        ),
        ("iifname \"br-8d0f\" accept;", true),
        // What cannot be judged is no alarm: prefixes and marks of network plugins, interfaces of pods.
        ("ip saddr 10.244.0.0/16 accept;", false),
        ("meta mark and 0x10000 == 0x10000 accept;", false),
        ("iifname \"cali*\" accept;", false),
        ("counter accept comment \"all\";", false),
        ("counter reject; accept;", true),
    ] {
        let expect: &[&str] = if drops { &["ip filter FORWARD"] } else { &[] };
        assert_eq!(found(&forward(rules)), expect, "{rules}");
    }
}

#[test]
fn families_tables_and_hooks_are_told_apart() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: network namespaces need root");
        return;
    }
    let chain = |family: &str, table: &str, hook: &str, policy: &str| {
        format!(
            "table {family} {table} {{ chain c {{ type filter hook {hook} priority 0; policy {policy}; }}; }}\n"
        )
    };
    let script = [
        chain("ip6", "filter", "forward", "drop"),
        chain("inet", "firewall", "forward", "drop"),
        chain("inet", "open", "forward", "accept"),
        chain("ip", "closed", "input", "drop"),
        chain("bridge", "filter", "forward", "drop"),
        chain("inet", "kube-ipvs", "forward", "drop"),
    ];
    let mut found = found(&script.concat());
    found.sort();
    assert_eq!(found, ["inet firewall c", "ip6 filter c"]);
}
