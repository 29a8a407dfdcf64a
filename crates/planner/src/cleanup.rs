//! Writes that remove everything that is ours.

use std::collections::BTreeSet;

use lb_types::{IpvsOp, RuleElement, RulesOp, VipOp};

use crate::{Mirror, Ownership, Plan, Stage, diff::sorted};

/// Plans the removal of everything that is ours and nothing else, except for the packet rules
/// ([`cleanup_rules`]): VIPs first, so that nothing leads to what goes next.
pub fn cleanup(mirror: &Mirror, ownership: &Ownership) -> Plan {
    let mut plan = Plan::default();
    if mirror.link_ours {
        plan.push(Stage::VipsRemove, VipOp::DeleteLink);
    }
    let rules = mirror.rules.iter().map(|(family, bit)| VipOp::DeleteRule { family: *family, bit: *bit });
    plan.extend(Stage::VipsRemove, rules);
    let ours = mirror.servers.keys().filter(|vs| ownership.owns(vs, mirror));
    plan.extend(Stage::IpvsRemove, ours.map(|vs| IpvsOp::DeleteVirtualServer { vs: *vs }));
    plan
}

/// Plans the removal of the packet rules. If virtual servers of ours are still there because the kernel
/// refused to delete them, the elements that tag them as ours stay, so that the next clean-up finds them.
pub fn cleanup_rules(mirror: &Mirror, ownership: &Ownership) -> Plan {
    let mut plan = Plan::default();
    let left = mirror.servers.keys().filter(|vs| ownership.owns(vs, mirror));
    let tags: BTreeSet<RuleElement> = left.flat_map(|vs| mirror.tags(vs)).collect();
    if tags.is_empty() {
        plan.push(Stage::RulesRemove, RulesOp::DeleteTable);
    } else {
        let others = sorted(mirror.elements.iter().filter(|element| !tags.contains(element)).copied());
        plan.extend(Stage::RulesRemove, others.into_iter().map(RulesOp::DeleteElement));
    }
    plan
}
