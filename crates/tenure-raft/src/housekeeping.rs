//! What goes on beside the requests: flushing state so that replay stays short, purging the log behind what is durable,
//! and removing the rows that a compaction made superfluous.
//!
//! None of it is urgent, so none of it may be noticed: flushes run on their own thread, purges of history are committed
//! in small batches between runs of the apply loop.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use tenure_storage::purge::{PurgeProgress, PurgeWork};
use tokio::task::JoinSet;

use crate::node::RaftNode;
use crate::runtime::{self, BootInstant};
use crate::shared_store::SharedStore;

/// When to flush and how much log to keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Housekeeping {
    /// State is flushed after this much log was written: bounds the replay after a crash.
    pub flush_log_bytes: u64,
    /// State is flushed after this many entries, too (etcd's `--snapshot-count`).
    pub flush_entries: u64,
    /// Log kept behind the durable point for followers that lag.
    pub keep_log_bytes: u64,
    /// Entries kept at most, whatever their size (etcd's `--snapshot-catchup-entries`); none for no such bound.
    pub keep_log_entries: Option<u64>,
    /// How often the log's growth and the compaction's progress are looked at.
    pub round: Duration,
}

impl Default for Housekeeping {
    fn default() -> Housekeeping {
        Housekeeping {
            flush_log_bytes: 64 << 20,
            flush_entries: 100_000,
            keep_log_bytes: 1 << 30,
            keep_log_entries: None,
            round: Duration::from_millis(200),
        }
    }
}

/// Starts the two loops.
pub(crate) fn spawn(node: &RaftNode, store: SharedStore, tasks: &mut JoinSet<()>) {
    runtime::spawn_on(tasks, flush_loop(node.clone()));
    runtime::spawn_on(tasks, purge_loop(node.clone(), store));
}

async fn flush_loop(node: RaftNode) {
    let options = node.options().housekeeping;
    let mut flushed_index = node.view().applied().index.0;
    let mut flushed_bytes = node.log().counters().bytes_written;
    loop {
        tokio::time::sleep(options.round).await;
        let applied = node.view().applied().index.0;
        look_after_followers(&node, options);
        clear_up_inbox(&node, applied);
        let written = node.log().counters().bytes_written;
        let due = written.saturating_sub(flushed_bytes) >= options.flush_log_bytes
            || applied.saturating_sub(flushed_index) >= options.flush_entries;
        if !due || applied == flushed_index {
            continue;
        }
        (flushed_index, flushed_bytes) = (applied, written);
        if node.raft().trigger().snapshot().await.is_err() {
            return;
        }
        purge_log(&node, options).await;
    }
}

/// Ends what is kept for followers that get a snapshot or have just got one, when it is time.
fn look_after_followers(node: &RaftNode, options: Housekeeping) {
    let (outbox, now) = (node.outbox(), BootInstant::now());
    outbox.expire(now);
    let metrics = node.raft().metrics();
    let metrics = metrics.borrow_watched();
    let matched = |follower| metrics.replication.as_ref()?.get(&follower)?.as_ref().map(|log_id| log_id.index);
    outbox.note_matched(matched, now);
    if let Err(error) = outbox.bound_log(node.log().bytes_on_disk(), options.keep_log_bytes) {
        tracing::warn!(%error, "it is not known how much room is left on the disk");
    }
}

/// Removing files can take a while, so it is left to a thread that may wait for the disk.
fn clear_up_inbox(node: &RaftNode, applied: u64) {
    if node.inbox().is_overtaken(applied) {
        let inbox = node.inbox().clone();
        // Detached on purpose: nobody waits for it, and it ends by itself.
        drop(runtime::blocking(move || inbox.clear_up(applied)));
    }
}

/// Purges the log behind the last durable point, keeping some for followers that lag.
///
/// openraft never purges beyond the last snapshot, and a snapshot is only reported once its flush is done.
async fn purge_log(node: &RaftNode, options: Housekeeping) {
    let log = node.log();
    let Some(last) = log.last_index() else { return };
    let by_bytes = purgeable(log.first_index(), last, log.bytes_on_disk(), options.keep_log_bytes);
    let by_entries = options.keep_log_entries.and_then(|keep| last.checked_sub(keep));
    let Some(upto) = by_bytes.into_iter().chain(by_entries).max() else { return };
    // A follower that just got a snapshot goes on from there.
    let upto = upto.min(node.outbox().hold().unwrap_or(u64::MAX));
    if upto < log.first_index() {
        return;
    }
    if let Err(error) = node.raft().trigger().purge_log(upto).await {
        tracing::debug!(%error, "consensus has stopped");
    }
}

/// The entry up to which a log may be purged so that about `keep` of its bytes stay, entries taken as equally large.
fn purgeable(first: u64, last: u64, bytes: u64, keep: u64) -> Option<u64> {
    let surplus = bytes.checked_sub(keep).filter(|surplus| *surplus > 0)?;
    let entries = last.checked_sub(first)?;
    let drop = u128::from(entries) * u128::from(surplus) / u128::from(bytes);
    u64::try_from(drop).ok().filter(|drop| *drop > 0).map(|drop| first + drop)
}

async fn purge_loop(node: RaftNode, store: SharedStore) {
    let mut views = node.views();
    loop {
        if views.wait_for(|view| view.has_purge_work()).await.is_err() {
            return;
        }
        let store = store.clone();
        let stop = StopOnDrop(Arc::default());
        let stopped = stop.0.clone();
        let purged = runtime::blocking(move || purge_all(&store, &stopped)).await.map_err(io::Error::other);
        if let Ok(Err(error)) | Err(error) = purged {
            node.fail(format!("purging compacted history: {error}"));
            return;
        }
        tokio::time::sleep(node.options().housekeeping.round).await;
    }
}

/// Tells a purge that runs on a thread of its own to stop when the task that waits for it is stopped.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Purges until nothing is left of the compactions known so far. The writer is held up by one short step at a time.
fn purge_all(store: &SharedStore, stopped: &AtomicBool) -> io::Result<()> {
    loop {
        let view = store.view();
        let Some(mut work) = PurgeWork::plan(&view).map_err(io::Error::other)? else { return Ok(()) };
        loop {
            if stopped.load(Ordering::Relaxed) {
                return Ok(());
            }
            let mut writer = store.lock()?;
            let progress = writer.purge_step(&mut work).map_err(io::Error::other)?;
            store.publish(&writer);
            drop(writer);
            match progress {
                PurgeProgress::More => {}
                PurgeProgress::Done | PurgeProgress::Stale => break,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_within_its_bound_is_left_alone() {
        assert_eq!(purgeable(1, 100, 1000, 1000), None);
        assert_eq!(purgeable(1, 100, 0, 0), None);
        assert_eq!(purgeable(5, 5, 2000, 1000), None);
    }

    #[test]
    fn the_surplus_is_purged_from_the_front() {
        assert_eq!(purgeable(100, 200, 2000, 1000), Some(150));
        assert_eq!(purgeable(0, 1000, 1000, 1), Some(999));
        assert_eq!(purgeable(0, u64::MAX, u64::MAX, 1 << 30).map(|upto| upto < u64::MAX), Some(true));
    }
}
