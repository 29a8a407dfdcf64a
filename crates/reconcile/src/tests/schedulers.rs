//! Schedulers: how they treat what drains, and what happens where the kernel lacks one.

use std::net::SocketAddr;

use lb_types::{Scheduler, SchedulerFlags};

use super::*;
use crate::Shortfalls;

const ALL: [&str; 14] =
    ["rr", "wrr", "lc", "wlc", "lblc", "lblcr", "dh", "sh", "sed", "nq", "fo", "ovf", "mh", "twos"];

const FOUR: [&str; 4] = ["10.244.0.11", "10.244.0.12", "10.244.0.13", "10.244.0.14"];

/// New connections of 200 clients with five ports each that are refused while one of four endpoints drains.
fn refused_while_draining(settings: ServiceSettings, config: Config) -> usize {
    let mut world = World::on(Kernel::new(), config);
    world.deliver([applied(Service { settings, ..service("web", WEB) }), ready("web", &FOUR)]);
    world.run();
    let clients: Vec<SocketAddr> = (1..=200)
        .flat_map(|last| (0..5).map(move |port| SocketAddr::from(([192, 168, 0, last], 40_000 + port))))
        .collect();
    let refused = |world: &World| {
        clients.iter().filter(|client| world.kernel.ipvs.connect(web_vs(), **client).is_none()).count()
    };
    assert_eq!(refused(&world), 0, "all of them serve");
    // With `dh` the one that serves, with the others any.
    let leaves = world.kernel.ipvs.connect(web_vs(), clients[0]).unwrap().addr.to_string();
    let endpoint = |addr| (addr, if addr == leaves { Is::Terminating } else { Is::Ready });
    world.send(slice("web", Protocol::Tcp, &FOUR.map(endpoint)));
    world.run();
    assert!(world.kernel.weights(web_vs()).iter().any(|(_, weight)| *weight == 0), "it drains");
    refused(&world)
}

fn named(scheduler: &str) -> ServiceSettings {
    ServiceSettings { scheduler: Some(scheduler.parse().unwrap()), ..ServiceSettings::default() }
}

#[test]
fn no_scheduler_but_dh_refuses_anybody_while_one_endpoint_drains() {
    for scheduler in ALL {
        let refused = refused_while_draining(named(scheduler), config());
        let expected = if scheduler == "dh" { 1000 } else { 0 };
        assert_eq!(refused, expected, "{scheduler} named by the Service");
        let mut config = config();
        config.planner.scheduler = scheduler.parse().unwrap();
        let refused = refused_while_draining(ServiceSettings::default(), config);
        assert_eq!(refused, expected, "{scheduler} by default");
    }
}

#[test]
fn flags_of_a_service_keep_the_fallback_unless_they_refuse_it() {
    for scheduler in ["sh", "mh"] {
        for flags in [SchedulerFlags::NONE, SchedulerFlags::PORT] {
            let set = ServiceSettings { scheduler_flags: Some(flags), ..named(scheduler) };
            assert_eq!(refused_while_draining(set.clone(), config()), 0, "{scheduler} {flags:?}");
            let refused = ServiceSettings { no_fallback: true, ..set };
            assert_ne!(refused_while_draining(refused, config()), 0, "{scheduler} {flags:?}, no-fallback");
        }
    }
}

fn scheduler(world: &World, vip: &str) -> String {
    world.kernel.ipvs.virtual_servers()[&vs(vip, Protocol::Tcp)].0.scheduler.to_string()
}

/// A kernel that has these schedulers, asked by nobody yet.
fn kernel_with(schedulers: &[&str]) -> Kernel {
    let kernel = Kernel::new();
    kernel.ipvs.set_schedulers(schedulers.iter().map(|name| name.parse().unwrap()));
    kernel
}

/// A config with this default scheduler.
fn by_default(scheduler: &str) -> Config {
    let mut config = config();
    config.planner.scheduler = scheduler.parse().unwrap();
    config
}

/// 100 Services that name a scheduler.
fn all_name(scheduler: &str) -> Vec<ModelEvent> {
    let one = |n: usize| {
        let name = format!("s{n}");
        let service = Service { settings: named(scheduler), ..service(&name, &format!("10.96.0.{n}")) };
        [applied(service), ready(&name, &["10.244.0.11"])]
    };
    (1..=100).flat_map(one).collect()
}

