//! Lock-delay: the key of a holder whose lease expired stays for a while, on no lease.

use bytes::Bytes;

use super::queue::{self, Joining, Why};
use super::{live, own_name, requests};
use crate::apply::changes::{Changes, Newest, change};
use crate::apply::lease::LEASE_MARGIN_PERCENT;
use crate::apply::{Applied, ApplyError};
use crate::command::LockDelayEnd;
use crate::ids::LeaseId;
use crate::lock::{Contender, LockCause, LockDelay, LockKey, LockLeft, LockValue, Native, read};
use crate::outcome::Response;
use crate::planted::{Bug, is_on};
use crate::row::{KeyMeta, RevokedBy};
use crate::state::{StateRead, StateWrite};

/// Lets a key of a lease that expired begin its delay, if it is a holder's that asked for one. Answers whether it does.
pub(in crate::apply) fn begin<S: StateWrite>(
    changes: &mut Changes<'_, S>,
    key: &Bytes,
    live: &KeyMeta,
    by: Option<&RevokedBy>,
) -> Result<bool, ApplyError<S::Error>> {
    let Some((name, contender, native)) = wants_delay(changes.state, key, live)? else { return Ok(false) };
    let lease = native.lease;
    if is_on(Bug::LockDelaySkipped) {
        return Ok(false);
    }
    let delay_ms = if is_on(Bug::LockDelayHalved) { native.delay_ms / 2 } else { native.delay_ms };
    let margin_ms = delay_ms.saturating_mul(LEASE_MARGIN_PERCENT).div_ceil(100);
    let ends_ms = changes.state.meta().lease_clock_ms.saturating_add(delay_ms).saturating_add(margin_ms);
    let missing = ApplyError::Invariant("a key has metadata but no row");
    let value = changes.state.current(key)?.ok_or(missing)?.value;
    let newest = Newest::of(Some(*live), changes.state.meta().compacted);
    let left = LockLeft { by: by.cloned(), ..queue::left(changes.state, live, contender.clone()) };
    let cause = Some(LockCause::Delayed(left));
    let meta = changes.record(key.clone(), newest, (value, LeaseId::NONE), (Joining::Plain, cause))?;
    let state = &mut *changes.state;
    let row = Contender { native: Some(Native { delayed: true, ..native }), ..contender };
    state.put_lock_row(LockKey::Place(name, live.create, key.clone()), LockValue::Place(row));
    let delay = LockDelay { modified: meta.modified.revision, ends_ms };
    state.put_lock_row(LockKey::Delay(lease, key.clone()), LockValue::Delay(delay));
    state.meta_mut().locks.delays += 1;
    Ok(true)
}

/// The contender of a key, if it is its lease's, holds the lock and asked for a delay.
fn wants_delay<S: StateRead>(
    state: &S,
    key: &Bytes,
    live: &KeyMeta,
) -> Result<Option<(Bytes, Contender, Native)>, S::Error> {
    if state.meta().locks.locks == 0 {
        return Ok(None);
    }
    let Some((name, contender)) = own_contender(state, key, live)? else { return Ok(None) };
    let native = contender.native.clone().filter(|native| native.lease == live.lease && native.delay_ms > 0);
    let Some(native) = native.filter(|_| contender.granted.is_some()) else { return Ok(None) };
    // Somebody may have put an old key of the lease's id on the lease that has it now.
    let is_same = state.lease(native.lease)?.is_some_and(|lease| lease.incarnation == native.incarnation);
    Ok(is_same.then_some((name, contender, native)))
}

/// A key's place in the queue of the lock that it would be a native contender for.
fn own_contender<S: StateRead>(state: &S, key: &Bytes, live: &KeyMeta) -> Result<Option<(Bytes, Contender)>, S::Error> {
    let Some(name) = own_name(key) else { return Ok(None) };
    let contender = read::contender(state, &name, live.create, key)?;
    Ok(contender.map(|contender| (name, contender)))
}

/// Deletes a delayed key, once its time has come. If it was written since it is not the delay's any more, and stays.
pub(in crate::apply) fn end<S: StateWrite>(state: &mut S, end: LockDelayEnd) -> Applied<Response, S::Error> {
    let LockDelayEnd { lease, key, modified } = end;
    let delay = read::delay(state, lease, &key)?.filter(|delay| delay.modified == modified);
    let Some(delay) = delay.filter(|delay| state.meta().lease_clock_ms >= delay.ends_ms) else {
        return Ok(Ok(Response::LockDelayStale));
    };
    let gone = || ApplyError::Invariant("a delayed key is gone, and its delay is not");
    let live = live(state, &key)?.ok_or_else(gone)?;
    if live.modified.revision == delay.modified {
        change(state, Why::Lapsed, |changes| changes.delete(key, &live))?;
        return Ok(Ok(Response::LockDelayEnd));
    }
    requests::forget_delay(state, lease, &key)?;
    let (name, contender) = own_contender(state, &key, &live)?.ok_or_else(gone)?;
    let native = contender.native.map(|native| Native { delayed: false, ..native });
    let row = Contender { native, ..contender };
    state.put_lock_row(LockKey::Place(name, live.create, key), LockValue::Place(row));
    Ok(Ok(Response::LockDelayEnd))
}
