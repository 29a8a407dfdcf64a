//! Damage that others do to the kernel: by mistake, by another program, or by a script that "cleans up".

use super::random::Random;
use crate::{observe::Ipvs, probe::Proto};

/// Commands that destroy all of a kind.
const WHOLESALE: [&str; 10] = [
    "ipvsadm -C",
    "nft delete table inet kube-ipvs",
    "nft flush table inet kube-ipvs",
    "nft flush ruleset",
    "nft delete table arp kube-ipvs",
    "ip link delete kube-ipvs0",
    "ip link set kube-ipvs0 down",
    "ip -4 route flush table local dev kube-ipvs0",
    "ip -6 route flush table local dev kube-ipvs0",
    "nft delete chain inet kube-ipvs input",
];

/// Sets of our table.
const SETS: [&str; 9] = [
    "vips-v4",
    "vips-v6",
    "node-addresses-v4",
    "services-v4",
    "services-v6",
    "no-endpoints-v4",
    "masquerade-nonlocal-v4",
    "masquerade-nonlocal-v6",
    "endpoints-v4",
];

/// Commands that add objects which nobody wants.
const ADDITIONS: [&str; 9] = [
    "ipvsadm -A -t 10.96.200.1:80 -s rr",
    "ipvsadm -A -u [fd00:96::f001]:53 -s rr",
    "ip address add 10.96.200.2/32 dev kube-ipvs0",
    "ip route add local 10.96.200.3 dev kube-ipvs0 table local proto 177",
    "ip route add local fd00:96::f003 dev kube-ipvs0 table local proto 177",
    "nft add element inet kube-ipvs vips-v4 { 10.96.200.4 }",
    "nft add element arp kube-ipvs unanswered-vips-v4 { 10.96.200.6 }",
    "nft add element inet kube-ipvs node-addresses-v4 { 10.96.200.5 }",
    "nft add element inet kube-ipvs no-endpoints-v6 { fd00:96::f004 . tcp . 80 }",
];

/// Chooses a command, with the contents of IPVS in view. It may fail: its object may be gone already.
pub fn damage(random: &mut Random, ipvs: &Ipvs) -> String {
    match random.below(8) {
        0..3 => (*random.pick(&WHOLESALE).unwrap_or(&WHOLESALE[0])).to_owned(),
        3 => format!("nft flush set inet kube-ipvs {}", random.pick(&SETS).unwrap_or(&SETS[0])),
        4 => (*random.pick(&ADDITIONS).unwrap_or(&ADDITIONS[0])).to_owned(),
        5 => route(random, ipvs).unwrap_or_else(|| WHOLESALE[0].to_owned()),
        _ => single(random, ipvs).unwrap_or_else(|| WHOLESALE[0].to_owned()),
    }
}

/// One virtual server or one of its real servers.
fn single(random: &mut Random, ipvs: &Ipvs) -> Option<String> {
    let servers: Vec<_> = ipvs.servers.iter().collect();
    let ((proto, vip), server) = *random.pick(&servers)?;
    let kind = match proto {
        Proto::Tcp => "-t",
        Proto::Udp => "-u",
        Proto::Sctp => "--sctp-service",
    };
    let real: Vec<_> = server.real.keys().collect();
    let (Some(real), number) = (random.pick(&real), random.below(6)) else {
        return Some(format!("ipvsadm -D {kind} {vip}"));
    };
    Some(match number {
        0 => format!("ipvsadm -D {kind} {vip}"),
        1 => format!("ipvsadm -E {kind} {vip} -s wlc -p 77"),
        2 => format!("ipvsadm -d {kind} {vip} -r {real}"),
        3 => format!("ipvsadm -e {kind} {vip} -r {real} -m -w 0"),
        4 => format!("ipvsadm -e {kind} {vip} -r {real} -m -w 9"),
        _ => format!("ipvsadm -a {kind} {vip} -r {} -m", stranger(vip.is_ipv4())),
    })
}

fn stranger(v4: bool) -> &'static str {
    if v4 { "10.244.9.9:9999" } else { "[fd00:244:0:9::9]:9999" }
}

fn route(random: &mut Random, ipvs: &Ipvs) -> Option<String> {
    let vips: Vec<_> = ipvs.servers.keys().map(|(_, vip)| vip.ip()).collect();
    random.pick(&vips).map(|vip| format!("ip route delete local {vip} table local"))
}
