//! Restoring: a backup becomes the data directory of a member of a new cluster.
//!
//! A file that is not what it was is found out before anything is made of it. The identity is written before the log is,
//! and the state before both: a member does not start on a directory where a restore was interrupted.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::storage::RaftLogStorage;
use sha2::{Digest, Sha256};
use tenure_core::Revision;
use tenure_core::state::StateRead;
use tenure_storage::StorageError;
use tenure_storage::engine::EngineFactory;
use tenure_storage::refound::{Refounding, refound};
use tenure_storage::state_view::StateView;
use tenure_storage::store::Applied;

use super::about::About;
use super::archive::{ArchiveError, BLOCK_BYTES, extract, read_about};
use super::save::HASH_BYTES;
use crate::entry_codec::encode_stored_membership;
use crate::error::NodeError;
use crate::home::prepare_home;
use crate::identity::{Founding, Identity, raft_dir};
use crate::log::{LogOptions, LogStore, OsFiles};
use crate::node::founding_membership;
use crate::opening::reconcile;
use crate::types::{StoredMembership, Vote, log_id};

/// What is read at once to be hashed.
const READ_BYTES: usize = 1 << 20;

/// What to restore, and as what.
#[derive(Clone, Debug)]
pub struct Restore {
    /// The backup.
    pub file: PathBuf,
    /// Do not ask for the hash at its end.
    pub skip_hash_check: bool,
    /// Where the member's data go: a directory with nothing of a member in it.
    pub data_dir: PathBuf,
    /// Who the member is, and who the others of the new cluster are.
    pub founding: Founding,
    /// Moves the revision on, and makes all before it compacted.
    pub bump_revision: Option<u64>,
}

/// A backup that was restored.
#[derive(Clone, Debug)]
pub struct Restored {
    /// What it was of.
    pub about: About,
    /// The revision that the new cluster begins with.
    pub revision: Revision,
}

/// A file that is what it was when it was saved.
#[derive(Clone, Debug)]
pub struct Verified {
    /// What it is of.
    pub about: About,
    /// The length of the archive in it.
    pub archive_bytes: u64,
    /// The length of the file.
    pub file_bytes: u64,
}

/// Why a backup is not restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The file cannot be read.
    #[error("cannot read snapshot {path}: {error}", path = .0.display(), error = .1)]
    Unreadable(PathBuf, io::Error),
    /// There is no hash at its end.
    #[error(
        "snapshot missing hash but --skip-hash-check=false: {path} was cut off, or is no snapshot", path = .0.display()
    )]
    NoHash(PathBuf),
    /// The hash is that of something else.
    #[error("snapshot {path} is damaged: expected sha256 {expected}, got {found}", path = .path.display())]
    Hash {
        /// Which.
        path: PathBuf,
        /// The hash at its end.
        expected: String,
        /// The hash of what is before.
        found: String,
    },
    /// It is not a backup, or none that was made by a member.
    #[error("snapshot {path}: {error}", path = .0.display(), error = .1)]
    Archive(PathBuf, ArchiveError),
    /// What it holds is not what it says.
    #[error("snapshot {path}: its state cannot be used: {error}", path = .0.display(), error = .1)]
    State(PathBuf, StorageError),
    /// What it holds is another state than it says.
    #[error("snapshot {path} says that it is of entry {said}, but its state is of entry {found}", path = .path.display())]
    OtherState {
        /// Which.
        path: PathBuf,
        /// What it says.
        said: u64,
        /// What it is.
        found: u64,
    },
    /// Somebody's data would be lost.
    #[error("data-dir {path:?} not empty or could not be read", path = .0.display().to_string())]
    NotEmpty(PathBuf),
    /// The data directory cannot be made.
    #[error(transparent)]
    Node(#[from] NodeError),
}

/// Checks a file against the hash at its end, and reads what it says of itself.
pub fn verify(path: &Path, skip_hash_check: bool) -> Result<Verified, RestoreError> {
    let unreadable = |error| RestoreError::Unreadable(path.to_owned(), error);
    let mut file = File::open(path).map_err(unreadable)?;
    let file_bytes = file.metadata().map_err(unreadable)?.len();
    let has_hash = file_bytes % BLOCK_BYTES == HASH_BYTES as u64;
    if !has_hash && !skip_hash_check {
        return Err(RestoreError::NoHash(path.to_owned()));
    }
    let archive_bytes = if has_hash { file_bytes - HASH_BYTES as u64 } else { file_bytes };
    if !skip_hash_check {
        let found = hash_of(&mut file, archive_bytes).map_err(unreadable)?;
        let mut expected = [0; HASH_BYTES];
        file.read_exact(&mut expected).map_err(unreadable)?;
        if found != expected {
            let (expected, found) = (hex(&expected), hex(&found));
            return Err(RestoreError::Hash { path: path.to_owned(), expected, found });
        }
        file.seek(SeekFrom::Start(0)).map_err(unreadable)?;
    }
    let about = read_about(file.take(archive_bytes)).map_err(|error| RestoreError::Archive(path.to_owned(), error))?;
    Ok(Verified { about, archive_bytes, file_bytes })
}

