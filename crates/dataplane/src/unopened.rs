//! A table that could not be opened.

use std::collections::BTreeSet;

use lb_types::{
    ConntrackFilter, IpvsOp, MarkRule, RulesLayout, RulesOp, Scheduler, VipOp, VipPort, VirtualServerId,
};

use crate::{
    BatchReport, ConntrackTable, ErrorKind, ForwardDrop, IpvsTable, ObservedRealServer, ObservedRules,
    ObservedVips, RulesTable, TableError, VipTable, VirtualServerDump,
};

/// Stand-in for a table that could not be opened: every call fails as opening it did, so that the other
/// tables work all the same.
#[derive(Clone, Debug)]
pub struct Unopened {
    operation: String,
    kind: ErrorKind,
    reason: String,
}

impl Unopened {
    /// Takes the operation that failed, the kind of the failure, and its reason.
    pub fn new(operation: impl Into<String>, kind: ErrorKind, reason: impl Into<String>) -> Self {
        Unopened { operation: operation.into(), kind, reason: reason.into() }
    }

    fn fail<T>(&self) -> Result<T, TableError> {
        Err(TableError::new(self.operation.as_str(), self.kind, self.reason.as_str()))
    }
}

impl IpvsTable for Unopened {
    fn dump_virtual_servers(&mut self) -> Result<VirtualServerDump, TableError> {
        self.fail()
    }

    fn dump_real_servers(&mut self, _vs: VirtualServerId) -> Result<Vec<ObservedRealServer>, TableError> {
        self.fail()
    }

    fn has_scheduler(&mut self, _scheduler: Scheduler) -> Result<bool, TableError> {
        self.fail()
    }

    fn apply(&mut self, _ops: &[IpvsOp]) -> Result<BatchReport, TableError> {
        self.fail()
    }
}

impl VipTable for Unopened {
    fn observe(&mut self) -> Result<ObservedVips, TableError> {
        self.fail()
    }

    fn mark_rules(&mut self) -> Result<Vec<MarkRule>, TableError> {
        self.fail()
    }

    fn advertised_links(&mut self) -> Result<BTreeSet<String>, TableError> {
        self.fail()
    }

    fn apply(&mut self, _ops: &[VipOp]) -> Result<BatchReport, TableError> {
        self.fail()
    }

    fn listeners(&mut self, _ports: &[VipPort]) -> Result<BTreeSet<VipPort>, TableError> {
        self.fail()
    }
}

impl RulesTable for Unopened {
    fn observe(&mut self, _wanted: &RulesLayout) -> Result<ObservedRules, TableError> {
        self.fail()
    }

    fn forward_drops(&mut self) -> Result<Vec<ForwardDrop>, TableError> {
        self.fail()
    }

    fn apply(&mut self, _ops: &[RulesOp]) -> Result<BatchReport, TableError> {
        self.fail()
    }
}

impl ConntrackTable for Unopened {
    fn delete_flows(&mut self, _filters: &[ConntrackFilter]) -> Result<usize, TableError> {
        self.fail()
    }
}
