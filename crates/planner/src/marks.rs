//! Packet marks of fronts: which number selects the virtual server of which front.
//!
//! [`Marks`] owns that relation. A number is drawn when a front is about to be written for the first time
//! ([`Marks::assign`]), and known again after a restart from the elements of our maps, which are its only record.
//! A front draws the same number on every node, and again when it comes back, unless another one has it: where the
//! record is lost, as with `nft flush ruleset` between two runs, most numbers are known from that.

use std::{collections::BTreeMap, hash::BuildHasher, net::IpAddr, num::NonZeroU32};

use foldhash::quality::FixedState;
use lb_types::{Clients, FastMap, Front, IpFamily, MarkRange, MarkRule};

/// The marks of all fronts that have one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    range: MarkRange,
    /// Rules of the routing policy: packets of these marks belong to others.
    foreign: Vec<MarkRule>,
    by_front: BTreeMap<Front, NonZeroU32>,
    by_mark: FastMap<(IpFamily, NonZeroU32), Front>,
}

impl Marks {
    /// Draws from a range from now on, except for numbers that rules of the routing policy match. Fronts that have
    /// a number keep it.
    pub fn draw_from(&mut self, range: MarkRange, foreign: Vec<MarkRule>) {
        (self.range, self.foreign) = (range, foreign);
    }

    /// The smallest range of the numbers in use that are not of `range`.
    pub fn outside(&self, range: MarkRange) -> Option<MarkRange> {
        let others = self.by_front.values().filter(|mark| !range.contains(mark.get()));
        others.fold(None, |hull: Option<MarkRange>, mark| {
            Some(hull.map_or(MarkRange::only(*mark), |hull| hull.with(*mark)))
        })
    }

    /// Mark of a front.
    pub fn get(&self, front: &Front) -> Option<NonZeroU32> {
        self.by_front.get(front).copied()
    }

    /// Front of a mark.
    pub fn front(&self, family: IpFamily, mark: NonZeroU32) -> Option<Front> {
        self.by_mark.get(&(family, mark)).copied()
    }

    /// Fronts on an address that have a mark.
    pub fn fronts_on(&self, addr: IpAddr) -> impl Iterator<Item = &Front> {
        let lowest = Front::lowest_on(addr);
        self.by_front.range(lowest..).map(|(front, _)| front).take_while(move |front| front.port.addr == addr)
    }

    /// Draws a number for a front that has none, from those that nobody uses; returns whether it has one now.
    pub(crate) fn assign(&mut self, front: Front, is_taken: impl Fn(NonZeroU32) -> bool) -> bool {
        if self.by_front.contains_key(&front) {
            return true;
        }
        let free = self.drawn(front).find(|mark| !is_taken(*mark));
        if let Some(mark) = free {
            self.insert(front, mark);
        }
        free.is_some()
    }

    /// The number that a front draws first, unless somebody has it. A virtual server of an earlier run is known by that.
    pub(crate) fn own(&self, front: &Front) -> Option<NonZeroU32> {
        let first = self.first_position(front);
        self.range.number(first % self.range.size()).filter(|mark| self.is_drawable(front, *mark))
    }

    /// Numbers that a front draws, one after the other.
    fn drawn(&self, front: Front) -> impl Iterator<Item = NonZeroU32> {
        let (first, size) = (self.first_position(&front), self.range.size());
        let numbers = (0..size).filter_map(move |step| self.range.number(first.wrapping_add(step) % size));
        numbers.filter(move |mark| self.is_drawable(&front, *mark))
    }

    fn first_position(&self, front: &Front) -> u64 {
        FixedState::default().hash_one((front.port, front.clients == Clients::External))
    }

    fn is_drawable(&self, front: &Front, mark: NonZeroU32) -> bool {
        let is_foreign = self.foreign.iter().any(|rule| rule.matches(mark));
        !is_foreign && !self.by_mark.contains_key(&(front.family(), mark))
    }

    /// Tells whether a number is of the range that numbers are drawn from.
    pub(crate) fn draws(&self, mark: NonZeroU32) -> bool {
        self.range.contains(mark.get())
    }

    /// Takes over what an element of our maps says, unless another front has the number.
    pub(crate) fn insert(&mut self, front: Front, mark: NonZeroU32) {
        let key = (front.family(), mark);
        if self.by_mark.get(&key).is_some_and(|other| *other != front) {
            return;
        }
        if let Some(old) = self.by_front.insert(front, mark) {
            self.by_mark.remove(&(front.family(), old));
        }
        self.by_mark.insert(key, front);
    }

