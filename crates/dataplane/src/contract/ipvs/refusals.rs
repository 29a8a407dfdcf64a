//! Error numbers of `ip_vs_genl_set_cmd` and of the functions that it calls (net/netfilter/ipvs/ip_vs_ctl.c).

use super::{
    ForwardingMethod, IpFamily, IpvsSnapshot, IpvsTable, RR, RealServer, Scheduler, VirtualServer, Weight,
    add_rs, add_vs, apply, del_rs, del_vs, expect_settings, mark, persistent, real, refuse, refuse_all, rs,
    set_rs, set_vs, snapshot, succeed, v4, v6,
};

const SERVING: RealServer = RealServer::SERVING;

fn unknown_scheduler() -> VirtualServer {
    VirtualServer::new(Scheduler::from_kernel(b"nosuch").expect("a name"))
}

pub(super) fn virtual_server_exists(table: &mut dyn IpvsTable) {
    let all = [v4(), v6(), mark(IpFamily::V4, 7)];
    succeed(table, &all.map(|vs| add_vs(vs, RR)));
    refuse_all(table, &all.map(|vs| add_vs(vs, RR)), libc::EEXIST);
    refuse_all(table, &all.map(|vs| add_vs(vs, VirtualServer::new(Scheduler::WRR))), libc::EEXIST);
}

pub(super) fn no_virtual_server(table: &mut dyn IpvsTable) {
    let server = rs("10.0.0.1", 80);
    succeed(table, &[add_vs(v6(), RR)]);
    for vs in [v4(), mark(IpFamily::V4, 7)] {
        let ops = [
            set_vs(vs, RR),
            set_vs(vs, unknown_scheduler()),
            del_vs(vs),
            add_rs(vs, server, SERVING),
            set_rs(vs, server, SERVING),
            del_rs(vs, server),
        ];
        refuse_all(table, &ops, libc::ESRCH);
    }
}

pub(super) fn dump_of_absent(table: &mut dyn IpvsTable) {
    for vs in [v4(), v6(), mark(IpFamily::V6, 7)] {
        assert!(table.dump_real_servers(vs).expect("an empty dump").is_empty());
    }
}

pub(super) fn no_scheduler(table: &mut dyn IpvsTable) {
    refuse_all(table, &[add_vs(v4(), unknown_scheduler())], libc::ENOENT);
    succeed(table, &[add_vs(v4(), RR)]);
    refuse_all(table, &[set_vs(v4(), unknown_scheduler())], libc::ENOENT);
    expect_settings(table, v4(), RR);
}

pub(super) fn questions(table: &mut dyn IpvsTable) {
    let ask = |table: &mut dyn IpvsTable, settings: VirtualServer| {
        table.has_scheduler(settings.scheduler).expect("an answer")
    };
    for _ in 0..2 {
        for name in ["rr", "wrr", "lc", "wlc", "sh", "dh", "sed", "nq", "mh"] {
            assert!(ask(table, VirtualServer::new(name.parse().expect("a scheduler"))), "{name}");
        }
        assert!(!ask(table, unknown_scheduler()));
    }
    assert_eq!(snapshot(table), IpvsSnapshot::new());
    succeed(table, &[add_vs(v4(), RR)]);
    assert!(ask(table, RR) && !ask(table, unknown_scheduler()));
    expect_settings(table, v4(), RR);
}

pub(super) fn real_server_exists(table: &mut dyn IpvsTable) {
    let (server, server6) = (rs("10.0.0.1", 80), rs("fd00::1", 80));
    succeed(table, &[add_vs(v4(), RR), add_rs(v4(), server, SERVING)]);
    succeed(table, &[add_vs(v6(), RR), add_rs(v6(), server6, SERVING)]);
    let ops = [
        add_rs(v4(), server, SERVING),
        add_rs(v4(), server, real(5, ForwardingMethod::DirectRoute, 0, 0)),
        add_rs(v6(), server6, SERVING),
    ];
    refuse_all(table, &ops, libc::EEXIST);
}

pub(super) fn no_real_server(table: &mut dyn IpvsTable) {
    succeed(table, &[add_vs(v4(), RR), add_rs(v4(), rs("10.0.0.1", 80), SERVING)]);
    for absent in [rs("10.0.0.1", 81), rs("10.0.0.2", 80)] {
        refuse_all(table, &[set_rs(v4(), absent, SERVING), del_rs(v4(), absent)], libc::ENOENT);
    }
}

