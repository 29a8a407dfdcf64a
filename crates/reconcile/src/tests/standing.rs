//! Answers for health checks.

use dataplane::ErrorKind;
use lb_types::{IpvsOp, RulesOp, VipOp};

use super::*;
use crate::{Standing, Wait};

impl World {
    fn standing(&self) -> Standing {
        self.reconciler.standing()
    }

    fn waits_for(&self) -> Option<Wait> {
        self.standing().waits_for
    }
}

#[test]
fn nothing_waits_before_all_objects_are_known() {
    let mut world = World::new();
    for event in web() {
        world.send(event);
    }
    world.pass(Duration::from_secs(600));
    assert_eq!(world.standing(), Standing::default(), "EndpointSlices are late");
    world.deliver([]);
    assert_eq!(world.waits_for(), Some(Wait::Start));
    world.run();
    assert_eq!(world.standing(), Standing::default());
    world.send(ready("web", &["10.244.0.13"]));
    assert_eq!(world.waits_for(), Some(Wait::Turn));
    world.run();
    assert_eq!(world.standing(), Standing::default());
}

#[test]
fn the_start_is_not_over_while_the_kernel_takes_nothing() {
    let kernel = Kernel::new();
    kernel.vips.refuse(|op| matches!(op, VipOp::EnsureLink).then_some(12));
    let mut world = World::on(kernel, config());
    world.deliver(web());
    world.pass(Duration::from_secs(120));
    assert_eq!(world.waits_for(), Some(Wait::Base));
    world.kernel.vips.refuse(|_| None);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.standing(), Standing::default());
}

#[test]
fn changes_that_need_the_chains_wait_while_those_are_refused() {
    let mut world = World::synced(web());
    world.kernel.rules.delete_table();
    world.kernel.rules.refuse(|op| matches!(op, RulesOp::InstallLayout(_)).then_some(12));
    world.pass(SYNC_PERIOD * 4);
    assert_eq!(world.waits_for(), Some(Wait::Base));
    world.kernel.rules.refuse(|_| None);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.standing(), Standing::default());
}

#[test]
fn ipvs_that_answers_no_call_is_waited_for() {
    let mut world = World::synced(web());
    for _ in 0..6 {
        world.kernel.ipvs.fail_next_call(ErrorKind::PermissionDenied);
    }
    world.send(ready("web", &["10.244.0.13"]));
    world.run();
    assert_eq!(world.waits_for(), Some(Wait::Ipvs));
    world.pass(Duration::from_secs(300));
    assert_eq!(world.standing(), Standing::default());
}

#[test]
fn services_that_the_kernel_refuses_as_a_whole_are_counted_and_hold_up_nothing() {
    let mut world = World::synced(web().into_iter().chain(many(30)));
    let new = |vs: &VirtualServerId| {
        vs.vip_port().is_some_and(|port| port.addr.to_string().starts_with("10.96.9."))
    };
    world.kernel.ipvs.refuse(move |op| match op {
        IpvsOp::AddVirtualServer { vs, .. } if new(vs) => Some(2),
        _ => None,
    });
    for n in 0..10 {
        let name = format!("new{n}");
        world.send(applied(service(&name, &format!("10.96.9.{n}"))));
        world.send(ready(&name, &["10.244.9.1"]));
    }
    world.run();
    let Standing { waits_for, unserved, most_unserved, refused } = world.standing();
    assert_eq!((waits_for, unserved, most_unserved), (None, 10, false));
    assert!(refused >= 10, "{refused}");
    world.kernel.ipvs.refuse(|_| None);
    world.pass(Duration::from_secs(60));
    assert_eq!(world.standing(), Standing::default());
}

#[test]
fn a_service_with_one_real_server_or_one_family_refused_is_served() {
    let kernel = Kernel::new();
    let refused = rs("10.244.0.255");
    kernel.ipvs.refuse(move |op| match op {
        IpvsOp::AddRealServer { rs, .. } if *rs == refused => Some(22),
        _ => None,
    });
    kernel.vips.refuse(|op| match op {
        VipOp::EnsureRoute { vip, .. } if vip.is_ipv6() => Some(101),
        _ => None,
    });
    let mut world = World::on(kernel, config());
    let both = Service { cluster_ips: vec![ip(WEB), ip("fd00:96::80")], ..service("web", WEB) };
    world.deliver([applied(both), ready("web", &["10.244.0.11", "10.244.0.255"])]);
    world.run();
    let standing = world.standing();
    assert_eq!((standing.waits_for, standing.unserved), (None, 0));
    assert_eq!(standing.refused, 2, "both are told");
}

#[test]
fn a_service_whose_only_route_is_refused_is_not_served() {
    let kernel = Kernel::new();
    kernel.vips.refuse(|op| matches!(op, VipOp::EnsureRoute { .. }).then_some(101));
    let mut world = World::on(kernel, config());
    world.deliver(web());
    world.run();
    let standing = world.standing();
    assert_eq!((standing.unserved, standing.most_unserved), (1, true));
}
