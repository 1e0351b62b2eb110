//! Functions that are called for the events of a cache.
//!
//! They run in a task of their own, one call after another. What takes long in one delays the next and nothing else: if a listener
//! falls behind by more than the cache keeps, it is told differences.

use std::sync::Arc;

use super::super::instance::Instance;
use super::event::{Event, RemovedWhy};
use super::snapshot::Snapshot;
use super::subscription::Subscription;

/// What is called for the events of a cache. All functions do nothing unless they are written.
pub trait Listener: Send + 'static {
    /// What is there when it begins to listen. It is called first, and once.
    fn on_start(&mut self, snapshot: &Arc<Snapshot>) {
        let _ = snapshot;
    }

    /// An instance is there that was not.
    fn on_add(&mut self, instance: &Arc<Instance>) {
        let _ = instance;
    }

    /// An instance says something else of itself.
    fn on_update(&mut self, old: &Arc<Instance>, new: &Arc<Instance>) {
        let _ = (old, new);
    }

    /// An instance is gone.
    fn on_remove(&mut self, instance: &Arc<Instance>, why: RemovedWhy) {
        let _ = (instance, why);
    }

    /// Any event, those included that have functions of their own; it is called before them.
    fn on_event(&mut self, event: &Event) {
        let _ = event;
    }
}

/// Calls the listener until the cache is closed.
pub(super) async fn serve(mut subscription: Subscription, mut listener: impl Listener) {
    listener.on_start(subscription.snapshot());
    while let Some(event) = subscription.next().await {
        listener.on_event(&event);
        match &event {
            Event::Added(instance) => listener.on_add(instance),
            Event::Updated { old, new } => listener.on_update(old, new),
            Event::Removed { instance, why } => listener.on_remove(instance, *why),
            Event::Skipped { .. } | Event::Resynced { .. } | Event::Stale(_) | Event::Fresh | Event::Lagged { .. } => {}
        }
    }
}
