//! What is passed on, and when everything has been listed once.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use service_model::ModelEvent;
use tokio::sync::Notify;

use super::{ApiStatus, Delivery, Listener, kinds::Kind};
use crate::Batch;

/// Events of the first lists that are passed on together: until the last list is complete nobody waits for them, and
/// who is told of each by itself is woken for each.
const TOGETHER: usize = 32;

/// Where all kinds meet.
pub(super) struct Sink<'a> {
    listener: &'a mut dyn FnMut(Delivery) -> Listener,
    /// Kinds without which nothing may be programmed yet.
    awaited: BTreeSet<Kind>,
    synced: bool,
    /// Part of the first lists.
    pending: Batch,
    statuses: BTreeMap<Kind, ApiStatus>,
    gone: bool,
    end: Rc<Notify>,
}

impl<'a> Sink<'a> {
    pub(super) fn new(listener: &'a mut dyn FnMut(Delivery) -> Listener) -> Self {
        Sink {
            listener,
            awaited: Kind::ALL.into_iter().collect(),
            synced: false,
            pending: Batch::default(),
            statuses: BTreeMap::new(),
            gone: false,
            end: Rc::default(),
        }
    }

    /// Notified when the listener is gone.
    pub(super) fn end(&self) -> Rc<Notify> {
        Rc::clone(&self.end)
    }

    /// Passes changes on, problems at once.
    pub(super) fn objects(&mut self, batch: Batch) {
        let Batch { events, problems, healed } = batch;
        self.pending.events.extend(events);
        self.pending.problems.extend(problems);
        self.pending.healed.extend(healed);
        let Batch { events, problems, healed } = &self.pending;
        if self.synced || events.len() >= TOGETHER || !problems.is_empty() || !healed.is_empty() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let batch = std::mem::take(&mut self.pending);
        if batch != Batch::default() {
            self.deliver(Delivery::Objects(batch));
        }
    }

    /// A kind has been listed, or is not waited for any longer.
    pub(super) fn settled(&mut self, kind: Kind) {
        self.awaited.remove(&kind);
        if self.awaited.is_empty() && !std::mem::replace(&mut self.synced, true) {
            self.pending.events.push(ModelEvent::Synced);
        }
        self.flush();
    }

    /// Tells a status if it is news.
    pub(super) fn status(&mut self, kind: Kind, status: ApiStatus) {
        if self.statuses.get(&kind) != Some(&status) {
            self.statuses.insert(kind, status.clone());
            self.deliver(Delivery::Status(kind.resource(), status));
        }
    }

    pub(super) const fn is_gone(&self) -> bool {
        self.gone
    }

    fn deliver(&mut self, delivery: Delivery) {
        if !self.gone && (self.listener)(delivery) == Listener::Gone {
            self.gone = true;
            self.end.notify_one();
        }
    }
}
