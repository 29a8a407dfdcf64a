//! VIPs for which the node does not answer by ARP, and the layout that says so.

use lb_types::{RuleSet, RulesOp};
use service_model::ExternalIp;

use super::*;

fn unanswered(kernel: &Kernel) -> Vec<RuleElement> {
    let elements = kernel.rules.elements().into_iter();
    elements.filter(|element| element.set() == RuleSet::UnansweredVips).collect()
}

fn links(kernel: &Kernel) -> Option<Vec<String>> {
    kernel.rules.layout().unwrap().arp
}

#[test]
fn a_kernel_without_tables_of_family_arp_serves_all_the_same() {
    let kernel = Kernel::new();
    kernel.rules.lack_arp();
    let mut world = World::on(kernel, config());
    world.deliver(web());
    let report = world.run();
    assert_eq!((report.failed, unanswered(&world.kernel), links(&world.kernel)), (0, vec![], None));
    assert!(world.kernel.vips.routes().contains_key(&ip(WEB)));
    let again = world.restart(web());
    assert_eq!((again.written, again.failed), (0, 0));
}

/// A new link that an audit finds takes one layout, and no other write.
#[test]
fn a_link_on_a_shared_network_is_one_layout_more() {
    let mut world = World::synced(web());
    assert_eq!(unanswered(&world.kernel), [RuleElement::UnansweredVip(ip(WEB))]);
    world.kernel.rules.take_ops();
    world.kernel.vips.set_shared_links(["eth0"]);
    world.pass(SYNC_PERIOD + Duration::from_secs(5));
    assert_eq!(links(&world.kernel).unwrap(), ["eth0"]);
    let ops = world.kernel.rules.take_ops();
    assert!(matches!(ops[..], [RulesOp::InstallLayout(_)]), "{ops:?}");
    world.pass(SYNC_PERIOD * 3);
    assert_eq!(world.kernel.rules.take_ops(), []);
}

#[test]
fn an_address_that_cannot_be_kept_silent_is_served() {
    let kernel = Kernel::new();
    let is_silence = |op: &RulesOp| matches!(op, RulesOp::AddElement(RuleElement::UnansweredVip(_)));
    kernel.rules.refuse(move |op| is_silence(op).then_some(2));
    let mut world = World::on(kernel, config());
    world.deliver(web());
    assert!(world.run().failed > 0);
    assert!(world.kernel.vips.routes().contains_key(&ip(WEB)));
    assert_eq!(world.kernel.weights(web_vs()), [(11, 1), (12, 1)]);
    world.kernel.rules.refuse(|_| None);
    world.pass(Duration::from_secs(60));
    assert_eq!(unanswered(&world.kernel), [RuleElement::UnansweredVip(ip(WEB))]);
}

/// Packets to addresses whose Services are planned later are steered on while a set is made anew.
#[test]
fn a_set_of_an_older_version_is_refilled_as_it_is_made_anew() {
    let steered = |n: usize| {
        let mut service = service(&format!("e{n}"), &format!("10.96.{}.{}", 200 + n / 250, n % 250));
        let addr = ip(&format!("192.0.{}.{}", 2 + n / 250, n % 250));
        service.external_ips = vec![ExternalIp { addr, source: ExternalSource::LoadBalancer }];
        [applied(service), ready(&format!("e{n}"), &["10.244.0.11"])]
    };
    let events = || (0..1500).flat_map(steered).collect::<Vec<_>>();
    let mut world = World::synced(events());
    let kernel = world.kernel.clone();
    kernel.rules.age_set(RuleSet::SteeredVips);
    world = World { now: world.now, ..World::on(kernel.clone(), config()) };
    world.deliver(events());
    kernel.rules.take_ops();
    while !kernel.rules.ops().iter().any(|op| matches!(op, RulesOp::InstallLayout(_))) {
        world.reconciler.step(world.now);
    }
    assert!(!world.reconciler.is_running(), "not all Services are planned yet");
    let count = || kernel.rules.elements().iter().filter(|e| e.set() == RuleSet::SteeredVips).count();
    assert_eq!(count(), 1500);
    world.run();
    assert_eq!(count(), 1500);
}
