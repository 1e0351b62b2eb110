//! The hub's figures.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// What is counted all the time.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) lagging: AtomicUsize,
    pub(super) events_sent: AtomicU64,
    pub(super) catch_up_reads: AtomicU64,
}

impl Counters {
    /// A stream has `now` watchers that lag, and had `before`.
    pub(super) fn note_lagging(&self, now: usize, before: usize) {
        if now != before {
            self.lagging.fetch_add(now, Ordering::Relaxed);
            self.lagging.fetch_sub(before, Ordering::Relaxed);
        }
    }

    pub(super) fn note_sent(&self, events: usize) {
        self.events_sent.fetch_add(events as u64, Ordering::Relaxed);
    }

    pub(super) fn note_catch_up_read(&self) {
        self.catch_up_reads.fetch_add(1, Ordering::Relaxed);
    }
}

/// A reading of the hub's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HubStats {
    /// Open streams.
    pub streams: usize,
    /// Watchers on them.
    pub watchers: usize,
    /// Watchers that are so far behind that they read the history.
    pub lagging: usize,
    /// Bytes that the recent events keep.
    pub ring_bytes: usize,
    /// Recent events kept.
    pub ring_events: usize,
    /// Events handed to clients.
    pub events_sent: u64,
    /// Reads of the history for watchers.
    pub catch_up_reads: u64,
}
