//! Writes of kernel parameters.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use lb_types::{Leaves, SysctlNeed, SysctlOp, SysctlWhen};

use crate::{Plan, Stage};

/// Forwarding of IPv6, which ends default routes by router advertisement unless they are kept.
const FORWARDING: &str = "net/ipv6/conf/all/forwarding";
/// Parameters of `kube-ipvs0`.
const OF_LINK: &str = "net/ipv6/conf/kube-ipvs0/";

/// Kernel parameters as far as they are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirrorSysctls {
    /// Values of the needed parameters; those that the kernel does not have, or did not report, are missing.
    pub values: BTreeMap<Cow<'static, str>, u32>,
    /// Parameters that need no write any more: they had their value once, or cannot be set in this network
    /// namespace.
    pub settled: BTreeSet<Cow<'static, str>>,
    /// True if any Service has an IPv6 ClusterIP.
    pub needs_ipv6: bool,
    /// True if the node has IPv6.
    pub has_ipv6: bool,
    /// `accept_ra` of the interfaces with an IPv6 default route by router advertisement; `None` while that is
    /// unknown, and then forwarding of IPv6 is not written.
    pub advertised: Option<BTreeMap<String, u32>>,
}

/// Adds the writes of parameters that differ.
pub(crate) fn diff(needs: &[SysctlNeed], known: &MirrorSysctls, plan: &mut Plan) {
    for need in needs.iter().filter(|need| known.applies(need) && known.differs(need)) {
        let stage = if need.when == SysctlWhen::OnLink { Stage::LinkSysctls } else { Stage::Sysctls };
        if need.when == SysctlWhen::Ipv6Forwarding {
            let Some(advertised) = &known.advertised else { continue };
            let kept = advertised.iter().filter_map(|(link, accept)| keep_advertised(link, *accept));
            plan.extend(Stage::KeepRoutes, kept);
        }
        plan.push(stage, need.op.clone());
    }
}

impl MirrorSysctls {
    /// Tells whether a parameter is needed now.
    pub fn applies(&self, need: &SysctlNeed) -> bool {
        match need.when {
            SysctlWhen::Always => true,
            SysctlWhen::Once => !self.settled.contains(&need.op.name),
            SysctlWhen::Ipv6Forwarding => self.needs_ipv6,
            SysctlWhen::OnLink => self.needs_ipv6 && self.has_ipv6,
        }
    }

    /// Tells whether a parameter must be written. A missing one counts as different unless it is optional:
    /// its module is loaded with our packet rules at the latest. A parameter of the link has the value of new
    /// links until there is a link.
    pub fn differs(&self, need: &SysctlNeed) -> bool {
        let is_optional = matches!(need.when, SysctlWhen::Once | SysctlWhen::OnLink);
        self.values.get(&need.op.name).map_or(!is_optional, |value| must_write(need, *value))
    }
}

/// Tells whether a parameter with a value must be written.
pub(crate) fn must_write(need: &SysctlNeed, current: u32) -> bool {
    let larger = current >= need.op.value;
    let stays = match need.leaves {
        Leaves::Nothing => current == need.op.value,
        Leaves::Larger => larger,
        Leaves::LargerOrZero => larger || current == 0,
        Leaves::LargerBut(default) => larger && current != default,
    };
    !stays
}

/// Name of the parameter that says whether an interface takes router advertisements.
pub fn accept_ra(link: &str) -> String {
    format!("net/ipv6/conf/{link}/accept_ra")
}

/// Tells whether a write keeps routes that [`enables_forwarding`] would end.
pub fn keeps_routes(op: &SysctlOp) -> bool {
    op.name.ends_with("/accept_ra")
}

/// Tells whether a write switches on the forwarding of IPv6.
pub fn enables_forwarding(op: &SysctlOp) -> bool {
    op.name == FORWARDING
}

/// Tells whether a write needs `kube-ipvs0`.
pub fn is_of_link(op: &SysctlOp) -> bool {
    op.name.starts_with(OF_LINK)
}

/// Write that keeps an interface's routes by router advertisements when forwarding is switched on, given the
/// value of [`accept_ra`] there. With 1 the kernel drops them and takes no others (`rt6_purge_dflt_routers`
/// in net/ipv6/route.c, `ipv6_accept_ra` in include/net/addrconf.h); 0 means that they are not the kernel's.
fn keep_advertised(link: &str, current: u32) -> Option<SysctlOp> {
    (current == 1).then(|| SysctlOp { name: accept_ra(link).into(), value: 2 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_somebody_raised_is_never_lowered() {
        use Leaves::{Larger, LargerBut, LargerOrZero, Nothing};
        for (leaves, current, expect) in [
            (Nothing, 100, false),
            (Nothing, 99, true),
            (Nothing, 101, true),
            (Larger, 0, true),
            (Larger, 99, true),
            (Larger, 100, false),
            (Larger, 5000, false),
            (LargerOrZero, 0, false),
            (LargerOrZero, 99, true),
            (LargerOrZero, 101, false),
            (LargerBut(400), 400, true),
            (LargerBut(400), 99, true),
            (LargerBut(400), 100, false),
            (LargerBut(400), 399, false),
            (LargerBut(400), 401, false),
        ] {
            let need = SysctlNeed { op: SysctlOp::new("net/x", 100), leaves, when: SysctlWhen::Always };
            assert_eq!(must_write(&need, current), expect, "{leaves:?} {current}");
        }
    }

    #[test]
    fn only_interfaces_that_would_lose_their_routes_are_written() {
        let write = |current| keep_advertised("eth0.100", current).map(|op| op.to_string());
        assert_eq!(write(1).as_deref(), Some("set sysctl net/ipv6/conf/eth0.100/accept_ra = 2"));
        assert_eq!((write(0), write(2)), (None, None));
    }
}
