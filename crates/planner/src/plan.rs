//! An ordered list of writes.

use std::fmt;

use drain::{Cause, Key};
use lb_types::{FlowsOp, IpvsOp, Operation, RulesOp, SysctlOp, VipOp};

/// The order in which the parts of a plan are executed: make before break.
///
/// A VIP never leads to a virtual server whose packet rules do not exist yet, and no real server goes before the
/// ones that replace it have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Kernel parameters.
    Sysctls,
    /// Real servers whose address has changed hands: their connections must not reach the new owner, so that they go
    /// before anything comes.
    IpvsEvict,
    /// `kube-ipvs0`.
    Link,
    /// Kernel parameters of `kube-ipvs0`.
    LinkSysctls,
    /// Chains, and elements that come.
    RulesAdd,
    /// Virtual and real servers that come or change.
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
    /// Who.
    pub key: Key,
    /// Why.
    pub cause: Cause,
}

/// Every write that a sync makes, in order; the executor adds nothing and leaves nothing out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// [`Stage::Sysctls`]
    pub sysctls: Vec<SysctlOp>,
    /// [`Stage::IpvsEvict`]
    pub ipvs_evict: Vec<IpvsOp>,
    /// [`Stage::Link`]
    pub link: Vec<VipOp>,
    /// [`Stage::LinkSysctls`]
    pub link_sysctls: Vec<SysctlOp>,
    /// [`Stage::RulesAdd`]
    pub rules_add: Vec<RulesOp>,
    /// [`Stage::IpvsAdd`]
    pub ipvs_add: Vec<IpvsOp>,
    /// [`Stage::VipsAdd`]
    pub vips_add: Vec<VipOp>,
    /// [`Stage::VipsRemove`]
    pub vips_remove: Vec<VipOp>,
    /// [`Stage::IpvsRemove`]
    pub ipvs_remove: Vec<IpvsOp>,
    /// [`Stage::RulesRemove`]
    pub rules_remove: Vec<RulesOp>,
    /// [`Stage::Flows`]
    pub flows: Vec<FlowsOp>,
    /// Drains that begin, or that learn of a cause that says more; their writes are in `ipvs_remove`.
    pub drains: Vec<NewDrain>,
    /// Draining real servers that serve again; their writes are in `ipvs_add`.
    pub returned: Vec<Key>,
}

impl Plan {
    /// All writes in the order of execution.
    pub fn operations(&self) -> impl Iterator<Item = (Stage, Operation)> {
        let sysctls = self.sysctls.iter().cloned().map(|op| (Stage::Sysctls, Operation::Sysctl(op)));
        let ipvs_evict = ipvs(Stage::IpvsEvict, &self.ipvs_evict);
        let link = vips(Stage::Link, &self.link);
        let link_sysctls = self.link_sysctls.iter().cloned();
        let link_sysctls = link_sysctls.map(|op| (Stage::LinkSysctls, Operation::Sysctl(op)));
        let link = link.chain(link_sysctls);
        let rules_add = rules(Stage::RulesAdd, &self.rules_add);
        let ipvs_add = ipvs(Stage::IpvsAdd, &self.ipvs_add);
        let vips_add = vips(Stage::VipsAdd, &self.vips_add);
        let vips_remove = vips(Stage::VipsRemove, &self.vips_remove);
        let ipvs_remove = ipvs(Stage::IpvsRemove, &self.ipvs_remove);
        let rules_remove = rules(Stage::RulesRemove, &self.rules_remove);
        let flows = self.flows.iter().map(|op| (Stage::Flows, Operation::Flows(*op)));
        let make = sysctls.chain(ipvs_evict).chain(link).chain(rules_add).chain(ipvs_add).chain(vips_add);
        make.chain(vips_remove).chain(ipvs_remove).chain(rules_remove).chain(flows)
    }

    /// Number of writes.
    pub fn len(&self) -> usize {
        self.sysctls.len()
            + self.ipvs_evict.len()
            + self.link.len()
            + self.link_sysctls.len()
            + self.rules_add.len()
            + self.ipvs_add.len()
            + self.vips_add.len()
            + self.vips_remove.len()
            + self.ipvs_remove.len()
            + self.rules_remove.len()
            + self.flows.len()
    }

    /// Whether nothing would be written.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn vips(stage: Stage, ops: &[VipOp]) -> impl Iterator<Item = (Stage, Operation)> {
    ops.iter().map(move |op| (stage, Operation::Vip(*op)))
}

fn ipvs(stage: Stage, ops: &[IpvsOp]) -> impl Iterator<Item = (Stage, Operation)> {
    ops.iter().map(move |op| (stage, Operation::Ipvs(*op)))
}

fn rules(stage: Stage, ops: &[RulesOp]) -> impl Iterator<Item = (Stage, Operation)> {
    ops.iter().map(move |op| (stage, Operation::Rules(op.clone())))
}

impl fmt::Display for Plan {
    /// One line per write, in the order of execution.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.operations().try_for_each(|(_, op)| writeln!(f, "{op}"))
    }
}
