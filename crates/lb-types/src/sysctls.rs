//! Kernel parameters that must have certain values.

use crate::SysctlOp;

/// A kernel parameter that must have a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SysctlNeed {
    /// The write that makes it so.
    pub op: SysctlOp,
    /// Other values that are left alone.
    pub leaves: Leaves,
    /// Condition under which it must have the value.
    pub when: SysctlWhen,
}

/// Values, besides the needed one, that a parameter may keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leaves {
    /// No other value.
    Nothing,
    /// Larger ones.
    Larger,
    /// Larger ones, and 0, which means that there is no limit.
    LargerOrZero,
    /// Larger ones that somebody has set: all but the kernel's default.
    LargerBut(u32),
}

/// Condition under which a parameter must have its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SysctlWhen {
    /// As long as the process runs.
    Always,
    /// Until it had the value once: whatever somebody sets later stays.
    Once,
    /// While a Service has an IPv6 ClusterIP. Forwarding: when it is switched on, the kernel drops the
    /// default routes that it has by router advertisements, except on interfaces with `accept_ra=2`.
    Ipv6Forwarding,
    /// While a Service has an IPv6 ClusterIP and the node has IPv6: a parameter of our link.
    OnLink,
}

impl From<SysctlOp> for SysctlNeed {
    /// Demands exactly this value, always.
    fn from(op: SysctlOp) -> Self {
        SysctlNeed { op, leaves: Leaves::Nothing, when: SysctlWhen::Always }
    }
}
