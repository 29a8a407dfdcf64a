//! Tables in the output of ipvsadm, which is not ours.

use std::{collections::BTreeSet, net::SocketAddr};

use dataplane::fake::IpvsSnapshot;
use lb_types::{
    ForwardingMethod, IpFamily, Protocol, RealServer, RealServerId, SchedulerFlags, VirtualServer,
    VirtualServerId,
};

/// Compares a table with what ipvsadm says about the network namespace of the calling thread.
///
/// # Panics
/// Panics if they differ.
pub fn check(table: &IpvsSnapshot) {
    let printed = testkit::run(&["ipvsadm", "-S", "-n"]);
    let printed: BTreeSet<String> = printed.lines().map(|line| line.trim_end().to_owned()).collect();
    let expected: BTreeSet<String> = table
        .iter()
        .flat_map(|(vs, (settings, reals))| {
            let reals = reals.iter().map(|(rs, settings)| render_real_server(*vs, *rs, settings));
            std::iter::once(render_virtual_server(*vs, settings)).chain(reals)
        })
        .collect();
    let difference: Vec<_> = printed.symmetric_difference(&expected).take(10).collect();
    assert!(difference.is_empty(), "ipvsadm -S -n differs: {difference:#?}");
    // One look at a large table is enough: each takes seconds in a guest.
    if table.values().map(|(_, reals)| reals.len()).sum::<usize>() < 1000 {
        check_thresholds(table);
    }
}

/// Compares thresholds, which `ipvsadm -L --thresholds` prints and `-S` does not: real server, upper, lower.
fn check_thresholds(table: &IpvsSnapshot) {
    let printed = testkit::run(&["ipvsadm", "-L", "-n", "--thresholds"]);
    let mut printed: Vec<String> = printed
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("-> "))
        .filter(|line| !line.starts_with("RemoteAddress"))
        .map(|line| line.split_whitespace().take(3).collect::<Vec<_>>().join(" "))
        .collect();
    let mut expected: Vec<String> = table
        .values()
        .flat_map(|(_, reals)| reals)
        .map(|(rs, settings)| format!("{rs} {} {}", settings.upper_threshold, settings.lower_threshold))
        .collect();
    printed.sort();
    expected.sort();
    assert!(printed == expected, "ipvsadm -L --thresholds differs:\n{printed:#?}\n{expected:#?}");
}

fn render_key(vs: VirtualServerId) -> String {
    match vs {
        VirtualServerId::Address(vip) => {
            let option = match vip.protocol {
                Protocol::Tcp => "-t",
                Protocol::Udp => "-u",
                Protocol::Sctp => "--sctp-service",
            };
            format!("{option} {}", SocketAddr::new(vip.addr, vip.port.get()))
        }
        // The tool prints marks as int.
        VirtualServerId::FwMark { family: IpFamily::V4, mark } => format!("-f {}", mark.get() as i32),
        VirtualServerId::FwMark { family: IpFamily::V6, mark } => format!("-f {} -6", mark.get() as i32),
    }
}

fn render_virtual_server(vs: VirtualServerId, settings: &VirtualServer) -> String {
    let mut line = format!("-A {} -s {}", render_key(vs), settings.scheduler);
    if let Some(persistence) = settings.persistence {
        line += &format!(" -p {}", persistence.timeout_seconds);
        let length = u32::from(persistence.prefix_length);
        match vs.family() {
            IpFamily::V4 if length < 32 => {
                let mask = u32::MAX.checked_shl(32 - length).unwrap_or(0);
                line += &format!(" -M {}", std::net::Ipv4Addr::from(mask));
            }
            IpFamily::V6 if length < 128 => line += &format!(" -M {length}"),
            _ => {}
        }
    }
    if settings.scheduler_flags != SchedulerFlags::NONE {
        line += &format!(" -b {}", render_flags(settings));
    }
    if settings.one_packet {
        line += " -o";
    }
    line
}

/// Flags as text: sh and mh have names for two of the three.
fn render_flags(settings: &VirtualServer) -> String {
    let scheduler = settings.scheduler.as_str();
    let named = matches!(scheduler, "sh" | "mh");
    let names = if named {
        [format!("{scheduler}-fallback"), format!("{scheduler}-port"), "flag-3".to_owned()]
    } else {
        ["flag-1", "flag-2", "flag-3"].map(str::to_owned)
    };
    let bits = settings.scheduler_flags.bits();
    let set: Vec<_> = (0..3).filter(|bit| bits & (1 << bit) != 0).map(|bit| names[bit].clone()).collect();
    set.join(",")
}

fn render_real_server(vs: VirtualServerId, rs: RealServerId, settings: &RealServer) -> String {
    let method = match settings.forwarding {
        ForwardingMethod::Masquerade => "-m",
        ForwardingMethod::Tunnel => "-i",
        ForwardingMethod::DirectRoute | ForwardingMethod::Local => "-g",
    };
    let tunnel = if settings.forwarding == ForwardingMethod::Tunnel { " --tun-type ipip" } else { "" };
    format!("-a {} -r {rs} {method} -w {}{tunnel}", render_key(vs), settings.weight)
}
