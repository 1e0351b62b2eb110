//! A wait for one of a few ranges to change: no events, only that it is time to look again.
//!
//! It is marked like any watcher, from the revision that its owner has looked at, so nothing falls between the look and
//! the wait. It reads no history: compaction does not concern it, and what a snapshot skipped wakes it like a change.

use std::sync::Arc;

use tenure_core::Revision;
use tenure_core::command::KeyRange;
use tokio::sync::Notify;

use super::hub::{Shared, TooMany, WatchHub};
use super::registry::{StreamKey, WatcherKey};
use super::types::{Kinds, WatchRefusal};

/// See the module's header.
pub(in crate::node) struct Changes {
    hub: Arc<Shared>,
    stream: StreamKey,
    watchers: Vec<(WatcherKey, KeyRange)>,
    wake: Arc<Notify>,
}

impl Changes {
    /// Waits for changes after the revision `seen`, which was looked at.
    pub(in crate::node) fn after(
        seen: Revision,
        hub: &WatchHub,
        ranges: impl IntoIterator<Item = (KeyRange, Kinds)>,
    ) -> Result<Changes, WatchRefusal> {
        let hub = hub.shared().clone();
        let wake = Arc::new(Notify::new());
        let stream = hub.add_stream(wake.clone()).map_err(|TooMany| WatchRefusal::TooMany)?;
        // From here on dropping it removes what was added.
        let mut changes = Changes { hub, stream, watchers: Vec::new(), wake };
        let first = Revision(seen.0.saturating_add(1));
        for (range, kinds) in ranges {
            let key = changes.hub.add_watcher(stream, &range, kinds, first);
            changes.watchers.push((key.map_err(|TooMany| WatchRefusal::TooMany)?, range));
        }
        Ok(changes)
    }

    /// Returns once one of the ranges may have changed.
    pub(in crate::node) async fn any(&self) {
        // A wake without a mark is somebody else's business: of what the stream was told earlier.
        while self.hub.take(self.stream).0.is_empty() {
            self.wake.notified().await;
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        for (key, range) in std::mem::take(&mut self.watchers) {
            self.hub.remove_watcher(key, &range);
        }
        self.hub.remove_stream(self.stream);
    }
}
