//! How requests for locks end by a command of their own: cancelled, released, taken away.
//!
//! All of them say which contender they mean by something that nobody else will ever have, and do nothing if it is gone.

use bytes::Bytes;

use super::queue::Why;
use super::{Own, live, requests};
use crate::apply::changes::change;
use crate::apply::{Applied, ApplyError};
use crate::command::{LockCancel, LockForce, LockRelease};
use crate::lock::{lock_key, read};
use crate::outcome::{Refusal, Response};
use crate::planted::{Bug, is_on};
use crate::state::StateWrite;
use crate::validate::{validate_cancel, validate_lock_name};

pub(in crate::apply) fn cancel<S: StateWrite>(state: &mut S, cancel: LockCancel) -> Applied<Response, S::Error> {
    if validate_cancel(&cancel).is_err() {
        return Ok(Err(Refusal::LockInvalid));
    }
    let LockCancel { name, request } = cancel;
    let Some(lease) = state.lease(request.lease)? else {
        return Ok(Err(Refusal::LeaseNotFound));
    };
    let key = lock_key(&name, request.lease);
    let known = read::requests(state, request.lease)?;
    let mut numbers = known.clone().unwrap_or_default();
    let own = Own::of(state, (&name, &key), live(state, &key)?, (request.lease, lease.incarnation))?;
    let Some((own, place)) = own.and_then(|own| own.place_of(request.number).map(|place| (own, place))) else {
        if numbers.is_finished(request.number) {
            return Ok(Ok(Response::LockCancel { ended: false }));
        }
        if !numbers.admits(request.number, request.lowest_open) {
            return Ok(Err(Refusal::LockRequestsTooMany));
        }
        numbers.raise(request.lowest_open);
        numbers.finish(request.number);
        requests::keep(state, request.lease, known.as_ref(), numbers)?;
        return Ok(Ok(Response::LockCancel { ended: false }));
    };
    if own.native.requests[place].attach > request.attach && !is_on(Bug::LockCancelOfAnyTry) {
        return Ok(Ok(Response::LockCancelStale));
    }
    numbers.raise(request.lowest_open);
    requests::keep(state, request.lease, known.as_ref(), numbers)?;
    end_hold(state, (name, key), own, Some(place), Why::Cancelled)?;
    Ok(Ok(Response::LockCancel { ended: true }))
}

pub(in crate::apply) fn release<S: StateWrite>(state: &mut S, release: LockRelease) -> Applied<Response, S::Error> {
    let LockRelease { name, lease: id, token, number } = release;
    if validate_lock_name(&name).is_err() {
        return Ok(Err(Refusal::LockInvalid));
    }
    let nothing = Ok(Ok(Response::LockRelease { released: false, holds: 0 }));
    let Some(lease) = state.lease(id)? else { return nothing };
    let key = lock_key(&name, id);
    let own = Own::of(state, (&name, &key), live(state, &key)?, (id, lease.incarnation))?;
    let Some(own) = own.filter(|own| own.live.create == token && own.granted.is_some()) else {
        return nothing;
    };
    let place = own.place_of(number);
    if number != 0 && place.is_none() {
        return Ok(Ok(Response::LockRelease { released: false, holds: holds(own.native.requests.len()) }));
    }
    let left = end_hold(state, (name, key), own, place, Why::Released)?;
    Ok(Ok(Response::LockRelease { released: true, holds: left }))
}

/// Ends one of the requests by which a lease has a lock, or all; with the last, its key goes. Answers how many are left.
fn end_hold<S: StateWrite>(
    state: &mut S,
    (name, key): (Bytes, Bytes),
    mut own: Own,
    place: Option<usize>,
    why: Why<'_>,
) -> Result<u32, ApplyError<S::Error>> {
    match place {
        Some(place) if own.native.requests.len() > 1 => {
            let ended = own.native.requests.remove(place);
            requests::finish(state, own.native.lease, core::iter::once(ended.number))?;
            let left = holds(own.native.requests.len());
            own.write(state, name, key);
            Ok(left)
        }
        Some(_) | None => {
            change(state, why, |changes| changes.delete(key, &own.live))?;
            Ok(0)
        }
    }
}

pub(in crate::apply) fn force<S: StateWrite>(state: &mut S, force: &LockForce) -> Applied<Response, S::Error> {
    let Some(live) = live(state, &force.key)?.filter(|live| live.create == force.token) else {
        return Ok(Ok(Response::LockForce { removed: false }));
    };
    change(state, Why::Forced(force), |changes| changes.delete(force.key.clone(), &live))?;
    Ok(Ok(Response::LockForce { removed: true }))
}

/// Holds are bounded by `LOCK_HOLDS_MAX`.
fn holds(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
