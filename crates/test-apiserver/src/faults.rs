//! Faults of objects and events.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::resource::{Resource, Verb};

/// Faults of one resource; by default there are none. They can change at any time, and concern open watches,
/// too.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Faults {
    /// Time between an event and its delivery.
    pub delay_ms: u64,
    /// True if the server sends nothing, while connections stay open. Afterwards everything continues.
    /// (A peer whose packets are lost looks different to TCP: that takes a packet filter.)
    pub silent: bool,
    /// True if the server delivers every event twice.
    pub repeat: bool,
    /// Reordering of the events of different objects.
    pub reorder: Option<Reorder>,
    /// Number of the next events that end in the middle of the line, together with the connection.
    pub truncate: u32,
    /// Division of answers into small pieces.
    pub trickle: Option<Trickle>,
    /// Error in place of answers.
    pub refuse: Option<Refusal>,
}

/// Delivery of all events of a window together, shuffled. Events of one object keep their order, which no
/// server breaks within a watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Reorder {
    /// Time for which the server collects events.
    pub window_ms: u64,
    /// Seed of the shuffle.
    #[serde(default)]
    pub seed: u64,
}

/// Division of answers into small pieces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Trickle {
    /// Size of a piece.
    pub bytes: usize,
    /// Pause after each piece.
    pub every_ms: u64,
}

/// An error in place of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Refusal {
    /// HTTP status. 410 and 429 come with their usual bodies, all others with that of a broken server.
    pub status: u16,
    /// Value of the header `Retry-After`, for 429.
    #[serde(default)]
    pub retry_after_s: u64,
    /// Verbs of the requests to refuse; all if empty.
    #[serde(default)]
    pub verbs: Vec<Verb>,
    /// Number of requests to refuse; all if absent.
    #[serde(default)]
    pub times: Option<u32>,
}

impl Refusal {
    /// A refusal of `verbs`, until the fault is cleared.
    #[must_use]
    pub fn new(status: u16, verbs: &[Verb]) -> Self {
        Self { status, retry_after_s: 1, verbs: verbs.to_vec(), times: None }
    }

    /// The same refusal for a number of requests only.
    #[must_use]
    pub fn times(self, times: u32) -> Self {
        Self { times: Some(times), ..self }
    }
}

/// End of an open watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hangup {
    /// The response ends as it does after the timeout of a watch.
    End,
    /// The connection is closed in the middle of the response.
    Cut,
    /// The server sends nothing more, but the connection stays open.
    Mute,
}

/// Faults of all resources, and hangups of their open watches.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultTable([Entry; Resource::ALL.len()]);

#[derive(Clone, Debug, Default)]
struct Entry {
    faults: Faults,
    /// Number of hangups, by which each watch recognises those since its beginning.
    dropped: u64,
    last_drop: Option<Hangup>,
}

impl FaultTable {
    pub(crate) const fn of(&self, resource: Resource) -> &Faults {
        &self.0[resource.index()].faults
    }

    pub(crate) fn set(&mut self, resource: Resource, faults: Faults) {
        self.0[resource.index()].faults = faults;
    }

    pub(crate) fn clear(&mut self) {
        for entry in &mut self.0 {
            entry.faults = Faults::default();
        }
    }

    pub(crate) const fn drop_watches(&mut self, resource: Resource, how: Hangup) {
        let entry = &mut self.0[resource.index()];
        entry.dropped += 1;
        entry.last_drop = Some(how);
    }

    /// Number of hangups.
    pub(crate) const fn dropped(&self, resource: Resource) -> u64 {
        self.0[resource.index()].dropped
    }

    pub(crate) fn last_drop(&self, resource: Resource) -> Hangup {
        self.0[resource.index()].last_drop.unwrap_or(Hangup::End)
    }

    /// Takes the truncation of one event, if any is left.
    pub(crate) const fn take_truncation(&mut self, resource: Resource) -> bool {
        let left = &mut self.0[resource.index()].faults.truncate;
        let cut = *left > 0;
        *left = left.saturating_sub(1);
        cut
    }

    /// Takes the refusal of one request, if it is to be refused.
    pub(crate) fn take_refusal(&mut self, resource: Resource, verb: Verb) -> Option<Refusal> {
        let refusal = self.0[resource.index()].faults.refuse.as_mut()?;
        if !refusal.verbs.is_empty() && !refusal.verbs.contains(&verb) {
            return None;
        }
        match &mut refusal.times {
            Some(0) => return None,
            Some(times) => *times -= 1,
            None => {}
        }
        Some(refusal.clone())
    }
}

/// Shuffles `items`, keeping the order of those with the same key.
pub(crate) fn shuffle<T, K: Ord>(items: Vec<T>, seed: u64, key: impl Fn(&T) -> K) -> Vec<T> {
    let mut random = seed ^ 0x9e37_79b9_7f4a_7c15;
    let mut queues: BTreeMap<K, std::collections::VecDeque<T>> = BTreeMap::new();
    let total = items.len();
    for item in items {
        queues.entry(key(&item)).or_default().push_back(item);
    }
    let mut queues: Vec<_> = queues.into_values().collect();
    let mut shuffled = Vec::with_capacity(total);
    while !queues.is_empty() {
        // xorshift64: enough to shuffle, and the same everywhere.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let index = usize::try_from(random % queues.len() as u64).unwrap_or_default();
        shuffled.extend(queues[index].pop_front());
        if queues[index].is_empty() {
            queues.swap_remove(index);
        }
    }
    shuffled
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shuffle_keeps_the_order_of_each_key() {
        let items: Vec<(u32, u32)> = (0..60).map(|n| (n % 7, n)).collect();
        let shuffled = shuffle(items.clone(), 7, |item| item.0);
        assert_ne!(shuffled, items);
        let mut sorted = shuffled.clone();
        sorted.sort_by_key(|item| item.1);
        assert_eq!(sorted, items);
        for key in 0..7 {
            let of_key: Vec<u32> = shuffled.iter().filter(|item| item.0 == key).map(|item| item.1).collect();
            assert!(of_key.is_sorted(), "{of_key:?}");
        }
        assert_eq!(shuffle(items.clone(), 7, |item| item.0), shuffled);
        assert_ne!(shuffle(items, 8, |item| item.0), shuffled);
    }

    #[test]
    fn refusals_count_down_and_ask_for_the_verb() {
        let mut table = FaultTable::default();
        let refuse = Some(Refusal::new(500, &[Verb::Watch]).times(2));
        table.set(Resource::Nodes, Faults { refuse, ..Faults::default() });
        let mut refused = |resource, verb| table.take_refusal(resource, verb).is_some();
        assert!(!refused(Resource::Nodes, Verb::List));
        assert!(!refused(Resource::Services, Verb::Watch));
        assert!(refused(Resource::Nodes, Verb::Watch));
        assert!(refused(Resource::Nodes, Verb::Watch));
        assert!(!refused(Resource::Nodes, Verb::Watch));
    }

    #[test]
    fn faults_in_json() {
        let faults: Faults = serde_json::from_str(
            r#"{"delayMs": 5, "reorder": {"windowMs": 20}, "refuse": {"status": 429, "verbs": ["list"]}}"#,
        )
        .unwrap();
        let refuse = Some(Refusal { status: 429, retry_after_s: 0, verbs: vec![Verb::List], times: None });
        let reorder = Some(Reorder { window_ms: 20, seed: 0 });
        assert_eq!(faults, Faults { delay_ms: 5, reorder, refuse, ..Faults::default() });
        assert!(serde_json::from_str::<Faults>(r#"{"dealy": 5}"#).is_err());
    }
}
