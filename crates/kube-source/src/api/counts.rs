//! Counts of requests, for metrics.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Handle of the counts of a source, which go on while it runs.
#[derive(Clone, Debug, Default)]
pub struct RequestCounts(Arc<Mutex<Counted>>);

/// Counts so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// Complete lists by kind of objects.
    pub lists: BTreeMap<&'static str, u64>,
    /// Failures by kind and code, as a [`super::ApiStatus::Failing`] has it.
    pub errors: BTreeMap<(&'static str, &'static str), u64>,
    /// Requests by method and status; `None` where no answer came.
    pub requests: BTreeMap<(String, Option<u16>), u64>,
}

impl RequestCounts {
    /// Counts so far.
    pub fn get(&self) -> Counted {
        self.counted().clone()
    }

    pub(super) fn count_list(&self, kind: &'static str) {
        *self.counted().lists.entry(kind).or_default() += 1;
    }

    pub(super) fn count_error(&self, kind: &'static str, code: &'static str) {
        *self.counted().errors.entry((kind, code)).or_default() += 1;
    }

    pub(super) fn count_request(&self, method: &str, status: Option<u16>) {
        *self.counted().requests.entry((method.to_owned(), status)).or_default() += 1;
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        // Every write leaves the counts whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
