//! Wakes those who wait for a lock on this member when something happens to their places in its queue.
//!
//! Who waits is known by its key. The apply loop looks up each row of a queue that a run changed, and wakes whoever waits by
//! that key; what has become of it, it reads from the view, which is published before. So a hand-off wakes one, and no
//! herd.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tenure_core::lock::{Contender, LockKey, LockValue};
use tenure_core::planted::{Bug, is_on};
use tenure_core::state::StateRead;
use tenure_raft::{AppliedRun, Effects};
use tenure_storage::state_view::StateView;
use tokio::sync::watch;

/// Acquires that may be under way on one member, those that are cancelled among them: each is a stream and a task, a few
/// kilobytes.
pub(super) const ACQUIRES_MAX: usize = 64 * 1024;

/// See the module's header.
#[derive(Debug, Default)]
pub struct LockHub {
    waiters: Mutex<Waiters>,
    acquires: AtomicUsize,
    /// The store's revision after the last run.
    revision: AtomicI64,
    /// Grants since this member started.
    granted: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiters {
    /// With how many wait by the key.
    by_key: HashMap<Bytes, (watch::Sender<()>, usize)>,
    /// How many do altogether.
    waiting: usize,
}

impl LockHub {
    /// Counts an acquire until this is dropped; none if too many are under way.
    pub(super) fn begin(self: &Arc<LockHub>) -> Option<Underway> {
        let counted = Underway(Arc::clone(self));
        // With this one.
        let count = self.acquires.fetch_add(1, Ordering::Relaxed);
        (count < ACQUIRES_MAX).then_some(counted)
    }

    /// Waits by a key from now on.
    pub(super) fn join(self: &Arc<LockHub>, key: Bytes) -> Waiting {
        let mut waiters = self.waiters();
        waiters.waiting += 1;
        let (changes, count) = waiters.by_key.entry(key.clone()).or_insert_with(|| (watch::Sender::new(()), 0));
        *count += 1;
        let changes = changes.subscribe();
        drop(waiters);
        Waiting { hub: Arc::clone(self), key, changes }
    }

    /// How many wait on this member.
    pub fn waiting(&self) -> usize {
        self.waiters().waiting
    }

    /// How often a native lock was granted since this member started, as far as it applied that entry by entry.
    pub fn granted(&self) -> u64 {
        self.granted.load(Ordering::Relaxed)
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters> {
        // Its parts are set without a panic in between.
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Effects for LockHub {
    fn replaced(&self, view: &Arc<StateView>) {
        self.revision.store(view.meta().revision.0, Ordering::Relaxed);
        for (changes, _) in self.waiters().by_key.values() {
            changes.send_replace(());
        }
    }

    fn applied(&self, run: &AppliedRun) {
        let before = self.revision.swap(run.view.meta().revision.0, Ordering::Relaxed);
        if run.locks.is_empty() || is_on(Bug::LockDeafWaiters) {
            return;
        }
        let mut granted = 0;
        let waiters = self.waiters();
        for (key, row) in run.locks.iter() {
            let LockKey::Place(_, _, key) = key else { continue };
            if let Some((changes, _)) = waiters.by_key.get(key) {
                changes.send_replace(());
            }
            if let Some(LockValue::Place(Contender { granted: Some(grant), .. })) = row
                && grant.revision.0 > before
            {
                granted += 1;
            }
        }
        self.granted.fetch_add(granted, Ordering::Relaxed);
    }

    fn is_awaited(&self) -> bool {
        self.waiting() > 0
    }
}

/// One that waits. Dropping it ends that.
#[derive(Debug)]
pub(super) struct Waiting {
    hub: Arc<LockHub>,
    key: Bytes,
    changes: watch::Receiver<()>,
}

impl Waiting {
    /// Waits until something happened to the key's place since this was asked last.
    pub(super) async fn changed(&mut self) {
        if self.changes.changed().await.is_err() {
            // The sender goes only with those that wait.
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut waiters = self.hub.waiters();
        waiters.waiting -= 1;
        if let Entry::Occupied(mut of_key) = waiters.by_key.entry(self.key.clone()) {
            let (_, count) = of_key.get_mut();
            *count -= 1;
            if *count == 0 {
                of_key.remove();
            }
        }
    }
}

/// An acquire that counts.
#[derive(Debug)]
pub(super) struct Underway(Arc<LockHub>);

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.acquires.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    fn counts(hub: &LockHub) -> (usize, usize) {
        let waiters = hub.waiters();
        (waiters.waiting, waiters.by_key.len())
    }

    #[test]
    fn the_last_that_waits_by_a_key_takes_it_along() {
        let hub = Arc::new(LockHub::default());
        let key = Bytes::from_static(b"n/1");
        let mut first = hub.join(key.clone());
        let second = hub.join(key.clone());
        assert!(first.changed().now_or_never().is_none());
        hub.waiters().by_key[&key].0.send_replace(());
        assert!(first.changed().now_or_never().is_some(), "what happened before it was asked counts");
        drop(second);
        assert_eq!(counts(&hub), (1, 1));
        drop(first);
        assert_eq!(counts(&hub), (0, 0));
    }

    #[test]
    fn no_more_are_under_way_than_may_be() {
        let hub = Arc::new(LockHub::default());
        let all: Vec<Underway> = (0..ACQUIRES_MAX).map(|_| hub.begin().expect("there is room")).collect();
        assert!(hub.begin().is_none() && hub.begin().is_none());
        drop(all);
        assert!(hub.begin().is_some());
        assert_eq!(hub.acquires.load(Ordering::Relaxed), 0);
    }
}
