//! Batches and dumps far larger than a socket buffer.

use std::net::Ipv4Addr;

use super::{
    IpvsOp, IpvsSnapshot, IpvsTable, Protocol, RR, RealServer, RealServerId, VipPort, VirtualServerId,
    add_rs, add_vs, apply, del_vs, expect_real_servers, refuse_all, rs, set_rs, snapshot, succeed, v4,
};

fn nth_vs(n: u32) -> VirtualServerId {
    let addr = Ipv4Addr::from(0x0a60_0000 + n).into();
    VipPort { addr, protocol: Protocol::Tcp, port: 80.try_into().expect("a port") }.into()
}

fn nth_rs(n: u32) -> RealServerId {
    RealServerId { addr: Ipv4Addr::from(0x0a00_0001 + n).into(), port: 8080.try_into().expect("a port") }
}

/// 400 virtual servers with 49 real servers each; every 797th operation is one that fails.
pub(super) fn big_batch(table: &mut dyn IpvsTable) {
    let good = (0..400).flat_map(|n| {
        let reals = (0..49).map(move |m| add_rs(nth_vs(n), nth_rs(49 * n + m), RealServer::SERVING));
        std::iter::once(add_vs(nth_vs(n), RR)).chain(reals)
    });
    let (mut ops, mut expected) = (Vec::new(), Vec::new());
    for op in good {
        if ops.len() % 797 == 500 {
            let (bad, errno) = nth_failure(expected.len());
            expected.push((ops.len(), errno));
            ops.push(bad);
        }
        ops.push(op);
    }
    assert!(ops.len() > 20_000 && expected.len() > 20);
    let report = apply(table, &ops);
    let failed: Vec<_> = report.failed.iter().map(|f| (f.index, f.errno)).collect();
    assert_eq!(failed, expected);
    assert!(!report.replies_lost);
    let reals = |n| (0..49).map(move |m| (nth_rs(49 * n + m), RealServer::SERVING)).collect();
    let expected: IpvsSnapshot = (0..400).map(|n| (nth_vs(n), (RR, reals(n)))).collect();
    assert_eq!(snapshot(table), expected);
}

fn nth_failure(n: usize) -> (IpvsOp, i32) {
    let table = [
        (add_vs(nth_vs(0), RR), libc::EEXIST),
        (del_vs(nth_vs(500_000)), libc::ESRCH),
        (set_rs(nth_vs(0), rs("10.200.0.1", 1), RealServer::SERVING), libc::ENOENT),
        (add_rs(nth_vs(0), rs("224.0.0.1", 1), RealServer::SERVING), libc::EINVAL),
    ];
    table[n % table.len()]
}

pub(super) fn all_fail(table: &mut dyn IpvsTable) {
    let ops: Vec<_> = (0..10_000).map(|n| del_vs(nth_vs(n))).collect();
    refuse_all(table, &ops, libc::ESRCH);
}

pub(super) fn many_virtual_servers(table: &mut dyn IpvsTable) {
    succeed(table, &(0..5000).map(|n| add_vs(nth_vs(n), RR)).collect::<Vec<_>>());
    let expected: IpvsSnapshot = (0..5000).map(|n| (nth_vs(n), (RR, [].into()))).collect();
    assert_eq!(snapshot(table), expected);
    succeed(table, &(0..5000).rev().map(|n| del_vs(nth_vs(n))).collect::<Vec<_>>());
    assert_eq!(snapshot(table), IpvsSnapshot::new());
}

pub(super) fn many_real_servers(table: &mut dyn IpvsTable) {
    let servers: Vec<_> = (0..2000).map(|n| (nth_rs(n), RealServer::SERVING)).collect();
    let mut ops = vec![add_vs(v4(), RR)];
    ops.extend(servers.iter().map(|(id, settings)| add_rs(v4(), *id, *settings)));
    succeed(table, &ops);
    expect_real_servers(table, v4(), &servers);
}
