//! What is passed on, and when everything has been listed once.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use service_model::ModelEvent;
use tokio::sync::Notify;

use super::{ApiStatus, Delivery, Listener, kinds::Kind};
use crate::Batch;

/// Where all kinds meet.
pub(super) struct Sink<'a> {
    listener: &'a mut dyn FnMut(Delivery) -> Listener,
    /// Kinds without which nothing may be programmed yet.
    awaited: BTreeSet<Kind>,
    synced: bool,
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
            statuses: BTreeMap::new(),
            gone: false,
            end: Rc::default(),
        }
    }

    /// Notified when the listener is gone.
    pub(super) fn end(&self) -> Rc<Notify> {
        Rc::clone(&self.end)
    }

    /// Passes changes on.
    pub(super) fn objects(&mut self, batch: Batch) {
        if batch != Batch::default() {
            self.deliver(Delivery::Objects(batch));
        }
    }

    /// A kind has been listed, or is not waited for any longer.
    pub(super) fn settled(&mut self, kind: Kind) {
        self.awaited.remove(&kind);
        if self.awaited.is_empty() && !std::mem::replace(&mut self.synced, true) {
            self.deliver(Delivery::Objects(Batch { events: vec![ModelEvent::Synced], ..Batch::default() }));
        }
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
