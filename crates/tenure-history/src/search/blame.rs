//! What a failure is about, so that a hasty search goes back to a choice that has to do with it.
//!
//! A read that shows another version of a key than the model has points at the choices that wrote the key or could have:
//! all others made since are skipped and made anew. That loses ways, so a search that does it can find an order but never
//! that there is none. It finds one where the complete search would try every combination of the choices it skips.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::plan::puts_of;
use super::{Move, Reason, Search};
use crate::ids::LeaseId;
use crate::request::{Request, TxnOp};
use crate::response::{Body, KeyValue};
use crate::shrink::{keys_of, shown_keys};

/// Keys and leases.
#[derive(Clone, Debug, Default)]
pub(super) struct Blame {
    keys: BTreeSet<Bytes>,
    leases: BTreeSet<LeaseId>,
    /// Leases that the keys had at some time.
    of_keys: BTreeSet<LeaseId>,
}

impl Search<'_> {
    /// What a failure is about, or nothing if it may be about anything.
    pub(super) fn blame_for(&self, operation: usize, reason: &Reason) -> Option<Blame> {
        let operation = self.plan.operations[operation];
        let mut blame = Blame::default();
        match reason {
            Reason::LeaseGone(lease) => drop(blame.leases.insert(*lease)),
            Reason::Answer(answer) => {
                blame.leases.extend(puts_of(&operation.request).into_iter().map(|(_, lease)| lease));
                blame.leases.extend(operation.request.lease());
                let recorded = operation.response().map(|response| &response.body);
                match (recorded, answer) {
                    (Some(Body::Range(recorded)), Ok(Body::Range(computed))) if recorded.kvs != computed.kvs => {
                        blame.keys = different(&recorded.kvs, &computed.kvs);
                    }
                    _ => {
                        blame.keys = keys_of(operation);
                        if let Ok(body) = answer {
                            shown_keys(body, &mut blame.keys);
                        }
                    }
                }
            }
            Reason::CalledLater(_)
            | Reason::Passed(_)
            | Reason::Overtaken
            | Reason::Unexplained(_)
            | Reason::Unreachable => return None,
        }
        let held = blame.keys.iter().flat_map(|key| self.store.leases_ever_of(key));
        blame.of_keys = held.filter(|lease| lease.is_some()).collect();
        Some(blame)
    }

    /// The last choice that has to do with the blame, and still has another way.
    pub(super) fn guilty(&self, blame: &Blame) -> Option<usize> {
        (0..self.choices.len()).rev().find(|at| {
            let choice = &self.choices[*at];
            let open = choice.next < choice.moves.len();
            let taken = self.touches(choice.moves[choice.next.saturating_sub(1)], blame);
            open && (taken || choice.moves[choice.next..].iter().any(|way| self.touches(*way, blame)))
        })
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

fn writes(request: &Request, blame: &Blame) -> bool {
    match request {
        Request::Put(put) => blame.keys.contains(&put.key),
        Request::DeleteRange(delete) => blame.keys.iter().any(|key| delete.keys.contains(key)),
        Request::Txn(txn) => {
            let mut any = false;
            txn.each_op(&mut |op| {
                any |= match op {
                    TxnOp::Put(put) => blame.keys.contains(&put.key),
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
