//! A snapshot on its way in: its pieces, checked and written into the directory of a generation that does not count yet.
//!
//! ```text
//! N.incoming    "TNSNAP1\n" · length u32 · manifest · CRC-32 of the manifest · one CRC-32 per piece that is written
//! ```
//!
//! The checksums protect two ways. Between the sender's memory and this member's page cache: each piece is compared with
//! its own when it arrives. And on this member's disk, if the transfer is interrupted: what an earlier attempt left,
//! perhaps before a crash, is read back and compared with what was written down, and the transfer goes on behind the last
//! piece that is right. What lies on the disk once the engine is open is the engine's to check. Files are synced as they
//! are finished and in between, so that a large one does not stand before the log's syncs all at once.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use prost::Message as _;
use tenure_faults::{Point, hit};
use tenure_proto::tenure::peer::v1 as pb;

use super::manifest::{Manifest, Piece, Place};
use crate::home::{Generation, Home, Housed};
use crate::log::LogFile;
use crate::types::log_id;

const MAGIC: &[u8; 8] = b"TNSNAP1\n";

/// Bytes of a file that are written between two syncs.
const SYNC_BYTES: u64 = 8 << 20;

/// Room that is left on the disk beside what a snapshot needs: the log must be able to go on.
pub(super) const SPARE_BYTES: u64 = 64 << 20;

/// The longest manifest that is read back: names and sizes of as many files as there may be.
const MANIFEST_BYTES_MAX: u64 = 16 << 20;

