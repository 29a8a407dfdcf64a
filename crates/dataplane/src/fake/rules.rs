//! The nftables table in memory.

mod kernel;
#[cfg(test)]
mod tests;

use std::{cell::RefCell, collections::BTreeSet, rc::Rc};

use kernel::Table;
use lb_types::{RuleElement, RuleSet, RulesLayout, RulesOp};

use super::faults::{Faults, fault_injection};
use crate::{BatchReport, FailedOp, ForwardDrop, ObservedRules, RulesTable, TableError, explain_rules};

/// The nftables table in memory, refusing what the kernel refuses: all of a transaction or nothing.
///
/// A clone is another handle to the same table. All counting and fault injection concerns calls through
/// [`RulesTable`] only; the methods of this type are the test's own hands.
#[derive(Clone, Default)]
pub struct FakeRules(Rc<RefCell<State>>);

#[derive(Default)]
struct State {
    table: Table,
    requests: usize,
    transactions: usize,
    log: Vec<RulesOp>,
    faults: Faults<RulesOp>,
    forward_drops: Vec<ForwardDrop>,
    /// True if there can be no tables of family arp.
    lacks_arp: bool,
}

/// Contents, for tests.
impl FakeRules {
    /// All elements; empty without a table.
    pub fn elements(&self) -> BTreeSet<RuleElement> {
        self.0.borrow().table.elements()
    }

    /// Tells whether the table exists.
    pub fn exists(&self) -> bool {
        self.0.borrow().table.exists()
    }

    /// The layout of the table; `None` without a table, or if somebody has changed its chains.
    pub fn layout(&self) -> Option<RulesLayout> {
        self.0.borrow().table.layout().cloned()
    }

    /// Requests so far: one for every operation, refused ones included, and one for every dump.
    pub fn requests(&self) -> usize {
        self.0.borrow().requests
    }

    /// Transactions so far, failed ones included; an empty one is not sent and not counted.
    pub fn transactions(&self) -> usize {
        self.0.borrow().transactions
    }

    /// Operations of committed transactions since the last [`FakeRules::take_ops`], in order.
    pub fn ops(&self) -> Vec<RulesOp> {
        self.0.borrow().log.clone()
    }

    /// Operations of committed transactions since the last call, in order; empties the log.
    pub fn take_ops(&self) -> Vec<RulesOp> {
        std::mem::take(&mut self.0.borrow_mut().log)
    }
}

/// Changes by somebody else, for tests.
impl FakeRules {
    /// Somebody deletes the table, as `nft flush ruleset` does.
    pub fn delete_table(&self) {
        self.0.borrow_mut().table = Table::default();
    }

    /// Somebody changes a rule or chain, or an older version has left the table: its layout is not current.
    ///
    /// # Panics
    /// If there is no table.
    pub fn change_chains(&self) {
        self.0.borrow_mut().table.change_chains();
    }

    /// An older version has left a set with keys of another form, whose elements nobody can read; with the next layout
    /// it is made anew.
    ///
    /// # Panics
    /// If there is no table.
    pub fn age_set(&self, set: RuleSet) {
        let table = &mut self.0.borrow_mut().table;
        table.change_chains();
        table.forget(set);
    }

    /// Chooses a kernel without tables of family arp.
    pub fn lack_arp(&self) {
        self.0.borrow_mut().lacks_arp = true;
    }

    /// Chains of others that drop the answers of pods from now on.
    pub fn set_forward_drops(&self, drops: Vec<ForwardDrop>) {
        self.0.borrow_mut().forward_drops = drops;
    }

    /// Somebody adds an element.
    ///
    /// # Panics
    /// If there is no table.
    pub fn add_element(&self, element: RuleElement) {
        self.by_another(&RulesOp::AddElement(element));
    }

    /// Somebody deletes an element.
    ///
    /// # Panics
    /// If there is no such element.
    pub fn delete_element(&self, element: RuleElement) {
        self.by_another(&RulesOp::DeleteElement(element));
    }

    fn by_another(&self, op: &RulesOp) {
        if let Err(errno) = self.0.borrow_mut().table.execute(op) {
            panic!("{}", explain_rules(op, errno));
        }
    }
}

// A refused operation takes its transaction along.
fault_injection!(FakeRules, RulesOp);

impl State {
    /// Tries every operation, as the kernel does; the caller commits the table or drops it.
    fn attempt(&mut self, table: &mut Table, ops: &[RulesOp]) -> Vec<FailedOp> {
        let mut failed = Vec::new();
        for (index, op) in ops.iter().enumerate() {
            self.requests += 1;
            let result = match self.faults.next_op(op) {
                Some(errno) => Err(errno),
                None => table.execute(op),
            };
            if let Err(errno) = result {
                failed.push(FailedOp { index, errno, reason: explain_rules(op, errno) });
            }
        }
        failed
    }
}

impl RulesTable for FakeRules {
    fn observe(&mut self, wanted: &RulesLayout) -> Result<ObservedRules, TableError> {
        let mut state = self.0.borrow_mut();
        state.requests += 1;
        state.faults.next_call("dump the tables of kube-ipvs")?;
        Ok(ObservedRules {
            table: state.table.exists(),
            layout_current: state.table.layout() == Some(wanted),
            elements: state.table.elements().into_iter().collect(),
        })
    }

    fn has_arp(&mut self) -> Result<bool, TableError> {
        Ok(!self.0.borrow().lacks_arp)
    }

    fn forward_drops(&mut self) -> Result<Vec<ForwardDrop>, TableError> {
        Ok(self.0.borrow().forward_drops.clone())
    }

    fn apply(&mut self, ops: &[RulesOp]) -> Result<BatchReport, TableError> {
        if ops.is_empty() {
            return Ok(BatchReport::default());
        }
        let state = &mut *self.0.borrow_mut();
        state.faults.next_call("change the tables of kube-ipvs")?;
        state.transactions += 1;
        let mut table = state.table.clone();
        let failed = state.attempt(&mut table, ops);
        if failed.is_empty() {
            state.table = table;
            state.log.extend_from_slice(ops);
        }
        Ok(state.faults.report(failed))
    }
}
