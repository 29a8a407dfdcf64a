//! The table and its chains.

use lb_types::{RulesLayout, RulesOp};

use super::{
    adds, apply, assert_elements, failures, install as install_default, layouts, must_apply, observe,
    one_of_each, vip,
};
use crate::{BatchReport, ObservedRules, RulesTable};

pub(super) fn fresh(table: &mut dyn RulesTable) {
    assert_eq!(observe(table), ObservedRules::default());
}

pub(super) fn empty(table: &mut dyn RulesTable) {
    assert_eq!(apply(table, &[]), BatchReport::default());
    assert_eq!(observe(table), ObservedRules::default());
}

pub(super) fn install(table: &mut dyn RulesTable) {
    let layouts = layouts();
    must_apply(table, &[RulesOp::InstallLayout(layouts[1].clone())]);
    for (i, layout) in layouts.iter().enumerate() {
        let seen = table.observe(layout).expect("the table can be dumped");
        assert_eq!((seen.table, seen.layout_current), (true, i == 1), "{layout:?}");
    }
}

pub(super) fn install_again(table: &mut dyn RulesTable) {
    install_default(table);
    must_apply(table, &adds(&one_of_each(1)));
    let before = observe(table);
    install_default(table);
    assert_eq!(observe(table), before);
    assert!(before.layout_current);
}

pub(super) fn change(table: &mut dyn RulesTable) {
    install_default(table);
    must_apply(table, &adds(&one_of_each(1)));
    must_apply(table, &[RulesOp::InstallLayout(layouts()[3].clone())]);
    assert!(!observe(table).layout_current);
    assert_elements(table, &one_of_each(1));
}

pub(super) fn all_pairs(table: &mut dyn RulesTable) {
    let layouts = layouts();
    for first in &layouts {
        for second in &layouts {
            for layout in [first, second] {
                must_apply(table, &[RulesOp::InstallLayout(layout.clone())]);
                let seen = table.observe(layout).expect("the table can be dumped");
                assert!(seen.layout_current, "{layout:?} after {first:?}");
            }
        }
    }
}

pub(super) fn delete(table: &mut dyn RulesTable) {
    must_apply(table, &[RulesOp::DeleteTable]);
    install_default(table);
    must_apply(table, &adds(&one_of_each(1)));
    must_apply(table, &[RulesOp::DeleteTable]);
    assert_eq!(observe(table), ObservedRules::default());
    must_apply(table, &[RulesOp::DeleteTable]);
}

pub(super) fn install_with_elements(table: &mut dyn RulesTable) {
    let mut ops = vec![RulesOp::InstallLayout(RulesLayout::default())];
    ops.extend(adds(&one_of_each(1)));
    must_apply(table, &ops);
    assert_elements(table, &one_of_each(1));
    assert!(observe(table).layout_current);
}

pub(super) fn delete_and_install(table: &mut dyn RulesTable) {
    install_default(table);
    must_apply(table, &adds(&one_of_each(1)));
    let layout = layouts()[4].clone();
    let ops = [RulesOp::DeleteTable, RulesOp::InstallLayout(layout.clone()), RulesOp::AddElement(vip(2))];
    must_apply(table, &ops);
    assert_elements(table, &[vip(2)]);
    assert!(table.observe(&layout).expect("the table can be dumped").layout_current);
    let report = apply(table, &[RulesOp::DeleteTable, RulesOp::AddElement(vip(3))]);
    assert_eq!(failures(&report), [(1, libc::ENOENT)]);
    assert_elements(table, &[vip(2)]);
}

pub(super) fn no_table(table: &mut dyn RulesTable) {
    let report = apply(
        table,
        &[RulesOp::AddElement(vip(1)), RulesOp::AddElement(vip(2)), RulesOp::DeleteElement(vip(1))],
    );
    assert_eq!(failures(&report), [(0, libc::ENOENT), (1, libc::ENOENT), (2, libc::ENOENT)]);
    assert_eq!(observe(table), ObservedRules::default());
}
