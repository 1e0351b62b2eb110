//! The archive's format: tar headers, and reading entries that nobody vouches for.
//!
//! Only plain files in one flat directory are taken, by names that cannot lead out of it. tar's extensions (long names, links,
//! sparse files, attributes) are refused as they stand, so none of them is ever interpreted.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

use tar::{Archive, EntryType, Header};

use super::about::{ABOUT_BYTES_MAX, ABOUT_FILE, About};
use crate::snapshot::{FILES_MAX, is_harmless};

/// What a tar file consists of.
pub(super) const BLOCK_BYTES: u64 = 512;

/// Two empty blocks say that the archive ends.
pub(super) const END_BYTES: u64 = 2 * BLOCK_BYTES;

/// Where the engine's files are.
const STATE_DIR: &str = "state/";

/// Why a file is no backup.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It cannot be read.
    #[error("cannot read it: {0}")]
    Read(io::Error),
    /// What it holds cannot be written.
    #[error("cannot write what it holds: {0}")]
    Write(io::Error),
    /// It does not begin as a backup does.
    #[error("it is not a snapshot of Tenure")]
    Foreign,
    /// An entry that no backup has.
    #[error("it holds an entry that does not belong there: {0}")]
    Entry(String),
}

/// The header of a file.
pub(super) fn header(name: &str, bytes: u64) -> io::Result<Vec<u8>> {
    let mut header = Header::new_gnu();
    header.set_path(name)?;
    header.set_size(bytes);
    header.set_mode(0o600);
    header.set_entry_type(EntryType::Regular);
    header.set_cksum();
    Ok(header.as_bytes().to_vec())
}

/// The name of an engine's file in the archive.
pub(super) fn state_entry(name: &str) -> String {
    format!("{STATE_DIR}{name}")
}

/// The length of a file in the archive, its header included.
pub(super) fn entry_bytes(bytes: u64) -> u64 {
    BLOCK_BYTES + bytes + padding(bytes)
}

/// What is missing to whole blocks.
pub(super) fn padding(bytes: u64) -> u64 {
    bytes.next_multiple_of(BLOCK_BYTES) - bytes
}

/// Reads what an archive says of itself.
pub(super) fn read_about(archive: impl Read) -> Result<About, ArchiveError> {
    walk(archive, |_, _, _| Ok(false))
}

/// Writes the engine's files into an empty directory, durably.
pub(super) fn extract(archive: impl Read, dir: &Path) -> Result<About, ArchiveError> {
    let about = walk(archive, |name, bytes, content| {
        let mut file =
            OpenOptions::new().write(true).create_new(true).open(dir.join(name)).map_err(ArchiveError::Write)?;
        let copied = io::copy(content, &mut file).map_err(ArchiveError::Write)?;
        if copied != bytes {
            return Err(ArchiveError::Entry(format!("{name} ends early")));
        }
        file.sync_all().map_err(ArchiveError::Write)?;
        Ok(true)
    })?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(ArchiveError::Write)?;
    Ok(about)
}

/// Visits the engine's files with their names and lengths until a visitor says that it has seen enough.
fn walk(
    archive: impl Read,
    mut visit: impl FnMut(&str, u64, &mut dyn Read) -> Result<bool, ArchiveError>,
) -> Result<About, ArchiveError> {
    let mut archive = Archive::new(archive);
    let mut entries = archive.entries().map_err(ArchiveError::Read)?.raw(true);
    let first = entries.next().ok_or(ArchiveError::Foreign)?.map_err(|_| ArchiveError::Foreign)?;
    if &*first.path_bytes() != ABOUT_FILE.as_bytes() || first.size() > ABOUT_BYTES_MAX {
        return Err(ArchiveError::Foreign);
    }
    let mut text = String::new();
    first.take(ABOUT_BYTES_MAX).read_to_string(&mut text).map_err(|_| ArchiveError::Foreign)?;
    let about = About::parse(&text).ok_or(ArchiveError::Foreign)?;
    let mut names = BTreeSet::new();
    for entry in entries {
        let mut entry = entry.map_err(|error| ArchiveError::Entry(error.to_string()))?;
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = path.strip_prefix(STATE_DIR).filter(|name| is_harmless(name));
        let Some(name) = name.filter(|_| entry.header().entry_type() == EntryType::Regular) else {
            return Err(ArchiveError::Entry(path.escape_debug().collect()));
        };
        if !names.insert(name.to_owned()) || names.len() > FILES_MAX {
            return Err(ArchiveError::Entry(format!("{name}, twice or one too many")));
        }
        let bytes = entry.size();
        if !visit(name, bytes, &mut entry)? {
            return Ok(about);
        }
    }
    if names.is_empty() { Err(ArchiveError::Entry("none at all".to_owned())) } else { Ok(about) }
}
