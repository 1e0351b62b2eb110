//! What a failure is about, so that a hasty search goes back to a choice that has to do with it.
//!
//! A read that shows another version of a key than the model has points at the choices that wrote the key or could have:
//! all others made since are skipped and made anew. That loses ways, so a search that does it can find an order but never
//! that there is none. It finds one where the complete search would try every combination of the choices it skips.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::plan::puts_of;
use super::{Move, Reason, Search};
use crate::ids::{LeaseId, Revision};
use crate::request::{KeyRange, Request, TxnOp};
use crate::response::{Body, KeyValue};
use crate::shrink::{keys_of, shown_keys};

/// Keys and leases.
#[derive(Clone, Debug, Default)]
pub(super) struct Blame {
    keys: BTreeSet<Bytes>,
    /// Ranges of several keys.
    ranges: Vec<KeyRange>,
    leases: BTreeSet<LeaseId>,
    /// Leases that the keys had at some time.
    of_keys: BTreeSet<LeaseId>,
    /// Up to this revision the keys were as they had to be, so what went wrong came later.
    pub(super) since: Revision,
}

impl Search<'_> {
    /// What a failure is about, or nothing if it may be about anything.
    pub(super) fn blame_for(&self, operation: usize, reason: &Reason) -> Option<Blame> {
        let operation = self.plan.operations[operation];
        let mut blame = Blame::default();
        match reason {
            Reason::LeaseGone(lease) => drop(blame.leases.insert(*lease)),
            Reason::Answer(answer) => {
                blame.leases.extend(operation.request.lease());
                if operation.response().is_none() || answer.is_err() {
                    blame.leases.extend(puts_of(&operation.request).into_iter().map(|(_, lease)| lease));
                    blame.leases.remove(&LeaseId::NONE);
                }
                let recorded = operation.response().map(|response| &response.body);
                match (recorded, answer) {
                    (Some(Body::Range(recorded)), Ok(Body::Range(computed))) if recorded.kvs != computed.kvs => {
                        blame.keys = different(&recorded.kvs, &computed.kvs);
                    }
                    _ => {
                        blame.keys = keys_of(operation);
                        blame.ranges = ranges_of(&operation.request);
                        if let Ok(body) = answer {
                            shown_keys(body, &mut blame.keys);
                        }
                        for body in recorded.into_iter().chain(answer.as_ref().ok()) {
                            if let Body::LeaseTimeToLive { keys, .. } = body {
                                blame.keys.extend(keys.iter().map(|key| key.0.clone()));
                            }
                        }
                    }
                }
            }
            Reason::Unexplained(revision) if self.plan.evidence.pinned_keys(*revision).next().is_some() => {
                blame.keys = self.plan.evidence.pinned_keys(*revision).cloned().collect();
                let reserved = self.plan.reserved.iter().filter(|(_, at)| *at == revision);
                for (operation, _) in reserved {
                    blame.keys.extend(keys_of(self.plan.operations[*operation]));
                }
            }
            Reason::CalledLater(_)
            | Reason::Passed(_)
            | Reason::Overtaken
            | Reason::Unexplained(_)
            | Reason::Unreachable => return None,
        }
        for range in &blame.ranges {
            blame.keys.extend(self.store.keys_ever_in(range).cloned());
        }
        if blame.leases.is_empty() {
            let now = self.store.revision();
            let agreed = |key| self.plan.evidence.agreed(key, now, &self.store);
            blame.since = blame.keys.iter().map(agreed).min().unwrap_or_default();
        }
        let held = blame.keys.iter().flat_map(|key| self.store.leases_ever_of(key));
        blame.of_keys = held.filter(|lease| lease.is_some()).collect();
        Some(blame)
    }

    /// Whether a move may change what is blamed.
    pub(super) fn touches(&self, way: Move, blame: &Blame) -> bool {
        match way {
            Move::Other => false,
            Move::Expire(lease) => blame.leases.contains(&lease) || blame.of_keys.contains(&lease),
            Move::Operation(operation) => {
                let request = &self.plan.operations[operation].request;
                let leases = puts_of(request).into_iter().map(|(_, lease)| lease).chain(request.lease());
                leases.into_iter().any(|lease| blame.leases.contains(&lease)) || writes(request, blame)
            }
        }
    }
}

impl Blame {
    fn names(&self, key: &Bytes) -> bool {
        self.keys.contains(key) || self.ranges.iter().any(|range| range.contains(key))
    }
}

/// The ranges of several keys that a request looks at.
fn ranges_of(request: &Request) -> Vec<KeyRange> {
    let mut ranges = Vec::new();
    match request {
        Request::Range(range) => ranges.push(range.keys.clone()),
        Request::DeleteRange(delete) => ranges.push(delete.keys.clone()),
        Request::Txn(txn) => {
            txn.each_compare(&mut |compare| ranges.push(compare.keys.clone()));
            txn.each_op(&mut |op| match op {
                TxnOp::Range(range) => ranges.push(range.keys.clone()),
                TxnOp::DeleteRange(delete) => ranges.push(delete.keys.clone()),
                TxnOp::Put(_) | TxnOp::Txn(_) => {}
            });
        }
        _ => {}
    }
    ranges.retain(|range| range.single().is_none());
    ranges
}

fn writes(request: &Request, blame: &Blame) -> bool {
    match request {
        Request::Put(put) => blame.names(&put.key),
        Request::DeleteRange(delete) => blame.keys.iter().any(|key| delete.keys.contains(key)),
        Request::Txn(txn) => {
            let mut any = false;
            txn.each_op(&mut |op| {
                any |= match op {
                    TxnOp::Put(put) => blame.names(&put.key),
                    TxnOp::DeleteRange(delete) => blame.keys.iter().any(|key| delete.keys.contains(key)),
                    TxnOp::Range(_) | TxnOp::Txn(_) => false,
                }
            });
            any
        }
        _ => false,
    }
}

fn different(one: &[KeyValue], other: &[KeyValue]) -> BTreeSet<Bytes> {
    let only = |some: &[KeyValue], others: &[KeyValue]| -> Vec<Bytes> {
        some.iter().filter(|kv| !others.contains(kv)).map(|kv| kv.key.clone()).collect()
    };
    only(one, other).into_iter().chain(only(other, one)).collect()
}
