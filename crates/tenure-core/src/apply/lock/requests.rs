//! The request numbers of leases: which are finished, for as long as the lease lives.

use bytes::Bytes;

use crate::apply::ApplyError;
use crate::ids::LeaseId;
use crate::lock::{LockKey, LockRequests, LockValue, Native, read};
use crate::state::StateWrite;

/// Writes what is finished, unless that is what was known.
pub(super) fn keep<S: StateWrite>(
    state: &mut S,
    lease: LeaseId,
    known: Option<&LockRequests>,
    requests: LockRequests,
) -> Result<(), ApplyError<S::Error>> {
    if known == Some(&requests) {
        return Ok(());
    }
    if known.is_none() {
        state.meta_mut().locks.requests += 1;
    }
    state.put_lock_row(LockKey::Requests(lease), LockValue::Requests(requests));
    Ok(())
}

/// Notes that a number is finished.
pub(super) fn finish<S: StateWrite>(
    state: &mut S,
    lease: LeaseId,
    numbers: impl Iterator<Item = u64>,
) -> Result<(), ApplyError<S::Error>> {
    // A lease that is being revoked has no numbers any more.
    let Some(known) = read::requests(state, lease)? else { return Ok(()) };
    let mut requests = known.clone();
    numbers.for_each(|number| requests.finish(number));
    keep(state, lease, Some(&known), requests)
}

/// A native contender left: its requests are finished, and its delay is over.
pub(super) fn settle_native<S: StateWrite>(
    state: &mut S,
    key: &Bytes,
    native: &Native,
) -> Result<(), ApplyError<S::Error>> {
    let is_same = |incarnation| incarnation == native.incarnation;
    if state.lease(native.lease)?.is_some_and(|lease| is_same(lease.incarnation)) {
        finish(state, native.lease, native.requests.iter().map(|request| request.number))?;
    }
    if native.delayed {
        forget_delay(state, native.lease, key)?;
    }
    Ok(())
}

/// Removes a delay.
pub(super) fn forget_delay<S: StateWrite>(
    state: &mut S,
    lease: LeaseId,
    key: &Bytes,
) -> Result<(), ApplyError<S::Error>> {
    if read::delay(state, lease, key)?.is_none() {
        return Err(ApplyError::Invariant("a key's delay is missing"));
    }
    state.delete_lock_row(&LockKey::Delay(lease, key.clone()));
    let delays = &mut state.meta_mut().locks.delays;
    *delays = delays.checked_sub(1).ok_or(ApplyError::Invariant("delays are not counted right"))?;
    Ok(())
}

/// A lease ends: its numbers go with it, before its keys.
pub(in crate::apply) fn end<S: StateWrite>(state: &mut S, lease: LeaseId) -> Result<(), ApplyError<S::Error>> {
    if state.meta().locks.requests == 0 || read::requests(state, lease)?.is_none() {
        return Ok(());
    }
    state.delete_lock_row(&LockKey::Requests(lease));
    let requests = &mut state.meta_mut().locks.requests;
    *requests = requests.checked_sub(1).ok_or(ApplyError::Invariant("requests are not counted right"))?;
    Ok(())
}
