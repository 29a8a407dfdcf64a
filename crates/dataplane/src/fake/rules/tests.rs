use lb_types::{RuleElement, RulesLayout, RulesOp};

use super::FakeRules;
use crate::{ErrorKind, RulesTable, contract};

fn vip(last: u8) -> RuleElement {
    RuleElement::Vip([10, 96, 0, last].into())
}

fn installed() -> FakeRules {
    let mut fake = FakeRules::default();
    fake.apply(&[RulesOp::InstallLayout(RulesLayout::default())]).unwrap();
    fake
}

#[test]
fn contract() {
    for case in contract::rules::CASES.iter().chain(contract::rules::LARGE_CASES) {
        println!("{}", case.name);
        (case.run)(&mut FakeRules::default());
    }
}

#[test]
fn counts_and_logs() {
    let mut fake = installed();
    let handle = fake.clone();
    assert!(fake.apply(&[]).unwrap().is_clean());
    let ops = [RulesOp::AddElement(vip(1)), RulesOp::AddElement(vip(2))];
    assert!(fake.apply(&ops).unwrap().is_clean());
    assert_eq!((handle.transactions(), handle.requests()), (2, 3));
    assert_eq!(handle.take_ops()[1..], ops);
    assert_eq!(handle.ops(), []);
    assert_eq!(handle.elements().len(), 2);
}

#[test]
fn an_injected_failure_undoes_its_transaction() {
    let mut fake = installed();
    fake.fail_nth(2, libc::ENOMEM);
    let ops = [RulesOp::AddElement(vip(1)), RulesOp::AddElement(vip(2)), RulesOp::AddElement(vip(3))];
    let report = fake.apply(&ops).unwrap();
    assert_eq!(report.failed.iter().map(|f| (f.index, f.errno)).collect::<Vec<_>>(), [(1, libc::ENOMEM)]);
    assert!(fake.elements().is_empty());
    assert!(fake.apply(&ops).unwrap().is_clean());
}

#[test]
fn refusals_and_failing_calls() {
    let mut fake = installed();
    fake.refuse(|op| matches!(op, RulesOp::AddElement(_)).then_some(libc::ENFILE));
    assert_eq!(fake.apply(&[RulesOp::AddElement(vip(1))]).unwrap().failed.len(), 1);
    fake.refuse_nothing();
    fake.fail_next_call(ErrorKind::Transient);
    assert!(fake.observe(&RulesLayout::default()).unwrap_err().is_retryable());
    fake.lose_replies_next();
    let report = fake.apply(&[RulesOp::AddElement(vip(1))]).unwrap();
    assert!(report.replies_lost && fake.elements().contains(&vip(1)));
}

#[test]
fn other_hands() {
    let mut fake = installed();
    fake.add_element(vip(9));
    fake.change_chains();
    let seen = fake.observe(&RulesLayout::default()).unwrap();
    assert!(seen.table && !seen.layout_current && seen.elements.contains(&vip(9)));
    fake.delete_element(vip(9));
    fake.delete_table();
    assert!(!fake.observe(&RulesLayout::default()).unwrap().table && fake.layout().is_none());
    assert_eq!(fake.ops().len(), 1);
}
