//! The watch hub: takes every applied run off the apply loop's hands, and tells the streams that it concerns.
//!
//! ```text
//! apply loop ──append──▶ ring ──▶ hub thread: which watchers does this touch? ──mark, wake──▶ streams
//!                         ▲                                                                      │
//!                         └────── pull the marked revisions, filter, send ◀──────────────────────┘
//! ```
//!
//! The apply loop appends and goes on; it never matches, reads or waits for a watcher. The hub's thread matches and
//! marks; no event is queued for anybody. A stream pulls what is marked when its client has room for it: from the ring,
//! or from the history once the ring no longer reaches back that far. So memory does not depend on how slow clients are,
//! and a slow one costs nobody but itself.
//!
//! *Appended* is the last revision in the ring, *processed* the last one that has left its marks. The lock of the
//! registry covers marks and *processed* together: whoever finds no mark has everything up to *processed*. A state that
//! is replaced, or a ring that overflows before its events are matched, is a gap: all watchers are marked for it and find
//! out from the history what they missed. Locks are taken in the order registry, feed.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tenure_core::command::KeyRange;
use tenure_core::row::EventRow;
use tenure_core::state::StateRead;
use tenure_core::{EventId, Revision};
use tenure_raft::runtime::{self, Looping};
use tenure_raft::{AppliedRun, Effects};
use tenure_storage::state_view::StateView;
use tokio::sync::{Notify, Semaphore};

use super::feed::{Feed, News};
use super::limits::{CATCH_UP_READS_MAX, GATHERS_MAX, LARGE_HOLDERS_MAX, STREAMS_MAX, WATCHED_BYTES_MAX, WATCHERS_MAX};
use super::prev_kvs::PrevKvs;
use super::registry::{Mark, Registry, StreamKey, WatcherKey};
use super::ring::Events;
use super::stats::{Counters, HubStats};
use super::types::Kinds;
use super::work::Work;

/// See the module's header. One per process; cheap to clone.
#[derive(Clone)]
pub struct WatchHub {
    shared: Arc<Shared>,
    /// Ends the thread with the last clone.
    _thread: Arc<HubThread>,
}

pub(super) struct Shared {
    feed: Mutex<Feed>,
    fed: Notify,
    /// Fair: streams get it between two pieces of the hub's thread's work.
    registry: parking_lot::Mutex<Registry>,
    /// The bytes of all watched keys.
    watched_bytes: AtomicU64,
    catch_up_reads: Arc<Semaphore>,
    gathers: Arc<Semaphore>,
    /// Streams that hold much.
    large_holders: AtomicUsize,
    pub(super) prev_kvs: PrevKvs,
    pub(super) counters: Counters,
}

/// There are too many of something already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooMany;

impl WatchHub {
    /// Starts the hub's thread. Recent events are kept in memory up to about so many bytes.
    pub fn start(ring_bytes_max: usize) -> std::io::Result<WatchHub> {
        let shared = Arc::new(Shared::new(ring_bytes_max));
        let thread = runtime::spawn_loop("watch-hub", shared.clone().match_loop())?;
        Ok(WatchHub { _thread: Arc::new(HubThread { shared: shared.clone(), thread }), shared })
    }

    /// A hub without a thread: [`Shared::match_some`] does its work.
    #[cfg(test)]
    pub(super) fn by_hand(ring_bytes_max: usize) -> WatchHub {
        let shared = Arc::new(Shared::new(ring_bytes_max));
        WatchHub { _thread: Arc::new(HubThread { shared: shared.clone(), thread: Looping::default() }), shared }
    }

    /// The hub's figures.
    pub fn stats(&self) -> HubStats {
        let (streams, watchers) = {
            let registry = self.shared.registry();
            (registry.streams(), registry.watchers())
        };
        let (ring_bytes, ring_events) = {
            let feed = self.shared.feed();
            (feed.ring.bytes(), feed.ring.len())
        };
        let counters = &self.shared.counters;
        HubStats {
            streams,
            watchers,
            lagging: counters.lagging.load(Ordering::Relaxed),
            ring_bytes,
            ring_events,
            events_sent: counters.events_sent.load(Ordering::Relaxed),
            catch_up_reads: counters.catch_up_reads.load(Ordering::Relaxed),
        }
    }

