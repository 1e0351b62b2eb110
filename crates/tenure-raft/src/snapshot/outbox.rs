//! The sending end: the checkpoint that followers get, and how long it and the log behind it are kept.
//!
//! One checkpoint serves all followers that need one, and all attempts to send it. As long as it is there, the entries
//! behind it stay in the log, or a follower that just installed it would need the next one; and so do those that a follower
//! lacks which installed it and catches up. Both end when nobody made progress for a while, so a follower that is gone
//! holds nothing, and in any case when the log that is held takes too much of the disk: a member that is slow may cost
//! itself another snapshot, but not its leader the room to go on.

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Semaphore;

use super::checkpoint::Checkpoint;
use super::counters::Counters;
use super::options::SnapshotOptions;
use super::pace::Pace;
use crate::home::Home;
use crate::log::LogStore;
use crate::runtime::{self, BootInstant};
use crate::shared_store::SharedStore;

/// Log that is held for followers at most, however much room there is: in segments of 64 MiB, a few hundred open files.
const HELD_LOG_BYTES_MAX: u64 = 16 << 30;

/// Backups that clients may be taking at once: each keeps files that the engine would remove, and they share one pace.
pub(crate) const BACKUPS_MAX: usize = 2;

/// See the module's header.
pub(crate) struct Outbox {
    store: SharedStore,
    log: LogStore,
    home: Arc<Home>,
    dir: PathBuf,
    options: SnapshotOptions,
    pace: Pace,
    counters: Arc<Counters>,
    kept: Mutex<Kept>,
    /// Held while a checkpoint is made: whoever comes meanwhile waits, and finds it.
    making: Arc<tokio::sync::Mutex<()>>,
    backup_places: Arc<Semaphore>,
}

#[derive(Default)]
struct Kept {
    checkpoint: Option<Arc<Checkpoint>>,
    /// While a checkpoint is made: it will not end before this entry.
    making_from: Option<u64>,
    /// Followers that installed a snapshot and catch up, each with the last entry that it is known to have, and since when.
    catching_up: BTreeMap<u64, (u64, BootInstant)>,
}

impl Outbox {
    /// Checkpoints are made in `dir`; what an earlier life left there is removed.
    pub(crate) fn open(
        store: SharedStore,
        log: LogStore,
        home: Arc<Home>,
        dir: PathBuf,
        options: SnapshotOptions,
        counters: Arc<Counters>,
    ) -> io::Result<Outbox> {
        home.files().create_dir(&dir)?;
        for name in home.files().list_dirs(&dir)? {
            home.files().remove_dir(&dir.join(name))?;
        }
        let (kept, making) = (Mutex::default(), Arc::default());
        let pace = Pace::new(options.bytes_per_second);
        let backup_places = Arc::new(Semaphore::new(BACKUPS_MAX));
        Ok(Outbox { store, log, home, dir, options, pace, counters, kept, making, backup_places })
    }

    /// The rate at which snapshots are sent.
    pub(crate) fn pace(&self) -> &Pace {
        &self.pace
    }

    /// What was sent.
    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The checkpoint, if there is one that the log goes on from.
    pub(crate) fn current(&self) -> Option<Arc<Checkpoint>> {
        let first = self.log.first_index();
        self.kept().checkpoint.clone().filter(|checkpoint| checkpoint.index() + 1 >= first)
    }

    /// Makes a checkpoint, unless there is one that the log goes on from.
    pub(crate) async fn make(self: &Arc<Outbox>) -> io::Result<()> {
        let making = self.making.clone().lock_owned().await;
        if self.current().is_some() {
            return Ok(());
        }
        let outbox = self.clone();
        // All of it happens there: who asked may be gone before it is done, with the leadership.
        let made = runtime::blocking(move || {
            let _making = making;
            outbox.kept().making_from = Some(outbox.store.view().applied().index.0);
            let made = outbox.make_now();
            let mut kept = outbox.kept();
            kept.making_from = None;
            kept.checkpoint = Some(Arc::new(made?));
            Ok(())
        });
        made.await.map_err(io::Error::other).flatten()
    }

    /// Blocks.
    fn make_now(&self) -> io::Result<Checkpoint> {
        let started = BootInstant::now();
        let made = Checkpoint::make(&self.store.flusher(), &self.home, &self.dir, self.options.chunk_bytes)?;
        let took = started.elapsed();
        self.counters.checkpoints.add(1);
        self.counters.checkpoint_micros.add_time(took);
        let (files, bytes) = (made.manifest().files.len(), made.manifest().bytes());
        tracing::info!(index = made.index(), files, bytes, ?took, "made a checkpoint to send to a follower");
        Ok(made)
    }

    /// Who takes a backup holds one of these.
    pub(crate) fn backup_places(&self) -> Arc<Semaphore> {
        self.backup_places.clone()
    }

    /// Makes a checkpoint of the present for a client. It is that client's alone: the log does not wait for it. Blocks.
    pub(crate) fn make_backup(&self) -> io::Result<Checkpoint> {
        Checkpoint::make(&self.store.flusher(), &self.home, &self.dir, self.options.chunk_bytes)
    }

    /// The log's entries behind this one are still needed.
    pub(crate) fn hold(&self) -> Option<u64> {
        let kept = self.kept();
        let made = kept.checkpoint.as_ref().map(|checkpoint| checkpoint.index());
        let catching_up = kept.catching_up.values().map(|(index, _)| *index);
        made.into_iter().chain(kept.making_from).chain(catching_up).min()
    }

    /// A follower has installed the state at an entry.
    pub(crate) fn note_installed(&self, follower: u64, index: u64, now: BootInstant) {
        self.kept().catching_up.insert(follower, (index, now));
    }

    /// Takes note of what followers have. One that is not named here is not this member's to look after.
    pub(crate) fn note_matched(&self, matched: impl Fn(u64) -> Option<u64>, now: BootInstant) {
        self.kept().catching_up.retain(|follower, known| {
            let Some(index) = matched(*follower) else { return false };
            if index > known.0 {
                *known = (index, now);
            }
            now - known.1 < self.options.keep_idle
        });
    }

    /// Drops a checkpoint that was of no use.
    pub(crate) fn discard(&self, id: u64) {
        self.kept().checkpoint.take_if(|checkpoint| checkpoint.manifest().id == id);
    }

    /// Drops the checkpoint if nobody needs it any more. Whoever is sending it still may.
    pub(crate) fn expire(&self, now: BootInstant) {
        let is_over = |checkpoint: &Checkpoint| checkpoint.idle(now) >= self.options.keep_idle;
        if let Some(checkpoint) = self.kept().checkpoint.take_if(|checkpoint| is_over(checkpoint)) {
            tracing::info!(index = checkpoint.index(), "the checkpoint is no longer kept for followers");
        }
    }

    /// Gives up holding the log if what is held takes too much room: of `bytes` in it, `kept_anyway` are kept in any case.
    pub(crate) fn bound_log(&self, bytes: u64, kept_anyway: u64) -> io::Result<()> {
        let held = bytes.saturating_sub(kept_anyway);
        if held == 0 || self.hold().is_none() {
            return Ok(());
        }
        // No more than is left for everything else.
        let max = self.home.files().bytes_free(&self.dir)?.min(HELD_LOG_BYTES_MAX);
        if held > max {
            let mut kept = self.kept();
            (kept.checkpoint, kept.catching_up) = (None, BTreeMap::new());
            tracing::warn!(
                held,
                max,
                "the log held for followers that get a snapshot takes too much room and is given up: they will need a newer \
                 one. If it happens again, raise --snapshot-send-bytes-per-second or make room"
            );
        }
        Ok(())
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
