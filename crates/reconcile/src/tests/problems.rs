//! Problems of Services that their authors should see: each is handed out once when it appears.

use lb_types::ConnectionCounters;
use planner::ProblemKind;

use super::*;
use crate::ServiceProblem;

/// Service with a UID, created at some time.
fn created(name: &str, at: i64) -> ModelEvent {
    applied(Service { uid: format!("uid-{name}").into(), created: Some(at), ..service(name, WEB) })
}

/// New problems as UID and kind.
fn new_problems(world: &mut World) -> Vec<(String, &'static str)> {
    let new = world.reconciler.take_new_problems().into_iter();
    let kind = |problem: &ServiceProblem| match problem {
        ServiceProblem::Intent(problem) => match problem.kind {
            ProblemKind::ClaimedByOther { .. } => "claimed",
            ProblemKind::UnmatchedPort { .. } => "unmatched",
            _ => "other",
        },
        ServiceProblem::EndpointsFull { .. } => "full",
    };
    new.map(|new| (new.uid.to_string(), kind(&new.problem))).collect()
}

#[test]
fn a_lost_claim_is_handed_out_once_and_again_after_it_was_won() {
    let mut world = World::synced([created("old", 1), created("new", 2), ready("old", &["10.244.0.11"])]);
    assert_eq!(new_problems(&mut world), [("uid-new".to_owned(), "claimed")]);
    world.sync(ready("old", &["10.244.0.12"]));
    world.pass(SYNC_PERIOD * 3);
    assert_eq!(new_problems(&mut world), [], "the same problem again");
    world.sync(deleted("old"));
    assert_eq!(new_problems(&mut world), []);
    world.sync(created("old", 1));
    assert_eq!(new_problems(&mut world), [("uid-new".to_owned(), "claimed")]);
}

#[test]
fn a_service_with_a_thousand_problems_has_a_few_reported() {
    let mut web = service("web", WEB);
    web.uid = "uid-web".into();
    let among_cluster_ips = |n: u32| ExternalIp {
        addr: ip(&format!("10.96.{}.{}", 100 + n / 250, n % 250)),
        source: ExternalSource::ExternalIps,
    };
    web.external_ips.extend((0..1000).map(among_cluster_ips));
    let mut world = World::synced([applied(web.clone()), ready("web", &["10.244.0.11"])]);
    assert_eq!(world.reconciler.take_new_problems().len(), 16);
    // It sorts before all others, and is one more.
    web.external_ips.push(ExternalIp { addr: ip("10.96.50.1"), source: ExternalSource::ExternalIps });
    world.sync(applied(web.clone()));
    assert_eq!(world.reconciler.take_new_problems(), []);
    web.external_ips.truncate(3);
    world.sync(applied(web));
    assert_eq!(world.reconciler.take_new_problems(), []);
}

#[test]
fn a_service_that_is_gone_has_no_problems() {
    let mut world = World::synced([created("old", 1), created("new", 2)]);
    world.sync(deleted("new"));
    assert_eq!(new_problems(&mut world), []);
}

#[test]
fn endpoints_without_room_are_handed_out_once_while_they_are_full() {
    let mut web = service("web", WEB);
    web.uid = "uid-web".into();
    web.settings.max_connections = 4.try_into().ok();
    let mut world = World::synced([applied(web), ready("web", &["10.244.0.11", "10.244.0.12"])]);
    let fill = |world: &World, counts: [u32; 2]| {
        for (addr, active) in ["10.244.0.11", "10.244.0.12"].into_iter().zip(counts) {
            let counters = ConnectionCounters { active, ..ConnectionCounters::default() };
            world.kernel.ipvs.set_connections(web_vs(), rs(addr), counters);
        }
    };
    let expect = |world: &mut World, counts, expect: &[(String, &'static str)]| {
        fill(world, counts);
        world.pass(SYNC_PERIOD * 2);
        assert_eq!(new_problems(world), expect, "{counts:?}");
    };
    let full = [("uid-web".to_owned(), "full")];
    expect(&mut world, [4, 3], &[]);
    expect(&mut world, [4, 5], &full);
    expect(&mut world, [4, 4], &[]);
    // Above three quarters the kernel keeps an endpoint closed.
    expect(&mut world, [4, 3], &[]);
    expect(&mut world, [4, 4], &[]);
    expect(&mut world, [4, 2], &[]);
    expect(&mut world, [4, 4], &full);
}
