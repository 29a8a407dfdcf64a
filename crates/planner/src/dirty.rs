//! What must be compared.

use std::net::IpAddr;

use lb_types::{FastSet, Front, IpvsOp, Operation, RuleElement, RulesOp, VipOp};

use crate::{Desired, Mirror};

/// What is compared, written and tried again as a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// What everything else stands on: the link and the chains.
    Base,
    /// All kernel parameters.
    Sysctls,
    /// A VIP with its route and element.
    Vip(IpAddr),
    /// An address found on `kube-ipvs0`: none is wanted there, but each must stay until its VIP has a route.
    Address(IpAddr),
    /// The element that refuses new connections to a front, and nothing else of it.
    Refusal(Front),
    /// A front: its virtual server with real servers and elements.
    Front(Front),
}

impl Subject {
    /// The subject that a write belongs to; `None` for writes that only follow from others.
    pub fn of(op: &Operation, mirror: &Mirror) -> Option<Self> {
        match op {
            Operation::Ipvs(op) => Subject::of_ipvs(op, mirror),
            Operation::Vip(VipOp::EnsureRoute { vip, .. } | VipOp::DeleteRoute { vip }) => {
                Some(Subject::Vip(*vip))
            }
            Operation::Vip(VipOp::DeleteAddress { addr }) => Some(Subject::Address(*addr)),
            Operation::Vip(VipOp::EnsureLink | VipOp::DeleteLink)
            | Operation::Rules(RulesOp::InstallLayout(_) | RulesOp::DeleteTable) => Some(Subject::Base),
            Operation::Rules(RulesOp::AddElement(element) | RulesOp::DeleteElement(element)) => {
                Some(Subject::of_element(element))
            }
            Operation::Sysctl(_) => Some(Subject::Sysctls),
            Operation::Flows(_) => None,
        }
    }

    /// The front whose virtual server a write changes.
    pub fn of_ipvs(op: &IpvsOp, mirror: &Mirror) -> Option<Self> {
        mirror.front(&op.virtual_server()).map(Subject::Front)
    }

    /// What an element is part of.
    pub fn of_element(element: &RuleElement) -> Self {
        element.vip_port().map_or(Subject::Vip(element.vip()), |port| Subject::Front(port.into()))
    }
}

/// What must be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty(FastSet<Subject>);

impl Dirty {
    /// Everything desired and everything in the mirror: both sides are walked, so that leftovers are seen.
    pub fn all(desired: &Desired, mirror: &Mirror) -> Self {
        let mut dirty = Dirty::leftovers(desired, mirror);
        dirty.extend(desired.fronts().copied().map(Subject::Front));
        dirty.extend(desired.vips().copied().map(Subject::Vip));
        dirty.insert(Subject::Sysctls);
        dirty
    }

    /// Everything in the mirror that nobody wants, and all addresses.
    pub fn leftovers(desired: &Desired, mirror: &Mirror) -> Self {
        let is_unwanted = |front: &Front| desired.front(front).is_none();
        let mut dirty = Dirty::default();
        let fronts = mirror.servers.keys().filter_map(|vs| mirror.front(vs));
        dirty.extend(fronts.filter(is_unwanted).map(Subject::Front));
        let vips = mirror.routes.keys().filter(|vip| !desired.claims_vip(vip));
        dirty.extend(vips.copied().map(Subject::Vip));
        dirty.extend(mirror.addresses.iter().copied().map(Subject::Address));
        dirty.extend(mirror.elements.iter().map(Subject::of_element).filter(|subject| match subject {
            Subject::Vip(vip) => !desired.claims_vip(vip),
            Subject::Front(front) => is_unwanted(front),
            _ => false,
        }));
        dirty
    }

    /// Adds a subject.
    pub fn insert(&mut self, subject: Subject) {
        self.0.insert(subject);
    }

    /// Adds subjects.
    pub fn extend(&mut self, subjects: impl IntoIterator<Item = Subject>) {
        self.0.extend(subjects);
    }

    /// Leaves out what nobody wants.
    pub fn keep_desired(&mut self, desired: &Desired) {
        self.0.retain(|subject| match subject {
            Subject::Base | Subject::Sysctls => true,
            Subject::Vip(vip) => desired.claims_vip(vip),
            Subject::Address(_) => false,
            Subject::Refusal(front) | Subject::Front(front) => desired.front(front).is_some(),
        });
    }

    /// Whether a subject is among them.
    pub fn contains(&self, subject: &Subject) -> bool {
        self.0.contains(subject)
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Subject> {
        self.0.iter()
    }

    /// Fronts that are compared as a whole.
    pub fn fronts(&self) -> impl Iterator<Item = &Front> {
        self.0.iter().filter_map(|subject| match subject {
            Subject::Front(front) => Some(front),
            _ => None,
        })
    }

    /// Whether nothing is dirty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl IntoIterator for Dirty {
    type Item = Subject;
    type IntoIter = <FastSet<Subject> as IntoIterator>::IntoIter;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

impl FromIterator<Subject> for Dirty {
    fn from_iter<I: IntoIterator<Item = Subject>>(subjects: I) -> Self {
        Dirty(subjects.into_iter().collect())
    }
}
