//! What is done with the file of a snapshot while no server runs: made a member's data directory, or looked into.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tenure_core::Revision;
use tenure_core::command::KeyRange;
use tenure_core::hash::hash_kv;
use tenure_core::state::StateRead;
use tenure_raft::backup::{self, Restore, RestoreError};
use tenure_storage::StorageError;
use tenure_storage::engine::EngineFactory;

use crate::config::{InitialCluster, RestoreConfig, SnapshotCommand, StatusConfig};
use crate::data_dir::{DataDir, DataDirError};
use crate::http::STORAGE_VERSION;
use crate::serve::founding_of;

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotFileError {
    /// The file or what becomes of it.
    #[error(transparent)]
    Restore(#[from] RestoreError),
    /// The data directory.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// There is no room to unpack the file.
    #[error("cannot unpack the snapshot in {path}, which TMPDIR names: {error}", path = .0.display(), error = .1)]
    Scratch(PathBuf, io::Error),
    /// Its state cannot be read.
    #[error("the state in the snapshot cannot be read: {0}")]
    State(#[from] StorageError),
}

/// Does it, and returns what to print. Blocks; not to be called on a runtime's thread.
pub fn run(command: &SnapshotCommand, engines: impl EngineFactory) -> Result<String, SnapshotFileError> {
    let engines: Arc<dyn EngineFactory> = Arc::new(engines);
    match command {
        SnapshotCommand::Restore(config) => restore(config, &engines),
        SnapshotCommand::Status(config) => status(config, &engines),
    }
}

fn restore(config: &RestoreConfig, engines: &Arc<dyn EngineFactory>) -> Result<String, SnapshotFileError> {
    // Before a lock is put into what may be somebody's directory.
    backup::refuse_occupied(&config.data_dir)?;
    backup::verify(&config.file, config.skip_hash_check)?;
    let data_dir = DataDir::open(&config.data_dir, &config.data_dir.join("LOCK"))?;
    let options = Restore {
        file: config.file.clone(),
        skip_hash_check: config.skip_hash_check,
        data_dir: config.data_dir.clone(),
        founding: founding_of(&config.cluster),
        bump_revision: config.bump_revision.map(std::num::NonZeroU64::get),
    };
    let restored = backup::restore(&options, engines)?;
    drop(data_dir);
    let InitialCluster { cluster_id, member_id, members } = &config.cluster;
    let doubt = if restored.about.confirmed {
        ""
    } else {
        "it was saved by a member without a leader: what the others alone had acknowledged is not in it\n"
    };
    Ok(format!(
        "restored {file} (cluster {from:x}, entry {entry}) to {dir}: member {member:x} of {count} of the new cluster \
         {cluster:x}, at revision {revision}\n{doubt}",
        file = config.file.display(),
        from = restored.about.cluster.0,
        entry = restored.about.index,
        dir = config.data_dir.display(),
        member = member_id.0,
        count = members.len(),
        cluster = cluster_id.0,
        revision = restored.revision.0,
    ))
}

/// What etcdutl prints, in its order and by its names: the hash is that of `endpoint hashkv` at the revision, the keys are
/// those that exist.
fn status(config: &StatusConfig, engines: &Arc<dyn EngineFactory>) -> Result<String, SnapshotFileError> {
    let scratch = std::env::temp_dir();
    let dir = tempfile::Builder::new().prefix("tenure-snapshot-").tempdir();
    let dir = dir.map_err(|error| SnapshotFileError::Scratch(scratch, error))?;
    let (verified, view) = backup::examine(&config.file, config.skip_hash_check, dir.path(), &**engines)?;
    let keys = view.count_live(&KeyRange::From(bytes::Bytes::new()))?;
    let hash = hash_kv(&view, Revision(0))?.map_err(|_| StorageError::Contradiction("the present is compacted"))?;
    let revision = view.meta().revision.0;
    if config.json {
        let status = serde_json::json!({
            "hash": hash.hash,
            "revision": revision,
            "totalKey": keys,
            "totalSize": verified.file_bytes,
            "version": STORAGE_VERSION,
            "cluster": format!("{:x}", verified.about.cluster.0),
            "index": verified.about.index.0,
            "compactRevision": hash.compacted.0,
            "confirmed": verified.about.confirmed,
        });
        return Ok(format!("{status}\n"));
    }
    Ok(format!("{:08x}, {revision}, {keys}, {}\n", hash.hash, size(verified.file_bytes)))
}

/// Bytes for people, in powers of a thousand, as etcdutl prints them.
fn size(bytes: u64) -> String {
    let units = ["kB", "MB", "GB", "TB", "PB"];
    let mut rest = bytes;
    let mut tenths = None;
    for unit in units {
        if rest < 1000 {
            break;
        }
        tenths = Some((rest % 1000 / 100, unit));
        rest /= 1000;
    }
    match tenths {
        None => format!("{bytes} B"),
        Some((tenth, unit)) if rest < 10 => format!("{rest}.{tenth} {unit}"),
        Some((_, unit)) => format!("{rest} {unit}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_short() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (20_512, "20 kB"),
            (2_150_000, "2.1 MB"),
            (u64::MAX, "18446 PB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }
}
