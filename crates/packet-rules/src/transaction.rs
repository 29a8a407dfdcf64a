//! Operations as one transaction: its messages, and the operations behind each.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use dataplane::{FailedOp, explain_rules};
use lb_types::{RuleElement, RulesOp};

use crate::{
    encode::{Change, ELEMENTS_PER_MESSAGE, Elements, Encoder},
    install::{Write, diff_table},
    observed::{ObservedTable, ObservedTables},
    render::render,
    spec::{SetId, TableFamily, TableSpec},
};

/// Messages between the beginning and the end of a batch.
#[derive(Default)]
pub(crate) struct Transaction {
    /// The messages, one behind the other, each padded to 4 bytes.
    pub(crate) bytes: Vec<u8>,
    pub(crate) messages: Vec<Sent>,
}

/// One message of a transaction.
pub(crate) struct Sent {
    /// Offset of its first byte in the transaction.
    pub(crate) start: usize,
    /// Positions of the operations that it executes.
    pub(crate) ops: Vec<usize>,
}

/// A message that the kernel refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// Position in the transaction.
    pub(crate) message: usize,
    pub(crate) errno: i32,
    /// The kernel's own words.
    pub(crate) text: Option<String>,
}

fn failed(index: usize, op: &RulesOp, errno: i32, text: Option<&str>) -> FailedOp {
    let mut reason = explain_rules(op, errno);
    if let Some(text) = text {
        reason = format!("{reason} (kernel: {text})");
    }
    FailedOp { index, errno, reason }
}

/// Tells whether the messages depend on what is there, so that the table must be read first.
pub(crate) fn depends_on_table(ops: &[RulesOp]) -> bool {
    ops.iter().any(|op| matches!(op, RulesOp::InstallLayout(_) | RulesOp::DeleteTable))
}

impl Transaction {
    /// The transaction that creates a table, and nothing else.
    pub(crate) fn create_table(family: TableFamily) -> Self {
        let mut out = Transaction::default();
        out.push(&Encoder::new().write(family, &Write::CreateTable), vec![0]);
        out
    }

    /// Encodes operations over our tables. Those in `alone` get a message of their own.
    pub(crate) fn build(ops: &[RulesOp], mut tables: ObservedTables, alone: &HashSet<usize>) -> Self {
        let mut builder =
            Builder { encoder: Encoder::new(), alone, queues: BTreeMap::new(), out: Transaction::default() };
        for (index, op) in ops.iter().enumerate() {
            match op {
                RulesOp::AddElement(element) => builder.element(index, Change::Add, element),
                RulesOp::DeleteElement(element) => builder.element(index, Change::Delete, element),
                RulesOp::InstallLayout(layout) => {
                    builder.tables(index, |family| render(family, layout), &mut tables)
                }
                RulesOp::DeleteTable => builder.tables(index, |_| None, &mut tables),
            }
        }
        builder.flush();
        builder.out
    }

    fn push(&mut self, message: &[u8], ops: Vec<usize>) {
        self.messages.push(Sent { start: self.bytes.len(), ops });
        self.bytes.extend_from_slice(message);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Number of operations that it executes.
    pub(crate) fn operations(&self) -> usize {
        self.messages.iter().map(|sent| sent.ops.len()).sum()
    }

    /// Operations behind refused messages that must be sent one by one to learn which of them are at fault.
    ///
    /// The kernel stops at the first bad element of a message, and only newer ones say which it was.
    pub(crate) fn suspects(&self, ops: &[RulesOp], refusals: &[Refusal]) -> BTreeSet<usize> {
        let doubtful = refusals.iter().filter(|refusal| {
            let sent = &self.messages[refusal.message].ops;
            sent.len() > 1 && !blames_all(&ops[sent[0]], refusal.errno)
        });
        doubtful.flat_map(|refusal| self.messages[refusal.message].ops.iter().copied()).collect()
    }

    /// The operations that failed, each with its first error, in order.
    pub(crate) fn failed_ops(&self, ops: &[RulesOp], refusals: &[Refusal]) -> Vec<FailedOp> {
        let mut failures = BTreeMap::new();
        for refusal in refusals {
            for index in &self.messages[refusal.message].ops {
                failures.entry(*index).or_insert(refusal);
            }
        }
        let report = |(index, refusal): (usize, &Refusal)| {
            failed(index, &ops[index], refusal.errno, refusal.text.as_deref())
        };
        failures.into_iter().map(report).collect()
    }
}

/// Tells whether an error of a message concerns all its elements: adding fails so only without set or table.
fn blames_all(op: &RulesOp, errno: i32) -> bool {
    matches!(op, RulesOp::AddElement(_)) && errno == libc::ENOENT
}

/// Collects elements by set; what sets contain does not depend on each other.
struct Builder<'a> {
    encoder: Encoder,
    alone: &'a HashSet<usize>,
    queues: BTreeMap<SetId, Queue>,
    out: Transaction,
}

/// Elements of one set on their way into one message.
struct Queue {
    change: Change,
    ops: Vec<usize>,
    elements: Elements,
}

impl Builder<'_> {
    fn element(&mut self, index: usize, change: Change, element: &RuleElement) {
        let id = SetId::of(element);
        let alone = self.alone.contains(&index);
        if let Some(queue) = self.queues.get(&id)
            && (alone || queue.change != change || queue.ops.len() == ELEMENTS_PER_MESSAGE)
        {
            self.flush_set(id);
        }
        let queue = self.queues.entry(id).or_insert_with(|| Queue {
            change,
            ops: vec![],
            elements: Elements::default(),
        });
        queue.ops.push(index);
        queue.elements.push(element);
        if alone {
            self.flush_set(id);
        }
    }

    fn writes(&mut self, index: usize, table: TableFamily, writes: &[Write]) {
        self.flush();
        for write in writes {
            let message = self.encoder.write(table, write);
            self.out.push(&message, vec![index]);
        }
    }

    /// Makes each table what is wanted of its family, or nothing; `tables` are what they are before, and then after.
    fn tables(
        &mut self,
        index: usize,
        wanted: impl Fn(TableFamily) -> Option<TableSpec>,
        tables: &mut ObservedTables,
    ) {
        for family in TableFamily::ALL {
            let (wanted, table) = (wanted(family), tables.table_mut(family));
            match &wanted {
                Some(wanted) => self.writes(index, family, &diff_table(wanted, table)),
                None if table.flags.is_some() => self.writes(index, family, &[Write::DeleteTable]),
                None => {}
            }
            *table = wanted.as_ref().map(ObservedTable::from).unwrap_or_default();
        }
    }

    fn flush(&mut self) {
        for id in SetId::all_planned() {
            self.flush_set(id);
        }
    }

    fn flush_set(&mut self, id: SetId) {
        if let Some(Queue { change, ops, elements }) = self.queues.remove(&id) {
            let message = self.encoder.elements(id, change, &elements);
            self.out.push(&message, ops);
        }
    }
}
