//! An ordered list of writes.

use std::{collections::BTreeMap, fmt};

use drain::{Cause, Key};
use lb_types::Operation;

/// Place of a write within its plan: make before break.
///
/// A VIP never leads to a virtual server whose packet rules do not exist yet, and no real server goes before the
/// ones that replace it have come. This is the only place where the order stands: printing, counting and applying
/// walk the stages as they are declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Kernel parameters that keep routes which later ones would end.
    KeepRoutes,
    /// Kernel parameters.
    Sysctls,
    /// Real servers whose address has changed hands: their connections must not reach the new owner, so that they go
    /// before anything comes.
    Evict,
    /// `kube-ipvs0`.
    Link,
    /// Kernel parameters of `kube-ipvs0`.
    LinkSysctls,
    /// Chains, and elements that come.
    RulesAdd,
    /// Virtual servers that come: before all real servers, so that none is sent for one that the kernel refuses.
    ServersAdd,
    /// Virtual servers that change, and real servers that come or change.
    IpvsAdd,
    /// VIPs that come.
    VipsAdd,
    /// VIPs that go.
    VipsRemove,
    /// Virtual and real servers that go, or are quiesced.
    IpvsRemove,
    /// Elements that go.
    RulesRemove,
    /// Tracked connections that stand on what has gone, or began before it came: last, so that no packet makes them
    /// anew.
    Flows,
}

/// A drain that begins when its plan is executed, unless it runs already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewDrain {
    /// The real server.
    pub key: Key,
    /// Why it begins.
    pub cause: Cause,
}

/// Every write that a sync makes, in order; the executor adds nothing and leaves nothing out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    stages: BTreeMap<Stage, Vec<Operation>>,
    /// Drains that begin, or that learn of a cause that says more; their writes are quiescing ones.
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

    /// Whether nothing would be written.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }
}

impl fmt::Display for Plan {
    /// One line per write, in the order of execution.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operations().try_for_each(|op| writeln!(f, "{op}"))
    }
}