fn hash_of(file: &mut File, bytes: u64) -> io::Result<[u8; HASH_BYTES]> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; READ_BYTES];
    let mut left = bytes;
    while left > 0 {
        let want = usize::try_from(left).unwrap_or(READ_BYTES).min(READ_BYTES);
        file.read_exact(&mut buffer[..want])?;
        hash.update(&buffer[..want]);
        left -= want as u64;
    }
    Ok(hash.finalize().into())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Unpacks a backup into an empty directory and looks at the state in it.
pub fn examine(
    file: &Path,
    skip_hash_check: bool,
    dir: &Path,
    engines: &dyn EngineFactory,
) -> Result<(Verified, StateView), RestoreError> {
    let verified = verify(file, skip_hash_check)?;
    let archive = File::open(file).map_err(|error| RestoreError::Unreadable(file.to_owned(), error))?;
    extract(archive.take(verified.archive_bytes), dir)
        .map_err(|error| RestoreError::Archive(file.to_owned(), error))?;
    let unusable = |error: StorageError| RestoreError::State(file.to_owned(), error);
    let snapshot = engines.inspect(dir).map_err(|error| unusable(error.into()))?;
    let view = StateView::of_snapshot(snapshot).map_err(unusable)?;
    let (said, found) = (verified.about.index.0, view.applied().index.0);
    if said != found || verified.about.term != view.applied().term || verified.about.revision != view.meta().revision {
        return Err(RestoreError::OtherState { path: file.to_owned(), said, found });
    }
    Ok((verified, view))
}

/// Makes a member's data directory. Blocks; not to be called on a runtime's thread.
pub fn restore(options: &Restore, engines: &Arc<dyn EngineFactory>) -> Result<Restored, RestoreError> {
    let dir = &options.data_dir;
    refuse_occupied(dir)?;
    restore_into_empty(options, engines).inspect_err(|_| {
        // What is left of it would only stand in the way of the next attempt, which says so if it is.
        drop(fs::remove_dir_all(dir.join("state")));
        drop(fs::remove_dir_all(raft_dir(dir)));
    })
}

/// Refuses a directory with anything in it. A member's lock may be there: whoever restores holds it.
pub fn refuse_occupied(dir: &Path) -> Result<(), RestoreError> {
    let not_empty = || RestoreError::NotEmpty(dir.to_owned());
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(_) => return Err(not_empty()),
    };
    for entry in entries {
        if entry.map_err(|_| not_empty())?.file_name() != "LOCK" {
            return Err(not_empty());
        }
    }
    Ok(())
}

fn restore_into_empty(options: &Restore, engines: &Arc<dyn EngineFactory>) -> Result<Restored, RestoreError> {
    // Before anything is made.
    verify(&options.file, options.skip_hash_check)?;
    let files = OsFiles;
    let state_dir = options.data_dir.join("state");
    let io = |error| NodeError::Io(format!("state directory {}", state_dir.display()), error);
    let dir = prepare_home(&files, &state_dir).map_err(io)?;
    let (verified, view) = examine(&options.file, options.skip_hash_check, &dir, &**engines)?;
    let applied = view.applied().clone();
    drop(view);
    let at = log_id(applied.term.0, applied.index.0);
    let membership = StoredMembership::new(Some(at), founding_membership(&options.founding)?);
    let change = Refounding { membership: encode_stored_membership(&membership), bump_revision: options.bump_revision };
    let unusable = |error: StorageError| RestoreError::State(options.file.clone(), error);
    let engine = engines.open(&dir).map_err(|error| unusable(error.into()))?;
    let revision = refound(&engine, &change).map_err(unusable)?;
    drop(engine);
    drop(Identity::open(&options.data_dir, &options.founding, true)?);
    make_log(options, &applied)?;
    Ok(Restored { about: verified.about, revision })
}

/// An empty log behind the entry of the backup. The vote is of that entry's term, so that the next one is higher: what
/// the new cluster writes is then newer than what the old one wrote.
fn make_log(options: &Restore, applied: &Applied) -> Result<(), NodeError> {
    let dir = raft_dir(&options.data_dir).join("log");
    let io = |error| NodeError::Io(format!("log directory {}", dir.display()), error);
    let runtime = tokio::runtime::Builder::new_current_thread().build().map_err(io)?;
    let mut log = LogStore::open(Arc::new(OsFiles), dir.clone(), LogOptions::default())?;
    runtime
        .block_on(async {
            log.save_vote(&Vote::new(applied.term.0, options.founding.member.0)).await?;
            reconcile(&log, applied).await
        })
        .map_err(io)?;
    Ok(log.close()?)
}
