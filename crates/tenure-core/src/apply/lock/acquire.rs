//! Acquire: one command that grants, enqueues, or tells how an earlier try of the same request stands.

use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;

use super::queue::{self, Joining, Why};
use super::{Own, requests};
use crate::apply::changes::{Newest, change};
use crate::apply::{Applied, ApplyError};
use crate::command::LockAcquire;
use crate::lock::{Attached, LOCK_CONTENDERS_MAX, LockCause, LockClaim, LockRequests, LockRow, Native, lock_key, read};
use crate::outcome::{LockAnswer, Refusal, Response};
use crate::planted::{Bug, is_on};
use crate::row::Incarnation;
use crate::state::StateWrite;
use crate::validate::validate_acquire;

/// What is asked, and what is known of the lease that asks.
struct Asked {
    acquire: LockAcquire,
    key: Bytes,
    incarnation: Incarnation,
    /// The request numbers as they are stored, if any are.
    known: Option<LockRequests>,
}

impl Asked {
    /// Writes the lease's request numbers, once something is done.
    fn keep<S: StateWrite>(&self, state: &mut S, requests: LockRequests) -> Result<(), ApplyError<S::Error>> {
        requests::keep(state, self.acquire.request.lease, self.known.as_ref(), requests)
    }

    /// The numbers with all below the lowest open one finished.
    fn raised(&self) -> LockRequests {
        let mut requests = self.known.clone().unwrap_or_default();
        requests.raise(self.acquire.request.lowest_open);
        requests
    }
}

pub(in crate::apply) fn acquire<S: StateWrite>(state: &mut S, acquire: LockAcquire) -> Applied<Response, S::Error> {
    // Checked before the log as well; here it bounds the rows whatever a faulty proposer does.
    if validate_acquire(&acquire).is_err() {
        return Ok(Err(Refusal::LockInvalid));
    }
    let request = acquire.request;
    let Some(lease) = state.lease(request.lease)? else {
        return Ok(Err(Refusal::LeaseNotFound));
    };
    let key = lock_key(&acquire.name, request.lease);
    let known = read::requests(state, request.lease)?;
    let newest = Newest::of(state.current_meta(&key)?, state.meta().compacted);
    let own = Own::of(state, (&acquire.name, &key), newest.live, (request.lease, lease.incarnation))?;
    let asked = Asked { acquire, key, incarnation: lease.incarnation, known };
    let numbers = asked.known.clone().unwrap_or_default();
    match own {
        // First, since a number that is below the lowest open one may wait all the same: its next try must not lose its place.
        Some(own) if own.place_of(request.number).is_some() => again(state, asked, own),
        _ if numbers.is_finished(request.number) && !is_on(Bug::LockFinishedAgain) => {
            Ok(Err(Refusal::LockRequestFinished))
        }
        _ if !numbers.admits(request.number, request.lowest_open) => Ok(Err(Refusal::LockRequestsTooMany)),
        Some(own) => hold_more(state, asked, own),
        None if newest.live.is_some() => Ok(Err(Refusal::LockAlreadyHeld)),
        None => join(state, asked, newest),
    }
}

/// A try of a request that is in the queue.
fn again<S: StateWrite>(state: &mut S, asked: Asked, mut own: Own) -> Applied<Response, S::Error> {
    asked.keep(state, asked.raised())?;
    let Asked { acquire, key, .. } = asked;
    let answer = answer(&own);
    let request = own.native.requests.iter_mut().find(|request| request.number == acquire.request.number);
    let request = request.ok_or(ApplyError::Invariant("a request that was found is gone"))?;
    if request.attach < acquire.request.attach {
        request.attach = acquire.request.attach;
        own.write(state, acquire.name, key);
    }
    Ok(Ok(Response::LockAcquire(answer)))
}

