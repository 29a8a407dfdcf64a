//! What one message does to the table, as in net/netfilter/nf_tables_api.c.

use std::collections::BTreeSet;

use lb_types::{ElementKey, RuleElement, RuleSet, RulesLayout, RulesOp};

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
            RulesOp::AddElement(element) => self.elements_for(element)?.extend([*element]),
            RulesOp::DeleteElement(element) => {
                if !self.elements_for(element)?.remove(element) {
                    return Err(libc::ENOENT);
                }
            }
            RulesOp::DeleteTable => self.0 = None,
        }
        Ok(())
    }

    fn install(&mut self, layout: &RulesLayout) {
        let contents = self.0.get_or_insert_with(|| Contents { layout: None, elements: BTreeSet::new() });
        contents.layout = Some(layout.clone());
    }

    /// The elements, if this one can be among them.
    fn elements_for(&mut self, element: &RuleElement) -> Result<&mut BTreeSet<RuleElement>, i32> {
        let contents = self.0.as_mut().ok_or(libc::ENOENT)?;
        let fits = match element.key {
            ElementKey::Addr(_) => element.set == RuleSet::Vips,
            ElementKey::Port(_) => element.set != RuleSet::Vips,
        };
        if fits { Ok(&mut contents.elements) } else { Err(libc::EINVAL) }
    }
}
