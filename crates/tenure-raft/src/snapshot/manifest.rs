//! What a snapshot consists of, and the order in which its pieces travel.
//!
//! A manifest comes from a peer, so nothing of it is believed: names cannot leave the directory that they are meant for,
//! and counts and sizes are bounded before anything is made of them. Pieces travel one after the other, file by file, so
//! a single place says how far a transfer has come.

use std::collections::BTreeSet;

use tenure_proto::tenure::peer::v1 as pb;

use crate::entry_codec::{decode_log_id, encode_log_id};
use crate::types::LogId;

/// Files of one snapshot: an engine of several terabytes has as many.
pub(crate) const FILES_MAX: usize = 65_536;

/// Bytes of a file's name. Engines number their files; the longest that RocksDB makes has 17.
pub(crate) const NAME_BYTES_MAX: usize = 64;

/// Bytes of all files: more than any disk that a member runs on, and sums cannot overflow.
pub(crate) const BYTES_MAX: u64 = 1 << 50;

/// The length of a piece. It is decoded on the thread that answers heartbeats, so it is short: some 50 µs of work.
pub(crate) const CHUNK_BYTES: u32 = 256 << 10;

/// The shortest piece that is taken: shorter ones would cost more than they carry. Tests use it.
pub(crate) const CHUNK_BYTES_MIN: u32 = 64;

/// The longest piece that is taken.
pub(crate) const CHUNK_BYTES_MAX: u32 = 1 << 20;

/// One file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileEntry {
    pub(crate) name: String,
    pub(crate) bytes: u64,
}

/// See the module's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub(crate) id: u64,
    pub(crate) log_id: LogId,
    pub(crate) chunk_bytes: u32,
    pub(crate) files: Vec<FileEntry>,
}

/// How far a transfer has come: everything before this is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) file: u32,
    pub(crate) offset: u64,
}

/// A piece: where it begins, and its length, which is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) at: Place,
    pub(crate) bytes: u32,
}

/// Why a manifest is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("it has no id")]
    NoId,
    #[error("its log id cannot be read")]
    LogId,
    #[error("its pieces have {0} bytes")]
    ChunkBytes(u32),
    #[error("it has {0} files; {FILES_MAX} are the most")]
    Files(usize),
    #[error("it has no files")]
    NoFiles,
    #[error("a file is named {0:?}")]
    Name(String),
    #[error("two files are named {0:?}")]
    Twice(String),
    #[error("its files have more than {BYTES_MAX} bytes")]
    Bytes,
}

impl Manifest {
    /// Reads what a peer sent, or what an earlier life wrote down.
    pub(crate) fn read(message: &pb::SnapshotManifest) -> Result<Manifest, ManifestError> {
        if message.files.len() > FILES_MAX {
            return Err(ManifestError::Files(message.files.len()));
        }
        let log_id = decode_log_id(&message.log_id).map_err(|_| ManifestError::LogId)?;
        let files = message.files.iter().map(|file| FileEntry { name: file.name.clone(), bytes: file.bytes }).collect();
        let manifest = Manifest { id: message.id, log_id, chunk_bytes: message.chunk_bytes, files };
        manifest.check()?;
        Ok(manifest)
    }

    pub(crate) fn check(&self) -> Result<(), ManifestError> {
        if self.id == 0 {
            return Err(ManifestError::NoId);
        }
        if self.log_id.index == u64::MAX || self.log_id.leader_id.term == u64::MAX {
            return Err(ManifestError::LogId);
        }
        if !(CHUNK_BYTES_MIN..=CHUNK_BYTES_MAX).contains(&self.chunk_bytes) {
            return Err(ManifestError::ChunkBytes(self.chunk_bytes));
        }
        if self.files.is_empty() {
            return Err(ManifestError::NoFiles);
        }
        if self.files.len() > FILES_MAX {
            return Err(ManifestError::Files(self.files.len()));
        }
        let mut names = BTreeSet::new();
        let mut bytes = 0_u64;
        for file in &self.files {
            if !is_harmless(&file.name) {
                return Err(ManifestError::Name(shown(&file.name)));
            }
            if !names.insert(&file.name) {
                return Err(ManifestError::Twice(file.name.clone()));
            }
            bytes = bytes.saturating_add(file.bytes);
        }
        if bytes > BYTES_MAX { Err(ManifestError::Bytes) } else { Ok(()) }
    }

    pub(crate) fn to_message(&self) -> pb::SnapshotManifest {
        let files = self.files.iter().map(|file| pb::SnapshotFile { name: file.name.clone(), bytes: file.bytes });
        pb::SnapshotManifest {
            id: self.id,
            log_id: bytes::Bytes::copy_from_slice(&encode_log_id(&self.log_id)),
            chunk_bytes: self.chunk_bytes,
            files: files.collect(),
        }
    }

    /// The bytes of all files.
    pub(crate) fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The bytes of all files before a place.
    pub(crate) fn bytes_before(&self, place: Place) -> u64 {
        let whole = self.files.iter().take(usize::try_from(place.file).unwrap_or(usize::MAX));
        whole.map(|file| file.bytes).sum::<u64>().saturating_add(place.offset)
    }