#[test]
fn without_the_module_of_the_default_scheduler_services_get_rr_until_it_is_there() {
    let mut world = World::on(kernel_with(&["rr", "mh"]), by_default("wlc"));
    let special = Service { settings: named("mh"), ..service("special", "10.96.0.7") };
    world.deliver(web().into_iter().chain([applied(special)]));
    let report = world.run();
    assert!(report.completed_start && report.failed == 0, "{report}");
    assert_eq!(
        (scheduler(&world, WEB), world.kernel.weights(web_vs())),
        ("rr".into(), vec![(11, 1), (12, 1)])
    );
    assert_eq!(scheduler(&world, "10.96.0.7"), "mh");
    let wlc = Shortfalls { schedulers: vec!["wlc".parse().unwrap()], ..Shortfalls::default() };
    assert_eq!(world.reconciler.shortfalls(), wlc);
    world.kernel.ipvs.set_schedulers(Scheduler::known());
    world.pass(SYNC_PERIOD * 3);
    assert_eq!((scheduler(&world, WEB), scheduler(&world, "10.96.0.7")), ("wlc".into(), "mh".into()));
    assert_eq!(world.reconciler.shortfalls(), Shortfalls::default());
}

#[test]
fn the_kernel_is_asked_once_for_all_services_and_ever_more_rarely() {
    let mut world = World::on(kernel_with(&["rr"]), config());
    world.deliver(all_name("mh"));
    let report = world.run();
    assert_eq!(report.failed, 0, "nothing is sent that names it");
    let questions = |world: &World| {
        world.kernel.ipvs.take_questions().iter().map(Scheduler::to_string).collect::<Vec<_>>()
    };
    assert_eq!(questions(&world), ["rr", "mh"]);
    assert_eq!(scheduler(&world, "10.96.0.100"), "rr");
    world.kernel.ipvs.take_ops();
    world.pass(Duration::from_secs(60 * 60));
    // After 30 s, 1, 2, 4, 8 minutes, and every quarter of an hour.
    assert_eq!(questions(&world), ["mh"; 7]);
    assert_eq!(world.kernel.ipvs.ops(), [], "and no Service is touched for it");
    world.kernel.ipvs.set_schedulers(Scheduler::known());
    world.pass(Duration::from_secs(16 * 60));
    assert!((1..=100).all(|n| scheduler(&world, &format!("10.96.0.{n}")) == "mh"));
}

#[test]
fn without_any_scheduler_no_write_is_sent_and_the_node_says_so() {
    let mut world = World::on(kernel_with(&[]), config());
    world.deliver(all_name("mh"));
    world.run();
    world.pass(Duration::from_secs(600));
    assert!(world.kernel.ipvs.virtual_servers().is_empty());
    assert!(world.reconciler.shortfalls().no_scheduler);
    assert_eq!(world.reconciler.shortfalls().virtual_servers, 100);
    let sent = world.kernel.ipvs.refused();
    assert_eq!(sent, 0, "writes that make the kernel run modprobe");
    world.kernel.ipvs.set_schedulers(["wlc".parse().unwrap()]);
    world.pass(Duration::from_secs(16 * 60));
    assert_eq!(scheduler(&world, "10.96.0.100"), "wlc", "whatever there is");
    let now = world.reconciler.shortfalls();
    assert!(!now.no_scheduler && now.virtual_servers == 0, "{now:?}");
}

#[test]
fn a_scheduler_whose_module_was_unloaded_is_replaced_by_the_next_best() {
    let mut world = World::on(Kernel::new(), by_default("wlc"));
    world.deliver(web());
    world.run();
    world.kernel.ipvs.set_schedulers(["rr".parse().unwrap()]);
    world.send(applied(service("other", "10.96.0.7")));
    world.run();
    world.pass(Duration::from_secs(1));
    assert_eq!(scheduler(&world, "10.96.0.7"), "rr");
}

#[test]
fn what_may_not_be_named_is_not_even_asked_for() {
    let mut config = config();
    config.planner.allowed_schedulers = ["wlc".parse().unwrap()].into();
    let mut world = World::on(Kernel::new(), config);
    world.deliver(all_name("mh"));
    world.run();
    assert_eq!(scheduler(&world, "10.96.0.1"), "rr");
    assert_eq!(
        world.kernel.ipvs.take_questions(),
        [Scheduler::RR],
        "a tenant makes the kernel load a module"
    );
}

#[test]
fn refused_vips_are_counted_until_they_are_bound() {
    let kernel = Kernel::new();
    // IPv6 switched off on the link: "Network is unreachable".
    kernel
        .vips
        .refuse(|op| matches!(op, lb_types::VipOp::EnsureRoute { vip, .. } if vip.is_ipv6()).then_some(101));
    let mut world = World::on(kernel, config());
    world
        .deliver([applied(Service { cluster_ips: vec![ip(WEB), ip("fd00:96::80")], ..service("web", WEB) })]);
    world.run();
    assert_eq!(world.reconciler.shortfalls().vips, 1);
    world.kernel.vips.refuse_nothing();
    world.pass(Duration::from_secs(60));
    assert_eq!(world.reconciler.shortfalls(), Shortfalls::default());
}
