//! Saving: a checkpoint of this member's state, read out as an archive.
//!
//! The files are read in pieces on threads that may wait for the disk, at the pace that all snapshots of this member share.
//! No more than one piece is in memory. The checkpoint goes when the backup is dropped, however far it came.

use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use sha2::{Digest, Sha256};
use tenure_core::{LogIndex, Term};
use tokio::sync::OwnedSemaphorePermit;

use super::about::{ABOUT_FILE, About};
use super::archive::{END_BYTES, entry_bytes, header, padding, state_entry};
use crate::log::LogFile;
use crate::node::RaftNode;
use crate::runtime::{self, BootInstant};
use crate::snapshot::{Checkpoint, Outbox, Piece, Place, read_piece};

/// The length of all blobs but the last ones: etcd's.
const BLOB_BYTES: usize = 32 << 10;

/// The bytes of the hash at the end.
pub(super) const HASH_BYTES: usize = 32;

/// Why there is no backup.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// As many as may be are being taken.
    #[error("too many backups are being taken")]
    Busy,
    /// The files cannot be made.
    #[error("making a checkpoint: {0}")]
    Checkpoint(#[from] io::Error),
}

/// A part of the file.
#[derive(Clone, Debug)]
pub struct Blob {
    /// What is next in the file.
    pub bytes: Bytes,
    /// How much of the archive is left after it. The hash does not count, as in etcd.
    pub remaining: u64,
}

/// See the module's header.
pub struct Backup {
    checkpoint: Checkpoint,
    outbox: Arc<Outbox>,
    about: About,
    /// The length of the archive.
    bytes: u64,
    /// How much of it is left.
    left: u64,
    next: Next,
    ready: BytesMut,
    hash: Sha256,
    _place: OwnedSemaphorePermit,
}

/// What comes next in the archive.
#[derive(Debug)]
enum Next {
    About,
    Header(u32),
    Content(Place, Arc<dyn LogFile>),
    End,
    Hash,
    Nothing,
}

impl fmt::Debug for Backup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "backup of {:?}, {} of {} bytes left", self.checkpoint, self.left, self.bytes)
    }
}

impl RaftNode {
    /// Makes a backup of the state that this member has now: not before `confirmed`, which a majority confirmed to be the
    /// last entry before the call.
    pub async fn backup(&self, confirmed: Option<LogIndex>) -> Result<Backup, BackupError> {
        let outbox = self.outbox().clone();
        let place = outbox.backup_places().try_acquire_owned().map_err(|_| BackupError::Busy)?;
        let maker = outbox.clone();
        let made = runtime::blocking(move || maker.make_backup()).await;
        let checkpoint = made.map_err(io::Error::other)??;
        let (revision, compacted) = (checkpoint.state().revision, checkpoint.state().compacted);
        let log_id = checkpoint.manifest().log_id;
        if confirmed.is_some_and(|least| log_id.index < least.0) {
            return Err(io::Error::other(format!("it ends at entry {}, before {confirmed:?}", log_id.index)).into());
        }
        let about = About {
            cluster: self.cluster(),
            member: self.member(),
            index: LogIndex(log_id.index),
            term: Term(log_id.committed_leader_id().term),
            revision,
            compacted,
            confirmed: confirmed.is_some(),
        };
        Ok(Backup::new(checkpoint, outbox, about, place))
    }
}

impl Backup {
    fn new(checkpoint: Checkpoint, outbox: Arc<Outbox>, about: About, place: OwnedSemaphorePermit) -> Backup {
        let files = checkpoint.manifest().files.iter().map(|file| entry_bytes(file.bytes));
        let bytes = entry_bytes(about.render().len() as u64) + files.sum::<u64>() + END_BYTES;
        let (ready, hash) = Default::default();
        Backup { checkpoint, outbox, about, bytes, left: bytes, next: Next::About, ready, hash, _place: place }
    }

    /// What it is of.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// The length of the whole file.
    pub fn file_bytes(&self) -> u64 {
        self.bytes + HASH_BYTES as u64
    }

    /// The next part of the file; none at its end. After an error there is nothing more.
    pub async fn next_blob(&mut self) -> io::Result<Option<Blob>> {
        while self.ready.len() < BLOB_BYTES && !matches!(self.next, Next::Hash | Next::Nothing) {
            self.read_on().await?;
        }
        if self.ready.is_empty() {
            return Ok(match std::mem::replace(&mut self.next, Next::Nothing) {
                Next::Hash => {
                    self.outbox.counters().backups.add(1);
                    let bytes = Bytes::copy_from_slice(&self.hash.finalize_reset());
                    Some(Blob { bytes, remaining: self.left })
                }
                _ => None,
            });
        }
        let bytes = self.ready.split_to(BLOB_BYTES.min(self.ready.len())).freeze();
        self.left = self.left.checked_sub(bytes.len() as u64).ok_or_else(|| io::Error::other("a file has grown"))?;
        Ok(Some(Blob { bytes, remaining: self.left }))
    }

    async fn read_on(&mut self) -> io::Result<()> {
        self.next = match std::mem::replace(&mut self.next, Next::Nothing) {
            Next::About => {
                let text = self.about.render();
                self.append(&header(ABOUT_FILE, text.len() as u64)?);
                self.append(text.as_bytes());
                self.pad(text.len() as u64);
                Next::Header(0)
            }
            Next::Header(number) => match self.checkpoint.manifest().file(number).cloned() {
                None => Next::End,
                Some(file) => {
                    self.append(&header(&state_entry(&file.name), file.bytes)?);
                    Next::Content(Place { file: number, offset: 0 }, self.checkpoint.open(number)?)
                }
            },
            Next::Content(place, file) => self.read_content(place, file).await?,
            Next::End => {
                self.pad_with(END_BYTES);
                Next::Hash
            }
            after @ (Next::Hash | Next::Nothing) => after,
        };
        Ok(())
    }

    async fn read_content(&mut self, at: Place, file: Arc<dyn LogFile>) -> io::Result<Next> {
        let entry_bytes = self.checkpoint.manifest().file(at.file).map_or(0, |entry| entry.bytes);
        let Some(piece) = self.checkpoint.manifest().piece_at(at).filter(|piece| piece.at.file == at.file) else {
            self.pad(entry_bytes);
            return Ok(Next::Header(at.file + 1));
        };
        tokio::time::sleep(self.outbox.pace().take(BootInstant::now(), u64::from(piece.bytes))).await;
        let (bytes, hash) = read_and_hash(file.clone(), piece, self.hash.clone()).await?;
        self.hash = hash;
        self.ready.extend_from_slice(&bytes);
        self.outbox.counters().backup_bytes.add(u64::from(piece.bytes));
        Ok(Next::Content(piece.end(), file))
    }

    fn append(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        self.ready.extend_from_slice(bytes);
    }

    /// Fills up the last block of a file.
    fn pad(&mut self, file_bytes: u64) {
        self.pad_with(padding(file_bytes));
    }

    fn pad_with(&mut self, zeros: u64) {
        // At most the two blocks at the end.
        self.append(&vec![0; usize::try_from(zeros).unwrap_or_default()]);
    }
}

/// On a thread that may wait for the disk; hashing a piece takes a tenth of a millisecond.
async fn read_and_hash(file: Arc<dyn LogFile>, piece: Piece, mut hash: Sha256) -> io::Result<(Vec<u8>, Sha256)> {
    let read = runtime::blocking(move || {
        let bytes = read_piece(&*file, piece)?;
        hash.update(&bytes);
        Ok((bytes, hash))
    });
    read.await.map_err(io::Error::other)?
}
