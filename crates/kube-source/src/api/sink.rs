//! The point where all kinds of objects meet on their way to the listener; it finds out when everything is
//! listed.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use service_model::ModelEvent;
use tokio::sync::Notify;

use super::{ApiStatus, Delivery, Listener, kinds::Kind};
use crate::Batch;

/// Events of the first lists in one delivery. Nobody waits for them until the last list is complete, and each
/// delivery wakes the listener.
const FIRST_EVENTS_PER_DELIVERY: usize = 32;

/// Passes objects and statuses of all kinds on to the listener.
pub(super) struct Sink<'a> {
    listener: &'a mut dyn FnMut(Delivery) -> Listener,
    /// Kinds without which nothing may be programmed yet.
    awaited: BTreeSet<Kind>,
    synced: bool,
    /// Part of the first lists that is not delivered yet.
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

    /// Handle that is notified when the listener is gone.
    pub(super) fn end(&self) -> Rc<Notify> {
        Rc::clone(&self.end)
    }

    /// Passes changes on; the first ones are gathered, unless there are problems to report.
    pub(super) fn take(&mut self, batch: Batch) {
        let Batch { events, problems, healed } = batch;
        self.pending.events.extend(events);
        self.pending.problems.extend(problems);
        self.pending.healed.extend(healed);
        let Batch { events, problems, healed } = &self.pending;
        let has_news = !problems.is_empty() || !healed.is_empty();
        if self.synced || events.len() >= FIRST_EVENTS_PER_DELIVERY || has_news {
            self.flush();
        }
    }

    fn flush(&mut self) {
        let batch = std::mem::take(&mut self.pending);
        if batch != Batch::default() {
            self.deliver(Delivery::Objects(batch));
        }
    }

    /// Stops waiting for a kind, which has been listed or can be done without.
    pub(super) fn settle(&mut self, kind: Kind) {
        self.awaited.remove(&kind);
        if self.awaited.is_empty() && !std::mem::replace(&mut self.synced, true) {
            self.pending.events.push(ModelEvent::Synced);
        }
        self.flush();
    }

    /// Reports the status of a kind if it has changed.
    pub(super) fn report_status(&mut self, kind: Kind, status: ApiStatus) {
        if self.statuses.get(&kind) != Some(&status) {
            self.statuses.insert(kind, status.clone());
            self.deliver(Delivery::Status(kind.resource(), status));
        }
    }

    /// Tells whether programming waits for a kind.
    pub(super) fn awaits(&self, kind: Kind) -> bool {
        self.awaited.contains(&kind)
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
