//! Rules that kube-proxy leaves in nf_tables are found and removed, and nothing else is.

use packet_rules::Leftovers;
use testkit::run;

/// Rules as iptables-nft shows them to nft, of kube-proxy in mode ipvs and in mode iptables, and of others.
const RULES: &str = "
table ip nat {
    chain KUBE-MARK-MASQ { counter meta mark set mark or 0x4000 }
    chain KUBE-POSTROUTING { meta mark & 0x4000 != 0x4000 counter return; counter masquerade fully-random }
    chain KUBE-KUBELET-CANARY { }
    chain KUBE-PROXY-CANARY { }
    chain KUBE-SEP-ABCDEF { ip protocol tcp counter dnat to 10.244.0.11:8080 }
    chain KUBE-SVC-ABCDEF { ip daddr 10.96.0.80 counter jump KUBE-MARK-MASQ; counter jump KUBE-SEP-ABCDEF }
    chain KUBE-EXT-ABCDEF { counter jump KUBE-SVC-ABCDEF }
    chain KUBE-NODEPORTS { tcp dport 30080 counter jump KUBE-EXT-ABCDEF }
    chain KUBE-NODE-PORT { counter jump KUBE-MARK-MASQ }
    chain KUBE-SERVICES { ip daddr 10.96.0.80 counter jump KUBE-SVC-ABCDEF; fib daddr type local counter jump KUBE-NODEPORTS }
    chain CNI-HOSTPORT-SETMARK { counter jump KUBE-MARK-MASQ }
    chain PREROUTING {
        type nat hook prerouting priority dstnat; policy accept;
        counter jump KUBE-SERVICES
        tcp dport 8080 counter jump CNI-HOSTPORT-SETMARK
    }
    chain OUTPUT { type nat hook output priority -100; policy accept; counter jump KUBE-SERVICES; }
    chain POSTROUTING { type nat hook postrouting priority srcnat; policy accept; counter jump KUBE-POSTROUTING; }
}
table ip filter {
    chain KUBE-FIREWALL { ip daddr 127.0.0.0/8 counter drop }
    chain KUBE-FORWARD { ct state related,established counter accept }
    chain KUBE-IPVS-FILTER { ct state new ip daddr 10.96.0.80 counter reject }
    chain KUBE-PROXY-FIREWALL { }
    chain KUBE-NODE-PORT { tcp dport 30100 counter accept }
    chain KUBE-NODEPORTS { tcp dport 30101 counter accept }
    chain MINE { counter accept }
    chain INPUT {
        type filter hook input priority filter; policy accept;
        counter jump KUBE-IPVS-FILTER
        counter jump KUBE-PROXY-FIREWALL
        counter jump KUBE-FIREWALL
        counter jump KUBE-NODE-PORT
        counter jump KUBE-NODEPORTS
        tcp dport 22 counter jump MINE
    }
    chain FORWARD { type filter hook forward priority filter; policy drop; counter jump KUBE-FORWARD; }
}
table ip6 nat {
    chain KUBE-SERVICES { counter return }
    chain OUTPUT { type nat hook output priority -100; policy accept; counter jump KUBE-SERVICES; }
}
table ip kube-proxy { chain services { counter accept } }
table inet mine { chain KUBE-SERVICES { counter accept } }
table ip mine { chain KUBE-SERVICES { counter accept } }
";

/// The part of them that stays.
const LEFT: [&str; 22] = [
    "tcp dport 30100",
    "jump KUBE-NODE-PORT",
    "tcp dport 30101",
    "jump KUBE-NODEPORTS",
    "KUBE-NODEPORTS {",
    "KUBE-MARK-MASQ {",
    "KUBE-POSTROUTING {",
    "KUBE-KUBELET-CANARY {",
    "CNI-HOSTPORT-SETMARK {",
    "jump KUBE-MARK-MASQ",
    "jump CNI-HOSTPORT-SETMARK",
    "jump KUBE-POSTROUTING",
    "KUBE-FIREWALL {",
    "jump KUBE-FIREWALL",
    "KUBE-FORWARD {",
    "jump KUBE-FORWARD",
    "jump MINE",
    "chain PREROUTING {",
    "chain FORWARD {",
    "table inet mine {",
    "table ip mine {",
    "table ip6 nat {",
];

fn load(rules: &str) {
    let file = testkit::TempDir::new("leftovers");
    let path = file.path().join("rules.nft");
    let one_a_line = rules.replace("{ ", "{\n").replace("; ", "\n").replace(" }", "\n}");
    std::fs::write(&path, one_a_line).expect("write the rules");
    run(&["nft", "-f", path.to_str().expect("a path")]);
}

#[test]
fn rules_of_kube_proxy_go_and_those_of_others_stay() {
    testkit::in_new_netns(|| {
        assert!(Leftovers::find().expect("readable").is_empty());
        load(RULES);
        let found = Leftovers::find().expect("readable");
        assert_eq!(
            found.to_string(),
            "2 chains in ip filter, 7 chains in ip nat, 1 chains in ip6 nat, table ip kube-proxy"
        );
        found.remove().expect("removable");
        assert!(Leftovers::find().expect("readable").is_empty());
        let after = run(&["nft", "list", "ruleset"]);
        for text in LEFT {
            assert!(after.contains(text), "{text} is gone:\n{after}");
        }
        for text in
            ["KUBE-SVC", "KUBE-SEP", "KUBE-EXT", "KUBE-IPVS-FILTER", "table ip kube-proxy", "10.96.0.80"]
        {
            assert!(!after.contains(text), "{text} is there:\n{after}");
        }
        assert_eq!(after.matches("KUBE-SERVICES").count(), 2, "those in tables of others:\n{after}");
    });
}

#[test]
fn thousands_of_services_are_removed() {
    use std::fmt::Write as _;

    testkit::in_new_netns(|| {
        let (mut chains, mut jumps) = (String::new(), String::new());
        for n in 0..3000 {
            let _infallible = writeln!(chains, "chain KUBE-SVC-{n:016} {{ counter accept; }}");
            let _infallible = writeln!(jumps, "tcp dport {} counter jump KUBE-SVC-{n:016}", n + 1);
        }
        load(&format!(
            "table ip nat {{\n{chains}chain KUBE-SERVICES {{\n{jumps}}}\nchain OUTPUT {{ type nat hook output priority -100; \
             counter jump KUBE-SERVICES; }}\n}}\n"
        ));
        let found = Leftovers::find().expect("readable");
        assert_eq!(found.to_string(), "3001 chains in ip nat");
        found.remove().expect("removable");
        assert!(Leftovers::find().expect("readable").is_empty());
        assert!(!run(&["nft", "list", "ruleset"]).contains("KUBE"));
    });
}
