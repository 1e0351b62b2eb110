//! What a cache's task shares with those that read it: the snapshot, how fresh it is, and the stream of events.
//!
//! A snapshot and the events that led to it are published under one lock, so that whoever begins to listen takes a snapshot
//! and the place in the stream right after it. The stream is a bounded ring: a slow listener loses its oldest steps and nobody
//! waits for it.

use std::sync::Arc;

use parking_lot::RwLock;
use tokio::sync::broadcast;

use super::event::Event;
use super::snapshot::Snapshot;
use crate::clock::Instant;

/// One step of the cache, as listeners receive it.
pub(super) type Told = Arc<[Event]>;

/// How well the cache is in touch with the cluster.
#[derive(Clone, Copy, Debug)]
pub(super) struct Contact {
    /// What was in the store by then is in the cache.
    pub(super) verified: Instant,
    /// A watch is open, and the last request was answered.
    pub(super) is_connected: bool,
}

#[derive(Debug)]
struct Inner {
    snapshot: Arc<Snapshot>,
    contact: Contact,
    /// None once the cache is closed.
    told: Option<broadcast::Sender<Told>>,
}

#[derive(Debug)]
pub(super) struct Published(RwLock<Inner>);

impl Published {
    /// Listeners may be behind by so many steps.
    pub(super) fn new(snapshot: Snapshot, contact: Contact, steps_max: usize) -> Self {
        let (told, _) = broadcast::channel(steps_max);
        Self(RwLock::new(Inner { snapshot: Arc::new(snapshot), contact, told: Some(told) }))
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        self.0.read().snapshot.clone()
    }

    pub(super) fn contact(&self) -> Contact {
        self.0.read().contact
    }

    /// The place in the stream right after a snapshot, with it. None if the cache is closed.
    pub(super) fn listen(&self) -> (Arc<Snapshot>, Option<broadcast::Receiver<Told>>) {
        let inner = self.0.read();
        (inner.snapshot.clone(), inner.told.as_ref().map(broadcast::Sender::subscribe))
    }

    pub(super) fn publish(&self, snapshot: Option<Snapshot>, contact: Contact, events: Vec<Event>) {
        let mut inner = self.0.write();
        if let Some(snapshot) = snapshot {
            inner.snapshot = Arc::new(snapshot);
        }
        inner.contact = contact;
        if let Some(told) = inner.told.as_ref().filter(|_| !events.is_empty()) {
            // That nobody listens is no error.
            let _nobody_listens = told.send(events.into()).is_err();
        }
    }

    /// Ends the stream of events. What is served stays as it was.
    pub(super) fn close(&self) {
        let mut inner = self.0.write();
        inner.told = None;
        inner.contact.is_connected = false;
    }
}