    /// The file of a piece.
    pub(crate) fn file(&self, number: u32) -> Option<&FileEntry> {
        self.files.get(usize::try_from(number).ok()?)
    }

    /// The piece that begins at a place or, if a file ends there, the next one; none at the end of all.
    pub(crate) fn piece_at(&self, place: Place) -> Option<Piece> {
        let mut at = place;
        loop {
            let left = self.file(at.file)?.bytes.saturating_sub(at.offset);
            if left > 0 {
                let bytes = u32::try_from(left).unwrap_or(u32::MAX).min(self.chunk_bytes);
                return Some(Piece { at, bytes });
            }
            at = Place { file: at.file.checked_add(1)?, offset: 0 };
        }
    }
}

impl Piece {
    /// The place after it.
    pub(crate) fn end(&self) -> Place {
        Place { file: self.at.file, offset: self.at.offset + u64::from(self.bytes) }
    }
}

/// Whether a name is that of a file within a directory, visible, and the same on every file system.
pub(crate) fn is_harmless(name: &str) -> bool {
    let is_plain = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'_');
    (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.starts_with('.') && name.bytes().all(is_plain)
}

/// As much of a name as an error text should hold.
fn shown(name: &str) -> String {
    name.chars().take(NAME_BYTES_MAX).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::types::log_id;

    fn of(files: &[(&str, u64)]) -> Manifest {
        let files = files.iter().map(|(name, bytes)| FileEntry { name: (*name).to_owned(), bytes: *bytes }).collect();
        Manifest { id: 7, log_id: log_id(2, 9), chunk_bytes: 64, files }
    }

    fn refused(manifest: &Manifest) -> ManifestError {
        Manifest::read(&manifest.to_message()).expect_err("it must be refused")
    }

    #[test]
    fn what_an_engine_makes_is_accepted() {
        let manifest = of(&[("CURRENT", 16), ("MANIFEST-000005", 300), ("OPTIONS-000007", 9000), ("000012.sst", 0)]);
        assert_eq!(Manifest::read(&manifest.to_message()), Ok(manifest));
    }

    #[test]
    fn no_name_leads_out_of_the_directory() {
        let long = "x".repeat(NAME_BYTES_MAX + 1);
        let silly = [
            "",
            ".",
            "..",
            "../x",
            "/etc/passwd",
            "a/b",
            "a\\b",
            ".hidden",
            "nul\0",
            "new\nline",
            "ü",
            "a b",
            "~",
            &long,
        ];
        for name in silly {
            assert!(matches!(refused(&of(&[("ok", 1), (name, 1)])), ManifestError::Name(_)), "{name:?}");
        }
    }

    #[test]
    fn counts_and_sizes_are_bounded() {
        assert_eq!(refused(&of(&[])), ManifestError::NoFiles);
        assert_eq!(refused(&of(&[("a", 1), ("a", 1)])), ManifestError::Twice("a".into()));
        assert_eq!(refused(&of(&[("a", u64::MAX), ("b", u64::MAX)])), ManifestError::Bytes);
        assert_eq!(refused(&of(&[("a", BYTES_MAX), ("b", 1)])), ManifestError::Bytes);
        let mut many = of(&[("a", 1)]);
        many.files = (0..=FILES_MAX).map(|n| FileEntry { name: n.to_string(), bytes: 0 }).collect();
        assert_eq!(refused(&many), ManifestError::Files(FILES_MAX + 1));
        for chunk_bytes in [0, CHUNK_BYTES_MIN - 1, CHUNK_BYTES_MAX + 1, u32::MAX] {
            assert_eq!(refused(&Manifest { chunk_bytes, ..of(&[("a", 1)]) }), ManifestError::ChunkBytes(chunk_bytes));
        }
        assert_eq!(refused(&Manifest { id: 0, ..of(&[("a", 1)]) }), ManifestError::NoId);
        for log_id in [log_id(1, u64::MAX), log_id(u64::MAX, 1)] {
            assert_eq!(refused(&Manifest { log_id, ..of(&[("a", 1)]) }), ManifestError::LogId);
        }
        let mut message = of(&[("a", 1)]).to_message();
        message.log_id.truncate(3);
        assert_eq!(Manifest::read(&message), Err(ManifestError::LogId));
    }

    proptest! {
        #[test]
        fn pieces_cover_every_byte_once_and_in_order(sizes in prop::collection::vec(0_u64..300, 1..8)) {
            let mut manifest = of(&[]);
            manifest.files = sizes.iter().enumerate().map(|(n, bytes)| FileEntry { name: n.to_string(), bytes: *bytes }).collect();
            let mut covered = vec![0; sizes.len()];
            let (mut place, mut before) = (Place::default(), 0);
            while let Some(piece) = manifest.piece_at(place) {
                prop_assert!(piece.bytes > 0 && piece.bytes <= manifest.chunk_bytes && piece.at >= place);
                let file = piece.at.file as usize;
                prop_assert_eq!(piece.at.offset, covered[file]);
                prop_assert_eq!(manifest.bytes_before(piece.at), before);
                before += u64::from(piece.bytes);
                covered[file] += u64::from(piece.bytes);
                place = piece.end();
            }
            prop_assert_eq!(covered, sizes);
        }
    }
}
