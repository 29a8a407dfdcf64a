//! Writes, as values, that turn the observed table into the desired one.

use std::{ffi::CString, fmt};

use crate::{
    nft,
    observed::{ChainFacts, ObservedTable},
    spec::{ChainSpec, RuleSpec, SetId, TableSpec},
};

/// A write to the table, its chains or its sets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// Creates the table, or wakes it up if it is dormant.
    CreateTable,
    /// Deletes the table with everything in it.
    DeleteTable,
    /// Deletes all rules of a chain.
    FlushChain(CString),
    /// Deletes a chain that no rule leads to.
    DeleteChain(CString),
    /// Deletes a set that no rule uses, with its elements.
    DeleteSet(CString),
    /// Creates an empty set.
    CreateSet(SetId),
    /// Creates a chain, or corrects its policy.
    CreateChain(ChainSpec),
    /// Appends a rule.
    AddRule {
        /// Name of its chain.
        chain: &'static str,
        /// The rule.
        rule: RuleSpec,
    },
}

/// Lists the writes that make the table what `wanted` says; none if it is so already.
///
/// Sets that fit stay, with their elements; so do chains that are hooked in as they should be. All rules are
/// written anew, because rules of one chain may use objects that have to go from another. Packets see the old
/// rules or the new ones: the kernel switches generations when it commits.
pub(crate) fn diff_table(wanted: &TableSpec, observed: &ObservedTable) -> Vec<Write> {
    let ideal = ObservedTable::from(wanted);
    if *observed == ideal {
        return vec![];
    }
    let keeps_set =
        |name: &CString| observed.sets.contains_key(name) && observed.sets.get(name) == ideal.sets.get(name);
    let mut writes = vec![Write::CreateTable];
    writes.extend(observed.chains.keys().cloned().map(Write::FlushChain));
    // Sets go first: the elements of a foreign verdict map can hold on to chains.
    writes.extend(observed.sets.keys().filter(|name| !keeps_set(name)).cloned().map(Write::DeleteSet));
    let stale = observed.chains.iter().filter(|(name, facts)| !keeps_chain(facts, ideal.chains.get(*name)));
    writes.extend(stale.map(|(name, _)| Write::DeleteChain(name.clone())));
    let missing = wanted.sets.iter().filter(|id| !keeps_set(&nft::c_string(&id.name())));
    writes.extend(missing.copied().map(Write::CreateSet));
    // Chains that stay are among them: this corrects their policy.
    writes.extend(wanted.chains.iter().cloned().map(Write::CreateChain));
    for chain in &wanted.chains {
        writes.extend(chain.rules.iter().cloned().map(|rule| Write::AddRule { chain: chain.name, rule }));
    }
    writes
}

/// Tells whether a chain may stay: its hook, priority and type cannot be changed, its policy can.
fn keeps_chain(observed: &ChainFacts, ideal: Option<&ChainFacts>) -> bool {
    let entry = |facts: &ChainFacts| facts.base.as_ref().map(|b| (b.hook, b.priority, b.kind.clone()));
    ideal.is_some_and(|ideal| entry(ideal) == entry(observed))
}

