//! RocksDB's errors are text; this is the one place that reads it.

use rocksdb::ErrorKind;
use tenure_storage::engine::EngineError;

pub(crate) fn engine_error(error: &rocksdb::Error) -> EngineError {
    classify(error.kind(), error.to_string())
}

/// Only the message tells a full disk and a held lock from other failures of the operating system.
fn classify(kind: ErrorKind, text: String) -> EngineError {
    if text.contains("No space left on device") || text.contains("Disk quota exceeded") {
        return EngineError::DiskFull(text);
    }
    match kind {
        ErrorKind::IOError if text.contains("lock file") || text.contains("lock hold by") => EngineError::Locked(text),
        ErrorKind::Corruption => EngineError::Corrupt(text),
        _ => EngineError::Io(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_told_from_other_failures_whatever_its_kind() {
        let text = "IO error: No space left on device: While appending to file: /data/000012.sst".to_owned();
        assert_eq!(classify(ErrorKind::IOError, text.clone()), EngineError::DiskFull(text.clone()));
        assert_eq!(classify(ErrorKind::Unknown, text.clone()), EngineError::DiskFull(text));
        let text = "IO error: Input/output error: While fsync: /data/000012.sst".to_owned();
        assert_eq!(classify(ErrorKind::IOError, text.clone()), EngineError::Io(text));
    }
}
