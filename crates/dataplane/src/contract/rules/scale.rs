//! Elements by the thousand.

use lb_types::{IpFamily, RuleElement, RuleSet, RulesLayout, RulesOp};

use super::{adds, apply, assert_elements, deletes, failures, install, must_apply, observe, service, vip};
use crate::RulesTable;

/// Elements of the sets that grow with services and endpoints, as a sync of a large cluster has them: mixed.
fn elements(count: u32) -> Vec<RuleElement> {
    let kinds: [fn(u32) -> RuleElement; 5] = [
        vip,
        |n| service(RuleSet::Services, IpFamily::V4, n),
        |n| service(RuleSet::MasqueradeNonLocal, IpFamily::V6, n),
        |n| service(RuleSet::Services, IpFamily::V6, n),
        |n| service(RuleSet::MasqueradeNonLocal, IpFamily::V4, n),
    ];
    (0..count).map(|n| kinds[n as usize % kinds.len()](n + 1)).collect()
}

pub(super) fn ten_thousand(table: &mut dyn RulesTable) {
    let mut ops = vec![RulesOp::InstallLayout(RulesLayout::default())];
    ops.extend(adds(&elements(10_000)));
    must_apply(table, &ops);
    assert_elements(table, &elements(10_000));
}

pub(super) fn hundred_thousand(table: &mut dyn RulesTable) {
    install(table);
    must_apply(table, &adds(&elements(100_000)));
    assert_elements(table, &elements(100_000));
    let (gone, left) = (&elements(100_000)[..99_990], &elements(100_000)[99_990..]);
    must_apply(table, &deletes(gone));
    assert_elements(table, left);
}

pub(super) fn grown(table: &mut dyn RulesTable) {
    install(table);
    let elements: Vec<_> = (1..=20_000).map(vip).collect();
    for half in elements.chunks(10_000) {
        must_apply(table, &adds(half));
        assert_eq!(observe(table).elements.len() % 10_000, 0);
    }
    assert_elements(table, &elements);
}

pub(super) fn failures_among_many(table: &mut dyn RulesTable) {
    install(table);
    must_apply(table, &adds(&elements(10_000)));
    let before = observe(table);
    let mut ops = deletes(&elements(10_000));
    for index in [0, 4_321, 9_999] {
        ops[index] = RulesOp::DeleteElement(vip(77_777 + index as u32));
    }
    let failed = [0, 4_321, 9_999].map(|index| (index, libc::ENOENT));
    assert_eq!(failures(&apply(table, &ops)), failed);
    assert!(observe(table) == before, "a failed transaction has left something");
}

pub(super) fn all_fail(table: &mut dyn RulesTable) {
    install(table);
    let report = apply(table, &deletes(&elements(3_000)));
    assert_eq!(report.failed.len(), 3_000);
    assert!(
        report.failed.iter().enumerate().all(|(i, failed)| failed.index == i && failed.errno == libc::ENOENT)
    );
    assert_elements(table, &[]);
}
