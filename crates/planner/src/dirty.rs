//! Subjects that must be compared with the kernel.
//!
//! This module owns the unit of comparison ([`Subject`]): whatever belongs to one subject is compared,
//! written, and tried again together. It finds the subject of a write, and the leftovers in the mirror that
//! nobody wants. It never compares anything itself ([`crate::diff`] does), and does not know why or when a
//! subject became dirty.
//!
//! Reading order: [`Subject`], [`Dirty`].

use std::net::IpAddr;

use lb_types::{FastSet, Front, IpvsOp, Operation, RuleElement, RulesOp, VipOp};

use crate::{Desired, Mirror};

/// Unit that is compared, written and tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// Link and chains, which everything else depends on.
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
    /// Subject that a write belongs to; `None` for writes that only follow from others.
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
            Operation::Conntrack(_) => None,
        }
    }

    /// Front whose virtual server a write changes.
    pub fn of_ipvs(op: &IpvsOp, mirror: &Mirror) -> Option<Self> {
        mirror.front(&op.virtual_server()).map(Subject::Front)
    }

    /// Subject that an element is part of.
    pub fn of_element(element: &RuleElement) -> Self {
        element.vip_port().map_or(Subject::Vip(element.vip()), |port| Subject::Front(port.into()))
    }
}

/// Set of subjects that must be compared.
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
        // An element may be left over where neither a virtual server nor a route is.
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

    /// Drops the subjects that no Service wants.
    pub fn keep_desired(&mut self, desired: &Desired) {
        self.0.retain(|subject| match subject {
            Subject::Base | Subject::Sysctls => true,
            Subject::Vip(vip) => desired.claims_vip(vip),
            Subject::Address(_) => false,
            Subject::Refusal(front) | Subject::Front(front) => desired.front(front).is_some(),
        });
    }

    /// Tells whether a subject is dirty.
    pub fn contains(&self, subject: &Subject) -> bool {
        self.0.contains(subject)
    }

    /// All dirty subjects, in no order.
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

    /// Tells whether nothing is dirty.
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
