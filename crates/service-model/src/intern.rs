//! One copy of every string and placement that many objects share.

use std::{hash::Hash, sync::Arc};

use lb_types::FastSet;

use crate::Placement;

/// Pools of shared values. From time to time they drop values that nothing else holds, at a constant cost per
/// insertion.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    strings: Pool<str>,
    placements: Pool<Placement>,
}

impl Interner {
    /// The shared copy of a string.
    pub(crate) fn string(&mut self, value: &Arc<str>) -> Arc<str> {
        self.strings.get(value)
    }

    /// The shared copy of a placement; its own strings are shared too.
    pub(crate) fn placement(&mut self, mut value: Placement) -> Arc<Placement> {
        if let Some(known) = self.placements.known.get(&value) {
            return Arc::clone(known);
        }
        let strings = value.node.iter_mut().chain(&mut value.zone_hints).chain(&mut value.node_hints);
        for string in strings {
            *string = self.strings.get(string);
        }
        self.placements.get(&Arc::new(value))
    }

    /// Drops everything that only the interner holds.
    #[cfg(test)]
    pub(crate) fn sweep(&mut self) {
        self.placements.sweep();
        self.strings.sweep();
    }

    /// Number of values in the pools.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.strings.known.len() + self.placements.known.len()
    }
}

#[derive(Debug)]
struct Pool<T: ?Sized> {
    known: FastSet<Arc<T>>,
    /// Size at which the pool drops unused values: twice the number of used ones the last time.
    sweep_at: usize,
}

impl<T: ?Sized> Default for Pool<T> {
    fn default() -> Self {
        Pool { known: FastSet::default(), sweep_at: 64 }
    }
}

impl<T: ?Sized + Eq + Hash> Pool<T> {
    fn get(&mut self, value: &Arc<T>) -> Arc<T> {
        if let Some(known) = self.known.get(value) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.sweep_at {
            self.sweep();
        }
        self.known.insert(Arc::clone(value));
        Arc::clone(value)
    }

    fn sweep(&mut self) {
        self.known.retain(|v| Arc::strong_count(v) > 1);
        self.known.shrink_to(64);
        self.sweep_at = (self.known.len() * 2).max(64);
    }
}