    /// Places for work of its kind.
    pub(super) fn places(&self, work: &Work) -> Arc<Semaphore> {
        match work {
            Work::CatchUp(_) => self.shared.catch_up_reads.clone(),
            Work::Gather(_) => self.shared.gathers.clone(),
        }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Effects for WatchHub {
    fn replaced(&self, view: &Arc<StateView>) {
        let mut feed = self.shared.feed();
        let forgotten = feed.ring.restart(view.meta().revision);
        self.shared.note_fed(feed);
        drop(forgotten);
    }

    fn applied(&self, run: &AppliedRun) {
        let Some(last) = run.events.last() else { return };
        let mut feed = self.shared.feed();
        if feed.active {
            feed.ring.push(run.events.clone(), run.log_bytes);
        } else {
            feed.ring.restart(last.meta.modified.revision);
        }
        self.shared.note_fed(feed);
    }

    fn is_awaited(&self) -> bool {
        self.shared.feed().active
    }
}

impl Shared {
    fn new(ring_bytes_max: usize) -> Shared {
        Shared {
            feed: Mutex::new(Feed::new(ring_bytes_max)),
            fed: Notify::new(),
            registry: parking_lot::Mutex::new(Registry::new()),
            watched_bytes: AtomicU64::new(0),
            catch_up_reads: Arc::new(Semaphore::new(CATCH_UP_READS_MAX)),
            gathers: Arc::new(Semaphore::new(GATHERS_MAX)),
            large_holders: AtomicUsize::new(0),
            prev_kvs: PrevKvs::default(),
            counters: Counters::default(),
        }
    }

    /// Wakes the hub's thread, or takes note that there is nothing to match.
    fn note_fed(&self, mut feed: MutexGuard<'_, Feed>) {
        if feed.active {
            drop(feed);
            self.fed.notify_one();
        } else {
            feed.taken = feed.ring.appended();
        }
    }

    /// Whoever panics with one of these locks leaves marks or events half-way, and the watchers with a hole in what they
    /// are told; but nothing in these sections can.
    fn feed(&self) -> MutexGuard<'_, Feed> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn registry(&self) -> parking_lot::MutexGuard<'_, Registry> {
        self.registry.lock()
    }

    /// The hub's thread.
    async fn match_loop(self: Arc<Self>) {
        while let Some(news) = self.next_news().await {
            self.match_news(news);
        }
    }

    /// Waits for what the apply loop has left. None at the end.
    async fn next_news(&self) -> Option<News> {
        loop {
            // Whoever feeds while nobody waits leaves a permit: nothing is missed between the look and the wait.
            {
                let mut feed = self.feed();
                if feed.closed {
                    return None;
                }
                if let Some(news) = feed.take_news() {
                    return Some(news);
                }
            }
            self.fed.notified().await;
        }
    }

    fn match_news(&self, news: News) {
        match news {
            News::Gap(revision) => self.skip_to(revision),
            News::Runs(runs) => runs.iter().for_each(|events| self.process(events)),
        }
    }

    /// Does what the thread would do next.
    #[cfg(test)]
    pub(super) fn match_some(&self) -> bool {
        let news = self.feed().take_news();
        news.map(|news| self.match_news(news)).is_some()
    }

    fn skip_to(&self, revision: Revision) {
        let wakes = {
            let mut registry = self.registry();
            registry.skip_to(revision);
            registry.streams_to_wake()
        };
        wakes.iter().for_each(|wake| wake.notify_one());
    }

    /// Matches a run, in pieces of whole revisions, so that streams need not wait long for the registry.
    fn process(&self, events: &[EventRow]) {
        let mut rest = events;
        while !rest.is_empty() {
            let mut registry = self.registry();
            let done = registry.process(rest);
            let wakes = registry.streams_to_wake();
            // Else this thread would have it again before one that waits for it has woken up.
            parking_lot::MutexGuard::unlock_fair(registry);
            rest = &rest[done..];
            wakes.iter().for_each(|wake| wake.notify_one());
        }
    }

    pub(super) fn add_stream(&self, wake: Arc<Notify>) -> Result<StreamKey, TooMany> {
        let mut registry = self.registry();
        if registry.streams() >= STREAMS_MAX {
            return Err(TooMany);
        }
        Ok(registry.add_stream(wake))
    }

    pub(super) fn remove_stream(&self, key: StreamKey) {
        self.registry().remove_stream(key);
    }

    /// Adds a watcher of events from `start` on.
    pub(super) fn add_watcher(
        &self,
        stream: StreamKey,
        range: &KeyRange,
        kinds: Kinds,
        start: Revision,
    ) -> Result<WatcherKey, TooMany> {
        let bytes = watched_bytes(range);
        let mut registry = self.registry();
        if registry.watchers() >= WATCHERS_MAX
            || self.watched_bytes.load(Ordering::Relaxed).saturating_add(bytes) > WATCHED_BYTES_MAX
        {
            return Err(TooMany);
        }
        if registry.watchers() == 0 {
            let mut feed = self.feed();
            // Nothing was kept, and there was nobody to match: whatever the ring has passed is processed.
            feed.taken = feed.ring.appended();
            feed.active = true;
            registry.skip_to(feed.taken);
        }
        self.watched_bytes.fetch_add(bytes, Ordering::Relaxed);
        let key = registry.add_watcher(stream, range, kinds, start);
        let wakes = registry.streams_to_wake();
        drop(registry);
        wakes.iter().for_each(|wake| wake.notify_one());
        Ok(key)
    }

    pub(super) fn remove_watcher(&self, key: WatcherKey, range: &KeyRange) {
        let mut registry = self.registry();
        registry.remove_watcher(key);
        self.watched_bytes.fetch_sub(watched_bytes(range), Ordering::Relaxed);
        if registry.watchers() == 0 {
            let mut feed = self.feed();
            feed.active = false;
            let appended = feed.ring.appended();
            let forgotten = feed.ring.restart(appended);
            feed.taken = appended;
            drop(feed);
            drop(registry);
            // To free the memory takes time that neither the apply loop nor other streams should wait for.
            drop(forgotten);
        }
    }

    /// The marks of a stream, and the revision up to which they are complete.
    pub(super) fn take(&self, stream: StreamKey) -> (Vec<Mark>, Revision) {
        self.registry().take(stream)
    }

    /// Wakes the stream when `revision` is processed.
    pub(super) fn wake_at(&self, stream: StreamKey, revision: Revision) {
        self.registry().wake_at(stream, revision);
    }

    /// See [`super::ring::Ring::slice`].
    pub(super) fn recent(&self, first: Revision, last: Revision, events_max: usize) -> Option<(Vec<Events>, Revision)> {
        self.feed().ring.slice(first, last, events_max)
    }

    /// An event, if it is among the recent ones.
    pub(super) fn recent_event(&self, id: EventId) -> Option<EventRow> {
        self.feed().ring.event(id)
    }

    /// A place among the streams that may hold much, if there is one.
    pub(super) fn may_hold_much(self: &Arc<Shared>) -> Option<LargeHolder> {
        let place = |holders: usize| (holders < LARGE_HOLDERS_MAX).then_some(holders + 1);
        self.large_holders.fetch_update(Ordering::Relaxed, Ordering::Relaxed, place).ok()?;
        Some(LargeHolder(self.clone()))
    }
}

/// A place among the streams that may hold much, given back when dropped.
pub(super) struct LargeHolder(Arc<Shared>);

impl Drop for LargeHolder {
    fn drop(&mut self) {
        self.0.large_holders.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a range costs in memory.
fn watched_bytes(range: &KeyRange) -> u64 {
    match range {
        KeyRange::One(key) | KeyRange::From(key) => key.len() as u64,
        KeyRange::Between(start, end) => (start.len() + end.len()) as u64,
    }
}

struct HubThread {
    shared: Arc<Shared>,
    thread: Looping,
}

impl Drop for HubThread {
    fn drop(&mut self) {
        self.shared.feed().closed = true;
        self.shared.fed.notify_one();
        self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Weak;

    use bytes::Bytes;
    use tenure_core::LeaseId;
    use tenure_core::row::KeyMeta;

    use super::super::limits::RING_BYTES_MAX;
    use super::*;

    /// Notes, when it is freed, whether the locks are free.
    struct Probe {
        hub: Weak<Shared>,
        seen: Arc<Mutex<Vec<bool>>>,
    }

    impl AsRef<[u8]> for Probe {
        fn as_ref(&self) -> &[u8] {
            b"k"
        }
    }

    impl Drop for Probe {
        fn drop(&mut self) {
            let Some(hub) = self.hub.upgrade() else { return };
            let free = hub.registry.try_lock().is_some() && hub.feed.try_lock().is_ok();
            self.seen.lock().unwrap().push(free);
        }
    }

    #[test]
    fn what_the_ring_forgets_is_freed_without_a_lock() {
        let hub = WatchHub::by_hand(RING_BYTES_MAX);
        let seen = Arc::<Mutex<Vec<bool>>>::default();
        let probe = Probe { hub: Arc::downgrade(hub.shared()), seen: seen.clone() };
        let key = Bytes::from_owner(probe);
        let stream = hub.shared().add_stream(Arc::default()).unwrap();
        let range = KeyRange::One(Bytes::from_static(b"k"));
        let watcher = hub.shared().add_watcher(stream, &range, Kinds::ALL, Revision(1)).unwrap();
        let modified = EventId { revision: Revision(1), sub: 0 };
        let meta = KeyMeta { create: Revision(1), modified, version: 1, lease: LeaseId::NONE };
        let event = EventRow { key, meta, value: Bytes::new(), previous: None, cause: None };
        hub.shared().feed().ring.push([event].into(), 0);
        hub.shared().remove_watcher(watcher, &range);
        assert_eq!(*seen.lock().unwrap(), [true]);
    }
}
