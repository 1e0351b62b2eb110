//! The sending end: the checkpoint that followers get, and how long it and the log behind it are kept.
//!
//! One checkpoint serves all followers that need one, and all attempts to send it. As long as it is there, the entries
//! behind it stay in the log, or a follower that just installed it would need the next one. Both end when nobody made
//! progress with it for a while, so a follower that is gone holds nothing, and in any case after [`KEPT_AT_MOST`], so one
//! that is slow cannot hold the log for ever.

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::checkpoint::Checkpoint;
use super::counters::Counters;
use super::options::SnapshotOptions;
use super::pace::Pace;
use crate::home::Home;
use crate::log::LogStore;
use crate::runtime::BootInstant;
use crate::shared_store::SharedStore;

/// How long a checkpoint is kept at most: at the default rate, 200 GiB are sent in that time.
pub(crate) const KEPT_AT_MOST: Duration = Duration::from_secs(3600);

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
    making: tokio::sync::Mutex<()>,
    backup_places: Arc<Semaphore>,
}

#[derive(Default)]
struct Kept {
    checkpoint: Option<Arc<Checkpoint>>,
    /// While a checkpoint is made: it will not end before this entry.
    making_from: Option<u64>,
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
        let (kept, making) = (Mutex::default(), tokio::sync::Mutex::default());
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
        let _making = self.making.lock().await;
        if self.current().is_some() {
            return Ok(());
        }
        self.kept().making_from = Some(self.store.view().applied().index.0);
        let outbox = self.clone();
        let made = tokio::task::spawn_blocking(move || outbox.make_now()).await.map_err(io::Error::other).flatten();
        let mut kept = self.kept();
        kept.making_from = None;
        kept.checkpoint = Some(Arc::new(made?));
        Ok(())
    }

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
        made.into_iter().chain(kept.making_from).min()
    }

    /// Drops a checkpoint that was of no use.
    pub(crate) fn discard(&self, id: u64) {
        self.kept().checkpoint.take_if(|checkpoint| checkpoint.manifest().id == id);
    }

    /// Drops the checkpoint if it was kept long enough. Whoever is sending it still may.
    pub(crate) fn expire(&self, now: BootInstant) {
        let is_over = |checkpoint: &Checkpoint| {
            checkpoint.idle(now) >= self.options.keep_idle || now - checkpoint.made() >= KEPT_AT_MOST
        };
        if let Some(checkpoint) = self.kept().checkpoint.take_if(|checkpoint| is_over(checkpoint)) {
            tracing::info!(index = checkpoint.index(), "the checkpoint is no longer kept for followers");
        }
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