pub(super) fn bad_addresses(table: &mut dyn IpvsTable) {
    succeed(table, &[add_vs(v4(), RR), add_vs(v6(), RR)]);
    let bad_v4 = ["0.0.0.0", "224.0.0.1", "239.255.255.255", "255.255.255.255", "127.255.255.255"];
    refuse_all(table, &bad_v4.map(|addr| add_rs(v4(), rs(addr, 80), SERVING)), libc::EINVAL);
    let bad_v6 = ["::", "fe80::1", "ff02::1"];
    refuse_all(table, &bad_v6.map(|addr| add_rs(v6(), rs(addr, 80), SERVING)), libc::EINVAL);
}

pub(super) fn other_family(table: &mut dyn IpvsTable) {
    succeed(table, &[add_vs(v4(), RR), add_vs(v6(), RR)]);
    for method in [ForwardingMethod::Masquerade, ForwardingMethod::Local, ForwardingMethod::DirectRoute] {
        let settings = real(1, method, 0, 0);
        let ops = [
            add_rs(v4(), rs("fd00::1", 80), settings),
            add_rs(v6(), rs("10.0.0.1", 80), settings),
            set_rs(v4(), rs("fd00::1", 80), settings),
        ];
        refuse_all(table, &ops, libc::EINVAL);
    }
    refuse_all(table, &[del_rs(v4(), rs("fd00::1", 80))], libc::ENOENT);
}

pub(super) fn bad_prefix(table: &mut dyn IpvsTable) {
    let bad = |vs, length| [add_vs(vs, persistent(60, length)), set_vs(vs, persistent(60, length))];
    refuse_all(table, &[bad(v4(), 33)[0], bad(v6(), 0)[0], bad(v6(), 129)[0]], libc::EINVAL);
    succeed(table, &[add_vs(v4(), RR), add_vs(v6(), RR)]);
    refuse_all(table, &[bad(v4(), 33)[1], bad(v6(), 0)[1], bad(v6(), 129)[1]], libc::EINVAL);
    // The client or the kernel refuses it; its neighbours are executed all the same.
    let heavy = persistent(60, 24);
    refuse(
        table,
        &[set_vs(v4(), heavy), bad(v4(), 40)[1], set_vs(v6(), persistent(60, 64)), bad(v4(), 255)[1]],
        &[(1, libc::EINVAL), (3, libc::EINVAL)],
    );
    expect_settings(table, v4(), heavy);
    expect_settings(table, v6(), persistent(60, 64));
}

pub(super) fn out_of_range(table: &mut dyn IpvsTable) {
    let (present, absent) = (rs("10.0.0.1", 80), rs("10.0.0.2", 80));
    succeed(table, &[add_vs(v4(), RR), add_rs(v4(), present, SERVING)]);
    for settings in [SERVING.with_weight(Weight(0x8000_0000)), real(1, ForwardingMethod::Masquerade, 2, 1)] {
        let ops = [add_rs(v4(), absent, settings), set_rs(v4(), present, settings)];
        refuse_all(table, &ops, libc::ERANGE);
    }
}

pub(super) fn reasons(table: &mut dyn IpvsTable) {
    succeed(table, &[add_vs(v4(), RR)]);
    let server = rs("10.0.0.1", 8080);
    let ops = [
        add_vs(v4(), RR),
        set_vs(v4(), unknown_scheduler()),
        set_rs(v4(), server, SERVING),
        del_vs(v6()),
        add_rs(v4(), rs("224.0.0.1", 80), SERVING),
    ];
    let report = apply(table, &ops);
    let expected: [(&str, &[&str]); 5] = [
        ("EEXIST", &["add virtual server 10.96.0.1:80/TCP", "exists already"]),
        ("ENOENT", &["set virtual server 10.96.0.1:80/TCP", "modprobe ip_vs_nosuch"]),
        ("ENOENT", &["set real server 10.0.0.1:8080 of 10.96.0.1:80/TCP", "no real server 10.0.0.1:8080"]),
        ("ESRCH", &["delete virtual server [fd00:96::1]:80/TCP", "no virtual server"]),
        ("EINVAL", &["add real server 224.0.0.1:80 to 10.96.0.1:80/TCP", "not a unicast address"]),
    ];
    assert_eq!(report.failed.len(), expected.len());
    for (failed, (errno, parts)) in report.failed.iter().zip(expected) {
        for part in parts.iter().chain([&errno]) {
            assert!(failed.reason.contains(part), "{:?} lacks {part:?}", failed.reason);
        }
    }
}
