//! The rows of `locks`. What follows their first byte is written by `tenure-core`, whose hash of the state covers it.

use bytes::Bytes;
use tenure_core::lock::{LockKey, LockValue};

use super::{ROW_FORMAT, Reader};
use crate::engine::Table;
use crate::error::StorageError;

/// Appends a row of `locks`.
pub fn encode_lock_row(out: &mut Vec<u8>, row: &LockValue) {
    out.push(ROW_FORMAT);
    row.encode(out);
}

/// Reads the row of `locks` that stands under a key.
pub fn decode_lock_row(key: &LockKey, row: &[u8]) -> Result<LockValue, StorageError> {
    let mut reader = Reader { table: Table::Locks, rest: row };
    reader.head(0)?;
    LockValue::decode(key, &Bytes::copy_from_slice(reader.rest)).map_err(|_| reader.wrong("it is no row of its kind"))
}
