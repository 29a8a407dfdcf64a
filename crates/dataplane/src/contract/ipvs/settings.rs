//! Settings that a dump returns as they were written.

use lb_types::SchedulerFlags;

use super::{
    ForwardingMethod, IpFamily, IpvsSnapshot, IpvsTable, Protocol, RR, RealServer, Scheduler, VirtualServer,
    Weight, add_rs, add_vs, apply, del_rs, del_vs, expect_real_servers, expect_settings, mark, persistent,
    real, rs, set_rs, set_vs, snapshot, succeed, v4, v6, vip,
};
use crate::BatchReport;

pub(super) fn fresh(table: &mut dyn IpvsTable) {
    assert_eq!(snapshot(table), IpvsSnapshot::new());
}

pub(super) fn empty_batch(table: &mut dyn IpvsTable) {
    assert_eq!(apply(table, &[]), BatchReport::default());
}

pub(super) fn kinds(table: &mut dyn IpvsTable) {
    let mut ids = vec![mark(IpFamily::V4, 7), mark(IpFamily::V6, 7), mark(IpFamily::V4, u32::MAX)];
    for protocol in Protocol::ALL {
        ids.extend([
            vip("10.96.0.1", protocol, 80),
            vip("10.96.0.1", protocol, 65535),
            vip("fd00:96::1", protocol, 80),
        ]);
    }
    succeed(table, &ids.iter().map(|vs| add_vs(*vs, RR)).collect::<Vec<_>>());
    let server = |vs: &super::VirtualServerId| match vs.family() {
        IpFamily::V4 => rs("10.0.0.1", 8080),
        IpFamily::V6 => rs("fd00::1", 8080),
    };
    succeed(table, &ids.iter().map(|vs| add_rs(*vs, server(vs), RealServer::SERVING)).collect::<Vec<_>>());
    let expected: IpvsSnapshot =
        ids.iter().map(|vs| (*vs, (RR, [(server(vs), RealServer::SERVING)].into()))).collect();
    assert_eq!(snapshot(table), expected);
}

/// Old kernels lack some modules, but never these.
pub(super) fn schedulers(table: &mut dyn IpvsTable) {
    let required = ["rr", "wrr", "lc", "wlc", "sh", "dh", "sed", "nq", "mh"];
    for name in
        ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos"]
    {
        let settings = VirtualServer::new(name.parse().expect("a scheduler"));
        // A write alone may make the kernel load a scheduler under a lock that the clean-up of namespaces waits for.
        let is_known = table.has_scheduler(settings.scheduler).expect("an answer");
        let report = apply(table, &[add_vs(v4(), settings)]);
        assert_eq!(is_known, report.is_clean(), "{name}");
        match report.failed.first() {
            None => {
                expect_settings(table, v4(), settings);
                succeed(table, &[del_vs(v4())]);
            }
            Some(failed) => {
                assert!(!required.contains(&name), "{name}: {}", failed.reason);
                assert_eq!(failed.errno, libc::ENOENT);
                assert!(failed.reason.contains(&format!("modprobe ip_vs_{name}")), "{}", failed.reason);
            }
        }
    }
}

pub(super) fn flags(table: &mut dyn IpvsTable) {
    let vs = vip("10.96.0.1", Protocol::Udp, 53);
    succeed(table, &[add_vs(vs, RR)]);
    for bits in 0..8 {
        for one_packet in [true, false] {
            let scheduler_flags = SchedulerFlags::from_bits(bits);
            for base in [RR, persistent(60, 32)] {
                let settings = VirtualServer { scheduler_flags, one_packet, ..base };
                succeed(table, &[set_vs(vs, settings)]);
                expect_settings(table, vs, settings);
                succeed(table, &[del_vs(vs), add_vs(vs, settings)]);
                expect_settings(table, vs, settings);
            }
        }
    }
}

pub(super) fn persistence(table: &mut dyn IpvsTable) {
    succeed(table, &[add_vs(v4(), RR), add_vs(v6(), RR), add_vs(mark(IpFamily::V6, 1), RR)]);
    for seconds in [1, 60, 10_800, 86_400] {
        for length in [0, 1, 8, 24, 31, 32] {
            succeed(table, &[set_vs(v4(), persistent(seconds, length))]);
            expect_settings(table, v4(), persistent(seconds, length));
        }
        for vs in [v6(), mark(IpFamily::V6, 1)] {
            for length in [1, 64, 127, 128] {
                succeed(table, &[set_vs(vs, persistent(seconds, length))]);
                expect_settings(table, vs, persistent(seconds, length));
            }
        }
    }
    succeed(table, &[set_vs(v4(), RR), set_vs(v6(), RR)]);
    expect_settings(table, v4(), RR);
    expect_settings(table, v6(), RR);
}

pub(super) fn set_virtual_server(table: &mut dyn IpvsTable) {
    let server = (rs("10.0.0.1", 8080), RealServer::SERVING);
    succeed(table, &[add_vs(v4(), RR), add_rs(v4(), server.0, server.1)]);
    let mh =
        VirtualServer { scheduler_flags: SchedulerFlags::from_bits(3), ..VirtualServer::new(Scheduler::MH) };
    for settings in [VirtualServer::new(Scheduler::WRR), mh, persistent(10_800, 32), RR, RR] {
        succeed(table, &[set_vs(v4(), settings)]);
        expect_settings(table, v4(), settings);
        expect_real_servers(table, v4(), &[server]);
    }
}

