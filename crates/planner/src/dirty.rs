//! Subjects that must be compared with the kernel.
//!
//! This module owns the unit of comparison ([`Subject`]): whatever belongs to one subject is compared,
//! written, and tried again together. It finds the subject of a write, and the leftovers in the mirror that
//! nobody wants. It never compares anything itself ([`crate::diff`] does), and does not know why or when a
//! subject became dirty.
//!
//! Reading order: [`Subject`], [`Dirty`].

use std::net::IpAddr;

use lb_types::{ConntrackOp, FastSet, Front, IpFamily, IpvsOp, Operation, RuleElement, RulesOp, VipOp};

use crate::{Desired, Mirror, NodeFacts};

/// Unit that is compared, written and tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// Link and chains, which everything else depends on.
    Base,
    /// All kernel parameters.
    Sysctls,
    /// An address with what packets to it need: as a VIP its route and element, as an address of this node the
    /// element for node ports.
    Vip(IpAddr),
    /// The rule of the routing policy for steered packets of a family.
    Steering(IpFamily),
    /// An element by itself, without which fronts and VIPs are served all the same: a VIP port at which this node answers
    /// health checks, an endpoint of this node, a VIP for which it does not answer by ARP.
    Element(RuleElement),
    /// An address found on `kube-ipvs0`: unless it is bound there, it is not wanted, but must stay until its VIP has a
    /// route.
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
            Operation::Vip(VipOp::EnsureRoute { vip, .. } | VipOp::DeleteRoute { vip, .. }) => {
                Some(Subject::Vip(*vip))
            }
            Operation::Vip(VipOp::EnsureAddress { addr } | VipOp::DeleteAddress { addr }) => {
                Some(Subject::Vip(*addr))
            }
            Operation::Vip(VipOp::EnsureRule { family, .. } | VipOp::DeleteRule { family, .. }) => {
                Some(Subject::Steering(*family))
            }
            Operation::Vip(VipOp::EnsureLink | VipOp::DeleteLink)
            | Operation::Rules(RulesOp::InstallLayout(_) | RulesOp::DeleteTable) => Some(Subject::Base),
            Operation::Rules(RulesOp::AddElement(element) | RulesOp::DeleteElement(element)) => {
                Some(Subject::of_element(element))
            }
            Operation::Sysctl(_) => Some(Subject::Sysctls),
            Operation::Conntrack(_) => None,
        }
    }

    /// Front that a write is about; `None` for writes about whole addresses, tables and kernel parameters.
    pub fn front_of(op: &Operation, mirror: &Mirror) -> Option<Front> {
        match op {
            Operation::Conntrack(ConntrackOp::Delete(filter)) => Some(filter.front),
            op => match Subject::of(op, mirror)? {
                Subject::Front(front) | Subject::Refusal(front) => Some(front),
                _ => None,
            },
        }
    }

    /// Front whose virtual server a write changes.
    pub fn of_ipvs(op: &IpvsOp, mirror: &Mirror) -> Option<Self> {
        mirror.front(&op.virtual_server()).map(Subject::Front)
    }

    /// Subject that an element is part of.
    pub fn of_element(element: &RuleElement) -> Self {
        match element {
            RuleElement::HealthCheck(_) | RuleElement::LocalEndpoint(_) | RuleElement::UnansweredVip(_) => {
                Subject::Element(*element)
            }
            _ => element.front().map_or(Subject::Vip(element.addr()), Subject::Front),
        }
    }
}

/// Tells whether a Service wants an element by itself, or may want it along with a VIP.
fn wants_element(desired: &Desired, element: &RuleElement) -> bool {
    match element {
        RuleElement::UnansweredVip(vip) => desired.claims_vip(vip),
        _ => desired.elements().has(*element),
    }
}

/// Set of subjects that must be compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dirty(FastSet<Subject>);

impl Dirty {
    /// Everything desired and everything in the mirror: both sides are walked, so that leftovers are seen.
    pub fn all(desired: &Desired, mirror: &Mirror, facts: &NodeFacts) -> Self {
        let mut dirty = Dirty::leftovers(desired, mirror, facts);
        dirty.extend(desired.fronts().copied().map(Subject::Front));
        dirty.extend(desired.vips().copied().map(Subject::Vip));
        dirty.extend(desired.elements().keys().map(Subject::Element));
        dirty.insert(Subject::Sysctls);
        dirty
    }

    /// Everything in the mirror that nobody wants, and what no Service asks for by itself: all addresses.
    pub fn leftovers(desired: &Desired, mirror: &Mirror, facts: &NodeFacts) -> Self {
        let is_unwanted = |front: &Front| desired.front(front).is_none();
        let mut dirty = Dirty::default();
        let fronts = mirror.servers.keys().filter_map(|vs| mirror.front(vs));
        dirty.extend(fronts.filter(is_unwanted).map(Subject::Front));
        let vips = mirror.routes.keys().chain(&mirror.steered).filter(|vip| !desired.claims_vip(vip));
        dirty.extend(vips.copied().map(Subject::Vip));
        dirty.extend(IpFamily::ALL.map(Subject::Steering));
        dirty.extend(mirror.addresses.iter().copied().map(Subject::Address));
        dirty.extend(facts.node_ports.iter().copied().map(Subject::Vip));
        // An element may be left over where neither a virtual server nor a route is.
        dirty.extend(mirror.elements.iter().map(Subject::of_element).filter(|subject| match subject {
            Subject::Vip(vip) => !desired.claims_vip(vip),
            Subject::Front(front) => is_unwanted(front),
            Subject::Element(element) => !wants_element(desired, element),
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

    /// Drops the subjects that neither a Service nor its node ports want.
    pub fn keep_desired(&mut self, desired: &Desired, facts: &NodeFacts) {
        self.0.retain(|subject| match subject {
            Subject::Base | Subject::Sysctls => true,
            Subject::Steering(family) => desired.steers(*family),
            Subject::Vip(vip) => desired.claims_vip(vip) || facts.node_ports.contains(vip),
            Subject::Element(element) => wants_element(desired, element),
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
