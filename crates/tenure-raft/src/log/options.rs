//! The limits of a log.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::error::LogError;

/// What is called once, by whoever writes, when the log fails for good; it should end the process. It must not close the
/// log, which waits for whoever writes.
pub type OnFailure = Arc<dyn Fn(&LogError) + Send + Sync>;

/// How a log behaves.
#[derive(Clone)]
pub struct LogOptions {
    /// A segment that has reached this is followed by a new one; at most 1 GiB. Small ones free disk space sooner,
    /// large ones are created less often, which costs two more syncs.
    pub segment_bytes: u32,
    /// Memory for the newest entries, which replication and apply read all the time. A follower that lags by more makes
    /// the leader read its log from the disk.
    pub tail_bytes_max: usize,
    /// The same bound in entries, for logs of tiny ones.
    pub tail_entries_max: usize,
    /// Bytes that wait for the disk; whoever appends beyond that waits too.
    pub queue_bytes_max: usize,
    /// Bytes that one read of many entries loads at once. A single larger entry is still read.
    pub read_bytes_max: usize,
    /// Whose log it is. Given that, small appends of a follower are written where they are appended, without the thread.
    pub member: Option<u64>,
    /// A disk that took longer for its last sync is waited for by the log's thread alone. A switch to that thread and back
    /// takes some tens of microseconds, between two heartbeats there are hundreds of thousands.
    pub quick_sync: Duration,
    /// What to do when the log fails for good.
    pub on_failure: Option<OnFailure>,
}

impl LogOptions {
    pub(super) const SEGMENT_BYTES_LIMIT: u32 = 1 << 30;
}

impl Default for LogOptions {
    fn default() -> LogOptions {
        LogOptions {
            segment_bytes: 64 << 20,
            tail_bytes_max: 64 << 20,
            tail_entries_max: 100_000,
            queue_bytes_max: 64 << 20,
            read_bytes_max: 1 << 20,
            member: None,
            quick_sync: Duration::from_micros(500),
            on_failure: None,
        }
    }
}

impl fmt::Debug for LogOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogOptions")
            .field("segment_bytes", &self.segment_bytes)
            .field("tail_bytes_max", &self.tail_bytes_max)
            .field("tail_entries_max", &self.tail_entries_max)
            .field("queue_bytes_max", &self.queue_bytes_max)
            .field("read_bytes_max", &self.read_bytes_max)
            .field("quick_sync", &self.quick_sync)
            .finish_non_exhaustive()
    }
}
