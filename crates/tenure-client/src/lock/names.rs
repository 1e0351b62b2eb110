//! Which locks of a session are being cleaned up after, or are in use by etcd's recipe.
//!
//! Both ends of a lock that was dropped are under way at once when somebody asks for it again: the new request waits until the old
//! one is known to be gone, or a server would take the two for rivals. The recipe knows no request numbers, so one request at a time uses a name.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

/// See the module's header.
#[derive(Debug)]
pub(crate) struct Names {
    inner: Mutex<HashMap<Bytes, Use>>,
    changes: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct Use {
    cleanups: usize,
    is_claimed: bool,
}

impl Names {
    pub(crate) fn new() -> Arc<Names> {
        Arc::new(Names { inner: Mutex::default(), changes: watch::Sender::new(()) })
    }

    /// Counts as being cleaned up after until it is dropped.
    pub(crate) fn cleaning(self: &Arc<Self>, name: Bytes) -> Cleaning {
        self.inner.lock().entry(name.clone()).or_default().cleanups += 1;
        Cleaning { names: self.clone(), name }
    }

    /// The only claim to it by the recipe until it is dropped; none if there is one.
    pub(crate) fn claim(self: &Arc<Self>, name: &Bytes) -> Option<Claimed> {
        let mut inner = self.inner.lock();
        let entry = inner.entry(name.clone()).or_default();
        if std::mem::replace(&mut entry.is_claimed, true) {
            return None;
        }
        Some(Claimed { names: self.clone(), name: name.clone() })
    }

    /// Waits until nobody cleans up after it.
    pub(crate) async fn clean(&self, name: &Bytes) {
        let mut changes = self.changes.subscribe();
        loop {
            if self.inner.lock().get(name).is_none_or(|entry| entry.cleanups == 0) {
                return;
            }
            // The sender is in self.
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    fn change(&self, name: &Bytes, change: impl FnOnce(&mut Use)) {
        let mut inner = self.inner.lock();
        if let Some(entry) = inner.get_mut(name) {
            change(entry);
            if entry.cleanups == 0 && !entry.is_claimed {
                inner.remove(name);
            }
        }
        drop(inner);
        self.changes.send_replace(());
    }
}

/// See [`Names::cleaning`].
#[derive(Debug)]
pub(crate) struct Cleaning {
    names: Arc<Names>,
    name: Bytes,
}

impl Drop for Cleaning {
    fn drop(&mut self) {
        self.names.change(&self.name, |entry| entry.cleanups = entry.cleanups.saturating_sub(1));
    }
}

/// See [`Names::claim`].
#[derive(Debug)]
pub(crate) struct Claimed {
    names: Arc<Names>,
    name: Bytes,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        self.names.change(&self.name, |entry| entry.is_claimed = false);
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn who_asks_again_waits_for_what_is_being_cleaned_up() {
        let names = Names::new();
        let name = Bytes::from("a");
        assert!(names.clean(&name).now_or_never().is_some());
        let cleanings = [names.cleaning(name.clone()), names.cleaning(name.clone())];
        let mut waiting = Box::pin(names.clean(&name));
        assert!((&mut waiting).now_or_never().is_none());
        assert!(names.clean(&Bytes::from("b")).now_or_never().is_some());
        drop(cleanings);
        waiting.await;
        assert!(names.inner.lock().is_empty());
    }

    #[test]
    fn a_name_is_claimed_once_at_a_time() {
        let names = Names::new();
        let name = Bytes::from("a");
        let claimed = names.claim(&name).unwrap();
        assert!(names.claim(&name).is_none());
        drop(claimed);
        assert!(names.claim(&name).is_some());
    }
}
