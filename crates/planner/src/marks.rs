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

    /// Draws a number for a front that has none, from those that nobody uses; returns the one that it has now. The
    /// number that it draws first is its own, even one that is `lost`: there is a virtual server of it, and no record.
    pub(crate) fn assign(
        &mut self,
        front: Front,
        is_taken: impl Fn(NonZeroU32) -> bool,
        is_lost: impl Fn(NonZeroU32) -> bool,
    ) -> Option<NonZeroU32> {
        if let Some(mark) = self.get(&front) {
            return Some(mark);
        }
        let family = front.family();
        let start = FixedState::default().hash_one((front.port, front.clients == Clients::External));
        let size = self.range.size();
        let is_drawable = |mark: &NonZeroU32| {
            let is_foreign = self.foreign.iter().any(|rule| rule.matches(*mark));
            !is_foreign && !self.by_mark.contains_key(&(family, *mark))
        };
        let own = self.range.number(start % size).filter(|mark| is_drawable(mark) && is_lost(*mark));
        let numbers = (0..size).filter_map(|step| self.range.number(start.wrapping_add(step) % size));
        let mark = own.or_else(|| numbers.filter(is_drawable).find(|mark| !is_taken(*mark)))?;
        self.insert(front, mark);
        Some(mark)
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
            assert!(one.assign(front(port), NONE, NONE).is_some());
        }
        assert!(other.assign(front(30_080), NONE, NONE).is_some());
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
        assert!(ports.clone().all(|port| marks.assign(front(port), is_taken, NONE).is_some()));
        let numbers: BTreeSet<_> = ports.filter_map(|port| marks.get(&front(port))).collect();
        assert_eq!(numbers.len(), 239);
        assert!(!numbers.contains(&taken) && !numbers.iter().any(|mark| rule.matches(*mark)));
        assert_eq!(marks.assign(front(31_000), is_taken, NONE), None, "none is left");
        assert!(marks.assign(front(30_000), |_| true, NONE).is_some(), "it has one");
        let other_family = Front::node(IpFamily::V6, Protocol::Tcp, NonZeroU16::new(31_000).unwrap());
        assert!(marks.assign(other_family, NONE, NONE).is_some(), "each family has its own numbers");
    }

    #[test]
    fn a_number_without_a_record_is_drawn_again_by_its_front_alone() {
        let draw = |taken: Option<NonZeroU32>, lost: Option<NonZeroU32>| {
            let mut marks = Marks::default();
            let is = |one: Option<NonZeroU32>| move |mark| Some(mark) == one;
            marks.assign(front(30_080), is(taken), is(lost))
        };
        let (own, another) = (draw(None, None), NonZeroU32::new(MarkRange::DEFAULT.number(7).unwrap().get()));
        assert!(own != another && own.is_some());
        assert_eq!(draw(own, own), own);
        assert_ne!(draw(own, None), own, "somebody else's");
        assert_eq!(draw(another, another), own);
        let mut marks = Marks::default();
        marks.insert(front(30_001), own.unwrap());
        let drawn = marks.assign(front(30_080), |_| true, |mark| Some(mark) == own);
        assert_eq!(drawn, None, "another front has it by now");
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
