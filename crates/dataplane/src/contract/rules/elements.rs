//! Elements, a few at a time.

use lb_types::{IpFamily, RuleSet, RulesLayout, RulesOp};

use super::{
    adds, apply, assert_elements, deletes, failures, install, must_apply, one_of_each, service, vip,
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
