//! The files of this member's state as of one entry, made to be sent.
//!
//! Which entry that is, stands in the files: whatever happened while they were made, what is read from them afterwards is
//! true of them. Most are links to the engine's own files, so a checkpoint costs little room at first and more as the
//! engine replaces its files; it goes as soon as nobody is likely to ask for it.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use openraft::alias::SnapshotMetaOf;
use rand::TryRng;
use tenure_core::row::Meta;
use tenure_core::state::StateRead;
use tenure_faults::{Point, hit};
use tenure_storage::flusher::Flusher;
use tenure_storage::state_view::StateView;

use super::manifest::{FileEntry, Manifest, Piece};
use crate::home::Home;
use crate::log::{FileLayer, LogFile};
use crate::runtime::{self, BootInstant, ThreadRng};
use crate::state_machine::applied_state_of;
use crate::types::Config;

/// See the module's header.
pub(crate) struct Checkpoint {
    manifest: Manifest,
    meta: SnapshotMetaOf<Config>,
    state: Meta,
    home: Arc<Home>,
    dir: PathBuf,
    progress: Mutex<Progress>,
}

/// How the sending of a checkpoint goes.
#[derive(Debug)]
struct Progress {
    /// When it last did.
    at: BootInstant,
    sent: BTreeMap<u64, Sent>,
}

/// What a follower has got.
#[derive(Debug, Default)]
struct Sent {
    /// The most bytes that it ever had, but for lives in which it lost some: what is sent again is no progress.
    furthest: u64,
    /// How often it had less than before, and got that counted anew.
    restarts: u32,
}

/// Followers may lose what they got, by a crash for one. One that does so again and again makes no progress.
const RESTARTS_MAX: u32 = 8;

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "checkpoint {:016x} at {}", self.manifest.id, self.manifest.log_id)
    }
}

impl Checkpoint {
    /// Makes one in a directory of its own below `above`. Blocks.
    pub(crate) fn make(flusher: &Flusher, home: &Arc<Home>, above: &Path, chunk_bytes: u32) -> io::Result<Checkpoint> {
        let Ok(id) = ThreadRng.try_next_u64();
        let id = id.max(1);
        let dir = above.join(format!("{id:016x}"));
        let made = Checkpoint::make_in(flusher, home, &dir, id, chunk_bytes);
        let (manifest, meta, state) = made.inspect_err(|_| remove(&**home.files(), &dir))?;
        let (home, progress) = (home.clone(), Progress { at: BootInstant::now(), sent: BTreeMap::new() });
        Ok(Checkpoint { manifest, meta, state, home, dir, progress: Mutex::new(progress) })
    }

    fn make_in(
        flusher: &Flusher,
        home: &Home,
        dir: &Path,
        id: u64,
        chunk_bytes: u32,
    ) -> io::Result<(Manifest, SnapshotMetaOf<Config>, Meta)> {
        let files = home.files();
        hit(Point::SnapshotBeforeCheckpoint)?;
        flusher.checkpoint(dir).map_err(io::Error::other)?;
        hit(Point::SnapshotAfterCheckpoint)?;
        // Listed first, for whoever looks into a database may leave a file there.
        let mut entries = Vec::new();
        for name in files.list(dir)? {
            let bytes = files.open_to_read(&dir.join(&name))?.size()?;
            entries.push(FileEntry { name, bytes });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        let snapshot = home.inspect(dir).map_err(io::Error::other)?;
        let view = StateView::of_snapshot(snapshot).map_err(io::Error::other)?;
        let (last_log_id, last_membership) = applied_state_of(view.applied())?;
        let log_id = last_log_id.ok_or_else(|| io::Error::other("nothing is applied yet"))?;
        let manifest = Manifest { id, log_id, chunk_bytes, files: entries };
        manifest.check().map_err(io::Error::other)?;
        Ok((manifest, SnapshotMetaOf::<Config> { last_log_id, last_membership }, view.meta().clone()))
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(crate) fn meta(&self) -> &SnapshotMetaOf<Config> {
        &self.meta
    }

    /// The scalars of the state in it.
    pub(crate) fn state(&self) -> &Meta {
        &self.state
    }

    /// The last entry that it holds.
    pub(crate) fn index(&self) -> u64 {
        self.manifest.log_id.index
    }

    /// A follower has got so many bytes of it. One that gets the same ones again and again makes no progress.
    pub(crate) fn note_sent(&self, follower: u64, bytes: u64, now: BootInstant) {
        let mut progress = self.progress();
        let sent = progress.sent.entry(follower).or_default();
        if bytes > sent.furthest {
            sent.furthest = bytes;
            progress.at = now;
        }
    }

    /// A follower has so many bytes of it, and wants the next.
    pub(crate) fn note_asked(&self, follower: u64, bytes: u64, now: BootInstant) {
        let mut progress = self.progress();
        let sent = progress.sent.entry(follower).or_default();
        if bytes < sent.furthest && sent.restarts < RESTARTS_MAX {
            sent.furthest = bytes;
            sent.restarts += 1;
            progress.at = now;
        }
    }

    /// A follower is at work on what it got.
    pub(crate) fn note_at_work(&self, now: BootInstant) {
        self.progress().at = now;
    }

    /// How long there was no progress.
    pub(crate) fn idle(&self, now: BootInstant) -> Duration {
        now - self.progress().at
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        // Whole at any time.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a file to send it.
    pub(crate) fn open(&self, file: u32) -> io::Result<Arc<dyn LogFile>> {
        let entry = self.manifest.file(file).ok_or_else(|| io::Error::other("there is no such file"))?;
        self.home.files().open_to_read(&self.dir.join(&entry.name))
    }
}

/// Reads a piece of a file.
pub(crate) fn read_piece(file: &dyn LogFile, piece: Piece) -> io::Result<Vec<u8>> {
    hit(Point::SnapshotBeforeSendPiece)?;
    let mut bytes = vec![0; piece.bytes as usize];
    if file.read_at(piece.at.offset, &mut bytes)? < bytes.len() {
        return Err(io::Error::other("a file of the checkpoint is shorter than it was"));
    }
    Ok(bytes)
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        let (files, dir) = (self.home.files().clone(), std::mem::take(&mut self.dir));
        // Removing large files takes a while on some file systems. Without a thread, the next start clears up.
        let removing = runtime::in_background("checkpoint-rm", move || remove(&*files, &dir));
        if let Err(error) = removing {
            tracing::warn!(%error, "a checkpoint is left until the next start");
        }
    }
}

fn remove(files: &dyn FileLayer, dir: &Path) {
    match files.remove_dir(dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(%error, "a checkpoint is left until the next start"),
    }
}
