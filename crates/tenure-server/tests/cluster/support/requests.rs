//! The requests that the tests send, each with the changes that it makes.

use bytes::Bytes;
use tenure_core::command::{Command, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, Op, Put, Txn};
use tenure_core::{LeaseId, Revision};

use super::history::{Change, Request, bytes, range};

/// A put without options.
pub(crate) fn put(key: &str, value: impl Into<Bytes>) -> Request {
    put_leased(key, value, LeaseId::NONE)
}

/// A put that attaches a lease.
pub(crate) fn put_leased(key: &str, value: impl Into<Bytes>, lease: LeaseId) -> Request {
    let (put, change) = put_op(key, value.into(), lease);
    Request { command: Command::Put(put), changes: vec![change] }
}

/// A delete of keys that exist, which are all keys from the first to the last.
pub(crate) fn delete(keys: &[&str]) -> Request {
    let (delete, changes) = delete_op(keys);
    Request { command: Command::DeleteRange(delete), changes }
}

/// Puts and deletes in one revision, under a condition that holds.
pub(crate) fn txn(puts: &[(&str, &str)], deletes: &[&str]) -> Request {
    let (mut ops, mut changes) = (Vec::new(), Vec::new());
    for (key, value) in puts {
        let (put, change) = put_op(key, bytes(value), LeaseId::NONE);
        ops.push(Op::Put(put));
        changes.push(change);
    }
    if !deletes.is_empty() {
        let (delete, deleted) = delete_op(deletes);
        ops.push(Op::DeleteRange(delete));
        changes.extend(deleted);
    }
    let absent = Compare {
        range: KeyRange::One(bytes("never put")),
        result: CompareResult::Equal,
        target: CompareTarget::Version(0),
    };
    let unreached = vec![Op::Range(range(KeyRange::One(bytes("never put")), Revision(0)))];
    Request { command: Command::Txn(Txn { compares: vec![absent], success: ops, failure: unreached }), changes }
}

fn put_op(key: &str, value: Bytes, lease: LeaseId) -> (Put, Change) {
    let change = Change { key: bytes(key), put: Some((value.clone(), lease)) };
    let put = Put { key: bytes(key), value, lease, prev_kv: false, ignore_value: false, ignore_lease: false };
    (put, change)
}

fn delete_op(keys: &[&str]) -> (DeleteRange, Vec<Change>) {
    let first = keys.first().expect("something to delete");
    let after_last = format!("{}\0", keys.last().expect("something to delete"));
    let range = KeyRange::Between(bytes(first), bytes(&after_last));
    (DeleteRange { range, prev_kv: false }, keys.iter().map(|key| Change { key: bytes(key), put: None }).collect())
}
