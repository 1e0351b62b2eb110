//! How snapshots are sent.

use std::num::NonZeroU64;
use std::time::Duration;

use super::manifest::CHUNK_BYTES;

/// How snapshots are sent to followers that need one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SnapshotOptions {
    /// How fast snapshots leave this member, all together; none for as fast as they can.
    pub bytes_per_second: Option<NonZeroU64>,
    /// The length of the pieces that files are sent in; 64 bytes to 1 MiB.
    pub chunk_bytes: u32,
    /// How long a checkpoint, and the log behind it, is kept that nobody receives.
    pub keep_idle: Duration,
}

impl Default for SnapshotOptions {
    fn default() -> SnapshotOptions {
        // Half of what a link of 1 Gbit/s carries: the other half is for the entries that followers need meanwhile.
        let bytes_per_second = NonZeroU64::new(64 << 20);
        // A follower's restart is shorter.
        SnapshotOptions { bytes_per_second, chunk_bytes: CHUNK_BYTES, keep_idle: Duration::from_secs(120) }
    }
}
