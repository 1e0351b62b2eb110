//! RocksDB's errors are text; this is the one place that reads it.

use rocksdb::ErrorKind;
use tenure_storage::engine::EngineError;

pub(crate) fn engine_error(error: &rocksdb::Error) -> EngineError {
    classify(&error.kind(), error.as_ref())
}

/// Only the message tells a full disk and a held lock from other failures of the operating system.
fn classify(kind: &ErrorKind, text: &str) -> EngineError {
    let full = ["No space left on device", "Disk quota exceeded"];
    let locked = ["lock file", "lock hold by"];
    let says = |parts: [&str; 2]| parts.iter().any(|part| text.contains(part));
    match kind {
        _ if says(full) => EngineError::DiskFull(text.to_owned()),
        ErrorKind::IOError if says(locked) => EngineError::Locked(text.to_owned()),
        ErrorKind::Corruption => EngineError::Corrupt(text.to_owned()),
        _ => EngineError::Io(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_failures_whatever_its_kind() {
        let full = "IO error: No space left on device: While appending to file: /data/000012.sst";
        for kind in [ErrorKind::IOError, ErrorKind::Unknown] {
            assert_eq!(classify(&kind, full), EngineError::DiskFull(full.into()));
        }
        let other = "IO error: Input/output error: While fsync: /data/000012.sst";
        assert_eq!(classify(&ErrorKind::IOError, other), EngineError::Io(other.into()));
    }
}
