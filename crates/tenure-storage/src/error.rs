//! Why storage failed. There is no kind that a caller could mend: each of them stops the node.

use std::io;

use tenure_faults::{Point, hit};

use crate::engine::{EngineError, Table};

/// Why the state tables cannot be read or written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StorageError {
    /// The engine below failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A row does not decode, or a row that must exist does not.
    #[error("table `{table}` holds a row that cannot be right: {reason}")]
    Damaged {
        /// Where.
        table: Table,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The rows decode, but cannot be true together.
    #[error("the state tables contradict each other: {0}")]
    Contradiction(&'static str),
    /// The data was written by a program that knows another format.
    #[error("the data has format {found}, and this program reads format {known} only")]
    Format {
        /// What the data says.
        found: u32,
        /// What this program writes.
        known: u32,
    },
    /// An earlier write failed, so what is stored is unknown.
    #[error("an earlier write failed; restart the node to go on from what is stored")]
    Halted,
}

impl StorageError {
    pub(crate) fn damaged(table: Table, reason: &'static str) -> StorageError {
        StorageError::Damaged { table, reason }
    }
}

/// A place where a fault may wait: it counts as the engine's.
pub(crate) fn meet(point: Point) -> Result<(), EngineError> {
    hit(point).map_err(|error| match error.kind() {
        io::ErrorKind::StorageFull => EngineError::DiskFull(error.to_string()),
        _ => EngineError::Io(error.to_string()),
    })
}
