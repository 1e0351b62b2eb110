//! Where a key may have been deleted: by an acked operation that may delete it, or in a revision that nobody claims, if a
//! write of unknown outcome may delete it or it ever had a lease.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;

use crate::ids::Revision;
use crate::request::{KeyRange, Request, TxnOp};

/// See the module's header.
#[derive(Debug, Default)]
pub(super) struct Deletions {
    /// Revisions of acked operations that may delete exactly this key.
    of_key: HashMap<Bytes, Vec<Revision>>,
    /// The same for ranges.
    of_range: Vec<(Revision, KeyRange)>,
    /// Revisions that nobody claims.
    gaps: Vec<Revision>,
    /// Keys that operations of unknown outcome may delete.
    unknown_keys: HashSet<Bytes>,
    /// Ranges that they may delete.
    unknown_ranges: Vec<KeyRange>,
    /// Keys that were ever put with a lease, or may have been.
    leased: HashSet<Bytes>,
}

impl Deletions {
    /// Notes what an operation may delete, at its revision if that is known.
    pub(super) fn note(&mut self, request: &Request, at: Option<Revision>) {
        for range in deleted_by(request) {
            match (at, range.single()) {
                (None, Some(key)) => drop(self.unknown_keys.insert(key.clone())),
                (None, None) => self.unknown_ranges.push(range.clone()),
                (Some(at), Some(key)) => self.of_key.entry(key.clone()).or_default().push(at),
                (Some(at), None) => self.of_range.push((at, range.clone())),
            }
        }
        let mut lease = |op: &TxnOp| {
            if let TxnOp::Put(put) = op
                && put.lease.is_some()
            {
                self.leased.insert(put.key.clone());
            }
        };
        match request {
            Request::Put(put) => lease(&TxnOp::Put(put.clone())),
            Request::Txn(txn) => txn.each_op(&mut lease),
            _ => {}
        }
    }

    /// Notes a key that was shown with a lease.
    pub(super) fn note_leased(&mut self, key: &Bytes) {
        self.leased.insert(key.clone());
    }

    /// Notes a revision that nobody claims.
    pub(super) fn note_gap(&mut self, at: Revision) {
        self.gaps.push(at);
    }

    /// Must be called once everything is noted.
    pub(super) fn seal(&mut self) {
        self.of_key.values_mut().for_each(|revisions| revisions.sort_unstable());
        self.of_range.sort_by_key(|(at, _)| *at);
        self.gaps.sort_unstable();
        self.unknown_ranges.sort_by(|one, other| (&one.key, &one.end).cmp(&(&other.key, &other.end)));
        self.unknown_ranges.dedup();
    }

    /// Whether a key may be deleted after one revision, and no later than another.
    pub(super) fn may_delete(&self, key: &Bytes, after: Revision, to: Revision) -> bool {
        self.is_deleted(key, after, to) || self.may_delete_unseen(key, after, to)
    }

    /// Whether an acked operation may delete it.
    pub(super) fn is_deleted(&self, key: &Bytes, after: Revision, to: Revision) -> bool {
        let alone = self.of_key.get(key).is_some_and(|revisions| any_within(revisions, after, to));
        let from = self.of_range.partition_point(|(at, _)| *at <= after);
        alone || self.of_range[from..].iter().take_while(|(at, _)| *at <= to).any(|(_, range)| range.contains(key))
    }

    fn may_delete_unseen(&self, key: &Bytes, after: Revision, to: Revision) -> bool {
        let somebody = || {
            self.leased.contains(key)
                || self.unknown_keys.contains(key)
                || self.unknown_ranges.iter().any(|range| range.contains(key))
        };
        any_within(&self.gaps, after, to) && somebody()
    }
}

fn any_within(revisions: &[Revision], after: Revision, to: Revision) -> bool {
    let from = revisions.partition_point(|at| *at <= after);
    revisions.get(from).is_some_and(|at| *at <= to)
}

/// What a request may delete, on whatever path.
fn deleted_by(request: &Request) -> Vec<&KeyRange> {
    let mut ranges = Vec::new();
    match request {
        Request::DeleteRange(delete) => ranges.push(&delete.keys),
        Request::Txn(txn) => txn.each_op(&mut |op| {
            if let TxnOp::DeleteRange(delete) = op {
                ranges.push(&delete.keys);
            }
        }),
        _ => {}
    }
    ranges
}
