//! What one message does to the table, as in net/netfilter/nf_tables_api.c.

use std::collections::BTreeSet;

use lb_types::{RuleElement, RuleSet, RulesLayout, RulesOp};

/// The table, or its absence.
#[derive(Clone, Default)]
pub(super) struct Table(Option<Contents>);

#[derive(Clone)]
struct Contents {
    /// `None`: chains that are not those of any layout.
    layout: Option<RulesLayout>,
    elements: BTreeSet<RuleElement>,
}

impl Table {
    pub(super) fn exists(&self) -> bool {
        self.0.is_some()
    }

    pub(super) fn layout(&self) -> Option<&RulesLayout> {
        self.0.as_ref()?.layout.as_ref()
    }

    pub(super) fn elements(&self) -> BTreeSet<RuleElement> {
        self.0.as_ref().map(|contents| contents.elements.clone()).unwrap_or_default()
    }

    pub(super) fn change_chains(&mut self) {
        self.0.as_mut().expect("there is no table whose chains could be changed").layout = None;
    }

    pub(super) fn execute(&mut self, op: &RulesOp) -> Result<(), i32> {
        match op {
            RulesOp::InstallLayout(layout) => self.install(layout),
            RulesOp::AddElement(element) => {
                self.has_set(element)?;
                let elements = self.elements_mut()?;
                let has_its_key =
                    |other: &&RuleElement| other.set() == element.set() && other.front() == element.front();
                if element.marked().is_some()
                    && elements.iter().find(has_its_key).is_some_and(|other| other != element)
                {
                    return Err(libc::EEXIST);
                }
                if let RuleElement::Allow(port, clients) = element {
                    let overlaps = |other: &RuleElement| match other {
                        RuleElement::Allow(other, present) if other == port && present != clients => {
                            present.contains(clients.network()) || clients.contains(present.network())
                        }
                        _ => false,
                    };
                    // nft_pipapo_insert in net/netfilter/nft_set_pipapo.c; nft_add_set_elem calls it EEXIST.
                    if elements.iter().any(overlaps) {
                        return Err(libc::EEXIST);
                    }
                }
                elements.insert(*element);
            }
            RulesOp::DeleteElement(element) => {
                if !self.elements_mut()?.remove(element) {
                    return Err(libc::ENOENT);
                }
            }
            RulesOp::DeleteTable => self.0 = None,
        }
        Ok(())
    }

    fn install(&mut self, layout: &RulesLayout) {
        let contents = self.0.get_or_insert_with(|| Contents { layout: None, elements: BTreeSet::new() });
        if layout.arp.is_none() {
            contents.elements.retain(|element| element.set() != RuleSet::UnansweredVips);
        }
        contents.layout = Some(layout.clone());
    }

    /// Fails like an operation on a set whose table there is not.
    fn has_set(&self, element: &RuleElement) -> Result<(), i32> {
        let lacks_arp = self.layout().is_some_and(|layout| layout.arp.is_none());
        if lacks_arp && element.set() == RuleSet::UnansweredVips { Err(libc::ENOENT) } else { Ok(()) }
    }

    pub(super) fn forget(&mut self, set: RuleSet) {
        if let Some(contents) = &mut self.0 {
            contents.elements.retain(|element| element.set() != set);
        }
    }

    fn elements_mut(&mut self) -> Result<&mut BTreeSet<RuleElement>, i32> {
        self.0.as_mut().map(|contents| &mut contents.elements).ok_or(libc::ENOENT)
    }
}
