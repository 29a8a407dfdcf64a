//! Elements, a few at a time.

use lb_types::{Front, IpFamily, Protocol, RuleElement, RuleSet, RulesLayout, RulesOp, VipPort};

use super::{
    addr, adds, apply, assert_elements, deletes, failures, install, mark, must_apply, one_of_each, port,
    service, vip,
};
use crate::RulesTable;

pub(super) fn every_set(table: &mut dyn RulesTable) {
    install(table);
    let elements: Vec<_> = (1..=3).flat_map(one_of_each).collect();
    must_apply(table, &adds(&elements));
    assert_elements(table, &elements);
    for element in &elements {
        must_apply(table, &deletes(&[*element]));
    }
    assert_elements(table, &[]);
}

pub(super) fn add_again(table: &mut dyn RulesTable) {
    install(table);
    must_apply(table, &adds(&[vip(1), vip(2), vip(1)]));
    must_apply(table, &adds(&[vip(2), vip(3)]));
    assert_elements(table, &[vip(1), vip(2), vip(3)]);
}

pub(super) fn clients(table: &mut dyn RulesTable) {
    install(table);
    for (family, wide, narrow, apart) in [
        (IpFamily::V4, "10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32"),
        (IpFamily::V6, "2001:db8::/32", "2001:db8:1::/48", "2001:db9::7/128"),
    ] {
        let at = |number| VipPort { addr: addr(family, number), protocol: Protocol::Tcp, port: port(80) };
        let allow = |number, clients: &str| {
            RuleElement::Allow(at(number), clients.parse().expect("prefixes of tests are valid"))
        };
        must_apply(table, &adds(&[allow(1, wide), allow(1, apart), allow(2, narrow)]));
        must_apply(table, &adds(&[allow(1, wide)]));
        // A prefix inside of another one does not come: Linux 6.12 says so, 6.1 takes it for the other one.
        let refused = failures(&apply(table, &adds(&[allow(1, narrow)])));
        assert!(refused.is_empty() || refused == [(0, libc::EEXIST)], "{refused:?}");
        assert_elements(table, &[allow(1, wide), allow(1, apart), allow(2, narrow)]);
        // One transaction replaces a prefix by another that overlaps with it.
        must_apply(table, &[RulesOp::DeleteElement(allow(1, wide)), RulesOp::AddElement(allow(1, narrow))]);
        assert_elements(table, &[allow(1, narrow), allow(1, apart), allow(2, narrow)]);
        must_apply(table, &[RulesOp::DeleteElement(allow(1, narrow)), RulesOp::AddElement(allow(1, wide))]);
        must_apply(table, &deletes(&[allow(1, wide), allow(1, apart), allow(2, narrow)]));
        assert_elements(table, &[]);
    }
}

pub(super) fn another_mark(table: &mut dyn RulesTable) {
    install(table);
    let front = Front::node(IpFamily::V4, Protocol::Tcp, port(30_080));
    let [first, second] = [1, 2].map(|number| RuleElement::Mark(front, mark(number)));
    must_apply(table, &adds(&[first]));
    assert_eq!(failures(&apply(table, &adds(&[second]))), [(0, libc::EEXIST)]);
    assert_elements(table, &[first]);
    must_apply(table, &[RulesOp::DeleteElement(first), RulesOp::AddElement(second)]);
    assert_elements(table, &[second]);
    // In another map, and in the other family, the same front is another one.
    let others = [
        RuleElement::Mark(front.for_external(), mark(3)),
        RuleElement::Unmarked(front.for_external(), mark(3)),
        RuleElement::Mark(Front::node(IpFamily::V6, Protocol::Tcp, port(30_080)), mark(2)),
    ];
    must_apply(table, &adds(&others));
    assert_elements(table, &[&others[..], &[second]].concat());
}

pub(super) fn delete_absent(table: &mut dyn RulesTable) {
    install(table);
    must_apply(table, &adds(&[vip(1)]));
    let ops = [RulesOp::AddElement(vip(2)), RulesOp::DeleteElement(vip(3)), RulesOp::DeleteElement(vip(1))];
    let report = apply(table, &ops);
    assert_eq!(failures(&report), [(1, libc::ENOENT)]);
    assert!(!report.replies_lost);
    assert_elements(table, &[vip(1)]);
}

pub(super) fn all_failures_are_named(table: &mut dyn RulesTable) {
    install(table);
    must_apply(table, &adds(&[vip(1), vip(2)]));
    let ops = [
        RulesOp::DeleteElement(vip(1)),
        RulesOp::DeleteElement(vip(1)),
        RulesOp::AddElement(service(RuleSet::Services, IpFamily::V6, 1)),
        RulesOp::DeleteElement(service(RuleSet::Services, IpFamily::V4, 1)),
        RulesOp::DeleteElement(vip(7)),
        RulesOp::InstallLayout(RulesLayout::default()),
        RulesOp::DeleteElement(vip(2)),
        RulesOp::DeleteElement(vip(8)),
    ];
    let failed = [1, 3, 4, 7].map(|index| (index, libc::ENOENT));
    assert_eq!(failures(&apply(table, &ops)), failed);
    assert_elements(table, &[vip(1), vip(2)]);
}

pub(super) fn order(table: &mut dyn RulesTable) {
    install(table);
    must_apply(table, &adds(&[vip(1), vip(2)]));
    let ops = [
        RulesOp::DeleteElement(vip(1)),
        RulesOp::AddElement(vip(1)),
        RulesOp::AddElement(vip(3)),
        RulesOp::DeleteElement(vip(3)),
        RulesOp::DeleteElement(vip(2)),
    ];
    must_apply(table, &ops);
    assert_elements(table, &[vip(1)]);
    let report = apply(table, &[RulesOp::DeleteElement(vip(4)), RulesOp::AddElement(vip(4))]);
    assert_eq!(failures(&report), [(0, libc::ENOENT)]);
    assert_elements(table, &[vip(1)]);
}

pub(super) fn reasons(table: &mut dyn RulesTable) {
    install(table);
    let absent = service(RuleSet::NoEndpoints, IpFamily::V4, 1);
    let report = apply(table, &deletes(&[absent]));
    let reason = &report.failed[0].reason;
    for part in ["delete element no-endpoints 10.96.0.1:80/UDP", "ENOENT (2)", "is missing"] {
        assert!(reason.contains(part), "{reason}");
    }
}
