//! Collections that count accesses, so that tests can assert the cost of a change.
//!
//! [`Tallied`] behaves like the collection in it. In builds with debug assertions every access counts as one,
//! and every entry that an iteration yields counts as one more, so that a scan over all entries is
//! conspicuous. Other builds count nothing, and contain no additional code.
//!
//! Each thread has its own count; [`asked`] returns the part of a piece of code.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, btree_map, btree_set, hash_map, hash_set},
    ops::{Deref, DerefMut, RangeBounds},
};

#[cfg(debug_assertions)]
thread_local! {
    static COUNT: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
}

/// Number of accesses of `code` to collections, and of entries that they yielded; 0 in builds that do not
/// count.
pub fn asked(code: impl FnOnce()) -> u64 {
    let before = total();
    code();
    total() - before
}

#[cfg(debug_assertions)]
fn total() -> u64 {
    COUNT.get()
}

#[cfg(not(debug_assertions))]
const fn total() -> u64 {
    0
}

#[inline]
fn count() {
    #[cfg(debug_assertions)]
    COUNT.set(COUNT.get() + 1);
}

fn yielded<T>(item: T) -> T {
    count();
    item
}

/// A collection that counts accesses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tallied<C>(C);

impl<C> Deref for Tallied<C> {
    type Target = C;

    #[inline]
    fn deref(&self) -> &C {
        count();
        &self.0
    }
}

impl<C> DerefMut for Tallied<C> {
    #[inline]
    fn deref_mut(&mut self) -> &mut C {
        count();
        &mut self.0
    }
}

impl<C> From<C> for Tallied<C> {
    fn from(collection: C) -> Self {
        Tallied(collection)
    }
}

impl<'a, C> IntoIterator for &'a Tallied<C>
where
    &'a C: IntoIterator,
{
    type Item = <&'a C as IntoIterator>::Item;
    type IntoIter = Yields<<&'a C as IntoIterator>::IntoIter>;

    fn into_iter(self) -> Self::IntoIter {
        Yields((**self).into_iter())
    }
}

impl<'a, C> IntoIterator for &'a mut Tallied<C>
where
    &'a mut C: IntoIterator,
{
    type Item = <&'a mut C as IntoIterator>::Item;
    type IntoIter = Yields<<&'a mut C as IntoIterator>::IntoIter>;

    fn into_iter(self) -> Self::IntoIter {
        Yields((**self).into_iter())
    }
}

/// An iterator that counts the entries that it yields.
#[derive(Clone, Debug)]
pub struct Yields<I>(I);

impl<I: Iterator> Iterator for Yields<I> {
    type Item = I::Item;

    #[inline]
    fn next(&mut self) -> Option<I::Item> {
        self.0.next().map(yielded)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

/// Iterations over a map; all other methods are those of the map.
impl<K, V> Tallied<BTreeMap<K, V>> {
    /// All entries, by key.
    pub fn iter(&self) -> Yields<btree_map::Iter<'_, K, V>> {
        Yields((**self).iter())
    }

    /// All keys, in order.
    pub fn keys(&self) -> Yields<btree_map::Keys<'_, K, V>> {
        Yields((**self).keys())
    }

    /// All values, by key.
    pub fn values(&self) -> Yields<btree_map::Values<'_, K, V>> {
        Yields((**self).values())
    }

    /// Entries of a range of keys.
    pub fn range<Q: Ord + ?Sized>(&self, range: impl RangeBounds<Q>) -> Yields<btree_map::Range<'_, K, V>>
    where
        K: Borrow<Q> + Ord,
    {
        Yields((**self).range(range))
    }
}

/// Iterations over a map; all other methods are those of the map.
impl<K, V, S> Tallied<HashMap<K, V, S>> {
    /// All entries.
    pub fn iter(&self) -> Yields<hash_map::Iter<'_, K, V>> {
        Yields((**self).iter())
    }

    /// All keys.
    pub fn keys(&self) -> Yields<hash_map::Keys<'_, K, V>> {
        Yields((**self).keys())
    }

    /// All values.
    pub fn values(&self) -> Yields<hash_map::Values<'_, K, V>> {
        Yields((**self).values())
    }
}

/// Iterations over a set; all other methods are those of the set.
impl<T> Tallied<BTreeSet<T>> {
    /// All elements, in order.
    pub fn iter(&self) -> Yields<btree_set::Iter<'_, T>> {
        Yields((**self).iter())
    }
}

/// Iterations over a set; all other methods are those of the set.
impl<T, S> Tallied<HashSet<T, S>> {
    /// All elements.
    pub fn iter(&self) -> Yields<hash_set::Iter<'_, T>> {
        Yields((**self).iter())
    }
}

/// Iterations over a slice; all other methods are those of the slice, whose own searches count as one access.
impl<T> Tallied<std::sync::Arc<[T]>> {
    /// All elements, in order.
    pub fn iter(&self) -> Yields<std::slice::Iter<'_, T>> {
        Yields((**self).iter())
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn accesses_and_yielded_entries_count() {
        let mut map = Tallied::<BTreeMap<u8, u8>>::default();
        assert_eq!(asked(|| (0..10).for_each(|n| assert_eq!(map.insert(n, n), None))), 10);
        assert_eq!(asked(|| assert_eq!(map.get(&3), Some(&3))), 1);
        assert_eq!(asked(|| assert_eq!(map.values().count(), 10)), 11);
        assert_eq!(asked(|| assert_eq!((&map).into_iter().count(), 10)), 11);
        assert_eq!(asked(|| assert_eq!(map.range(8..).count(), 2)), 3);
        assert_eq!(asked(|| assert!(map.keys().any(|key| *key == 1))), 3, "only yielded entries count");
    }

    #[test]
    fn hash_maps_and_sets_count_too() {
        let map = Tallied::from(HashMap::from([(1, 2), (3, 4)]));
        assert_eq!(
            asked(|| assert_eq!(map.keys().count() + map.iter().count() + map.values().count(), 6)),
            9
        );
        let set = Tallied::from(BTreeSet::from([1, 2]));
        assert_eq!(asked(|| assert!(set.contains(&1) && set.iter().count() == 2)), 4);
    }
}