/// Another request of a lease that is in the queue.
fn hold_more<S: StateWrite>(state: &mut S, asked: Asked, mut own: Own) -> Applied<Response, S::Error> {
    let native = &own.native;
    let is_reentrant = native.holds_max > 0 && asked.acquire.holds_max > 0;
    let is_same = native.owner == asked.acquire.owner && native.mode == asked.acquire.mode;
    if !is_reentrant || !is_same || own.granted.is_none() {
        return Ok(Err(Refusal::LockAlreadyHeld));
    }
    if native.requests.len() as u64 >= u64::from(native.holds_max) {
        return Ok(Err(Refusal::LockHeldTooOften));
    }
    asked.keep(state, asked.raised())?;
    let Asked { acquire, key, .. } = asked;
    own.native.requests.push(attached(&acquire));
    let answer = answer(&own);
    own.write(state, acquire.name, key);
    Ok(Ok(Response::LockAcquire(answer)))
}

/// A lease's first request for a lock.
fn join<S: StateWrite>(state: &mut S, asked: Asked, newest: Newest) -> Applied<Response, S::Error> {
    let (name, mode) = (asked.acquire.name.clone(), asked.acquire.mode);
    let known = read::lock(state, &name)?;
    // Who does not want to wait need know of one only; and of too many, nobody need know which.
    let few = if asked.acquire.wait { LOCK_CONTENDERS_MAX } else { 1 };
    let found = if known.is_some() { Vec::new() } else { queue::survey(state, &name, few)? };
    let row = known.unwrap_or_else(|| LockRow::of(&found));
    if row.contenders >= LOCK_CONTENDERS_MAX {
        return Ok(Err(Refusal::LockContendersTooMany));
    }
    if let (Some(sharing), Some((others, _))) = (mode.sharing(), row.sharing)
        && sharing != others
    {
        return Ok(Err(Refusal::LockModeMismatch));
    }
    let mut requests = asked.raised();
    if !asked.acquire.wait && !row.is_free_for(mode) {
        requests.finish(asked.acquire.request.number);
        asked.keep(state, requests)?;
        return Ok(Ok(Response::LockAcquire(LockAnswer::Busy)));
    }
    asked.keep(state, requests)?;
    if known.is_none() {
        queue::activate(state, &name, found);
    }
    let Asked { acquire, key, incarnation, .. } = asked;
    let request = acquire.request;
    let claim = LockClaim { owner: acquire.owner.clone(), mode, number: request.number };
    let native = Native {
        lease: request.lease,
        incarnation,
        mode,
        requests: vec![attached(&acquire)],
        owner: acquire.owner,
        holds_max: acquire.holds_max,
        delay_ms: acquire.delay_ms,
        since_ms: state.meta().lease_clock_ms,
        delayed: false,
    };
    let written = (acquire.metadata, request.lease);
    let known = (Joining::Native(name.clone(), row, native), Some(LockCause::Acquired(claim)));
    let meta = change(state, Why::Plain, |changes| changes.record(key.clone(), newest, written, known))?;
    // Read back only if somebody is before it: nobody can keep a lock that is free from the one who comes.
    let is_granted = row.is_free_for(mode) || {
        let contender = read::contender(state, &name, meta.create, &key)?;
        contender.ok_or(ApplyError::Invariant("a contender is missing that has just joined"))?.granted.is_some()
    };
    Ok(Ok(Response::LockAcquire(if is_granted {
        LockAnswer::Granted { token: meta.create, holds: 1 }
    } else {
        LockAnswer::Queued { ahead: Some(row.contenders) }
    })))
}

fn attached(acquire: &LockAcquire) -> Attached {
    Attached { number: acquire.request.number, attach: acquire.request.attach }
}

/// Where those stand that are in the queue.
fn answer(own: &Own) -> LockAnswer {
    match own.granted {
        Some(_) => {
            // Bounded by LOCK_HOLDS_MAX.
            let holds = u32::try_from(own.native.requests.len()).unwrap_or(u32::MAX);
            LockAnswer::Granted { token: own.live.create, holds }
        }
        None => LockAnswer::Queued { ahead: None },
    }
}