impl fmt::Display for Write {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Write::CreateTable => f.write_str("add table"),
            Write::DeleteTable => f.write_str("delete table"),
            Write::FlushChain(name) => write!(f, "flush chain {}", name.to_string_lossy()),
            Write::DeleteChain(name) => write!(f, "delete chain {}", name.to_string_lossy()),
            Write::DeleteSet(name) => write!(f, "delete set {}", name.to_string_lossy()),
            Write::CreateSet(id) => write!(f, "add set {id}"),
            Write::CreateChain(chain) => write!(f, "add chain {}", chain.name),
            Write::AddRule { chain, rule } => write!(f, "add rule {chain} {rule}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use lb_types::RulesLayout;

    use super::*;
    use crate::{observed::BaseFacts, render_table};

    fn wanted() -> TableSpec {
        render_table(&RulesLayout::default())
    }

    /// Writes that are not among those of a rewrite without obstacles.
    fn special(observed: &ObservedTable) -> Vec<String> {
        let usual = |write: &Write| {
            matches!(
                write,
                Write::CreateTable | Write::FlushChain(_) | Write::AddRule { .. } | Write::CreateChain(_)
            )
        };
        diff_table(&wanted(), observed).iter().filter(|write| !usual(write)).map(Write::to_string).collect()
    }

    fn name(text: &str) -> CString {
        nft::c_string(text)
    }

    #[test]
    fn a_current_table_needs_nothing() {
        assert_eq!(diff_table(&wanted(), &ObservedTable::from(&wanted())), []);
    }

    /// Conformance: ipvs/proxier TestCreateAndLinkKubeChain
    #[test]
    fn everything_is_created_in_the_order_of_use() {
        let writes: Vec<_> =
            diff_table(&wanted(), &ObservedTable::default()).iter().map(Write::to_string).collect();
        let at = |text: &str| writes.iter().position(|w| w.starts_with(text)).unwrap();
        assert_eq!(writes[0], "add table");
        assert!(
            at("add set endpoints-v6") < at("add chain refuse")
                && at("add chain refuse") < at("add chain input")
        );
        assert!(at("add chain postrouting") < at("add rule refuse"));
        assert_eq!(writes.iter().filter(|w| w.starts_with("add set")).count(), 58);
        assert!(!writes.iter().any(|w| w.starts_with("flush") || w.starts_with("delete")));
    }

    #[test]
    fn another_rule_keeps_sets_and_chains() {
        let mut observed = ObservedTable::from(&wanted());
        observed.chains.get_mut(&name("input")).unwrap().comments[0] = Some("mine".to_owned());
        assert_eq!(special(&observed), Vec::<String>::new());
        let writes = diff_table(&wanted(), &observed);
        assert_eq!(
            writes.iter().filter(|write| matches!(write, Write::FlushChain(_))).count(),
            wanted().chains.len()
        );
        let rules = wanted().chains.iter().map(|chain| chain.rules.len()).sum::<usize>();
        assert_eq!(writes.iter().filter(|write| matches!(write, Write::AddRule { .. })).count(), rules);
    }

    #[test]
    fn sets_that_do_not_fit_are_made_anew() {
        let mut observed = ObservedTable::from(&wanted());
        observed.sets.get_mut(&name("vips-v4")).unwrap().key_len = 16;
        observed.sets.get_mut(&name("services-v6")).unwrap().flags = 0x4;
        assert_eq!(
            special(&observed),
            ["delete set services-v6", "delete set vips-v4", "add set vips-v4", "add set services-v6"]
        );
    }

    #[test]
    fn what_we_do_not_know_goes() {
        let mut observed = ObservedTable::from(&wanted());
        let set = observed.sets.values().next().unwrap().clone();
        observed.sets.insert(name("old"), set);
        observed.chains.insert(name("older"), ChainFacts::default());
        assert_eq!(special(&observed), ["delete set old", "delete chain older"]);
    }

    #[test]
    fn a_chain_hooked_in_elsewhere_is_made_anew_but_a_policy_is_corrected() {
        let mut observed = ObservedTable::from(&wanted());
        let base = |observed: &mut ObservedTable, chain: &str, change: fn(&mut BaseFacts)| {
            change(observed.chains.get_mut(&name(chain)).unwrap().base.as_mut().unwrap());
        };
        base(&mut observed, "input", |base| base.policy = 0);
        base(&mut observed, "output", |base| base.priority = 0);
        assert_eq!(special(&observed), ["delete chain output"]);
        observed.chains.get_mut(&name("postrouting")).unwrap().base = None;
        assert_eq!(special(&observed), ["delete chain output", "delete chain postrouting"]);
    }

    #[test]
    fn a_dormant_table_is_not_current() {
        let mut observed = ObservedTable::from(&wanted());
        observed.flags = Some(1);
        assert_eq!(diff_table(&wanted(), &observed)[0], Write::CreateTable);
    }
}
