//! What the log counts for metrics. Relaxed atomics: each number is right by itself, a set of them is not a snapshot.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The live counters.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) syncs: AtomicU64,
    pub(super) syncs_in_place: AtomicU64,
    pub(super) sync_nanos_total: AtomicU64,
    pub(super) sync_nanos_max: AtomicU64,
    pub(super) bytes_written: AtomicU64,
    pub(super) entries_written: AtomicU64,
    pub(super) segments_created: AtomicU64,
    pub(super) segments_removed: AtomicU64,
    pub(super) bytes_on_disk: AtomicU64,
    pub(super) entries_read_from_disk: AtomicU64,
}

/// A reading of the counters, all of them since the log was opened but for `bytes_on_disk`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogCounters {
    /// Calls of fdatasync that made entries or votes durable.
    pub syncs: u64,
    /// How many of them were made where the entries were appended, without the log's thread.
    pub syncs_in_place: u64,
    /// Time spent in them.
    pub sync_time_total: Duration,
    /// The longest of them.
    pub sync_time_max: Duration,
    /// Bytes written to segments.
    pub bytes_written: u64,
    /// Entries written; over `syncs` this is the size of a group commit.
    pub entries_written: u64,
    /// Segments begun.
    pub segments_created: u64,
    /// Segments deleted because everything in them was purged.
    pub segments_removed: u64,
    /// Bytes of all segments now.
    pub bytes_on_disk: u64,
    /// Entries that were no longer in memory when somebody asked for them.
    pub entries_read_from_disk: u64,
}

impl Counters {
    pub(super) fn add(counter: &AtomicU64, amount: usize) {
        counter.fetch_add(amount as u64, Ordering::Relaxed);
    }

    pub(super) fn synced(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.syncs.fetch_add(1, Ordering::Relaxed);
        self.sync_nanos_total.fetch_add(nanos, Ordering::Relaxed);
        self.sync_nanos_max.fetch_max(nanos, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> LogCounters {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LogCounters {
            syncs: get(&self.syncs),
            syncs_in_place: get(&self.syncs_in_place),
            sync_time_total: Duration::from_nanos(get(&self.sync_nanos_total)),
            sync_time_max: Duration::from_nanos(get(&self.sync_nanos_max)),
            bytes_written: get(&self.bytes_written),
            entries_written: get(&self.entries_written),
            segments_created: get(&self.segments_created),
            segments_removed: get(&self.segments_removed),
            bytes_on_disk: get(&self.bytes_on_disk),
            entries_read_from_disk: get(&self.entries_read_from_disk),
        }
    }
}