/// Why a snapshot is not received.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReceiveError {
    /// Something on the way changed it: it is to be sent again.
    #[error("a piece of file {0} has another checksum than it was sent with")]
    Corrupt(String),
    /// Not what was asked for.
    #[error("a piece that was not asked for: {0}")]
    OutOfOrder(&'static str),
    #[error("the disk has {free} bytes left in {dir}, and the snapshot needs {needed}", dir = .dir.display())]
    NoRoom { dir: PathBuf, free: u64, needed: u64 },
    /// All is there, but it is no state, or not the one that was offered.
    #[error("{0}")]
    Unusable(String),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// See the module's header.
pub(crate) struct Incoming {
    home: Arc<Home>,
    generation: Generation,
    manifest: Manifest,
    place: Place,
    /// Of the pieces before `place`.
    pieces: u64,
    file: Option<Open>,
    sums: Arc<dyn LogFile>,
    sums_offset: u64,
}

/// The file that is being written.
struct Open {
    number: u32,
    file: Arc<dyn LogFile>,
    unsynced: u64,
    /// Whether its name may be lost.
    is_new: bool,
}

impl Incoming {
    /// Makes room for a snapshot.
    pub(crate) fn begin(home: &Arc<Home>, manifest: Manifest) -> Result<Incoming, ReceiveError> {
        let (free, needed) = (home.files().bytes_free(home.dir())?, manifest.bytes() + SPARE_BYTES);
        if free < needed {
            return Err(ReceiveError::NoRoom { dir: home.dir().to_owned(), free, needed });
        }
        let generation = home.next_generation();
        Incoming::begin_in(home.clone(), generation, manifest).inspect_err(|_| {
            // A disk that cannot make a directory may not be able to remove one: the next start does.
            drop(home.abandon(generation));
        })
    }

    fn begin_in(home: Arc<Home>, generation: Generation, manifest: Manifest) -> Result<Incoming, ReceiveError> {
        let header = header_of(&manifest);
        home.files().create_dir(&home.dir_of(generation))?;
        let sums = home.files().create(&home.incoming_file(generation))?;
        sums.write_at(0, &header)?;
        sums.sync_data()?;
        home.files().sync_dir(home.dir())?;
        let sums_offset = header.len() as u64;
        let incoming =
            Incoming { home, generation, manifest, place: Place::default(), pieces: 0, file: None, sums, sums_offset };
        Ok(incoming)
    }

    /// Goes on with what an earlier life left; none if it makes no sense.
    pub(crate) fn resume(home: Arc<Home>, generation: Generation) -> io::Result<Option<Incoming>> {
        let sums = home.files().open(&home.incoming_file(generation))?;
        let Some((manifest, sums_offset)) = read_header(&*sums)? else { return Ok(None) };
        let place = Place::default();
        let mut incoming = Incoming { home, generation, manifest, place, pieces: 0, file: None, sums, sums_offset };
        incoming.look_through()?;
        Ok(Some(incoming))
    }

    /// The entry that a snapshot stands at which an earlier life was receiving; none if that cannot be read.
    pub(crate) fn index(home: &Home, generation: Generation) -> Option<u64> {
        let sums = home.files().open_to_read(&home.incoming_file(generation)).ok()?;
        read_header(&*sums).ok()?.map(|(manifest, _)| manifest.log_id.index)
    }

    pub(crate) fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(crate) fn generation(&self) -> Generation {
        self.generation
    }

    /// How far it has come.
    pub(crate) fn place(&self) -> Place {
        self.place
    }

    /// What is wanted next, or none if all is there.
    pub(crate) fn next(&self) -> Option<Piece> {
        self.manifest.piece_at(self.place)
    }

    /// Reads back what is there, and sets the place behind the last piece that is as it was written down. What lies
    /// behind that place is written over.
    pub(crate) fn look_through(&mut self) -> io::Result<()> {
        (self.place, self.pieces, self.file) = (Place::default(), 0, None);
        let mut buffer = Vec::new();
        while let Some(piece) = self.next() {
            let mut sum = [0; 4];
            if self.sums.read_at(self.sums_offset + 4 * self.pieces, &mut sum)? < sum.len() {
                break;
            }
            buffer.resize(piece.bytes as usize, 0);
            let path = self.path_of(piece.at.file);
            let read = match self.home.files().open_to_read(&path) {
                Ok(file) => file.read_at(piece.at.offset, &mut buffer)?,
                Err(error) if error.kind() == io::ErrorKind::NotFound => break,
                Err(error) => return Err(error),
            };
            if read < buffer.len() || crc32fast::hash(&buffer) != u32::from_be_bytes(sum) {
                break;
            }
            self.place = piece.end();
            self.pieces += 1;
        }
        Ok(())
    }

    /// Takes the piece that is wanted next.
    pub(crate) fn take(&mut self, chunk: &pb::SnapshotChunk) -> Result<(), ReceiveError> {
        let Some(piece) = self.next() else { return Err(ReceiveError::OutOfOrder("all is there")) };
        if (Place { file: chunk.file, offset: chunk.offset }) != piece.at {
            return Err(ReceiveError::OutOfOrder("it belongs elsewhere"));
        }
        if chunk.bytes.len() != piece.bytes as usize {
            return Err(ReceiveError::OutOfOrder("it has another length"));
        }
        if crc32fast::hash(&chunk.bytes) != chunk.crc {
            let name = self.manifest.file(chunk.file).map_or_else(String::new, |file| file.name.clone());
            return Err(ReceiveError::Corrupt(name));
        }
        hit(Point::SnapshotBeforeWritePiece)?;
        let open = self.open(piece)?;
        open.file.write_at(piece.at.offset, &chunk.bytes)?;
        open.unsynced += u64::from(piece.bytes);
        self.sums.write_at(self.sums_offset + 4 * self.pieces, &chunk.crc.to_be_bytes())?;
        self.place = piece.end();
        self.pieces += 1;
        self.sync_if_due(piece)?;
        Ok(())
    }

    /// Makes everything durable and opens it. From then on it is no longer a transfer that could go on: opening an
    /// engine changes its directory.
    pub(crate) fn finish(mut self) -> Result<Housed, ReceiveError> {
        assert!(self.next().is_none(), "invariant: the caller has looked for a next piece");
        self.file = None;
        hit(Point::RaftBeforeSaveSnap)?;
        let files = self.home.files().clone();
        let dir = self.home.dir_of(self.generation);
        for entry in &self.manifest.files {
            let path = dir.join(&entry.name);
            let file = if entry.bytes == 0 { files.create(&path)? } else { files.open(&path)? };
            if file.size()? != entry.bytes {
                return Err(ReceiveError::Unusable(format!("{} has {} bytes", path.display(), file.size()?)));
            }
            // Mostly it is synced already. Not so what an attempt wrote that was ended by the end of the process.
            file.sync_data()?;
        }
        files.sync_dir(&dir)?;
        files.remove(&self.home.incoming_file(self.generation))?;
        files.sync_dir(self.home.dir())?;
        hit(Point::RaftAfterSaveSnap)?;
        self.open_state()
    }

    fn open_state(&self) -> Result<Housed, ReceiveError> {
        hit(Point::ApplyBeforeOpenSnapshot)?;
        let opened = self.home.open_store(self.generation);
        let housed = opened.map_err(|error| ReceiveError::Unusable(format!("it cannot be opened: {error}")))?;
        housed.tenancy.give_up();
        let applied = housed.store.applied();
        let found = log_id(applied.term.0, applied.index.0);
        if found != self.manifest.log_id || applied.membership.is_empty() {
            let text = format!("it was offered as the state at {}, and is the one at {found}", self.manifest.log_id);
            return Err(ReceiveError::Unusable(text));
        }
        Ok(housed)
    }

    fn open(&mut self, piece: Piece) -> io::Result<&mut Open> {
        if self.file.as_ref().is_none_or(|open| open.number != piece.at.file) {
            let path = self.path_of(piece.at.file);
            let files = self.home.files();
            let is_new = piece.at.offset == 0;
            let file = if is_new { files.create(&path)? } else { files.open(&path)? };
            self.file = Some(Open { number: piece.at.file, file, unsynced: 0, is_new });
        }
        self.file.as_mut().ok_or_else(|| io::Error::other("no file is open"))
    }

    fn sync_if_due(&mut self, piece: Piece) -> io::Result<()> {
        let ends_file = self.manifest.file(piece.at.file).is_some_and(|file| file.bytes == piece.end().offset);
        let Some(open) = &mut self.file else { return Ok(()) };
        if ends_file || open.unsynced >= SYNC_BYTES {
            open.file.sync_data()?;
            open.unsynced = 0;
            if std::mem::take(&mut open.is_new) {
                self.home.files().sync_dir(&self.home.dir_of(self.generation))?;
            }
            // Last, so that what it says of the disk is mostly true.
            self.sums.sync_data()?;
        }
        if ends_file {
            self.file = None;
        }
        Ok(())
    }

    fn path_of(&self, file: u32) -> PathBuf {
        let name = self.manifest.file(file).map_or("", |entry| &entry.name);
        self.home.dir_of(self.generation).join(name)
    }
}

fn header_of(manifest: &Manifest) -> BytesMut {
    let encoded = manifest.to_message().encode_to_vec();
    let mut header = BytesMut::with_capacity(MAGIC.len() + encoded.len() + 8);
    header.put_slice(MAGIC);
    // A manifest that was checked is far shorter than this.
    header.put_u32(u32::try_from(encoded.len()).unwrap_or(u32::MAX));
    header.put_slice(&encoded);
    header.put_u32(crc32fast::hash(&encoded));
    header
}

/// The manifest, and where the checksums of the pieces begin; none if the file is not whole.
fn read_header(file: &dyn LogFile) -> io::Result<Option<(Manifest, u64)>> {
    let mut head = [0; 12];
    if file.read_at(0, &mut head)? < head.len() {
        return Ok(None);
    }
    let (magic, length) = head.split_at(MAGIC.len());
    let length = length.try_into().map(u32::from_be_bytes).unwrap_or(u32::MAX);
    if magic != MAGIC || u64::from(length) > MANIFEST_BYTES_MAX {
        return Ok(None);
    }
    let mut rest = vec![0; length as usize + 4];
    if file.read_at(head.len() as u64, &mut rest)? < rest.len() {
        return Ok(None);
    }
    let (encoded, sum) = rest.split_at(length as usize);
    if sum != crc32fast::hash(encoded).to_be_bytes() {
        return Ok(None);
    }
    let manifest = pb::SnapshotManifest::decode(encoded).ok().and_then(|message| Manifest::read(&message).ok());
    Ok(manifest.map(|manifest| (manifest, (head.len() + rest.len()) as u64)))
}
