//! What can go wrong with the log, by what the caller can do about it.

use std::io;
use std::path::{Path, PathBuf};

use super::segment::SegmentNumber;

/// Why the log could not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The disk or the file system refused. After one such error the log takes nothing more: the process must end, and
    /// what was acknowledged is found again at the next start.
    #[error("the Raft log cannot {action} {}: {message}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file or directory.
        path: PathBuf,
        /// The operating system's error.
        kind: io::ErrorKind,
        /// The same, for people.
        message: String,
    },
    /// Bytes that had been stored are not what they were. The node must not start with them.
    #[error(
        "the Raft log is damaged: {}, byte {offset}: {detail}. This member may have forgotten what it promised to its \
         peers and must not start with this data. Check the disk; then remove the member from the cluster and add it \
         again, under a new id and with an empty data directory. Neither edit nor delete log files", file.display()
    )]
    Corrupt {
        /// The damaged file.
        file: PathBuf,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        detail: String,
    },
    /// Another process has the log open.
    #[error("the Raft log in {} is in use by another process", dir.display())]
    InUse {
        /// The log's directory.
        dir: PathBuf,
    },
    /// The caller asked for something that no log allows.
    #[error("the Raft log refuses: {0}")]
    Refused(String),
    /// The log was closed.
    #[error("the Raft log is closed")]
    Closed,
}

impl LogError {
    pub(super) fn io(action: &'static str, path: &Path, source: &io::Error) -> LogError {
        LogError::Io { action, path: path.to_owned(), kind: source.kind(), message: source.to_string() }
    }

    pub(super) fn corrupt(dir: &Path, segment: SegmentNumber, offset: usize, detail: impl Into<String>) -> LogError {
        LogError::Corrupt { file: dir.join(segment.file_name()), offset: offset as u64, detail: detail.into() }
    }
}

impl From<LogError> for io::Error {
    fn from(error: LogError) -> io::Error {
        let kind = match &error {
            LogError::Io { kind, .. } => *kind,
            LogError::Corrupt { .. } => io::ErrorKind::InvalidData,
            LogError::InUse { .. } => io::ErrorKind::ResourceBusy,
            LogError::Refused(_) => io::ErrorKind::InvalidInput,
            LogError::Closed => io::ErrorKind::NotConnected,
        };
        io::Error::new(kind, error)
    }
}
