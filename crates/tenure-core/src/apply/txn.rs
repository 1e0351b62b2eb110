//! Transactions that may write: decided and checked whole, then carried out in one revision.

use alloc::vec::Vec;

use super::changes::{Changes, change};
use super::lock::queue::Why;
use super::{Applied, ApplyError, delete, put};
use crate::command::Txn;
use crate::outcome::{OpResponse, Refusal, TxnResponse};
use crate::range::read_range;
use crate::state::{StateRead, StateWrite};
use crate::txn::{Step, Taken};
use crate::validate::check_duplicates;

pub(super) fn apply<S: StateWrite>(state: &mut S, txn: &Txn) -> Applied<TxnResponse, S::Error> {
    // Checked before the log as well; here it keeps a faulty proposer from breaking "one event per key and revision".
    if check_duplicates(txn).is_err() {
        return Ok(Err(Refusal::DuplicateKey));
    }
    let taken = Taken::of(state, txn)?;
    // All puts first, then all ranges, as in etcd.
    if let Some(refusal) = refused_put(state, &taken)? {
        return Ok(Err(refusal));
    }
    if let Some(refusal) = taken.refused_range(state.meta()) {
        return Ok(Err(refusal));
    }
    change(state, Why::Plain, |changes| carry_out(changes, taken)).map(Ok)
}

fn refused_put<S: StateRead>(state: &S, taken: &Taken<'_>) -> Result<Option<Refusal>, S::Error> {
    for step in &taken.steps {
        let refusal = match step {
            Step::Put(put) => put::refusal_in_txn(state, put)?,
            Step::Txn(nested) => refused_put(state, nested)?,
            Step::Range(_) | Step::DeleteRange(_) => None,
        };
        if refusal.is_some() {
            return Ok(refusal);
        }
    }
    Ok(None)
}

fn carry_out<S: StateWrite>(
    changes: &mut Changes<'_, S>,
    taken: Taken<'_>,
) -> Result<TxnResponse, ApplyError<S::Error>> {
    let mut responses = Vec::with_capacity(taken.steps.len());
    for step in taken.steps {
        responses.push(match step {
            Step::Range(range) => match read_range(changes.state, range)? {
                Ok(result) => OpResponse::Range(result),
                Err(_) => return Err(ApplyError::Invariant("a revision that could be read cannot be read any more")),
            },
            Step::Put(put) => OpResponse::Put(put::carry_out(changes, put.clone())?),
            Step::DeleteRange(range) => OpResponse::DeleteRange(delete::delete_range(changes, range)?),
            Step::Txn(nested) => OpResponse::Txn(carry_out(changes, nested)?),
        });
    }
    Ok(TxnResponse { succeeded: taken.succeeded, responses })
}
