use lb_types::{Protocol, RulesLayout, VipPort};
use netlink::Messages;

use super::*;
use crate::nft;

fn vip(number: u32) -> RuleElement {
    RuleElement::Vip(std::net::Ipv4Addr::from(number).into())
}

fn service(number: u32) -> RuleElement {
    let port = std::num::NonZeroU16::MAX;
    let addr = std::net::Ipv4Addr::from(number).into();
    RuleElement::Service(VipPort { addr, protocol: Protocol::Tcp, port })
}

fn add(element: RuleElement) -> RulesOp {
    RulesOp::AddElement(element)
}

fn delete(element: RuleElement) -> RulesOp {
    RulesOp::DeleteElement(element)
}

fn build(ops: &[RulesOp]) -> Transaction {
    Transaction::build(ops, ObservedTables::default(), &HashSet::new())
}

/// Kinds of the messages (12: add elements, 14: delete elements) and the operations behind each.
fn shape(transaction: &Transaction) -> Vec<(u16, Vec<usize>)> {
    let kinds: Vec<_> = Messages::new(&transaction.bytes).map(|message| nft::number(message.kind)).collect();
    assert_eq!(kinds.len(), transaction.messages.len());
    kinds.into_iter().zip(transaction.messages.iter().map(|sent| sent.ops.clone())).collect()
}

fn refusal(message: usize, errno: i32) -> Refusal {
    Refusal { message, errno, text: None }
}

#[test]
fn elements_of_a_set_share_messages_however_mixed_they_come() {
    let ops: Vec<_> = (1..=2_500).flat_map(|n| [add(vip(n)), add(service(n))]).collect();
    let counts: Vec<_> = shape(&build(&ops)).into_iter().map(|(kind, ops)| (kind, ops.len())).collect();
    let full = [(12, 600); 8];
    assert_eq!(counts, [&full[..], &[(12, 100), (12, 100)]].concat());
}

#[test]
fn the_order_on_one_set_stays() {
    let ops = [delete(vip(1)), add(vip(1)), add(service(1)), add(vip(2)), delete(vip(1))];
    assert_eq!(shape(&build(&ops)), [(14, vec![0]), (12, vec![1, 3]), (14, vec![4]), (12, vec![2])]);
}

#[test]
fn layouts_stand_between_elements() {
    let tables = ObservedTables::from(&RulesLayout::default());
    let ops = [
        add(vip(1)),
        RulesOp::InstallLayout(RulesLayout::default()),
        add(vip(2)),
        RulesOp::DeleteTable,
        RulesOp::DeleteTable,
        add(vip(3)),
    ];
    let transaction = Transaction::build(&ops, tables, &HashSet::new());
    let expected = [(12, vec![0]), (12, vec![2]), (2, vec![3]), (2, vec![3]), (12, vec![5])];
    assert_eq!(shape(&transaction), expected, "the layout is current, and a table goes only once");
}

#[test]
fn what_a_layout_needs_after_a_deletion_is_everything() {
    let tables = ObservedTables::from(&RulesLayout::default());
    let ops = [RulesOp::DeleteTable, RulesOp::InstallLayout(RulesLayout::default())];
    let anew = shape(&Transaction::build(&ops, tables, &HashSet::new()));
    let first = shape(&build(&ops[1..]));
    assert_eq!(anew[..2], [(2, vec![0]), (2, vec![0])]);
    assert_eq!(
        anew[2..].iter().map(|m| m.0).collect::<Vec<_>>(),
        first.iter().map(|m| m.0).collect::<Vec<_>>()
    );
}

#[test]
fn suspects_are_sent_alone() {
    let ops: Vec<_> = (0..5).map(|n| delete(vip(n))).collect();
    let transaction = build(&ops);
    let suspects = transaction.suspects(&ops, &[refusal(0, libc::ENOENT)]);
    assert_eq!(suspects, (0..5).collect());
    let alone = Transaction::build(&ops, ObservedTables::default(), &HashSet::from([1, 3]));
    assert_eq!(shape(&alone), [vec![0], vec![1], vec![2], vec![3], vec![4]].map(|ops| (14, ops)));
    let report = alone.failed_ops(&ops, &[refusal(3, libc::ENOENT)]);
    assert_eq!(
        report.iter().map(|failed| (failed.index, failed.errno)).collect::<Vec<_>>(),
        [(3, libc::ENOENT)]
    );
    assert!(alone.suspects(&ops, &[refusal(3, libc::ENOENT)]).is_empty());
}

#[test]
fn without_a_set_every_addition_fails_alike() {
    let ops: Vec<_> = (0..5).map(|n| add(vip(n))).collect();
    let (transaction, refusals) = (build(&ops), [refusal(0, libc::ENOENT)]);
    assert!(transaction.suspects(&ops, &refusals).is_empty());
    assert_eq!(transaction.failed_ops(&ops, &refusals).len(), 5);
    assert_eq!(transaction.suspects(&ops, &[refusal(0, libc::ENOMEM)]).len(), 5);
}

#[test]
fn an_operation_of_many_messages_fails_once_with_the_kernels_words() {
    let ops = [RulesOp::InstallLayout(RulesLayout::default())];
    let transaction = build(&ops);
    let words = Refusal { message: 20, errno: libc::ENOENT, text: Some("No such expression".to_owned()) };
    let report = transaction.failed_ops(&ops, &[words, refusal(22, libc::EINVAL)]);
    assert_eq!(report.len(), 1);
    let reason = &report[0].reason;
    assert!(
        reason.contains("modprobe -a nf_tables") && reason.ends_with("(kernel: No such expression)"),
        "{reason}"
    );
}
