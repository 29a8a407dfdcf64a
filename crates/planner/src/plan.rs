//! The plan: all writes of one sync, in their order.
//!
//! This module owns the order of writes ([`Stage`]), and nothing else has an opinion on it: [`crate::diff`]
//! says what is written and names a stage for it, the executor walks the stages from first to last, and
//! `kube-ipvs plan` prints the same value. It never decides whether a write is needed, and never touches the
//! kernel.
//!
//! Reading order: [`Stage`], [`Plan`], [`NewDrain`].

use std::{collections::BTreeMap, fmt};

use drain::{Cause, Key};
use lb_types::Operation;

/// Place of a write within its plan: make before break.
///
/// A VIP never leads to a virtual server whose packet rules do not exist yet, and no real server goes before
/// the ones that replace it have come. This is the only place where the order stands: printing, counting and
/// applying walk the stages as they are declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Kernel parameters that keep routes which later ones would end.
    KeepRoutes,
    /// Kernel parameters.
    Sysctls,
    /// Real servers whose address has changed hands. They go before anything comes, because their connections
    /// must not reach the new owner.
    Evict,
    /// Rules of the routing policy for steered packets, which are without effect as long as no packet is.
    RoutingRules,
    /// `kube-ipvs0`.
    Link,
    /// Kernel parameters of `kube-ipvs0`.
    LinkSysctls,
    /// Chains, and elements to add.
    RulesAdd,
    /// Virtual servers to add: before all real servers, so that none is sent for a virtual server that the
    /// kernel refuses.
    ServersAdd,
    /// Virtual servers to change, and real servers to add or change.
    IpvsAdd,
    /// VIPs to bind.
    VipsAdd,
    /// Elements that lead clients from one virtual server to another, once that one is complete and before the
    /// first one drains.
    RulesLead,
    /// VIPs to release.
    VipsRemove,
    /// Virtual and real servers to remove, and real servers to quiesce.
    IpvsRemove,
    /// Elements to delete.
    RulesRemove,
    /// Tracked connections that depend on what has gone, or that began before it came: last, so that no
    /// packet creates them anew.
    Conntrack,
}

/// A drain that begins when its plan is executed, unless it runs already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewDrain {
    /// The real server.
    pub key: Key,
    /// Reason for it to begin.
    pub cause: Cause,
}

/// Every write that a sync makes, in order; the executor adds nothing and leaves nothing out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    stages: BTreeMap<Stage, Vec<Operation>>,
    /// Drains that begin, or whose cause is replaced by one that says more; their writes set the weight to 0.
    pub drains: Vec<NewDrain>,
    /// Draining real servers that serve again; their writes raise the weight.
    pub returned: Vec<Key>,
}

impl Plan {
    /// Adds a write behind those of its stage.
    pub fn push(&mut self, stage: Stage, op: impl Into<Operation>) {
        self.extend(stage, [op]);
    }

    /// Adds writes behind those of their stage.
    pub fn extend<Op: Into<Operation>>(&mut self, stage: Stage, ops: impl IntoIterator<Item = Op>) {
        let mut ops = ops.into_iter().map(Into::into).peekable();
        if ops.peek().is_some() {
            self.stages.entry(stage).or_default().extend(ops);
        }
    }

    /// Adds the writes of another plan, each behind those of its stage.
    pub fn append(&mut self, other: Plan) {
        for (stage, ops) in other.stages {
            self.extend(stage, ops);
        }
        self.drains.extend(other.drains);
        self.returned.extend(other.returned);
    }

    /// Writes in the order of execution, those of a stage together.
    pub fn stages(&self) -> impl Iterator<Item = (Stage, &[Operation])> {
        self.stages.iter().map(|(stage, ops)| (*stage, &**ops))
    }

    /// All writes in the order of execution.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.stages.values().flatten()
    }

    /// Number of writes.
    pub fn len(&self) -> usize {
        self.stages.values().map(Vec::len).sum()
    }

    /// Tells whether nothing would be written.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }
}

impl fmt::Display for Plan {
    /// Prints one line per write, in the order of execution.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operations().try_for_each(|op| writeln!(f, "{op}"))
    }
}
