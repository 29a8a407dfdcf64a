//! Index of Services by what several of them may have.

use std::collections::BTreeSet;

use lb_types::ServiceName;

/// Keys, each with the Services that have it.
#[derive(Clone, Debug)]
pub struct ServiceIndex<K>(BTreeSet<(K, ServiceName)>);

impl<K> Default for ServiceIndex<K> {
    fn default() -> Self {
        ServiceIndex(BTreeSet::new())
    }
}

impl<K: Copy + Ord> ServiceIndex<K> {
    /// Services that have a key.
    pub fn at(&self, key: K) -> impl Iterator<Item = &ServiceName> {
        let from = self.0.range((key, ServiceName::new("", ""))..);
        from.take_while(move |(other, _)| *other == key).map(|(_, service)| service)
    }

    /// Tells whether any Service has a key.
    pub fn has(&self, key: K) -> bool {
        !self.0.is_empty() && self.at(key).next().is_some()
    }

    /// All keys; one comes as often as there are Services that have it.
    pub fn keys(&self) -> impl Iterator<Item = K> {
        self.0.iter().map(|(key, _)| *key)
    }

    /// Replaces what a Service has, by its old and new value; returns the keys that came or went.
    pub fn replace<T>(
        &mut self,
        name: &ServiceName,
        [old, new]: [Option<&T>; 2],
        keys: impl Fn(&T) -> BTreeSet<K>,
    ) -> Vec<K> {
        let [old, new] = [old, new].map(|value| value.map(&keys).unwrap_or_default());
        for key in old.difference(&new) {
            self.0.remove(&(*key, name.clone()));
        }
        self.0.extend(new.difference(&old).map(|key| (*key, name.clone())));
        old.symmetric_difference(&new).copied().collect()
    }
}