    /// Gives the number of a front back.
    pub(crate) fn release(&mut self, front: &Front) {
        if let Some(mark) = self.by_front.remove(front) {
            self.by_mark.remove(&(front.family(), mark));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, num::NonZeroU16};

    use lb_types::Protocol;

    use super::*;

    fn front(port: u16) -> Front {
        Front::node(IpFamily::V4, Protocol::Tcp, NonZeroU16::new(port).unwrap())
    }

    fn marks(range: &str, foreign: &[MarkRule]) -> Marks {
        let mut marks = Marks::default();
        marks.draw_from(range.parse().unwrap(), foreign.to_vec());
        marks
    }

    const NONE: fn(NonZeroU32) -> bool = |_| false;

    #[test]
    fn a_front_draws_the_same_number_whatever_came_before() {
        let (mut one, mut other) = (Marks::default(), Marks::default());
        for port in [30_001, 30_002, 30_080] {
            assert!(one.assign(front(port), NONE));
        }
        assert!(other.assign(front(30_080), NONE));
        assert_eq!(one.get(&front(30_080)), other.get(&front(30_080)));
        let mark = one.get(&front(30_080)).unwrap();
        assert!(MarkRange::DEFAULT.contains(mark.get()));
        assert_eq!(one.front(IpFamily::V4, mark), Some(front(30_080)));
        one.release(&front(30_080));
        assert_eq!((one.get(&front(30_080)), one.front(IpFamily::V4, mark)), (None, None));
    }

    #[test]
    fn all_numbers_are_drawn_before_none_is_left_and_none_twice() {
        let rule = MarkRule { value: 0x20, mask: 0xf0 };
        let taken = NonZeroU32::new(0x105).unwrap();
        let mut marks = marks("0x100/0xffffff00", &[rule]);
        let ports = (30_000..).take(256 - 16 - 1);
        let is_taken = |mark| mark == taken;
        assert!(ports.clone().all(|port| marks.assign(front(port), is_taken)));
        let numbers: BTreeSet<_> = ports.filter_map(|port| marks.get(&front(port))).collect();
        assert_eq!(numbers.len(), 239);
        assert!(!numbers.contains(&taken) && !numbers.iter().any(|mark| rule.matches(*mark)));
        assert!(!marks.assign(front(31_000), is_taken), "none is left");
        assert!(marks.assign(front(30_000), |_| true), "it has one");
        let other_family = Front::node(IpFamily::V6, Protocol::Tcp, NonZeroU16::new(31_000).unwrap());
        assert!(marks.assign(other_family, NONE), "each family has its own numbers");
    }

    #[test]
    fn a_front_has_one_number_of_its_own_unless_it_is_somebody_elses() {
        let external = front(30_080).for_external();
        let v6 = Front::node(IpFamily::V6, Protocol::Tcp, NonZeroU16::new(30_080).unwrap());
        for one in [front(30_080), external, v6] {
            let mut marks = Marks::default();
            let own = marks.own(&one).unwrap();
            assert!(marks.assign(one, NONE));
            assert_eq!(marks.get(&one), Some(own));
            marks.release(&one);
            marks.insert(front(30_001), own);
            let is_of_family = one.family() == IpFamily::V4;
            assert_eq!(marks.own(&one).is_none(), is_of_family, "another front has it by now");
            marks.draw_from(MarkRange::DEFAULT, vec![MarkRule { value: own.get(), mask: u32::MAX }]);
            assert_eq!(marks.own(&one), None, "of the routing policy");
        }
        assert_ne!(Marks::default().own(&external), Marks::default().own(&front(30_080)));
    }

    #[test]
    fn a_number_belongs_to_the_front_that_had_it_first() {
        let mut marks = Marks::default();
        let mark = NonZeroU32::new(7).unwrap();
        marks.insert(front(30_001), mark);
        marks.insert(front(30_002), mark);
        assert_eq!((marks.get(&front(30_001)), marks.get(&front(30_002))), (Some(mark), None));
        assert_eq!(marks.outside(MarkRange::DEFAULT).unwrap().to_string(), "0x7/0xffffffff");
        marks.insert(front(30_003), MarkRange::DEFAULT.number(1).unwrap());
        marks.insert(front(30_004), NonZeroU32::new(6).unwrap());
        assert_eq!(marks.outside(MarkRange::DEFAULT).unwrap().to_string(), "0x6/0xfffffffe");
        marks.release(&front(30_001));
        marks.release(&front(30_004));
        assert_eq!(marks.outside(MarkRange::DEFAULT), None);
    }
}