pub(super) fn real_servers(table: &mut dyn IpvsTable) {
    let servers = [
        (rs("10.0.0.1", 1), real(1, ForwardingMethod::Masquerade, 0, 0)),
        (rs("10.0.0.1", 65535), real(100, ForwardingMethod::Tunnel, 3, 4)),
        (rs("10.0.0.2", 80), real(0x7fff_ffff, ForwardingMethod::DirectRoute, 0, 1)),
        (rs("127.0.0.1", 80), real(65_535, ForwardingMethod::Local, 1_000_000, 1_000_000)),
        (rs("10.96.0.1", 80), real(1, ForwardingMethod::Masquerade, 0, 0x7fff_ffff)),
    ];
    succeed(table, &[add_vs(v4(), RR)]);
    succeed(table, &servers.map(|(id, settings)| add_rs(v4(), id, settings)));
    expect_real_servers(table, v4(), &servers);

    let servers = [
        (rs("fd00::1", 1), real(1, ForwardingMethod::Masquerade, 0, 0)),
        (rs("::1", 80), real(2, ForwardingMethod::Local, 1, 2)),
        (rs("2001:db8::ffff", 80), real(2, ForwardingMethod::DirectRoute, 0, 0)),
    ];
    succeed(table, &[add_vs(v6(), RR)]);
    succeed(table, &servers.map(|(id, settings)| add_rs(v6(), id, settings)));
    expect_real_servers(table, v6(), &servers);
}

pub(super) fn weight_zero(table: &mut dyn IpvsTable) {
    let (first, second) = (rs("10.0.0.1", 80), rs("10.0.0.2", 80));
    let quiesced = RealServer::SERVING.with_weight(Weight::QUIESCED);
    succeed(table, &[add_vs(v4(), RR), add_rs(v4(), first, quiesced)]);
    succeed(table, &[add_rs(v4(), second, RealServer::SERVING)]);
    expect_real_servers(table, v4(), &[(first, quiesced), (second, RealServer::SERVING)]);
    succeed(table, &[set_rs(v4(), first, RealServer::SERVING), set_rs(v4(), second, quiesced)]);
    expect_real_servers(table, v4(), &[(first, RealServer::SERVING), (second, quiesced)]);
}

pub(super) fn set_real_server(table: &mut dyn IpvsTable) {
    let (server, other) = (rs("10.0.0.1", 80), (rs("10.0.0.2", 80), RealServer::SERVING));
    succeed(table, &[add_vs(v4(), RR), add_rs(v4(), server, RealServer::SERVING)]);
    succeed(table, &[add_rs(v4(), other.0, other.1)]);
    for settings in [
        real(5, ForwardingMethod::Masquerade, 0, 0),
        real(5, ForwardingMethod::DirectRoute, 0, 0),
        real(5, ForwardingMethod::Tunnel, 10, 20),
        real(0, ForwardingMethod::Local, 0, 20),
        RealServer::SERVING,
    ] {
        succeed(table, &[set_rs(v4(), server, settings)]);
        expect_real_servers(table, v4(), &[(server, settings), other]);
    }
}

pub(super) fn delete_virtual_server(table: &mut dyn IpvsTable) {
    let server = rs("10.0.0.1", 80);
    succeed(table, &[add_vs(v4(), RR), add_rs(v4(), server, RealServer::SERVING), add_vs(v6(), RR)]);
    succeed(table, &[del_vs(v4())]);
    assert_eq!(snapshot(table), IpvsSnapshot::from([(v6(), (RR, [].into()))]));
    succeed(table, &[add_vs(v4(), RR)]);
    expect_real_servers(table, v4(), &[]);
}

pub(super) fn counters(table: &mut dyn IpvsTable) {
    succeed(table, &[add_vs(v4(), RR), add_rs(v4(), rs("10.0.0.1", 80), RealServer::SERVING)]);
    let dump = table.dump_real_servers(v4()).expect("dump");
    assert_eq!(dump.len(), 1);
    let (c, t) = (dump[0].connections, dump[0].traffic);
    assert_eq!([c.active, c.inactive, c.persistent], [0; 3]);
    assert_eq!([t.connections, t.packets_in, t.packets_out, t.bytes_in, t.bytes_out], [0; 5]);
}

pub(super) fn mixed_families(table: &mut dyn IpvsTable) {
    let tunnel = real(1, ForwardingMethod::Tunnel, 0, 0);
    let (to_v4, to_v6) = (rs("10.0.0.1", 80), rs("fd00::1", 80));
    succeed(table, &[add_vs(v4(), RR), add_rs(v4(), to_v6, tunnel), add_rs(v4(), to_v4, tunnel)]);
    succeed(table, &[add_vs(v6(), RR), add_rs(v6(), to_v4, tunnel), add_rs(v6(), to_v6, tunnel)]);
    expect_real_servers(table, v4(), &[(to_v4, tunnel), (to_v6, tunnel)]);
    expect_real_servers(table, v6(), &[(to_v4, tunnel), (to_v6, tunnel)]);
    succeed(table, &[del_rs(v4(), to_v6), del_rs(v6(), to_v4)]);
    expect_real_servers(table, v4(), &[(to_v4, tunnel)]);
}

pub(super) fn order_in_a_batch(table: &mut dyn IpvsTable) {
    let server = rs("10.0.0.1", 80);
    let heavy = RealServer::SERVING.with_weight(Weight(9));
    succeed(
        table,
        &[
            add_vs(v4(), RR),
            add_rs(v4(), server, RealServer::SERVING),
            set_rs(v4(), server, heavy),
            del_rs(v4(), server),
            add_rs(v4(), server, heavy),
            del_vs(v4()),
            add_vs(v4(), VirtualServer::new(Scheduler::WRR)),
            add_rs(v4(), server, RealServer::SERVING),
            set_rs(v4(), server, heavy),
        ],
    );
    expect_settings(table, v4(), VirtualServer::new(Scheduler::WRR));
    expect_real_servers(table, v4(), &[(server, heavy)]);
}
