//! Puts. A plain one is the hot path: one look at the key's metadata, never at its value.

use super::changes::{Changes, Newest, change};
use super::lock::queue::Why;
use super::{Applied, ApplyError};
use crate::command::Put;
use crate::ids::LeaseId;
use crate::outcome::{KeyValue, Refusal};
use crate::state::{StateRead, StateWrite};

/// A put of its own.
pub(super) fn apply<S: StateWrite>(state: &mut S, put: Put) -> Applied<Option<KeyValue>, S::Error> {
    // In this order if both are missing; a transaction looks the other way round (etcd's `Put` and `checkPut`).
    if lease_is_missing(state, put.lease)? {
        return Ok(Err(Refusal::LeaseNotFound));
    }
    if key_is_missing(state, &put)? {
        return Ok(Err(Refusal::KeyNotFound));
    }
    change(state, Why::Plain, |changes| carry_out(changes, put)).map(Ok)
}

/// Why a put of a transaction is refused, if it is: looked at before anything is written.
pub(super) fn refusal_in_txn<S: StateRead>(state: &S, put: &Put) -> Result<Option<Refusal>, S::Error> {
    if key_is_missing(state, put)? {
        return Ok(Some(Refusal::KeyNotFound));
    }
    if lease_is_missing(state, put.lease)? {
        return Ok(Some(Refusal::LeaseNotFound));
    }
    Ok(None)
}

fn lease_is_missing<S: StateRead>(state: &S, lease: LeaseId) -> Result<bool, S::Error> {
    Ok(lease.is_some() && state.lease(lease)?.is_none())
}

/// Whether the put keeps something of a key that is not there.
fn key_is_missing<S: StateRead>(state: &S, put: &Put) -> Result<bool, S::Error> {
    if !put.ignore_value && !put.ignore_lease {
        return Ok(false);
    }
    Ok(state.current_meta(&put.key)?.is_none_or(|meta| meta.is_tombstone()))
}

/// Writes a put that was found good.
pub(super) fn carry_out<S: StateWrite>(
    changes: &mut Changes<'_, S>,
    put: Put,
) -> Result<Option<KeyValue>, ApplyError<S::Error>> {
    if !put.prev_kv && !put.ignore_value {
        let newest = changes.newest(&put.key)?;
        let lease = kept_lease(&put, newest)?;
        changes.put(put.key, newest, put.value, lease)?;
        return Ok(None);
    }
    let row = changes.state.current(&put.key)?;
    let newest = Newest::of(row.as_ref().map(|row| row.meta), changes.state.meta().compacted);
    let lease = kept_lease(&put, newest)?;
    let previous =
        row.filter(|row| !row.meta.is_tombstone()).map(|row| KeyValue::of(put.key.clone(), &row.meta, row.value));
    let value = match &previous {
        _ if !put.ignore_value => put.value,
        Some(previous) => previous.value.clone(),
        None => return Err(ApplyError::Invariant("a key that was there to be kept is gone")),
    };
    changes.put(put.key, newest, value, lease)?;
    Ok(previous.filter(|_| put.prev_kv))
}

fn kept_lease<E>(put: &Put, newest: Newest) -> Result<LeaseId, ApplyError<E>> {
    match newest.live {
        _ if !put.ignore_lease => Ok(put.lease),
        Some(live) => Ok(live.lease),
        None => Err(ApplyError::Invariant("a key that was there to be kept is gone")),
    }
}
