//! Hash tables for what is looked up most.

use std::collections::{HashMap, HashSet};

use foldhash::fast::RandomState;

/// A map by address, key of the kernel, or name.
///
/// These keys are small and looked up several times for every write; the standard library's hasher takes most
/// of the time then. Users of the cluster choose names and addresses, so the hasher has a random seed.
pub type FastMap<K, V> = HashMap<K, V, RandomState>;

/// The same as a set.
pub type FastSet<T> = HashSet<T, RandomState>;
