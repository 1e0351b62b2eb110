//! What snapshots did, for operators.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Since the start of the process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SnapshotCounters {
    /// Checkpoints made to be sent.
    pub checkpoints: u64,
    /// The time that making them took.
    pub checkpoint_time: Duration,
    /// Snapshots that a follower installed.
    pub sent: u64,
    /// Bytes of files sent, those of broken transfers too.
    pub bytes_sent: u64,
    /// The time from the first offer to the installation, summed up.
    pub send_time: Duration,
    /// Transfers that broke off. Most go on a moment later.
    pub send_failures: u64,
    /// Snapshots from a leader that were installed here.
    pub installed: u64,
    /// Bytes of files received and written.
    pub bytes_received: u64,
    /// The time from the first offer to the installation, summed up.
    pub receive_time: Duration,
    /// Pieces that arrived with another checksum than they were sent with.
    pub corrupt_pieces: u64,
    /// Backups that clients saved to the end.
    pub backups: u64,
    /// Bytes of files read for them, those of broken ones too.
    pub backup_bytes: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) checkpoints: Count,
    pub(crate) checkpoint_micros: Count,
    pub(crate) sent: Count,
    pub(crate) bytes_sent: Count,
    pub(crate) send_micros: Count,
    pub(crate) send_failures: Count,
    pub(crate) installed: Count,
    pub(crate) bytes_received: Count,
    pub(crate) receive_micros: Count,
    pub(crate) corrupt_pieces: Count,
    pub(crate) backups: Count,
    pub(crate) backup_bytes: Count,
}

#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub(crate) fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn add_time(&self, time: Duration) {
        self.add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn time(&self) -> Duration {
        Duration::from_micros(self.get())
    }
}

impl Counters {
    pub(crate) fn read(&self) -> SnapshotCounters {
        SnapshotCounters {
            checkpoints: self.checkpoints.get(),
            checkpoint_time: self.checkpoint_micros.time(),
            sent: self.sent.get(),
            bytes_sent: self.bytes_sent.get(),
            send_time: self.send_micros.time(),
            send_failures: self.send_failures.get(),
            installed: self.installed.get(),
            bytes_received: self.bytes_received.get(),
            receive_time: self.receive_micros.time(),
            corrupt_pieces: self.corrupt_pieces.get(),
            backups: self.backups.get(),
            backup_bytes: self.backup_bytes.get(),
        }
    }
}
