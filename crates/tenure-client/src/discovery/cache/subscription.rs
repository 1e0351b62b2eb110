//! The events of a cache, for one listener.
//!
//! A listener that is too slow loses steps, and is told so. What it missed it gets as differences between what it was told and what
//! the cache serves now: so it knows what it was told, which costs a map of pointers for each listener, and it is never wrong
//! about what is there.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use futures::Stream;
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;

use super::super::instance::Instance;
use super::event::{Event, RemovedWhy};
use super::published::{Published, Told};
use super::snapshot::Snapshot;

/// The events of a cache from a snapshot on.
///
/// It does not keep the cache alive: it ends when the last handle of the cache is gone, or when that is closed.
#[derive(Debug)]
pub struct Subscription {
    published: Arc<Published>,
    receiver: Option<broadcast::Receiver<Told>>,
    snapshot: Arc<Snapshot>,
    known: Known,
    /// Received, and not told yet.
    queue: VecDeque<Event>,
}

impl Subscription {
    pub(super) fn new(published: Arc<Published>) -> Self {
        let (snapshot, receiver) = published.listen();
        Self { published, receiver, known: Known::new(&snapshot), snapshot, queue: VecDeque::new() }
    }

    /// What the cache served right before the first event.
    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    /// The next event; none when the cache is closed.
    ///
    /// Cancel-safe: what a dropped call did not give comes from the next one.
    pub async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                self.known.follow(&event);
                return Some(event);
            }
            match self.receiver.as_mut()?.recv().await {
                Ok(told) => self.queue.extend(told.iter().cloned()),
                Err(RecvError::Lagged(missed)) => self.catch_up(missed),
                Err(RecvError::Closed) => self.receiver = None,
            }
        }
    }

    /// The events as a stream.
    pub fn into_stream(self) -> impl Stream<Item = Event> + Send {
        futures::stream::unfold(self, async |mut subscription| Some((subscription.next().await?, subscription)))
    }

    fn catch_up(&mut self, missed: u64) {
        // What waits in the ring is skipped, too: it is in the snapshot.
        let waiting = self.receiver.as_ref().map_or(0, broadcast::Receiver::len);
        let (snapshot, receiver) = self.published.listen();
        self.receiver = receiver;
        self.queue.push_back(Event::Lagged { missed: missed.saturating_add(u64::try_from(waiting).unwrap_or(0)) });
        let differences = self.known.differences(&snapshot);
        let resynced = Event::Resynced { revision: snapshot.revision(), differences: differences.len() };
        self.queue.extend(differences);
        self.queue.push_back(resynced);
    }
}

/// What a listener was told is there.
#[derive(Debug)]
pub(super) struct Known(BTreeMap<(Arc<str>, Arc<str>), Arc<Instance>>);

impl Known {
    pub(super) fn new(snapshot: &Snapshot) -> Self {
        Self(snapshot.all().map(|instance| (name(instance), instance.clone())).collect())
    }

    fn follow(&mut self, event: &Event) {
        match event {
            Event::Added(instance) | Event::Updated { new: instance, .. } => {
                self.0.insert(name(instance), instance.clone());
            }
            Event::Removed { instance, .. } => {
                self.0.remove(&name(instance));
            }
            Event::Skipped { .. } | Event::Resynced { .. } | Event::Stale(_) | Event::Fresh | Event::Lagged { .. } => {}
        }
    }

    /// What leads from what is known to a snapshot, without what happened between them.
    pub(super) fn differences(&self, snapshot: &Snapshot) -> Vec<Event> {
        let removed = self.0.values().filter(|known| snapshot.entry(known.kind(), known.id()).is_none());
        let mut events: Vec<_> =
            removed.map(|instance| Event::Removed { instance: instance.clone(), why: RemovedWhy::Unknown }).collect();
        for new in snapshot.all() {
            match self.0.get(&name(new)) {
                None => events.push(Event::Added(new.clone())),
                Some(old) if old != new => events.push(Event::Updated { old: old.clone(), new: new.clone() }),
                Some(_) => {}
            }
        }
        events
    }
}

fn name(instance: &Instance) -> (Arc<str>, Arc<str>) {
    (instance.kind().into(), instance.id().into())
}

#[cfg(test)]
mod tests {
    use super::super::published::Contact;
    use super::super::snapshot::Entry;
    use super::*;
    use crate::clock::Instant;

    const CONTACT: Contact = Contact { verified: Instant::ORIGIN, is_connected: true };

    fn instance(number: u32) -> Arc<Instance> {
        Arc::new(Instance { kind: "room".to_owned(), ..Instance::new(number.to_string()) })
    }

    /// A step that adds an instance.
    fn add(published: &Published, number: u32) {
        let mut snapshot = (*published.snapshot()).clone();
        let instance = instance(number);
        let entry = Entry { instance: instance.clone(), create_revision: 2, mod_revision: 2, lease: 0, held: None };
        snapshot.set(entry);
        published.publish(Some(snapshot), CONTACT, vec![Event::Added(instance)]);
    }

    #[tokio::test]
    async fn a_slow_listener_is_told_what_it_missed_and_holds_nobody_up() {
        let published = Arc::new(Published::new(Snapshot::default(), CONTACT, 4));
        let mut slow = Subscription::new(published.clone());
        add(&published, 0);
        assert_eq!(slow.next().await, Some(Event::Added(instance(0))));
        for number in 1..20 {
            add(&published, number);
        }
        assert_eq!(slow.next().await, Some(Event::Lagged { missed: 19 }));
        for _ in 1..20 {
            assert!(matches!(slow.next().await, Some(Event::Added(_))));
        }
        assert!(matches!(slow.next().await, Some(Event::Resynced { differences: 19, .. })));
        assert_eq!(slow.known.0.len(), 20);
        add(&published, 20);
        assert_eq!(slow.next().await, Some(Event::Added(instance(20))));
    }

    #[tokio::test]
    async fn a_listener_that_comes_later_begins_with_what_is_there() {
        let published = Arc::new(Published::new(Snapshot::default(), CONTACT, 4));
        add(&published, 1);
        let mut late = Subscription::new(published.clone());
        assert_eq!(late.snapshot().len(), 1);
        add(&published, 2);
        assert_eq!(late.next().await, Some(Event::Added(instance(2))));
        published.close();
        assert_eq!(late.next().await, None);
        assert_eq!(late.next().await, None);
    }
}
