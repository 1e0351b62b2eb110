//! What of a transaction is carried out: the path of branches that its compares choose.
//!
//! As in etcd, the compares of every level on the way, and the revisions that its ranges ask for, are looked at before
//! anything is written, so a transaction is carried out whole or refused whole. Hence two steps: `Taken::of` decides,
//! and then [`read_txn`] or apply carries it out.

use alloc::vec::Vec;

use crate::command::{DeleteRange, Op, Put, Range, Txn};
use crate::compare::all_hold;
use crate::outcome::{OpResponse, Refusal, TxnResponse};
use crate::range::read_range;
use crate::row::Meta;
use crate::state::StateRead;
use crate::validate::txn_is_read_only;

/// The branch taken of a transaction, and of those nested in that branch.
pub(crate) struct Taken<'a> {
    /// Whether it is the success branch.
    pub(crate) succeeded: bool,
    /// Its operations in order.
    pub(crate) steps: Vec<Step<'a>>,
}

/// An operation of a branch taken.
pub(crate) enum Step<'a> {
    /// A read.
    Range(&'a Range),
    /// A write.
    Put(&'a Put),
    /// A delete.
    DeleteRange(&'a DeleteRange),
    /// A nested transaction.
    Txn(Taken<'a>),
}

impl<'a> Taken<'a> {
    /// Evaluates the compares against the present state.
    pub(crate) fn of<S: StateRead>(state: &S, txn: &'a Txn) -> Result<Taken<'a>, S::Error> {
        let succeeded = all_hold(state, &txn.compares)?;
        let ops = if succeeded { &txn.success } else { &txn.failure };
        let steps = ops
            .iter()
            .map(|op| match op {
                Op::Range(range) => Ok(Step::Range(range)),
                Op::Put(put) => Ok(Step::Put(put)),
                Op::DeleteRange(delete) => Ok(Step::DeleteRange(delete)),
                Op::Txn(nested) => Taken::of(state, nested).map(Step::Txn),
            })
            .collect::<Result<Vec<Step<'a>>, S::Error>>()?;
        Ok(Taken { succeeded, steps })
    }

    /// Whether a range asks for a revision that cannot be read. Only 0 means the present here: etcd takes a negative
    /// revision for an old one (`checkRange`).
    pub(crate) fn refused_range(&self, meta: &Meta) -> Option<Refusal> {
        self.steps.iter().find_map(|step| match step {
            Step::Range(range) if range.revision.0 == 0 => None,
            Step::Range(range) if range.revision > meta.revision => Some(Refusal::FutureRevision),
            Step::Range(range) if range.revision < meta.compacted => Some(Refusal::Compacted),
            Step::Range(_) | Step::Put(_) | Step::DeleteRange(_) => None,
            Step::Txn(nested) => nested.refused_range(meta),
        })
    }
}

/// Carries out a transaction that only reads, without the log. [`txn_is_read_only`] must hold.
pub fn read_txn<S: StateRead>(state: &S, txn: &Txn) -> Result<Result<TxnResponse, Refusal>, S::Error> {
    assert!(txn_is_read_only(txn), "a transaction that may write goes through the log");
    let taken = Taken::of(state, txn)?;
    if let Some(refusal) = taken.refused_range(state.meta()) {
        return Ok(Err(refusal));
    }
    let mut responses = Vec::with_capacity(taken.steps.len());
    for step in &taken.steps {
        match step {
            Step::Range(range) => match read_range(state, range)? {
                Ok(result) => responses.push(OpResponse::Range(result)),
                Err(refusal) => return Ok(Err(refusal)),
            },
            Step::Put(_) | Step::DeleteRange(_) | Step::Txn(_) => {
                unreachable!("invariant: only ranges, asserted above")
            }
        }
    }
    Ok(Ok(TxnResponse { succeeded: taken.succeeded, responses }))
}
