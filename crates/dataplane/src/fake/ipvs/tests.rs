use lb_types::{Protocol, SchedulerFlags, VipPort, Weight};

use super::*;
use crate::ErrorKind;

fn vs() -> VirtualServerId {
    let port = 80.try_into().unwrap();
    VipPort { addr: "10.96.0.1".parse().unwrap(), protocol: Protocol::Tcp, port }.into()
}

fn rs(last: u8) -> RealServerId {
    RealServerId { addr: [10, 0, 0, last].into(), port: 8080.try_into().unwrap() }
}

fn add_vs() -> IpvsOp {
    IpvsOp::AddVirtualServer { vs: vs(), settings: VirtualServer::new(Scheduler::RR) }
}

fn add_rs(last: u8) -> IpvsOp {
    IpvsOp::AddRealServer { vs: vs(), rs: rs(last), settings: RealServer::SERVING }
}

#[test]
fn counts_logs_and_snapshots() {
    let fake = FakeIpvs::default();
    let mut table = fake.clone();
    let report = table.apply(&[add_vs(), add_rs(1), add_rs(1)]).unwrap();
    assert_eq!(report.failed.iter().map(|f| (f.index, f.errno)).collect::<Vec<_>>(), [(2, libc::EEXIST)]);
    table.dump_real_servers(vs()).unwrap();
    assert_eq!(fake.requests(), 4);
    assert_eq!(fake.take_ops(), [add_vs(), add_rs(1)]);
    assert!(fake.ops().is_empty());
    assert_eq!(fake.virtual_servers()[&vs()].1[&rs(1)], RealServer::SERVING);
}

#[test]
fn faults_hit_the_operation_that_was_named() {
    let fake = FakeIpvs::default();
    let mut table = fake.clone();
    fake.fail_nth(2, libc::ENOMEM);
    fake.fail_next(libc::EPERM);
    let report = table.apply(&[add_vs(), add_vs(), add_vs()]).unwrap();
    assert_eq!(
        report.failed.iter().map(|f| (f.index, f.errno)).collect::<Vec<_>>(),
        [(0, libc::EPERM), (1, libc::ENOMEM)]
    );
    fake.refuse(|op| matches!(op, IpvsOp::AddRealServer { .. }).then_some(libc::EINVAL));
    assert_eq!(table.apply(&[add_rs(1)]).unwrap().failed.len(), 1);
    fake.refuse_nothing();
    assert!(table.apply(&[add_rs(1)]).unwrap().is_clean());
}

#[test]
fn lost_replies_hide_failures_but_not_effects() {
    let fake = FakeIpvs::default();
    let mut table = fake.clone();
    fake.lose_replies_next();
    let report = table.apply(&[add_rs(1), add_vs()]).unwrap();
    assert_eq!(report, BatchReport { failed: vec![], replies_lost: true });
    assert!(fake.virtual_servers().contains_key(&vs()));
    assert_eq!(table.apply(&[add_vs()]).unwrap().failed[0].errno, libc::EEXIST);
}

#[test]
fn whole_calls_fail_without_effect() {
    let fake = FakeIpvs::default();
    let mut table = fake.clone();
    fake.fail_next_call(ErrorKind::Transient);
    assert!(table.apply(&[add_vs()]).unwrap_err().is_retryable());
    assert!(fake.virtual_servers().is_empty());
    assert!(table.apply(&[add_vs()]).unwrap().is_clean());
}

#[test]
fn the_trash_gives_counters_back() {
    let fake = FakeIpvs::default();
    let mut table = fake.clone();
    assert!(table.apply(&[add_vs(), add_rs(1)]).unwrap().is_clean());
    fake.set_connections(vs(), rs(1), ConnectionCounters { active: 3, inactive: 1, persistent: 0 });
    let delete = IpvsOp::DeleteRealServer { vs: vs(), rs: rs(1) };
    assert!(table.apply(&[delete, add_rs(1)]).unwrap().is_clean());
    assert_eq!(table.dump_real_servers(vs()).unwrap()[0].connections.active, 3);
    assert!(table.apply(&[delete]).unwrap().is_clean());
    fake.expire_trash();
    assert!(table.apply(&[add_rs(1)]).unwrap().is_clean());
    assert_eq!(table.dump_real_servers(vs()).unwrap()[0].connections.active, 0);
}

#[test]
fn others_can_interfere() {
    let fake = FakeIpvs::default();
    let mut table = fake.clone();
    fake.by_another(add_vs());
    fake.by_another(add_rs(1));
    let settings = RealServer::SERVING.with_weight(Weight::QUIESCED);
    fake.by_another(IpvsOp::SetRealServer { vs: vs(), rs: rs(1), settings });
    fake.set_unsupported(2);
    assert_eq!((fake.requests(), fake.ops().len()), (0, 0));
    assert_eq!(table.dump_virtual_servers().unwrap().unsupported, 2);
    fake.flush();
    assert!(table.dump_virtual_servers().unwrap().virtual_servers.is_empty());
}

/// Number of new connections out of 200 clients that are refused while one of four real servers has weight 0.
fn refused_of_200(scheduler: Scheduler, scheduler_flags: SchedulerFlags) -> usize {
    let mut fake = FakeIpvs::default();
    let settings = VirtualServer { scheduler_flags, ..VirtualServer::new(scheduler) };
    let mut ops = vec![IpvsOp::AddVirtualServer { vs: vs(), settings }];
    ops.extend((1..=4).map(add_rs));
    assert!(fake.apply(&ops).unwrap().is_clean());
    let clients = || (1..=200).map(|last| SocketAddr::from(([192, 168, 0, last], 40_000)));
    assert!(clients().all(|client| fake.connect(vs(), client).is_some()), "{scheduler}: all have weight 1");
    let serves_all = fake.connect(vs(), clients().next().unwrap()).unwrap();
    // With `dh` only the one that serves matters, with the others any.
    let settings = RealServer::SERVING.with_weight(Weight::QUIESCED);
    fake.by_another(IpvsOp::SetRealServer { vs: vs(), rs: serves_all, settings });
    let chosen: Vec<_> = clients().map(|client| fake.connect(vs(), client)).collect();
    assert!(!chosen.contains(&Some(serves_all)), "{scheduler}: a new connection at weight 0");
    chosen.iter().filter(|rs| rs.is_none()).count()
}

#[test]
fn three_schedulers_refuse_at_weight_0_what_others_give_away() {
    let named = |name: &str| name.parse::<Scheduler>().unwrap();
    for name in ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "sed", "nq", "fo", "ovf", "twos"] {
        assert_eq!(refused_of_200(named(name), SchedulerFlags::NONE), 0, "{name}");
    }
    for name in ["mh", "sh"] {
        for (flags, falls_back) in [
            (SchedulerFlags::NONE, false),
            (SchedulerFlags::PORT, false),
            (SchedulerFlags::FALLBACK, true),
            (SchedulerFlags::FALLBACK.with(SchedulerFlags::PORT), true),
        ] {
            let refused = refused_of_200(named(name), flags);
            let expected = if falls_back { 0..=0 } else { 25..=75 };
            assert!(expected.contains(&refused), "{name} {flags:?}: {refused}");
        }
    }
    for flags in [SchedulerFlags::NONE, SchedulerFlags::FALLBACK] {
        assert_eq!(refused_of_200(Scheduler::DH, flags), 200);
    }
}
